//! Why an image could not be had from a registry, in words for the person who wants it.

use crate::content::Digest;
use crate::content::store::ContentError;
use crate::image::document::DocumentError;
use crate::image::layer::LayerError;
use crate::image::records::RecordError;
use crate::image::store::GetError;

/// Why an image could not be resolved or pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry does not have it.
    #[error("{registry} has no {what}")]
    NotFound {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// What stands in the place of a registry is no host.
    #[error("`{registry}` is no registry: expected a host, or a host and a port")]
    NoRegistry {
        /// What is there.
        registry: String,
    },
    /// The registry wants to know who asks, or does not accept the answer.
    #[error("{registry} refuses {what}: {}", if *with_credentials { "the name or password is not accepted" } else { "it wants a name and a password, and none is known" })]
    Unauthorized {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// Whether a name and a password were given.
        with_credentials: bool,
    },
    /// The registry knows who asks, and this is not for them.
    #[error("{registry} does not allow {what} to this user")]
    Denied {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// Too many questions.
    #[error("{registry} answers no more questions for now (too many requests)")]
    RateLimited {
        /// The registry.
        registry: String,
    },
    /// No connection, or it breaks off again and again.
    #[error("cannot reach {registry}")]
    Unreachable {
        /// The registry.
        registry: String,
        /// The last failure.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The registry answers in a way that is not understood.
    #[error("{registry} answers {status} to the request for {what}{}", if detail.is_empty() { String::new() } else { format!(": {detail}") })]
    Registry {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What it says, cut to a readable length.
        detail: String,
    },
    /// The registry sends the request to an address that it may not be sent to.
    #[error("{registry} redirects to an address that is not allowed: {problem}")]
    BadRedirect {
        /// The registry.
        registry: String,
        /// What is wrong with it.
        problem: String,
    },
    /// What came is not what was promised.
    #[error("{registry} sent {actual} where {expected} was promised")]
    DigestMismatch {
        /// The registry.
        registry: String,
        /// What was promised.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// What came is longer or shorter than promised.
    #[error("{registry} sent {actual} bytes for {digest}, which has {expected}")]
    SizeMismatch {
        /// The registry.
        registry: String,
        /// Which content.
        digest: Digest,
        /// The promised length.
        expected: u64,
        /// What came, at least.
        actual: u64,
    },
    /// A document is larger than it may be.
    #[error("{registry} sent more than {limit} bytes for {what}")]
    TooLarge {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// How much it may be.
        limit: u64,
    },
    /// A manifest, index or configuration cannot be used, or none is for this host.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Indexes refer to indexes without end.
    #[error("the indexes of {what} are nested too deeply")]
    TooNested {
        /// What was asked for.
        what: String,
    },
    /// A layer cannot be unpacked or stored.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Content cannot be stored.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The disk is full.
    #[error("the disk is full")]
    DiskFull,
    /// The records cannot be read or written.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// The image is stored and cannot be read back.
    #[error(transparent)]
    Get(#[from] GetError),
    /// The work was stopped because this program ends.
    #[error("pulling was interrupted")]
    Interrupted,
}

impl PullError {
    /// Whether the same request can succeed a while later without anybody changing the request or the image.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::RateLimited { .. } | Self::Unreachable { .. } | Self::DiskFull | Self::Interrupted => true,
            Self::Registry { status, .. } => matches!(status, 408 | 429 | 500..),
            Self::Content(_) | Self::Records(_) | Self::Get(_) => true,
            Self::Layer(error) => matches!(error, LayerError::Io { .. } | LayerError::Content(_)),
            Self::NotFound { .. }
            | Self::NoRegistry { .. }
            | Self::Unauthorized { .. }
            | Self::Denied { .. }
            | Self::BadRedirect { .. }
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::TooLarge { .. }
            | Self::Document(_)
            | Self::TooNested { .. } => false,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotFound { .. } => {
                Some("check the name and the tag; a private image may be shown as missing without a login")
            }
            Self::Unauthorized { with_credentials: false, .. } => Some("give a name and a password for this registry"),
            Self::Unauthorized { .. } | Self::Denied { .. } => {
                Some("check the name, the password and the rights of the user")
            }
            Self::RateLimited { .. } => Some("wait, or log in: registries allow more to users that they know"),
            Self::Unreachable { .. } => Some(
                "check the address, name resolution and firewall; a registry without TLS must be configured as insecure, one \
                 with its own certificate authority needs that authority",
            ),
            Self::DiskFull => Some("free some space, for instance by removing unused images"),
            Self::Document(DocumentError::NoPlatform { .. }) => {
                Some("build the image for this platform too, or place the service on other nodes")
            }
            _ => None,
        }
    }

    /// The same, told as a full disk if that is the cause.
    pub(in crate::image) fn told(self) -> Self {
        let is_full = match &self {
            Self::Layer(error) => error.is_disk_full(),
            Self::Content(error) => error.is_disk_full(),
            _ => false,
        };
        if is_full { Self::DiskFull } else { self }
    }
}
