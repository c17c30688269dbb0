//! `/networks`.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use bollard_stubs::models::{
    NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse, NetworkDisconnectRequest, NetworkInspect,
    NetworkPruneResponse,
};
use serde::de::DeserializeOwned;
use stack_engine::events::Pruned;
use stack_engine::network::{NetworkEndpoint, NetworkError, NetworkSettings, NetworkStatus};

use super::Name;
use super::exec::bytes;
use super::images::{only, switch};
use crate::cluster::{ClusterNetwork, Part};
use crate::decode::create::{endpoint, endpoint_between};
use crate::decode::network::{NewNetwork, PREDEFINED, decode};
use crate::decode::{Filters, Parameters};
use crate::encode::network as encode;
use crate::error::ApiError;
use crate::{Daemon, select};

/// A body that must be there.
async fn body<T: DeserializeOwned>(request: &mut Request) -> Result<T, ApiError> {
    serde_json::from_slice(&bytes(request).await?).map_err(|error| ApiError::Body { problem: error.to_string() })
}

/// A network with the documents of all, as the rules of names and ids find it.
struct Found {
    document: NetworkInspect,
    status: Option<NetworkStatus>,
    between: Option<ClusterNetwork>,
    /// It is settings that networks are made from.
    is_template: bool,
}

impl Daemon {
    /// The networks between hosts. Where the cluster cannot be asked there are none: what is of this host is shown all the same.
    pub(super) async fn networks_between_hosts(&self) -> Vec<ClusterNetwork> {
        if self.cluster.part().await == Part::None {
            return Vec::new();
        }
        self.cluster.networks().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the networks between hosts are not known now");
            Vec::new()
        })
    }

    /// A change of the cluster is only made where the cluster is decided on.
    async fn as_controller(&self) -> Result<(), ApiError> {
        match self.cluster.part().await {
            Part::None => Err(ApiError::NoManager),
            Part::Worker => Err(ApiError::WorkerNode),
            Part::Controller => Ok(()),
        }
    }

    async fn networks(&self, with_containers: bool) -> Vec<Found> {
        let known = self.engine.networks().list();
        let containers = if with_containers { self.engine.list() } else { Vec::new() };
        let documents = encode::networks(&known, &containers);
        let status = |name: Option<&str>| known.iter().find(|status| Some(status.network.name.as_str()) == name);
        documents
            .into_iter()
            .map(|document| Found {
                status: status(document.name.as_deref()).cloned(),
                document,
                between: None,
                is_template: false,
            })
            .chain(self.engine.networks().templates().into_iter().map(|template| Found {
                document: encode::template(&template),
                status: None,
                between: None,
                is_template: true,
            }))
            .chain(self.networks_between_hosts().await.into_iter().map(|network| Found {
                document: encode::between(&network, &containers, |id| {
                    self.engine.networks().attachment(id).unwrap_or_default()
                }),
                status: None,
                between: Some(network),
                is_template: false,
            }))
            .collect()
    }

    /// By id, then by name, then by how its id begins; only of this scope where there is one. Of two networks of one name that of
    /// this host comes first: what a stack makes takes no name away from who works on the host.
    async fn network(&self, wanted: &str, with_containers: bool, scope: Option<&str>) -> Result<Found, ApiError> {
        let mut all = self.networks(with_containers).await;
        all.retain(|found| scope.is_none_or(|scope| found.document.scope.as_deref() == Some(scope)));
        let id = |found: &Found| found.document.id.clone().unwrap_or_default();
        let position = |matches: &dyn Fn(&Found) -> bool| all.iter().position(matches);
        let exact = position(&|found| id(found) == wanted)
            .or_else(|| position(&|found| found.document.name.as_deref() == Some(wanted)));
        let index = match exact {
            Some(index) => index,
            None => {
                let begun: Vec<usize> = (0..all.len())
                    .filter(|&index| {
                        !wanted.is_empty() && all.get(index).is_some_and(|found| id(found).starts_with(wanted))
                    })
                    .collect();
                match begun.as_slice() {
                    [index] => *index,
                    [] => return Err(ApiError::NoSuchNetwork { name: wanted.chars().take(200).collect() }),
                    _ => return Err(ApiError::AmbiguousNetwork { prefix: wanted.to_owned(), count: begun.len() }),
                }
            }
        };
        Ok(all.swap_remove(index))
    }
}

fn wants(filters: &Filters, found: &Found, dangling: Option<bool>) -> bool {
    let document = &found.document;
    let any = |name: &str, matches: &dyn Fn(&str) -> bool| {
        let values = filters.values(name);
        values.is_empty() || values.iter().any(|value| matches(value))
    };
    let name = document.name.as_deref().unwrap_or_default();
    let is_custom = !PREDEFINED.contains(&name);
    let labels = document.labels.as_ref();
    any("name", &|wanted| name.contains(wanted))
        && any("id", &|wanted| document.id.as_deref().unwrap_or_default().contains(wanted))
        && any("driver", &|wanted| document.driver.as_deref() == Some(wanted))
        && any("scope", &|wanted| document.scope.as_deref() == Some(wanted))
        && any("type", &|wanted| (wanted == "custom") == is_custom)
        && filters.match_labels(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
        && dangling
            .is_none_or(|wanted| wanted == (is_custom && document.containers.as_ref().is_none_or(|all| all.is_empty())))
}

/// `GET /networks`.
pub async fn list(State(daemon): State<Daemon>, parameters: Parameters) -> Result<Json<Vec<NetworkInspect>>, ApiError> {
    let filters = parameters.filters()?;
    only(&filters, &["name", "driver", "id", "label", "scope", "type", "dangling"])?;
    let dangling = switch(&filters, "dangling")?;
    if let Some(wrong) = filters.values("type").iter().find(|value| !["custom", "builtin"].contains(&value.as_str())) {
        return Err(crate::decode::DecodeError::FilterValue { name: "type", value: wrong.clone() }.into());
    }
    let mut rows = daemon.networks(true).await;
    rows.retain(|row| wants(&filters, row, dangling));
    // A list has no containers; they are asked for one by one.
    let plain = rows.into_iter().map(|row| NetworkInspect { containers: Some([].into()), ..row.document });
    Ok(Json(plain.collect()))
}

/// `GET /networks/{id}`.
pub async fn inspect(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<Json<NetworkInspect>, ApiError> {
    let scope = parameters.text("scope").filter(|scope| !scope.is_empty());
    Ok(Json(daemon.network(&name, true, scope).await?.document))
}

/// `POST /networks/create`.
pub async fn create(
    State(daemon): State<Daemon>,
    mut request: Request,
) -> Result<(StatusCode, Json<NetworkCreateResponse>), ApiError> {
    let kept = daemon.engine.networks().templates();
    let of = |name: &str| {
        let found = kept.iter().find(|template| template.name == name || template.id == name)?;
        Some(NetworkSettings { made_from: Some(found.name.clone()), ..found.settings.clone() })
    };
    let (name, settings) = match decode(body::<NetworkCreateRequest>(&mut request).await?, of)? {
        NewNetwork::Template(name, settings) => {
            let engine = daemon.engine.clone();
            let made = tokio::spawn(async move { engine.networks().make_template(&name, &settings).await });
            let id = made.await.map_err(|_| ApiError::Interrupted)??.id;
            return Ok((StatusCode::CREATED, Json(NetworkCreateResponse { id, warning: String::new() })));
        }
        NewNetwork::OfHost(name, settings) => (name, settings),
        NewNetwork::Between(network) => {
            daemon.as_controller().await?;
            let name = network.name.clone();
            if daemon.networks(false).await.iter().any(|found| found.document.name.as_ref() == Some(&name)) {
                return Err(NetworkError::Exists { name }.into());
            }
            daemon.cluster.make_network(network).await?;
            let id = encode::between_id(&name);
            return Ok((StatusCode::CREATED, Json(NetworkCreateResponse { id, warning: String::new() })));
        }
    };
    if daemon.networks_between_hosts().await.iter().any(|network| network.name == name) {
        return Err(NetworkError::Exists { name }.into());
    }
    let warning = match settings.driver.parent() {
        Some(parent) if settings.internal => {
            format!("The parent {parent} is not used: the containers of an internal network reach each other alone")
        }
        _ => String::new(),
    };
    let engine = daemon.engine.clone();
    // On a task of its own: a client that goes away must not leave it half done.
    let made = tokio::spawn(async move { engine.networks().make_network(&name, &settings).await });
    let network = made.await.map_err(|_| ApiError::Interrupted)??;
    Ok((StatusCode::CREATED, Json(NetworkCreateResponse { id: network.id, warning })))
}

/// `DELETE /networks/{id}`.
pub async fn remove(State(daemon): State<Daemon>, Name(name): Name) -> Result<StatusCode, ApiError> {
    let found = daemon.network(&name, true, None).await?;
    let name = found.document.name.unwrap_or_default();
    if PREDEFINED.contains(&name.as_str()) {
        return Err(ApiError::NetworkStays { name });
    }
    let users = found.document.containers.unwrap_or_default();
    if !users.is_empty() {
        let mut texts: Vec<String> = users
            .iter()
            .map(|(id, user)| {
                let short: String = id.chars().take(12).collect();
                format!("name:\"{}\" id:\"{short}\"", user.name.as_deref().unwrap_or_default())
            })
            .collect();
        texts.sort();
        return Err(ApiError::NetworkInUse { name, users: texts.join(", ") });
    }
    if found.is_template {
        daemon.engine.networks().remove_template(&name).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    if found.between.is_some() {
        daemon.as_controller().await?;
        daemon.cluster.remove_network(name).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let engine = daemon.engine.clone();
    let removed = tokio::spawn(async move { engine.networks().remove_network(&name).await });
    removed.await.map_err(|_| ApiError::Interrupted)??;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /networks/prune`.
pub async fn prune(
    State(daemon): State<Daemon>,
    parameters: Parameters,
) -> Result<Json<NetworkPruneResponse>, ApiError> {
    let filters = parameters.filters()?;
    only(&filters, &["label", "label!", "until"])?;
    let until = filters.until()?;
    let mut removed = Vec::new();
    for status in daemon.networks(false).await.into_iter().filter_map(|found| found.status) {
        let network = status.network;
        let label = |key: &str| network.settings.labels.get(key).map(String::as_str);
        let created = i64::try_from(network.created_at / 1000).unwrap_or(i64::MAX);
        let is_young = until.is_some_and(|until| created >= until);
        if PREDEFINED.contains(&network.name.as_str())
            || !status.containers.is_empty()
            || is_young
            || !filters.match_labels(label)
        {
            continue;
        }
        match daemon.engine.networks().remove_network(&network.name).await {
            Ok(()) => removed.push(network.name),
            // Somebody joined it meanwhile.
            Err(NetworkError::InUse { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for template in daemon.engine.networks().templates() {
        let label = |key: &str| template.settings.labels.get(key).map(String::as_str);
        let created = i64::try_from(template.created_at / 1000).unwrap_or(i64::MAX);
        if until.is_some_and(|until| created >= until) || !filters.match_labels(label) {
            continue;
        }
        match daemon.engine.networks().remove_template(&template.name).await {
            Ok(()) => removed.push(template.name),
            Err(NetworkError::TemplateInUse { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    daemon.engine.tell_pruned(Pruned::Networks, 0);
    Ok(Json(NetworkPruneResponse { networks_deleted: Some(removed) }))
}

/// `POST /networks/{id}/connect`.
pub async fn connect(
    State(daemon): State<Daemon>,
    Name(name): Name,
    mut request: Request,
) -> Result<StatusCode, ApiError> {
    let asked: NetworkConnectRequest = body(&mut request).await?;
    let found = daemon.network(&name, false, None).await?;
    let container = select::container(daemon.engine.list(), &asked.container)?;
    let network = found.document.name.unwrap_or_default();
    if found.is_template {
        return Err(ApiError::TemplateAlone { name: network });
    }
    let settings = asked.endpoint_config.unwrap_or_default();
    let wanted = match network.as_str() {
        "host" => return Err(stack_engine::ConnectError::Host.into()),
        "none" => return Err(stack_engine::ConnectError::Private.into()),
        _ => match &found.between {
            Some(between) => endpoint_between(&network, &settings, between.attachable)?,
            None => endpoint(&network, &settings, found.status.as_ref().map(|status| &status.network))?,
        },
    };
    daemon.engine.connect(&container.id, wanted).await?;
    Ok(StatusCode::OK)
}

/// `POST /networks/{id}/disconnect`.
pub async fn disconnect(
    State(daemon): State<Daemon>,
    Name(name): Name,
    mut request: Request,
) -> Result<StatusCode, ApiError> {
    let asked: NetworkDisconnectRequest = body(&mut request).await?;
    let found = daemon.network(&name, false, None).await?;
    let container = match select::container(daemon.engine.list(), &asked.container) {
        Ok(container) => container,
        // What is not there is not on the network, which is all that force asks for.
        Err(ApiError::NoSuchContainer { .. }) if asked.force.unwrap_or(false) => return Ok(StatusCode::OK),
        Err(error) => return Err(error),
    };
    let network = found.document.name.unwrap_or_default();
    // It may be on the other network of this name.
    let is_on =
        |endpoint: &NetworkEndpoint| endpoint.name == network && endpoint.between_hosts == found.between.is_some();
    let on_other = container.config.networks.iter().any(|endpoint| endpoint.name == network && !is_on(endpoint));
    if on_other {
        return Err(stack_engine::ConnectError::NotConnected { id: container.id, network }.into());
    }
    daemon.engine.disconnect(&container.id, &network).await?;
    Ok(StatusCode::OK)
}
