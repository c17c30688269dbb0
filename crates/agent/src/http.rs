//! Placeholder replaced by the next slice.
