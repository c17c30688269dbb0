//! The typed client: over the local socket, or to any of several controllers, or to one host, by mutual TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt, TryStreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::REQUEST_ID_HEADER;
use crate::error::{ErrorBody, ErrorCode};
use crate::routes::{self, Route};

/// Who the caller is, and whom it trusts. PEM texts.
#[derive(Clone)]
pub struct Identity {
    /// The cluster's authority.
    pub ca_certificate: String,
    /// The caller's own.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Identity(..)")
    }
}

/// Where a client talks to.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// A `stackd` on this machine.
    Socket(PathBuf),
    /// Controllers: the first that answers is kept.
    Controllers(Vec<SocketAddr>),
    /// One host, whoever it is to Raft.
    Node(stack_model::NodeId, SocketAddr),
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered, and refused.
    #[error(transparent)]
    Refused(#[from] ErrorBody),
    /// Nobody answered.
    #[error("cannot reach {target}")]
    Unreachable {
        /// Whom.
        target: String,
        /// Why.
        #[source]
        source: Box<reqwest::Error>,
    },
    /// The socket is not there, or may not be opened.
    #[error("cannot reach the daemon at {}: {source}", path.display())]
    Socket {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The answer is not what the contract says.
    #[error("unexpected answer from {target}: {reason}")]
    Unexpected {
        /// From whom.
        target: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller's certificate or key cannot be used.
    #[error("the client certificate cannot be used: {reason}")]
    Identity {
        /// What is wrong.
        reason: String,
    },
}

impl ClientError {
    /// What the server said, where it said something.
    #[must_use]
    pub const fn refused(&self) -> Option<&ErrorBody> {
        match self {
            Self::Refused(body) => Some(body),
            _ => None,
        }
    }

    /// Nobody answered, or there was no leader: the same call may work in a moment.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Socket { .. } => true,
            Self::Refused(body) => {
                matches!(body.code, ErrorCode::Unavailable | ErrorCode::NotLeader | ErrorCode::NotController)
            }
            Self::Unexpected { .. } | Self::Identity { .. } => false,
        }
    }
}

struct Target {
    /// For messages.
    name: String,
    /// `None` for a local socket.
    address: Option<SocketAddr>,
    /// Scheme, host and port.
    base: String,
    http: reqwest::Client,
    socket: Option<PathBuf>,
}

/// A client. Cheap to clone; connections are kept and shared.
#[derive(Clone)]
pub struct Client {
    targets: Arc<Vec<Target>>,
    /// The target that answered last, once one has; shared by all clones.
    preferred: Arc<AtomicUsize>,
    request_id: Option<Arc<str>>,
}

/// No target has answered yet.
const UNKNOWN: usize = usize::MAX;
/// A controller that does not even accept a connection in this time is passed over while others are left.
const HURRY: Duration = Duration::from_millis(400);

/// A TLS configuration that presents `identity` and trusts its authority alone.
///
/// # Errors
/// A text that is no certificate or key, or a key that does not fit.
pub fn tls_config(identity: &Identity) -> Result<rustls::ClientConfig, ClientError> {
    let refuse = |reason: String| ClientError::Identity { reason };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(identity.ca_certificate.as_bytes()) {
        let certificate = certificate.map_err(|error| refuse(format!("the authority's certificate: {error}")))?;
        roots.add(certificate).map_err(|error| refuse(format!("the authority's certificate: {error}")))?;
    }
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| refuse(format!("its own certificate: {error}")))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())
        .map_err(|error| refuse(format!("its private key: {error}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| refuse(error.to_string()))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| refuse(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

impl Client {
    /// A client of one endpoint. `identity` is needed for all but the local socket.
    ///
    /// # Errors
    /// The identity cannot be used.
    pub fn new(endpoint: Endpoint, identity: Option<&Identity>) -> Result<Self, ClientError> {
        let builder = || reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_secs(3));
        let broken = |error: reqwest::Error| ClientError::Identity { reason: error.to_string() };
        let remote = |name: &str, address: SocketAddr| -> Result<Target, ClientError> {
            let Some(identity) = identity else {
                return Err(ClientError::Identity { reason: "there is none".to_owned() });
            };
            let http = builder()
                .tls_backend_preconfigured(tls_config(identity)?)
                .resolve(name, address)
                .tcp_keepalive(Duration::from_secs(5))
                .http2_keep_alive_interval(Duration::from_secs(2))
                .http2_keep_alive_timeout(Duration::from_secs(4))
                .build()
                .map_err(broken)?;
            let base = format!("https://{name}:{}", address.port());
            Ok(Target { name: address.to_string(), address: Some(address), base, http, socket: None })
        };
        let targets = match endpoint {
            Endpoint::Socket(path) => {
                // A TLS backend is configured though a socket needs none: there is no process-wide default.
                let roots = rustls::RootCertStore::empty();
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let tls = rustls::ClientConfig::builder_with_provider(provider)
                    .with_protocol_versions(&[&rustls::version::TLS13])
                    .map_err(|error| ClientError::Identity { reason: error.to_string() })?
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                let http =
                    builder().tls_backend_preconfigured(tls).unix_socket(path.clone()).build().map_err(broken)?;
                vec![Target {
                    name: path.display().to_string(),
                    address: None,
                    base: "http://localhost".to_owned(),
                    http,
                    socket: Some(path),
                }]
            }
            Endpoint::Controllers(addresses) => addresses
                .into_iter()
                .map(|address| remote(routes::CONTROLLER_SERVER_NAME, address))
                .collect::<Result<_, _>>()?,
            Endpoint::Node(node, address) => vec![remote(&routes::node_server_name(node), address)?],
        };
        Ok(Self { targets: Arc::new(targets), preferred: Arc::new(AtomicUsize::new(UNKNOWN)), request_id: None })
    }

    /// The same client, whose calls carry this request id.
    #[must_use]
    pub fn with_request_id(&self, id: &str) -> Self {
        Self { request_id: Some(Arc::from(id)), ..self.clone() }
    }

    /// Calls a route: `values` fill its path, `query` and `body` go along, the answer is read as JSON.
    ///
    /// # Errors
    /// See [`ClientError`]. Where there are several controllers, the last failure.
    pub async fn call<Q, B, A>(
        &self,
        route: Route,
        values: &[&str],
        query: Option<&Q>,
        body: Option<&B>,
        timeout: Duration,
    ) -> Result<A, ClientError>
    where
        Q: Serialize + Sync + ?Sized,
        B: Serialize + Sync + ?Sized,
        A: DeserializeOwned,
    {
        let body = body
            .map(serde_json::to_vec)
            .transpose()
            .map_err(|error| self.unexpected(format!("the request cannot be written: {error}")))?
            .map(Bytes::from);
        let response = self
            .send(route, values, query, Some(timeout), |request| match &body {
                Some(body) => request
                    .header(http::header::CONTENT_TYPE, "application/json")
                    .body(reqwest::Body::from(body.clone())),
                None => request,
            })
            .await?;
        let target = response.url().to_string();
        let bytes = response
            .bytes()
            .await
            .map_err(|source| ClientError::Unreachable { target: target.clone(), source: Box::new(source) })?;
        serde_json::from_slice(&bytes)
            .map_err(|error| ClientError::Unexpected { target, reason: format!("{error} in the answer's body") })
    }

    /// A call with neither query nor body.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn get<A: DeserializeOwned>(
        &self,
        route: Route,
        values: &[&str],
        timeout: Duration,
    ) -> Result<A, ClientError> {
        self.call(route, values, None::<&()>, None::<&()>, timeout).await
    }

    /// Sends a stream as the body (an image archive) and reads the answer as JSON. Only the first target is tried, as
    /// a stream cannot be sent twice.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn upload<Q, A>(
        &self,
        route: Route,
        values: &[&str],
        query: Option<&Q>,
        body: reqwest::Body,
    ) -> Result<A, ClientError>
    where
        Q: Serialize + Sync + ?Sized,
        A: DeserializeOwned,
    {
        let Some(target) = self.order().await.first().and_then(|&index| self.targets.get(index)) else {
            return Err(self.unexpected("no endpoint is configured".to_owned()));
        };
        let request = self.request(target, route, values, query).body(body);
        let response = check(target, request.send().await).await?;
        let bytes = response.bytes().await.map_err(|source| target.unreachable(source))?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Unexpected {
            target: target.name.clone(),
            reason: format!("{error} in the answer's body"),
        })
    }

    /// Calls a route whose answer is a stream of bytes, which may never end.
    ///
    /// # Errors
    /// As [`Self::call`]; the stream ends with an error when the connection breaks.
    pub async fn stream<Q>(
        &self,
        route: Route,
        values: &[&str],
        query: Option<&Q>,
    ) -> Result<impl Stream<Item = Result<Bytes, ClientError>> + Send + Unpin + use<Q>, ClientError>
    where
        Q: Serialize + Sync + ?Sized,
    {
        let response = self.send(route, values, query, None, |request| request).await?;
        let target = response.url().to_string();
        Ok(Box::pin(
            response
                .bytes_stream()
                .map_err(move |source| ClientError::Unreachable { target: target.clone(), source: Box::new(source) }),
        ))
    }

    fn unexpected(&self, reason: String) -> ClientError {
        let target = self.targets.first().map_or_else(String::new, |target| target.name.clone());
        ClientError::Unexpected { target, reason }
    }

    fn request<Q: Serialize + ?Sized>(
        &self,
        target: &Target,
        route: Route,
        values: &[&str],
        query: Option<&Q>,
    ) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(route.method.as_bytes()).unwrap_or_default();
        let url = format!("{}{}", target.base, routes::fill(route.path, values));
        let mut request = target.http.request(method, url);
        if let Some(query) = query {
            request = request.query(query);
        }
        if let Some(id) = &self.request_id {
            request = request.header(REQUEST_ID_HEADER, id.as_ref());
        }
        request
    }

    /// In which order to try the targets: the one that answered last, else those that accept a connection now, then
    /// those that may only be slow. A host without power answers nothing at all, and must not cost every call a timeout.
    async fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.targets.len()).collect();
        if order.len() < 2 {
            return order;
        }
        let preferred = self.preferred.load(Ordering::Relaxed);
        let candidates: Vec<usize> = if preferred == UNKNOWN { order.clone() } else { vec![preferred] };
        let mut attempts: FuturesUnordered<_> = candidates
            .into_iter()
            .filter_map(|index| Some((index, self.targets.get(index)?.address?)))
            .map(|(index, address)| async move {
                let connected = tokio::time::timeout(HURRY, tokio::net::TcpStream::connect(address)).await;
                matches!(connected, Ok(Ok(_))).then_some(index)
            })
            .collect();
        while let Some(answer) = attempts.next().await {
            if let Some(index) = answer {
                order.retain(|other| *other != index);
                order.insert(0, index);
                return order;
            }
        }
        if preferred != UNKNOWN {
            // It answered before and does not now: the others come first.
            self.preferred.store(UNKNOWN, Ordering::Relaxed);
            order.retain(|other| *other != preferred);
            order.push(preferred);
        }
        order
    }

    async fn send<Q: Serialize + Sync + ?Sized>(
        &self,
        route: Route,
        values: &[&str],
        query: Option<&Q>,
        timeout: Option<Duration>,
        finish: impl Fn(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, ClientError> {
        let mut last = None;
        for index in self.order().await {
            let Some(target) = self.targets.get(index) else { continue };
            let mut request = finish(self.request(target, route, values, query));
            if let Some(timeout) = timeout {
                request = request.timeout(timeout);
            }
            match check(target, request.send().await).await {
                Ok(response) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(response);
                }
                // Only a call that surely was not carried out is tried elsewhere; the others are the caller's choice.
                Err(error) if was_not_sent(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| self.unexpected("no endpoint is configured".to_owned())))
    }
}

fn was_not_sent(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { source, .. } => source.is_connect(),
        ClientError::Socket { .. } => true,
        ClientError::Refused(body) => matches!(body.code, ErrorCode::NotLeader | ErrorCode::NotController),
        ClientError::Unexpected { .. } | ClientError::Identity { .. } => false,
    }
}

impl Target {
    fn unreachable(&self, source: reqwest::Error) -> ClientError {
        if let Some(path) = &self.socket
            && let Some(error) = socket_error(path)
        {
            return ClientError::Socket { path: path.clone(), source: error };
        }
        ClientError::Unreachable { target: self.name.clone(), source: Box::new(source) }
    }
}

/// What the kernel says of the socket: clearer than what the HTTP library makes of it.
fn socket_error(path: &Path) -> Option<std::io::Error> {
    std::os::unix::net::UnixStream::connect(path).err()
}

async fn check(
    target: &Target,
    sent: Result<reqwest::Response, reqwest::Error>,
) -> Result<reqwest::Response, ClientError> {
    let response = sent.map_err(|source| target.unreachable(source))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let bytes = response.bytes().await.map_err(|source| target.unreachable(source))?;
    match serde_json::from_slice::<ErrorBody>(&bytes) {
        Ok(body) => Err(ClientError::Refused(body)),
        Err(_) => Err(ClientError::Unexpected {
            target: target.name.clone(),
            reason: format!("status {status} without an error body"),
        }),
    }
}
