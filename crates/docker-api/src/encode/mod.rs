//! Pure. The engine's values as the documents of Docker's API.

pub mod container;
pub mod event;
pub mod image;
pub mod network;
#[cfg(test)]
pub mod samples;
pub mod system;
pub mod text;
