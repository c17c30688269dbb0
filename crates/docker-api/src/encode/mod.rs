//! Pure. The engine's values as the documents of Docker's API.

pub mod commit;
pub mod container;
pub mod event;
pub mod image;
pub mod network;
pub mod path_stat;
pub mod progress;
#[cfg(test)]
pub mod samples;
pub mod statistics;
pub mod system;
pub mod text;
