//! Who is who: the cluster's certificate authority, the certificates of nodes and operators, join tokens, and the TLS
//! configurations that check them. A peer is known by what its certificate says, never by its address.

pub mod authority;
pub mod credentials;
pub mod join;
pub mod peer;
pub mod renewal;
pub mod token;

pub use authority::{Authority, IssueError, Subject};
pub use credentials::{Credentials, CredentialsError, NodeIdentity};
pub use join::{JoinError, JoinTarget};
pub use peer::{Peer, PeerError};
pub use token::{JoinToken, TokenError};
