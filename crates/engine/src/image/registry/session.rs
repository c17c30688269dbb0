//! Asks one registry (or its mirrors) about one repository: addresses, authorization, redirects, retries, and transfers
//! that go on where they broke off.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, StatusCode, Url};

use super::challenge::{self, Challenge};
use super::config::Registries;
use super::error::PullError;
use crate::content::Digest;
use crate::image::document::{DOCKER_LIST, DOCKER_MANIFEST, MANIFEST_LIMIT, OCI_INDEX, OCI_MANIFEST};
use crate::image::reference::{DEFAULT_REGISTRY, Reference};
use crate::image::stream::ChannelWriter;

/// Where `docker.io` really is.
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";
/// How many redirects are followed.
const REDIRECT_LIMIT: usize = 6;
/// The most bytes of a token service's answer, and of an error's.
const ANSWER_LIMIT: u64 = 1 << 20;
/// The longest pause that a registry can ask for.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How registries name the digest of what they answer.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A name and a password, or a token in place of it. Not printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Makes the body of a request, each time that it is sent.
pub(super) type MakeBody<'a> = &'a (dyn Fn() -> reqwest::Body + Send + Sync);

/// Questions about one repository.
pub(in crate::image) struct Session<'a> {
    pub(super) registries: &'a Registries,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) repository: String,
}

/// One place that may have the repository.
pub(super) struct Endpoint {
    /// How errors call it.
    pub(super) shown: String,
    /// Addresses in the order to try them; after the first answer, only that one.
    pub(super) bases: Mutex<Vec<Url>>,
    credentials: Option<Credentials>,
    authorization: Mutex<Option<HeaderValue>>,
}

/// What stands in the way of an answer.
pub(super) enum Failure {
    /// Trying again may help, after at least this long.
    Passing(PullError, Duration),
    /// Trying again does not help.
    Final(PullError),
}

impl<'a> Session<'a> {
    pub(in crate::image) fn new(
        registries: &'a Registries,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Self {
        let registry = reference.registry();
        let mut endpoints: Vec<_> = registries
            .mirrors
            .get(registry)
            .into_iter()
            .flatten()
            .map(|mirror| {
                Endpoint::new(format!("the mirror {}", mirror.host_str().unwrap_or("")), vec![mirror.clone()], None)
            })
            .collect();
        let host = if registry == DEFAULT_REGISTRY { DEFAULT_REGISTRY_HOST } else { registry };
        let bases = if is_plain_allowed(registries, registry) { &["https", "http"][..] } else { &["https"] };
        // A reference's registry is a host and port, so these are always addresses.
        let bases = bases.iter().filter_map(|scheme| Url::parse(&format!("{scheme}://{host}")).ok()).collect();
        endpoints.push(Endpoint::new(format!("the registry {registry}"), bases, credentials.cloned()));
        Self { registries, endpoints, repository: reference.repository().to_owned() }
    }

    /// Questions to a registry about itself.
    pub(in crate::image) fn of_registry(
        registries: &'a Registries,
        registry: &str,
        credentials: Option<&Credentials>,
    ) -> Self {
        let host = if registry == DEFAULT_REGISTRY { DEFAULT_REGISTRY_HOST } else { registry };
        let bases = if is_plain_allowed(registries, registry) { &["https", "http"][..] } else { &["https"] };
        let bases = bases.iter().filter_map(|scheme| Url::parse(&format!("{scheme}://{host}")).ok()).collect();
        let endpoint = Endpoint::new(format!("the registry {registry}"), bases, credentials.cloned());
        Self { registries, endpoints: vec![endpoint], repository: String::new() }
    }

    /// Whether the registry answers, and takes the name and password.
    pub(in crate::image) async fn check(&self) -> Result<(), PullError> {
        self.first(|endpoint| {
            async move { self.request(endpoint, Method::GET, "", None, None, "a login").await.map(|_| ()) }.boxed()
        })
        .await
    }

    /// What the registry answers to a search, by the interface from before the distribution specification.
    pub(super) async fn search(&self, term: &str, limit: u8, longest: u64) -> Result<Vec<u8>, PullError> {
        let what = format!("search for {}", term.chars().take(200).collect::<String>());
        let query = Url::parse_with_params("q:", [("q", term), ("n", &limit.to_string())]);
        // The address before the query is always one.
        let query = query.ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default();
        let (path, what) = (&format!("/v1/search?{query}"), &what);
        self.first(|endpoint| {
            async move { self.document(endpoint, path, None, longest, what).await.map(|(text, _)| text) }.boxed()
        })
        .await
    }

    /// A conversation with the registry alone, to which content is given.
    pub(in crate::image) fn to_registry(
        registries: &'a Registries,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Self {
        let repository = reference.repository().to_owned();
        Self { repository, ..Self::of_registry(registries, reference.registry(), credentials) }
    }

    /// How many places there are to ask.
    pub(in crate::image) fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// How errors call a place.
    pub(in crate::image) fn shown(&self, endpoint: usize) -> String {
        self.endpoints.get(endpoint).map_or_else(String::new, |endpoint| endpoint.shown.clone())
    }

    /// The digest of what a tag means at present, without its content where the registry can say it alone.
    pub(in crate::image) async fn head_manifest(&self, tag: &str) -> Result<Option<Digest>, PullError> {
        let path = format!("manifests/{tag}");
        let what = format!("image {}:{tag}", self.repository);
        let (path, what) = (&path, &what);
        self.first(|endpoint| {
            let ask = async move {
                let answer = self.request(endpoint, Method::HEAD, path, Some(&manifest_types()), None, what).await?;
                Ok(answer.headers().get(CONTENT_DIGEST).and_then(|value| value.to_str().ok()?.parse().ok()))
            };
            ask.boxed()
        })
        .await
    }

    /// A manifest or index, by tag or digest, verified.
    pub(in crate::image) async fn manifest(&self, tag_or_digest: &str) -> Result<(Digest, Vec<u8>), PullError> {
        let path = format!("manifests/{tag_or_digest}");
        let expected: Option<Digest> = tag_or_digest.parse().ok();
        let separator = if expected.is_some() { '@' } else { ':' };
        let what = format!("image {}{separator}{tag_or_digest}", self.repository);
        let (path, what, expected) = (&path, &what, &expected);
        self.first(|endpoint| {
            let ask = async move {
                let answer = self.document(endpoint, path, Some(&manifest_types()), MANIFEST_LIMIT, what).await?;
                let (content, stated) = answer;
                let actual = Digest::of(&content);
                match expected.as_ref().or(stated.as_ref()) {
                    Some(expected) if *expected != actual => Err(PullError::DigestMismatch {
                        registry: endpoint.shown.clone(),
                        expected: expected.clone(),
                        actual,
                    }),
                    _ => Ok((actual, content)),
                }
            };
            ask.boxed()
        })
        .await
    }

    /// A blob that is a document, verified.
    pub(in crate::image) async fn blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, PullError> {
        let path = format!("blobs/{digest}");
        let what = format!("content {digest} of {}", self.repository);
        let (path, what) = (&path, &what);
        self.first(|endpoint| {
            let ask = async move {
                let (content, _) = self.document(endpoint, path, None, limit, what).await?;
                let actual = Digest::of(&content);
                if actual == *digest {
                    return Ok(content);
                }
                Err(PullError::DigestMismatch { registry: endpoint.shown.clone(), expected: digest.clone(), actual })
            };
            ask.boxed()
        })
        .await
    }

    /// Sends a blob's bytes, exactly `size` of them, from the first place of `from..` that has it; goes on where a
    /// connection broke off. The receiver verifies the digest. Answers which place sent the end.
    pub(in crate::image) async fn transfer(
        &self,
        digest: &Digest,
        size: u64,
        from: usize,
        writer: ChannelWriter,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<usize, PullError> {
        let mut done = 0;
        let mut last = None;
        for (at, endpoint) in self.endpoints.iter().enumerate().skip(from) {
            match self.transfer_from(endpoint, digest, size, &mut done, &writer, progress).await {
                Ok(()) => {
                    writer.finish().await;
                    return Ok(at);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(PullError::Interrupted))
    }

    async fn transfer_from(
        &self,
        endpoint: &Endpoint,
        digest: &Digest,
        size: u64,
        done: &mut u64,
        writer: &ChannelWriter,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), PullError> {
        let path = format!("blobs/{digest}");
        let what = format!("layer {digest} of {}", self.repository);
        let mut failures = 0;
        loop {
            let before = *done;
            let range = (*done > 0).then(|| format!("bytes={done}-"));
            let mut answer = self.request(endpoint, Method::GET, &path, None, range.as_deref(), &what).await?;
            // A registry that knows no ranges begins again; what is here already is passed over.
            let start = starts_at(&answer).unwrap_or(0);
            if start > *done {
                return Err(PullError::Registry {
                    registry: endpoint.shown.clone(),
                    what,
                    status: answer.status().as_u16(),
                    detail: "it leaves out a part".to_owned(),
                });
            }
            let mut skip = *done - start;
            let source = loop {
                match answer.chunk().await {
                    Ok(Some(mut piece)) => {
                        let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
                        skip -= skipped as u64;
                        let piece = piece.split_off(skipped);
                        *done += piece.len() as u64;
                        if *done > size {
                            return Err(PullError::SizeMismatch {
                                registry: endpoint.shown.clone(),
                                digest: digest.clone(),
                                expected: size,
                                actual: *done,
                            });
                        }
                        progress(*done);
                        if !writer.send(piece).await {
                            // The receiver failed and says why itself.
                            return Err(PullError::Interrupted);
                        }
                    }
                    Ok(None) if *done == size => return Ok(()),
                    Ok(None) => break "the answer ended early".into(),
                    Err(error) => break Box::<dyn std::error::Error + Send + Sync>::from(error.without_url()),
                }
            };
            failures = if *done > before { 1 } else { failures + 1 };
            tracing::debug!(%digest, done = *done, size, failures, error = %source, "a transfer broke off");
            if failures >= self.registries.config.attempts.max(1) {
                return Err(PullError::Unreachable { registry: endpoint.shown.clone(), source });
            }
            tokio::time::sleep(self.pause(failures)).await;
        }
    }

    /// Asks one place after the other; the last one's error is the answer if none has it.
    async fn first<'call, T>(
        &'call self,
        ask: impl Fn(&'call Endpoint) -> BoxFuture<'call, Result<T, PullError>>,
    ) -> Result<T, PullError> {
        let mut last = PullError::Interrupted;
        for endpoint in &self.endpoints {
            match ask(endpoint).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, endpoint = endpoint.shown, "no answer");
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn document(
        &self,
        endpoint: &Endpoint,
        path: &str,
        accept: Option<&str>,
        limit: u64,
        what: &str,
    ) -> Result<(Vec<u8>, Option<Digest>), PullError> {
        let mut failures = 0;
        loop {
            let answer = self.request(endpoint, Method::GET, path, accept, None, what).await?;
            let stated = answer.headers().get(CONTENT_DIGEST).and_then(|value| value.to_str().ok()?.parse().ok());
            match read_limited(answer, limit).await {
                Ok(Some(content)) => return Ok((content, stated)),
                Ok(None) => {
                    return Err(PullError::TooLarge { registry: endpoint.shown.clone(), what: what.to_owned(), limit });
                }
                Err(error) => {
                    failures += 1;
                    if failures >= self.registries.config.attempts.max(1) {
                        let source = error.without_url().into();
                        return Err(PullError::Unreachable { registry: endpoint.shown.clone(), source });
                    }
                    tokio::time::sleep(self.pause(failures)).await;
                }
            }
        }
    }

    /// One question, with authorization, redirects and retries. The answer is a success.
    async fn request(
        &self,
        endpoint: &Endpoint,
        method: Method,
        path: &str,
        accept: Option<&str>,
        range: Option<&str>,
        what: &str,
    ) -> Result<Response, PullError> {
        let mut headers = HeaderMap::new();
        for (name, value) in [(ACCEPT, accept), (RANGE, range)] {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                headers.insert(name, value);
            }
        }
        let mut failures = 0;
        loop {
            let failure = match self.ask(endpoint, &method, path, &headers, None, what).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error, pause)) => (error, pause),
            };
            failures += 1;
            if failures >= self.registries.config.attempts.max(1) {
                return Err(failure.0);
            }
            tracing::debug!(error = &failure.0 as &dyn std::error::Error, failures, "a request will be repeated");
            tokio::time::sleep(self.pause(failures).max(failure.1.min(LONGEST_PAUSE))).await;
        }
    }

    pub(super) fn pause(&self, failures: u32) -> Duration {
        let pause = self.registries.config.first_pause.saturating_mul(1 << (failures - 1).min(10)).min(LONGEST_PAUSE);
        // Many hosts that lost the same registry must not all come back at the same moment.
        pause.mul_f64(rand::random_range(0.75..1.25))
    }

    pub(super) async fn ask(
        &self,
        endpoint: &Endpoint,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Option<MakeBody<'_>>,
        what: &str,
    ) -> Result<Response, Failure> {
        let bases = lock(&endpoint.bases).clone();
        let mut last = None;
        for base in &bases {
            let about = if self.repository.is_empty() { String::new() } else { format!("{}/", self.repository) };
            let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
            // A path from the root is not of the distribution specification.
            let path = path.strip_prefix('/').map_or_else(|| format!("v2/{about}{path}"), str::to_owned);
            let mut url = address(base, &path);
            url.set_query(query);
            match self.ask_authorized(endpoint, method, url, headers, body, what).await {
                // No connection under this scheme; the next may be spoken.
                Err(Failure::Passing(error @ PullError::Unreachable { .. }, pause)) => {
                    last = Some(Failure::Passing(error, pause));
                }
                answer => {
                    *lock(&endpoint.bases) = vec![base.clone()];
                    return answer;
                }
            }
        }
        Err(last.unwrap_or(Failure::Final(PullError::Interrupted)))
    }

    pub(super) async fn ask_authorized(
        &self,
        endpoint: &Endpoint,
        method: &Method,
        url: Url,
        headers: &HeaderMap,
        body: Option<MakeBody<'_>>,
        what: &str,
    ) -> Result<Response, Failure> {
        let mut authorized = false;
        loop {
            let authorization = lock(&endpoint.authorization).clone();
            let answer = self.follow(endpoint, method, url.clone(), headers, body, authorization).await?;
            if answer.status() == StatusCode::UNAUTHORIZED && !authorized {
                // Nothing was given yet, or a token ran out.
                let demands = answer.headers().get_all(WWW_AUTHENTICATE);
                let challenge = challenge::parse(demands.iter().filter_map(|value| value.to_str().ok()));
                if let Some(challenge) = challenge
                    && let Some(value) = self.authorize(endpoint, &challenge, what).await?
                {
                    *lock(&endpoint.authorization) = Some(value);
                    authorized = true;
                    continue;
                }
            }
            return self.judge(endpoint, answer, what).await;
        }
    }

    pub(super) async fn judge(&self, endpoint: &Endpoint, answer: Response, what: &str) -> Result<Response, Failure> {
        let (registry, what) = (endpoint.shown.clone(), what.to_owned());
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let pause = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let pause = Duration::from_secs(pause.unwrap_or(0));
        Err(match status.as_u16() {
            401 => Failure::Final(PullError::Unauthorized {
                registry,
                what,
                with_credentials: endpoint.credentials.is_some(),
            }),
            403 => Failure::Final(PullError::Denied { registry, what }),
            404 => Failure::Final(PullError::NotFound { registry, what }),
            429 => Failure::Passing(PullError::RateLimited { registry }, pause),
            code => {
                let text = read_limited(answer, ANSWER_LIMIT).await.ok().flatten().unwrap_or_default();
                let error = PullError::Registry { registry, what, status: code, detail: readable(&text) };
                if code >= 500 || code == 408 { Failure::Passing(error, pause) } else { Failure::Final(error) }
            }
        })
    }

    /// Sends a request and follows redirects. Authorization goes to the first host only.
    pub(super) async fn follow(
        &self,
        endpoint: &Endpoint,
        method: &Method,
        mut url: Url,
        headers: &HeaderMap,
        body: Option<MakeBody<'_>>,
        mut authorization: Option<HeaderValue>,
    ) -> Result<Response, Failure> {
        let bad =
            |problem: String| Failure::Final(PullError::BadRedirect { registry: endpoint.shown.clone(), problem });
        for _ in 0..REDIRECT_LIMIT {
            let client = if is_loopback(&url) { &self.registries.direct_client } else { &self.registries.client };
            let mut request = client.request(method.clone(), url.clone()).headers(headers.clone());
            if let Some(value) = &authorization {
                request = request.header(AUTHORIZATION, value.clone());
            }
            if let Some(body) = body {
                request = request.body(body());
            }
            // Addresses may carry signatures, so errors do not show them.
            let answer = request.send().await.map_err(|error| {
                let source = error.without_url().into();
                Failure::Passing(PullError::Unreachable { registry: endpoint.shown.clone(), source }, Duration::ZERO)
            })?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let target = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let target =
                target.and_then(|target| url.join(target).ok()).ok_or_else(|| bad("it is no address".into()))?;
            let is_plain = target.scheme() == "http";
            if !matches!(target.scheme(), "http" | "https") {
                return Err(bad(format!("the scheme is `{}`", target.scheme())));
            }
            if is_plain && url.scheme() == "https" && !is_plain_allowed(self.registries, &host_and_port(&target)) {
                return Err(bad(format!("{} would be spoken to without TLS", host_and_port(&target))));
            }
            if target.origin() != url.origin() {
                authorization = None;
            }
            url = target;
        }
        Err(bad(format!("there are more than {REDIRECT_LIMIT} in a row")))
    }

    /// What to send to satisfy a challenge; nothing where nothing can.
    async fn authorize(
        &self,
        endpoint: &Endpoint,
        challenge: &Challenge,
        what: &str,
    ) -> Result<Option<HeaderValue>, Failure> {
        let basic = endpoint.credentials.as_ref().map(|credentials| {
            let pair = format!("{}:{}", credentials.username, credentials.password);
            secret(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
        });
        let Challenge::Bearer { realm, service, scope } = challenge else { return Ok(basic.flatten()) };
        let bad =
            |problem: String| Failure::Final(PullError::BadRedirect { registry: endpoint.shown.clone(), problem });
        let mut url = Url::parse(realm).map_err(|_| bad("its token service is no address".into()))?;
        if url.scheme() != "https"
            && !(url.scheme() == "http" && is_plain_allowed(self.registries, &host_and_port(&url)))
        {
            return Err(bad(format!("its token service {} would be spoken to without TLS", host_and_port(&url))));
        }
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            let usual = (!self.repository.is_empty()).then(|| format!("repository:{}:pull", self.repository));
            if let Some(scope) = scope.clone().or(usual) {
                query.append_pair("scope", &scope);
            }
        }
        let answer = self.follow(endpoint, &Method::GET, url, &HeaderMap::new(), None, basic.flatten()).await?;
        let answer = self.judge(endpoint, answer, what).await?;
        let text = read_limited(answer, ANSWER_LIMIT).await.map_err(|error| {
            let source = error.without_url().into();
            Failure::Passing(PullError::Unreachable { registry: endpoint.shown.clone(), source }, Duration::ZERO)
        })?;
        #[derive(serde::Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let token: Option<Token> = text.and_then(|text| serde_json::from_slice(&text).ok());
        let token = token.and_then(|token| token.token.or(token.access_token));
        token.and_then(|token| secret(&format!("Bearer {token}"))).map(Some).ok_or_else(|| {
            Failure::Final(PullError::Registry {
                registry: endpoint.shown.clone(),
                what: what.to_owned(),
                status: 200,
                detail: "its token service gives no token".to_owned(),
            })
        })
    }
}

impl Endpoint {
    fn new(shown: String, bases: Vec<Url>, credentials: Option<Credentials>) -> Self {
        Self { shown, bases: Mutex::new(bases), credentials, authorization: Mutex::new(None) }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Only whole values are put in.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn manifest_types() -> String {
    [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST].join(", ")
}

/// A header that is never logged.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn address(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    let above = base.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("{above}/{path}"));
    url
}

pub(super) fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or("");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn is_loopback(url: &Url) -> bool {
    is_loopback_host(url.host_str().unwrap_or(""))
}

fn is_loopback_host(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a registry, as `host` or `host:port`, may be spoken to without TLS.
pub(super) fn is_plain_allowed(registries: &Registries, registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    };
    is_loopback_host(host) || registries.config.insecure.contains(registry) || registries.config.insecure.contains(host)
}

/// Where a partial answer begins.
fn starts_at(answer: &Response) -> Option<u64> {
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return None;
    }
    let range = answer.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// The whole answer, or nothing where it is longer than allowed.
async fn read_limited(mut answer: Response, limit: u64) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut content = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        if content.len() as u64 + piece.len() as u64 > limit {
            return Ok(None);
        }
        content.extend_from_slice(&piece);
    }
    Ok(Some(content))
}

/// The first message of a registry's error document, or nothing.
fn readable(text: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
    let message = document["errors"][0]["message"].as_str().unwrap_or("");
    message.chars().filter(|character| !character.is_control()).take(200).collect()
}
