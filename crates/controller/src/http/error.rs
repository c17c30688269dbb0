//! How a failure is answered: one place where every error of this crate gets its code, and with it its HTTP status.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use stack_api::{ErrorBody, ErrorCode};
use stack_planner::Rejected;

use super::images::ResolveImageError;
use crate::identity::IssueError;
use crate::mesh::MeshError;
use crate::store::{ProposeError, ReadError};

/// A failure that is answered to a caller.
#[derive(Debug, Clone)]
pub struct Failure(pub ErrorBody);

impl Failure {
    /// With a message alone.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(ErrorBody::new(code, message))
    }

    /// With advice.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self(self.0.with_hint(hint))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // The body is written again by the outermost layer, which knows the request's id.
        let mut response = (status, axum::Json(&self.0)).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

const fn code_of(rejected: &Rejected) -> ErrorCode {
    match rejected {
        Rejected::AlreadyInitialized
        | Rejected::Conflict { .. }
        | Rejected::NodeInUse { .. }
        | Rejected::NetworkTaken { .. }
        | Rejected::NetworkInUse { .. }
        | Rejected::NetworkHasGuests { .. }
        | Rejected::FileExists { .. }
        | Rejected::FileInUse { .. } => ErrorCode::Conflict,
        Rejected::UnknownStack { .. }
        | Rejected::UnknownService { .. }
        | Rejected::UnknownNode { .. }
        | Rejected::UnknownClusterNetwork { .. }
        | Rejected::UnknownStoredFile { .. } => ErrorCode::NotFound,
        Rejected::RoleMismatch { .. } => ErrorCode::Forbidden,
        Rejected::NotInitialized => ErrorCode::Unavailable,
        Rejected::NoDigest { .. }
        | Rejected::PortTaken { .. }
        | Rejected::NoFreePort { .. }
        | Rejected::UnknownVolume { .. }
        | Rejected::UnknownNetwork { .. }
        | Rejected::NoExternalNetwork { .. }
        | Rejected::NoContent { .. }
        | Rejected::NoExternalFile { .. }
        | Rejected::UnknownFile { .. }
        | Rejected::SubnetTaken { .. }
        | Rejected::SubnetTooSmall { .. }
        | Rejected::SubnetOfNoFamily { .. }
        | Rejected::NoFreeSubnet { .. }
        | Rejected::AddressRefused { .. }
        | Rejected::NotReplicated { .. } => ErrorCode::Unprocessable,
    }
}

impl From<Rejected> for Failure {
    fn from(rejected: Rejected) -> Self {
        Self::new(code_of(&rejected), rejected.to_string())
    }
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        let message = error.to_string();
        match error {
            ProposeError::Rejected(rejected) => rejected.into(),
            ProposeError::NoLeader | ProposeError::Stopped { .. } => Self::new(ErrorCode::Unavailable, message),
            ProposeError::Unknown => Self::new(ErrorCode::Unavailable, message).with_hint("look before you try again"),
            ProposeError::TooLarge { .. } => Self::new(ErrorCode::TooLarge, message),
            ProposeError::Encoding(_) => Self::new(ErrorCode::Internal, message),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::new(ErrorCode::Unavailable, error.to_string())
    }
}

impl From<IssueError> for Failure {
    fn from(error: IssueError) -> Self {
        let code = match &error {
            IssueError::Request(_) | IssueError::Name { .. } => ErrorCode::BadRequest,
            IssueError::Authority(_) | IssueError::Sign(_) => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<MeshError> for Failure {
    fn from(error: MeshError) -> Self {
        match error {
            MeshError::Refused { source, .. } => Self(*source),
            other => Self::new(ErrorCode::Upstream, other.to_string()),
        }
    }
}

impl From<ResolveImageError> for Failure {
    fn from(error: ResolveImageError) -> Self {
        Self::new(ErrorCode::Unprocessable, error.to_string())
            .with_hint("check the name and `stack registry`, or load it on a host with `stack image load`")
    }
}
