//! Connections that the kernel tracks in a container's network namespace.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nlink::netlink::netfilter::{ConntrackEntry, ConntrackStatus, IpProtocol};
use nlink::netlink::{Connection, Netfilter};

use crate::network::kernel::{KernelError, forget_each, inside, refused};
use crate::overlay::services::Forgotten;

/// Where the kernel says how many connections are tracked in the namespace of who asks.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// The tracked connections of a container.
#[derive(Debug, Default)]
pub struct Tracked {
    /// [`COUNT`] as the container's namespace has it: whoever reads it later need not enter the namespace.
    count: Option<File>,
}

impl Tracked {
    /// Forgets what must be forgotten. `gone` are addresses that nobody has any more: what went to them is forgotten whatever
    /// its protocol, so that a TCP connection meets a backend that does not know it, and is reset.
    ///
    /// # Errors
    /// What the kernel refused.
    pub async fn forget(
        &mut self,
        netns: &File,
        forgotten: &Forgotten,
        gone: &BTreeSet<IpAddr>,
    ) -> Result<(), KernelError> {
        if forgotten.is_empty() && gone.is_empty() {
            return Ok(());
        }
        // To list them costs milliseconds whatever their number, and most containers have none.
        if self.none(netns).unwrap_or(false) {
            return Ok(());
        }
        let connection = Connection::<Netfilter>::new_in(netns.as_fd())
            .map_err(refused(|| "open a connection-tracking socket in a container's network namespace".to_owned()))?;
        let list = || "list the tracked connections of a container".to_owned();
        let mut entries = connection.get_conntrack().await.map_err(refused(list))?;
        entries.extend(connection.get_conntrack_v6().await.map_err(refused(list))?);
        let forgotten = entries.iter().filter(|entry| is_forgotten(entry, forgotten, gone));
        forget_each(&connection, forgotten, || "forget a tracked connection of a container".to_owned()).await
    }

    fn none(&mut self, netns: &File) -> io::Result<bool> {
        let count = match self.count.take() {
            Some(count) => count,
            None => inside(netns, || File::open(COUNT))?,
        };
        let mut digits = [0; 16];
        let length = count.read_at(&mut digits, 0)?;
        self.count = Some(count);
        Ok(digits.get(..length).is_some_and(|digits| digits.trim_ascii() == b"0"))
    }
}

fn is_forgotten(entry: &ConntrackEntry, forgotten: &Forgotten, gone: &BTreeSet<IpAddr>) -> bool {
    let (Some(asked), Some(answering)) = (entry.orig.dst_ip, entry.reply.src_ip) else { return false };
    // An echo has no port that a client could go on from, and cannot be named to the kernel as the others can.
    if entry.reply.src_port.is_none() {
        return false;
    }
    let status = entry.status.unwrap_or_default();
    if status & ConntrackStatus::DST_NAT.bits() == 0 {
        return forgotten.served.contains(&asked);
    }
    gone.contains(&answering) || (entry.proto != IpProtocol::Tcp && forgotten.moved.contains(&(asked, answering)))
}
