//! The tunnels of this host: what they should be, and what makes them so.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use stack_tunnel::PublicKey;
use stack_tunnel::protocol::{PeerState, Settings};

use super::process::ProcessError;
use super::request::{Encryption, Implementation, OwnKey, Slot, TunnelsConfig};
use super::{kernel, process};
use crate::network::KernelError;

/// Why a host can take no part in encrypted networks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unable {
    /// Neither the kernel has WireGuard nor is there a device for user space.
    #[error("its kernel has neither WireGuard nor TUN devices (/dev/net/tun)")]
    NoDevice,
    /// Addresses within tunnels are of IPv6.
    #[error("its kernel has no IPv6, which tunnels use between their ends")]
    NoIpv6,
    /// The kernel has no WireGuard, and the program is not there.
    #[error("its kernel has no WireGuard, and the program {program} is not there")]
    NoProgram {
        /// Where it should be.
        program: String,
    },
    /// The kernel has no WireGuard, and nothing else is wanted.
    #[error("its kernel has no WireGuard, and its configuration allows nothing else")]
    NotByKernel,
}

/// Why tunnels are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum TunnelFailure {
    /// The host takes no part.
    #[error("this host can be on no encrypted network: {0}")]
    Unable(#[from] Unable),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A process did not do what it should.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// There is a link of that name that is no tunnel.
    #[error("there is a link {link} that is no tunnel of this host; remove it or rename it")]
    Foreign {
        /// Its name.
        link: String,
    },
}

/// The tunnels of a host.
#[derive(Debug)]
pub struct Tunnels {
    config: TunnelsConfig,
    /// Names of interfaces start with this, as those of overlay networks.
    prefix: String,
    /// Where the sockets of processes are.
    directory: PathBuf,
    host: File,
    peers: Mutex<BTreeMap<Slot, Vec<PeerState>>>,
    /// Held by whoever changes something: where the peers of each interface of the kernel were last said to be, and whether
    /// it is known that nothing is left of former tunnels.
    work: tokio::sync::Mutex<Work>,
}

#[derive(Debug, Default)]
struct Work {
    said: BTreeMap<Slot, BTreeMap<PublicKey, SocketAddr>>,
    none_left: bool,
}

impl Tunnels {
    /// Those of the network namespace of the calling thread. Nothing is asked of the kernel before [`Tunnels::set`]. The
    /// directory must not outlive a reboot; it is made when it is needed.
    ///
    /// # Errors
    /// When the namespace cannot be opened.
    pub fn open(config: TunnelsConfig, prefix: &str, directory: PathBuf) -> std::io::Result<Self> {
        let host = File::open("/proc/thread-self/ns/net")?;
        Ok(Self {
            config,
            prefix: prefix.to_owned(),
            directory,
            host,
            peers: Mutex::default(),
            work: tokio::sync::Mutex::default(),
        })
    }

    /// Who encrypts on this host.
    ///
    /// # Errors
    /// Nobody can.
    pub async fn implementation(&self) -> Result<Implementation, Unable> {
        if !std::path::Path::new("/proc/sys/net/ipv6").is_dir() {
            return Err(Unable::NoIpv6);
        }
        let chosen = self.config.implementation;
        if chosen != Some(Implementation::UserSpace) && kernel::has_wireguard(&self.host).await {
            return Ok(Implementation::Kernel);
        }
        if chosen == Some(Implementation::Kernel) {
            return Err(Unable::NotByKernel);
        }
        if !std::path::Path::new("/dev/net/tun").exists() {
            return Err(Unable::NoDevice);
        }
        if !self.config.program.is_file() {
            return Err(Unable::NoProgram { program: self.config.program.display().to_string() });
        }
        Ok(Implementation::UserSpace)
    }

    /// The port that the interface of a key listens on.
    #[must_use]
    pub const fn port(&self, slot: Slot) -> u16 {
        slot.port(self.config.port)
    }

    /// What was last seen of those at the other ends, by the interface.
    #[must_use]
    pub fn peers(&self) -> BTreeMap<Slot, Vec<PeerState>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Slot, Vec<PeerState>>> {
        // Every change is a single insertion or removal.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the tunnels what they should be; `None`: there are none. What is so already is not touched. Whether something
    /// was not.
    ///
    /// # Errors
    /// The first thing that could not be done; to be tried again.
    pub async fn set(&self, wanted: Option<&Encryption>) -> Result<bool, TunnelFailure> {
        let mut work = self.work.lock().await;
        let Some(wanted) = wanted else { return self.remove_all(&mut work).await };
        work.none_left = false;
        let mut changed = false;
        let implementation = self.implementation().await?;
        for key in &wanted.keys {
            changed |= self.make(&mut work, implementation, key, wanted).await?;
        }
        if let Some(key) = wanted.keys.first() {
            let from = key.private_key.public().address();
            changed |= kernel::lead(&self.host, &key.slot.link(&self.prefix), from).await?;
        }
        let unused = |slot: &Slot| !wanted.keys.iter().any(|key| key.slot == *slot);
        for slot in Slot::BOTH.into_iter().filter(unused) {
            changed |= self.remove(&mut work, slot).await?;
        }
        Ok(changed)
    }

    async fn make(
        &self,
        work: &mut Work,
        implementation: Implementation,
        key: &OwnKey,
        wanted: &Encryption,
    ) -> Result<bool, TunnelFailure> {
        let name = key.slot.link(&self.prefix);
        let settings = Settings {
            private_key: key.private_key.clone(),
            port: self.port(key.slot),
            mtu: wanted.mtu,
            peers: wanted.peers.iter().cloned().collect(),
        };
        let mut changed = false;
        let mut link = kernel::link(&self.host, &name).await?;
        // The host was given another kernel, or another configuration.
        if link.as_ref().is_some_and(|link| link.is_kernels != (implementation == Implementation::Kernel)) {
            self.remove(work, key.slot).await?;
            changed = true;
            link = None;
        }
        let peers = match implementation {
            Implementation::Kernel => {
                if link.is_none() {
                    kernel::make(&self.host, &name).await?;
                    work.said.remove(&key.slot);
                    changed = true;
                }
                let said = work.said.entry(key.slot).or_default();
                let (peers, is_new) = kernel::set(&self.host, &name, &settings, said).await?;
                *said = settings.peers.iter().map(|peer| (peer.public_key, peer.endpoint)).collect();
                changed |= is_new;
                peers
            }
            Implementation::UserSpace => {
                let had = self.lock().get(&key.slot).map(Vec::len);
                let (state, started) = self.tell(&name, &settings).await?;
                changed |= started || had != Some(state.peers.len());
                state.peers
            }
        };
        self.lock().insert(key.slot, peers);
        let link = kernel::link(&self.host, &name).await?.ok_or(TunnelFailure::Foreign { link: name.clone() })?;
        let address = key.private_key.public().address();
        changed |= kernel::prepare(&self.host, &name, &link, wanted.mtu, address).await?;
        Ok(changed)
    }

    /// One that does not answer, or is another key's, is replaced.
    async fn tell(
        &self,
        name: &str,
        settings: &Settings,
    ) -> Result<(stack_tunnel::protocol::State, bool), ProcessError> {
        let (program, directory) = (&self.config.program, &self.directory);
        match process::set(&self.host, program, directory, name, settings).await {
            Err(ProcessError::Refused { reason, .. }) => {
                tracing::warn!(interface = name, reason, "a tunnel is begun anew");
                process::stop(directory, name).await?;
                process::set(&self.host, program, directory, name, settings).await
            }
            told => told,
        }
    }

    async fn remove(&self, work: &mut Work, slot: Slot) -> Result<bool, TunnelFailure> {
        let name = slot.link(&self.prefix);
        work.said.remove(&slot);
        self.lock().remove(&slot);
        process::stop(&self.directory, &name).await?;
        let Some(link) = kernel::link(&self.host, &name).await? else { return Ok(false) };
        if link.is_kernels {
            kernel::remove(&self.host, &name).await?;
        }
        Ok(true)
    }

    async fn remove_all(&self, work: &mut Work) -> Result<bool, TunnelFailure> {
        if work.none_left {
            return Ok(false);
        }
        let mut changed = false;
        for slot in Slot::BOTH {
            changed |= self.remove(work, slot).await?;
        }
        kernel::forget(&self.host).await?;
        work.none_left = true;
        Ok(changed)
    }
}
