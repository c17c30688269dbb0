//! Gives content to a registry: what it has is not sent, what another repository of it has is mounted, the rest goes in one
//! piece each (OCI distribution specification 1.1, "Push").

use std::path::Path;

use futures::TryStreamExt as _;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};
use tokio_util::io::ReaderStream;

use super::error::PullError;
use super::session::{Endpoint, Failure, LONGEST_PAUSE, MakeBody, Session, host_and_port, is_plain_allowed, lock};
use crate::content::Digest;

/// How much of a file is read at once, in bytes.
const PIECE: usize = 128 << 10;

/// How a blob came to be in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) enum Placed {
    /// It was there.
    Present,
    /// It was in another repository of the registry.
    Mounted {
        /// Which.
        from: String,
    },
    /// It was sent.
    Sent,
}

impl Session<'_> {
    fn registry(&self) -> Result<&Endpoint, PullError> {
        self.endpoints.first().ok_or(PullError::Interrupted)
    }

    /// Puts a blob, out of a file, into the repository. `others` are repositories of the registry that may have it.
    pub(in crate::image) async fn put_blob(
        &self,
        digest: &Digest,
        (file, size): (&Path, u64),
        others: &[String],
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Placed, PullError> {
        let what = format!("layer {digest} of {}", self.repository);
        match self.send(&Method::HEAD, &format!("blobs/{digest}"), None, &HeaderMap::new(), &what).await {
            Ok(_) => return Ok(Placed::Present),
            // Who may not read may still be allowed to write; the next answer says so.
            Err(PullError::NotFound { .. } | PullError::Denied { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut failures = 0;
        loop {
            let error = match self.upload(digest, (file, size), others, progress, &what).await {
                Ok(placed) => return Ok(placed),
                Err(error) => error,
            };
            failures += 1;
            if failures >= self.registries.config.attempts.max(1) || !error.is_retryable() {
                return Err(error);
            }
            tracing::debug!(%digest, failures, error = &error as &dyn std::error::Error, "a blob will be sent again");
            tokio::time::sleep(self.pause(failures)).await;
        }
    }

    async fn upload(
        &self,
        digest: &Digest,
        (file, size): (&Path, u64),
        others: &[String],
        progress: &(dyn Fn(u64) + Send + Sync),
        what: &str,
    ) -> Result<Placed, PullError> {
        let empty: MakeBody<'_> = &|| reqwest::Body::from("");
        let mut started = None;
        for other in others {
            let path = format!("blobs/uploads/?mount={digest}&from={other}");
            match self.send(&Method::POST, &path, Some(empty), &HeaderMap::new(), what).await {
                Ok(answer) if answer.status() == StatusCode::CREATED => {
                    return Ok(Placed::Mounted { from: other.clone() });
                }
                // It does not have it there, and takes it instead.
                Ok(answer) => {
                    started = Some(answer);
                    break;
                }
                // Who may not read the other one sends the content.
                Err(PullError::Unauthorized { .. } | PullError::Denied { .. } | PullError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let answer = match started {
            Some(answer) => answer,
            None => self.send(&Method::POST, "blobs/uploads/", Some(empty), &HeaderMap::new(), what).await?,
        };
        let mut url = self.location(&answer, what)?;
        url.query_pairs_mut().append_pair("digest", digest.as_str());
        let (told, mut heard) = tokio::sync::watch::channel(0);
        // Made anew for each try, from the file's beginning.
        let body = || {
            let (told, mut sent) = (told.clone(), 0);
            let opened = futures::stream::once(tokio::fs::File::open(file.to_owned()));
            let pieces = opened.map_ok(|file| ReaderStream::with_capacity(file, PIECE)).try_flatten();
            reqwest::Body::wrap_stream(pieces.inspect_ok(move |piece| {
                sent += piece.len() as u64;
                told.send_replace(sent);
            }))
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
        let sending = self.once(&Method::PUT, &url, Some(&body), &headers, what);
        tokio::pin!(sending);
        loop {
            tokio::select! {
                answer = &mut sending => {
                    return match answer {
                        Ok(_) => Ok(Placed::Sent),
                        Err(Failure::Passing(error, _) | Failure::Final(error)) => Err(error),
                    };
                }
                Ok(()) = heard.changed() => {
                    let sent = *heard.borrow_and_update();
                    progress(sent);
                }
            }
        }
    }

    /// Puts a manifest under a tag or its digest.
    pub(in crate::image) async fn put_manifest(
        &self,
        tag_or_digest: &str,
        media_type: &str,
        content: &[u8],
    ) -> Result<(), PullError> {
        let what = format!("image {}:{tag_or_digest}", self.repository);
        let mut headers = HeaderMap::new();
        if let Ok(media_type) = HeaderValue::from_str(media_type) {
            headers.insert(CONTENT_TYPE, media_type);
        }
        let body = || reqwest::Body::from(content.to_vec());
        let path = format!("manifests/{tag_or_digest}");
        self.send(&Method::PUT, &path, Some(&body), &headers, &what).await.map(drop)
    }

    /// Where the registry wants a blob.
    fn location(&self, answer: &Response, what: &str) -> Result<Url, PullError> {
        let registry = self.registry()?.shown.clone();
        let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        location.and_then(|location| answer.url().join(location).ok()).ok_or_else(|| PullError::Registry {
            registry,
            what: what.to_owned(),
            status: answer.status().as_u16(),
            detail: "it does not say where to".to_owned(),
        })
    }

    /// One request, repeated where that may help.
    async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<MakeBody<'_>>,
        headers: &HeaderMap,
        what: &str,
    ) -> Result<Response, PullError> {
        let mut failures = 0;
        loop {
            let (error, pause) = match self.ask(self.registry()?, method, path, headers, body, what).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error, pause)) => (error, pause),
            };
            failures += 1;
            if failures >= self.registries.config.attempts.max(1) {
                return Err(error);
            }
            tokio::time::sleep(self.pause(failures).max(pause.min(LONGEST_PAUSE))).await;
        }
    }

    /// One request to where the registry said. The name and password go to the registry alone.
    async fn once(
        &self,
        method: &Method,
        url: &Url,
        body: Option<MakeBody<'_>>,
        headers: &HeaderMap,
        what: &str,
    ) -> Result<Response, Failure> {
        let endpoint = self.registry().map_err(Failure::Final)?;
        let bases = lock(&endpoint.bases).clone();
        let bad =
            |problem: String| Failure::Final(PullError::BadRedirect { registry: endpoint.shown.clone(), problem });
        if bases.iter().any(|base| base.origin() == url.origin()) {
            return self.ask_authorized(endpoint, method, url.clone(), headers, body, what).await;
        }
        match url.scheme() {
            "https" => {}
            "http" if is_plain_allowed(self.registries, &host_and_port(url)) => {}
            "http" => return Err(bad(format!("{} would be spoken to without TLS", host_and_port(url)))),
            other => return Err(bad(format!("the scheme is `{other}`"))),
        }
        let answer = self.follow(endpoint, method, url.clone(), headers, body, None).await?;
        self.judge(endpoint, answer, what).await
    }
}
