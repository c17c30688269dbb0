//! Names of a host's networks, asked for in a container.
#![expect(clippy::unwrap_used, reason = "only tests call these; what fails here fails the test")]

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use stack_engine::dns::{Client, EndpointNames, Layer, NAME_SERVER, NetworkNames, Upstream};

use crate::machines::{Machine, converse, exchange, name_servers, on_a_host, query};

fn endpoint(names: &[&str], addresses: &[&str]) -> EndpointNames {
    EndpointNames {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        member: None,
    }
}

fn network(name: &str, endpoints: Vec<EndpointNames>) -> NetworkNames {
    NetworkNames {
        network: name.to_owned(),
        subnets: vec!["10.5.0.0/16".parse().unwrap()],
        endpoints,
        services: Vec::new(),
    }
}

fn client(networks: &[&str]) -> Client {
    let networks = networks.iter().map(|&name| name.to_owned()).collect();
    Client { networks, upstream: Upstream::Nobody, ..Client::default() }
}

fn parsed(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_container_finds_the_names_of_its_networks_and_no_others() {
    on_a_host(|_host| async {
        let directory = tempfile::tempdir().unwrap();
        let servers = name_servers(&directory, "");
        let names = servers.directory();
        names
            .publish(Layer::Host, network("front", vec![endpoint(&["web", "0123456789ab"], &["10.5.0.2", "fd00::2"])]));
        names.publish(Layer::Host, network("back", vec![endpoint(&["db"], &["10.5.1.2"])]));
        names.publish(Layer::Cluster, network("front", vec![endpoint(&["web"], &["10.5.0.3"])]));
        let (one, both) = (Machine::new().await, Machine::new().await);
        servers.serve("one", &one.netns, client(&["front"])).await.unwrap();
        servers.serve("both", &both.netns, client(&["front", "back"])).await.unwrap();

        assert_eq!(one.addresses("WEB.").await, parsed(&["10.5.0.2", "10.5.0.3", "fd00::2"]));
        assert_eq!(one.addresses("web.front.").await, parsed(&["10.5.0.2", "10.5.0.3", "fd00::2"]));
        assert_eq!(one.ask("db.", RecordType::A).await.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(both.addresses("db.").await, parsed(&["10.5.1.2"]));

        let reverse = one.ask("2.0.5.10.in-addr.arpa.", RecordType::PTR).await;
        assert!(matches!(&reverse.answers[0].data, RData::PTR(name) if name.0.to_ascii() == "web.front."));
        let other_type = one.ask("web.", RecordType::MX).await;
        assert_eq!((other_type.metadata.response_code, other_type.answers.len()), (ResponseCode::NoError, 0));

        let printed = one.nslookup(&["web"]).await;
        assert!(
            printed.contains("10.5.0.2") && printed.contains("10.5.0.3") && printed.contains("fd00::2"),
            "{printed}"
        );
        let printed = one.nslookup(&["10.5.0.2"]).await;
        assert!(printed.contains("web.front"), "{printed}");

        // Names and networks that come and go are seen by the next question.
        names.withdraw(Layer::Cluster, "front");
        assert_eq!(one.addresses("web.").await, parsed(&["10.5.0.2", "fd00::2"]));
        assert!(servers.update("one", client(&["back"])));
        assert_eq!(one.addresses("db.").await, parsed(&["10.5.1.2"]));
        assert_eq!(one.ask("web.", RecordType::A).await.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(servers.metrics().containers.get(), 2);
    });
}

#[test]
fn several_addresses_take_turns() {
    on_a_host(|_host| async {
        let directory = tempfile::tempdir().unwrap();
        let servers = name_servers(&directory, "");
        let tasks = ["10.5.0.1", "10.5.0.2", "10.5.0.3"];
        let endpoints = tasks.iter().map(|address| endpoint(&["web"], &[address])).collect();
        servers.directory().publish(Layer::Host, network("front", endpoints));
        let container = Machine::new().await;
        servers.serve("one", &container.netns, client(&["front"])).await.unwrap();
        let mut first = Vec::new();
        for _ in 0..3 {
            let answer = container.ask("web.", RecordType::A).await;
            assert_eq!(answer.answers.len(), 3);
            first.extend(crate::machines::address(&answer.answers[0]));
        }
        first.sort();
        assert_eq!(first, parsed(&tasks));
    });
}

#[test]
fn the_containers_own_program_may_serve_names_too() {
    on_a_host(|_host| async {
        let directory = tempfile::tempdir().unwrap();
        let servers = name_servers(&directory, "");
        servers.directory().publish(Layer::Host, network("front", vec![endpoint(&["web"], &["10.5.0.2"])]));
        // Before the name server is there, and after.
        for address in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST] {
            for before in [true, false] {
                let container = Machine::new().await;
                let bind = move || (UdpSocket::bind((address, 53)).unwrap(), TcpListener::bind((address, 53)).unwrap());
                let early = if before { Some(container.run(bind).await) } else { None };
                servers.serve("one", &container.netns, client(&["front"])).await.unwrap();
                let (udp, tcp) = match early {
                    Some(sockets) => sockets,
                    None => container.run(bind).await,
                };
                assert_eq!(container.addresses("web.").await, parsed(&["10.5.0.2"]), "{address} {before}");
                let over_tcp = container.run(|| converse(&[query("web.", RecordType::A, None)])).await;
                assert_eq!(over_tcp[0].answers.len(), 1);
                // And its own is reached where it listens.
                let heard = container
                    .run(move || {
                        let asking = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                        asking.send_to(b"own", (Ipv4Addr::LOCALHOST, 53)).unwrap();
                        udp.set_read_timeout(Some(crate::machines::PATIENCE)).unwrap();
                        let mut buffer = [0; 8];
                        let (length, _) = udp.recv_from(&mut buffer).unwrap();
                        drop(tcp);
                        buffer[..length].to_vec()
                    })
                    .await;
                assert_eq!(heard, b"own");
            }
        }
    });
}

#[test]
fn an_answer_that_is_too_large_for_udp_is_whole_over_tcp() {
    on_a_host(|_host| async {
        let directory = tempfile::tempdir().unwrap();
        let servers = name_servers(&directory, "");
        let endpoints = (0..1000u32)
            .map(|index| endpoint(&["many"], &[&format!("10.5.{}.{}", index / 250, index % 250 + 1)]))
            .collect();
        servers.directory().publish(Layer::Host, network("front", endpoints));
        let container = Machine::new().await;
        servers.serve("one", &container.netns, client(&["front"])).await.unwrap();
        let (plain, extended, over_tcp): (Message, Message, Vec<Message>) = container
            .run(|| {
                let ask = |largest| query("many.", RecordType::A, largest);
                (exchange(&ask(None)), exchange(&ask(Some(1232))), converse(&[ask(None), ask(Some(1232))]))
            })
            .await;
        assert!(plain.metadata.truncation && extended.metadata.truncation);
        assert!(extended.edns.is_some() && extended.answers.len() > plain.answers.len() && !plain.answers.is_empty());
        for answer in over_tcp {
            assert!(!answer.metadata.truncation);
            assert_eq!(answer.answers.len(), 1000);
        }
        assert_eq!(servers.metrics().truncated.get(), 2);
    });
}

#[test]
fn what_is_no_question_does_no_harm() {
    on_a_host(|_host| async {
        let directory = tempfile::tempdir().unwrap();
        let servers = name_servers(&directory, "");
        servers.directory().publish(Layer::Host, network("front", vec![endpoint(&["web"], &["10.5.0.2"])]));
        let container = Machine::new().await;
        servers.serve("one", &container.netns, client(&["front"])).await.unwrap();
        let refusal = container
            .run(|| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                socket.connect((NAME_SERVER, 53)).unwrap();
                socket.set_read_timeout(Some(crate::machines::PATIENCE)).unwrap();
                for noise in [&b""[..], b"?", &[0xff; 40], &[0x80; 12], &[0; 65507]] {
                    socket.send(noise).unwrap();
                }
                let mut cut = query("web.", RecordType::A, None).to_vec().unwrap();
                cut.truncate(14);
                socket.send(&cut).unwrap();
                let mut codes = Vec::new();
                let mut buffer = [0; 512];
                // What has a header's length and is no answer is told what it is: the zeros and the cut question.
                for _ in 0..2 {
                    let length = socket.recv(&mut buffer).unwrap();
                    codes.push(Message::from_vec(&buffer[..length]).unwrap().metadata.response_code);
                }
                codes
            })
            .await;
        assert_eq!(refusal, [ResponseCode::FormErr, ResponseCode::FormErr]);
        assert_eq!(container.addresses("web.").await, parsed(&["10.5.0.2"]));
    });
}

#[test]
fn a_container_that_is_gone_leaves_nothing() {
    on_a_host(|_host| async {
        let directory = tempfile::tempdir().unwrap();
        let servers = name_servers(&directory, "");
        let container = Machine::new().await;
        servers.serve("one", &container.netns, client(&[])).await.unwrap();
        assert_eq!(servers.served(), ["one"]);
        servers.stop("one");
        assert!(servers.served().is_empty());
        assert!(!servers.update("one", client(&[])));
        // Its tasks end at their next turn, and the sockets with them.
        let deadline = tokio::time::Instant::now() + crate::machines::PATIENCE;
        loop {
            let listening = container.run(|| std::fs::read_to_string("/proc/thread-self/net/udp").unwrap()).await;
            if listening.lines().count() == 1 {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "{listening}");
            tokio::task::yield_now().await;
        }
    });
}
