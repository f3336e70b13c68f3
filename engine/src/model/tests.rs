mod config;
mod files;
mod sampling;
