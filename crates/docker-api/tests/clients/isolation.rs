//! Networks by the Docker CLI: names, addresses, and what is kept apart.

use serde_json::json;

use crate::served::{docker, fails, loopback_up, run, served, until};

const WAITS: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

#[test]
fn networks_are_made_used_and_removed() {
    served("docker-api-networks", async |served| {
        loopback_up();
        let network =
            ["network", "create", "--subnet", "10.211.4.0/24", "--gateway", "10.211.4.254", "--label", "a=b", "front"];
        let id = run(&served, &network).await;
        assert_eq!(id.trim().len(), 64);
        assert!(fails(&served, &["network", "create", "front"]).await.contains("already exists"));
        assert!(fails(&served, &["network", "create", "--subnet", "10.211.4.128/25", "x"]).await.contains("overlaps"));
        assert!(
            fails(&served, &["network", "create", "--subnet", "10.9.0.0/24", "--gateway", "10.8.0.1", "x"])
                .await
                .contains("gateway")
        );
        assert!(fails(&served, &["network", "create", "host"]).await.contains("predefined"));
        assert!(fails(&served, &["network", "create", "-d", "weave", "x"]).await.contains("weave"));
        assert_eq!(run(&served, &["network", "ls", "-q", "--no-trunc", "--filter", "label=a=b"]).await, id);
        run(&served, &["network", "create", "back"]).await;

        // By name, alias and the beginning of the identifier; not across networks, and not on the usual network.
        let one = run(
            &served,
            &[
                "run",
                "-d",
                "--name",
                "one",
                "--network",
                "front",
                "--ip",
                "10.211.4.77",
                "--network-alias",
                "site",
                "made:1",
                "sh",
                "-c",
                WAITS,
            ],
        )
        .await;
        run(&served, &["run", "-d", "--name", "two", "--network", "front", "made:1", "sh", "-c", WAITS]).await;
        run(&served, &["run", "-d", "--name", "three", "--network", "back", "made:1", "sh", "-c", WAITS]).await;
        for name in ["one", "site", &one[..12], "ONE"] {
            let found = run(&served, &["exec", "two", "nslookup", &format!("{name}.")]).await;
            assert!(found.contains("10.211.4.77"), "{name}: {found}");
        }
        fails(&served, &["exec", "three", "nslookup", "one."]).await;
        let reverse = run(&served, &["exec", "two", "nslookup", "10.211.4.77"]).await;
        assert!(reverse.contains("one"), "{reverse}");
        run(&served, &["exec", "two", "ping", "-c", "1", "-W", "5", "one"]).await;
        fails(&served, &["exec", "three", "ping", "-c", "1", "-W", "1", "10.211.4.77"]).await;
        let error =
            fails(&served, &["run", "--rm", "--network", "front", "--ip", "10.211.4.77", "made:1", "true"]).await;
        assert!(error.contains("in use"), "{error}");
        let error = fails(&served, &["run", "--rm", "--network", "front", "--ip", "10.9.9.9", "made:1", "true"]).await;
        assert!(error.contains("no configured subnet contains IP address 10.9.9.9"), "{error}");
        let document = served.get("/networks/front").await;
        let container = &document["Containers"][one.trim()];
        assert_eq!((&container["Name"], &container["IPv4Address"]), (&json!("one"), &json!("10.211.4.77/24")));
        let error = fails(&served, &["network", "rm", "front"]).await;
        assert!(error.contains("has active endpoints"), "{error}");

        // Another name counts from the next start on; what goes is no longer found.
        run(&served, &["stop", "-t", "1", "one"]).await;
        until("the name is gone", async || !docker(&served, &["exec", "two", "nslookup", "one."]).await.0).await;
        run(&served, &["network", "connect", "--alias", "behind", "back", "one"]).await;
        assert!(fails(&served, &["network", "connect", "back", "one"]).await.contains("already exists"));
        run(&served, &["start", "one"]).await;
        run(&served, &["exec", "three", "ping", "-c", "1", "-W", "5", "behind"]).await;
        run(&served, &["network", "disconnect", "back", "one"]).await;
        fails(&served, &["exec", "three", "ping", "-c", "1", "-W", "1", "behind"]).await;
        run(&served, &["rm", "-f", "one", "two", "three"]).await;
        let pruned = run(&served, &["network", "prune", "-f"]).await;
        assert!(pruned.contains("front") && pruned.contains("back"), "{pruned}");
        assert!(fails(&served, &["network", "inspect", "front"]).await.contains("front"));
    });
}

#[test]
fn an_internal_network_leads_nowhere() {
    served("docker-api-internal", async |served| {
        loopback_up();
        run(&served, &["network", "create", "--internal", "vault"]).await;
        run(&served, &["network", "create", "open"]).await;
        run(&served, &["run", "-d", "--name", "safe", "--network", "vault", "made:1", "sh", "-c", WAITS]).await;
        run(&served, &["run", "-d", "--name", "other", "--network", "vault", "made:1", "sh", "-c", WAITS]).await;
        run(&served, &["run", "-d", "--name", "outside", "--network", "open", "made:1", "sh", "-c", WAITS]).await;
        let routes = run(&served, &["exec", "safe", "route", "-n"]).await;
        assert!(!routes.contains("0.0.0.0         10."), "no default route: {routes}");
        let address = async |name: &str| {
            let networks = served.get(&format!("/containers/{name}/json")).await["NetworkSettings"]["Networks"].clone();
            networks.as_object().unwrap().values().next().unwrap()["IPAddress"].as_str().unwrap().to_owned()
        };
        run(&served, &["exec", "safe", "ping", "-c", "1", "-W", "5", "other"]).await;
        let safe = address("safe").await;
        fails(&served, &["exec", "outside", "ping", "-c", "1", "-W", "1", &safe]).await;
        run(&served, &["rm", "-f", "safe", "other", "outside"]).await;
        run(&served, &["network", "rm", "vault", "open"]).await;
    });
}
