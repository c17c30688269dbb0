//! What is done to a host while its daemon is killed.

use serde_json::{Value, json};
use stack_testkit::registry::Registry;
use stack_testkit::root::busybox_tar;

use super::world::{Gone, Seen, World};

/// Something that is done to a host.
pub type Step = fn(&Host) -> Result<(), Gone>;

/// One change of a host.
pub struct Scenario {
    pub name: &'static str,
    /// What is there before.
    pub before: Step,
    /// The change.
    pub act: Step,
    /// What may be so beside "as before" and "all of it": what is seen when this is done after the change.
    pub or: &'static [Step],
    /// What need not be as before or as after: lines of what is seen that begin so.
    pub ignored: &'static [&'static str],
}

/// What a start makes once, and the container keeps until it is removed.
const OWN: &[&str] = &[
    "file state/containers/#/exit.json",
    "file state/containers/#/hostname",
    "file state/containers/#/hosts",
    "file state/containers/#/logs",
    "file state/containers/#/resolv.conf",
    "file state/seccomp/#",
    "file state/volumes/#own_anonymous",
    "volume #own_anonymous",
];
/// Content that came may stay until images are removed the next time: trying again is shorter then.
const CONTENT: &[&str] = &["file state/images/blobs/", "file state/images/layers/"];
/// Further processes are known, or not, as long as their container runs.
const EXECS: &[&str] = &["file run/containers/#/exec"];

const NOTHING: Step = |_| Ok(());

impl Scenario {
    const fn new(name: &'static str, before: Step, act: Step) -> Self {
        Self { name, before, act, or: &[], ignored: &[] }
    }

    const fn or(self, or: &'static [Step]) -> Self {
        Self { or, ..self }
    }

    const fn ignoring(self, ignored: &'static [&'static str]) -> Self {
        Self { ignored, ..self }
    }
}

/// Containers come.
pub const MAKING: &[Scenario] = &[
    Scenario::new("create", NOTHING, |host| host.create("subject", json!({}))),
    Scenario::new("start", |host| host.create("subject", everything()), |host| host.start("subject"))
        .or(&[|host| host.kill("subject")])
        .ignoring(OWN),
    Scenario::new(
        "start again",
        |host| {
            host.run("subject", everything())?;
            host.kill("subject")
        },
        |host| host.start("subject"),
    )
    .ignoring(OWN),
];

/// Containers end and go.
pub const ENDING: &[Scenario] = &[
    Scenario::new(
        "stop",
        |host| host.run("subject", everything()),
        |host| host.post("/containers/subject/stop?t=10", &Value::Null),
    ),
    Scenario::new(
        "stop one that does not listen",
        |host| host.run("subject", json!({"Cmd": ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]})),
        |host| host.post("/containers/subject/stop?t=0", &Value::Null),
    ),
    Scenario::new(
        "kill",
        |host| host.run("subject", json!({"HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}}})),
        |host| host.kill("subject"),
    )
    // It was killed, and nobody had heard yet that it should stay so.
    .or(&[|host| host.start("subject")]),
    Scenario::new("end", |host| host.create("subject", json!({"Cmd": ["true"]})), |host| host.start("subject"))
        .ignoring(OWN),
    Scenario::new(
        "end of one that goes with it",
        |host| host.run("subject", with(everything(), json!({"AutoRemove": true}))),
        |host| host.kill("subject"),
    ),
    Scenario::new(
        "remove",
        |host| {
            host.run("subject", everything())?;
            host.kill("subject")
        },
        |host| host.request("DELETE", "/containers/subject?v=1"),
    ),
    Scenario::new(
        "remove without its volumes",
        |host| {
            host.run("subject", everything())?;
            host.kill("subject")
        },
        |host| host.request("DELETE", "/containers/subject"),
    ),
    Scenario::new(
        "remove one that runs",
        |host| host.run("subject", everything()),
        |host| host.request("DELETE", "/containers/subject?force=1&v=1"),
    )
    // It was ended first, and nobody had noted yet that it goes.
    .or(&[|host| {
        host.run("subject", everything())?;
        host.kill("subject")
    }]),
];

/// Containers that run are changed.
pub const CHANGING: &[Scenario] = &[
    Scenario::new(
        "rename",
        |host| host.run("subject", everything()),
        |host| host.post("/containers/subject/rename?name=other", &Value::Null),
    ),
    Scenario::new(
        "update",
        |host| host.run("subject", json!({"HostConfig": {"Memory": 64 << 20}})),
        |host| host.post("/containers/subject/update", &json!({"Memory": 32 << 20, "MemorySwap": 32 << 20})),
    ),
    Scenario::new(
        "pause",
        |host| host.run("subject", json!({})),
        |host| host.post("/containers/subject/pause", &Value::Null),
    ),
    Scenario::new(
        "exec",
        |host| host.run("subject", json!({})),
        |host| {
            let made = host.world.post("/containers/subject/exec", &json!({"Cmd": ["sleep", "10000"]}))?;
            let id = made["Id"].as_str().unwrap();
            host.post(&format!("/exec/{id}/start"), &json!({"Detach": true}))
        },
    )
    .ignoring(EXECS),
    Scenario::new("copy into one that runs", |host| host.run("subject", everything()), Host::copy_in),
    Scenario::new("copy into one that does not", |host| host.create("subject", everything()), Host::copy_in)
        .ignoring(OWN),
    Scenario::new(
        "connect",
        |host| host.run("subject", json!({})),
        |host| host.post("/networks/shared/connect", &json!({"Container": "subject"})),
    ),
    Scenario::new(
        "disconnect",
        |host| host.run("subject", everything()),
        |host| host.post("/networks/shared/disconnect", &json!({"Container": "subject"})),
    ),
];

/// Images come and go.
pub const IMAGES: &[Scenario] = &[
    Scenario::new(
        "commit",
        |host| {
            host.run("subject", json!({}))?;
            host.copy_in()
        },
        |host| host.post("/commit?container=subject&repo=committed&tag=1", &Value::Null),
    )
    .ignoring(CONTENT),
    Scenario::new("push", NOTHING, |host| {
        host.post(&format!("/images/{}/push?tag=base", host.repository()), &Value::Null)
    }),
    Scenario::new("pull", NOTHING, |host| {
        host.post(&format!("/images/create?fromImage={}&tag=small", host.repository()), &Value::Null)
    })
    .ignoring(CONTENT),
    Scenario::new(
        "remove an image",
        |host| host.post(&format!("/images/create?fromImage={}&tag=small", host.repository()), &Value::Null),
        |host| host.request("DELETE", &format!("/images/{}:small", host.repository())),
    ),
];

/// Volumes and networks come and go.
pub const SURROUNDINGS: &[Scenario] = &[
    Scenario::new("make a volume", NOTHING, |host| host.post("/volumes/create", &json!({"Name": "made"}))),
    Scenario::new(
        "remove a volume",
        |host| host.post("/volumes/create", &json!({"Name": "made"})),
        |host| host.request("DELETE", "/volumes/made"),
    ),
    Scenario::new("make a network", NOTHING, |host| host.post("/networks/create", &json!({"Name": "made"}))),
    Scenario::new(
        "remove a network",
        |host| host.post("/networks/create", &json!({"Name": "made"})),
        |host| host.request("DELETE", "/networks/made"),
    ),
    Scenario::new("make a network on a link of the host", NOTHING, |host| host.post("/networks/create", &on_a_link())),
    Scenario::new(
        "start a container on a link of the host",
        |host| {
            host.post("/networks/create", &on_a_link())?;
            host.create("subject", json!({"HostConfig": {"NetworkMode": "made"}}))
        },
        |host| host.start("subject"),
    )
    .or(&[|host| host.kill("subject")])
    .ignoring(OWN),
];

/// All of them.
pub const ALL: [&[Scenario]; 5] = [MAKING, ENDING, CHANGING, IMAGES, SURROUNDINGS];

/// A network of macvlan on the link that every host here has.
fn on_a_link() -> Value {
    json!({"Name": "made", "Driver": "macvlan", "Options": {"parent": "parent0"}})
}

/// A container that has one of each: networks with and without names, a port, volumes of all kinds, a filter of its own.
fn everything() -> Value {
    json!({
        "Volumes": {"/anonymous": {}},
        "ExposedPorts": {"80/tcp": {}},
        "HostConfig": {
            "NetworkMode": "shared",
            "PortBindings": {"80/tcp": [{"HostPort": "18081"}]},
            "Mounts": [
                {"Type": "volume", "Source": "mounted", "Target": "/mounted"},
                {"Type": "tmpfs", "Target": "/memory"},
            ],
            "CapAdd": ["SYS_TIME"],
        },
    })
}

fn with(mut config: Value, host_config: Value) -> Value {
    config["HostConfig"].as_object_mut().unwrap().extend(host_config.as_object().unwrap().clone());
    config
}

/// A world with a registry and what every scenario may use.
pub struct Host {
    pub world: World,
    registry: Registry,
    /// The container that nothing happens to.
    bystander: i64,
    /// What there is when nothing is done.
    pub clean: Seen,
}

impl Host {
    pub fn make(name: &str) -> Self {
        let world = World::make(name);
        let registry = Registry::start().unwrap();
        let mut host = Self { world, registry, bystander: 0, clean: Seen::default() };
        host.set_up().expect("nobody kills the daemon yet");
        host
    }

    fn set_up(&mut self) -> Result<(), Gone> {
        let mut small = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        small.append_data(&mut header, "small", &b"small"[..]).unwrap();
        for (name, archive) in [("base", busybox_tar()), ("small", small.into_inner().unwrap())] {
            let path = format!("/images/create?fromSrc=-&repo={}&tag={name}", self.repository());
            self.world.request("POST", &path, Some(("application/x-tar", &archive)))?;
        }
        self.post(&format!("/images/{}/push?tag=small", self.repository()), &Value::Null)?;
        self.request("DELETE", &format!("/images/{}:small", self.repository()))?;
        self.post("/networks/create", &json!({"Name": "shared"}))?;
        let mounted = json!({"type": "tmpfs", "device": "tmpfs"});
        self.post("/volumes/create", &json!({"Name": "mounted", "DriverOpts": mounted}))?;
        self.run("bystander", with(json!({"HostConfig": {}}), json!({"NetworkMode": "shared"})))?;
        // Whatever is made once and kept, such as the usual network.
        self.run("subject", json!({}))?;
        self.bystander = self.world.pid("bystander");
        self.clear();
        self.clean = self.world.at_rest();
        Ok(())
    }

    pub fn repository(&self) -> String {
        format!("{}/app", self.registry.address())
    }

    pub fn is_bystander_untouched(&self) -> bool {
        self.world.pid("bystander") == self.bystander
            && std::path::Path::new(&format!("/proc/{}", self.bystander)).exists()
    }

    /// Takes away whatever a scenario has made.
    pub fn clear(&self) {
        let names = |path: &str, list: &str, key: &str| -> Vec<String> {
            let answer = self.world.get(path);
            let all = if list.is_empty() { &answer } else { &answer[list] };
            all.as_array().unwrap().iter().map(|one| one[key].as_str().unwrap().to_owned()).collect()
        };
        for container in self.world.get("/containers/json?all=1").as_array().unwrap() {
            if container["Names"][0] != "/bystander" {
                self.world.delete(&format!("/containers/{}?force=1&v=1", container["Id"].as_str().unwrap()));
            }
        }
        for volume in names("/volumes", "Volumes", "Name").iter().filter(|name| *name != "mounted") {
            self.world.delete(&format!("/volumes/{volume}"));
        }
        self.world.delete("/networks/made");
        for image in self.world.get("/images/json?all=1").as_array().unwrap() {
            if !image["RepoTags"].to_string().contains(":base") {
                self.world.delete(&format!("/images/{}?force=1", image["Id"].as_str().unwrap()));
            }
        }
        self.world.request("POST", "/images/prune", None).expect("the daemon runs");
        // A compiled filter is kept for the next container that wants it.
        for filter in std::fs::read_dir(self.world.path().join("state/seccomp")).into_iter().flatten() {
            std::fs::remove_file(filter.unwrap().path()).unwrap();
        }
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<(), Gone> {
        self.world.post(path, body).map(drop)
    }

    pub fn request(&self, method: &str, path: &str) -> Result<(), Gone> {
        self.world.request(method, path, None).map(drop)
    }

    pub fn create(&self, name: &str, mut config: Value) -> Result<(), Gone> {
        config["Image"] = json!(format!("{}:base", self.repository()));
        if config["Cmd"].is_null() {
            config["Cmd"] = json!(["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]);
        }
        self.post(&format!("/containers/create?name={name}"), &config)
    }

    pub fn start(&self, name: &str) -> Result<(), Gone> {
        self.post(&format!("/containers/{name}/start"), &Value::Null)
    }

    pub fn run(&self, name: &str, config: Value) -> Result<(), Gone> {
        self.create(name, config)?;
        self.start(name)
    }

    /// Kills a container and waits for its end.
    fn kill(&self, name: &str) -> Result<(), Gone> {
        self.post(&format!("/containers/{name}/kill"), &Value::Null)?;
        let path = format!("/containers/{name}/wait");
        match self.world.ask("POST", &path, None) {
            // It may have gone with its end.
            Ok(_) => Ok(()),
            Err(error) => Err(Gone(error.to_string())),
        }
    }

    fn copy_in(&self) -> Result<(), Gone> {
        let mut archive = tar::Builder::new(Vec::new());
        for number in 0..20 {
            let mut header = tar::Header::new_gnu();
            header.set_size(4);
            header.set_mode(0o644);
            archive.append_data(&mut header, format!("file{number}"), &b"text"[..]).unwrap();
        }
        let archive = archive.into_inner().unwrap();
        self.world.request("PUT", "/containers/subject/archive?path=/", Some(("application/x-tar", &archive))).map(drop)
    }
}
