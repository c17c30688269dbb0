//! A host for the tests: a `stackd` in a network namespace, control groups and directories of its own, its Docker socket, and
//! everything that there is of it. Whatever a test leaves is taken away, also when it fails.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use stack_testkit::namespaced::programs;

/// No wait of these tests is longer, however busy the machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long nothing may change before a host counts as at rest.
const REST: Duration = Duration::from_millis(120);
/// How the bridges are called.
const PREFIX: &str = "crash";

/// The daemon went away before it had answered, and how that was noticed.
#[derive(Debug)]
pub struct Gone(#[allow(dead_code, reason = "told where nobody killed it")] pub String);

/// One host.
pub struct World {
    place: tempfile::TempDir,
    group: String,
    daemon: Option<Child>,
    /// Of each hierarchy: the group above the containers'.
    groups: Vec<PathBuf>,
    /// The daemon may refuse what is asked of it, as somebody kills what it works with.
    pub may_refuse: AtomicBool,
}

impl World {
    /// Moves this thread into a network of its own and starts a daemon there.
    pub fn make(name: &str) -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        run(Command::new("ip").args(["link", "set", "lo", "up"]));
        // What a network of macvlan is on.
        run(Command::new("ip").args(["link", "add", "parent0", "type", "veth", "peer", "name", "beyond0"]));
        let group = format!("stack-crash-{name}-{}", std::process::id());
        let place = tempfile::Builder::new().prefix(&group).tempdir().unwrap();
        let settings = format!(
            "state_dir = {:?}\nrun_dir = {:?}\ncgroup_parent = \"/{group}\"\n\n[network]\nprefix = \"{PREFIX}\"\n",
            place.path().join("state"),
            place.path().join("run"),
        );
        fs::write(place.path().join("stackd.toml"), settings).unwrap();
        fs::create_dir(place.path().join("points")).unwrap();
        let mut world = Self { place, group, daemon: None, groups: Vec::new(), may_refuse: AtomicBool::new(false) };
        world.start();
        world
    }

    pub fn path(&self) -> &Path {
        self.place.path()
    }

    fn point_file(&self, name: &str) -> PathBuf {
        self.path().join("points").join(name)
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.path().join("log")).unwrap();
        let child = Command::new(programs().join("stackd"))
            .arg("--config")
            .arg(self.path().join("stackd.toml"))
            .env("STACK_CRASH_POINTS", self.path().join("points"))
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while !matches!(self.ask("GET", "/_ping", None), Ok((200, _))) {
            let ended = self.daemon.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the daemon has ended: {ended:?}\n{}", self.log());
            assert!(Instant::now() < deadline, "the daemon does not answer\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// From now on the points that are come by are noted.
    pub fn note_points(&self) {
        fs::write(self.point_file("reached"), "").unwrap();
    }

    /// The points that were come by since, in order.
    pub fn noted_points(&self) -> Vec<String> {
        let text = fs::read_to_string(self.point_file("reached")).unwrap();
        fs::remove_file(self.point_file("reached")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The daemon ends when it comes by this point for the `times`th time from now on.
    pub fn arm(&self, point: &str, times: usize) {
        fs::write(self.point_file("armed.new"), format!("{point} {times}\n")).unwrap();
        fs::rename(self.point_file("armed.new"), self.point_file("armed")).unwrap();
    }

    /// The daemon stands still when it comes by this point for the `times`th time from now on.
    pub fn hold(&self, point: &str, times: usize) {
        fs::write(self.point_file("held.new"), format!("{point} {times}\n")).unwrap();
        fs::rename(self.point_file("held.new"), self.point_file("held")).unwrap();
    }

    /// Whether it stands there.
    pub fn is_held(&self) -> bool {
        self.point_file("holding").exists()
    }

    /// It goes on, or is held no more.
    pub fn release(&self) {
        for name in ["held", "holding"] {
            let _ = fs::remove_file(self.point_file(name));
        }
    }

    /// The shims of a container: of its first process (`run`), or of a further one (`exec`).
    pub fn shims(&self, container: &str, kind: &str) -> Vec<i32> {
        let place = self.path().to_str().unwrap();
        let is_meant = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word)).collect();
            words[0].ends_with("stack-shim")
                && words.get(1).is_some_and(|word| *word == kind)
                && words.iter().any(|word| word.contains(container))
        };
        pids_of(place).into_iter().filter(is_meant).collect()
    }

    /// The processes in the control groups of a container.
    pub fn members(&self, container: &str) -> Vec<i32> {
        let all = groups(&self.group).into_iter().flat_map(|parent| directories(&parent));
        let own = all.filter(|group| group.to_string_lossy().contains(container));
        let members = own.flat_map(|group| {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>()
        });
        let mut members: Vec<i32> = members.collect();
        members.sort_unstable();
        members.dedup();
        members
    }

    /// Whether the daemon ended where it was armed to.
    pub fn has_crashed(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let ended = loop {
            match self.daemon.as_mut().unwrap().try_wait().unwrap() {
                Some(status) => break Some(status),
                None if Instant::now() >= deadline => break None,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        fs::remove_file(self.point_file("armed")).unwrap();
        ended.as_ref().and_then(ExitStatus::signal) == Some(libc::SIGKILL)
    }

    /// One request to the daemon's Docker socket: status and body.
    pub fn ask(&self, method: &str, path: &str, body: Option<(&str, &[u8])>) -> io::Result<(u16, Vec<u8>)> {
        let mut stream = UnixStream::connect(self.path().join("run/docker.sock"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (kind, bytes) = body.unwrap_or(("application/json", b""));
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nX-Registry-Auth: e30=\r\n\
             Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(bytes)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(cut)?;
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut)?;
        let rest = &answer[end + 4..];
        let body =
            if head.contains("transfer-encoding: chunked") { chunks(rest).ok_or_else(cut)? } else { rest.into() };
        Ok((status, body))
    }

    /// One request that the daemon must grant, unless it goes away meanwhile.
    pub fn request(&self, method: &str, path: &str, body: Option<(&str, &[u8])>) -> Result<Value, Gone> {
        let (status, answer) =
            self.ask(method, path, body).map_err(|error| Gone(format!("{method} {path}: {error}")))?;
        let text = String::from_utf8_lossy(&answer);
        let is_fine = (200..400).contains(&status) && !text.contains("errorDetail");
        if !is_fine && self.may_refuse.load(Ordering::Relaxed) {
            return Err(Gone(format!("{method} {path}: {status} {text}")));
        }
        assert!(is_fine, "{method} {path}: {status} {text}\n{}", self.log());
        Ok(serde_json::from_slice(&answer).unwrap_or(Value::Null))
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Gone> {
        let text = body.to_string();
        let body = (!body.is_null()).then_some(("application/json", text.as_bytes()));
        self.request("POST", path, body)
    }

    pub fn get(&self, path: &str) -> Value {
        self.request("GET", path, None).expect("the daemon runs")
    }

    /// Asks for the end of something that may be gone.
    pub fn delete(&self, path: &str) {
        let (status, text) = self.ask("DELETE", path, None).expect("the daemon runs");
        let text = String::from_utf8_lossy(&text);
        assert!(matches!(status, 200..=299 | 404), "DELETE {path}: {status} {text}\n{}", self.log());
    }

    /// The first process of a container that runs.
    pub fn pid(&self, container: &str) -> i64 {
        self.get(&format!("/containers/{container}/json"))["State"]["Pid"].as_i64().unwrap()
    }

    /// What there is, once nothing changes any more.
    pub fn at_rest(&mut self) -> Seen {
        let deadline = Instant::now() + PATIENCE;
        let mut before = self.see();
        loop {
            std::thread::sleep(REST);
            let now = self.see();
            if now == before && now.is_cleared_up() {
                return now;
            }
            assert!(Instant::now() < deadline, "it does not come to rest: {}", now.against(&before));
            before = now;
        }
    }

    /// What there is becomes one of these before long.
    pub fn becomes(&mut self, expected: &[&Seen], patience: Duration) -> Result<(), Seen> {
        let deadline = Instant::now() + patience;
        loop {
            let now = self.see();
            if expected.iter().any(|seen| **seen == now) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(now);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Everything that there is of this host now: what the daemon says, and what the kernel and the disk have.
    pub fn see(&mut self) -> Seen {
        let mut seen = Seen::default();
        self.see_answers(&mut seen);
        self.see_files(&mut seen);
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let place = self.path().to_str().unwrap().to_owned();
        for mount in mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|path| path.starts_with(&place)) {
            seen.add(format!("mount {}", mount.trim_start_matches(&place)));
        }
        if self.groups.is_empty() {
            self.groups = groups(&self.group);
        }
        for parent in &self.groups {
            for group in directories(parent) {
                seen.add(format!("group {}", group.strip_prefix(parent).unwrap().display()));
                let limits = ["memory.max", "memory.limit_in_bytes"].map(|name| fs::read_to_string(group.join(name)));
                limits.iter().flatten().for_each(|limit| seen.add(format!("limit {}", limit.trim())));
            }
        }
        for line in fs::read_to_string("/proc/thread-self/net/dev").unwrap().lines().skip(2) {
            let name = line.split(':').next().unwrap().trim();
            // A bridge has a number, a container's link has its address.
            let is_bridge = name.strip_prefix(PREFIX).is_some_and(|rest| rest.len() < 5);
            seen.add(if name.starts_with(PREFIX) && !is_bridge { "link".to_owned() } else { format!("link {name}") });
        }
        let rules = Command::new("nft").args(["list", "ruleset"]).output().expect("Debian's nftables is installed");
        for line in String::from_utf8_lossy(&rules.stdout).lines() {
            seen.add(format!("rule {}", line.trim()));
        }
        for arguments in processes_of(&place) {
            seen.add(format!("process {} {}", arguments[0], arguments.get(1).cloned().unwrap_or_default()));
        }
        seen
    }

    fn see_answers(&self, seen: &mut Seen) {
        for container in self.get("/containers/json?all=1").as_array().unwrap() {
            let id = container["Id"].as_str().unwrap();
            let Ok((200, answer)) = self.ask("GET", &format!("/containers/{id}/json"), None) else { continue };
            let found: Value = serde_json::from_slice(&answer).unwrap();
            let networks: Vec<&String> =
                found["NetworkSettings"]["Networks"].as_object().map(|all| all.keys().collect()).unwrap_or_default();
            seen.add(format!(
                "container {} {} memory {} networks {networks:?}",
                found["Name"], found["State"]["Status"], found["HostConfig"]["Memory"]
            ));
        }
        for volume in self.get("/volumes")["Volumes"].as_array().unwrap() {
            seen.add(format!("volume {}", volume["Name"].as_str().unwrap()));
        }
        for network in self.get("/networks").as_array().unwrap() {
            seen.add(format!("network {}", network["Name"].as_str().unwrap()));
        }
        for image in self.get("/images/json?all=1").as_array().unwrap() {
            seen.add(format!("image {}", image["RepoTags"]));
        }
    }

    fn see_files(&self, seen: &mut Seen) {
        let mut left = vec![self.path().join("state"), self.path().join("run")];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok) {
                let path = entry.path();
                let short = path.strip_prefix(self.path()).unwrap().to_str().unwrap().to_owned();
                seen.add(format!("file {short}"));
                // What is inside of these is not the engine's, or goes with them.
                let is_content =
                    ["_data", "upper", "work", "logs", "exec", "root"].iter().any(|name| short.ends_with(name));
                if !is_content && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    left.push(path);
                }
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let place = self.path().to_str().unwrap().to_owned();
        for parent in groups(&self.group) {
            let mut all = directories(&parent);
            all.reverse();
            for group in all.iter().chain([&parent]) {
                let deadline = Instant::now() + Duration::from_secs(10);
                while group.exists() && fs::remove_dir(group).is_err() && Instant::now() < deadline {
                    // What is frozen does not end.
                    let _ = fs::write(group.join("freezer.state"), "THAWED");
                    for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
                        let _ = kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL);
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }
        for pid in pids_of(&place) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
        for mount in mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|path| path.starts_with(&place)) {
            let _ = nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// What there is of a host: a line for each thing, with how many there are of them. Names that are drawn are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen(BTreeMap<String, u32>);

impl Seen {
    fn add(&mut self, line: String) {
        *self.0.entry(without_drawn(&line)).or_default() += 1;
    }

    /// Nothing is left of the last run of a container that does not run.
    fn is_cleared_up(&self) -> bool {
        let count = |is_meant: &dyn Fn(&str) -> bool| -> u32 {
            self.0.iter().filter(|(line, _)| is_meant(line)).map(|(_, count)| count).sum()
        };
        let runs = |line: &str| line.contains("\" \"running\"") || line.contains("\" \"paused\"");
        count(&|line| line.starts_with("container ") && runs(line)) == count(&|line| line == "file run/containers/#")
    }

    /// The same without what lines that begin so tell.
    pub fn without(&self, beginnings: &[&str]) -> Self {
        let is_kept = |line: &String| !beginnings.iter().any(|beginning| line.starts_with(beginning));
        Self(self.0.iter().filter(|(line, _)| is_kept(line)).map(|(line, count)| (line.clone(), *count)).collect())
    }

    /// What is different from another.
    pub fn against(&self, other: &Self) -> Difference {
        let mut lines = Vec::new();
        for line in self.0.keys().chain(other.0.keys().filter(|line| !self.0.contains_key(*line))) {
            let count = |seen: &Self| i64::from(seen.0.get(line).copied().unwrap_or(0));
            match count(self) - count(other) {
                0 => {}
                more @ 1.. => lines.push(format!("+{more} {line}")),
                less => lines.push(format!("{less} {line}")),
            }
        }
        Difference(lines)
    }
}

/// What is different between two hosts.
pub struct Difference(pub Vec<String>);

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join("; "))
    }
}

/// Addresses, and identifiers of twelve digits and more, are other ones each time.
fn without_drawn(line: &str) -> String {
    let mut plain = String::new();
    let is_part = |character: char| character.is_ascii_hexdigit() || character == '.';
    let mut rest = line;
    while let Some(start) = rest.find(is_part) {
        plain.push_str(&rest[..start]);
        let length = rest[start..].find(|character| !is_part(character)).unwrap_or(rest.len() - start);
        let word = &rest[start..start + length];
        let is_address = word.split('.').count() == 4 && word.split('.').all(|part| part.parse::<u8>().is_ok());
        let longest = word.split('.').map(str::len).max().unwrap_or(0);
        plain.push_str(if is_address || longest >= 12 { "#" } else { word });
        rest = &rest[start + length..];
    }
    plain + rest
}

fn chunks(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?.trim(), 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + length)?);
        rest = rest.get(end + 4 + length..)?;
    }
}

/// Every directory of this name in the control groups.
fn groups(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name() == *name { found.push(entry.path()) } else { left.push(entry.path()) }
            }
        }
    }
    found
}

fn directories(above: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![above.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
                left.push(entry.path());
            }
        }
    }
    found
}

/// The processes with `text` among their arguments.
fn pids_of(text: &str) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    })
    .collect()
}

fn processes_of(text: &str) -> Vec<Vec<String>> {
    let arguments = |pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).split('\0').map(str::to_owned).collect::<Vec<_>>()
    };
    pids_of(text).into_iter().map(arguments).filter(|words| words[0].ends_with("stack-shim")).collect()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
