//! The commands, by what they are about.

pub mod check;
pub mod cluster;
pub mod config;
pub mod context;
pub mod deploy;
pub mod dev;
pub mod doctor;
pub mod files;
pub mod image;
pub mod list;
pub mod logs;
mod long_lines;
pub mod network;
pub mod node;
pub mod registry;
