//! Events of every kind, and the log of a health check, by the Docker CLI.

use serde_json::Value;

use crate::served::{Served, run, served, until};

async fn events(served: &Served, filters: &[&str]) -> Vec<String> {
    // Clients count in whole seconds.
    let until = (jiff::Timestamp::now().as_second() + 1).to_string();
    let mut arguments = vec!["events", "--since", "1h", "--until", &until];
    for filter in filters {
        arguments.extend(["--filter", filter]);
    }
    arguments.extend(["--format", "{{.Type}} {{.Action}} {{.Actor.ID}} {{json .Actor.Attributes}}"]);
    run(served, &arguments).await.lines().map(str::to_owned).collect()
}

fn actions(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn images_volumes_and_networks_have_events() {
    served("docker-api-events", async |served| {
        run(&served, &["tag", "made:1", "other:1"]).await;
        run(&served, &["network", "create", "front"]).await;
        run(&served, &["network", "create", "back"]).await;
        run(&served, &["volume", "create", "data"]).await;
        let line = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
        let arguments =
            ["run", "-d", "--name", "web", "--network", "front", "-v", "data:/data:ro", "other:1", "sh", "-c", line];
        let id = run(&served, &arguments).await.trim().to_owned();
        run(&served, &["network", "connect", "back", "web"]).await;
        run(&served, &["network", "disconnect", "back", "web"]).await;
        run(&served, &["rm", "-f", "web"]).await;
        run(&served, &["volume", "rm", "data"]).await;
        run(&served, &["network", "rm", "front"]).await;
        run(&served, &["network", "prune", "-f"]).await;
        run(&served, &["volume", "prune", "-f"]).await;
        run(&served, &["rmi", "other:1"]).await;
        run(&served, &["save", "-o", &served.root.join("saved.tar").display().to_string(), "made:1"]).await;
        run(&served, &["load", "-i", &served.root.join("saved.tar").display().to_string()]).await;

        let volumes = events(&served, &["volume=data"]).await;
        assert_eq!(
            actions(&volumes),
            ["volume create", "volume mount", "volume unmount", "volume destroy"],
            "{volumes:?}"
        );
        assert!(
            volumes[1].contains(&format!("\"container\":\"{id}\"")) && volumes[1].contains("\"read/write\":\"false\"")
        );
        let networks = events(&served, &["type=network"]).await;
        let expected =
            ["create", "create", "connect", "connect", "disconnect", "disconnect", "destroy", "destroy", "prune"];
        assert_eq!(actions(&networks), expected.map(|action| format!("network {action}")), "{networks:?}");
        let back = events(&served, &["network=back", "event=connect"]).await;
        assert!(back.len() == 1 && back[0].contains("\"name\":\"back\"") && back[0].contains(&id), "{back:?}");
        let images = events(&served, &["type=image", "image=other:1"]).await;
        assert_eq!(actions(&images), ["image tag"], "{images:?}");
        assert!(images[0].contains("\"made\":\"here\""), "{images:?}");
        let images = actions(&events(&served, &["type=image"]).await);
        assert_eq!(images, ["import", "tag", "untag", "save", "load"].map(|action| format!("image {action}")));
        let containers = events(&served, &["type=container", "image=other"]).await;
        assert!(actions(&containers).contains(&"container start".to_owned()), "{containers:?}");
        assert_eq!(events(&served, &["event=prune", "type=volume"]).await.len(), 1);
        // With a label, whatever has it: the image's is its containers', too.
        let labelled = events(&served, &["label=made=here", "event=tag", "event=create"]).await;
        assert_eq!(actions(&labelled), ["image tag", "container create"], "{labelled:?}");
    });
}

#[test]
fn the_last_probes_are_told() {
    served("docker-api-health-log", async |served| {
        let line = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
        let check = "echo looked; test -e /well || { echo ill 1>&2; exit 3; }";
        let arguments = ["run", "-d", "--name", "patient", "--health-interval", "50ms", "--health-retries", "2"];
        let mut arguments = arguments.to_vec();
        arguments.extend(["--health-cmd", check, "made:1", "sh", "-c", line]);
        run(&served, &arguments).await;
        let health = async || served.get("/containers/patient/json").await["State"]["Health"].clone();
        until("it is ill", async || health().await["Status"] == "unhealthy").await;
        until("there are enough", async || health().await["Log"].as_array().is_some_and(|log| log.len() == 5)).await;
        let found = health().await;
        let last: &Value = &found["Log"][4];
        assert_eq!((&last["ExitCode"], &last["Output"]), (&3.into(), &"looked\nill\n".into()));
        let time = |key: &str| last[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert!(time("Start") <= time("End") && found["FailingStreak"].as_u64().unwrap() >= 5, "{found}");
        run(&served, &["exec", "patient", "sh", "-c", "echo > /well"]).await;
        until("it is well", async || health().await["Status"] == "healthy").await;
        let shown = run(&served, &["inspect", "-f", "{{(index .State.Health.Log 4).ExitCode}}", "patient"]).await;
        assert!(["0", "3"].contains(&shown.trim()), "{shown}");
    });
}
