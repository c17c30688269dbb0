//! The name servers of hosts, told what was decided, and what a container hears of them.
#![expect(clippy::unwrap_used, reason = "only tests call these; what fails here fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use ipnet::IpNet;
use stack_engine::dns::{
    Client, Directory, EndpointNames, Layer, Member, NAME_SERVER, NameServers, NameServersConfig, NetworkNames,
    ServiceNames, Upstream,
};

use crate::cluster::{Cluster, Decided};
use crate::machines::Machine;

/// One name server for each host.
pub struct Names {
    runtime: tokio::runtime::Runtime,
    hosts: BTreeMap<u8, NameServers>,
}

/// The name of a service within its stack, which is called as the network is.
pub fn name_of(service: u8) -> String {
    format!("service{service}")
}

fn names(network: &str, decided: &Decided) -> NetworkNames {
    let service_of =
        |task: &u8| decided.services.iter().find(|(_, tasks)| tasks.contains(task)).map(|(service, _)| *service);
    let endpoint = |task: &u8| EndpointNames {
        names: vec![format!("task{task}")],
        addresses: decided.addresses(*task),
        // One that is in no service any more is about to end.
        member: service_of(task).map(|service| Member {
            service: name_of(service),
            stack: Some(network.to_owned()),
            serving: true,
        }),
    };
    let service = |service: &u8| ServiceNames {
        name: name_of(*service),
        stack: Some(network.to_owned()),
        virtual_addresses: decided.addresses(*service),
        ..ServiceNames::default()
    };
    NetworkNames {
        network: network.to_owned(),
        subnets: decided
            .addresses(0)
            .into_iter()
            .map(|first| IpNet::new(first, if first.is_ipv4() { 24 } else { 64 }).unwrap())
            .collect(),
        endpoints: decided.tasks.keys().map(endpoint).collect(),
        services: decided.services.keys().map(service).collect(),
    }
}

impl Names {
    pub fn new(hosts: u8) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let one = |number| (number, NameServers::new(NameServersConfig::default(), Arc::new(Directory::new())));
        Self { runtime, hosts: (1..=hosts).map(one).collect() }
    }

    /// Every host hears what was decided.
    pub fn tell(&self, cluster: &Cluster) {
        for servers in self.hosts.values() {
            let all = cluster.networks.iter().map(|(network, decided)| names(network, decided));
            servers.directory().replace(Layer::Cluster, all.collect());
        }
    }

    /// A task of this network is served by its host.
    pub fn serve(&self, host: u8, id: &str, machine: &Machine, network: &str) {
        let client = Client {
            networks: vec![network.to_owned()],
            stack: Some(network.to_owned()),
            upstream: Upstream::Nobody,
            ..Client::default()
        };
        self.runtime.block_on(self.hosts[&host].serve(id, &machine.netns, client)).unwrap();
    }

    pub fn stop(&self, host: u8, id: &str) {
        self.hosts[&host].stop(id);
    }

    /// Every task of the network hears of just those tasks that live, by each family.
    pub fn check(
        &self,
        network: &str,
        decided: &Decided,
        machines: &BTreeMap<u8, Machine>,
        others: &[&str],
        what: &str,
    ) {
        let Some((asking, _)) = decided.tasks.iter().next() else { return };
        let machine = &machines[asking];
        for (service, tasks) in &decided.services {
            for record_type in [RecordType::A, RecordType::AAAA] {
                let of_family = |addresses: Vec<IpAddr>| -> BTreeSet<IpAddr> {
                    let wanted = |address: &IpAddr| address.is_ipv4() == (record_type == RecordType::A);
                    addresses.into_iter().filter(wanted).collect()
                };
                let ask = |name: &str| {
                    let what = format!("{what}: task{asking} asks for {name} {record_type}");
                    (ask(machine, name, record_type, &what), what)
                };
                let all = of_family(tasks.iter().flat_map(|task| decided.addresses(*task)).collect());
                let (heard, what) = ask(&format!("tasks.{}", name_of(*service)));
                assert_eq!(heard.unwrap_or_default(), all, "{what}");
                for name in [name_of(*service), format!("{}.{network}", name_of(*service))] {
                    let (heard, what) = ask(&name);
                    assert_eq!(heard, Some(of_family(decided.addresses(*service))), "{what}");
                }
                for other in others {
                    let (heard, what) = ask(&format!("{}.{other}", name_of(*service)));
                    assert_eq!(heard, None, "{what}");
                }
            }
        }
    }
}

/// The addresses of a name; `None`: it has none that this container can know of.
fn ask(machine: &Machine, name: &str, record_type: RecordType, what: &str) -> Option<BTreeSet<IpAddr>> {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), record_type));
    let question = message.to_vec().unwrap();
    let answer = machine.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.connect((NAME_SERVER, 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.send(&question).unwrap();
        let mut buffer = vec![0; 4096];
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{what}: {error}"));
        Message::from_vec(&buffer[..length]).unwrap()
    });
    match answer.metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return None,
        other => panic!("{what}: {other}"),
    }
    let address = |data: &RData| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    };
    Some(answer.answers.iter().filter_map(|record| address(&record.data)).collect())
}
