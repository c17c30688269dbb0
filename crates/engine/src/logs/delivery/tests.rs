//! Tests of deliveries, with receivers on real sockets.

use std::fs;
use std::io::{IoSliceMut, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::path::Path;

use jiff::tz::TimeZone;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use stack_shim::log_record::{LONGEST_OUTPUT, Record, encode, file_name};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::container::Logging;
use crate::logs::Source;
use crate::logs::message::Sender as Origin;
use crate::logs::options::decide;
use crate::logs::subject::example;

const PATIENCE: Duration = Duration::from_secs(20);

struct Place {
    directory: tempfile::TempDir,
    writing: watch::Sender<bool>,
    names: Arc<tokio::sync::RwLock<()>>,
    counters: Counters,
    status: Status,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("logs")).unwrap();
        let (counters, status) = (Counters::default(), Status::default());
        Self { directory, writing: watch::channel(true).0, names: Arc::default(), counters, status }
    }

    fn logs(&self) -> std::path::PathBuf {
        self.directory.path().join("logs")
    }

    fn write(&self, file: u64, outputs: &[&[u8]]) {
        let mut bytes = Vec::new();
        for output in outputs {
            encode(&Record { time: 1_700_000_000_000_000_000, stream: Source::Stdout, output }, &mut bytes);
        }
        append(&self.logs().join(file_name(file)), &bytes);
    }

    fn lines(&self, file: u64, lines: std::ops::Range<u32>) {
        for line in lines {
            self.write(file, &[format!("line {line}\n").as_bytes()]);
        }
    }

    fn start(&self, driver: &str, options: &[(&str, &str)]) -> JoinHandle<()> {
        self.start_to(driver, options, |_| {})
    }

    fn start_to(&self, driver: &str, options: &[(&str, &str)], change: impl FnOnce(&mut Remote)) -> JoinHandle<()> {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let plan = decide(&Logging { driver: Some(driver.to_owned()), options, image_name: None }).unwrap();
        let origin = Origin { pid: 42, zone: TimeZone::UTC };
        let encoder = Encoder::new(&plan, &example(), origin).unwrap();
        let mut remote = plan.remote.unwrap();
        remote.retry_wait = Duration::from_millis(20);
        change(&mut remote);
        let delivery = Delivery {
            id: "example".to_owned(),
            directory: self.directory.path().to_owned(),
            logs: self.logs(),
            remote,
            encoder,
            writing: self.writing.subscribe(),
            names: Arc::clone(&self.names),
            status: self.status.clone(),
            counters: self.counters.clone(),
        };
        tokio::spawn(delivery.run())
    }

    fn cursor(&self) -> Option<Cursor> {
        CursorFile::new(self.directory.path()).load().unwrap()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let work = async {
            while !is_so(self) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.status.troubles()));
    }
}

fn append(path: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(bytes).unwrap();
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("it takes too long")
}

/// What comes behind the header of a line of syslog.
async fn next(lines: &mut (impl AsyncBufReadExt + Unpin)) -> String {
    let mut line = String::new();
    soon(lines.read_line(&mut line)).await.unwrap();
    line.split_once("]: ").map(|(_, text)| text.trim_end().to_owned()).unwrap_or(line)
}

fn numbered(lines: std::ops::Range<u32>) -> Vec<String> {
    lines.map(|line| format!("line {line}")).collect()
}

#[tokio::test]
async fn syslog_by_tcp_goes_on_after_the_receiver_and_after_the_sender_were_gone() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("tcp://{address}");
    let options = [("syslog-address", url.as_str())];
    place.lines(1, 0..3);
    let task = place.start("syslog", &options);
    let (stream, _) = soon(listener.accept()).await.unwrap();
    let mut reader = BufReader::new(stream);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(next(&mut reader).await);
    }
    place.until("the cursor is written", |place| place.cursor().is_some_and(|cursor| cursor.offset > 0)).await;
    // Nobody listens: it is told, and what is written meanwhile comes later, also from files that follow.
    drop((reader, listener));
    place.lines(1, 3..5);
    place.until("it is told", |place| !place.status.troubles().is_empty()).await;
    assert!(place.status.troubles()[0].contains(&format!("tcp://{address}")), "{:?}", place.status.troubles());
    assert!(place.counters.failures.get() > 0);
    place.lines(2, 5..8);
    let listener = TcpListener::bind(address).await.unwrap();
    let (stream, _) = soon(listener.accept()).await.unwrap();
    let mut reader = BufReader::new(stream);
    while seen.last().map(String::as_str) != Some("line 7") {
        seen.push(next(&mut reader).await);
    }
    assert_eq!(seen, numbered(0..8));
    place.until("all is well", |place| place.status.troubles().is_empty()).await;
    // Another process goes on where this one was.
    place.until("the cursor is written", |place| place.cursor().is_some_and(|cursor| cursor.file == 2)).await;
    task.abort();
    let _ = task.await;
    place.lines(2, 8..10);
    let _task = place.start("syslog", &options);
    let (stream, _) = soon(listener.accept()).await.unwrap();
    let mut reader = BufReader::new(stream);
    assert_eq!([next(&mut reader).await, next(&mut reader).await], ["line 8", "line 9"]);
    assert_eq!(place.counters.sent.get(), 10);
}

#[tokio::test]
async fn what_is_rotated_away_unsent_is_counted_and_told() {
    let place = Place::new();
    place.lines(1, 0..2);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("tcp://{address}");
    let _task = place.start("syslog", &[("syslog-address", &url)]);
    place.until("it is told", |place| !place.status.troubles().is_empty()).await;
    // The first is being offered; the second and third are never seen.
    for file in 1..=4 {
        place.lines(file, 10 * u32::try_from(file).unwrap()..10 * u32::try_from(file).unwrap() + 1);
    }
    for file in 2..=3 {
        fs::remove_file(place.logs().join(file_name(file))).unwrap();
    }
    let listener = TcpListener::bind(address).await.unwrap();
    let (stream, _) = soon(listener.accept()).await.unwrap();
    let mut reader = BufReader::new(stream);
    let mut seen = Vec::new();
    while seen.last().map(String::as_str) != Some("line 40") {
        seen.push(next(&mut reader).await);
    }
    assert_eq!(seen, ["line 0", "line 1", "line 10", "line 40"]);
    place.until("the loss is told", |place| place.cursor().is_some_and(|cursor| cursor.lost.files == 2)).await;
    assert!(
        place.status.troubles()[0].starts_with("2 files of the log were rotated away"),
        "{:?}",
        place.status.troubles()
    );
    assert_eq!(place.counters.lost_files.get(), 2);
}

#[tokio::test]
async fn a_container_that_is_removed_at_once_is_sent_to_its_end() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("tcp://{address}");
    let task = place.start("syslog", &[("syslog-address", &url)]);
    place.lines(1, 0..1);
    place.until("it is told", |place| !place.status.troubles().is_empty()).await;
    place.lines(1, 1..3);
    place.lines(2, 3..4);
    // As the engine removes it: it has ended, and the names of its files go once nobody needs them.
    let Place { directory, writing, names, .. } = place;
    writing.send(false).unwrap();
    drop(soon(names.write()).await);
    drop(directory);
    drop(writing);
    let listener = TcpListener::bind(address).await.unwrap();
    let (stream, _) = soon(listener.accept()).await.unwrap();
    let mut reader = BufReader::new(stream);
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(next(&mut reader).await);
    }
    assert_eq!(seen, numbered(0..4));
    soon(task).await.unwrap();
}

#[tokio::test]
async fn a_container_that_is_started_again_is_sent_on() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    place.lines(1, 0..1);
    let _task = place.start("syslog", &[("syslog-address", &url)]);
    let (stream, _) = soon(listener.accept()).await.unwrap();
    let mut reader = BufReader::new(stream);
    assert_eq!(next(&mut reader).await, "line 0");
    place.writing.send(false).unwrap();
    let mut nothing = String::new();
    assert_eq!(soon(reader.read_line(&mut nothing)).await.unwrap(), 0, "the connection is closed");
    place.writing.send(true).unwrap();
    place.lines(1, 1..2);
    place.lines(2, 2..3);
    let (stream, _) = soon(listener.accept()).await.unwrap();
    let mut reader = BufReader::new(stream);
    assert_eq!([next(&mut reader).await, next(&mut reader).await], ["line 1", "line 2"]);
}

#[tokio::test]
async fn syslog_by_udp_and_by_sockets_of_the_host() {
    let place = Place::new();
    place.lines(1, 0..1);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let url = format!("udp://{}", socket.local_addr().unwrap());
    let mut buffer = [0; 2000];
    let task = place.start("syslog", &[("syslog-address", &url), ("syslog-format", "rfc5424")]);
    let length = soon(socket.recv(&mut buffer)).await.unwrap();
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert_eq!(text, "<30>1 2023-11-14T22:13:20Z host-1 0123456789ab 42 0123456789ab - line 0\n");
    task.abort();

    let place = Place::new();
    place.lines(1, 0..1);
    let path = place.directory.path().join("datagrams");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::UnixDatagram::from_std(socket).unwrap();
    let task = place.start("syslog", &[("syslog-address", &format!("unixgram://{}", path.display()))]);
    let length = soon(socket.recv(&mut buffer)).await.unwrap();
    assert!(buffer[..length].ends_with(b"0123456789ab[42]: line 0\n"));
    task.abort();

    let place = Place::new();
    place.lines(1, 0..1);
    let path = place.directory.path().join("stream");
    let listener = UnixListener::bind(&path).unwrap();
    let _task = place.start("syslog", &[("syslog-address", &format!("unix://{}", path.display()))]);
    let (stream, _) = soon(listener.accept()).await.unwrap();
    assert_eq!(next(&mut BufReader::new(stream)).await, "line 0");
}

/// A certificate of its own for 127.0.0.1, and a listener's side of TLS with it.
fn receiver_in_tls(place: &Path) -> (std::path::PathBuf, tokio_rustls::TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let path = place.join("ca.pem");
    fs::write(&path, made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (path, tokio_rustls::TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn syslog_in_tls_knows_whom_it_talks_to() {
    let place = Place::new();
    place.lines(1, 0..2);
    let (authority, acceptor) = receiver_in_tls(place.directory.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp+tls://{}", listener.local_addr().unwrap());
    let format = ("syslog-format", "rfc5424");
    // Whom nobody vouches for gets nothing.
    let task = place.start("syslog", &[("syslog-address", &url), format]);
    let (stream, _) = soon(listener.accept()).await.unwrap();
    assert!(soon(acceptor.accept(stream)).await.is_err());
    place.until("it is told", |place| !place.status.troubles().is_empty()).await;
    assert!(place.status.troubles()[0].contains("certificate"), "{:?}", place.status.troubles());
    task.abort();
    let authority = authority.display().to_string();
    for trust in [("syslog-tls-ca-cert", authority.as_str()), ("syslog-tls-skip-verify", "true")] {
        let place = Place::new();
        place.lines(1, 0..2);
        let task = place.start("syslog", &[("syslog-address", &url), format, trust]);
        let mut stream = loop {
            // One of the first task's may still be waiting.
            let (stream, _) = soon(listener.accept()).await.unwrap();
            if let Ok(stream) = soon(acceptor.accept(stream)).await {
                break stream;
            }
        };
        let one = "<30>1 2023-11-14T22:13:20Z host-1 0123456789ab 42 0123456789ab - line 0\n";
        let expected = format!("{} {one}{} {}", one.len(), one.len(), one.replace("line 0", "line 1"));
        let mut bytes = vec![0; expected.len()];
        soon(stream.read_exact(&mut bytes)).await.unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        place.until("it knows that it was taken", |place| place.cursor().is_some()).await;
        task.abort();
    }
}

#[tokio::test]
async fn gelf_by_tcp_and_udp() {
    let place = Place::new();
    let long = "y".repeat(10_000) + "\n";
    place.write(1, &[b"one\n", long.as_bytes()]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let task = place.start("gelf", &[("gelf-address", &url)]);
    let (stream, _) = soon(listener.accept()).await.unwrap();
    let mut reader = BufReader::new(stream);
    for expected in ["one", long.trim_end()] {
        let mut message = Vec::new();
        soon(reader.read_until(0, &mut message)).await.unwrap();
        let message: serde_json::Value = serde_json::from_slice(&message[..message.len() - 1]).unwrap();
        assert_eq!(message["short_message"], expected);
        assert_eq!(message["_container_name"], "web");
    }
    task.abort();

    let place = Place::new();
    place.write(1, &[b"one\n", long.as_bytes()]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let url = format!("udp://{}", socket.local_addr().unwrap());
    let _task = place.start("gelf", &[("gelf-address", &url), ("gelf-compression-type", "none")]);
    let mut buffer = [0; 2000];
    let length = soon(socket.recv(&mut buffer)).await.unwrap();
    let message: serde_json::Value = serde_json::from_slice(&buffer[..length]).unwrap();
    assert_eq!(message["short_message"], "one");
    let (mut together, mut parts) = (Vec::new(), 0);
    loop {
        let length = soon(socket.recv(&mut buffer)).await.unwrap();
        assert_eq!((&buffer[..2], buffer[10]), (&[0x1e, 0x0f][..], parts));
        together.extend_from_slice(&buffer[12..length]);
        parts += 1;
        if parts == buffer[11] {
            break;
        }
    }
    let message: serde_json::Value = serde_json::from_slice(&together).unwrap();
    assert_eq!(message["short_message"], long.trim_end());
}

/// Reads one value of MessagePack, as JSON; bytes of extensions as a list.
fn unpack(bytes: &mut &[u8]) -> Option<serde_json::Value> {
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = bytes.split_at_checked(count)?;
        *bytes = rest;
        Some(taken)
    }
    fn size(bytes: &mut &[u8], width: usize) -> Option<usize> {
        Some(take(bytes, width)?.iter().fold(0, |sum, byte| sum * 256 + usize::from(*byte)))
    }
    let first = take(bytes, 1)?[0];
    let text = |bytes: &mut &[u8], length| Some(String::from_utf8_lossy(take(bytes, length)?).into_owned().into());
    let list = |bytes: &mut &[u8], length| (0..length).map(|_| unpack(bytes)).collect::<Option<Vec<_>>>();
    let map = |bytes: &mut &[u8], length| {
        let pairs: Option<serde_json::Map<_, _>> =
            (0..length).map(|_| Some((unpack(bytes)?.as_str().unwrap().to_owned(), unpack(bytes)?))).collect();
        Some(pairs?.into())
    };
    match first {
        0..=0x7f => Some(first.into()),
        0x80..=0x8f => map(bytes, usize::from(first & 15)),
        0x90..=0x9f => Some(list(bytes, usize::from(first & 15))?.into()),
        0xa0..=0xbf => text(bytes, usize::from(first & 31)),
        0xcc..=0xcf => Some(size(bytes, 1 << (first - 0xcc))?.into()),
        0xd7 => Some(take(bytes, 9)?.to_vec().into()),
        0xd9..=0xdb => {
            let length = size(bytes, 1 << (first - 0xd9))?;
            text(bytes, length)
        }
        0xdc | 0xdd => {
            let length = size(bytes, 2 << (first - 0xdc))?;
            Some(list(bytes, length)?.into())
        }
        other => panic!("byte {other:x}"),
    }
}

async fn message(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> serde_json::Value {
    loop {
        let mut rest = &bytes[..];
        if !rest.is_empty()
            && let Some(value) = unpack(&mut rest)
        {
            let length = bytes.len() - rest.len();
            bytes.drain(..length);
            return value;
        }
        assert!(soon(stream.read_buf(bytes)).await.unwrap() > 0, "it ended");
    }
}

#[tokio::test]
async fn fluentd_gets_long_lines_in_parts_and_what_it_did_not_confirm_again() {
    let place = Place::new();
    let long = vec![b'z'; LONGEST_OUTPUT];
    place.write(1, &[b"one\n", &long, &long, b"end\n", b"\xff\n"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let options = [
        ("fluentd-address", address.as_str()),
        ("fluentd-request-ack", "true"),
        ("fluentd-sub-second-precision", "true"),
        ("tag", "docker.{{.Name}}"),
    ];
    let _task = place.start("fluentd", &options);
    let (mut first, _) = soon(listener.accept()).await.unwrap();
    let sent = message(&mut first, &mut Vec::new()).await;
    assert_eq!(sent[0], "docker.web");
    let entries = sent[1].as_array().unwrap();
    let record = |index: usize| &entries[index][1];
    assert_eq!(record(0)["log"], "one");
    assert_eq!(record(0)["container_name"], "web");
    assert_eq!(record(0)["partial_message"], serde_json::Value::Null);
    for (index, ordinal, last) in [(1, "1", "false"), (2, "2", "false"), (3, "3", "true")] {
        assert_eq!(record(index)["partial_ordinal"], ordinal);
        assert_eq!(record(index)["partial_last"], last);
        assert_eq!(record(index)["partial_id"], record(1)["partial_id"]);
    }
    assert_eq!(entries.len(), 5);
    assert_eq!(sent[2]["size"], 5);
    // Gone without a word: it is sent once more, and the name of a long line is the same.
    drop(first);
    let (mut second, _) = soon(listener.accept()).await.unwrap();
    let mut bytes = Vec::new();
    let again = message(&mut second, &mut bytes).await;
    assert_eq!(again, sent);
    assert_eq!(place.cursor(), None, "nothing is confirmed");
    let chunk = again[2]["chunk"].as_str().unwrap();
    let answer = [&[0x81, 0xa3][..], b"ack", &[0xa0 | u8::try_from(chunk.len()).unwrap()], chunk.as_bytes()].concat();
    second.write_all(&answer).await.unwrap();
    place.until("the cursor is written", |place| place.cursor().is_some()).await;
    place.write(1, &[b"two\n"]);
    let next = message(&mut second, &mut bytes).await;
    assert_eq!(next[1][0][1]["log"], "two");
}

#[tokio::test]
async fn fluentd_gives_up_after_as_many_attempts_as_it_is_allowed() {
    let place = Place::new();
    place.lines(1, 0..3);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let options = [("fluentd-address", address.as_str()), ("fluentd-async", "true"), ("fluentd-max-retries", "2")];
    let _task = place.start("fluentd", &options);
    place.until("it is given up", |place| place.cursor().is_some_and(|cursor| cursor.lost.lines == 3)).await;
    assert_eq!((place.counters.failures.get(), place.counters.lost_lines.get()), (3, 3));
    let troubles = place.status.troubles();
    assert!(troubles[1].starts_with("3 lines of the log could not be sent"), "{troubles:?}");
}

#[tokio::test]
async fn the_journal_gets_fields_and_large_entries_as_sealed_files() {
    let place = Place::new();
    let path = place.directory.path().join("journal");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let receiver = tokio::net::UnixDatagram::from_std(socket).unwrap();
    place.write(1, &[b"one\n"]);
    let task = place.start_to("journald", &[], |remote| remote.endpoint = Endpoint::Journal(path.clone()));
    let mut buffer = vec![0; 1 << 16];
    let length = soon(receiver.recv(&mut buffer)).await.unwrap();
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert!(text.starts_with("MESSAGE=one\nPRIORITY=6\n") && text.contains("\nCONTAINER_NAME=web\n"), "{text}");
    task.abort();
    // Longer than any datagram.
    let large = vec![b'v'; 4 << 20];
    let mut connection = Connection::open(&Endpoint::Journal(path.clone()), Duration::from_secs(5)).await.unwrap();
    let batch = Batch { messages: vec![large.clone()], ..Batch::default() };
    assert_eq!(soon(connection.send(&batch)).await.unwrap(), 0);
    soon(receiver.readable()).await.unwrap();
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut empty = [0; 16];
    let mut slices = [IoSliceMut::new(&mut empty)];
    let received = recvmsg::<()>(receiver.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty()).unwrap();
    assert_eq!(received.bytes, 0);
    let descriptor = match received.cmsgs().unwrap().next() {
        Some(ControlMessageOwned::ScmRights(all)) => all[0],
        other => panic!("{other:?}"),
    };
    // SAFETY: the kernel has just made it for us.
    let mut file = unsafe { fs::File::from_raw_fd(descriptor) };
    let seals = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_GET_SEALS).unwrap();
    assert_eq!(seals & libc::F_SEAL_WRITE, libc::F_SEAL_WRITE);
    let mut found = Vec::new();
    use std::io::Seek as _;
    file.rewind().unwrap();
    file.read_to_end(&mut found).unwrap();
    assert!(found == large);
    // Nobody else would know what to do with a file.
    let mut connection = Connection::open(&Endpoint::UnixDatagram(path), Duration::from_secs(5)).await.unwrap();
    assert_eq!(soon(connection.send(&batch)).await.unwrap(), 1, "it does not fit");
}

#[tokio::test]
async fn who_takes_nothing_is_given_up_and_asked_again() {
    let place = Place::new();
    let path = place.directory.path().join("stream");
    let listener = UnixListener::bind(&path).unwrap();
    place.lines(1, 0..1);
    let url = format!("unix://{}", path.display());
    let _task = place.start_to("syslog", &[("syslog-address", &url)], |remote| {
        remote.timeout = Duration::from_millis(200);
    });
    // It is connected to, and reads nothing.
    let (_deaf, _) = soon(listener.accept()).await.unwrap();
    place.until("it is told", |place| !place.status.troubles().is_empty()).await;
    assert!(place.status.troubles()[0].contains("nobody took it"), "{:?}", place.status.troubles());
    let (stream, _) = soon(listener.accept()).await.unwrap();
    let mut reader = BufReader::new(stream);
    assert_eq!(next(&mut reader).await, "line 0");
    place.until("all is well", |place| place.status.troubles().is_empty()).await;
}

#[tokio::test]
async fn nobody_at_the_other_end_is_said_before_a_start() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = [("syslog-address".to_owned(), format!("tcp://{address}"))].into();
    let remote =
        decide(&Logging { driver: Some("syslog".to_owned()), options, image_name: None }).unwrap().remote.unwrap();
    reach(&remote).await.unwrap();
    drop(listener);
    let text = reach(&remote).await.unwrap_err().text();
    assert!(text.starts_with(&format!("dial tcp://{address}: ")) && text.contains("refused"), "{text}");
}
