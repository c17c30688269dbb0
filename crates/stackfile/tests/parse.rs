//! Whole files to whole specs.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]

use std::collections::BTreeMap;

use stack_stackfile::{CanonicalOptions, Environment, Source, SourceFile, parse, render_all};

struct Project {
    files: Vec<(&'static str, &'static str)>,
    further: BTreeMap<String, String>,
    environment: Vec<(&'static str, &'static str)>,
}

fn project(text: &'static str) -> Project {
    Project { files: vec![("app.yml", text)], further: BTreeMap::new(), environment: Vec::new() }
}

impl Project {
    fn file(mut self, name: &str, text: &str) -> Self {
        self.further.insert(format!("/srv/shop/{name}"), text.to_owned());
        self
    }

    fn and(mut self, name: &'static str, text: &'static str) -> Self {
        self.files.push((name, text));
        self
    }

    fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    fn parse(&self) -> Result<(serde_json::Value, String), String> {
        let files: Vec<SourceFile<'_>> = self.files.iter().map(|(name, text)| SourceFile { name, text }).collect();
        let environment: Environment =
            self.environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let source = Source { files: &files, directory: "/srv/shop", name: None, profiles: &[], reader: &self.further };
        match parse(source, &environment) {
            Ok(parsed) => Ok((serde_json::to_value(&parsed.spec).unwrap(), render_all(&parsed.warnings))),
            Err(diagnostics) => Err(render_all(&diagnostics)),
        }
    }

    fn spec(&self) -> serde_json::Value {
        match self.parse() {
            Ok((spec, _)) => spec,
            Err(text) => panic!("{text}"),
        }
    }
}

#[test]
fn a_runtime_is_the_hosts_own_unless_it_has_another_name() {
    let spec = project(
        "services: {own: {image: 'a:1'}, usual: {image: 'a:1', runtime: runc}, other: {image: 'a:1', runtime: crun}}\n",
    )
    .spec();
    let runtime = |service: &str| spec["services"][service]["container"]["runtime"].clone();
    assert_eq!((runtime("own"), runtime("usual")), (serde_json::Value::Null, serde_json::Value::Null));
    assert_eq!(runtime("other"), "crun");
}

#[test]
fn labels_of_selinux_reach_the_spec() {
    let spec = project(
        "services: {web: {image: 'nginx:1', security_opt: ['label=type:web_t', 'label:level:s0:c1,c2'], volumes: ['/a:/a:z', {type: bind, source: /b, target: /b, bind: {selinux: Z}}, '/c:/c']}, free: {image: 'nginx:1', security_opt: ['label=disable']}}",
    )
    .spec();
    let container = |service: &str| spec["services"][service]["container"].clone();
    assert_eq!(container("web")["selinux"], serde_json::json!({"kind": "web_t", "level": "s0:c1,c2"}));
    assert_eq!(container("free")["selinux"], serde_json::json!({"disabled": true}));
    let relabel = |index: usize| container("web")["mounts"][index]["source"]["bind"]["relabel"].clone();
    assert_eq!(
        [relabel(0), relabel(1), relabel(2)],
        [Some("shared"), Some("private"), None].map(|word| serde_json::json!(word))
    );
}

#[test]
fn a_file_with_everything_becomes_a_spec() {
    let project = project(include_str!("files/everything.yml"))
        .file("web.env", "FROM_FILE=file\nBOTH=file\nREFERS=${FROM_FILE}!\n")
        .variable("TAG", "1.27")
        .variable("OUTSIDE", "outside");
    insta::assert_json_snapshot!(project.spec());
}

#[test]
fn what_is_noted_is_said() {
    let project = project(include_str!("files/everything.yml")).file("web.env", "").variable("TAG", "1.27");
    insta::assert_snapshot!(project.parse().unwrap().1);
}

#[test]
fn later_files_change_earlier_ones() {
    let project = project("services: {web: {image: 'nginx:1', ports: ['80:80', '81:81'], environment: [A=1, B=2], command: a b}}")
        .and("prod.yml", "services: {web: {image: 'nginx:2', ports: !override ['8080:80'], environment: {B: !reset null, C: 3}, command: c}}");
    let spec = project.spec();
    let web = &spec["services"]["web"];
    assert_eq!(web["container"]["image"]["reference"], "nginx:2");
    assert_eq!(web["ports"].as_array().unwrap().len(), 1);
    assert_eq!(web["container"]["environment"], serde_json::json!({"A": "1", "C": "3"}));
    assert_eq!(web["container"]["command"], serde_json::json!(["c"]));
}

#[test]
fn a_later_file_takes_a_published_port_over_and_makes_a_resource_external() {
    let project =
        project("services: {web: {image: 'nginx:1', ports: ['80:80', '81:81']}}\nvolumes: {v: {driver: nfs}}")
            .and("prod.yml", "services: {web: {ports: ['80:8080']}}\nvolumes: {v: {external: true}}");
    let spec = project.spec();
    let ports: Vec<_> = spec["services"]["web"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| (&port["published"], &port["target"]))
        .collect();
    assert_eq!(serde_json::json!(ports), serde_json::json!([[81, 81], [80, 8080]]));
    assert_eq!(spec["volumes"]["v"]["external"], true);
    assert_eq!(spec["volumes"]["v"]["driver"], serde_json::Value::Null);
}

#[test]
fn the_finer_keys_of_a_container_reach_the_spec() {
    let spec = project(include_str!("files/finer.yml")).spec();
    insta::assert_json_snapshot!(spec);
}

#[test]
fn secrets_and_configs_travel_beside_the_spec() {
    let text = "services:
  a:
    image: a:1
    secrets: [password, {source: key, target: /etc/app/key, uid: '1000', gid: '50', mode: 0440}]
    configs: [app.conf, {source: motd, target: etc/motd}]
secrets:
  password: {file: password.txt, labels: [a=b]}
  key: {environment: APP_KEY, name: the-key}
  elsewhere: {external: true}
  unused: {file: absent.txt}
configs:
  app.conf: {content: 'host = {{.Node.Hostname}}', template_driver: golang}
  motd: {external: true, name: motd-2}
";
    let project = project(text).file("password.txt", "hunter2\n").variable("APP_KEY", "abc");
    let (spec, warnings) = project.parse().unwrap();
    insta::assert_json_snapshot!(serde_json::json!({
        "secrets": spec["secrets"], "configs": spec["configs"],
        "of_a": spec["services"]["a"]["container"]["secrets"],
        "configs_of_a": spec["services"]["a"]["container"]["configs"],
    }));
    assert!(!spec.to_string().contains("hunter2") && !warnings.contains("hunter2"));

    let files: Vec<SourceFile<'_>> = vec![SourceFile { name: "app.yml", text }];
    let environment: Environment = [("APP_KEY".to_owned(), "abc".to_owned())].into_iter().collect();
    let source = Source { files: &files, directory: "/srv/shop", name: None, profiles: &[], reader: &project.further };
    let contents = parse(source, &environment).unwrap().contents;
    assert_eq!(contents.secrets.keys().collect::<Vec<_>>(), ["key", "password"]);
    assert_eq!(contents.secrets["password"].0, b"hunter2\n");
    assert_eq!(contents.secrets["key"].0, b"abc");
    assert_eq!(contents.configs["app.conf"].0, b"host = {{.Node.Hostname}}");
    // The canonical form names where they come from, and not what they hold.
    let canonical = stack_stackfile::canonical(source, &environment, &CanonicalOptions::default()).unwrap().to_yaml();
    assert!(canonical.contains("environment: APP_KEY") && !canonical.contains("abc"), "{canonical}");
    assert!(!canonical.contains("hunter2"), "{canonical}");
}

#[test]
fn what_services_wait_for_and_run_around_their_lives_reaches_the_spec() {
    let text = "services:
  web:
    image: a:1
    depends_on:
      db: {condition: service_healthy, restart: true}
      migrate: {condition: service_completed_successfully}
      cache: {condition: service_started, required: false}
      debug: {condition: service_started, required: false}
    post_start: [{command: [sh, -c, 'echo up'], user: root, privileged: true, working_dir: /, environment: [A=b]}]
    pre_stop: [{command: drain --now}]
    deploy:
      update_config: {failure_action: rollback}
      rollback_config: {parallelism: 0, order: start-first, failure_action: continue, monitor: 1s}
  db: {image: 'db:1'}
  cache: {image: 'c:1'}
  debug: {image: 'd:1', profiles: [debug]}
  migrate: {image: 'm:1', depends_on: [db]}
  again: {image: 'm:1', depends_on: {retried: {condition: service_completed_successfully}}}
  retried: {image: 'm:1', restart: on-failure}
";
    let (spec, warnings) = project(text).parse().unwrap();
    assert_eq!(warnings, "");
    let services = &spec["services"];
    let web = &services["web"];
    insta::assert_json_snapshot!(serde_json::json!({
        "depends_on": web["depends_on"], "rollback": web["rollback"],
        "post_start": web["container"]["post_start"], "pre_stop": web["container"]["pre_stop"],
    }));
    // As for Docker Compose, what others wait for the end of is not started again unless it says so.
    assert_eq!(services["migrate"]["restart"]["condition"], "none");
    assert_eq!(services["retried"]["restart"]["condition"], "on_failure");
    assert_eq!(services["db"]["restart"]["condition"], "any");
}

#[test]
fn templates_that_the_agent_fills_in_pass() {
    let spec = project("services: {web: {image: 'nginx:1', hostname: '{{.Service.Name}}-{{.Task.Slot}}', environment: {NODE: '{{.Node.Hostname}}', F: '{{json .}}'}, volumes: ['/srv/{{ .Node.ID }}:/x', 'v:/v']}}\nvolumes: {v: {name: 'v-{{.Task.Slot}}'}}").spec();
    let container = &spec["services"]["web"]["container"];
    assert_eq!(container["environment"], serde_json::json!({"F": "{{json .}}", "NODE": "{{.Node.Hostname}}"}));
    assert_eq!(container["hostname"], "{{.Service.Name}}-{{.Task.Slot}}");
    assert_eq!(container["mounts"][0]["source"]["bind"]["path"], "/srv/{{ .Node.ID }}");
}

#[test]
fn services_are_extended_and_files_included() {
    let project = project("include: [inc/db.yml]\nservices:\n  web: {extends: {file: lib/base.yml, service: base}, environment: {B: own}}\n")
        .file("lib/base.yml", "services:\n  base: {extends: root, environment: {A: base, B: base}, env_file: x.env}\n  root: {image: 'base:1', user: '5'}\n")
        .file("lib/x.env", "X=1\n")
        .file("inc/db.yml", "services: {db: {image: 'db:${VERSION}', volumes: ['data:/data']}}\nvolumes: {data: }\n")
        .file("inc/.env", "VERSION=7\n");
    let spec = project.spec();
    let web = &spec["services"]["web"]["container"];
    assert_eq!(web["image"]["reference"], "base:1");
    assert_eq!(web["user"], "5");
    assert_eq!(web["environment"], serde_json::json!({"A": "base", "B": "own", "X": "1"}));
    assert_eq!(spec["services"]["db"]["container"]["image"]["reference"], "db:7");
    assert!(spec["volumes"].get("data").is_some());
}

#[test]
fn the_canonical_form_is_printed_as_yaml() {
    let project =
        project(include_str!("files/everything.yml")).file("web.env", "FROM_FILE=pa$$s\n").variable("TAG", "1.27");
    let files = [SourceFile { name: "app.yml", text: project.files[0].1 }];
    let environment: Environment = [("TAG".to_owned(), "1.27".to_owned())].into_iter().collect();
    let source = Source { files: &files, directory: "/srv/shop", name: None, profiles: &[], reader: &project.further };
    let canonical = stack_stackfile::canonical(source, &environment, &CanonicalOptions::default()).unwrap();
    assert_eq!(canonical.services(), ["web", "db", "agent"]);
    assert_eq!(canonical.images()[..2], ["agent:2", "nginx:1.27"]);
    insta::assert_snapshot!(canonical.to_yaml());
}

#[test]
fn all_problems_come_at_once_with_their_places() {
    let project = project(include_str!("files/broken.yml"));
    insta::assert_snapshot!(project.parse().unwrap_err());
}

#[test]
fn the_name_comes_from_the_directory_the_file_or_the_environment() {
    let file = "name: ${BASE:-from}-file\nservices: {a: {image: 'a:1', environment: {N: $COMPOSE_PROJECT_NAME}}}";
    assert_eq!(project("services: {a: {image: 'a:1'}}").spec()["name"], "shop");
    let spec = project(file).spec();
    assert_eq!(spec["name"], "from-file");
    assert_eq!(spec["services"]["a"]["container"]["environment"]["N"], "from-file");
    assert_eq!(project(file).variable("COMPOSE_PROJECT_NAME", "env").spec()["name"], "env");
}

#[test]
fn no_diagnostic_quotes_what_a_variable_holds() {
    let text = "services:\n  a:\n    image: ${S}\n    ports: ['${S}:80']\n    volumes: ['${S}:rel']\n    cap_add: ['${S}']\n    \
                stop_signal: ${S}\n    mem_limit: ${S}\n    stop_grace_period: ${S}\n    restart: ${S}\n    init: ${S}\n    \
                hostname: '${S} x'\n    dns: ['${S}']\n    extra_hosts: ['a=${S}']\n    working_dir: ${S}\n    pid: ${S}\n    ipc: ${S}\n    \
                network_mode: ${S}\n    pull_policy: ${S}\n    oom_score_adj: ${S}\n    cpus: ${S}\n    security_opt: ['${S}', 'seccomp=${S}']\n    \
                deploy: {mode: '${S}', replicas: '${S}', placement: {constraints: ['${S}']}, restart_policy: {condition: '${S}'}}\n    \
                devices: ['${S}:x:y']\n    gpus: [{driver: '${S}'}, {device_ids: ['${S}']}, {count: '${S}'}, {driver: cdi, device_ids: ['${S}']}]\n    ulimits: {nofile: '${S}'}\n    tmpfs: ['${S}']\n    platform: ${S}\n    env_file: ['${S}']\n    \
                networks: ['${S}']\n    depends_on: ['${S}']\n    links: ['${S}']\n    logging: {driver: '${S}', options: {a: '${S}'}}\n    \
                healthcheck: {test: ['${S}'], interval: '${S}'}\n    container_name: ${S}\n    \
                labels: ['a=${S}']\n    sysctls: ['${S}']\n    secrets: ['${S}']\n  \
                b: {image: 'b:1', extends: '${S}', pid: 'service:${S}', network_mode: 'service:${S}', pull_policy: 'every_${S}', container_name: '${S}', scale: '${S}'}\n\
                networks: {n: {driver: '${S}'}}\ninclude: ['${S}']\nname: ${S}\n";
    let error = project(text).variable("S", "Hunter2 !secret").parse().unwrap_err();
    assert!(!error.to_lowercase().contains("hunter2"), "{error}");
}

#[test]
fn a_port_is_one_of_a_range_of_the_hosts() {
    let spec = project("services: {a: {image: 'a:1', ports: ['8000-8010:80', '81:81']}}\nname: x\n").spec();
    let port = &spec["services"]["a"]["ports"][0];
    assert_eq!(
        (&port["published_within"], &port["published"]),
        (&serde_json::json!([8000, 8010]), &serde_json::Value::Null)
    );
    assert_eq!(spec["services"]["a"]["ports"][1].get("published_within"), None);
}

#[test]
fn a_network_has_the_families_that_the_file_says() {
    let spec = project(
        "services: {a: {image: 'a:1', networks: [six, both, four]}}\nname: x\nnetworks: {six: {enable_ipv4: false, enable_ipv6: true}, both: {enable_ipv4: true, enable_ipv6: true}, four: }\n",
    )
    .spec();
    let families = |name: &str| {
        let network = &spec["networks"][name];
        (network["without_ipv4"] != true, network["ipv6"] == true)
    };
    assert_eq!([families("six"), families("both"), families("four")], [(false, true), (true, true), (true, false)]);
}

#[test]
fn a_network_is_encrypted_by_our_key_or_by_dockers_option() {
    let spec = project(
        "services: {a: {image: 'a:1', networks: [one, two, three, four, five, six]}}\nname: x\nnetworks:\n  one: {x-stack-encrypted: true}\n  two: {x-stack-encrypted: false}\n  three: {driver_opts: {encrypted: ''}}\n  four: {driver_opts: {encrypted: 1}}\n  five: {driver: overlay, driver_opts: {encrypted: 'true'}}\n  six: {}\n",
    )
    .spec();
    let encrypted = |key: &str| spec["networks"][key]["encrypted"].clone();
    let all: Vec<_> = ["one", "two", "three", "four", "five", "six"].map(encrypted).into();
    assert_eq!(serde_json::Value::from(all), serde_json::json!([true, false, true, true, true, null]));
    let refused = project(
        "services: {a: {image: 'a:1', networks: [one, two]}}\nname: x\nnetworks:\n  one: {x-stack-encrypted: true, driver_opts: {encrypted: 'false'}}\n  two: {driver_opts: {encrypted: maybe}}\n",
    );
    let text = refused.parse().unwrap_err();
    assert!(text.contains("networks.one.driver_opts.encrypted"), "{text}");
    assert!(text.contains("keep one of the two"), "{text}");
    assert!(text.contains("networks.two.driver_opts.encrypted"), "{text}");
}

#[test]
fn requests_for_devices_come_to_names_that_hosts_know() {
    let names = |service: &str| {
        let text = format!("services: {{a: {{image: 'a:1', {service}}}}}\n");
        let (spec, _) = project(text.leak()).parse().unwrap();
        spec["services"]["a"]["container"]["cdi_devices"].clone()
    };
    let reserved = |request: &str| names(&format!("deploy: {{resources: {{reservations: {{devices: [{request}]}}}}}}"));
    assert_eq!(names("gpus: all"), serde_json::json!(["nvidia.com/gpu=all"]));
    assert_eq!(names("gpus: [{count: 2}]"), serde_json::json!(["nvidia.com/gpu=0", "nvidia.com/gpu=1"]));
    assert_eq!(reserved("{capabilities: [gpu]}"), serde_json::json!(["nvidia.com/gpu=all"]));
    assert_eq!(reserved("{driver: nvidia, count: all, capabilities: [utility, gpu]}"), names("gpus: all"));
    assert_eq!(
        reserved("{device_ids: ['1', GPU-3faa, 'nvidia.com/gpu=mig1:0'], capabilities: [gpu]}"),
        serde_json::json!(["nvidia.com/gpu=1", "nvidia.com/gpu=GPU-3faa", "nvidia.com/gpu=mig1:0"])
    );
    let cdi = "{driver: cdi, device_ids: ['vendor.com/card=0', 'vendor.com/card=0'], capabilities: [card]}";
    assert_eq!(reserved(cdi), serde_json::json!(["vendor.com/card=0"]));
    assert_eq!(
        names("devices: ['vendor.com/card=0', 'nvidia.com/gpu=all'], gpus: all"),
        serde_json::json!(["vendor.com/card=0", "nvidia.com/gpu=all"])
    );
}
