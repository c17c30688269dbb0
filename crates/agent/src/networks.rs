//! What the host is told of its networks, what of it is in force, and the loop that brings the two together.
//!
//! The assignment says which networks there are and where this host is on each; the documents say who else is there. Both
//! are kept: a host that hears no controller goes on with what it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stack_engine::encryption::OwnKey;
use stack_model::{AssignedNetwork, NetworkDocument, NodeId, TaskId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::host::{Host, StepFailure};

/// What somebody else changed on the host is put right after this time, and what failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// What the host is told of its networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNetworks {
    /// By full name, from the assignment.
    #[serde(default)]
    pub assigned: BTreeMap<String, AssignedNetwork>,
    /// By full name, from the leader.
    #[serde(default)]
    pub documents: BTreeMap<String, NetworkDocument>,
    /// The tasks of this host that serve, as the host itself sees it: sooner than the documents say it, and also while no
    /// controller is heard.
    #[serde(skip)]
    pub ready: BTreeSet<TaskId>,
    /// Whether [`HostNetworks::ready`] was ever looked at in this life.
    #[serde(skip)]
    pub observed: bool,
    /// Of the state that the documents were read from; 0 for those of an earlier life.
    #[serde(skip)]
    pub revision: u64,
    /// The host's keys for encrypted networks: the first is sent with. Kept by themselves.
    #[serde(skip)]
    pub keys: Vec<OwnKey>,
}

impl HostNetworks {
    /// Where the host is between hosts, as its documents say it.
    #[must_use]
    pub fn underlay(&self, node: NodeId) -> Option<IpAddr> {
        self.documents.values().find_map(|document| document.hosts.get(&node)).map(|host| host.underlay)
    }

    /// The network as this host is on it, with everybody there; `None` where one of the two is not known, or they speak of
    /// different networks of that name.
    #[must_use]
    pub fn whole(&self, name: &str) -> Option<(&AssignedNetwork, &NetworkDocument)> {
        let assigned = self.assigned.get(name)?;
        let document = self.documents.get(name)?;
        (assigned.id == document.id).then_some((assigned, document))
    }
}

/// What of it the host does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InForce {
    /// The ids of the networks that are as they should be, with everybody there, by full name.
    pub networks: BTreeMap<String, u64>,
    /// The generations of the documents that are done, by full name.
    pub generations: BTreeMap<String, u64>,
    /// Everything that was said as of this revision is done.
    pub revision: u64,
    /// Why not everything is.
    pub failure: Option<StepFailure>,
}

/// Shared by the session that hears, the loop that does, and the steps that wait.
#[derive(Debug, Clone)]
pub struct Networks {
    wanted: watch::Sender<HostNetworks>,
    in_force: watch::Sender<InForce>,
}

impl Networks {
    /// Begins with what was known before.
    #[must_use]
    pub fn new(known: HostNetworks) -> Self {
        Self { wanted: watch::Sender::new(known), in_force: watch::Sender::new(InForce::default()) }
    }

    /// What the host is told now.
    #[must_use]
    pub fn wanted(&self) -> HostNetworks {
        self.wanted.borrow().clone()
    }

    /// A new assignment came.
    pub fn assign(&self, assigned: &BTreeMap<String, AssignedNetwork>) {
        self.wanted.send_if_modified(|wanted| {
            let is_news = wanted.assigned != *assigned;
            if is_news {
                wanted.assigned.clone_from(assigned);
            }
            is_news
        });
    }

    /// The host saw which of its tasks serve.
    pub fn observe(&self, ready: BTreeSet<TaskId>) {
        self.wanted.send_if_modified(|wanted| {
            let is_news = wanted.ready != ready || !wanted.observed;
            wanted.ready = ready;
            wanted.observed = true;
            is_news
        });
    }

    /// The host has other keys for encrypted networks.
    pub fn set_keys(&self, keys: Vec<OwnKey>) {
        self.wanted.send_if_modified(|wanted| {
            let is_news = wanted.keys != keys;
            wanted.keys = keys;
            is_news
        });
    }

    /// News of who is there came.
    pub fn hear(&self, networks: &BTreeMap<String, u64>, documents: Vec<NetworkDocument>, revision: u64) {
        self.wanted.send_modify(|wanted| {
            wanted.documents.retain(|name, _| networks.contains_key(name));
            wanted.documents.extend(documents.into_iter().map(|document| (document.name.clone(), document)));
            wanted.revision = revision;
        });
    }

    /// What the host does now, and how to hear when that changes.
    #[must_use]
    pub fn in_force(&self) -> watch::Receiver<InForce> {
        self.in_force.subscribe()
    }

    /// Waits until all these networks are as they should be.
    ///
    /// # Errors
    /// They are not, in that time: which, and why.
    pub async fn wait_for<'a>(
        &self,
        names: impl Iterator<Item = &'a String> + Clone + Send,
        longest: Duration,
    ) -> Result<(), StepFailure> {
        let is_there = |state: &InForce, name: &String| {
            let id = state.networks.get(name);
            id.is_some() && id == self.wanted.borrow().assigned.get(name).map(|network| &network.id)
        };
        let mut in_force = self.in_force.subscribe();
        let all_there = in_force.wait_for(|state| names.clone().all(|name| is_there(state, name)));
        if let Ok(Ok(_)) = tokio::time::timeout(longest, all_there).await {
            return Ok(());
        }
        let state = self.in_force.borrow().clone();
        let missing: Vec<String> =
            names.filter(|name| !is_there(&state, name)).map(|name| format!("`{name}`")).collect();
        let why = match state.failure {
            Some(failure) => failure.message,
            None => "no controller has said yet who is there".to_owned(),
        };
        let (noun, verb) = if missing.len() == 1 { ("network", "is") } else { ("networks", "are") };
        Err(StepFailure {
            message: format!("{noun} {} {verb} not ready on this host: {why}", missing.join(", ")),
            may_heal: true,
        })
    }

    /// Brings the host to what is wanted, again and again, until `stop`.
    pub async fn run<H: Host>(&self, host: Arc<H>, stop: CancellationToken) {
        let mut wanted = self.wanted.subscribe();
        // An agent that is just starting does not take its own tasks out of balancing because it has not looked at them yet.
        tokio::select! {
            () = stop.cancelled() => return,
            seen = wanted.wait_for(|wanted| wanted.observed) => if seen.is_err() { return },
        }
        loop {
            let target = wanted.borrow_and_update().clone();
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = host.apply_networks(&target) => outcome,
            };
            self.take_outcome(&target, outcome);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = wanted.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    fn take_outcome(&self, target: &HostNetworks, outcome: Result<(), StepFailure>) {
        self.in_force.send_if_modified(|state| {
            let next = match outcome {
                Ok(()) => InForce {
                    networks: target
                        .assigned
                        .keys()
                        .filter_map(|name| target.whole(name))
                        .map(|(assigned, document)| (document.name.clone(), assigned.id))
                        .collect(),
                    generations: target
                        .assigned
                        .keys()
                        .filter_map(|name| target.whole(name))
                        .map(|(_, document)| (document.name.clone(), document.generation))
                        .collect(),
                    revision: target.revision,
                    failure: None,
                },
                Err(failure) => {
                    if state.failure.as_ref() != Some(&failure) {
                        tracing::warn!("the host's networks are not as they should be: {failure}");
                    }
                    InForce { failure: Some(failure), ..state.clone() }
                }
            };
            if state.failure.is_some() && next.failure.is_none() {
                tracing::info!("the host's networks are as they should be again");
            }
            let is_news = *state != next;
            *state = next;
            is_news
        });
    }
}
