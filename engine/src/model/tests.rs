mod config;
mod draws;
mod files;
mod sampling;
mod second_backend;
