//! The cluster's certificate authority: makes itself once, then certifies nodes and operators.

use std::fmt;

use rand::RngCore as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use stack_api::routes;
use stack_model::{NodeId, NodeRole};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

/// How long the authority itself is valid: its certificate is pinned by every member.
const AUTHORITY_LIFE: Duration = Duration::days(20 * 365);
/// Clocks of hosts may differ by so much when a certificate is new.
const BACKDATE: Duration = Duration::hours(1);

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The certificate signing request cannot be read, or is not signed by its own key.
    #[error("the certificate signing request is not valid")]
    Request(#[source] rcgen::Error),
    /// The stored certificate or key of the authority cannot be used.
    #[error("the cluster's certificate authority cannot be read")]
    Authority(#[source] rcgen::Error),
    /// Making a key or a signature failed.
    #[error("cannot make a certificate")]
    Sign(#[source] rcgen::Error),
    /// An operator's name that logs could not show.
    #[error("`{name}` cannot be the name of an operator: use 1 to 64 letters, digits, `.`, `_`, `-` or `@`")]
    Name {
        /// What was asked for.
        name: String,
    },
}

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A host. Its certificate serves both directions.
    Node {
        /// Which.
        id: NodeId,
        /// As what it joined.
        role: NodeRole,
    },
    /// A person or a program with full rights.
    Operator {
        /// What the logs show.
        name: String,
    },
}

/// The authority with its key.
pub struct Authority {
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    cluster_id: String,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authority").field("cluster_id", &self.cluster_id).finish_non_exhaustive()
    }
}

fn serial() -> SerialNumber {
    let mut bytes = [0u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    // Positive, and never with a leading zero.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn name(common: &str, unit: &str, organization: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, organization);
    name.push(DnType::OrganizationalUnitName, unit);
    name.push(DnType::CommonName, common);
    name
}

impl Authority {
    /// A new one, for a new cluster. Answers its private key as PEM (PKCS #8) beside it.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn create(cluster_id: &str, now: OffsetDateTime) -> Result<(Self, Zeroizing<String>), IssueError> {
        let key = KeyPair::generate().map_err(IssueError::Sign)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("stack cluster authority", "authority", cluster_id);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial());
        params.not_before = now - BACKDATE;
        params.not_after = now + AUTHORITY_LIFE;
        let certificate = params.self_signed(&key).map_err(IssueError::Sign)?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        Ok((Self::load(&certificate.pem(), &key_pem, cluster_id)?, key_pem))
    }

    /// The one that was made before.
    ///
    /// # Errors
    /// When certificate or key cannot be read.
    pub fn load(certificate_pem: &str, key_pem: &str, cluster_id: &str) -> Result<Self, IssueError> {
        let key = KeyPair::from_pem(key_pem).map_err(IssueError::Authority)?;
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key).map_err(IssueError::Authority)?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_unreadable| IssueError::Authority(rcgen::Error::CouldNotParseCertificate))?;
        Ok(Self { certificate_pem: certificate_pem.to_owned(), certificate, cluster_id: cluster_id.to_owned(), issuer })
    }

    /// PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// DER.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Certifies the key of a signing request (PEM). Nothing but the key is taken from the request. Answers PEM.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn issue(
        &self,
        request_pem: &str,
        subject: &Subject,
        now: OffsetDateTime,
        life: Duration,
    ) -> Result<String, IssueError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(IssueError::Request)?;
        let mut params = CertificateParams::default();
        match subject {
            Subject::Node { id, role } => {
                let mut names = vec![routes::node_server_name(*id)];
                if *role == NodeRole::Controller {
                    names.push(routes::CONTROLLER_SERVER_NAME.to_owned());
                }
                params = CertificateParams::new(names).map_err(IssueError::Sign)?;
                params.distinguished_name = name(&id.to_string(), role.as_str(), &self.cluster_id);
                params.extended_key_usages =
                    vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            }
            Subject::Operator { name: operator } => {
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'@');
                if operator.is_empty() || operator.len() > 64 || !operator.bytes().all(allowed) {
                    return Err(IssueError::Name { name: operator.chars().take(80).collect() });
                }
                params.distinguished_name = name(operator, "operator", &self.cluster_id);
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial());
        params.not_before = now - BACKDATE;
        params.not_after = now + life;
        let certificate = params.signed_by(&request.public_key, &self.issuer).map_err(IssueError::Sign)?;
        Ok(certificate.pem())
    }
}

/// Who a host is that joins with this request: its identifier is made of its key, so that nobody else can join as the same
/// and the host itself can, when the answer to its first request was lost.
///
/// # Errors
/// When the request is none, or was not made with its key.
pub fn node_of(request_pem: &str) -> Result<NodeId, IssueError> {
    let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(IssueError::Request)?;
    let digest = Sha256::digest(rcgen::PublicKeyData::der_bytes(&request.public_key));
    let bits = digest.iter().take(16).fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    Ok(NodeId::from_bits(bits))
}

/// The request to certify a key, both PEM.
///
/// # Errors
/// When the key is none.
pub fn request_for(key: &str) -> Result<String, IssueError> {
    let key = KeyPair::from_pem(key).map_err(IssueError::Sign)?;
    let request = CertificateParams::default().serialize_request(&key).map_err(IssueError::Sign)?;
    request.pem().map_err(IssueError::Sign)
}

/// A new key and the request to certify it, both PEM.
///
/// # Errors
/// When no key can be made.
pub fn new_key() -> Result<(Zeroizing<String>, String), IssueError> {
    let key = KeyPair::generate().map_err(IssueError::Sign)?;
    let request = CertificateParams::default().serialize_request(&key).map_err(IssueError::Sign)?;
    let request = request.pem().map_err(IssueError::Sign)?;
    Ok((Zeroizing::new(key.serialize_pem()), request))
}
