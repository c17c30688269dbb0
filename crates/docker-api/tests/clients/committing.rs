//! Images of containers, and images for registries, by the Docker CLI against a real registry.

use serde_json::{Value, json};
use stack_testkit::registry::Registry;

use crate::served::{Served, docker_with, fails, loopback_up, run, served, until};

const WAITS: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

async fn inspected(served: &Served, image: &str) -> Value {
    let text = run(served, &["image", "inspect", image]).await;
    serde_json::from_str::<Value>(&text).unwrap()[0].clone()
}

#[test]
fn a_container_becomes_an_image() {
    served("docker-api-commit", async |served| {
        let line = format!(
            "echo words > /file; mkdir /own; ln -s /file /own/link; mv /bin/seq /own/seq; echo > /bin/true; chmod 700 /bin; \
             echo > /ready; echo ready; {WAITS}"
        );
        let arguments = [
            "run",
            "-d",
            "--name",
            "web",
            "-e",
            "MORE=yes",
            "-v",
            "data:/data",
            "-w",
            "/own",
            "--user",
            "0:0",
            "made:1",
        ];
        let mut arguments = arguments.to_vec();
        arguments.extend(["sh", "-c", &line]);
        run(&served, &arguments).await;
        until("it is ready", async || run(&served, &["logs", "web"]).await.contains("ready")).await;
        run(&served, &["exec", "web", "sh", "-c", "echo not in the image > /data/file"]).await;
        let id = run(
            &served,
            &["commit", "-a", "Somebody", "-m", "why", "-c", "CMD [\"sh\"]", "-c", "ENV ONE=1", "web", "kept:2"],
        )
        .await;
        let image = inspected(&served, "kept:2").await;
        assert_eq!(image["Id"].as_str().unwrap(), id.trim());
        assert_eq!((&image["Author"], &image["Comment"]), (&json!("Somebody"), &json!("why")));
        let config = &image["Config"];
        assert_eq!(
            (&config["Cmd"], &config["WorkingDir"], &config["User"]),
            (&json!(["sh"]), &json!("/own"), &json!("0:0"))
        );
        let environment = config["Env"].as_array().unwrap();
        for entry in ["PATH=/bin", "FROM_IMAGE=yes", "MORE=yes", "ONE=1"] {
            assert!(environment.contains(&json!(entry)), "{environment:?}");
        }
        assert_eq!((&config["Labels"]["made"], &config["ExposedPorts"]["80/tcp"]), (&json!("here"), &json!({})));
        let history = run(&served, &["history", "--no-trunc", "--format", "{{.Comment}}", "kept:2"]).await;
        assert_eq!(history.lines().collect::<Vec<_>>(), ["why", "imported"]);
        // What was changed is there, what was removed is not, and what start made for mounts is no change.
        let look = "cat /file; cat /own/link; cat /bin/seq; cat /data/file; echo; for x in /*; do echo $x; done";
        let said = run(&served, &["run", "--rm", "kept:2", "sh", "-c", &format!("{{ {look}; }} 2>&1")]).await;
        assert!(said.starts_with("words\nwords\ncat: can't open '/bin/seq'"), "{said}");
        assert!(!said.contains("not in the image"), "{said}");
        // It went on afterwards, and another commit of the same gives the same layer.
        let paused = served.get("/containers/web/json").await["State"]["Paused"].clone();
        assert_eq!(paused, json!(false));
        run(&served, &["commit", "--pause=false", "web"]).await;
        run(&served, &["stop", "-t", "5", "web"]).await;
        run(&served, &["commit", "web", "kept:3"]).await;
        assert_eq!(inspected(&served, "kept:3").await["RootFS"], image["RootFS"]);
        // An image of a container of such an image.
        run(&served, &["run", "--name", "second", "kept:2", "sh", "-c", "echo more >> /file"]).await;
        run(&served, &["commit", "second", "kept:4"]).await;
        assert_eq!(run(&served, &["run", "--rm", "kept:4", "sh", "-c", "cat /file"]).await, "words\nmore\n");
        let saved = run(&served, &["save", "kept:4", "-o", &served.root.join("saved.tar").display().to_string()]).await;
        assert!(saved.is_empty());
        run(&served, &["load", "-i", &served.root.join("saved.tar").display().to_string()]).await;

        assert!(fails(&served, &["commit", "nobody", "x:1"]).await.contains("No such container"));
        assert!(fails(&served, &["commit", "web", "UPPER:1"]).await.contains("invalid reference format"));
        assert!(fails(&served, &["commit", "-c", "RUN x", "web"]).await.contains("RUN"));
        let until = (jiff::Timestamp::now().as_second() + 1).to_string();
        let events = run(
            &served,
            &["events", "--since", "1h", "--until", &until, "--filter", "event=commit", "--format", "{{.Action}}"],
        )
        .await;
        assert_eq!(events.lines().count(), 4, "{events}");
        run(&served, &["rm", "-f", "web", "second"]).await;
        run(&served, &["rmi", "-f", "kept:2", "kept:3", "kept:4"]).await;
        assert!(!run(&served, &["images"]).await.contains("kept"));
    });
}

#[test]
fn images_are_pushed() {
    served("docker-api-push", async |served| {
        loopback_up();
        let registry = tokio::task::spawn_blocking(Registry::start).await.unwrap().unwrap();
        let name = |rest: &str| format!("{}/{rest}", registry.address());
        run(&served, &["tag", "made:1", &name("one/app:1")]).await;
        let said = run(&served, &["push", &name("one/app:1")]).await;
        assert!(said.contains(&format!("The push refers to repository [{}]", name("one/app"))), "{said}");
        assert!(said.contains(": Pushed") && said.contains("1: digest: sha256:"), "{said}");
        let again = run(&served, &["push", &name("one/app:1")]).await;
        assert!(again.contains("Layer already exists"), "{again}");
        // Another repository of the registry gets the layer without its being sent.
        run(&served, &["tag", "made:1", &name("two/app:1")]).await;
        run(&served, &["tag", "made:1", &name("two/app:2")]).await;
        let said = run(&served, &["push", &name("two/app:1")]).await;
        assert!(said.contains("Mounted from one/app"), "{said}");
        let said = run(&served, &["push", "-a", &name("two/app")]).await;
        assert!(said.contains("1: digest: sha256:") && said.contains("2: digest: sha256:"), "{said}");
        // What was pushed is what is pulled.
        run(&served, &["create", "--name", "web", "made:1"]).await;
        let file = served.root.join("file");
        std::fs::write(&file, "words").unwrap();
        run(&served, &["cp", &file.display().to_string(), "web:/file"]).await;
        run(&served, &["commit", "web", &name("three:1")]).await;
        run(&served, &["push", "-q", &name("three:1")]).await;
        let digest = inspected(&served, &name("three:1")).await["Id"].clone();
        run(&served, &["rm", "web"]).await;
        run(&served, &["rmi", &name("three:1")]).await;
        run(&served, &["pull", &name("three:1")]).await;
        assert_eq!(inspected(&served, &name("three:1")).await["Id"], digest);
        assert_eq!(run(&served, &["run", "--rm", &name("three:1"), "cat", "/file"]).await, "words");

        let error = fails(&served, &["push", &name("one/app:9")]).await;
        assert!(error.contains("tag does not exist"), "{error}");
        let error = fails(&served, &["push", "-a", &name("nowhere")]).await;
        assert!(error.contains("An image does not exist locally with the tag"), "{error}");
        let address = registry.address();
        drop(registry);
        let error = fails(&served, &["push", &format!("{address}/one/app:1")]).await;
        assert!(error.contains("cannot reach the registry"), "{error}");
    });
}

#[test]
fn a_registry_that_wants_a_password_gets_it() {
    served("docker-api-push-login", async |served| {
        loopback_up();
        let start = || Registry::start_with_password("pusher", "secret word");
        let registry = tokio::task::spawn_blocking(start).await.unwrap().unwrap();
        let name = format!("{}/app:1", registry.address());
        run(&served, &["tag", "made:1", &name]).await;
        let error = fails(&served, &["push", &name]).await;
        assert!(error.contains("wants a name and a password") && !error.contains("secret word"), "{error}");
        let login = ["login", "-u", "pusher", "--password-stdin", &registry.address()];
        let (fine, _, error) = docker_with(&served, &login, b"secret word").await;
        assert!(fine, "{error}");
        assert!(run(&served, &["push", &name]).await.contains(": Pushed"));
    });
}
