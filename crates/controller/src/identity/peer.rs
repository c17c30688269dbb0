//! Pure. Who speaks on a connection, read from the certificate that TLS has already verified.

use std::fmt;

use stack_model::{NodeId, NodeRole};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A host of the cluster. Whether it is still a member must be looked up.
    Node {
        /// Which.
        id: NodeId,
        /// As what it joined.
        role: NodeRole,
    },
    /// A person or program with an operator's certificate.
    Operator {
        /// Its name.
        name: String,
    },
    /// Whoever may open the local socket.
    LocalSocket,
    /// A connection without a certificate: good for joining alone.
    Anonymous,
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { id, role } => write!(formatter, "{} {id}", role.as_str()),
            Self::Operator { name } => write!(formatter, "operator `{name}`"),
            Self::LocalSocket => formatter.write_str("the local socket"),
            Self::Anonymous => formatter.write_str("a peer without a certificate"),
        }
    }
}

/// A certificate of ours that does not say who its holder is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Not X.509.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// A field of the subject is missing or has an unknown value.
    #[error("the certificate's subject has no valid {field}")]
    Subject {
        /// Which.
        field: &'static str,
    },
}

impl Peer {
    /// Reads the subject of a certificate (DER).
    ///
    /// # Errors
    /// See [`PeerError`].
    pub fn from_certificate(der: &[u8]) -> Result<Self, PeerError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_unreadable| PeerError::Unreadable)?;
        let subject = certificate.subject();
        let mut units = subject.iter_organizational_unit();
        let unit = units.next().and_then(|unit| unit.as_str().ok());
        let common = subject.iter_common_name().next().and_then(|common| common.as_str().ok());
        let common = common.ok_or(PeerError::Subject { field: "common name" })?;
        let role = match unit {
            Some("controller") => NodeRole::Controller,
            Some("worker") => NodeRole::Worker,
            Some("operator") => return Ok(Self::Operator { name: common.to_owned() }),
            _ => return Err(PeerError::Subject { field: "role" }),
        };
        let id = common.parse().map_err(|_not_an_id| PeerError::Subject { field: "node id" })?;
        Ok(Self::Node { id, role })
    }
}
