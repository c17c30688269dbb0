//! How a host becomes a member: it trusts the cluster by the digest in its token, the cluster trusts it by the secret.

use std::error::Error as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::{Deserialize, Serialize};
use stack_api::bodies::{JoinRequest, JoinResponse};
use stack_api::{ErrorBody, routes};
use stack_model::{NodeDescription, NodeRole};
use subtle::ConstantTimeEq as _;

use super::authority::{self, IssueError};
use super::credentials::{NodeIdentity, provider};
use super::token::{JoinToken, TokenError, authority_digest};

/// What is needed to join.
#[derive(Debug)]
pub struct JoinTarget {
    /// As `stack cluster token` printed it.
    pub token: String,
    /// Controllers of the cluster; the first that answers is taken.
    pub controllers: Vec<SocketAddr>,
    /// Where other hosts reach this one.
    pub address: SocketAddr,
    /// What this host says of itself.
    pub description: NodeDescription,
}

/// Why a host could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token is not one.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No controller was named.
    #[error("no controller to join is named: give the address of at least one")]
    NoController,
    /// The host that answered is not of the cluster that the token was made for.
    #[error("{controller} is not a controller of the cluster that this token was made for")]
    WrongCluster {
        /// Who answered.
        controller: SocketAddr,
    },
    /// Nobody answered.
    #[error("cannot reach the controller {controller}: {reason}")]
    Unreachable {
        /// Who was tried last.
        controller: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The cluster said no.
    #[error("the controller {controller} refused")]
    Refused {
        /// Who.
        controller: SocketAddr,
        /// Why.
        #[source]
        source: Box<ErrorBody>,
    },
    /// The answer is not what the contract says.
    #[error("the answer of the controller {controller} cannot be understood: {reason}")]
    Answer {
        /// Whose.
        controller: SocketAddr,
        /// What is wrong.
        reason: String,
    },
    /// No key could be made.
    #[error("cannot make a key")]
    Key(#[from] IssueError),
    /// Who this host will be cannot be kept.
    #[error("cannot keep {}", path.display())]
    Keep {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Trusts the authority that has the digest, and nobody else.
#[derive(Debug)]
struct Pinned {
    digest: [u8; 32],
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_pinned =
            |certificate: &&CertificateDer<'_>| bool::from(authority_digest(certificate).ct_eq(&self.digest));
        let authority = intermediates
            .iter()
            .find(is_pinned)
            .ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn is_wrong_cluster(error: &reqwest::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if error.to_string().contains("UnknownIssuer") {
            return true;
        }
        source = error.source();
    }
    false
}

fn reason(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Who a host will be that joins. Kept from before it asks until it is a member: an answer that was lost is asked for
/// again, and no second member is made of the same host.
#[derive(Serialize, Deserialize)]
pub struct Candidate {
    key: String,
    raft_id: u64,
}

impl Candidate {
    const FILE: &str = "joining.json";

    /// The one that is kept in the directory, or a new one, which is kept from now on.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn take(state_directory: &Path) -> Result<Self, JoinError> {
        let path = state_directory.join(Self::FILE);
        let fail = |source| JoinError::Keep { path: path.clone(), source };
        match std::fs::read(&path) {
            // One that was cut short was never used.
            Ok(bytes) => match serde_json::from_slice::<Self>(&bytes) {
                Ok(kept) if authority::request_for(&kept.key).is_ok() => return Ok(kept),
                Ok(_) | Err(_) => {}
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
        }
        let (key, _request) = authority::new_key()?;
        let candidate = Self { key: key.to_string(), raft_id: rand::rng().random_range(1..u64::MAX) };
        let write = || {
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(&serde_json::to_vec(&candidate)?)?;
            file.sync_all()
        };
        write().map_err(fail)?;
        Ok(candidate)
    }

    /// It is a member now.
    pub fn forget(state_directory: &Path) {
        if let Err(error) = std::fs::remove_file(state_directory.join(Self::FILE)) {
            tracing::warn!(%error, file = Self::FILE, "what was kept while this host joined is left");
        }
    }
}

/// Joins, and answers the identity that this host has from now on. The caller saves it.
///
/// # Errors
/// See [`JoinError`]; the controllers are tried in turn, and the last failure is answered.
pub async fn join(target: &JoinTarget, candidate: &Candidate) -> Result<NodeIdentity, JoinError> {
    let token: JoinToken = target.token.parse()?;
    let (key, raft_id) = (&candidate.key, candidate.raft_id);
    let certificate_request = authority::request_for(key)?;
    let node = authority::node_of(&certificate_request)?;
    let request = JoinRequest {
        token: token.reveal(),
        node,
        certificate_request,
        address: target.address,
        description: target.description.clone(),
        raft_id: Some(raft_id),
    };
    let mut last = JoinError::NoController;
    for &controller in &target.controllers {
        match ask(&token, controller, &request).await {
            Ok(answer) => {
                return Ok(NodeIdentity {
                    address: Some(target.address),
                    cluster_id: answer.cluster_id,
                    node,
                    role: answer.role,
                    raft_id: (answer.role == NodeRole::Controller).then_some(raft_id),
                    certificate: answer.certificate,
                    key: key.to_string(),
                    ca_certificate: answer.ca_certificate,
                    controllers: answer.controllers,
                });
            }
            Err(error @ JoinError::Unreachable { .. }) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

async fn ask(token: &JoinToken, controller: SocketAddr, request: &JoinRequest) -> Result<JoinResponse, JoinError> {
    let unreachable = |reason: String| JoinError::Unreachable { controller, reason };
    let unclear = |reason: String| JoinError::Answer { controller, reason };
    let mut tls = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unreachable(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { digest: *token.authority() }))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .http2_prior_knowledge()
        .resolve(routes::CONTROLLER_SERVER_NAME, controller)
        .connect_timeout(Duration::from_secs(3))
        .timeout(Duration::from_secs(15))
        .build()
        .map_err(|error| unreachable(error.to_string()))?;
    let url = format!("https://{}:{}{}", routes::CONTROLLER_SERVER_NAME, controller.port(), routes::JOIN.path);
    let response = client.post(url).json(request).send().await.map_err(|error| {
        if is_wrong_cluster(&error) { JoinError::WrongCluster { controller } } else { unreachable(reason(&error)) }
    })?;
    let status = response.status();
    let bytes = response.bytes().await.map_err(|error| unreachable(reason(&error)))?;
    if !status.is_success() {
        return Err(match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(source) => JoinError::Refused { controller, source: Box::new(source) },
            Err(_) => unclear(format!("status {status} without an error body")),
        });
    }
    let answer: JoinResponse = serde_json::from_slice(&bytes).map_err(|error| unclear(error.to_string()))?;
    let authority = CertificateDer::from_pem_slice(answer.ca_certificate.as_bytes())
        .map_err(|error| unclear(format!("its authority's certificate: {error}")))?;
    if authority_digest(&authority) != *token.authority() {
        return Err(JoinError::WrongCluster { controller });
    }
    Ok(answer)
}
