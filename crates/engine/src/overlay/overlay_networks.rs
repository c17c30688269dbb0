//! The overlay networks of this host: what they should be, and the steps that make the kernel match it.
//!
//! Whoever changes something and whoever only looks run the same reconcile from the whole value. Nothing is kept on disk: the
//! networks come with each start from who decided them, and the containers from who runs them.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use nlink::netlink::{Connection, Route};

use super::containers::{Containers, Guest, Tables};
use super::difference::{Step, difference};
use super::errors::{OverlayFailure, OverlayFailures, OverlayOpenError, OverlaySetError, with_causes};
use super::kernel::{self, Links, Rules};
use super::names;
use super::relays::Relays;
use super::request::{OverlayConfig, OverlayEndpoint, OverlayNetwork, Overlays};
use super::rules::host_table;
use super::state::{KernelState, kernel_state, port_name};
use super::table::Table;
use crate::network::KernelError;
use crate::network::kernel::{close_firewalls, open_firewalls, open_in};

/// How often what somebody else changed is looked for. A look costs a few milliseconds.
const PERIOD: Duration = Duration::from_secs(2);

/// The overlay networks of this host.
#[derive(Debug)]
pub struct Overlay {
    pub(super) config: OverlayConfig,
    /// The host's network namespace.
    pub(super) host: File,
    relays: Relays,
    state: Mutex<State>,
    pub(super) tables: Tables,
    /// Held by whoever changes what is not of one container alone.
    work: tokio::sync::Mutex<Work>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// `None` until it is set: nothing is touched before.
    pub wanted: Option<Arc<Overlays>>,
    pub containers: Containers,
    /// All containers that were there before this process are known.
    adopted: bool,
    problems: Vec<String>,
}

/// What was done to the kernel.
#[derive(Debug, Default)]
struct Work {
    host_table: Option<HostTable>,
    /// Networks, and what they are with their relayed ports sent to the relays.
    arranged: Option<[Arc<Overlays>; 2]>,
}

#[derive(Debug)]
struct HostTable {
    table: Table,
    rules: Rules,
}

/// A container that was there before this process.
#[derive(Debug)]
pub struct OverlayContainer {
    /// Its id.
    pub id: String,
    /// Its network namespace, e.g. an open `/proc/PID/ns/net`.
    pub netns: File,
    /// Its interfaces on overlay networks.
    pub endpoints: Vec<OverlayEndpoint>,
}

/// What a reconcile had to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Requests for links and their entries.
    pub steps: usize,
    /// Tables of nftables that were changed.
    pub tables: usize,
}

/// Why the kernel is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// What it should have has changed: what must be done for that is done, and no more.
    Change,
    /// To see whether somebody else changed it.
    Look,
}

impl Overlay {
    /// The overlay networks of the network namespace of the calling thread. Nothing is asked of the kernel before
    /// [`Overlay::set`].
    ///
    /// # Errors
    /// When the configuration makes no sense, or the namespace cannot be opened.
    pub fn open(config: OverlayConfig) -> Result<Self, OverlayOpenError> {
        config.check()?;
        let host = File::open("/proc/thread-self/ns/net").map_err(OverlayOpenError::Namespace)?;
        let relays = Relays::new(host.try_clone().map_err(OverlayOpenError::Namespace)?);
        let (state, tables, work) = Default::default();
        Ok(Self { config, host, relays, state, tables, work })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is a single assignment or insertion, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of all containers with interfaces on overlay networks that were there before this process, once, before the
    /// networks are set. Nothing of theirs is touched; links of others are removed from then on.
    pub fn adopt(&self, containers: Vec<OverlayContainer>) {
        let mut state = self.lock();
        for OverlayContainer { id, netns, endpoints } in containers {
            state.containers.adopt(id, netns, endpoints);
        }
        state.adopted = true;
    }

    /// Sets what the networks are, and makes them so.
    ///
    /// # Errors
    /// When they make no sense: what was set before is still in force then. Or what could not be done: that is tried again
    /// with each reconcile, and the rest is done.
    pub async fn set(&self, overlays: Overlays) -> Result<Reconciled, OverlaySetError> {
        overlays.check()?;
        self.lock().wanted = Some(Arc::new(overlays));
        Ok(self.reconcile_for(Occasion::Change).await?)
    }

    /// The MTU of the host's interface with this address, in bytes; `None`: no interface has it.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn mtu_of(&self, address: IpAddr) -> Result<Option<u32>, KernelError> {
        kernel::mtu_of(&open_in(&self.host)?, address).await
    }

    /// What the host reaches otherwise than by its overlay networks.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn routes(&self) -> Result<Vec<IpNet>, KernelError> {
        kernel::other_routes(&open_in(&self.host)?, &self.config.prefix).await
    }

    /// What is not as it should be since the last reconcile, for a person.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.lock().problems.clone()
    }

    /// What the host's table should be, as `nft` shows it; empty without networks.
    #[must_use]
    pub fn host_table_text(&self) -> String {
        let wanted = self.lock().wanted.clone().unwrap_or_default();
        host_table(&self.config, &wanted).map(|table| table.to_string()).unwrap_or_default()
    }

    /// Reconciles every two seconds, for as long as it is polled.
    pub async fn keep(&self) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = Vec::new();
        loop {
            ticks.tick().await;
            match self.reconcile().await {
                Ok(done) if done != Reconciled::default() => {
                    tracing::info!(
                        done.steps,
                        done.tables,
                        "overlay networks were not as they should be, and are again"
                    );
                }
                // Each problem is told once.
                Err(error) if self.problems() != last => tracing::warn!("{error}"),
                Ok(_) | Err(_) => {}
            }
            last = self.problems();
        }
    }

    /// Makes the kernel match what the networks should be. Where it does, nothing is touched.
    ///
    /// # Errors
    /// What could not be done; the rest is.
    pub async fn reconcile(&self) -> Result<Reconciled, OverlayFailures> {
        self.reconcile_for(Occasion::Look).await
    }

    async fn reconcile_for(&self, occasion: Occasion) -> Result<Reconciled, OverlayFailures> {
        let mut work = self.work.lock().await;
        let mut failures = Vec::new();
        let done = self.reconcile_all(&mut work, occasion, &mut failures).await;
        self.lock().problems = failures.iter().map(with_causes).collect();
        if failures.is_empty() { Ok(done) } else { Err(OverlayFailures { failures }) }
    }

    async fn reconcile_all(
        &self,
        work: &mut Work,
        occasion: Occasion,
        failures: &mut Vec<OverlayFailure>,
    ) -> Reconciled {
        let mut done = Reconciled::default();
        let began = {
            let state = self.lock();
            if state.wanted.is_none() {
                return done;
            }
            state.containers.now()
        };
        let observed = match open_in(&self.host) {
            Ok(connection) => kernel::observe(&connection, &self.config.prefix).await.map(|found| (connection, found)),
            Err(error) => Err(error),
        };
        let (connection, (mut have, indexes)) = match observed {
            Ok(observed) => observed,
            Err(error) => {
                failures.push(error.into());
                return done;
            }
        };
        // Only now: of what was seen, nothing is unknown here.
        let (wanted, (guests, moving), adopted) = {
            let mut state = self.lock();
            (state.wanted.clone().unwrap_or_default(), state.containers.since(began), state.adopted)
        };
        let possible = self.possible(&connection, &wanted, &have, failures).await;
        let possible = self.arrange(work, possible, failures);
        // The rules stand before what they are for.
        match self.reconcile_host_table(work, &possible).await {
            Ok(changed) => done.tables += usize::from(changed),
            Err(error) => failures.push(error.into()),
        }
        // Whoever makes and removes interfaces meanwhile is left alone.
        for endpoint in &moving {
            if let Some(network) = possible.networks.get(&endpoint.network) {
                have.ports.remove(&port_name(&self.config, network, endpoint));
            }
        }
        let want = kernel_state(&self.config, &possible, guests.iter().flat_map(|guest| &guest.endpoints));
        let steps = difference(&have, &want, adopted);
        done.steps = steps.len();
        self.execute(&connection, &steps, &possible, &guests, indexes, failures).await;
        if !possible.networks.is_empty() {
            let bridges: Vec<String> = want.bridges.keys().cloned().collect();
            match open_firewalls(&self.config.table, &bridges, &bridges).await {
                Ok(warnings) => warnings.iter().for_each(|warning| tracing::debug!("{warning}")),
                Err(error) => failures.push(error.into()),
            }
        }
        done.tables += self.reconcile_containers(occasion, failures).await;
        done
    }

    /// The networks that can be made: those whose subnets the host does not reach otherwise.
    async fn possible(
        &self,
        connection: &Connection<Route>,
        wanted: &Arc<Overlays>,
        have: &KernelState,
        failures: &mut Vec<OverlayFailure>,
    ) -> Arc<Overlays> {
        let is_new =
            |network: &&OverlayNetwork| !have.bridges.contains_key(&names::bridge(&self.config.prefix, network.vni));
        if !wanted.networks.values().any(|network| is_new(&network)) {
            return Arc::clone(wanted);
        }
        let routes = match kernel::other_routes(connection, &self.config.prefix).await {
            Ok(routes) => routes,
            Err(error) => {
                failures.push(error.into());
                return Arc::clone(wanted);
            }
        };
        let mut refused = BTreeSet::new();
        for network in wanted.networks.values().filter(is_new) {
            for subnet in network.addresses.iter().map(IpNet::trunc) {
                let meets = |route: &&IpNet| route.contains(&subnet) || subnet.contains(*route);
                if let Some(&route) = routes.iter().find(meets) {
                    refused.insert(network.name.clone());
                    failures.push(OverlayFailure::SubnetTaken { network: network.name.clone(), subnet, route });
                }
            }
        }
        if refused.is_empty() {
            return Arc::clone(wanted);
        }
        let mut possible = Overlays::clone(wanted);
        possible.networks.retain(|name, _| !refused.contains(name));
        Arc::new(possible)
    }

    /// The networks with their relayed ports sent to the relays, which are started and ended.
    fn arrange(&self, work: &mut Work, wanted: Arc<Overlays>, failures: &mut Vec<OverlayFailure>) -> Arc<Overlays> {
        if let Some([of, arranged]) = &work.arranged
            && Arc::ptr_eq(of, &wanted)
        {
            return Arc::clone(arranged);
        }
        let before = failures.len();
        let arranged = Arc::new(self.relays.arrange(Overlays::clone(&wanted), failures));
        // What could not be started is tried again.
        work.arranged = (failures.len() == before).then(|| [wanted, Arc::clone(&arranged)]);
        arranged
    }

    async fn reconcile_host_table(&self, work: &mut Work, wanted: &Overlays) -> Result<bool, KernelError> {
        let present = work.host_table.take();
        let Some(table) = host_table(&self.config, wanted) else {
            // Also one that a process before this one left.
            Rules::open(&self.host)?.remove(&self.config.table).await?;
            return Ok(present.is_some());
        };
        let ipv6 = wanted.networks.values().any(OverlayNetwork::has_ipv6);
        kernel::pass_on(&self.host, ipv6)?;
        // Should anything fail, what the kernel has is not known.
        let (mut rules, mut known) = (None, None);
        if let Some(mut present) = present {
            if !present.rules.differs(&present.table).await? {
                if present.table == table {
                    work.host_table = Some(present);
                    return Ok(false);
                }
                known = Some(present.table);
            }
            rules = Some(present.rules);
        }
        let mut rules = match rules {
            Some(rules) => rules,
            None => Rules::open(&self.host)?,
        };
        rules.apply(known.as_ref(), &table).await?;
        // Others change tables of this namespace all the time.
        rules.learn(&table.name).await?;
        work.host_table = Some(HostTable { table, rules });
        Ok(true)
    }

    async fn execute(
        &self,
        connection: &Connection<Route>,
        steps: &[Step],
        wanted: &Overlays,
        guests: &[Guest],
        indexes: HashMap<String, u32>,
        failures: &mut Vec<OverlayFailure>,
    ) {
        if steps.is_empty() {
            return;
        }
        let lost: BTreeSet<&String> = steps
            .iter()
            .filter_map(|step| if let Step::MakePort { link } = step { Some(link) } else { None })
            .collect();
        for guest in guests.iter().filter(|_| !lost.is_empty()) {
            for endpoint in &guest.endpoints {
                let Some(network) = wanted.networks.get(&endpoint.network) else { continue };
                let link = port_name(&self.config, network, endpoint);
                if lost.contains(&link) {
                    let made = match open_in(&guest.netns) {
                        Ok(inside) => {
                            kernel::make_port(connection, &inside, &guest.netns, &link, endpoint, network.mtu).await
                        }
                        Err(error) => Err(error),
                    };
                    failures
                        .extend(made.err().map(|source| OverlayFailure::Container { id: guest.id.clone(), source }));
                }
            }
        }
        let resized = self.set_inner_mtus(steps, wanted, guests, failures).await;
        let mut links = Links::new(&self.host, connection, indexes);
        failures.extend(links.execute(&resized).await.into_iter().map(OverlayFailure::from));
    }

    /// Gives containers' own ends the MTU that the steps give the host's ends of their links. Answers the steps without those
    /// whose other end did not change: they are tried again.
    async fn set_inner_mtus(
        &self,
        steps: &[Step],
        wanted: &Overlays,
        guests: &[Guest],
        failures: &mut Vec<OverlayFailure>,
    ) -> Vec<Step> {
        let mut steps = steps.to_vec();
        let changed: BTreeSet<String> = steps
            .iter()
            .filter_map(|step| if let Step::SetMtu { link, .. } = step { Some(link.clone()) } else { None })
            .collect();
        for guest in guests.iter().filter(|_| !changed.is_empty()) {
            for endpoint in &guest.endpoints {
                let Some(network) = wanted.networks.get(&endpoint.network) else { continue };
                let port = port_name(&self.config, network, endpoint);
                if !changed.contains(&port) {
                    continue;
                }
                let set = kernel::set_inner_mtu(&guest.netns, &endpoint.interface, network.mtu).await;
                if let Err(source) = set {
                    steps.retain(|step| !matches!(step, Step::SetMtu { link, .. } if *link == port));
                    failures.push(OverlayFailure::Container { id: guest.id.clone(), source });
                }
            }
        }
        steps
    }

    async fn reconcile_containers(&self, occasion: Occasion, failures: &mut Vec<OverlayFailure>) -> usize {
        let gone = {
            let mut state = self.lock();
            let wanted = state.wanted.clone().unwrap_or_default();
            state.containers.gone(&wanted)
        };
        let mut changed = 0;
        for (id, gone) in gone {
            match self.reconcile_rules(&id, &gone, occasion).await {
                Ok(touched) => changed += usize::from(touched),
                Err(source) => failures.push(OverlayFailure::Container { id, source }),
            }
        }
        changed
    }

    /// Removes everything of the overlay networks from the kernel.
    ///
    /// # Errors
    /// What could not be removed.
    pub async fn remove_all(&self) -> Result<(), OverlayFailures> {
        let ids: Vec<String> = {
            let mut state = self.lock();
            state.adopted = true;
            state.containers.ids()
        };
        let mut failures = Vec::new();
        for id in ids {
            failures.extend(self.detach_all(&id).await.err().into_iter().flat_map(|more| more.failures));
        }
        self.lock().wanted = Some(Arc::default());
        failures.extend(self.reconcile().await.err().into_iter().flat_map(|more| more.failures));
        failures.extend(close_firewalls(&self.config.table).await.err().map(OverlayFailure::from));
        if failures.is_empty() { Ok(()) } else { Err(OverlayFailures { failures }) }
    }
}
