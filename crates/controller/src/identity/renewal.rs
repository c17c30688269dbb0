//! Renews a node's certificate between 50 and 80 % of its life, at a random moment, so that hosts that joined together do
//! not come together again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use stack_api::bodies::{CertificateRequest, CertificateResponse};
use stack_api::{Client, ClientError, Endpoint, routes};
use tokio_util::sync::CancellationToken;

use super::authority::{self, IssueError};
use super::credentials::{Credentials, CredentialsError};

/// A call to a controller has this long.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest time between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why a certificate was not renewed now.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// No new key.
    #[error("cannot make a key")]
    Key(#[from] IssueError),
    /// No controller did it.
    #[error("no controller renewed the certificate")]
    Client(#[from] ClientError),
    /// What came back cannot be used or kept.
    #[error("the renewed certificate cannot be used")]
    Credentials(#[from] CredentialsError),
}

/// When to renew a certificate that is valid in `from..until` (seconds since the Unix epoch), for a draw from 0 to 1.
#[must_use]
pub fn renew_at(from: i64, until: i64, draw: f64) -> i64 {
    #[allow(clippy::cast_precision_loss)] // seconds of a certificate's life are far below 2^52
    let life = until.saturating_sub(from).max(0) as f64;
    #[allow(clippy::cast_possible_truncation)] // at most 80 % of a difference of two i64
    let after = (life * (0.5 + 0.3 * draw.clamp(0.0, 1.0))) as i64;
    from.saturating_add(after)
}

/// Asks a controller for a new certificate, with a new key, keeps it and takes it into use.
///
/// # Errors
/// See [`RenewError`]; the present certificate stays in use then.
pub async fn renew(credentials: &Credentials, state_directory: &std::path::Path) -> Result<(), RenewError> {
    let identity = credentials.identity();
    let (key, certificate_request) = authority::new_key()?;
    let client = Client::new(Endpoint::Controllers(identity.controllers.clone()), Some(&identity.client_identity()))?;
    let request = CertificateRequest { name: None, certificate_request };
    let answer: CertificateResponse =
        client.call(routes::CERTIFICATE, &[], None::<&()>, Some(&request), TIMEOUT).await?;
    credentials.change(state_directory, |identity| {
        identity.certificate = answer.certificate;
        identity.key = key.to_string();
        identity.controllers = answer.controllers;
    })?;
    Ok(())
}

/// Renews this host's certificate again and again, until told to stop.
pub async fn keep_renewed(credentials: Arc<Credentials>, state_directory: PathBuf, stop: CancellationToken) {
    let mut pause = Duration::ZERO;
    // Drawn once: each node has its own point, and keeps it however often it looks.
    let draw: f64 = rand::rng().random();
    loop {
        let wait = match credentials.identity().validity() {
            Ok((from, until)) => {
                let due = renew_at(from, until, draw);
                let now = time::OffsetDateTime::now_utc().unix_timestamp();
                // A clock may be set: it is looked at again after an hour at most.
                Duration::from_secs(u64::try_from(due - now).unwrap_or(0).min(3600)).max(pause)
            }
            Err(error) => {
                tracing::error!(%error, "the node's certificate cannot be read, so it is not renewed");
                return;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        pause = match is_due(&credentials, draw) {
            false => Duration::ZERO,
            true => match renew(&credentials, &state_directory).await {
                Ok(()) => {
                    tracing::info!("the node's certificate was renewed");
                    Duration::ZERO
                }
                Err(error) => {
                    tracing::warn!(%error, "the node's certificate was not renewed: trying again");
                    (pause * 2).clamp(Duration::from_secs(1), LONGEST_PAUSE)
                }
            },
        };
    }
}

fn is_due(credentials: &Credentials, draw: f64) -> bool {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    credentials.identity().validity().is_ok_and(|(from, until)| now >= renew_at(from, until, draw))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn renewal_is_between_50_and_80_percent(from in 0i64..4_000_000_000, life in 0i64..1_000_000_000, draw in 0.0f64..1.0) {
            let at = renew_at(from, from + life, draw);
            prop_assert!(at >= from + life / 2 && at <= from + life * 8 / 10 + 1);
        }
    }
}
