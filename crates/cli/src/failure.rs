//! How a command fails: a message, a hint, and a documented exit code.

pub use stack_api::error::full_text as chain;
use stack_api::{ClientError, ErrorCode};

/// The exit codes. They are a contract; the README lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// Refused or failed.
    Failed = 1,
    /// The command line is wrong (clap's own code).
    Usage = 2,
    /// The stack file has errors; nothing was changed.
    StackFile = 3,
    /// What was asked was taken, but did not come about: a task fails, or the time is over.
    NotConverged = 4,
    /// No controller, or no daemon, could be reached.
    Unreachable = 5,
    /// There is no such thing.
    NotFound = 6,
    /// `stack plan --exit-code`: a deploy would change something.
    WouldChange = 7,
}

/// A failed command.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// With which code the program ends.
    pub code: ExitCode,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with a message alone.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// With advice.
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let (code, hint) = match &error {
            ClientError::Refused(body) => {
                let code = match body.code {
                    ErrorCode::NotFound => ExitCode::NotFound,
                    ErrorCode::Unavailable | ErrorCode::NotLeader | ErrorCode::NotController => ExitCode::Unreachable,
                    ErrorCode::BadRequest
                    | ErrorCode::Unauthenticated
                    | ErrorCode::Forbidden
                    | ErrorCode::Conflict
                    | ErrorCode::TooLarge
                    | ErrorCode::Unprocessable
                    | ErrorCode::Internal
                    | ErrorCode::Upstream => ExitCode::Failed,
                };
                (code, body.hint.clone())
            }
            ClientError::Socket { .. } => (
                ExitCode::Unreachable,
                Some("is `stackd` running here? For another cluster, see `stack context --help`".to_owned()),
            ),
            ClientError::Unreachable { .. } => {
                (ExitCode::Unreachable, Some("`stack context ls` shows which cluster is addressed".to_owned()))
            }
            ClientError::Unexpected { .. } | ClientError::Identity { .. } => (ExitCode::Failed, None),
        };
        Self { code, message: chain(&error), hint }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(ExitCode::Failed, error.to_string())
    }
}
