//! Names of the world, asked of upstream servers.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use stack_engine::dns::{Client, Upstream};

use crate::machines::{Machine, Manner, World, converse, exchange, name_servers, on_a_host, query};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

fn client(upstream: Upstream) -> Client {
    Client { upstream, ..Client::default() }
}

fn only(address: Ipv4Addr) -> Vec<IpAddr> {
    vec![IpAddr::V4(address)]
}

#[test]
fn a_server_on_the_hosts_loopback_is_asked_on_the_host() {
    on_a_host(|host| async move {
        let directory = tempfile::tempdir().unwrap();
        let world = World::start(&host, LOOPBACK, Manner::Good).await;
        let servers = name_servers(&directory, "nameserver 127.0.0.53\n");
        let container = Machine::new().await;
        servers.serve("one", &container.netns, client(Upstream::Host)).await.unwrap();
        assert_eq!(container.addresses("www.example.org.").await, only(LOOPBACK));
        let printed = container.nslookup(&["www.example.org"]).await;
        assert!(printed.contains("127.0.0.53"), "{printed}");
        // From memory since the first time, in any case.
        assert_eq!(container.addresses("WWW.Example.ORG.").await, only(LOOPBACK));
        assert_eq!(world.asked_for("www.example.org."), 2, "once for A and once for AAAA");
        let absent = container.ask("nothing.example.org.", RecordType::A).await;
        assert_eq!(absent.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(absent.authorities.len(), 1);
        container.ask("nothing.example.org.", RecordType::A).await;
        assert_eq!(world.asked_for("nothing.example.org."), 1);
    });
}

#[test]
fn the_containers_own_servers_are_asked_from_its_namespace() {
    on_a_host(|_host| async move {
        let directory = tempfile::tempdir().unwrap();
        let servers = name_servers(&directory, "nameserver 192.0.2.77\n");
        let (container, outside) = (Machine::new().await, Machine::new().await);
        container.link(HOST, &outside, OUTSIDE).await;
        let _world = World::start(&outside, OUTSIDE, Manner::Good).await;
        let own = Upstream::Servers(vec![IpAddr::V4(OUTSIDE)]);
        servers.serve("one", &container.netns, client(own)).await.unwrap();
        assert_eq!(container.addresses("www.example.org.").await, only(OUTSIDE));
        let text = container.run(|| converse(&[query("big.example.org.", RecordType::TXT, None)])).await;
        assert_eq!(text[0].answers.len(), 20, "the upstream server was asked over TCP in the namespace too");
    });
}

#[test]
fn one_server_after_the_other_is_asked() {
    on_a_host(|host| async move {
        let at = |last| Ipv4Addr::new(127, 0, 1, last);
        let failing = World::start(&host, at(1), Manner::Failing).await;
        let silent = World::start(&host, at(2), Manner::Silent).await;
        let good = World::start(&host, at(3), Manner::Good).await;
        let directory = tempfile::tempdir().unwrap();
        // Nobody listens on the first one.
        let file = "nameserver 127.0.1.9\nnameserver 127.0.1.1\nnameserver 127.0.1.2\nnameserver 127.0.1.3\n";
        let servers = name_servers(&directory, file);
        let container = Machine::new().await;
        servers.serve("one", &container.netns, client(Upstream::Host)).await.unwrap();
        let first = container.ask("www.example.org.", RecordType::A).await;
        assert_eq!(first.answers.iter().filter_map(crate::machines::address).collect::<Vec<_>>(), only(at(3)));
        assert_eq!((failing.asked_for("www.example.org."), silent.asked_for("www.example.org.")), (1, 1));
        // The one that said nothing is not asked again at once.
        container.ask("big.example.org.", RecordType::A).await;
        assert_eq!(silent.asked_for("big.example.org."), 0);
        assert_eq!(good.asked_for("big.example.org."), 1);
    });
}

#[test]
fn where_no_server_answers_the_client_is_told() {
    on_a_host(|host| async move {
        let _failing = World::start(&host, LOOPBACK, Manner::Failing).await;
        let directory = tempfile::tempdir().unwrap();
        let servers = name_servers(&directory, "nameserver 127.0.0.53\n");
        let container = Machine::new().await;
        servers.serve("one", &container.netns, client(Upstream::Host)).await.unwrap();
        let answer = container.ask("www.example.org.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(servers.metrics().failures.get(), 1);
        // An internal network's container asks nobody.
        assert!(servers.update("one", client(Upstream::Nobody)));
        let answer = container.ask("www.example.org.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(servers.metrics().forwarded.get(), 1);
    });
}

#[test]
fn large_answers_come_over_tcp_and_are_handed_on() {
    on_a_host(|host| async move {
        let world = World::start(&host, LOOPBACK, Manner::Good).await;
        let directory = tempfile::tempdir().unwrap();
        let servers = name_servers(&directory, "nameserver 127.0.0.53\n");
        let container = Machine::new().await;
        servers.serve("one", &container.netns, client(Upstream::Host)).await.unwrap();
        let (cut, whole) = container
            .run(|| {
                let ask = query("big.example.org.", RecordType::TXT, None);
                (exchange(&ask), converse(std::slice::from_ref(&ask)))
            })
            .await;
        assert!(cut.metadata.truncation);
        assert_eq!(whole[0].answers.len(), 20);
        assert_eq!(world.over_tcp(), 1, "the second time from memory");
    });
}

#[test]
fn servers_from_before_edns_and_forged_answers_are_dealt_with() {
    on_a_host(|host| async move {
        for manner in [Manner::Old, Manner::Noisy] {
            let _world =
                World::start(&host, if manner == Manner::Old { LOOPBACK } else { HOST_LOOPBACK }, manner).await;
            let directory = tempfile::tempdir().unwrap();
            let address = if manner == Manner::Old { LOOPBACK } else { HOST_LOOPBACK };
            let servers = name_servers(&directory, &format!("nameserver {address}\n"));
            let container = Machine::new().await;
            servers.serve("one", &container.netns, client(Upstream::Host)).await.unwrap();
            assert_eq!(container.addresses("www.example.org.").await, only(address), "{manner:?}");
        }
    });
}

const HOST_LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 54);

#[test]
fn the_same_question_goes_out_once_and_too_many_are_refused() {
    on_a_host(|host| async move {
        let world = World::start(&host, LOOPBACK, Manner::Good).await;
        let directory = tempfile::tempdir().unwrap();
        let servers = name_servers(&directory, "nameserver 127.0.0.53\n");
        let container = Machine::new().await;
        servers.serve("one", &container.netns, client(Upstream::Host)).await.unwrap();
        let asking = container.run(|| {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.connect((stack_engine::dns::NAME_SERVER, 53)).unwrap();
            socket.set_read_timeout(Some(crate::machines::PATIENCE)).unwrap();
            for _ in 0..300 {
                socket.send(&query("slow.example.org.", RecordType::A, None).to_vec().unwrap()).unwrap();
            }
            let mut buffer = [0; 512];
            let mut codes = Vec::new();
            let mut take = |codes: &mut Vec<ResponseCode>, count| {
                for _ in 0..count {
                    let length = socket.recv(&mut buffer).unwrap();
                    let answer = hickory_proto::op::Message::from_vec(&buffer[..length]).unwrap();
                    codes.push(answer.metadata.response_code);
                }
            };
            // Those beyond the limit are answered at once, the others when the gate opens.
            take(&mut codes, 44);
            (socket, codes)
        });
        let (socket, refused) = asking.await;
        assert!(refused.iter().all(|code| *code == ResponseCode::ServFail), "{refused:?}");
        world.open_gate();
        let answered = container
            .run(move || {
                let mut buffer = [0; 512];
                (0..256)
                    .filter(|_| {
                        let length = socket.recv(&mut buffer).unwrap();
                        let answer = hickory_proto::op::Message::from_vec(&buffer[..length]).unwrap();
                        answer.answers.len() == 1
                    })
                    .count()
            })
            .await;
        assert_eq!(answered, 256);
        assert_eq!(world.asked_for("slow.example.org."), 1);
        assert_eq!(servers.metrics().refused.get(), 44);
    });
}

#[test]
fn a_resolver_file_that_changes_is_read_again() {
    on_a_host(|host| async move {
        let _first = World::start(&host, LOOPBACK, Manner::Good).await;
        let _second = World::start(&host, HOST_LOOPBACK, Manner::Good).await;
        let directory = tempfile::tempdir().unwrap();
        let servers = name_servers(&directory, "nameserver 127.0.0.53\n");
        let container = Machine::new().await;
        servers.serve("one", &container.netns, client(Upstream::Host)).await.unwrap();
        assert_eq!(container.addresses("www.example.org.").await, only(LOOPBACK));
        std::fs::write(directory.path().join("resolv.conf"), "nameserver 127.0.0.54\n").unwrap();
        let deadline = tokio::time::Instant::now() + crate::machines::PATIENCE;
        while container.addresses("www.example.org.").await != only(HOST_LOOPBACK) {
            assert!(tokio::time::Instant::now() < deadline, "the new server is never asked");
        }
    });
}
