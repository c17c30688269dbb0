//! Images: from a registry, from an archive, or from a root file system, to records that containers start from.
//!
//! `reference`, `document`, `selection` and `tar_reader` are pure; `store` finds, names and removes; `pull`, `load` and
//! `import` fetch. Blobs, unpacked layers and records are written in this order, so a record never refers to what is
//! not whole.

mod commit;
pub mod compression;
pub mod document;
mod import;
pub mod layer;
mod load;
pub mod owners;
pub mod pack;
mod pull;
mod push;
pub mod records;
pub mod reference;
pub mod registry;
mod save;
pub mod selection;
mod store;
pub(crate) mod stream;
pub mod tar_reader;
pub mod tar_writer;
mod telling;
pub mod unpack;

pub use commit::{CommitChanges, CommitError};
pub use document::Platform;
pub use import::ImportChanges;
pub use load::LoadError;
pub use pull::{Progress, PullProgress};
pub use push::{PushError, PushProgress, Pushed};
pub use records::{Origin, RecordError};
pub use reference::{ParseReferenceError, Reference};
pub use registry::{Credentials, FoundImage, PullError, RegistryConfig, RegistryConfigError};
pub use save::{SaveError, Saving};
pub use selection::SelectError;
pub use store::{GetError, Image, ImageStore, OpenError, PruneScope, RemoveError, Removed, TagError};
