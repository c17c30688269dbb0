//! The tunnel itself, and who tells it what it is.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use gotatun::device::{Device, DeviceBuilder, Peer};
use gotatun::udp::socket::UdpSocketFactory;
use gotatun::x25519;
use stack_tunnel::PublicKey;
use stack_tunnel::protocol::{LONGEST_LINE, PeerState, Request, Response, Settings, State};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::tun::Tun;

/// Both buffers of the UDP socket, in bytes: bursts of several hosts at once.
const BUFFER: usize = 4 * 1024 * 1024;

/// Answers who asks, one after the other, until it is told to end.
///
/// # Errors
/// The socket cannot be listened on.
pub async fn serve(listener: UnixListener, tun: Tun, mtu: watch::Sender<u16>) -> io::Result<()> {
    let mut tunnel = Tunnel { tun, mtu, made: None };
    loop {
        let ended = async {
            match &mut tunnel.made {
                Some((device, _)) => device.wait().await,
                None => std::future::pending().await,
            }
        };
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            () = ended => return Err(io::Error::other("the interface or its socket is gone")),
        };
        match tunnel.talk(stream).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "could not talk to stackd"),
        }
    }
}

/// By the host's own UDP, and packets of the TUN device.
type WireGuard = Device<(UdpSocketFactory, Tun, Tun)>;

struct Tunnel {
    tun: Tun,
    mtu: watch::Sender<u16>,
    /// Once it has been told what it is, and of a first peer.
    made: Option<(WireGuard, Settings)>,
}

impl Tunnel {
    /// Whether it was told to end.
    async fn talk(&mut self, stream: UnixStream) -> io::Result<bool> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader).take(LONGEST_LINE);
        let mut line = String::new();
        while reader.read_line(&mut line).await? > 0 {
            let (response, stop) = match serde_json::from_str(&line) {
                Ok(Request::Set(settings)) => (self.set(settings).await, false),
                Ok(Request::Show) => (Response::State(self.state().await), false),
                Ok(Request::Stop) => (Response::Stopping, true),
                // The text of the error could show a key.
                Err(_) => (Response::Failed { reason: "it is no request".to_owned() }, false),
            };
            line = String::new();
            reader.set_limit(LONGEST_LINE);
            let mut answer = serde_json::to_vec(&response).map_err(io::Error::other)?;
            answer.push(b'\n');
            writer.write_all(&answer).await?;
            if stop {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn set(&mut self, settings: Settings) -> Response {
        self.mtu.send_if_modified(|mtu| std::mem::replace(mtu, settings.mtu) != settings.mtu);
        match self.make_or_change(settings).await {
            Ok(()) => Response::State(self.state().await),
            Err(reason) => Response::Failed { reason },
        }
    }

    async fn make_or_change(&mut self, settings: Settings) -> Result<(), String> {
        let Some((device, present)) = &mut self.made else {
            if settings.peers.is_empty() {
                return Ok(());
            }
            let device = DeviceBuilder::new()
                .with_default_udp()
                .udp_recv_buffer_size(BUFFER)
                .udp_send_buffer_size(BUFFER)
                .with_ip(self.tun.clone())
                .with_private_key(x25519::StaticSecret::from(*settings.private_key.as_bytes()))
                .with_listen_port(settings.port)
                .with_peers(settings.peers.iter().map(peer))
                .build()
                .await
                .map_err(|error| format!("UDP port {}: {error}", settings.port))?;
            self.made = Some((device, settings));
            return Ok(());
        };
        if present.private_key != settings.private_key || present.port != settings.port {
            return Err("an interface keeps its key and its port for life".to_owned());
        }
        let had: BTreeMap<PublicKey, _> = present.peers.iter().map(|peer| (peer.public_key, peer.endpoint)).collect();
        let has: BTreeMap<PublicKey, _> = settings.peers.iter().map(|peer| (peer.public_key, peer.endpoint)).collect();
        let changed = device
            .write(async |device| {
                for key in had.keys().filter(|key| !has.contains_key(key)) {
                    device.remove_peer(&x25519::PublicKey::from(*key.as_bytes())).await;
                }
                // One that is as it was is left alone: where it was heard last may be better than what was said.
                for new in settings.peers.iter().filter(|new| had.get(&new.public_key) != Some(&new.endpoint)) {
                    device.add_or_update_peer(peer(new)).await;
                }
            })
            .await;
        changed.map_err(|error| error.to_string())?;
        *present = settings;
        Ok(())
    }

    async fn state(&self) -> State {
        let Some((device, settings)) = &self.made else { return State::default() };
        let mut peers: Vec<PeerState> = device
            .peers()
            .await
            .into_iter()
            .map(|peer| PeerState {
                public_key: PublicKey::from_bytes(peer.peer.public_key.to_bytes()),
                endpoint: peer.peer.endpoint,
                handshake_seconds: peer.stats.last_handshake.map(|since| since.as_secs()),
                received: peer.stats.rx_bytes as u64,
                sent: peer.stats.tx_bytes as u64,
            })
            .collect();
        peers.sort_by_key(|peer| peer.public_key);
        State { public_key: Some(settings.private_key.public()), port: settings.port, peers }
    }
}

fn peer(peer: &stack_tunnel::protocol::Peer) -> Peer {
    let address = IpAddr::V6(peer.public_key.address());
    Peer::new(x25519::PublicKey::from(*peer.public_key.as_bytes()))
        .with_endpoint(peer.endpoint)
        .with_allowed_ip(address.into())
}
