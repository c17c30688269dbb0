//! What the engine and `stack-shim` say to each other: the launch document, the wire protocol and the log format.
//!
//! One shim is the parent of one container. It outlives the engine's process, so these formats outlive it too: a newer
//! engine reads what an older shim writes. Fields are only ever added, with a default.

pub mod copy_up;
pub mod credentials;
pub mod identity;
pub mod launch;
pub mod log_record;
pub mod mount_calls;
pub mod protocol;
pub mod root_path;
pub mod stream;
