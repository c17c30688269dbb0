//! Images by the Docker CLI: they come, get names, go to other hosts, and end.

use hyper::Method;
use serde_json::json;
use stack_testkit::registry::Registry;

use crate::served::{docker_with, fails, run, served};

#[test]
fn images_are_named_saved_loaded_and_removed() {
    served("docker-api-images", async |served| {
        run(&served, &["tag", "made:1", "team/app:2"]).await;
        run(&served, &["tag", "made:1", "other"]).await;
        assert!(fails(&served, &["tag", "nothing:1", "x:1"]).await.contains("No such image: nothing:1"));
        assert!(fails(&served, &["tag", "made:1", "UPPER"]).await.contains("invalid reference format"));
        let names = async |filter: &str| {
            let all = run(&served, &["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", filter]).await;
            let mut all: Vec<String> = all.lines().map(str::to_owned).collect();
            all.sort();
            all
        };
        assert_eq!(names("reference=team/*").await, ["team/app:2"]);
        assert_eq!(names("reference=m?de").await, ["made:1"]);
        assert_eq!(names("label=made=here").await, ["made:1", "other:latest", "team/app:2"]);
        assert_eq!(names("label=made=there").await, Vec::<String>::new());
        assert_eq!(names("dangling=true").await, Vec::<String>::new());
        let history = run(&served, &["history", "--no-trunc", "--format", "{{.ID}} {{.Size}}", "made:1"]).await;
        assert!(history.starts_with("sha256:") && history.contains("MB"), "{history}");

        // Out as an archive and back, with the same identifier.
        let id = run(&served, &["images", "-q", "--no-trunc", "made:1"]).await;
        let archive = served.root.join("saved.tar");
        let path = archive.to_str().expect("UTF-8");
        run(&served, &["save", "-o", path, "made:1", "team/app:2"]).await;
        assert!(fails(&served, &["save", "-o", path, "nothing:1"]).await.contains("No such image"));
        assert!(fails(&served, &["rmi", id.trim()]).await.contains("must be forced"));
        let removed = run(&served, &["rmi", "-f", id.trim()]).await;
        assert!(removed.contains("Untagged: other:latest") && removed.contains("Deleted: sha256:"), "{removed}");
        assert_eq!(served.get("/images/json").await, json!([]));
        let loaded = run(&served, &["load", "-i", path]).await;
        assert!(loaded.contains("Loaded image: made:1") && loaded.contains("Loaded image: team/app:2"), "{loaded}");
        assert_eq!(run(&served, &["images", "-q", "--no-trunc", "made:1"]).await, id);
        let (fine, _, error) = docker_with(&served, &["load"], b"this is no archive").await;
        assert!(!fine && error.contains("archive"), "{error}");

        // One that containers are made of is not removed under them.
        let container = run(&served, &["create", "made:1", "sh", "-c", "exit 0"]).await;
        assert!(run(&served, &["rmi", "team/app:2"]).await.contains("Untagged: team/app:2"));
        let error = fails(&served, &["rmi", "made:1"]).await;
        assert!(error.contains("must force") && error.contains(&container[..12]), "{error}");
        let error = fails(&served, &["rmi", &id.trim()[7..19]]).await;
        assert!(error.contains("is being used by stopped container"), "{error}");
        assert!(run(&served, &["rmi", "-f", "made:1"]).await.contains("Untagged: made:1"));
        run(&served, &["start", "-a", container.trim()]).await;
        let pruned = run(&served, &["image", "prune", "-f"]).await;
        assert!(!pruned.contains("Deleted Images"), "a container has it: {pruned}");
        run(&served, &["rm", container.trim()]).await;
        let pruned = run(&served, &["image", "prune", "-f"]).await;
        assert!(pruned.contains("deleted: sha256:") && !pruned.contains("reclaimed space: 0B"), "{pruned}");
        assert!(fails(&served, &["rmi", "made:1"]).await.contains("No such image: made:1"));
    });
}

#[test]
fn a_root_file_system_becomes_an_image() {
    served("docker-api-import", async |served| {
        let archive = crate::served::archive();
        let arguments =
            ["import", "-c", "CMD [\"sh\", \"-c\", \"echo $WHO\"]", "-c", "ENV WHO=\"it is me\"", "-", "brought:3"];
        let (fine, output, error) = docker_with(&served, &arguments, &archive).await;
        assert!(fine && output.starts_with("sha256:"), "{output}{error}");
        assert_eq!(run(&served, &["run", "--rm", "brought:3"]).await.trim(), "it is me");
        let (fine, _, error) = docker_with(&served, &["import", "-c", "COPY a b", "-"], &archive).await;
        assert!(!fine && error.contains("COPY a b"), "{error}");
    });
}

#[test]
fn images_are_pulled_with_progress() {
    served("docker-api-pull", async |served| {
        crate::served::loopback_up();
        let registry = Registry::start_with_password("teller", "open sesame").expect("a registry");
        registry.put_image("team/app", "1", &crate::served::archive(), &json!({"Cmd": ["true"]})).expect("it takes it");
        let address = registry.address();
        let name = format!("{address}/team/app:1");
        let error = fails(&served, &["pull", &name]).await;
        assert!(error.contains("wants a name and a password"), "{error}");
        let wrong = docker_with(&served, &["login", "-u", "teller", "--password-stdin", &address], b"no").await;
        assert!(!wrong.0 && !wrong.2.contains("sesame"), "{wrong:?}");
        let login = ["login", "-u", "teller", "--password-stdin", &address];
        let (fine, output, error) = docker_with(&served, &login, b"open sesame").await;
        assert!(fine && output.contains("Login Succeeded"), "{output}{error}");
        let told = run(&served, &["pull", &name]).await;
        assert!(told.contains("Pulling from team/app") && told.contains("Downloaded newer image for"), "{told}");
        let told = run(&served, &["pull", &name]).await;
        assert!(told.contains("Image is up to date for"), "{told}");
        let digest = told.lines().find_map(|line| line.strip_prefix("Digest: ")).expect("its digest").to_owned();
        run(&served, &["rmi", &name]).await;
        let pinned = format!("{}/team/app@{digest}", registry.address());
        run(&served, &["run", "--rm", &pinned, "sh", "-c", "exit 0"]).await;
        let error = fails(&served, &["pull", &format!("{}/team/app:9", registry.address())]).await;
        assert!(error.contains("has no"), "{error}");
        let error = fails(&served, &["pull", "--platform", "linux/s390x", &name]).await;
        assert!(error.contains("does not match the specified platform"), "{error}");
        let (status, text) = served.refused(Method::GET, &format!("/distribution/{name}/json")).await;
        assert_eq!(status, 404, "{text}");
        // Docker's clients send credentials as they have them; a damaged header is told without what is in it.
        let (status, text) = served.refused(Method::POST, &format!("/images/create?fromImage={name}")).await;
        assert_eq!(status, 404, "{text}");
    });
}
