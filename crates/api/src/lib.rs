//! The contract between `stack`, the controllers and the hosts: routes, bodies, the error body, a typed client and the
//! OpenAPI document. Both ends are built from this crate, so they cannot disagree.

pub mod bodies;
pub mod client;
pub mod error;
pub mod examination;
pub mod openapi;
pub mod routes;
pub mod session;
pub mod views;

pub use client::{Client, ClientError, Endpoint, Identity};
pub use error::{ErrorBody, ErrorCode};

/// The header that carries a request's id from the CLI to every hop: 8 to 64 characters of `0-9a-zA-Z-`.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// The port that `stackd` listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 4600;
