//! Questions that go on to upstream servers: to one after the other until one answers, the same question only once at a time,
//! and not at all while the last answer holds.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::ResponseCode;
use tokio::sync::{Semaphore, watch};

use super::cache::{Cache, Key};
use super::exchange::{self, Place};
use super::message::{Asked, Reply};
use super::metrics::NameMetrics;
use super::resolver_file::ResolverFile;

/// Programs give a name server five seconds: all upstream servers together get less.
const PATIENCE: Duration = Duration::from_millis(4500);
/// One server gets no longer than this while there are others.
const PATIENCE_FOR_ONE: Duration = Duration::from_millis(1500);
/// A server that did not answer is asked after the others for so long.
const DEMOTION: Duration = Duration::from_secs(30);
/// The host's resolver file is looked at again after this.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// Of DNS.
const PORT: u16 = 53;

/// Who is asked, and from where.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub place: Place,
    pub servers: Arc<[SocketAddr]>,
    /// Routes of the same scope share answers.
    pub scope: u64,
}

/// A scope that no other route has.
pub(crate) fn new_scope() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The addresses of these servers' service.
pub(crate) fn addresses(servers: &[IpAddr]) -> Arc<[SocketAddr]> {
    servers.iter().map(|&server| SocketAddr::new(server, PORT)).collect()
}

/// Asks upstream servers for everybody on this host.
#[derive(Debug)]
pub(crate) struct Forwarder {
    host_file: PathBuf,
    metrics: NameMetrics,
    /// Over all containers.
    permits: Semaphore,
    state: Mutex<State>,
    host: Mutex<HostServers>,
}

/// The reply to a question that is under way, once it is there.
type Pending = watch::Receiver<Option<Arc<Reply>>>;

#[derive(Debug)]
struct State {
    cache: Cache,
    in_flight: HashMap<Key, Pending>,
    demoted: HashMap<SocketAddr, Instant>,
}

/// The host's own servers, as its resolver file last said.
#[derive(Debug)]
struct HostServers {
    looked_at: Option<Instant>,
    modified: Option<SystemTime>,
    servers: Arc<[SocketAddr]>,
    scope: u64,
}

impl Forwarder {
    pub fn new(host_file: PathBuf, cache_entries: usize, most_outstanding: usize, metrics: NameMetrics) -> Self {
        Self {
            host_file,
            metrics,
            permits: Semaphore::new(most_outstanding),
            state: Mutex::new(State {
                cache: Cache::new(cache_entries),
                in_flight: HashMap::new(),
                demoted: HashMap::new(),
            }),
            host: Mutex::new(HostServers {
                looked_at: None,
                modified: None,
                servers: Arc::new([]),
                scope: new_scope(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is a single insertion or removal, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to the host's servers. Its resolver file is read again when it has changed.
    pub fn host_route(&self) -> Route {
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if host.looked_at.is_none_or(|then| now.saturating_duration_since(then) >= FILE_INTERVAL) {
            host.looked_at = Some(now);
            let modified = std::fs::metadata(&self.host_file).and_then(|file| file.modified()).ok();
            if modified.is_none() || modified != host.modified {
                host.modified = modified;
                self.read_host_file(&mut host);
            }
        }
        Route { place: Place::Host, servers: Arc::clone(&host.servers), scope: host.scope }
    }

    fn read_host_file(&self, host: &mut HostServers) {
        match std::fs::read_to_string(&self.host_file) {
            Ok(text) => {
                let servers = addresses(&ResolverFile::parse(&text).servers);
                if servers != host.servers {
                    host.servers = servers;
                    host.scope = new_scope();
                }
            }
            // What it said last is better than nothing while somebody replaces it.
            Err(error) => tracing::debug!(file = %self.host_file.display(), %error, "the resolver file cannot be read"),
        }
    }

    /// An answer that an upstream server gave before and that still holds.
    pub fn remembered(&self, route: &Route, asked: &Asked) -> Option<Reply> {
        let reply = self.lock().cache.get(&Key::new(route.scope, asked), Instant::now());
        if reply.is_some() {
            self.metrics.cached.inc();
        }
        reply
    }

    /// The answer of an upstream server; a server failure where none has one.
    pub async fn forward(self: &Arc<Self>, route: &Route, asked: &Asked) -> Arc<Reply> {
        let key = Key::new(route.scope, asked);
        let mut pending = self.join(key, route, asked);
        match pending.wait_for(Option::is_some).await {
            Ok(reply) => reply.as_ref().map_or_else(failed, Arc::clone),
            // Whoever asked for us is gone without an answer.
            Err(_) => failed(),
        }
    }

    /// The question that is under way already, or a new one.
    fn join(self: &Arc<Self>, key: Key, route: &Route, asked: &Asked) -> Pending {
        let mut state = self.lock();
        if let Some(pending) = state.in_flight.get(&key) {
            return pending.clone();
        }
        let (sender, receiver) = watch::channel(None);
        state.in_flight.insert(key.clone(), receiver.clone());
        drop(state);
        let (forwarder, route, asked) = (Arc::clone(self), route.clone(), asked.clone());
        // On a task of its own: the question goes on when the client that was first to ask goes away.
        tokio::spawn(async move {
            let guard = Finished { forwarder: &forwarder, key };
            let reply = Arc::new(forwarder.ask_all(&route, &asked).await);
            forwarder.lock().cache.put(guard.key.clone(), &reply, Instant::now());
            drop(guard);
            // Nobody may be waiting any more.
            let _ = sender.send(Some(reply));
        });
        receiver
    }

    async fn ask_all(&self, route: &Route, asked: &Asked) -> Reply {
        let Ok(_permit) = self.permits.try_acquire() else {
            self.metrics.refused.inc();
            return Reply::empty(ResponseCode::ServFail);
        };
        self.metrics.forwarded.inc();
        let started = Instant::now();
        let servers = self.in_order(&route.servers, started);
        let mut worst: Option<Reply> = None;
        // A single server is asked twice: a datagram may be lost on the way.
        let rounds = if servers.len() == 1 { 2 } else { 1 };
        for server in std::iter::repeat_n(&servers, rounds).flatten() {
            let left = PATIENCE.saturating_sub(started.elapsed());
            if left.is_zero() {
                break;
            }
            match self.ask_one(route, *server, asked, left.min(PATIENCE_FOR_ONE)).await {
                Ok(reply) if is_final(reply.code) => return reply,
                Ok(reply) => worst = Some(reply),
                Err(error) => {
                    tracing::debug!(%server, error = %error, "an upstream name server did not answer");
                    self.lock().demoted.insert(*server, Instant::now() + DEMOTION);
                }
            }
        }
        self.metrics.failures.inc();
        worst.unwrap_or_else(|| Reply::empty(ResponseCode::ServFail))
    }

    async fn ask_one(
        &self,
        route: &Route,
        server: SocketAddr,
        asked: &Asked,
        patience: Duration,
    ) -> Result<Reply, exchange::ExchangeError> {
        let reply = exchange::ask(&route.place, server, asked, true, patience).await?;
        if reply.code == ResponseCode::FormErr {
            // A server from before EDNS.
            return exchange::ask(&route.place, server, asked, false, patience).await;
        }
        Ok(reply)
    }

    /// Those first that answered last time.
    fn in_order(&self, servers: &[SocketAddr], now: Instant) -> Vec<SocketAddr> {
        let mut state = self.lock();
        state.demoted.retain(|_, until| now < *until);
        let (mut first, after): (Vec<_>, Vec<_>) =
            servers.iter().copied().partition(|server| !state.demoted.contains_key(server));
        first.extend(after);
        first
    }
}

/// Whether no other server would know better.
fn is_final(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

fn failed() -> Arc<Reply> {
    Arc::new(Reply::empty(ResponseCode::ServFail))
}

/// Takes a question off the list, however its task ends.
struct Finished<'a> {
    forwarder: &'a Forwarder,
    key: Key,
}

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.forwarder.lock().in_flight.remove(&self.key);
    }
}
