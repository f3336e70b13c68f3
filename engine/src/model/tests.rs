mod config;
mod files;
mod sampling;
mod second_backend;
