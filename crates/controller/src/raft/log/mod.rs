//! The Raft log on disk: one journal of records in numbered segment files, written by one thread that makes many appends
//! durable with one `fdatasync`.
//!
//! [`record`] says what the bytes mean, [`disk`] what is needed of a disk, [`index`] what is in the log now, [`journal`]
//! how records get to files and back, and [`store`] joins them into what Raft asks for.

pub mod disk;
pub mod index;
pub mod journal;
pub mod record;
pub mod store;

pub use disk::{Disk, HostDisk};
pub use journal::OpenLogError;
pub use store::LogStore;
