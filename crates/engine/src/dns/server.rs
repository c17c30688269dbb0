//! The name servers of this host's containers: sockets in each container's network namespace, answered from here.
//!
//! A container costs two sockets, two small tasks and one buffer. Questions about names of its networks are answered where
//! they are read; those that go on to an upstream server wait in tasks of their own, and there are only so many of them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::DNSClass;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};

use super::client::{Client, Upstream};
use super::directory::Directory;
use super::exchange::Place;
use super::forward::{self, Forwarder, Route};
use super::message::{self, Asked, Received, Reply, Transport};
use super::metrics::NameMetrics;
use super::sockets::{self, LeadError, ServeError, Sockets};
use super::zone::Finding;

/// Questions are much smaller.
const LARGEST_QUESTION: usize = 4096;
/// A TCP connection on which nothing comes is closed after this.
const IDLE: Duration = Duration::from_secs(10);
/// What the networks of a container that was there before this process have for names is waited for so long, before
/// questions are answered without it.
const PUBLISHED_BY: Duration = Duration::from_secs(10);
/// After an error of a socket that is no client's doing.
const RESPITE: Duration = Duration::from_millis(100);

/// How the name servers of a host behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServersConfig {
    /// The host's resolver file. It is read again when it changes.
    pub host_file: PathBuf,
    /// How long clients may keep an answer about our own names, in seconds.
    pub time_to_live: u32,
    /// So many questions of one container may wait for upstream servers.
    pub outstanding_per_container: usize,
    /// So many of all containers.
    pub outstanding: usize,
    /// So many TCP connections one container may have.
    pub connections_per_container: usize,
    /// So many answers of upstream servers are kept.
    pub cache_entries: usize,
}

impl Default for NameServersConfig {
    fn default() -> Self {
        Self {
            host_file: PathBuf::from("/etc/resolv.conf"),
            time_to_live: 5,
            outstanding_per_container: 256,
            outstanding: 2048,
            connections_per_container: 64,
            cache_entries: 4096,
        }
    }
}

/// The name servers of this host's containers.
#[derive(Debug)]
pub struct NameServers {
    config: NameServersConfig,
    directory: Arc<Directory>,
    forwarder: Arc<Forwarder>,
    metrics: NameMetrics,
    served: Mutex<HashMap<String, Served>>,
}

/// A container that is served. Its sockets close when this is dropped.
#[derive(Debug)]
struct Served {
    container: Arc<Container>,
    tasks: [AbortHandle; 2],
}

impl Drop for Served {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What both of a container's tasks need.
#[derive(Debug)]
struct Container {
    directory: Arc<Directory>,
    forwarder: Arc<Forwarder>,
    metrics: NameMetrics,
    time_to_live: u32,
    netns: Arc<File>,
    asker: RwLock<Arc<Asker>>,
    turn: AtomicUsize,
    outstanding: Arc<Semaphore>,
}

/// A client with the way to its upstream servers.
#[derive(Debug)]
struct Asker {
    client: Client,
    /// `None`: the host's servers, whoever they are at the time, or nobody.
    route: Option<Route>,
}

impl Asker {
    fn new(client: Client, netns: &Arc<File>) -> Arc<Self> {
        let route = match &client.upstream {
            Upstream::Servers(servers) => Some(Route {
                place: Place::Namespace(Arc::clone(netns)),
                servers: forward::addresses(servers),
                scope: forward::new_scope(),
            }),
            Upstream::Host | Upstream::Nobody => None,
        };
        Arc::new(Self { client, route })
    }
}

/// What is to be done about a packet.
enum Decision {
    Nothing,
    Answer(Vec<u8>),
    Forward(Box<Asked>, Route, OwnedSemaphorePermit),
}

impl NameServers {
    /// Serves nobody yet. Names come from the directory.
    #[must_use]
    pub fn new(config: NameServersConfig, directory: Arc<Directory>) -> Self {
        let metrics = NameMetrics::default();
        let forwarder =
            Forwarder::new(config.host_file.clone(), config.cache_entries, config.outstanding, metrics.clone());
        Self { config, directory, forwarder: Arc::new(forwarder), metrics, served: Mutex::default() }
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &NameMetrics {
        &self.metrics
    }

    /// Where names are published.
    #[must_use]
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Served>> {
        // Each change is a single insertion or removal, so a panic elsewhere leaves it whole.
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a container at 127.0.0.11:53 of its network namespace, whose loopback interface has to be up. One that is served
    /// already, e.g. by a `stackd` that is gone, is served anew.
    ///
    /// # Errors
    /// What the kernel refused. The container is then served as it was before.
    pub async fn serve(&self, id: &str, netns: &File, client: Client) -> Result<(), ServeError> {
        let open = |source| ServeError::Open { id: id.to_owned(), source };
        let sockets = Sockets::open(netns).map_err(open)?;
        self.serve_on(id, netns, client, sockets).await
    }

    /// Serves a container on sockets that are open already.
    ///
    /// # Errors
    /// What the kernel refused.
    pub async fn serve_on(&self, id: &str, netns: &File, client: Client, sockets: Sockets) -> Result<(), ServeError> {
        self.begin(id, netns, client, sockets, Duration::ZERO).await
    }

    /// Serves a container that ran while `stackd` was away, on sockets that somebody kept. Questions wait there until the names
    /// of its networks are published again: nobody hears that a service is unknown because `stackd` is just starting.
    ///
    /// # Errors
    /// What the kernel refused.
    pub async fn resume(&self, id: &str, netns: &File, client: Client, sockets: Sockets) -> Result<(), ServeError> {
        self.begin(id, netns, client, sockets, PUBLISHED_BY).await
    }

    async fn begin(
        &self,
        id: &str,
        netns: &File,
        client: Client,
        sockets: Sockets,
        patience: Duration,
    ) -> Result<(), ServeError> {
        let asking = Arc::new(client.clone());
        let register = |source| ServeError::Register { id: id.to_owned(), source };
        let netns = Arc::new(netns.try_clone().map_err(register)?);
        sockets::lead(&netns, &sockets)
            .await
            .map_err(|source: LeadError| ServeError::Rules { id: id.to_owned(), source })?;
        let (udp, tcp) = sockets.into_parts();
        let udp = UdpSocket::from_std(udp).map_err(register)?;
        let tcp = TcpListener::from_std(tcp).map_err(register)?;
        let container = Arc::new(Container {
            directory: Arc::clone(&self.directory),
            forwarder: Arc::clone(&self.forwarder),
            metrics: self.metrics.clone(),
            time_to_live: self.config.time_to_live,
            asker: RwLock::new(Asker::new(client, &netns)),
            netns,
            turn: AtomicUsize::new(usize::from(rand::random::<u16>())),
            outstanding: Arc::new(Semaphore::new(self.config.outstanding_per_container)),
        });
        let most = self.config.connections_per_container;
        let [by_udp, by_tcp] = [Arc::clone(&container), Arc::clone(&container)];
        let [first, second] = [Arc::clone(&asking), asking];
        let tasks = [
            tokio::spawn(async move {
                by_udp.wait_for_names(&first, patience).await;
                serve_udp(by_udp, Arc::new(udp)).await;
            })
            .abort_handle(),
            tokio::spawn(async move {
                by_tcp.wait_for_names(&second, patience).await;
                serve_tcp(by_tcp, tcp, most).await;
            })
            .abort_handle(),
        ];
        let mut served = self.lock();
        served.insert(id.to_owned(), Served { container, tasks });
        self.metrics.containers.set(i64::try_from(served.len()).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Changes what a container may ask, e.g. when it joins a network. Whether it is served at all.
    pub fn update(&self, id: &str, client: Client) -> bool {
        let served = self.lock();
        let Some(served) = served.get(id) else { return false };
        let asker = Asker::new(client, &served.container.netns);
        *served.container.asker.write().unwrap_or_else(PoisonError::into_inner) = asker;
        true
    }

    /// No longer serves a container. Its sockets, which keep its network namespace alive, are closed. One that is not served
    /// is no error.
    pub fn stop(&self, id: &str) {
        let mut served = self.lock();
        served.remove(id);
        self.metrics.containers.set(i64::try_from(served.len()).unwrap_or(i64::MAX));
    }

    /// The containers that are served, in no order.
    #[must_use]
    pub fn served(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }
}

impl Container {
    async fn wait_for_names(&self, client: &Client, patience: Duration) {
        if !patience.is_zero() {
            // What nobody publishes in that time nobody knows any more.
            let _ = tokio::time::timeout(patience, self.directory.wait_until_known(client)).await;
        }
    }

    fn decide(&self, bytes: &[u8], transport: Transport) -> Decision {
        let asked = match message::read(bytes) {
            Received::Query(asked) => asked,
            Received::Rejected(answer) => {
                self.metrics.malformed.inc();
                return Decision::Answer(answer);
            }
            Received::Silence => {
                self.metrics.malformed.inc();
                return Decision::Nothing;
            }
        };
        self.metrics.queries.inc();
        let asker = Arc::clone(&self.asker.read().unwrap_or_else(PoisonError::into_inner));
        let reply = match self.find(&asker.client, &asked) {
            Finding::Records(data) => Reply::found(&asked, data, self.time_to_live),
            Finding::NoSuchName => Reply::absent(),
            Finding::Elsewhere => {
                let route = match (&asker.route, &asker.client.upstream) {
                    (Some(route), _) => route.clone(),
                    (None, Upstream::Nobody) => {
                        self.metrics.answers.inc();
                        return Decision::Answer(self.write(&asked, &Reply::absent(), transport));
                    }
                    (None, Upstream::Host | Upstream::Servers(_)) => self.forwarder.host_route(),
                };
                if let Some(reply) = self.forwarder.remembered(&route, &asked) {
                    return Decision::Answer(self.write(&asked, &reply, transport));
                }
                let Ok(permit) = Arc::clone(&self.outstanding).try_acquire_owned() else {
                    self.metrics.refused.inc();
                    let refusal = Reply::empty(ResponseCode::ServFail);
                    return Decision::Answer(self.write(&asked, &refusal, transport));
                };
                return Decision::Forward(asked, route, permit);
            }
        };
        self.metrics.answers.inc();
        Decision::Answer(self.write(&asked, &reply, transport))
    }

    fn find(&self, client: &Client, asked: &Asked) -> Finding {
        match (&asked.key, asked.class) {
            (Some(key), DNSClass::IN | DNSClass::ANY) => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                self.directory.snapshot().find(client, key, asked.kind(), turn)
            }
            _ => Finding::Elsewhere,
        }
    }

    fn write(&self, asked: &Asked, reply: &Reply, transport: Transport) -> Vec<u8> {
        let written = message::write(asked, reply, transport);
        if written.truncated {
            self.metrics.truncated.inc();
        }
        written.bytes
    }

    async fn forward(&self, asked: &Asked, route: &Route, transport: Transport) -> Vec<u8> {
        let reply = self.forwarder.forward(route, asked).await;
        self.write(asked, &reply, transport)
    }
}

async fn serve_udp(container: Arc<Container>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; LARGEST_QUESTION];
    let mut waiting = JoinSet::new();
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "a name server's socket failed");
                tokio::time::sleep(RESPITE).await;
                continue;
            }
        };
        while waiting.try_join_next().is_some() {}
        match container.decide(buffer.get(..length).unwrap_or_default(), Transport::Udp) {
            Decision::Nothing => {}
            Decision::Answer(bytes) => {
                // A client that does not take its answer asks again.
                let _ = socket.send_to(&bytes, peer).await;
            }
            Decision::Forward(asked, route, permit) => {
                let (container, socket) = (Arc::clone(&container), Arc::clone(&socket));
                waiting.spawn(async move {
                    let bytes = container.forward(&asked, &route, Transport::Udp).await;
                    drop(permit);
                    let _ = socket.send_to(&bytes, peer).await;
                });
            }
        }
    }
}

async fn serve_tcp(container: Arc<Container>, listener: TcpListener, most: usize) {
    let permits = Arc::new(Semaphore::new(most));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a name server's socket accepts no connection");
                tokio::time::sleep(RESPITE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let container = Arc::clone(&container);
        connections.spawn(async move {
            if let Err(error) = converse(&container, stream).await {
                tracing::trace!(%error, "a connection to a name server ended");
            }
            drop(permit);
        });
    }
}

/// Answers questions in the order in which they come, until the client has no more.
async fn converse(container: &Container, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let timed_out = |_| io::Error::from(io::ErrorKind::TimedOut);
    loop {
        let question = tokio::time::timeout(IDLE, receive(&mut stream)).await.map_err(timed_out)??;
        let Some(question) = question else { return Ok(()) };
        let answer = match container.decide(&question, Transport::Tcp) {
            Decision::Nothing => return Ok(()),
            Decision::Answer(bytes) => bytes,
            Decision::Forward(asked, route, _permit) => container.forward(&asked, &route, Transport::Tcp).await,
        };
        // An answer is never longer than what it was allowed to be.
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut frame = Vec::with_capacity(2 + answer.len());
        frame.extend(length.to_be_bytes());
        frame.extend(answer);
        tokio::time::timeout(IDLE, stream.write_all(&frame)).await.map_err(timed_out)??;
    }
}

/// One question; `None` at the end.
async fn receive(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        length => usize::from(length?),
    };
    if length > LARGEST_QUESTION {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no question is that long"));
    }
    let mut question = vec![0; length];
    stream.read_exact(&mut question).await?;
    Ok(Some(question))
}
