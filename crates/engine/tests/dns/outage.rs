//! What containers notice of a restart of `stackd`: nothing, where somebody kept the sockets.
#![expect(clippy::unwrap_used, reason = "only tests call these; what fails here fails the test")]

use std::net::UdpSocket;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use stack_engine::dns::{Client, EndpointNames, Layer, NAME_SERVER, NetworkNames, Sockets, Upstream};

use crate::machines::{Machine, name_servers, on_a_host, query};

fn names() -> NetworkNames {
    NetworkNames {
        network: "front".to_owned(),
        endpoints: vec![EndpointNames {
            names: vec!["web".to_owned()],
            addresses: vec!["10.5.0.2".parse().unwrap()],
            member: None,
        }],
        ..NetworkNames::default()
    }
}

fn client() -> Client {
    Client { networks: vec!["front".to_owned()], stack: None, upstream: Upstream::Nobody, ..Client::default() }
}

#[test]
fn a_question_that_is_asked_while_nobody_serves_is_answered_afterwards() {
    on_a_host(|_host| async {
        let directory = tempfile::tempdir().unwrap();
        let container = Machine::new().await;
        let sockets = Sockets::open(&container.netns).unwrap();
        // What a container's shim would hold.
        let kept = sockets.descriptors().map(|socket| socket.try_clone_to_owned().unwrap());
        let servers = name_servers(&directory, "");
        servers.directory().publish(Layer::Host, names());
        servers.resume("one", &container.netns, client(), sockets).await.unwrap();
        assert_eq!(container.addresses("web.").await.len(), 1);
        drop(servers);

        let asking = container
            .run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect((NAME_SERVER, 53)).unwrap();
                socket.set_read_timeout(Some(crate::machines::PATIENCE)).unwrap();
                for _ in 0..100 {
                    socket.send(&query("web.", RecordType::A, None).to_vec().unwrap()).unwrap();
                }
                let stream = std::net::TcpStream::connect((NAME_SERVER, 53)).unwrap();
                (socket, stream)
            })
            .await;

        let servers = name_servers(&directory, "");
        servers.directory().publish(Layer::Host, names());
        let [udp, tcp] = kept;
        let sockets = Sockets::resume(udp, tcp).unwrap();
        servers.resume("one", &container.netns, client(), sockets).await.unwrap();
        let codes = container
            .run(move || {
                let (socket, mut stream) = asking;
                let mut buffer = [0; 512];
                let mut codes: Vec<ResponseCode> = Vec::new();
                for _ in 0..100 {
                    let length = socket.recv(&mut buffer).unwrap();
                    codes.push(Message::from_vec(&buffer[..length]).unwrap().metadata.response_code);
                }
                stream.set_read_timeout(Some(crate::machines::PATIENCE)).unwrap();
                let over_tcp = query("web.", RecordType::A, None).to_vec().unwrap();
                crate::machines::write_frame(&mut stream, &over_tcp).unwrap();
                let answer = crate::machines::read_frame(&mut stream).unwrap();
                codes.push(Message::from_vec(&answer).unwrap().metadata.response_code);
                codes
            })
            .await;
        assert_eq!(codes, vec![ResponseCode::NoError; 101]);
    });
}

#[test]
fn a_container_whose_sockets_nobody_kept_is_served_anew() {
    on_a_host(|_host| async {
        let directory = tempfile::tempdir().unwrap();
        let container = Machine::new().await;
        // A program that keeps its socket: the kernel remembers where its questions went.
        let asking = container
            .run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect("127.0.0.11:53").unwrap();
                socket.set_read_timeout(Some(crate::machines::PATIENCE)).unwrap();
                socket
            })
            .await;
        for _ in 0..3 {
            let servers = name_servers(&directory, "");
            servers.directory().publish(Layer::Host, names());
            servers.serve("one", &container.netns, client()).await.unwrap();
            // The same container once more, as after a failed attempt.
            servers.serve("one", &container.netns, client()).await.unwrap();
            assert_eq!(container.addresses("web.").await.len(), 1);
            let asking = asking.try_clone().unwrap();
            let answered = tokio::task::spawn_blocking(move || {
                asking.send(&query("web.", RecordType::A, None).to_vec().unwrap()).unwrap();
                asking.recv(&mut [0; 512])
            });
            answered.await.unwrap().unwrap();
        }
    });
}

#[test]
fn other_sockets_are_refused() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(Sockets::resume(udp.into(), tcp.into()).is_err());
}
