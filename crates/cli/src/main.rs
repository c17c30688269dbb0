//! Placeholder replaced by the first slice.
mod dev;
fn main() {}
