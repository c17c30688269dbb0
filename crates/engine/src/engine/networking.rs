//! Containers that join networks and leave them, running or not.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Engine, locked};
use crate::container::{ContainerId, ContainerState, NetworkMode, RecordError, Shim, guest_names, name_client};
use crate::crash_point::crash_point;
use crate::dns::ServeError;
use crate::network::{AttachError, BetweenHosts, Failures, NetworkEndpoint, PlaceError, USUAL_NETWORK};

/// Why a container cannot join a network or leave it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no such container.
    #[error("No such container: {id}")]
    Missing {
        /// Which.
        id: ContainerId,
    },
    /// It is being removed.
    #[error("container {id} is marked for removal and cannot be connected or disconnected to the network")]
    Removing {
        /// Which.
        id: ContainerId,
    },
    /// It uses the host's network.
    #[error("container cannot be disconnected from host network or connected to host network")]
    Host,
    /// It has no network, and shall have none.
    #[error("container cannot be connected to multiple networks with one of the networks in private (none) mode")]
    Private,
    /// It is in another container's network.
    #[error(
        "container sharing network namespace with another container or host cannot be connected to any other network"
    )]
    Shared,
    /// It is on that network.
    #[error("endpoint with name {name} already exists in network {network}")]
    Connected {
        /// The container's name.
        name: String,
        /// The network.
        network: String,
    },
    /// It is not on that network.
    #[error("container {id} is not connected to network {network}")]
    NotConnected {
        /// The container.
        id: ContainerId,
        /// The network.
        network: String,
    },
    /// A network between hosts.
    #[error(transparent)]
    Between(#[from] PlaceError),
    /// The network refused.
    #[error(transparent)]
    Network(#[from] AttachError),
    /// Something of it is left.
    #[error(transparent)]
    Left(#[from] Failures),
    /// Its record could not be written.
    #[error("container {id} could not be connected or disconnected")]
    Record {
        /// Which.
        id: ContainerId,
        /// Why.
        source: RecordError,
    },
    /// Its name server.
    #[error(transparent)]
    Names(#[from] ServeError),
    /// Something of this host.
    #[error("container {id}: could not {what}")]
    System {
        /// Which.
        id: ContainerId,
        /// What was being done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Engine {
    /// Puts a container onto a network, from now on and, where it runs, at once.
    ///
    /// # Errors
    /// Why it cannot be; the container is then on the networks that it was on.
    pub async fn connect(&self, id: &ContainerId, endpoint: NetworkEndpoint) -> Result<(), ConnectError> {
        let (engine, task_id) = (self.clone(), id.clone());
        // On a task of its own: a caller that goes away must not leave it half done.
        tokio::spawn(async move { engine.connect_now(&task_id, endpoint).await })
            .await
            .unwrap_or_else(|error| Err(interrupted(id, error)))
    }

    async fn connect_now(&self, id: &ContainerId, endpoint: NetworkEndpoint) -> Result<(), ConnectError> {
        let slot = self.slot(id).ok_or_else(|| ConnectError::Missing { id: id.clone() })?;
        let _turn = slot.turn.lock().await;
        let before = slot.record();
        check(id, &before.config.network_mode, &slot.current())?;
        if before.config.networks.iter().any(|network| network.name == endpoint.name) {
            let name = before.config.name.clone().unwrap_or_else(|| id.to_string());
            return Err(ConnectError::Connected { name, network: endpoint.name });
        }
        let mut record = (*before).clone();
        record.config.networks.push(endpoint.clone());
        let failed = |source| ConnectError::Record { id: id.clone(), source };
        // A crash from here on leaves a container that has the network when it starts the next time.
        self.save(&record).await.map_err(failed)?;
        crash_point!("connect.recorded");
        if let Some(netns) = self.namespace(id, &slot.current())? {
            let joined = self.join(&record, &netns, &endpoint).await;
            if let Err(error) = joined {
                if endpoint.between_hosts {
                    if let Err(left) = self.inner.launcher.leave_between(id, &endpoint.name).await {
                        tracing::warn!(container = %id, %left, "an attempt to connect it left something behind");
                    }
                } else if let Err(left) = self.networks().disconnect(id.as_str(), Some(&netns), &endpoint.name).await {
                    tracing::warn!(container = %id, %left, "an attempt to connect it left something behind");
                }
                self.save(&before).await.map_err(failed)?;
                return Err(error);
            }
            crash_point!("connect.joined");
            self.tell_network(&endpoint.name, endpoint.between_hosts, id, true);
        }
        locked(&slot.data).record = Arc::new(record);
        Ok(())
    }

    async fn join(
        &self,
        record: &crate::container::Record,
        netns: &File,
        endpoint: &NetworkEndpoint,
    ) -> Result<(), ConnectError> {
        let id = &record.id;
        let launcher = &self.inner.launcher;
        let addresses: Vec<IpAddr> = if endpoint.between_hosts {
            launcher.join_between(record, netns, endpoint).await?
        } else {
            launcher.networks.connect(id.as_str(), netns, endpoint).await?.addresses().collect()
        };
        crash_point!("connect.linked");
        let mut newly_served = false;
        if let Some(client) = name_client(&record.config)
            && !launcher.names.update(id.as_str(), client.clone())
        {
            let mut shim = Shim::connect(&launcher.run_directory(id)).await.map_err(|source| ConnectError::System {
                id: id.clone(),
                what: "reach its shim",
                source,
            })?;
            launcher.serve_names(id, netns, client, &mut shim).await?;
            newly_served = true;
        }
        launcher.fill_joined(record, &addresses, newly_served).map_err(|source| ConnectError::System {
            id: id.clone(),
            what: "write its network files",
            source,
        })
    }

    /// Takes a container off a network, from now on and, where it runs, at once.
    ///
    /// # Errors
    /// Why it cannot be, or everything of it that is left.
    pub async fn disconnect(&self, id: &ContainerId, network: &str) -> Result<(), ConnectError> {
        let (engine, task_id, network) = (self.clone(), id.clone(), network.to_owned());
        tokio::spawn(async move { engine.disconnect_now(&task_id, &network).await })
            .await
            .unwrap_or_else(|error| Err(interrupted(id, error)))
    }

    async fn disconnect_now(&self, id: &ContainerId, network: &str) -> Result<(), ConnectError> {
        let slot = self.slot(id).ok_or_else(|| ConnectError::Missing { id: id.clone() })?;
        let _turn = slot.turn.lock().await;
        let mut record = (*slot.record()).clone();
        let not_connected = || ConnectError::NotConnected { id: id.clone(), network: network.to_owned() };
        match (&record.config.network_mode, network) {
            (NetworkMode::Host, "host") => return Err(ConnectError::Host),
            (NetworkMode::Networks, _) => {}
            (NetworkMode::Host | NetworkMode::None | NetworkMode::Container(_), _) => return Err(not_connected()),
        }
        let between = record.config.networks.iter().any(|endpoint| endpoint.name == network && endpoint.between_hosts);
        let count = record.config.networks.len();
        record.config.networks.retain(|endpoint| endpoint.name != network);
        if record.config.networks.len() == count {
            return Err(not_connected());
        }
        self.save(&record).await.map_err(|source| ConnectError::Record { id: id.clone(), source })?;
        locked(&slot.data).record = Arc::new(record.clone());
        crash_point!("disconnect.recorded");
        let Some(netns) = self.namespace(id, &slot.current())? else { return Ok(()) };
        let launcher = &self.inner.launcher;
        let attached = launcher.networks.attachment(id.as_str()).unwrap_or_default();
        let gone = attached.endpoints.iter().find(|endpoint| endpoint.network == network).cloned();
        let gone: Option<Vec<IpAddr>> = if between {
            Some(launcher.leave_between(id, network).await?)
        } else {
            launcher.networks.disconnect(id.as_str(), Some(&netns), network).await?;
            gone.map(|endpoint| endpoint.addresses().collect())
        };
        crash_point!("disconnect.left");
        // One that is on no network with names any more keeps its server, which then knows none.
        launcher.names.update(id.as_str(), name_client(&record.config).unwrap_or_default());
        let Some(gone) = gone else { return Ok(()) };
        self.tell_network(network, between, id, false);
        launcher.forget_addresses(id, &gone).map_err(|source| ConnectError::System {
            id: id.clone(),
            what: "write its network files",
            source,
        })
    }

    /// Completes what a crash left half-way: a container that runs is on the networks of its record, and on no others.
    pub(super) async fn settle(&self, record: &crate::container::Record, pid: i32) -> Vec<String> {
        let config = &record.config;
        if config.network_mode != NetworkMode::Networks || !config.overlays.is_empty() {
            return Vec::new();
        }
        let Ok(netns) = File::open(format!("/proc/{pid}/ns/net")) else { return Vec::new() };
        let (id, networks) = (record.id.as_str(), self.networks());
        let mut failures = Vec::new();
        // Records of older engines have no names, and a crash may have come in the middle of a renaming.
        let renamed = networks.rename(id, config.name.as_deref().unwrap_or(id));
        failures.extend(renamed.err().map(|error| crate::container::text_of(&error)));
        let between_alone = config.networks.iter().all(|endpoint| endpoint.between_hosts);
        let wanted = |name: &str| {
            // By it the ports of a container are published that is on networks between hosts alone.
            config.networks.iter().any(|endpoint| endpoint.name == name) || (between_alone && name == USUAL_NETWORK)
        };
        let mut gone = match networks.without_links(id, &netns).await {
            Ok(names) => names,
            Err(error) => {
                failures.push(crate::container::text_of(&error));
                Vec::new()
            }
        };
        let attached = networks.attachment(id).unwrap_or_default().endpoints;
        gone.extend(attached.into_iter().map(|endpoint| endpoint.network).filter(|name| !wanted(name)));
        for name in gone {
            failures.extend(networks.disconnect(id, Some(&netns), &name).await.err().map(|error| error.to_string()));
        }
        let attached = networks.attachment(id).unwrap_or_default().endpoints;
        // Whoever gives addresses between hosts is not known yet when a daemon starts: what a crash left undone of those is done
        // when the container starts the next time.
        for endpoint in config.networks.iter().filter(|endpoint| !endpoint.between_hosts) {
            if attached.iter().all(|found| found.network != endpoint.name)
                && let Err(error) = self.join(record, &netns, endpoint).await
            {
                failures.push(crate::container::text_of(&error));
            }
        }
        let routed = networks.settle_route(id, &netns).await;
        failures.extend(routed.err().map(|error| crate::container::text_of(&error)));
        failures
    }

    /// From now on this host is a member of a cluster, and its containers can be on networks between hosts. Only the first
    /// call has an effect.
    pub fn set_between_hosts(&self, between: Arc<dyn BetweenHosts>) {
        let _ = self.inner.launcher.between.set(between);
    }

    /// The containers that run and are on networks between hosts, though they belong to no stack: each with its names and
    /// these networks.
    #[must_use]
    pub fn guests(&self) -> Vec<(String, Vec<String>, Vec<NetworkEndpoint>)> {
        let slots: Vec<Arc<super::Slot>> = locked(&self.inner.containers).values().cloned().collect();
        let mut guests = Vec::new();
        for slot in slots {
            let record = slot.record();
            let attached = self.networks().attachment(record.id.as_str()).unwrap_or_default();
            let endpoints = attached.between.iter().map(|endpoint| {
                let asked = record.config.networks.iter().find(|asked| asked.name == endpoint.network);
                NetworkEndpoint { name: endpoint.network.clone(), ..asked.cloned().unwrap_or_default() }
            });
            let endpoints: Vec<NetworkEndpoint> = endpoints.collect();
            if !endpoints.is_empty() {
                guests.push((record.id.to_string(), guest_names(&record), endpoints));
            }
        }
        guests
    }

    /// The cluster hears what a container is called now.
    pub(super) fn tell_guest_names(&self, id: &ContainerId, record: &crate::container::Record) {
        let attached = self.networks().attachment(id.as_str()).unwrap_or_default().between;
        let is_on = |endpoint: &&NetworkEndpoint| attached.iter().any(|found| found.network == endpoint.name);
        let endpoints: Vec<NetworkEndpoint> = record.config.networks.iter().filter(is_on).cloned().collect();
        if let Some(between) = self.inner.launcher.between.get()
            && !endpoints.is_empty()
        {
            between.rename(id.as_str(), &guest_names(record), &endpoints);
        }
    }

    /// The network namespace of a container that runs.
    fn namespace(&self, id: &ContainerId, state: &ContainerState) -> Result<Option<File>, ConnectError> {
        let ContainerState::Running { pid, .. } = state else { return Ok(None) };
        match File::open(format!("/proc/{pid}/ns/net")) {
            Ok(netns) => Ok(Some(netns)),
            // It has ended, and whoever supervises it is about to find that out.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ConnectError::System { id: id.clone(), what: "open its network namespace", source }),
        }
    }
}

fn check(id: &ContainerId, mode: &NetworkMode, state: &ContainerState) -> Result<(), ConnectError> {
    if *state == ContainerState::Removing {
        return Err(ConnectError::Removing { id: id.clone() });
    }
    match mode {
        NetworkMode::Networks => Ok(()),
        NetworkMode::Host => Err(ConnectError::Host),
        NetworkMode::None => Err(ConnectError::Private),
        NetworkMode::Container(_) => Err(ConnectError::Shared),
    }
}

fn interrupted(id: &ContainerId, error: tokio::task::JoinError) -> ConnectError {
    ConnectError::System { id: id.clone(), what: "complete the change", source: io::Error::other(error) }
}
