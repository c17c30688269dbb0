//! Hosts on one link, and the decided state that each host's value is made of: what a cluster's controllers would say.
#![expect(clippy::unwrap_used, reason = "only tests call these; what fails here fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nlink::netlink::addr::{Ipv4Address, Ipv6Address};
use nlink::netlink::link::{BridgeLink, VethLink};
use nlink::netlink::{Connection, Route};
use stack_engine::network::Protocol;
use stack_engine::overlay::{
    Ingress, Neighbour, Overlay, OverlayConfig, OverlayEndpoint, OverlayNetwork, Overlays, Reconciled, VirtualService,
    link_address,
};

use crate::machines::Machine;

/// One host.
pub struct Host {
    pub number: u8,
    pub machine: Machine,
    pub overlay: Overlay,
}

/// All hosts, the switch between them and what was decided.
pub struct Cluster {
    pub hosts: Vec<Host>,
    pub switch: Machine,
    pub networks: BTreeMap<String, Decided>,
    ipv6_underlay: bool,
}

/// What was decided of a network.
#[derive(Default, Clone)]
pub struct Decided {
    pub number: u8,
    pub internal: bool,
    pub ipv6: bool,
    pub without_ipv4: bool,
    /// Number of a task to its host.
    pub tasks: BTreeMap<u8, u8>,
    /// Number of a service to its tasks.
    pub services: BTreeMap<u8, BTreeSet<u8>>,
    /// Those services that keep a client with one task.
    pub sticky: BTreeSet<u8>,
    /// Published port to its service.
    pub published: BTreeMap<(Protocol, u16), u8>,
    /// Published ports that are on one address of the hosts alone.
    pub only_on: BTreeMap<u16, IpAddr>,
}

impl Decided {
    pub fn ipv4(&self, last: u8) -> IpAddr {
        Ipv4Addr::new(10, 77, self.number, last).into()
    }

    pub fn ipv6(&self, last: u8) -> IpAddr {
        Ipv6Addr::new(0xfd77, self.number.into(), 0, 0, 0, 0, 0, last.into()).into()
    }

    pub fn addresses(&self, last: u8) -> Vec<IpAddr> {
        let ipv4 = (!self.without_ipv4).then(|| self.ipv4(last));
        ipv4.into_iter().chain(self.ipv6.then(|| self.ipv6(last))).collect()
    }

    fn with_length(address: IpAddr) -> IpNet {
        match address {
            IpAddr::V4(address) => Ipv4Net::new_assert(address, 24).into(),
            IpAddr::V6(address) => Ipv6Net::new_assert(address, 64).into(),
        }
    }

    fn all(&self, tasks: impl IntoIterator<Item = u8>) -> Vec<IpAddr> {
        tasks.into_iter().flat_map(|task| self.addresses(task)).collect()
    }
}

/// A host's own address on a network.
pub const fn own(host: u8) -> u8 {
    200 + host
}

impl Cluster {
    pub fn new(count: u8) -> Self {
        Self::with_underlay(count, false)
    }

    pub fn with_underlay(count: u8, ipv6_underlay: bool) -> Self {
        let switch = Machine::new();
        let hosts: Vec<Host> = (1..=count).map(|number| host(number, &switch)).collect();
        Self { hosts, switch, networks: BTreeMap::new(), ipv6_underlay }
    }

    pub fn underlay(&self, host: u8) -> IpAddr {
        if self.ipv6_underlay { underlay_ipv6(host).into() } else { underlay_ipv4(host).into() }
    }

    pub fn host(&self, number: u8) -> &Host {
        self.hosts.iter().find(|host| host.number == number).unwrap()
    }

    /// A network on every host.
    pub fn network(&mut self, name: &str, number: u8, ipv6: bool) -> &mut Decided {
        self.networks.insert(name.to_owned(), Decided { number, ipv6, ..Decided::default() });
        self.networks.get_mut(name).unwrap()
    }

    /// What one host is told.
    pub fn value(&self, host: u8) -> Overlays {
        let networks = self.networks.iter().map(|(name, decided)| (name.clone(), self.told(host, name, decided)));
        Overlays { networks: networks.collect() }
    }

    fn told(&self, host: u8, name: &str, decided: &Decided) -> OverlayNetwork {
        let neighbour = |last, at| {
            let addresses = decided.addresses(last);
            let mac = link_address(addresses.iter().copied());
            let place = self.underlay(at);
            addresses.into_iter().map(move |address| Neighbour { address, mac, host: place })
        };
        let elsewhere = decided.tasks.iter().filter(|(_, at)| **at != host);
        let mut neighbours: Vec<Neighbour> = elsewhere.flat_map(|(task, at)| neighbour(*task, *at)).collect();
        let others = self.hosts.iter().map(|other| other.number).filter(|other| *other != host);
        neighbours.extend(others.flat_map(|other| neighbour(own(other), other)));
        OverlayNetwork {
            name: name.to_owned(),
            vni: 0x1000 + u32::from(decided.number),
            mtu: if self.ipv6_underlay { 1430 } else { 1450 },
            internal: decided.internal,
            encrypted: false,
            underlay: self.underlay(host),
            addresses: decided.addresses(own(host)).into_iter().map(Decided::with_length).collect(),
            neighbours,
            services: decided
                .services
                .iter()
                .map(|(service, backends)| VirtualService {
                    addresses: decided.addresses(*service),
                    backends: decided.all(backends.iter().copied()),
                    sticky: decided.sticky.contains(service),
                })
                .collect(),
            ingress: decided
                .published
                .iter()
                .map(|((protocol, port), service)| {
                    let tasks = &decided.services[service];
                    let here = |task: &u8| decided.tasks.get(task) == Some(&host);
                    Ingress {
                        host_ip: decided.only_on.get(port).copied(),
                        protocol: *protocol,
                        port: *port,
                        target: 80,
                        local: decided.all(tasks.iter().copied().filter(here)),
                        remote: decided.all(tasks.iter().copied().filter(|task| !here(task))),
                        sticky: false,
                        proxy_protocol: false,
                    }
                })
                .collect(),
        }
    }

    /// Tells every host, which must do it all.
    pub fn tell(&self) {
        std::thread::scope(|scope| {
            for host in &self.hosts {
                scope.spawn(|| self.tell_one(host.number));
            }
        });
    }

    pub fn tell_one(&self, number: u8) {
        let host = self.host(number);
        let value = self.value(number);
        host.machine.wait(|| host.overlay.set(value)).unwrap();
    }

    /// A machine on the hosts' link that is no host.
    pub fn outside(&self) -> Machine {
        host(OUTSIDE, &self.switch).machine
    }

    /// Its addresses, IPv4 first.
    pub fn outside_addresses(&self) -> [IpAddr; 2] {
        self.host_addresses(OUTSIDE)
    }

    /// The addresses of a host on the hosts' link, IPv4 first.
    pub fn host_addresses(&self, number: u8) -> [IpAddr; 2] {
        [underlay_ipv4(number).into(), underlay_ipv6(number).into()]
    }

    /// Ends what runs on a host and starts it anew; all that it made stays.
    pub fn restart(&mut self, number: u8) {
        let host = self.hosts.iter_mut().find(|host| host.number == number).unwrap();
        host.overlay = host.machine.run(|| Overlay::open(OverlayConfig::default()).unwrap());
    }

    /// Looks at one host and makes right what is not.
    pub fn reconcile(&self, number: u8) -> Reconciled {
        let host = self.host(number);
        host.machine.wait(|| host.overlay.reconcile()).unwrap()
    }

    /// Puts a task on another host, or on none, in what was decided.
    pub fn place(&mut self, network: &str, task: u8, host: Option<u8>) {
        let tasks = &mut self.networks.get_mut(network).unwrap().tasks;
        match host {
            Some(host) => tasks.insert(task, host),
            None => tasks.remove(&task),
        };
    }

    /// Sets which tasks of a service get new connections.
    pub fn serve(&mut self, network: &str, service: u8, tasks: &[u8]) {
        self.networks.get_mut(network).unwrap().services.insert(service, tasks.iter().copied().collect());
    }

    /// Takes a task off its networks and ends it.
    pub fn stop(&self, host: u8, task: u8, machine: Machine) {
        drop(machine);
        let host = self.host(host);
        let id = format!("task{task}");
        host.machine.wait(|| host.overlay.detach_all(&id)).unwrap();
    }

    pub fn endpoint(&self, network: &str, task: u8, interface: &str) -> OverlayEndpoint {
        let decided = &self.networks[network];
        let addresses = decided.addresses(task);
        let at = decided.tasks[&task];
        OverlayEndpoint {
            network: network.to_owned(),
            interface: interface.to_owned(),
            mac: link_address(addresses.iter().copied()),
            addresses: addresses.into_iter().map(Decided::with_length).collect(),
            gateways: if decided.internal || interface != "eth0" { Vec::new() } else { decided.addresses(own(at)) },
        }
    }

    /// Starts a task on its host: a namespace on its networks that serves its name on port 80.
    pub fn start(&self, networks: &[&str], task: u8) -> Machine {
        let machine = Machine::new();
        let host = self.host(self.networks[networks[0]].tasks[&task]);
        for (index, network) in networks.iter().enumerate() {
            let endpoint = self.endpoint(network, task, &format!("eth{index}"));
            let attach = || async { host.overlay.attach(&format!("task{task}"), &machine.netns, &endpoint).await };
            host.machine.wait(attach).unwrap();
        }
        machine.serve(&format!("task{task}"), 80);
        machine
    }

    /// Removes all that the hosts made, and sees that it is gone.
    pub fn remove(&self) {
        for host in &self.hosts {
            host.machine.wait(|| host.overlay.remove_all()).unwrap();
            assert_eq!(links(&host.machine), Vec::<String>::new());
            assert_eq!(host.machine.command("nft", &["list", "tables"]), "");
        }
    }
}

const OUTSIDE: u8 = 99;

pub fn underlay_ipv4(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, host)
}

pub fn underlay_ipv6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into())
}

fn host(number: u8, switch: &Machine) -> Host {
    let machine = Machine::new();
    let port = format!("host{number}");
    switch.wait(|| async {
        let connection = Connection::<Route>::new().unwrap();
        if connection.get_link_by_name("switch").await.unwrap().is_none() {
            connection.add_link(BridgeLink::new("switch").stp(false)).await.unwrap();
            connection.set_link_up("switch").await.unwrap();
        }
        let link = VethLink::new(port.as_str(), "up0").peer_netns_fd(&machine.netns);
        connection.add_link(link).await.unwrap();
        connection.set_link_master(port.as_str(), "switch").await.unwrap();
        connection.set_link_up(port.as_str()).await.unwrap();
        let inside = Connection::<Route>::new_in(machine.netns.as_fd()).unwrap();
        inside.set_link_up("lo").await.unwrap();
        let index = inside.get_link_by_name("up0").await.unwrap().unwrap().ifindex();
        inside.add_address(Ipv4Address::with_index(index, underlay_ipv4(number), 24)).await.unwrap();
        inside.add_address(Ipv6Address::with_index(index, underlay_ipv6(number), 64).nodad()).await.unwrap();
        inside.set_link_up("up0").await.unwrap();
    });
    let overlay = machine.run(|| Overlay::open(OverlayConfig::default()).unwrap());
    Host { number, machine, overlay }
}

/// The names of the links of a machine, its loopback and the one between hosts left out.
pub fn links(machine: &Machine) -> Vec<String> {
    machine.wait(|| async {
        let links = Connection::<Route>::new().unwrap().get_links().await.unwrap();
        let named = links.iter().filter_map(|link| link.name());
        named.filter(|name| !matches!(*name, "lo" | "up0")).map(str::to_owned).collect()
    })
}
