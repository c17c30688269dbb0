//! The body of every answer that is not a success.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What kind of failure it is: what a program may decide on. Each has one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request does not fit the contract. 400
    BadRequest,
    /// No certificate, or one that the cluster does not accept. 401
    Unauthenticated,
    /// This peer may not do this. 403
    Forbidden,
    /// There is no such thing. 404
    NotFound,
    /// The state is not what the request expects. 409
    Conflict,
    /// The body is larger than the route takes. 413
    TooLarge,
    /// Only the leader serves this; `leader` says who it is. 421
    NotLeader,
    /// No controller runs on this host (now): nothing was done, any controller may be asked. 421
    NotController,
    /// The request is understood and cannot be done: the message says why. 422
    Unprocessable,
    /// A defect of ours. 500
    Internal,
    /// A host or a registry that was asked did not do its part. 502
    Upstream,
    /// No leader, or no answer in time: try again. 503
    Unavailable,
}

impl ErrorCode {
    /// The one HTTP status of this code.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::NotLeader | Self::NotController => 421,
            Self::Unprocessable => 422,
            Self::Internal => 500,
            Self::Upstream => 502,
            Self::Unavailable => 503,
        }
    }
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct ErrorBody {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what is wrong, and where.
    pub message: String,
    /// For people: what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// With [`ErrorCode::NotLeader`]: `host:port` of the leader, if one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The request's id, as in the logs of every hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl ErrorBody {
    /// A failure with a message alone.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, leader: None, request_id: None }
    }

    /// With advice.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// The texts of an error and of its sources, each once.
#[must_use]
pub fn full_text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}
