//! The verbs that need no cluster, run as a user runs them: which files and variables are read, what is printed, and with
//! which code the program ends.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A directory called `shop`, with files.
struct Project {
    /// Removed when it is dropped.
    holder: TempDir,
}

impl Project {
    fn new(files: &[(&str, &str)]) -> Self {
        let project = Self { holder: TempDir::new().unwrap() };
        std::fs::create_dir(project.path("")).unwrap();
        for (name, text) in files {
            let path = project.path(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        project
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.holder.path().join("shop").join(name)
    }

    fn command(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stack"));
        command.args(arguments).current_dir(self.path("")).env_clear().env("HOME", self.holder.path());
        command.envs(variables.iter().copied());
        command
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        self.command(arguments, variables).output().unwrap()
    }

    /// Standard output of a run that must succeed.
    fn data(&self, arguments: &[&str], variables: &[(&str, &str)]) -> String {
        let output = self.run(arguments, variables);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The images that `stack config` finds, which tell the files that were read.
    fn images(&self, arguments: &[&str], variables: &[(&str, &str)]) -> String {
        self.data(&[&["config", "--images"], arguments].concat(), variables).trim().replace('\n', " ")
    }

    fn json(&self, arguments: &[&str], variables: &[(&str, &str)]) -> serde_json::Value {
        serde_json::from_str(&self.data(&[&["config", "--format", "json"], arguments].concat(), variables)).unwrap()
    }
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One service with an image.
fn file(image: &str) -> String {
    format!("services: {{web: {{image: '{image}'}}}}\n")
}

#[test]
fn the_nearest_default_file_and_its_override_are_found_upwards() {
    let project = Project::new(&[
        ("compose.yaml", &file("base:1")),
        ("compose.override.yml", "services: {web: {image: 'over:1'}}"),
        ("deep/er/x", ""),
    ]);
    assert_eq!(project.images(&[], &[]), "over:1");
    let deep = project.command(&["config", "--images"], &[]).current_dir(project.path("deep/er")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&deep.stdout), "over:1\n");
    // A file that is named is read alone.
    assert_eq!(project.images(&["-f", "compose.yaml"], &[]), "base:1");
    std::fs::write(project.path("stack.yml"), file("stack:1")).unwrap();
    assert_eq!(project.images(&[], &[]), "stack:1");
    assert!(told(&project.run(&["check"], &[])).contains("stack.yml is taken, and not compose.yaml"));
    assert_eq!(project.json(&[], &[])["name"], "shop");
}

#[test]
fn no_file_at_all_is_said() {
    let empty = Project::new(&[]);
    let output = empty.run(&["check"], &[]);
    assert_eq!(output.status.code(), Some(3));
    assert!(told(&output).contains("there is no stack file here"), "{}", told(&output));
    let output = empty.run(&["deploy", "absent.yml"], &[]);
    assert_eq!(output.status.code(), Some(3));
    assert!(told(&output).contains("cannot read absent.yml"), "{}", told(&output));
    assert_eq!(empty.run(&["check", "-", "-"], &[]).status.code(), Some(2));
}

#[test]
fn compose_file_names_the_files_for_every_verb() {
    let project =
        Project::new(&[("a.yml", &file("a:1")), ("b/b.yml", "services: {db: {image: 'b:1', volumes: ['./x:/x']}}")]);
    let both = [("COMPOSE_FILE", "a.yml:b/b.yml")];
    assert_eq!(project.images(&[], &both), "a:1 b:1");
    assert_eq!(project.images(&[], &[("COMPOSE_FILE", "a.yml|b/b.yml"), ("COMPOSE_PATH_SEPARATOR", "|")]), "a:1 b:1");
    // Relative paths start from the first file's directory.
    let source = |value: serde_json::Value| value["services"]["db"]["volumes"][0]["source"].clone();
    assert_eq!(source(project.json(&[], &both)), project.path("x").to_str().unwrap());
    let turned = [("COMPOSE_FILE", "b/b.yml:a.yml")];
    assert_eq!(source(project.json(&[], &turned)), project.path("b/x").to_str().unwrap());
    assert_eq!(source(project.json(&["--project-directory", "."], &turned)), project.path("x").to_str().unwrap());
    // The command line wins.
    assert_eq!(project.images(&["a.yml"], &both), "a:1");
    // It may stand in `.env`.
    std::fs::write(project.path(".env"), "COMPOSE_FILE=a.yml\n").unwrap();
    assert_eq!(project.images(&[], &[]), "a:1");
    // Deploy and plan find the same files: they fail for want of a daemon, after they have read them.
    let absent = [("COMPOSE_FILE", "a.yml:absent.yml")];
    for verb in ["deploy", "plan", "check", "config"] {
        let output = project.run(&[verb], &absent);
        assert_eq!(output.status.code(), Some(3), "{verb}");
        assert!(told(&output).contains("COMPOSE_FILE"), "{verb}: {}", told(&output));
    }
    for verb in ["deploy", "plan"] {
        let output = project.run(&["--socket", "/nowhere/stack.sock", verb], &[]);
        assert_eq!(output.status.code(), Some(5), "{verb}: {}", told(&output));
    }
}

#[test]
fn variables_come_from_the_process_then_from_files() {
    let project = Project::new(&[
        ("compose.yaml", "services: {web: {image: 'a:${TAG:-none}-${OTHER:-none}'}}"),
        (".env", "TAG=dot\nOTHER=dot\n"),
        ("one.env", "TAG=one\nOTHER=one\n"),
        ("two.env", "TAG=two\nSEEN=${OTHER}\n"),
    ]);
    assert_eq!(project.images(&[], &[]), "a:dot-dot");
    assert_eq!(project.images(&[], &[("TAG", "process")]), "a:process-dot");
    assert_eq!(project.images(&[], &[("COMPOSE_DISABLE_ENV_FILE", "true")]), "a:none-none");
    assert_eq!(project.images(&["--env-file", "one.env"], &[]), "a:one-one");
    let both = ["--env-file", "one.env", "--env-file", "two.env"];
    assert_eq!(project.images(&both, &[]), "a:two-one");
    assert_eq!(project.images(&[], &[("COMPOSE_ENV_FILES", "one.env,two.env")]), "a:two-one");
    assert_eq!(project.images(&["--env-file", "two.env"], &[("COMPOSE_ENV_FILES", "one.env")]), "a:two-none");
    let environment = project.data(&[&["config", "--environment"][..], &both].concat(), &[("OTHER", "process")]);
    assert!(environment.contains("TAG=two\n") && environment.contains("SEEN=process\n"), "{environment}");
    let output = project.run(&["config", "--env-file", "absent.env"], &[]);
    assert_eq!(output.status.code(), Some(3));
    assert!(told(&output).contains("cannot read the environment file absent.env"), "{}", told(&output));
    std::fs::write(project.path("bad.env"), "A='hunter2\n").unwrap();
    let output = project.run(&["config", "--env-file", "bad.env"], &[]);
    assert!(told(&output).contains("bad.env:1:") && !told(&output).contains("hunter2"), "{}", told(&output));
}

#[test]
fn the_project_s_own_environment_file_is_read_where_the_files_are_found_above() {
    let project = Project::new(&[
        ("compose.yaml", "services: {web: {image: 'a:${A:-none}-${B:-none}'}}"),
        (".env", "A=above\nB=above\n"),
        ("below/.env", "A=below\n"),
    ]);
    let output = project.command(&["config", "--images"], &[]).current_dir(project.path("below")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a:below-above\n");
}

#[test]
fn names_and_profiles_come_from_variables_too() {
    let project = Project::new(&[
        ("compose.yaml", "name: own\nservices: {web: {image: 'a:1'}, debug: {image: 'd:1', profiles: [debug]}}"),
        ("profiles.env", "COMPOSE_PROFILES=debug\nCOMPOSE_PROJECT_NAME=from-file\n"),
    ]);
    assert_eq!(project.json(&[], &[])["name"], "own");
    assert_eq!(project.json(&[], &[("COMPOSE_PROJECT_NAME", "env")])["name"], "env");
    assert_eq!(project.json(&["-p", "line"], &[("COMPOSE_PROJECT_NAME", "env")])["name"], "line");
    let from_file = project.json(&["--env-file", "profiles.env"], &[]);
    assert_eq!((&from_file["name"], from_file["services"].as_object().unwrap().len()), (&"from-file".into(), 2));
    assert_eq!(project.images(&[], &[]), "a:1");
    for (arguments, variables) in [
        (&["--profile", "debug"][..], &[][..]),
        (&["--profile", "*"], &[]),
        (&[], &[("COMPOSE_PROFILES", "x,debug")]),
        // A service that is named needs no profile.
        (&["--service", "debug", "--service", "web"], &[]),
    ] {
        assert_eq!(project.images(arguments, variables), "a:1 d:1", "{arguments:?}");
    }
}

const WHOLE: &str = "services:
  web: {image: 'nginx:${TAG:-1.27}', profiles: [front], environment: {A: '${NEED:?must}', B: pa$$s}, depends_on: [db]}
  db: {image: 'postgres:16', volumes: ['data:/d'], networks: [back], deploy: {replicas: 2}}
  job: {image: 'job:1', profiles: [ops, front], labels: {x: '${TAG+tagged}'}}
volumes: {data: , spare: }
networks: {back: }
";

#[test]
fn config_prints_parts() {
    let project = Project::new(&[("compose.yaml", WHOLE)]);
    let need = [("NEED", "x")];
    let lines = |arguments: &[&str]| project.data(&[&["config"], arguments].concat(), &need).replace('\n', " ");
    assert_eq!(lines(&["--services"]), "db ");
    assert_eq!(lines(&["--services", "--profile", "front"]), "web db job ");
    assert_eq!(lines(&["--volumes"]), "data spare ");
    assert_eq!(lines(&["--networks"]), "back ");
    assert_eq!(lines(&["--models"]), "");
    assert_eq!(lines(&["--profiles"]), "front ops ");
    assert_eq!(lines(&["--images", "--format", "json"]), "[   \"postgres:16\" ] ");
    assert_eq!(lines(&["--quiet"]), "");
    assert_eq!(project.run(&["config", "--services", "--images"], &need).status.code(), Some(2));
    let variables = project.data(&["config", "--variables"], &[]);
    let rows: Vec<Vec<&str>> = variables.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows,
        [vec!["NAME", "REQUIRED", "DEFAULT", "ALTERNATIVE"], vec!["NEED", "yes"], vec!["TAG", "no", "1.27", "tagged"]]
    );
}

#[test]
fn the_canonical_file_is_one_again() {
    let project = Project::new(&[("compose.yaml", WHOLE)]);
    let arguments = ["config", "--profile", "*"];
    let once = project.data(&arguments, &[("NEED", "x$y")]);
    std::fs::write(project.path("again.yaml"), &once).unwrap();
    assert_eq!(project.data(&[&arguments[..], &["again.yaml"]].concat(), &[]), once);
    // Through standard input, and with its variables left alone.
    let left = project.data(&[&arguments[..], &["--no-interpolate"]].concat(), &[]);
    assert!(left.contains("${NEED:?must}") && left.contains("pa$$s"), "{left}");
    let mut command = project.command(&["config", "--profile", "*", "-", "-o", "out.yaml"], &[("NEED", "x$y")]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(left.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let json = |file: &str| project.json(&["--profile", "*", file], &[("NEED", "x$y")]);
    assert_eq!(json("out.yaml"), json("compose.yaml"));
}

#[test]
fn hashes_change_with_what_runs() {
    let hash = |text: &str, arguments: &[&str]| {
        let project = Project::new(&[("compose.yaml", text)]);
        project.data(&[&["config"], arguments].concat(), &[("NEED", "x")])
    };
    let all = hash(WHOLE, &["--hash", "--profile", "*"]);
    assert_eq!(all.lines().count(), 3, "{all}");
    let database = hash(WHOLE, &["--hash=db"]);
    let (name, value) = database.trim().split_once(' ').unwrap();
    assert_eq!((name, value.len()), ("db", 64));
    assert!(all.contains(value));
    assert_eq!(hash(&WHOLE.replace("replicas: 2", "replicas: 5"), &["--hash=db"]), database);
    assert_ne!(hash(&WHOLE.replace("postgres:16", "postgres:17"), &["--hash=db"]), database);
    let turned = "services: {db: {deploy: {replicas: 2}, networks: [back], volumes: ['data:/d'], image: 'postgres:16'}}\n\
                  volumes: {data: }\nnetworks: {back: }\n";
    assert_eq!(hash(turned, &["--hash=db"]), database);
    let project = Project::new(&[("compose.yaml", WHOLE)]);
    assert_eq!(project.run(&["config", "--hash=dbb"], &[("NEED", "x")]).status.code(), Some(6));
}

#[test]
fn check_is_for_people_and_for_programs() {
    let project = Project::new(&[("good.yml", &file("a:1")), ("bad.yml", "services: {web: {imag: a}}")]);
    let good = project.run(&["check", "good.yml"], &[]);
    assert_eq!(good.status.code(), Some(0));
    assert!(told(&good).contains("1 service, no error"), "{}", told(&good));
    let bad = project.run(&["check", "bad.yml"], &[]);
    assert_eq!(bad.status.code(), Some(3));
    assert!(told(&bad).contains("did you mean `image`?"), "{}", told(&bad));
    assert!(bad.stdout.is_empty());
    let json = project.run(&["check", "--format", "json", "bad.yml"], &[]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let unknown = json.as_array().unwrap().iter().find(|diagnostic| diagnostic["code"] == "E0301").unwrap();
    assert_eq!((&unknown["location"]["line"], &unknown["path"]), (&1.into(), &"services.web.imag".into()));
    let sarif = project.run(&["check", "--format", "sarif", "bad.yml"], &[]);
    let sarif: serde_json::Value = serde_json::from_slice(&sarif.stdout).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    assert!(sarif["runs"][0]["results"].as_array().unwrap().iter().any(|result| result["ruleId"] == "E0301"));
    assert!(project.data(&["explain", "e0301"], &[]).contains("key"));
    assert_eq!(project.run(&["explain", "E9999"], &[]).status.code(), Some(6));
    let schema: serde_json::Value = serde_json::from_str(&project.data(&["schema"], &[])).unwrap();
    assert_eq!(schema["title"], "Stack file");
}

#[test]
fn the_examples_of_the_repository_are_fine() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut seen = 0;
    for example in std::fs::read_dir(&examples).unwrap() {
        let directory = example.unwrap().path();
        for entry in std::fs::read_dir(&directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "yml" && extension != "yaml") {
                continue;
            }
            seen += 1;
            let project = Project::new(&[]);
            for verb in ["check", "config"] {
                let output = project.run(&[verb, path.to_str().unwrap()], &[]);
                assert!(output.status.success(), "{}: {}", path.display(), told(&output));
            }
        }
    }
    assert!(seen >= 1);
}

/// Answers one request with a plan that knows the digest of every image.
fn answer_with_digests(listener: &UnixListener) -> serde_json::Value {
    let (mut stream, _) = listener.accept().unwrap();
    let mut received = Vec::new();
    let body = loop {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).unwrap();
        received.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&received);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
        });
        if length.is_none_or(|length| body.len() >= length) {
            break body.to_owned();
        }
    };
    let request: serde_json::Value = serde_json::from_str(&body).unwrap();
    let images: Vec<serde_json::Value> = request["spec"]["services"]
        .as_object()
        .unwrap()
        .values()
        .map(|service| {
            let reference = &service["container"]["image"]["reference"];
            serde_json::json!({"reference": reference, "digest": format!("sha256:{}", "a".repeat(64)), "source": "registry"})
        })
        .collect();
    let plan = serde_json::json!({"revision": 0, "changed": true, "services": [], "images": images}).to_string();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", plan.len());
    stream.write_all(format!("{head}{plan}").as_bytes()).unwrap();
    request
}

#[test]
fn the_cluster_says_which_digests_images_stand_for() {
    let digest = format!("sha256:{}", "b".repeat(64));
    let text = format!(
        "services: {{web: {{image: 'nginx:1'}}, db: {{image: 'postgres:16@{digest}'}}, x: {{image: 'nginx:1'}}}}"
    );
    let project = Project::new(&[("compose.yaml", &text)]);
    let socket = project.path("stack.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || answer_with_digests(&listener));
    let arguments = ["--socket", socket.to_str().unwrap(), "config", "--images", "--resolve-image-digests"];
    let images = project.data(&arguments, &[]);
    let request = server.join().unwrap();
    assert_eq!(images, format!("nginx:1@sha256:{}\npostgres:16@{digest}\n", "a".repeat(64)));
    // Nothing would be started by it.
    assert_eq!(request["spec"]["services"]["image-0"]["mode"]["replicated"]["replicas"], 0);
    let output = project.run(&["--socket", "/nowhere/stack.sock", "config", "--resolve-image-digests"], &[]);
    assert_eq!(output.status.code(), Some(5));
}
