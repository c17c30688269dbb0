//! `/networks`.

use axum::Json;
use axum::extract::State;
use bollard_stubs::models::Network;

use super::images::only;
use crate::Daemon;
use crate::decode::Parameters;
use crate::encode::network as encode;
use crate::error::ApiError;

/// `GET /networks`.
pub async fn list(State(daemon): State<Daemon>, parameters: Parameters) -> Result<Json<Vec<Network>>, ApiError> {
    let filters = parameters.filters()?;
    only(&filters, &["name", "driver"])?;
    let known = daemon.engine.networks().list();
    let mut rows = encode::networks(known.iter().map(|status| &status.network));
    let any = |name: &str, word: &Option<String>, matches: fn(&str, &str) -> bool| {
        let values = filters.values(name);
        values.is_empty() || values.iter().any(|value| matches(word.as_deref().unwrap_or_default(), value))
    };
    rows.retain(|row| {
        any("name", &row.name, |word, value| word.contains(value))
            && any("driver", &row.driver, |word, value| word == value)
    });
    Ok(Json(rows))
}
