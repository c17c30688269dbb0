//! Talking to registries: which addresses stand for a name, who is allowed to ask, and content that arrives whole or not
//! at all. The protocol is the OCI distribution specification 1.1, with Docker's token authentication.

mod challenge;
mod config;
mod error;
mod search;
mod session;
mod upload;

pub use config::{Registries, RegistryConfig, RegistryConfigError};
pub use error::PullError;
pub use search::FoundImage;
pub(super) use search::search;
pub use session::Credentials;
pub(super) use session::Session;
pub(super) use upload::Placed;
