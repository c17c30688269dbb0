//! One listener, whose routes change when the host becomes a member.

use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::any;
use tower::ServiceExt;

/// Routes that can be replaced while connections are open.
#[derive(Clone, Default)]
pub struct Switch(Arc<RwLock<Router>>);

impl Switch {
    /// From now on these are served.
    pub fn set(&self, router: Router) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = router;
    }

    /// What a listener serves: whatever is set when a request comes.
    pub fn router(&self) -> Router {
        let switch = self.clone();
        let answer = move |request: Request| {
            let switch = switch.clone();
            async move { switch.answer(request).await }
        };
        // A fallback and no wildcard route: a wildcard's parameter would be one too many for the handlers behind it.
        Router::new().fallback(any(answer))
    }

    async fn answer(&self, request: Request) -> Response {
        let router = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        match router.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}
