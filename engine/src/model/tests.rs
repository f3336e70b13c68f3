mod config;
mod sampling;
