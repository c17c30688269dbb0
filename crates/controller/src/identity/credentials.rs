//! This host's own certificate and key: kept in one file, presented on every connection, replaced while connections run.

use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use stack_model::{NodeId, NodeRole};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::peer::{Peer, PeerError};

const FILE: &str = "identity.json";

/// What a member of a cluster is, as kept in its state directory (one file, mode 0600).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// Which cluster.
    pub cluster_id: String,
    /// Drawn when it joined.
    pub node: NodeId,
    /// Fixed when it joined.
    pub role: NodeRole,
    /// For a controller: who it is to Raft.
    #[serde(default)]
    pub raft_id: Option<u64>,
    /// PEM.
    pub certificate: String,
    /// PEM (PKCS #8).
    pub key: String,
    /// The authority's, PEM.
    pub ca_certificate: String,
    /// Where other hosts reach this one, as it was said when it became a member.
    #[serde(default)]
    pub address: Option<std::net::SocketAddr>,
    /// Controllers that were known last.
    #[serde(default)]
    pub controllers: Vec<std::net::SocketAddr>,
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NodeIdentity")
            .field("cluster_id", &self.cluster_id)
            .field("node", &self.node)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// Why this host's identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A text that is no certificate or key.
    #[error("{what} cannot be read")]
    Pem {
        /// Which.
        what: &'static str,
    },
    /// The certificate does not say who its holder is.
    #[error("the node's own certificate cannot be used")]
    Peer(#[from] PeerError),
    /// The certificate is somebody else's.
    #[error("the node's own certificate is for {found}")]
    Foreign {
        /// Whose.
        found: Peer,
    },
    /// TLS refuses them.
    #[error("certificate and key cannot be used for TLS")]
    Tls(#[from] rustls::Error),
    /// TLS refuses the authority.
    #[error("the authority's certificate cannot be used for TLS")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl NodeIdentity {
    /// Reads it; `None` when this host is in no cluster.
    ///
    /// # Errors
    /// See [`CredentialsError`].
    pub fn load(state_directory: &Path) -> Result<Option<Self>, CredentialsError> {
        let path = state_directory.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|source| CredentialsError::Damaged { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CredentialsError::File { action: "read", path, source }),
        }
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// See [`CredentialsError`].
    pub fn save(&self, state_directory: &Path) -> Result<(), CredentialsError> {
        let path = state_directory.join(FILE);
        let write = || {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_directory)?;
            let temporary = state_directory.join(format!("{FILE}.partial"));
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            std::fs::File::open(state_directory)?.sync_all()
        };
        write().map_err(|source| CredentialsError::File { action: "write", path: path.clone(), source })
    }

    /// When its certificate becomes valid and when it ends, in seconds since the Unix epoch.
    ///
    /// # Errors
    /// When the certificate cannot be read.
    pub fn validity(&self) -> Result<(i64, i64), CredentialsError> {
        let der = CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .map_err(|_unreadable| CredentialsError::Pem { what: "the node's own certificate" })?;
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|_unreadable| PeerError::Unreadable)?;
        let validity = certificate.validity();
        Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
    }

    /// For the typed client.
    #[must_use]
    pub fn client_identity(&self) -> stack_api::Identity {
        stack_api::Identity {
            ca_certificate: self.ca_certificate.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone(),
        }
    }
}

/// Presents whatever certificate is current. Shared by the listener and all outgoing connections.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl Current {
    fn get(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// This host's identity, ready for TLS.
#[derive(Debug)]
pub struct Credentials {
    identity: RwLock<Arc<NodeIdentity>>,
    current: Arc<Current>,
    roots: Arc<RootCertStore>,
    /// Held by who changes the identity: the file has one writer at a time.
    changing: Mutex<()>,
}

/// The only TLS implementation used; named explicitly, so that no process-wide default is needed.
#[must_use]
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certified(identity: &NodeIdentity) -> Result<Arc<CertifiedKey>, CredentialsError> {
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes())
        .map_err(|_unreadable| CredentialsError::Pem { what: "the node's own certificate" })?;
    let expected = Peer::Node { id: identity.node, role: identity.role };
    let found = Peer::from_certificate(&certificate)?;
    if found != expected {
        return Err(CredentialsError::Foreign { found });
    }
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())
        .map_err(|_unreadable| CredentialsError::Pem { what: "the node's private key" })?;
    // The authority goes along, so that a host that joins can compare it with its token.
    let chain = vec![certificate, authority(identity)?];
    let key = CertifiedKey::new(chain, provider().key_provider.load_private_key(key)?);
    key.keys_match()?;
    Ok(Arc::new(key))
}

fn authority(identity: &NodeIdentity) -> Result<CertificateDer<'static>, CredentialsError> {
    CertificateDer::from_pem_slice(identity.ca_certificate.as_bytes())
        .map_err(|_unreadable| CredentialsError::Pem { what: "the authority's certificate" })
}

impl Credentials {
    /// Checks that certificate, key and authority are what they should be.
    ///
    /// # Errors
    /// See [`CredentialsError`].
    pub fn new(identity: NodeIdentity) -> Result<Self, CredentialsError> {
        let mut roots = RootCertStore::empty();
        roots.add(authority(&identity)?)?;
        let current = Arc::new(Current(RwLock::new(certified(&identity)?)));
        Ok(Self {
            identity: RwLock::new(Arc::new(identity)),
            current,
            roots: Arc::new(roots),
            changing: Mutex::new(()),
        })
    }

    /// What this host is now.
    #[must_use]
    pub fn identity(&self) -> Arc<NodeIdentity> {
        Arc::clone(&self.identity.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes this host's identity, in the file and in use; new connections present a renewed certificate. Changes
    /// from several tasks are made one after the other, each to what the last one left.
    ///
    /// # Errors
    /// See [`CredentialsError`]. What cannot be used is not kept, and what was not kept is not used.
    pub fn change(
        &self,
        state_directory: &Path,
        change: impl FnOnce(&mut NodeIdentity),
    ) -> Result<(), CredentialsError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut identity = (*self.identity()).clone();
        change(&mut identity);
        let key = certified(&identity)?;
        identity.save(state_directory)?;
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = key;
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
        Ok(())
    }

    /// For the listener: a peer may have no certificate, but a wrong one ends the connection.
    ///
    /// # Errors
    /// When TLS refuses the authority.
    pub fn server_config(&self) -> Result<ServerConfig, CredentialsError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider())
            .allow_unauthenticated()
            .build()?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::<Current>::clone(&self.current));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// For calls to other hosts of the cluster, over HTTP/2.
    ///
    /// # Errors
    /// When TLS refuses the authority.
    pub fn client_config(&self) -> Result<ClientConfig, CredentialsError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_cert_resolver(Arc::<Current>::clone(&self.current));
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::authority::{Authority, Subject, new_key};

    /// A worker's identity, certified just now.
    fn identity() -> NodeIdentity {
        let now = time::OffsetDateTime::now_utc();
        let (authority, _) = Authority::create("test", now).unwrap();
        let (key, request) = new_key().unwrap();
        let node = NodeId::from_bits(7);
        let subject = Subject::Node { id: node, role: NodeRole::Worker };
        NodeIdentity {
            cluster_id: "test".to_owned(),
            node,
            role: NodeRole::Worker,
            raft_id: None,
            certificate: authority.issue(&request, &subject, now, time::Duration::days(1)).unwrap(),
            key: key.to_string(),
            ca_certificate: authority.certificate_pem().to_owned(),
            address: None,
            controllers: Vec::new(),
        }
    }

    #[test]
    fn changes_from_several_tasks_are_all_kept() {
        let place = tempfile::tempdir().unwrap();
        let credentials = Credentials::new(identity()).unwrap();
        std::thread::scope(|scope| {
            for host in 1..=8 {
                let (credentials, place) = (&credentials, place.path());
                scope.spawn(move || {
                    let address = std::net::SocketAddr::from(([192, 0, 2, host], 7443));
                    credentials.change(place, |identity| identity.controllers.push(address)).unwrap();
                });
            }
        });
        let kept = NodeIdentity::load(place.path()).unwrap().unwrap();
        assert_eq!(kept.controllers.len(), 8);
        assert_eq!(kept, *credentials.identity());
    }

    #[test]
    fn what_cannot_be_used_is_not_kept() {
        let place = tempfile::tempdir().unwrap();
        let first = identity();
        let credentials = Credentials::new(first.clone()).unwrap();
        credentials.change(place.path(), |identity| identity.cluster_id = "renamed".to_owned()).unwrap();
        let foreign = identity();
        credentials.change(place.path(), |identity| identity.key = foreign.key).unwrap_err();
        let kept = NodeIdentity::load(place.path()).unwrap().unwrap();
        assert_eq!(kept.key, first.key);
        assert_eq!(kept, *credentials.identity());
    }
}
