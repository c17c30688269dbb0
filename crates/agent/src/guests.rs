//! The containers of this host that belong to no stack and are on networks between hosts: guests.
//!
//! What is wanted is one value, all of them. It is said to the leader whenever it changes, and again from time to time; the
//! answer says which addresses each has, or why it has none. Nothing of it is kept on disk: after a start the engine
//! says which containers run.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use ipnet::IpNet;
use stack_engine::network::{BetweenHosts, NetworkEndpoint, Place, PlaceError};
use stack_model::{GuestAnswer, GuestWishes, Wish};
use tokio::sync::watch;

use crate::networks::Networks;

/// So long the start of a container waits for the leader, and then for the host to be on the network.
const LONGEST: Duration = Duration::from_secs(15);

/// All guests of this host, as they shall be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Grows with every change.
    pub sequence: u64,
    /// By network and container.
    pub guests: GuestWishes,
    /// The engine has said which containers it has; before that nothing is said to the leader.
    pub is_known: bool,
}

/// What the leader said last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Answered {
    sequence: u64,
    guests: BTreeMap<String, BTreeMap<String, GuestAnswer>>,
}

/// Shared by the engine, which asks, and by the session, which has it from the leader.
#[derive(Debug, Clone)]
pub struct Guests {
    wanted: watch::Sender<Wanted>,
    answered: watch::Sender<Answered>,
    /// Why the leader does not answer, where it does not.
    trouble: Arc<Mutex<Option<String>>>,
    networks: Networks,
    patience: Duration,
}

impl Guests {
    /// Nobody yet.
    #[must_use]
    pub fn new(networks: Networks) -> Self {
        Self {
            wanted: watch::Sender::new(Wanted::default()),
            answered: watch::Sender::new(Answered::default()),
            trouble: Arc::default(),
            networks,
            patience: LONGEST,
        }
    }

    /// Those that run already, as the engine has them: each with its names and the networks that it is on.
    pub fn begin_with(&self, containers: impl IntoIterator<Item = (String, Vec<String>, Vec<NetworkEndpoint>)>) {
        self.wanted.send_modify(|wanted| {
            for (container, names, endpoints) in containers {
                insert(&mut wanted.guests, &container, &names, &endpoints);
            }
            wanted.sequence += 1;
            wanted.is_known = true;
        });
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Wanted> {
        self.wanted.subscribe()
    }

    /// The leader has answered to what was wanted then.
    pub(crate) fn hear(&self, sequence: u64, guests: BTreeMap<String, BTreeMap<String, GuestAnswer>>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.answered.send_replace(Answered { sequence, guests });
    }

    /// The leader could not be asked.
    pub(crate) fn fail(&self, reason: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    fn change(&self, change: impl FnOnce(&mut GuestWishes)) -> u64 {
        let mut sequence = 0;
        self.wanted.send_if_modified(|wanted| {
            let before = wanted.guests.clone();
            change(&mut wanted.guests);
            wanted.guests.retain(|_, containers| !containers.is_empty());
            let is_news = wanted.guests != before;
            if is_news {
                wanted.sequence += 1;
            }
            sequence = wanted.sequence;
            is_news
        });
        sequence
    }

    fn take_off(&self, container: &str, network: Option<&str>) {
        self.change(|guests| {
            for (name, containers) in guests.iter_mut() {
                if network.is_none_or(|network| network == name) {
                    containers.remove(container);
                }
            }
        });
    }

    async fn places(
        &self,
        container: &str,
        names: &[String],
        endpoints: &[NetworkEndpoint],
    ) -> Result<Vec<Place>, PlaceError> {
        let sequence = self.change(|guests| insert(guests, container, names, endpoints));
        let mut answered = self.answered.subscribe();
        let heard =
            tokio::time::timeout(self.patience, answered.wait_for(|answered| answered.sequence >= sequence)).await;
        let Ok(Ok(answered)) = heard.map(|heard| heard.map(|answered| answered.clone())) else {
            let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let why = trouble.unwrap_or_else(|| "no controller has answered yet".to_owned());
            return Err(PlaceError::new(format!("no address could be had of the cluster: {why}")));
        };
        let mut addresses = Vec::new();
        for endpoint in endpoints {
            match answered.guests.get(&endpoint.name).and_then(|containers| containers.get(container)) {
                Some(GuestAnswer::Addresses(found)) => addresses.push(found.clone()),
                Some(GuestAnswer::Refused(reason)) => return Err(PlaceError::new(reason.clone())),
                None => return Err(PlaceError::new(format!("network {} was left meanwhile", endpoint.name))),
            }
        }
        let there = self.networks.wait_for(endpoints.iter().map(|endpoint| &endpoint.name), self.patience).await;
        there.map_err(|failure| PlaceError::new(failure.message))?;
        let wanted = self.networks.wanted();
        let place = |(endpoint, addresses): (&NetworkEndpoint, Vec<IpAddr>)| {
            let network = wanted.assigned.get(&endpoint.name)?;
            let with_length = |address: &IpAddr| {
                let subnet = network.addresses.iter().find(|own| own.contains(address))?;
                IpNet::new(*address, subnet.prefix_len()).ok()
            };
            Some(Place {
                network: endpoint.name.clone(),
                addresses: addresses.iter().filter_map(with_length).collect(),
                gateways: network.addresses.iter().map(IpNet::addr).collect(),
                internal: network.internal,
            })
        };
        Ok(endpoints.iter().zip(addresses).filter_map(place).collect())
    }
}

/// A container as the cluster shall know it, on each of these networks.
fn insert(guests: &mut GuestWishes, container: &str, names: &[String], endpoints: &[NetworkEndpoint]) {
    for endpoint in endpoints {
        let mut all: Vec<String> = Vec::new();
        for name in names.iter().chain(&endpoint.aliases) {
            if !name.is_empty() && !all.contains(name) {
                all.push(name.clone());
            }
        }
        let wish = Wish { names: all, address: endpoint.address, address6: endpoint.address6 };
        guests.entry(endpoint.name.clone()).or_default().insert(container.to_owned(), wish);
    }
}

impl BetweenHosts for Guests {
    fn join<'a>(
        &'a self,
        container: &'a str,
        names: &'a [String],
        endpoints: &'a [NetworkEndpoint],
    ) -> BoxFuture<'a, Result<Vec<Place>, PlaceError>> {
        async move {
            let places = self.places(container, names, endpoints).await;
            if places.is_err() {
                for endpoint in endpoints {
                    self.take_off(container, Some(&endpoint.name));
                }
            }
            places
        }
        .boxed()
    }

    fn leave(&self, container: &str, network: Option<&str>) {
        self.take_off(container, network);
    }

    fn rename(&self, container: &str, names: &[String], endpoints: &[NetworkEndpoint]) {
        self.change(|guests| insert(guests, container, names, endpoints));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::HostNetworks;

    fn endpoint(name: &str) -> NetworkEndpoint {
        NetworkEndpoint { name: name.to_owned(), aliases: vec!["alias".to_owned()], ..NetworkEndpoint::default() }
    }

    #[tokio::test]
    async fn a_refusal_and_silence_leave_nothing_wanted() {
        let mut guests = Guests::new(Networks::new(HostNetworks::default()));
        guests.patience = Duration::from_millis(200);
        let mut wanted = guests.watch();
        assert!(!wanted.borrow().is_known);
        guests.begin_with([("running".to_owned(), vec!["old".to_owned()], vec![endpoint("shared")])]);
        let seen = wanted.borrow_and_update().clone();
        assert!(seen.is_known && seen.guests["shared"]["running"].names == ["old", "alias"]);

        let asking = guests.clone();
        let asked = tokio::spawn(async move {
            asking.join("new", &["new".to_owned(), "new".to_owned()], &[endpoint("shared")]).await
        });
        wanted.changed().await.unwrap();
        let seen = wanted.borrow_and_update().clone();
        assert_eq!(seen.guests["shared"]["new"].names, ["new", "alias"]);
        let refused = GuestAnswer::Refused("network shared not manually attachable".to_owned());
        let answer = BTreeMap::from([("shared".to_owned(), BTreeMap::from([("new".to_owned(), refused)]))]);
        guests.hear(seen.sequence, answer);
        let refusal = asked.await.unwrap().unwrap_err();
        assert_eq!(refusal.to_string(), "network shared not manually attachable");
        assert!(!guests.watch().borrow().guests["shared"].contains_key("new"));

        guests.fail("the leader is gone".to_owned());
        let refusal = guests.join("late", &[], &[endpoint("shared")]).await.unwrap_err();
        assert!(refusal.to_string().contains("the leader is gone"), "{refusal}");
        assert_eq!(guests.watch().borrow().guests["shared"].len(), 1);
        guests.leave("running", None);
        assert!(guests.watch().borrow().guests.is_empty());
    }
}
