//! `/networks`: the bridges of this host.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use bollard_stubs::models::{Network, NetworkCreateResponse, NetworkPruneResponse};
use stack_engine::network::NetworkStatus;

use super::Name;
use super::exec::bytes;
use super::images::{only, switch};
use crate::Daemon;
use crate::decode::network::{NetworkRequestError, PREDEFINED, connection, creation, disconnection};
use crate::decode::{Filters, Parameters};
use crate::encode::network::{Inspected, inspect as encode, networks};
use crate::encode::text::{identifier, seconds};
use crate::error::ApiError;

/// What the network of containers that name none is called.
const USUAL: &str = "bridge";

impl Daemon {
    /// The bridge that a path means: by its name, its identifier, or how that begins.
    async fn network(&self, text: &str) -> Result<NetworkStatus, ApiError> {
        if text == USUAL {
            // It is made with the first container on it, and is there all the same.
            self.engine.networks().create_network(USUAL).await?;
        }
        let all = self.engine.networks().list();
        let id = |status: &NetworkStatus| identifier("network", &status.network.name);
        let exact = all.iter().find(|status| status.network.name == text || id(status) == text);
        let begun = || {
            let mut begun = all.iter().filter(|status| text.len() >= 4 && id(status).starts_with(text));
            begun.next().filter(|_| begun.next().is_none())
        };
        let found = exact.or_else(begun).cloned();
        found.ok_or_else(|| ApiError::NoSuchNetwork { name: text.chars().take(200).collect() })
    }

    fn is_network_used(&self, name: &str) -> bool {
        !self.engine.users_of_network(name).is_empty()
    }

    fn container_name(&self, id: &str) -> String {
        let found = id.parse().ok().and_then(|id| self.engine.inspect(&id));
        found.map_or_else(|| id.to_owned(), |container| container.name)
    }
}

/// `GET /networks`.
pub async fn list(State(daemon): State<Daemon>, parameters: Parameters) -> Result<Json<Vec<Network>>, ApiError> {
    let filters = parameters.filters()?;
    only(&filters, &["name", "id", "driver", "label", "label!", "scope", "type", "dangling"])?;
    let dangling = switch(&filters, "dangling")?;
    let known = daemon.engine.networks().list();
    let mut rows = networks(known.iter().map(|status| &status.network));
    rows.retain(|row| fits(&filters, row));
    rows.retain(|row| {
        let name = row.name.as_deref().unwrap_or_default();
        dangling.is_none_or(|wanted| wanted != (PREDEFINED.contains(&name) || daemon.is_network_used(name)))
    });
    Ok(Json(rows))
}

fn fits(filters: &Filters, row: &Network) -> bool {
    let any = |name: &str, matches: &dyn Fn(&str) -> bool| {
        let values = filters.values(name);
        values.is_empty() || values.iter().any(|value| matches(value))
    };
    let word = |word: &Option<String>| word.clone().unwrap_or_default();
    let builtin = PREDEFINED.contains(&word(&row.name).as_str());
    let labels = row.labels.clone().unwrap_or_default();
    any("name", &|value| word(&row.name).contains(value))
        && any("id", &|value| word(&row.id).starts_with(value))
        && any("driver", &|value| word(&row.driver) == value)
        && any("scope", &|value| word(&row.scope) == value)
        && any("type", &|value| (value == "builtin") == builtin)
        && filters.match_labels(|key| labels.get(key).map(String::as_str))
}

/// `GET /networks/{id}`.
pub async fn inspect(State(daemon): State<Daemon>, Name(name): Name) -> Result<Json<Inspected>, ApiError> {
    let builtin = networks(std::iter::empty()).into_iter();
    let mut builtin = builtin.filter(|row| row.name.as_deref() == Some(&name) || row.id.as_deref() == Some(&name));
    if let Some(row) = builtin.next() {
        return Ok(Json(row.into()));
    }
    let status = daemon.network(&name).await?;
    Ok(Json(encode(&status, |id| daemon.container_name(id))))
}

/// `POST /networks/create`.
pub async fn create(
    State(daemon): State<Daemon>,
    mut request: Request,
) -> Result<(StatusCode, Json<NetworkCreateResponse>), ApiError> {
    let (name, spec) = creation(&bytes(&mut request).await?)?;
    let network = daemon.engine.networks().make_network(&name, spec).await?;
    let id = identifier("network", &network.name);
    Ok((StatusCode::CREATED, Json(NetworkCreateResponse { id, warning: String::new() })))
}

/// `DELETE /networks/{id}`.
pub async fn remove(State(daemon): State<Daemon>, Name(name): Name) -> Result<StatusCode, ApiError> {
    if PREDEFINED.contains(&name.as_str()) {
        return Err(NetworkRequestError::Predefined { name }.into());
    }
    let status = daemon.network(&name).await?;
    let name = status.network.name;
    if status.containers.is_empty() {
        daemon.engine.networks().remove_network(&name).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(ApiError::NetworkInUse { id: identifier("network", &name), name })
}

/// `POST /networks/prune`: those that somebody made and no container is on, or will be when it starts.
pub async fn prune(
    State(daemon): State<Daemon>,
    parameters: Parameters,
) -> Result<Json<NetworkPruneResponse>, ApiError> {
    let filters = parameters.filters()?;
    only(&filters, &["label", "label!", "until"])?;
    let until = filters.until()?;
    let mut removed = Vec::new();
    for NetworkStatus { network, .. } in daemon.engine.networks().list() {
        let is_old = until.is_none_or(|until| seconds(network.created_at) < until);
        let labels = &network.spec.labels;
        let fits = filters.match_labels(|key| labels.get(key).map(String::as_str));
        if !network.made || daemon.is_network_used(&network.name) || !is_old || !fits {
            continue;
        }
        match daemon.engine.networks().remove_network(&network.name).await {
            Ok(()) => removed.push(network.name),
            // A container came meanwhile.
            Err(stack_engine::network::NetworkError::InUse { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Json(NetworkPruneResponse { networks_deleted: Some(removed) }))
}

/// `POST /networks/{id}/connect`.
pub async fn connect(
    State(daemon): State<Daemon>,
    Name(name): Name,
    mut request: Request,
) -> Result<StatusCode, ApiError> {
    let body = bytes(&mut request).await?;
    let status = daemon.network(&name).await?;
    let (container, endpoint) = connection(&body, &status.network.name)?;
    let container = daemon.container(&container)?;
    daemon.engine.connect(&container.id, endpoint).await?;
    Ok(StatusCode::OK)
}

/// `POST /networks/{id}/disconnect`.
pub async fn disconnect(
    State(daemon): State<Daemon>,
    Name(name): Name,
    mut request: Request,
) -> Result<StatusCode, ApiError> {
    let container = disconnection(&bytes(&mut request).await?)?;
    let status = daemon.network(&name).await?;
    let container = daemon.container(&container)?;
    daemon.engine.disconnect(&container.id, &status.network.name).await?;
    Ok(StatusCode::OK)
}
