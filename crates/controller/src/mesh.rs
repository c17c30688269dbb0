//! Calls from this host to other hosts of the cluster: HTTP/2 over mutual TLS, one connection per host, and the host is
//! recognised by the name in its certificate, whatever address it was reached at.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::dns::{Name, Resolve, Resolving};
use stack_api::{ErrorBody, REQUEST_ID_HEADER, routes};
use stack_model::NodeId;

use crate::identity::{Credentials, CredentialsError};

/// Why a call to another host failed.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// It did not answer in time. Whether it did what was asked is not known.
    #[error("{node} at {address} did not answer within {} ms", timeout.as_millis())]
    Timeout {
        /// Who.
        node: NodeId,
        /// Where.
        address: SocketAddr,
        /// How long it had.
        timeout: Duration,
    },
    /// No connection, so nothing was done.
    #[error("cannot connect to {node} at {address}: {reason}")]
    Connect {
        /// Who.
        node: NodeId,
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The connection broke. Whether it did what was asked is not known.
    #[error("the connection to {node} at {address} broke: {reason}")]
    Broken {
        /// Who.
        node: NodeId,
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// It answered, and refused.
    #[error("{node} at {address} refused")]
    Refused {
        /// Who.
        node: NodeId,
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: Box<ErrorBody>,
    },
    /// Its answer cannot be understood.
    #[error("the answer of {node} at {address} cannot be understood: {reason}")]
    Answer {
        /// Who.
        node: NodeId,
        /// Where.
        address: SocketAddr,
        /// What is wrong.
        reason: String,
    },
}

/// Where names lead: filled in by each call, so that an address that changes is followed.
#[derive(Debug, Default)]
struct Addresses(RwLock<HashMap<String, SocketAddr>>);

#[derive(Clone)]
struct Resolver(Arc<Addresses>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let found = self.0.0.read().unwrap_or_else(PoisonError::into_inner).get(name.as_str()).copied();
        Box::pin(async move {
            match found {
                Some(address) => Ok(Box::new(std::iter::once(address)) as Box<dyn Iterator<Item = SocketAddr> + Send>),
                None => Err("the name is of no host of the cluster".into()),
            }
        })
    }
}

/// The way to the other hosts. Cheap to clone.
#[derive(Clone)]
pub struct Mesh {
    http: reqwest::Client,
    addresses: Arc<Addresses>,
}

impl fmt::Debug for Mesh {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Mesh").finish_non_exhaustive()
    }
}

impl Mesh {
    /// Speaks with this identity.
    ///
    /// # Errors
    /// When TLS refuses it.
    pub fn new(credentials: &Credentials) -> Result<Self, CredentialsError> {
        let addresses = Arc::new(Addresses::default());
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(credentials.client_config()?)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .http2_prior_knowledge()
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(Duration::from_secs(1))
            .http2_keep_alive_timeout(Duration::from_secs(2))
            .http2_keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .tcp_user_timeout(Duration::from_secs(4))
            .connect_timeout(Duration::from_millis(1500))
            .dns_resolver(Arc::new(Resolver(Arc::clone(&addresses))))
            .build()
            .map_err(|error| CredentialsError::Tls(rustls::Error::General(innermost(&error))))?;
        Ok(Self { http, addresses })
    }

    /// Starts a call. The answer may be of any status.
    ///
    /// # Errors
    /// See [`MeshError`].
    pub async fn send(
        &self,
        (node, address): (NodeId, SocketAddr),
        method: http::Method,
        path_and_query: &str,
        headers: http::HeaderMap,
        body: reqwest::Body,
        timeout: Option<Duration>,
    ) -> Result<reqwest::Response, MeshError> {
        let name = routes::node_server_name(node);
        let known = self.addresses.0.read().unwrap_or_else(PoisonError::into_inner).get(&name).copied();
        if known != Some(address) {
            self.addresses.0.write().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), address);
        }
        let url = format!("https://{name}:{}{path_and_query}", address.port());
        let mut request = self.http.request(method, url).headers(headers).body(body);
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        request.send().await.map_err(|error| failure(node, address, timeout, &error))
    }

    /// Posts bytes and answers the body of a success.
    ///
    /// # Errors
    /// See [`MeshError`].
    pub async fn post(
        &self,
        target: (NodeId, SocketAddr),
        path: &str,
        headers: http::HeaderMap,
        body: reqwest::Body,
        timeout: Duration,
    ) -> Result<Bytes, MeshError> {
        let (node, address) = target;
        let response = self.send(target, http::Method::POST, path, headers, body, Some(timeout)).await?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|error| failure(node, address, Some(timeout), &error))?;
        if status.is_success() {
            return Ok(bytes);
        }
        Err(match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => MeshError::Refused { node, address, source: Box::new(body) },
            Err(_) => MeshError::Answer { node, address, reason: format!("status {status} without an error body") },
        })
    }
}

/// Headers that carry a request's id on.
#[must_use]
pub fn with_request_id(id: &str) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    if let Ok(value) = http::HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID_HEADER, value);
    }
    headers
}

fn innermost(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn failure(node: NodeId, address: SocketAddr, timeout: Option<Duration>, error: &reqwest::Error) -> MeshError {
    if error.is_connect() {
        MeshError::Connect { node, address, reason: innermost(error) }
    } else if let (true, Some(timeout)) = (error.is_timeout(), timeout) {
        MeshError::Timeout { node, address, timeout }
    } else {
        MeshError::Broken { node, address, reason: innermost(error) }
    }
}
