//! A thousand deploys, changes of scale and removals in an order drawn from a seed. After each one every host's kernel has
//! just what was decided, names mean the tasks that live, and virtual addresses and published ports answer from them, all of
//! them and no other.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::IpAddr;

use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng as _, SeedableRng as _};
use stack_engine::network::Protocol;
use stack_engine::overlay::Reconciled;

use crate::cluster::{Cluster, Decided};
use crate::machines::Machine;
use crate::names::Names;

const HOSTS: u8 = 3;
const NETWORKS: [&str; 3] = ["app", "shop", "mail"];
/// So many tasks can live at once. Each has a machine, which serves whatever network it is on.
const TASKS: u8 = 12;
const SERVICES: [u8; 2] = [100, 101];
const CYCLES: u64 = 1_000;
/// Whoever is one of up to twelve and is not met in so many random turns is not there: 12 · (11/12)^300 < 10^-10.
const TURNS: u32 = 300;

struct World {
    cluster: Cluster,
    outside: Machine,
    /// By the task's number.
    machines: BTreeMap<u8, Machine>,
    names: Names,
    random: StdRng,
}

/// The port that a service publishes.
fn port(network: &Decided, service: u8) -> u16 {
    9_000 + u16::from(network.number) * 10 + u16::from(service - SERVICES[0])
}

impl World {
    fn new(seed: u64) -> Self {
        let cluster = Cluster::new(HOSTS);
        let outside = cluster.outside();
        let machines = (1..=TASKS).map(|task| {
            let machine = Machine::new();
            machine.serve(&format!("task{task}"), 80);
            (task, machine)
        });
        let machines = machines.collect();
        Self { cluster, outside, machines, names: Names::new(HOSTS), random: StdRng::seed_from_u64(seed) }
    }

    fn free_task(&mut self) -> Option<u8> {
        let busy: BTreeSet<u8> =
            self.cluster.networks.values().flat_map(|network| network.tasks.keys().copied()).collect();
        (1..=TASKS).filter(|task| !busy.contains(task)).choose(&mut self.random)
    }

    /// Starts a task of a service on any host, and lets it serve.
    fn start(&mut self, network: &str, service: u8) {
        let Some(task) = self.free_task() else { return };
        let at = self.random.random_range(1..=HOSTS);
        self.cluster.place(network, task, Some(at));
        self.cluster.tell();
        let endpoint = self.cluster.endpoint(network, task, "eth0");
        let (host, machine) = (self.cluster.host(at), &self.machines[&task]);
        let id = format!("task{task}");
        host.machine.wait(|| host.overlay.attach(&id, &machine.netns, &endpoint)).unwrap();
        self.names.serve(at, &id, machine, network);
        let decided = self.cluster.networks.get_mut(network).unwrap();
        decided.services.get_mut(&service).unwrap().insert(task);
        self.cluster.tell();
    }

    /// Takes a task out of its service, and then away.
    fn stop(&mut self, network: &str, task: u8) {
        let decided = self.cluster.networks.get_mut(network).unwrap();
        for tasks in decided.services.values_mut() {
            tasks.remove(&task);
        }
        let at = decided.tasks[&task];
        self.cluster.tell();
        let host = self.cluster.host(at);
        let id = format!("task{task}");
        self.names.stop(at, &id);
        host.machine.wait(|| host.overlay.detach_all(&id)).unwrap();
        self.cluster.place(network, task, None);
        self.cluster.tell();
    }

    fn deploy(&mut self, network: &str) {
        let number = u8::try_from(NETWORKS.iter().position(|name| *name == network).unwrap()).unwrap() + 1;
        let (ipv6, published) = (self.random.random_bool(0.5), self.random.random_bool(0.7));
        let decided = self.cluster.network(network, number, ipv6);
        for service in SERVICES {
            decided.services.insert(service, BTreeSet::new());
            if published {
                let port = port(decided, service);
                decided.published.insert((Protocol::Tcp, port), service);
            }
        }
        for service in SERVICES {
            for _ in 0..self.random.random_range(0..=1) {
                self.start(network, service);
            }
        }
        self.cluster.tell();
    }

    fn scale(&mut self, network: &str) {
        let service = SERVICES.into_iter().choose(&mut self.random).unwrap();
        let present = self.cluster.networks[network].services[&service].clone();
        let wanted = self.random.random_range(present.len().saturating_sub(1)..=(present.len() + 1).min(4));
        for task in present.iter().skip(wanted) {
            self.stop(network, *task);
        }
        for _ in present.len()..wanted {
            self.start(network, service);
        }
    }

    /// A new task takes the place of an old one, as in an update.
    fn replace(&mut self, network: &str) {
        let services = self.cluster.networks[network].services.clone();
        let all = services.iter().flat_map(|(service, tasks)| tasks.iter().map(move |task| (*service, *task)));
        let Some((service, task)) = all.choose(&mut self.random) else { return };
        self.start(network, service);
        self.stop(network, task);
    }

    fn remove(&mut self, network: &str) {
        let tasks: Vec<u8> = self.cluster.networks[network].tasks.keys().copied().collect();
        for task in tasks {
            self.stop(network, task);
        }
        self.cluster.networks.remove(network);
        self.cluster.tell();
    }

    /// Does something on a network: which, and what.
    fn turn(&mut self) -> (&'static str, &'static str) {
        let network = NETWORKS.into_iter().choose(&mut self.random).unwrap();
        if !self.cluster.networks.contains_key(network) {
            self.deploy(network);
            return (network, "deploy");
        }
        let done = match self.random.random_range(0..10) {
            0 => {
                self.remove(network);
                "remove"
            }
            1..=4 => {
                self.replace(network);
                "replace a task"
            }
            _ => {
                self.scale(network);
                "scale"
            }
        };
        (network, done)
    }

    /// Everybody who answers there, which must be these.
    fn answers(&self, who: &Machine, address: IpAddr, port: u16, tasks: &BTreeSet<u8>, what: &str) {
        let wanted: BTreeSet<String> = tasks.iter().map(|task| format!("task{task}")).collect();
        let mut met = BTreeSet::new();
        for _ in 0..TURNS {
            match who.ask(address, port) {
                Ok((name, _)) => {
                    assert!(wanted.contains(&name), "{what}: {name} answers, and there is only {wanted:?}");
                    met.insert(name);
                }
                Err(error) => {
                    assert_eq!((error.kind(), wanted.len()), (ErrorKind::ConnectionRefused, 0), "{what}: {error}");
                    return;
                }
            }
            if met == wanted {
                return;
            }
        }
        panic!("{what}: only {met:?} of {wanted:?} answer");
    }

    /// The kernels of all hosts, and who answers on the network that was changed.
    fn check(&mut self, changed: &str, what: &str) {
        std::thread::scope(|scope| {
            for number in 1..=HOSTS {
                let cluster = &self.cluster;
                scope.spawn(move || {
                    // It looks at the kernel: what it would change is what differs.
                    assert_eq!(cluster.reconcile(number), Reconciled::default(), "{what}: host {number}");
                });
            }
        });
        self.names.tell(&self.cluster);
        if let Some(decided) = self.cluster.networks.get(changed) {
            let others: Vec<&str> = NETWORKS.into_iter().filter(|network| *network != changed).collect();
            self.names.check(changed, decided, &self.machines, &others, what);
        }
        let at = self.random.random_range(1..=HOSTS);
        let outside = self.cluster.host_addresses(at)[0];
        for (name, network) in self.cluster.networks.iter().filter(|(name, _)| *name == changed) {
            let client = network.tasks.keys().choose(&mut self.random);
            for (service, tasks) in &network.services {
                if let Some(client) = client {
                    for address in network.addresses(*service) {
                        let what = format!("{what}: {address} of {name} from task{client}");
                        self.answers(&self.machines[client], address, 80, tasks, &what);
                    }
                }
                let port = port(network, *service);
                let is_published = network.published.contains_key(&(Protocol::Tcp, port));
                // The host's own come first.
                let here = tasks.iter().copied().filter(|task| network.tasks[task] == at).collect::<BTreeSet<u8>>();
                let tasks = match (is_published, here.is_empty()) {
                    (false, _) => BTreeSet::new(),
                    (true, false) => here,
                    (true, true) => tasks.clone(),
                };
                self.answers(&self.outside, outside, port, &tasks, &format!("{what}: port {port} of host {at}"));
            }
        }
    }
}

fn given(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A thousand cycles in two halves, which run side by side.
fn cycles(half: u64) {
    let seed = given("STACK_TEST_SEED", half);
    let mut world = World::new(seed);
    for cycle in 1..=given("STACK_TEST_CYCLES", CYCLES / 2) {
        let (network, done) = world.turn();
        world.check(network, &format!("seed {seed}, cycle {cycle}, {done} {network}"));
    }
    for network in NETWORKS {
        if world.cluster.networks.contains_key(network) {
            world.remove(network);
        }
    }
    world.cluster.remove();
}

#[test]
fn after_each_of_five_hundred_cycles_every_host_has_what_was_decided_and_nothing_else() {
    cycles(1);
}

#[test]
fn after_each_of_five_hundred_other_cycles_too() {
    cycles(2);
}
