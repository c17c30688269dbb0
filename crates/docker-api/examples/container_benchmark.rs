//! What containers cost, by the Docker API of one daemon or of several:
//! `container_benchmark [--one-at-a-time] ROUNDS NAME=SOCKET...`.
//!
//! Each daemon must have the image `busybox:bench`. Round by round, and within a round one daemon after the other, so that all
//! share what else the machine does. A line for each figure: its row, the daemon, milliseconds.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a benchmark that cannot go on says why and ends")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use serde_json::{Value, json};

/// How many containers are started at once.
const AT_ONCE: usize = 50;
/// How many requests a daemon gets at once meanwhile.
const CLIENTS: usize = 50;

/// What stays until it is asked to end.
const IDLE: [&str; 3] = ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"];

/// A kept connection to a daemon.
struct Connection {
    stream: BufReader<UnixStream>,
}

impl Connection {
    fn open(socket: &str) -> Self {
        let stream = UnixStream::connect(socket).expect("the daemon listens");
        Self { stream: BufReader::new(stream) }
    }

    /// One request, and its answer's status and body.
    fn ask(&mut self, method: &str, path: &str, body: &Value) -> (u16, Vec<u8>) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        self.stream.get_mut().write_all(head.as_bytes()).expect("the daemon takes a request");
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the daemon answers");
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("an HTTP status");
        let (mut length, mut chunked) = (0, false);
        loop {
            line.clear();
            self.stream.read_line(&mut line).expect("the daemon answers");
            let lower = line.trim().to_lowercase();
            match lower.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().expect("a length"),
                Some(("transfer-encoding", "chunked")) => chunked = true,
                Some(_) => {}
                None => break,
            }
        }
        let mut body = Vec::new();
        loop {
            if chunked {
                line.clear();
                self.stream.read_line(&mut line).expect("a chunk");
                length = usize::from_str_radix(line.trim(), 16).expect("a chunk's length");
            }
            let start = body.len();
            body.resize(start + length, 0);
            self.stream.read_exact(body.get_mut(start..).unwrap_or_default()).expect("the whole body");
            if chunked {
                line.clear();
                self.stream.read_line(&mut line).expect("a chunk's end");
            }
            if !chunked || length == 0 {
                return (status, body);
            }
        }
    }

    fn must(&mut self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(method, path, body);
        assert!((200..400).contains(&status), "{method} {path}: {status} {}", String::from_utf8_lossy(&answer));
        serde_json::from_slice(&answer).unwrap_or(Value::Null)
    }

    fn create(&mut self, network: &str, command: &[&str]) -> String {
        let config = json!({"Image": "busybox:bench", "Cmd": command, "HostConfig": {"NetworkMode": network}});
        let made = self.must("POST", "/containers/create", &config);
        made.get("Id").and_then(Value::as_str).expect("an id").to_owned()
    }

    fn act(&mut self, id: &str, action: &str) {
        self.must("POST", &format!("/containers/{id}/{action}"), &Value::Null);
    }

    fn remove(&mut self, id: &str) {
        self.must("DELETE", &format!("/containers/{id}?force=1&v=1"), &Value::Null);
    }
}

/// A daemon that is measured.
struct Daemon {
    name: String,
    socket: String,
}

impl Daemon {
    fn told(&self, row: &str, began: Instant) {
        println!("{row} {} {:.2}", self.name, began.elapsed().as_secs_f64() * 1000.0);
    }

    fn round(&self) {
        let mut daemon = Connection::open(&self.socket);
        for (network, row) in [("bridge", ""), ("none", "_alone")] {
            // All of a short life.
            let began = Instant::now();
            let id = daemon.create(network, &["true"]);
            daemon.act(&id, "start");
            daemon.act(&id, "wait");
            daemon.remove(&id);
            self.told(&format!("api_run{row}"), began);
            let began = Instant::now();
            let id = daemon.create(network, &IDLE);
            self.told(&format!("api_create{row}"), began);
            let starting = Instant::now();
            daemon.act(&id, "start");
            self.told(&format!("api_start{row}"), starting);
            self.told(&format!("api_create_start{row}"), began);
            if row.is_empty() {
                let began = Instant::now();
                let path = format!("/containers/{id}/exec");
                let exec = daemon.must("POST", &path, &json!({"Cmd": ["true"], "AttachStdout": true}));
                let exec = exec.get("Id").and_then(Value::as_str).expect("an id").to_owned();
                // A connection of its own: it is given up to the streams, and closed at their end.
                let mut streams = UnixStream::connect(&self.socket).expect("the daemon listens");
                let body = json!({"Detach": false, "Tty": false}).to_string();
                let head = format!(
                    "POST /exec/{exec}/start HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n\
                     Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                streams.write_all(head.as_bytes()).expect("the daemon takes a request");
                streams.read_to_end(&mut Vec::new()).expect("the end of the streams");
                self.told("api_exec", began);
                let began = Instant::now();
                daemon.act(&id, "stop?t=10");
                self.told("api_stop", began);
                let began = Instant::now();
                daemon.remove(&id);
                self.told("api_remove", began);
            } else {
                daemon.remove(&id);
            }
        }
    }

    /// Many are started and removed at once.
    fn crowd(&self) {
        let mut daemon = Connection::open(&self.socket);
        let ids: Vec<String> = (0..AT_ONCE).map(|_| daemon.create("bridge", &IDLE)).collect();
        let began = Instant::now();
        self.at_once(&ids, |daemon, id| daemon.act(id, "start"));
        self.told("api_start_many", began);
        let began = Instant::now();
        self.at_once(&ids, Connection::remove);
        self.told("api_remove_many", began);
    }

    fn at_once(&self, ids: &[String], work: impl Fn(&mut Connection, &str) + Sync) {
        let share = ids.len().div_ceil(CLIENTS);
        std::thread::scope(|scope| {
            for some in ids.chunks(share) {
                let work = &work;
                scope.spawn(move || {
                    let mut daemon = Connection::open(&self.socket);
                    some.iter().for_each(|id| work(&mut daemon, id));
                });
            }
        });
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: container_benchmark [--one-at-a-time] ROUNDS NAME=SOCKET...";
    let (one_at_a_time, rest) = match arguments.split_first() {
        Some((first, rest)) if first == "--one-at-a-time" => (true, rest),
        _ => (false, arguments.as_slice()),
    };
    let (rounds, daemons) = rest.split_first().expect(usage);
    let rounds: usize = rounds.parse().expect(usage);
    let named = daemons.iter().map(|daemon| daemon.split_once('=').expect(usage));
    let daemons: Vec<Daemon> =
        named.map(|(name, socket)| Daemon { name: name.to_owned(), socket: socket.to_owned() }).collect();
    for _ in 0..rounds {
        daemons.iter().for_each(Daemon::round);
        if !one_at_a_time {
            daemons.iter().for_each(Daemon::crowd);
        }
    }
}
