//! Where names are published and found: one plain snapshot that is replaced, never changed.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::client::Client;
use super::zone::{NetworkNames, Published, Zone};

/// Whose knowledge it is. Both are looked up, and what they say of a name is taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The networks and containers that this host's engine made.
    Host,
    /// The cluster's decided state.
    Cluster,
}

/// The names that are published on this host. What was published stays until it is replaced, whoever published it.
#[derive(Debug)]
pub struct Directory {
    published: RwLock<Arc<Published>>,
    changed: watch::Sender<()>,
}

impl Default for Directory {
    fn default() -> Self {
        Self { published: RwLock::default(), changed: watch::Sender::new(()) }
    }
}

impl Directory {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces everything in a layer. What is the same as before costs nothing.
    pub fn replace(&self, layer: Layer, networks: Vec<NetworkNames>) {
        self.change(layer, |before| {
            networks
                .iter()
                .map(|names| {
                    let same = before.get(&names.network).filter(|zone| zone.source() == names);
                    (names.network.clone(), same.map_or_else(|| Arc::new(Zone::new(names.clone())), Arc::clone))
                })
                .collect()
        });
    }

    /// Replaces one network's names in a layer.
    pub fn publish(&self, layer: Layer, names: NetworkNames) {
        let zone = Arc::new(Zone::new(names));
        self.change(layer, |before| {
            let mut after = before.clone();
            after.insert(zone.source().network.clone(), Arc::clone(&zone));
            after
        });
    }

    /// Forgets one network's names in a layer.
    pub fn withdraw(&self, layer: Layer, network: &str) {
        self.change(layer, |before| {
            let mut after = before.clone();
            after.remove(network);
            after
        });
    }

    /// What is published in a layer about a network.
    #[must_use]
    pub fn names(&self, layer: Layer, network: &str) -> Option<NetworkNames> {
        self.snapshot().layers[layer as usize].get(network).map(|zone| zone.source().clone())
    }

    fn change(&self, layer: Layer, change: impl FnOnce(&HashMap<String, Arc<Zone>>) -> HashMap<String, Arc<Zone>>) {
        let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
        let mut after = Published::clone(&published);
        let zones = &mut after.layers[layer as usize];
        *zones = change(zones);
        *published = Arc::new(after);
        drop(published);
        self.changed.send_replace(());
    }

    /// Waits until something is published about each of this container's networks.
    pub(crate) async fn wait_until_known(&self, client: &Client) {
        let mut changed = self.changed.subscribe();
        let is_known = |network: &String| self.snapshot().zones(client, network).next().is_some();
        while !client.networks.iter().all(is_known) {
            // The sender is ours.
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// What is published now.
    pub(crate) fn snapshot(&self) -> Arc<Published> {
        // A snapshot is replaced in one assignment, so a panic elsewhere leaves a whole one.
        Arc::clone(&self.published.read().unwrap_or_else(PoisonError::into_inner))
    }
}
