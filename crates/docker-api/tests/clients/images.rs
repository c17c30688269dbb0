//! Images by the Docker CLI: they come, get names, go to other hosts, and end.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::RawQuery;
use http::{HeaderMap, StatusCode};
use hyper::Method;
use serde_json::json;
use stack_testkit::registry::Registry;

use crate::served::{docker, docker_with, fails, loopback_up, run, served};

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

/// A registry that can be searched: it takes the name `user` with the password `word`, or nobody where the term says so.
async fn searched() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    let search = async move |headers: HeaderMap, RawQuery(query): RawQuery| {
        let query = query.unwrap_or_default();
        noted.lock().unwrap().push(query.clone());
        let login = headers.get("authorization").and_then(|value| value.to_str().ok());
        if query.contains("private") && login != Some("Basic dXNlcjp3b3Jk") {
            return (StatusCode::UNAUTHORIZED, [("www-authenticate", "Basic realm=\"here\"")], String::new());
        }
        let text = match query.contains("damaged") {
            true => "<html>".to_owned(),
            false => json!({ "num_results": 2, "query": "box", "results": [
                { "name": "busybox", "description": "A box", "star_count": 7, "is_official": true, "is_automated": true },
                { "name": "team/box", "description": "", "star_count": 3, "is_official": false },
            ]})
            .to_string(),
        };
        (StatusCode::OK, [("www-authenticate", "")], text)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = axum::Router::new().route("/v1/search", axum::routing::get(search));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (address, asked)
}

#[test]
fn a_registry_is_searched() {
    served("docker-api-search", async |served| {
        loopback_up();
        let (address, asked) = searched().await;
        let search = async |options: &[&str], term: &str| {
            let term = format!("{address}/{term}");
            let format = ["--format", "{{.Name}} {{.Description}} {{.StarCount}} {{.IsOfficial}}"];
            let arguments: Vec<&str> =
                ["search"].into_iter().chain(format).chain(options.iter().copied()).chain([term.as_str()]).collect();
            docker(&served, &arguments).await
        };
        let (fine, found, error) = search(&[], "a box").await;
        assert!(fine, "{error}");
        assert_eq!(found.lines().collect::<Vec<_>>(), ["busybox A box 7 [OK]", "team/box  3 "]);
        assert_eq!(asked.lock().unwrap().pop().unwrap(), "q=a+box&n=25");
        assert!(search(&["--limit", "100"], "box").await.0);
        assert_eq!(asked.lock().unwrap().pop().unwrap(), "q=box&n=100");
        for (filter, names) in [
            ("is-official=true", vec!["busybox"]),
            ("is-official=false", vec!["team/box"]),
            ("stars=4", vec!["busybox"]),
            ("stars=8", vec![]),
            ("is-automated=true", vec![]),
            ("is-automated=false", vec!["busybox", "team/box"]),
        ] {
            let (fine, found, error) = search(&["--filter", filter], "box").await;
            assert!(fine, "{error}");
            let found: Vec<_> = found.lines().filter_map(|line| line.split(' ').next()).collect();
            assert_eq!(found, names, "{filter}");
        }
        for (options, said) in [
            (["--limit", "101"], "limit 101 is outside the range of [1, 100]"),
            (["--filter", "color=red"], "invalid filter 'color'"),
            (["--filter", "stars=many"], "invalid filter 'stars=many'"),
            (["--filter", "is-official=maybe"], "invalid filter 'is-official=[maybe]'"),
        ] {
            let (fine, _, error) = search(&options, "box").await;
            assert!(!fine && error.contains(said), "expected `{said}`, got `{error}`");
        }
        let (_, _, error) = search(&[], "private").await;
        assert!(error.contains("Unexpected status code 401"), "{error}");
        let (_, _, error) = search(&[], "damaged").await;
        assert!(error.contains("the results cannot be understood"), "{error}");
        // A registry of today, which knows no search.
        let registry = Registry::start().expect("a registry");
        let (_, _, error) = docker(&served, &["search", &format!("{}/box", registry.address())]).await;
        assert!(error.contains("Unexpected status code 404"), "{error}");
        let (status, text) = served.refused(Method::GET, "/images/search?term=box&limit=-1").await;
        assert_eq!((status, text.as_str()), (400, "limit -1 is outside the range of [1, 100]"));
        let (status, text) = served.refused(Method::GET, "/images/search?term=http://registry/box").await;
        assert!(status == 400 && text.starts_with("invalid index name (http://registry/box)"), "{text}");

        // Whoever is logged in asks by that name.
        let login = r#"{"auths":{"ADDRESS":{"auth":"dXNlcjp3b3Jk"}}}"#.replace("ADDRESS", &address.to_string());
        let configuration = served.root.join("client");
        std::fs::create_dir_all(&configuration).unwrap();
        std::fs::write(configuration.join("config.json"), login).unwrap();
        let (_, found, error) =
            docker(&served, &["--config", configuration.to_str().unwrap(), "search", &format!("{address}/private")])
                .await;
        assert!(found.contains("busybox"), "{error}");
    });
}
