//! Content by digest: blobs on disk that are either whole and verified or not there, leases for what is not referenced
//! yet, and a garbage collection that is a pure function of what refers to what.

pub mod digest;
pub mod lease;
pub mod reachability;
pub mod store;

pub use digest::{Digest, Hasher, ParseDigestError};
pub use lease::{Lease, Leases};
pub use reachability::{Everything, Garbage, ImageLinks, garbage};
pub use store::{BlobAside, BlobStore, BlobWriter, ContentError};
