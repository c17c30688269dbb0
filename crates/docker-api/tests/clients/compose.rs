//! docker-compose (the one of Debian, written in Python) with a file of several services.

use std::fs;
use std::path::PathBuf;

use crate::served::{Served, brought, loopback_up, optional, program, run, served};

const FILE: &str = r#"
version: "2.4"
services:
  db:
    image: made:1
    command: ["sh", "-c", "sleep 0.3; echo up > /data/up; echo the base is up; trap 'exit 0' TERM; while :; do sleep 0.05; done"]
    volumes: ["state:/data"]
    healthcheck:
      test: ["CMD-SHELL", "cat /data/up"]
      interval: 100ms
      retries: 100
  web:
    image: made:1
    command: ["sh", "-c", "cat /data/up; echo $$GREETING from web; while :; do echo answer | nc -l -p 80; done"]
    environment: {GREETING: "${GREETING:-hello}"}
    volumes: ["state:/data:ro"]
    ports: ["18080:80"]
    depends_on:
      db: {condition: service_healthy}
    labels: {tier: front}
    restart: unless-stopped
  once:
    image: made:1
    command: ["sh", "-c", "ping -c 1 db && ping -c 1 web"]
    depends_on: [web]
volumes:
  state: {}
"#;

async fn compose(served: &Served, client: &PathBuf, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(client);
    command.args(["-p", "shop", "-f"]).arg(served.root.join("docker-compose.yml")).args(arguments);
    command
        .env("DOCKER_HOST", format!("unix://{}", served.socket.display()))
        .env("DOCKER_CONFIG", served.root.join("cli"));
    command.env_remove("DOCKER_CONTEXT").env("GREETING", "good day").env("COMPOSE_ANSI", "never");
    let (fine, said) = program(&mut command).await;
    assert!(fine, "docker-compose {arguments:?}: {said}");
    said
}

#[test]
fn a_file_of_several_services_comes_up_and_goes() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).map(|place| place.join("docker-compose")).collect();
    places.push(brought().join("bin/docker-compose"));
    let Some(client) = optional("docker-compose", &places) else { return };
    served("docker-api-compose", async move |served| {
        loopback_up();
        fs::write(served.root.join("docker-compose.yml"), FILE).unwrap();
        compose(&served, &client, &["up", "-d"]).await;
        let shown = compose(&served, &client, &["ps"]).await;
        assert!(shown.contains("shop_db_1") && shown.contains("Up (healthy)"), "{shown}");
        assert!(shown.contains("0.0.0.0:18080->80/tcp"), "{shown}");
        let logs = compose(&served, &client, &["logs", "--no-color"]).await;
        // The one waited for the other's health.
        assert!(logs.contains("the base is up") && logs.contains("good day from web"), "{logs}");
        let first = logs.lines().find(|line| line.starts_with("web_1")).unwrap();
        assert!(first.ends_with("| up"), "{logs}");
        let ended = async || served.get("/containers/shop_once_1/json").await["State"].clone();
        crate::served::until("it has ended", async || ended().await["Status"] == "exited").await;
        assert_eq!(ended().await["ExitCode"], 0, "{}", run(&served, &["logs", "shop_once_1"]).await);
        assert_eq!(compose(&served, &client, &["exec", "-T", "web", "sh", "-c", "echo $GREETING"]).await, "good day\n");
        assert!(compose(&served, &client, &["top"]).await.contains("sleep"));
        assert_eq!(compose(&served, &client, &["port", "web", "80"]).await.trim(), "0.0.0.0:18080");
        // What has not changed is left as it is; what has is made anew.
        let web = served.get("/containers/shop_web_1/json").await["Id"].clone();
        compose(&served, &client, &["up", "-d"]).await;
        assert_eq!(served.get("/containers/shop_web_1/json").await["Id"], web);
        fs::write(served.root.join("docker-compose.yml"), FILE.replace("tier: front", "tier: rear")).unwrap();
        compose(&served, &client, &["up", "-d"]).await;
        assert_ne!(served.get("/containers/shop_web_1/json").await["Id"], web);
        compose(&served, &client, &["restart", "-t", "1", "db"]).await;
        compose(&served, &client, &["up", "-d", "--scale", "once=2"]).await;
        compose(&served, &client, &["stop", "-t", "1", "web"]).await;
        compose(&served, &client, &["down", "-v", "-t", "1"]).await;
        assert_eq!(run(&served, &["ps", "-aq"]).await, "");
        assert_eq!(run(&served, &["volume", "ls", "-q"]).await, "");
        assert!(!run(&served, &["network", "ls"]).await.contains("shop"));
    });
}
