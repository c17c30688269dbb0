//! What is left of the body of a refused request. A server that closes the connection on a caller who still sends makes
//! the caller lose the answer: it sees a broken connection instead of the reason. So the rest is read and thrown away,
//! within limits.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use http_body_util::BodyExt as _;

/// More is not read: who sends more than this to be refused sees the connection end.
const MOST: usize = 64 * 1024 * 1024;
/// Nor for longer.
const LONGEST: Duration = Duration::from_secs(10);

/// A body that a handler reads and whoever follows the request can finish.
#[derive(Clone)]
struct Shared(Arc<Mutex<Body>>);

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        // Polling is all that is done with it, so a panic elsewhere leaves it whole.
        Pin::new(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

/// What the handler may leave unread.
pub(super) struct Rest(Option<Shared>);

/// Lets the handler read the body and keeps a hold on it.
pub(super) fn share(request: Request) -> (Request, Rest) {
    if request.body().is_end_stream() {
        return (request, Rest(None));
    }
    let (parts, body) = request.into_parts();
    let shared = Shared(Arc::new(Mutex::new(body)));
    (Request::from_parts(parts, Body::new(shared.clone())), Rest(Some(shared)))
}

impl Rest {
    /// Reads the rest and throws it away, beside the answer.
    pub(super) fn discard(self) {
        let Some(mut body) = self.0.filter(|body| !body.is_end_stream()) else { return };
        tokio::spawn(tokio::time::timeout(LONGEST, async move {
            let mut left = MOST;
            while let Some(Ok(frame)) = body.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    return;
                }
            }
        }));
    }
}
