//! Containers from their creation to their removal, by raw requests and by the Docker CLI.

use std::collections::BTreeMap;
use std::path::Path;

use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};
use stack_engine::container::{ContainerConfig, ContainerState, NetworkMode};
use stack_engine::network::{NetworkEndpoint, PortBinding, Protocol};

use crate::served::{docker, served};
use crate::support::{PATIENCE, shell};

const WEB: &str = "aaaa0000000000000000000000000001";
const WORK: &str = "aaaa0000000000000000000000000002";

#[test]
fn versions_and_what_is_not_there() {
    served("docker-api-surface", async |served| {
        let ping = served.send(Method::HEAD, "/_ping").await;
        assert_eq!((ping.status().as_u16(), ping.headers()["api-version"].to_str().unwrap()), (200, "1.51"));
        assert_eq!(ping.headers()["ostype"], "linux");
        assert_eq!(ping.headers()["docker-experimental"], "false");
        assert_eq!(ping.headers()["server"], "stack/0.1.0 (linux)");
        assert_eq!(served.bytes(Method::GET, "/v1.24/_ping").await, (200, Bytes::from("OK")));
        let (status, text) = served.refused(Method::GET, "/v1.99/containers/json").await;
        assert_eq!(status, 400);
        assert!(text.contains("client version 1.99 is too new. Maximum supported API version is 1.51"), "{text}");
        let (status, text) = served.refused(Method::GET, "/v1.10/_ping").await;
        assert!(status == 400 && text.contains("too old"), "{text}");
        assert_eq!(served.refused(Method::GET, "/nothing").await, (404, "page not found".to_owned()));
        assert_eq!(served.refused(Method::PUT, "/_ping").await, (404, "page not found".to_owned()));
        let (status, text) = served.refused(Method::POST, "/v1.43/containers/create?name=x").await;
        assert_eq!(status, 400, "{text}");
        let (status, text) = served.refused(Method::POST, "/v1.43/build").await;
        assert_eq!((status, text.as_str()), (501, "POST /build is not supported by this daemon yet"));
        let (status, text) = served.refused(Method::GET, "/plugins").await;
        assert_eq!((status, text.as_str()), (501, "GET /plugins is not supported by this daemon yet"));
        for path in ["/swarm", "/nodes", "/v1.40/services", "/tasks", "/secrets", "/configs/x"] {
            let (status, text) = served.refused(Method::GET, path).await;
            assert!(status == 503 && text.starts_with("This node is not a swarm manager."), "{path}: {text}");
        }
        for path in ["/containers/%ff/json", "/containers/x/logs"] {
            assert_eq!(served.refused(Method::GET, path).await.0, 400, "{path}");
        }
        // Bytes that are no UTF-8 are a word like any other, and any word but a few is a yes, as with Docker.
        assert_eq!(served.get("/containers/json?all=%ff").await, json!([]));
        for path in ["/containers/x/json", "/images/none/json", "/volumes/none", "/containers/x/logs?stdout=1"] {
            assert_eq!(served.refused(Method::GET, path).await.0, 404, "{path}");
        }
    });
}

#[test]
fn the_life_of_a_container() {
    served("docker-api-life", async |served| {
        let mut events =
            served.send(Method::GET, r#"/events?filters={"container":["web"]}"#.replace('"', "%22").as_str()).await;
        let id = served
            .create(WEB, "web", "trap 'exit 3' TERM; echo ready; echo trouble >&2; while :; do sleep 0.05; done")
            .await;
        served.create(WORK, "work", "exit 7").await;
        assert_eq!(served.get("/containers/json").await, json!([]));
        assert_eq!(served.post("/containers/web/stop").await, 304);
        assert_eq!(served.refused(Method::POST, "/containers/web/kill").await.0, 409);
        assert_eq!(served.post(&format!("/v1.41/containers/{}/start", &WEB[..31])).await, 400, "it begins two ids");
        assert_eq!(served.post("/v1.41/containers/web/start").await, 204);
        assert_eq!(served.post(&format!("/containers/{WEB}/start")).await, 304);
        let rows = served.get("/containers/json").await;
        assert_eq!(rows.as_array().unwrap().len(), 1);
        assert_eq!((&rows[0]["Names"], &rows[0]["State"]), (&json!(["/web"]), &json!("running")));
        assert!(rows[0]["Status"].as_str().unwrap().starts_with("Up "), "{rows}");
        let filters = "%7B%22label%22:%5B%22tier=work%22%5D%7D";
        let rows = served.get(&format!("/containers/json?all=1&filters={filters}")).await;
        assert_eq!((&rows[0]["Id"], rows.as_array().unwrap().len()), (&json!(WORK), 1));
        let document = served.get("/containers/web/json").await;
        assert_eq!(
            (&document["State"]["Running"], &document["HostConfig"]["NetworkMode"]),
            (&json!(true), &json!("none"))
        );
        assert_eq!(document["Config"]["Env"], json!(["PATH=/bin", "FROM_IMAGE=yes"]));
        assert_eq!(document["Config"]["Labels"], json!({"made": "here", "tier": "web"}));

        let mut followed = served.send(Method::GET, "/containers/web/logs?stdout=1&stderr=1&follow=1").await;
        assert_eq!(followed.headers()["content-type"], "application/vnd.docker.multiplexed-stream");
        let mut seen = Vec::new();
        let both = |seen: &[u8]| {
            let has = |frame: &[u8]| seen.windows(frame.len()).any(|window| window == frame);
            has(b"\x01\0\0\0\0\0\0\x06ready\n") && has(b"\x02\0\0\0\0\0\0\x08trouble\n")
        };
        while !both(&seen) {
            let frame = tokio::time::timeout(PATIENCE, followed.frame()).await.expect("both lines are told");
            seen.extend(frame.unwrap().unwrap().into_data().unwrap());
        }
        let (_, error) = served.bytes(Method::GET, "/v1.41/containers/web/logs?stderr=1&timestamps=1&tail=1").await;
        assert!(error.is_empty() || error.ends_with(b"Z trouble\n"), "{error:?}");

        let waiting = served.send(Method::POST, "/containers/web/wait").await;
        assert_eq!(waiting.status(), 200, "the head comes while the container runs");
        assert!(matches!(served.engine.inspect(&id).unwrap().state, ContainerState::Running { .. }));
        assert_eq!(served.refused(Method::DELETE, "/containers/web").await.0, 409);
        assert_eq!(served.post("/containers/web/stop?t=30").await, 204);
        let told = tokio::time::timeout(PATIENCE, waiting.into_body().collect()).await.unwrap().unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<Value>(&told).unwrap(), json!({"StatusCode": 3}));
        let rest = tokio::time::timeout(PATIENCE, followed.into_body().collect()).await;
        rest.expect("a followed log ends with its container").unwrap();
        assert_eq!(served.get("/containers/web/json").await["State"]["ExitCode"], 3);

        assert_eq!(served.post("/containers/web/restart?t=0").await, 204);
        let removed = served.send(Method::POST, "/containers/web/wait?condition=removed").await;
        assert_eq!(served.post("/containers/web/kill?signal=KILL").await, 204);
        assert_eq!(served.json(Method::POST, "/containers/web/wait").await.1, json!({"StatusCode": 137}));
        assert_eq!(served.bytes(Method::DELETE, "/containers/web?v=1").await.0, 204);
        let told = tokio::time::timeout(PATIENCE, removed.into_body().collect()).await.unwrap().unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<Value>(&told).unwrap(), json!({"StatusCode": 137}));
        assert_eq!(
            served.refused(Method::GET, "/containers/web/json").await,
            (404, "No such container: web".to_owned())
        );

        let mut actions = Vec::new();
        while actions.last().is_none_or(|action| action != "destroy") {
            let frame = tokio::time::timeout(PATIENCE, events.frame()).await.expect("its end is told");
            let line = frame.unwrap().unwrap().into_data().unwrap();
            let event: Value = serde_json::from_slice(&line).unwrap();
            assert_eq!((&event["Actor"]["Attributes"]["name"], &event["id"]), (&json!("web"), &json!(WEB)));
            actions.push(event["Action"].as_str().unwrap().to_owned());
        }
        assert_eq!(actions, ["create", "start", "die", "stop", "start", "restart", "kill", "die", "destroy"]);
    });
}

#[test]
fn what_is_on_the_host() {
    served("docker-api-host", async |served| {
        let info = served.get("/info").await;
        assert_eq!((&info["ID"], &info["Images"], &info["Containers"]), (&json!("test-host"), &json!(1), &json!(0)));
        assert_eq!(served.get("/version").await["Version"], "0.1.0");
        let images = served.get("/images/json").await;
        assert_eq!(images[0]["RepoTags"], json!(["made:1"]));
        assert_eq!(images[0]["Created"], 1_714_979_289);
        let image = served.get("/images/docker.io/library/made:1/json").await;
        assert_eq!((&image["Id"], &image["Config"]["ExposedPorts"]), (&images[0]["Id"], &json!({"80/tcp": {}})));
        assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 1);
        served.engine.volumes().ensure("data", &BTreeMap::new(), None).unwrap();
        let volumes = served.get("/volumes").await;
        assert_eq!(
            (&volumes["Volumes"][0]["Name"], &volumes["Volumes"][0]["Driver"]),
            (&json!("data"), &json!("local"))
        );
        assert!(Path::new(volumes["Volumes"][0]["Mountpoint"].as_str().unwrap()).is_dir());
        assert_eq!(served.get("/volumes/data").await["Name"], "data");

        let config = ContainerConfig {
            image: "made:1".to_owned(),
            name: Some("web".to_owned()),
            network_mode: NetworkMode::Networks,
            networks: vec![NetworkEndpoint {
                name: "front".to_owned(),
                aliases: vec!["site".to_owned()],
                ..NetworkEndpoint::default()
            }],
            ports: vec![PortBinding {
                host_ip: None,
                host_port: 0,
                host_port_last: None,
                container_port: 80,
                protocol: Protocol::Tcp,
                shared: false,
            }],
            ..shell("while :; do sleep 0.05; done")
        };
        served.engine.networks().create_network("front").await.unwrap();
        let id = served.engine.create(Some(WEB.parse().unwrap()), config).await.unwrap();
        served.engine.start(&id).await.unwrap();
        let networks = served.get("/networks").await;
        assert_eq!((&networks[0]["Name"], &networks[0]["Driver"]), (&json!("front"), &json!("bridge")));
        let document = served.get("/containers/web/json").await;
        let port = &document["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"];
        assert!(port.as_str().unwrap().parse::<u16>().unwrap() >= 32768, "{document}");
        let network = &document["NetworkSettings"]["Networks"]["front"];
        assert_eq!((&network["NetworkID"], &network["Aliases"]), (&networks[0]["Id"], &json!(["site"])));
        let address = served.engine.inspect(&id).unwrap().addresses[0].to_string();
        assert_eq!(network["IPAddress"], address);
    });
}

#[test]
fn the_docker_cli_can_drive_it() {
    // The raw requests above show the same; this shows that the real client understands the answers.
    served("docker-api-cli", async |served| {
        let run = async |arguments: &[&str]| {
            let (fine, output, error) = docker(&served, arguments).await;
            assert!(fine, "docker {arguments:?}: {output}{error}");
            output
        };
        let web = served.start(WEB, "web", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done").await;
        served.start(WORK, "work", "seq 1 5; exit 7").await;
        let version = run(&["version", "--format", "{{.Server.Version}} {{.Server.APIVersion}}"]).await;
        assert_eq!(version.trim(), "0.1.0 1.51");
        run(&["version"]).await;
        assert!(run(&["info"]).await.contains("Server Version: 0.1.0"));
        assert_eq!(run(&["wait", "work"]).await.trim(), "7");
        assert_eq!(run(&["ps", "--format", "{{.Names}} {{.State}} {{.Image}}"]).await.trim(), "web running made:1");
        assert!(run(&["ps", "-a"]).await.contains("Exited (7)"));
        assert_eq!(run(&["ps", "-aq", "--filter", "name=wor"]).await.trim(), &WORK[..12]);
        assert_eq!(run(&["logs", "work"]).await, "1\n2\n3\n4\n5\n");
        assert_eq!(run(&["logs", "--tail", "2", "work"]).await, "4\n5\n");
        assert!(run(&["logs", "-t", "--tail", "1", "work"]).await.ends_with("Z 5\n"));
        assert_eq!(run(&["inspect", "--format", "{{.State.ExitCode}} {{.Name}}", "work"]).await.trim(), "7 /work");
        assert_eq!(run(&["inspect", "--format", "{{.Os}}", "made:1"]).await.trim(), "linux");
        assert_eq!(run(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).await.trim(), "made:1");
        assert_eq!(run(&["images", "-q", "made"]).await.lines().count(), 1);
        assert!(run(&["network", "ls"]).await.contains("host"));
        run(&["volume", "ls"]).await;
        run(&["restart", "-t", "1", "web"]).await;
        run(&["stop", "web"]).await;
        assert!(matches!(served.engine.inspect(&web).unwrap().state, ContainerState::Exited(_)));
        run(&["start", "web"]).await;
        run(&["kill", "-s", "KILL", "web"]).await;
        assert_eq!(run(&["wait", "web"]).await.trim(), "137");
        assert_eq!(run(&["rm", "-f", "web", "work"]).await, "web\nwork\n");
        assert!(served.engine.list().is_empty());
        let (fine, _, error) = docker(&served, &["logs", "web"]).await;
        assert!(!fine && error.contains("No such container: web"), "{error}");
        let (fine, _, error) = docker(&served, &["run", "--rm", "--gpus", "all", "made:1"]).await;
        assert!(!fine && error.contains("unresolvable CDI devices nvidia.com/gpu=all"), "{error}");
        let (fine, _, error) = docker(&served, &["create", "--gpus", "2,capabilities=tpu", "made:1"]).await;
        assert!(
            !fine && error.contains("could not select device driver \"\" with capabilities: [[tpu gpu]]"),
            "{error}"
        );
        let (fine, _, error) = docker(&served, &["node", "ls"]).await;
        assert!(!fine && error.contains("This node is not a swarm manager"), "{error}");
    });
}

#[test]
fn graphics_processors_are_those_that_the_host_describes() {
    served("docker-api-gpus", async |served| {
        let directory = served.root.join("real/cdi/etc");
        std::fs::create_dir_all(&directory).unwrap();
        let devices: Vec<Value> = ["0", "1", "all"]
            .map(|name| json!({"name": name, "containerEdits": {"env": [format!("GPU_{name}=here")]}}))
            .into();
        let document = json!({"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": devices});
        std::fs::write(directory.join("nvidia.json"), document.to_string()).unwrap();
        let line = "echo $GPU_0 $GPU_1 $GPU_all";
        for (asked, seen) in [("all", 1), ("1", 1), ("2", 2), ("device=1", 1), ("\"device=0,1\"", 2)] {
            let (fine, out, error) =
                docker(&served, &["run", "--rm", "--gpus", asked, "made:1", "sh", "-c", line]).await;
            assert!(fine, "{asked}: {error}");
            assert_eq!(out.matches("here").count(), seen, "{asked}: {out}");
        }
        let (fine, _, error) = docker(&served, &["run", "--rm", "--gpus", "3", "made:1"]).await;
        assert!(!fine && error.contains("unresolvable CDI devices nvidia.com/gpu=2"), "{error}");
    });
}
