//! What the networks between hosts cost, beside what they are made of: a veth pair, and a VXLAN device alone. Two hosts that
//! are network namespaces on one link; each figure is the median of rounds that take turns. Needs root, and `stack-tunnel`
//! beside this program or in `STACK_TUNNEL` for what is encrypted.
//!
//! At both ends of a connection are threads of this program, on the same processors as the kernel that carries it: what is
//! measured is the work for a byte or a request, not the speed of a link.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program that measures: it prints figures, and what fails ends it"
)]
#![allow(dead_code, unused_imports, reason = "of the tests' machines not everything is needed")]

#[path = "../tests/overlay/cluster.rs"]
mod cluster;
#[path = "../tests/overlay/machines.rs"]
mod machines;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cluster::Cluster;
use machines::Machine;
use stack_engine::encryption::{Encryption, OwnKey, Peer, PrivateKey, Slot, Tunnels, TunnelsConfig};
use stack_engine::overlay::{
    OVERHEAD_IPV4, Overlay, OverlayConfig, OverlayEndpoint, OverlayNetwork, Overlays, VirtualService, link_address,
};

const ROUNDS: usize = 5;
const MEASURED: Duration = Duration::from_secs(1);
const BULK: u16 = 7001;
const ECHO: u16 = 7002;

/// Servers of a machine: one that reads all there is, one that sends back what it gets.
fn serve(machine: &Machine) {
    let any = Ipv6Addr::UNSPECIFIED;
    let (bulk, echo) =
        machine.run(|| (TcpListener::bind((any, BULK)).unwrap(), TcpListener::bind((any, ECHO)).unwrap()));
    std::thread::spawn(move || {
        for stream in bulk.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = vec![0; 256 * 1024];
                let mut total = 0_u64;
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    total += length as u64;
                }
                let _ = stream.write_all(&total.to_be_bytes());
            });
        }
    });
    std::thread::spawn(move || {
        for stream in echo.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                stream.set_nodelay(true)?;
                let mut byte = [0];
                while stream.read(&mut byte)? == 1 {
                    stream.write_all(&byte)?;
                }
                std::io::Result::Ok(())
            });
        }
    });
}

/// Gbit/s of one connection.
fn throughput(client: &Machine, address: IpAddr) -> f64 {
    client.run(|| {
        let mut stream = TcpStream::connect((address, BULK)).unwrap();
        let buffer = vec![0x5a; 256 * 1024];
        let began = Instant::now();
        while began.elapsed() < MEASURED {
            stream.write_all(&buffer).unwrap();
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut total = [0; 8];
        stream.read_exact(&mut total).unwrap();
        u64::from_be_bytes(total) as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e9
    })
}

/// Requests a second, one after the other, over one connection.
fn requests(client: &Machine, address: IpAddr) -> f64 {
    client.run(|| {
        let mut stream = TcpStream::connect((address, ECHO)).unwrap();
        stream.set_nodelay(true).unwrap();
        let began = Instant::now();
        let mut count = 0_u32;
        let mut byte = [1];
        while began.elapsed() < MEASURED {
            stream.write_all(&byte).unwrap();
            stream.read_exact(&mut byte).unwrap();
            count += 1;
        }
        f64::from(count) / began.elapsed().as_secs_f64()
    })
}

/// Connections a second, one after the other, each with one request.
fn connections(client: &Machine, address: IpAddr) -> f64 {
    client.run(|| {
        let began = Instant::now();
        let mut count = 0_u32;
        let mut byte = [1];
        while began.elapsed() < MEASURED {
            let mut stream = TcpStream::connect((address, ECHO)).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.write_all(&byte).unwrap();
            stream.read_exact(&mut byte).unwrap();
            count += 1;
        }
        f64::from(count) / began.elapsed().as_secs_f64()
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A VXLAN device between the two hosts, with addresses of its own, by hand.
fn raw_vxlan(cluster: &Cluster) -> [IpAddr; 2] {
    let address = |host: u8| Ipv4Addr::new(10, 99, 0, host);
    for (host, other) in [(1, 2), (2, 1)] {
        let (own, remote) = (cluster.underlay(host).to_string(), cluster.underlay(other).to_string());
        let machine = &cluster.host(host).machine;
        let link = ["link", "add", "raw0", "type", "vxlan", "id", "77", "dstport", "4799", "local", &own];
        machine.command("ip", &[&link[..], &["remote", &remote]].concat());
        machine.command("ip", &["address", "add", &format!("{}/24", address(host)), "dev", "raw0"]);
        machine.command("ip", &["link", "set", "raw0", "up"]);
    }
    [address(1).into(), address(2).into()]
}

fn tunnel_program() -> Option<PathBuf> {
    if let Some(program) = std::env::var_os("STACK_TUNNEL") {
        return Some(program.into());
    }
    // target/release/examples/this
    let beside = std::env::current_exe().ok()?.parent()?.parent()?.join("stack-tunnel");
    beside.is_file().then_some(beside)
}

/// The same network by tunnels. Answers who ends them, and who encrypts.
fn encrypt(cluster: &Cluster, program: PathBuf, directory: &std::path::Path) -> (Vec<Tunnels>, String) {
    let keys = [PrivateKey::generate(), PrivateKey::generate()];
    let address = |host: IpAddr| -> IpAddr {
        let index = usize::from(host == cluster.underlay(2));
        keys[index].public().address().into()
    };
    let config = TunnelsConfig { program, ..TunnelsConfig::default() };
    let mut all = Vec::new();
    let mut by = String::new();
    for (number, other) in [(1_u8, 2_u8), (2, 1)] {
        let host = cluster.host(number);
        let place = directory.join(number.to_string());
        let tunnels = host.machine.run(|| Tunnels::open(config.clone(), "stack", place).unwrap());
        let wanted = Encryption {
            keys: vec![OwnKey { private_key: keys[usize::from(number - 1)].clone(), slot: Slot::First }],
            mtu: 1440,
            peers: BTreeSet::from([Peer {
                public_key: keys[usize::from(other - 1)].public(),
                endpoint: SocketAddr::new(cluster.underlay(other), config.port),
            }]),
        };
        by = format!("{:?}", host.machine.wait(|| tunnels.implementation()).unwrap());
        host.machine.wait(|| tunnels.set(Some(&wanted))).unwrap();
        let mut value = cluster.value(number);
        for network in value.networks.values_mut() {
            network.encrypted = true;
            network.underlay = Ipv6Addr::UNSPECIFIED.into();
            network.mtu = 1370;
            for neighbour in &mut network.neighbours {
                neighbour.host = address(neighbour.host);
            }
        }
        host.machine.wait(|| host.overlay.set(value)).unwrap();
        all.push(tunnels);
    }
    (all, by)
}

fn compare() {
    let mut cluster = Cluster::new(2);
    let front = cluster.network("front", 1, false);
    front.tasks.extend([(10, 1), (20, 2)]);
    front.services.insert(5, BTreeSet::from([20]));
    cluster.tell();
    let client = cluster.start(&["front"], 10);
    let server = cluster.start(&["front"], 20);
    let host = &cluster.host(1).machine;
    for machine in [&server, &cluster.host(2).machine] {
        serve(machine);
    }
    let [_, raw] = raw_vxlan(&cluster);
    let decided = &cluster.networks["front"];
    let ways: [(&str, &Machine, IpAddr); 4] = [
        ("between the hosts: a veth pair and a bridge", host, cluster.underlay(2)),
        ("a VXLAN device between the hosts, alone", host, raw),
        ("between containers on two hosts, by address", &client, decided.ipv4(20)),
        ("between containers on two hosts, by virtual address", &client, decided.ipv4(5)),
    ];
    println!("| way | Gbit/s | requests/s, one connection | connections/s, one after the other |");
    println!("|---|---|---|---|");
    let mut samples: Vec<[Vec<f64>; 3]> = ways.iter().map(|_| Default::default()).collect();
    for _ in 0..ROUNDS {
        for ((_, from, to), sample) in ways.iter().zip(&mut samples) {
            sample[0].push(throughput(from, *to));
            sample[1].push(requests(from, *to));
            sample[2].push(connections(from, *to));
        }
    }
    let row = |name: &str, sample: [Vec<f64>; 3]| {
        let [gigabits, requests, connections] = sample.map(median);
        println!("| {name} | {gigabits:.2} | {requests:.0} | {connections:.0} |");
    };
    for ((name, ..), sample) in ways.iter().zip(samples) {
        row(name, sample);
    }
    if let Some(program) = tunnel_program() {
        let directory = tempfile::tempdir().unwrap();
        let (tunnels, by) = encrypt(&cluster, program, directory.path());
        let to = cluster.networks["front"].ipv4(5);
        machines::wait_until("it answers by a tunnel", || {
            client.run(|| TcpStream::connect_timeout(&SocketAddr::new(to, ECHO), Duration::from_secs(1)).is_ok())
        });
        let mut sample: [Vec<f64>; 3] = Default::default();
        for _ in 0..ROUNDS {
            sample[0].push(throughput(&client, to));
            sample[1].push(requests(&client, to));
            sample[2].push(connections(&client, to));
        }
        row(&format!("the same, encrypted ({by})"), sample);
        for (host, tunnels) in cluster.hosts.iter().zip(tunnels) {
            host.machine.wait(|| tunnels.set(None)).unwrap();
        }
    } else {
        println!("| encrypted: there is no stack-tunnel | - | - | - |");
    }
    for host in &cluster.hosts {
        host.machine.wait(|| host.overlay.remove_all()).unwrap();
    }
}

/// So many services with three tasks each, half of them on this host.
fn services(count: u32, changed: u32) -> Overlays {
    let address = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + 16 + number));
    let network = OverlayNetwork {
        name: "many".to_owned(),
        vni: 0x2000,
        mtu: 1500 - OVERHEAD_IPV4,
        internal: false,
        encrypted: false,
        underlay: cluster::underlay_ipv4(1).into(),
        addresses: vec!["10.0.0.1/8".parse().unwrap()],
        neighbours: Vec::new(),
        services: (0..count)
            .map(|number| VirtualService {
                addresses: vec![address(number * 4)],
                // The last one of the changed service is another one each time.
                backends: (1..=3)
                    .map(|task| {
                        address(number * 4 + task + if number == 0 && task == 3 { changed * 4 * count } else { 0 })
                    })
                    .collect(),
                sticky: false,
            })
            .collect(),
        ingress: Vec::new(),
    };
    Overlays { networks: [("many".to_owned(), network)].into() }
}

fn apply() {
    println!("\n| services on a host with one container | all at once, ms | one task changes, ms (best) |");
    println!("|---|---|---|");
    for count in [10, 5000] {
        let cluster = Cluster::new(1);
        let host = cluster.host(1);
        let container = Machine::new();
        let own: Vec<IpAddr> = vec!["10.0.0.2".parse().unwrap()];
        let endpoint = OverlayEndpoint {
            network: "many".to_owned(),
            interface: "eth0".to_owned(),
            addresses: vec!["10.0.0.2/8".parse().unwrap()],
            mac: link_address(own),
            gateways: Vec::new(),
        };
        host.machine.wait(|| host.overlay.set(services(1, 0))).unwrap();
        host.machine.wait(|| host.overlay.attach("task", &container.netns, &endpoint)).unwrap();
        let milliseconds = |changed: u32| {
            let value = services(count, changed);
            let began = Instant::now();
            host.machine.wait(|| host.overlay.set(value)).unwrap();
            began.elapsed().as_secs_f64() * 1000.0
        };
        let first = milliseconds(0);
        let changes: Vec<f64> = (1..=21).map(|round| milliseconds(round % 2)).collect();
        let best = changes.iter().copied().fold(f64::INFINITY, f64::min);
        println!("| {count} | {first:.1} | {:.2} ({best:.2}) |", median(changes));
        host.machine.wait(|| host.overlay.remove_all()).unwrap();
    }
}

fn main() {
    compare();
    apply();
}
