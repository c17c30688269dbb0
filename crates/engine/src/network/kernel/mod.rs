//! The only place that speaks netlink. It has no choice to make: links, addresses, routes and rules come decided.
//!
//! Every function opens its own socket in the network namespace of the calling thread, or in the one that is passed.

mod children;
mod firewall;
mod links;
mod nftables;
pub mod settings;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{setsockopt, sockopt};
use nlink::netlink::{Connection, Nftables};

pub use children::{delete_child, has_child, has_kind, make_child, make_parent};
pub use firewall::{close_firewalls, open_firewalls};
pub use links::{
    LinkPlan, delete_link, ensure_bridge, forget_connections, forget_each, forget_relayed, give_address6, host_routes,
    join_bridge, link_index, loopback_up, make_link, open_in, own_links, set_default_routes,
};
pub use nftables::{apply, remove_table, table_differs};

/// A request to the kernel that it refused.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refused to {what}")]
pub struct KernelError {
    /// The request, as the end of a sentence.
    pub what: String,
    /// Why.
    pub source: Refusal,
}

/// Why the kernel, or the way to it, refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// By netlink.
    #[error(transparent)]
    Netlink(#[from] nlink::Error),
    /// By another system call.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Turns a refusal into an error that says what was asked.
pub fn refused<E: Into<Refusal>>(what: impl FnOnce() -> String) -> impl FnOnce(E) -> KernelError {
    move |source| KernelError { what: what(), source: source.into() }
}

/// The largest message that a socket for rules sends, in bytes: a table of some 100,000 elements is one transaction, which
/// is one message.
const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;

/// A socket for the rules of one network namespace.
///
/// The kernel closes it only when it has freed all that transactions have removed, which waits for a grace period of RCU: some
/// ten milliseconds. So nobody waits for its end: a thread of its own does.
pub struct RulesSocket {
    connection: Connection<Nftables>,
    /// Another descriptor of the socket, while it is dropped. It stands after `connection`, and so is the last one.
    closing: Option<Closing>,
}

/// The last descriptor of a socket.
#[derive(Debug)]
struct Closing(Option<OwnedFd>);

impl RulesSocket {
    /// Opens one in a network namespace; `None`: in that of the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses, also to send large messages.
    pub fn open(netns: Option<&File>) -> Result<Self, KernelError> {
        let opened = match netns {
            Some(netns) => Connection::<Nftables>::new_in(netns.as_fd()),
            None => Connection::<Nftables>::new(),
        };
        let connection = opened.map_err(refused(|| "open an nftables socket".to_owned()))?;
        let socket = connection.socket();
        // The limit of `net.core.wmem_max` is not for who administers the network.
        setsockopt(socket, sockopt::SndBufForce, &LARGEST_MESSAGE)
            .or_else(|_refused| setsockopt(socket, sockopt::SndBuf, &LARGEST_MESSAGE))
            .map_err(|errno| refused(|| "give a netlink socket a larger buffer".to_owned())(io::Error::from(errno)))?;
        Ok(Self { connection, closing: None })
    }
}

impl fmt::Debug for RulesSocket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RulesSocket").finish_non_exhaustive()
    }
}

impl Deref for RulesSocket {
    type Target = Connection<Nftables>;

    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}

impl Drop for RulesSocket {
    fn drop(&mut self) {
        // Without another descriptor it is closed here, and waited for.
        self.closing = self.connection.socket().as_fd().try_clone_to_owned().ok().map(|last| Closing(Some(last)));
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let last = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(last));
        }
    }
}

/// Runs `work` on a thread of its own inside a network namespace; the caller's thread never leaves its own.
///
/// # Errors
/// When the thread cannot be made or cannot enter, or what `work` says.
pub fn inside<T: Send>(netns: &File, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("in-netns".to_owned()).spawn_scoped(scope, move || {
            nix::sched::setns(netns.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)?;
            work()
        })?;
        worker.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the network namespace panicked")))
    })
}
