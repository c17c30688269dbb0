//! Which bridges a container is on, changed after it was made.

use std::sync::Arc;

use super::{Engine, locked};
use crate::container::{ConnectError, ContainerId, ContainerState, NetworkMode, Record};
use crate::network::NetworkEndpoint;

impl Engine {
    /// Puts a container that does not run on one more network, from its next start on.
    ///
    /// # Errors
    /// When it runs, is on it already, or has no networks of its own.
    pub async fn connect(&self, id: &ContainerId, endpoint: NetworkEndpoint) -> Result<(), ConnectError> {
        self.change_networks(id, |record| {
            if record.config.network_mode != NetworkMode::Networks {
                return Err(ConnectError::Mode { id: id.clone() });
            }
            if record.config.networks.iter().any(|other| other.name == endpoint.name) {
                return Err(ConnectError::Connected { id: id.clone(), network: endpoint.name.clone() });
            }
            record.config.networks.push(endpoint);
            Ok(())
        })
        .await
    }

    /// Takes a container that does not run off a network.
    ///
    /// # Errors
    /// When it runs or is not on it.
    pub async fn disconnect(&self, id: &ContainerId, network: &str) -> Result<(), ConnectError> {
        self.change_networks(id, |record| {
            let before = record.config.networks.len();
            record.config.networks.retain(|other| other.name != network);
            if record.config.networks.len() == before {
                return Err(ConnectError::NotConnected { id: id.clone(), network: network.to_owned() });
            }
            Ok(())
        })
        .await
    }

    async fn change_networks(
        &self,
        id: &ContainerId,
        change: impl FnOnce(&mut Record) -> Result<(), ConnectError>,
    ) -> Result<(), ConnectError> {
        let slot = self.slot(id).ok_or_else(|| ConnectError::Missing { id: id.clone() })?;
        let _turn = slot.turn.lock().await;
        match slot.current() {
            ContainerState::Created | ContainerState::Exited(_) => {}
            ContainerState::Running { .. } | ContainerState::Starting => {
                return Err(ConnectError::Running { id: id.clone() });
            }
            ContainerState::Removing => return Err(ConnectError::Missing { id: id.clone() }),
        }
        let mut record = (*slot.record()).clone();
        change(&mut record)?;
        self.save(&record).await.map_err(|source| ConnectError::Record { id: id.clone(), source })?;
        locked(&slot.data).record = Arc::new(record);
        Ok(())
    }

    /// The containers that are on a network, or will be when they start.
    #[must_use]
    pub fn users_of_network(&self, network: &str) -> Vec<ContainerId> {
        let containers = locked(&self.inner.containers);
        let records = containers.values().map(|slot| slot.record());
        let users = records.filter(|record| record.config.networks.iter().any(|other| other.name == network));
        users.map(|record| record.id.clone()).collect()
    }
}
