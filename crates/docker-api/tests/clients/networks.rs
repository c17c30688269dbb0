//! Networks by the Docker CLI.

use serde_json::Value;

use crate::served::{Served, fails, run, served};

async fn inspect(served: &Served, network: &str) -> Value {
    let document: Value = serde_json::from_str(&run(served, &["network", "inspect", network]).await).unwrap();
    document[0].clone()
}

#[test]
fn networks_are_made_listed_and_removed() {
    served("docker-api-networks-made", async |served| {
        let id = run(
            &served,
            &[
                "network",
                "create",
                "--subnet",
                "10.211.0.0/16",
                "--ip-range",
                "10.211.7.0/24",
                "--gateway",
                "10.211.0.9",
                "--aux-address",
                "printer=10.211.7.1",
                "--label",
                "tier=front",
                "--internal",
                "--attachable",
                "-o",
                "com.docker.network.driver.mtu=1400",
                "-o",
                "com.docker.network.bridge.name=brfront",
                "front",
            ],
        )
        .await;
        let document = inspect(&served, "front").await;
        assert_eq!((document["Id"].as_str(), id.trim().len()), (Some(id.trim()), 64));
        assert_eq!(document["Driver"], "bridge");
        assert_eq!((&document["Internal"], &document["Attachable"]), (&true.into(), &true.into()));
        let pool = &document["IPAM"]["Config"][0];
        assert_eq!((&pool["Subnet"], &pool["IPRange"]), (&"10.211.0.0/16".into(), &"10.211.7.0/24".into()));
        assert_eq!(
            (&pool["Gateway"], &pool["AuxiliaryAddresses"]["printer"]),
            (&"10.211.0.9".into(), &"10.211.7.1".into())
        );
        assert_eq!(document["Options"]["com.docker.network.driver.mtu"], "1400");
        assert!(document["Created"].as_str().unwrap().starts_with("20"), "{document}");
        let seen = run(
            &served,
            &[
                "run",
                "--rm",
                "--network",
                "front",
                "made:1",
                "sh",
                "-c",
                "ip -o addr show eth0; ip route; ip link show eth0",
            ],
        )
        .await;
        assert!(seen.contains("10.211.7.0/16") && seen.contains("mtu 1400") && !seen.contains("default"), "{seen}");

        let names = async |filter: &str| {
            let mut found: Vec<String> = run(&served, &["network", "ls", "--filter", filter, "--format", "{{.Name}}"])
                .await
                .lines()
                .map(str::to_owned)
                .collect();
            found.sort();
            found
        };
        assert_eq!(names("label=tier=front").await, ["front"]);
        assert_eq!(names("type=builtin").await, ["bridge", "host", "none"]);
        assert_eq!(names("type=custom").await, ["front"]);
        assert_eq!(names(&format!("id={}", &id[..20])).await, ["front"]);
        assert_eq!(names("driver=null").await, ["none"]);

        let refusal = fails(&served, &["network", "create", "front"]).await;
        assert!(refusal.contains("network with name front already exists"), "{refusal}");
        let refusal = fails(&served, &["network", "create", "--subnet", "10.211.5.0/24", "other"]).await;
        assert!(refusal.contains("Pool overlaps with other one on this address space"), "{refusal}");
        let refusal = fails(&served, &["network", "create", "--driver", "weave", "other"]).await;
        assert!(refusal.contains("plugin \"weave\" not found"), "{refusal}");
        let refusal =
            fails(&served, &["network", "create", "--subnet", "10.9.0.0/24", "--gateway", "10.8.0.1", "other"]).await;
        assert!(refusal.contains("10.8.0.1"), "{refusal}");
        let refusal = fails(&served, &["network", "create", "host"]).await;
        assert!(refusal.contains("operation is not permitted on predefined host network"), "{refusal}");
        let refusal = fails(&served, &["network", "rm", "none"]).await;
        assert!(refusal.contains("none is a pre-defined network and cannot be removed"), "{refusal}");
        assert!(fails(&served, &["network", "rm", "absent"]).await.contains("network absent not found"));

        run(&served, &["network", "create", "other"]).await;
        run(&served, &["run", "-d", "--name", "user", "--network", "other", "made:1", "sleep", "300"]).await;
        let refusal = fails(&served, &["network", "rm", "other"]).await;
        assert!(refusal.contains("network other has active endpoints (name:\"user\" id:"), "{refusal}");
        let document = inspect(&served, "other").await;
        let user = document["Containers"].as_object().unwrap().values().next().unwrap().clone();
        assert_eq!(user["Name"], "user");
        assert!(user["IPv4Address"].as_str().unwrap().ends_with("/23"), "{user}");
        let pruned = run(&served, &["network", "prune", "-f"]).await;
        assert!(pruned.contains("front") && !pruned.contains("other"), "{pruned}");
        run(&served, &["rm", "-f", "user"]).await;
        assert_eq!(run(&served, &["network", "rm", &document["Id"].as_str().unwrap()[..12]]).await.lines().count(), 1);
        assert!(!run(&served, &["network", "ls"]).await.contains("other"));
    });
}

#[test]
fn containers_find_each_other_join_and_leave() {
    served("docker-api-networks-join", async |served| {
        run(&served, &["network", "create", "--subnet", "10.212.0.0/24", "front"]).await;
        run(&served, &["network", "create", "--subnet", "10.213.0.0/24", "back"]).await;
        run(
            &served,
            &[
                "run",
                "-d",
                "--name",
                "db",
                "--network",
                "front",
                "--ip",
                "10.212.0.50",
                "--network-alias",
                "store",
                "--mac-address",
                "02:42:0a:d4:00:32",
                "made:1",
                "sleep",
                "300",
            ],
        )
        .await;
        run(&served, &["run", "-d", "--name", "web", "--network", "front", "made:1", "sleep", "300"]).await;
        let exec = async |container: &str, line: &str| run(&served, &["exec", container, "sh", "-c", line]).await;
        assert!(exec("db", "ip -o addr show eth0; ip link show eth0").await.contains("10.212.0.50/24"));
        assert!(exec("db", "ip link show eth0").await.contains("02:42:0a:d4:00:32"));
        let resolver = exec("web", "cat /etc/resolv.conf").await;
        assert!(resolver.contains("nameserver 127.0.0.11"), "{resolver}");
        let short = run(&served, &["inspect", "--format", "{{.Config.Hostname}}", "db"]).await;
        for name in ["db", "store", short.trim(), "db.front"] {
            let answer = exec("web", &format!("nslookup {name}")).await;
            assert!(answer.contains("10.212.0.50"), "{name}: {answer}");
        }
        assert!(exec("web", "nslookup 10.212.0.50").await.contains("db.front"));
        run(&served, &["rename", "db", "database"]).await;
        assert!(exec("web", "nslookup database").await.contains("10.212.0.50"));
        run(&served, &["rename", "database", "db"]).await;

        // While it runs.
        run(&served, &["network", "connect", "--alias", "vault", "--ip", "10.213.0.7", "back", "db"]).await;
        assert!(exec("db", "ip -o addr show eth1; cat /etc/hosts").await.contains("10.213.0.7"));
        let addresses =
            run(&served, &["inspect", "--format", "{{.NetworkSettings.Networks.back.IPAddress}}", "db"]).await;
        assert_eq!(addresses.trim(), "10.213.0.7");
        assert!(exec("db", "ip route").await.contains("default via 10.213.0.1"), "the first by name leads");
        let refusal = fails(&served, &["network", "connect", "back", "db"]).await;
        assert!(refusal.contains("endpoint with name db already exists in network back"), "{refusal}");
        let refusal = fails(&served, &["network", "connect", "--ip", "10.213.0.7", "back", "web"]).await;
        assert!(refusal.contains("Address already in use"), "{refusal}");
        run(&served, &["network", "connect", "back", "web"]).await;
        assert!(exec("web", "nslookup vault").await.contains("10.213.0.7"));
        run(&served, &["network", "disconnect", "back", "db"]).await;
        let left = exec("db", "ip addr; ip route; cat /etc/hosts").await;
        assert!(!left.contains("10.213.0.7") && left.contains("default via 10.212.0.1"), "{left}");
        let refusal = fails(&served, &["network", "disconnect", "back", "db"]).await;
        assert!(refusal.contains("is not connected to network back"), "{refusal}");

        // While it does not.
        run(&served, &["stop", "-t", "0", "db"]).await;
        run(&served, &["network", "connect", "--gw-priority", "9", "back", "db"]).await;
        run(&served, &["network", "disconnect", "front", "db"]).await;
        run(&served, &["start", "db"]).await;
        let routes = exec("db", "ip route").await;
        assert!(routes.contains("default via 10.213.0.1") && !routes.contains("10.212"), "{routes}");

        // On the usual network there are no names, until one with names is joined.
        run(&served, &["run", "-d", "--name", "plain", "made:1", "sleep", "300"]).await;
        assert!(!exec("plain", "cat /etc/resolv.conf").await.contains("127.0.0.11"));
        run(&served, &["network", "connect", "back", "plain"]).await;
        assert!(exec("plain", "cat /etc/resolv.conf").await.contains("127.0.0.11"));
        assert!(exec("plain", "nslookup db").await.contains("10.213.0."));
        let refusal = fails(&served, &["run", "--rm", "--ip", "10.1.1.1", "made:1", "true"]).await;
        assert!(refusal.contains("user specified IP address is supported on user defined networks only"), "{refusal}");
        let refusal = fails(&served, &["network", "connect", "host", "plain"]).await;
        assert!(refusal.contains("container cannot be disconnected from host network"), "{refusal}");
        let port = ["run", "-d", "-p", "80", "--name", "one", "made:1", "sleep", "300"];
        run(&served, &port).await;
        let published = run(&served, &["port", "one", "80"]).await;
        let number = published.trim().rsplit(':').next().unwrap().to_owned();
        let again = format!("{number}:80");
        let refusal = fails(&served, &["run", "-d", "-p", &again, "--name", "two", "made:1", "sleep", "300"]).await;
        assert!(refusal.contains(&format!("Bind for 0.0.0.0:{number} failed: port is already allocated")), "{refusal}");
        for name in ["db", "web", "plain", "one", "two"] {
            run(&served, &["rm", "-f", name]).await;
        }
        run(&served, &["network", "rm", "front", "back"]).await;
    });
}

#[test]
fn networks_with_ipv6_ranges_of_ports_and_a_network_that_is_gone() {
    served("docker-api-networks-ipv6", async |served| {
        let create = ["network", "create", "--ipv6", "--subnet", "fd00:213::/64", "--subnet", "10.214.0.0/24", "six"];
        run(&served, &create).await;
        let document = inspect(&served, "six").await;
        assert_eq!(document["EnableIPv6"], true);
        let pools = document["IPAM"]["Config"].as_array().unwrap();
        let subnets: Vec<&str> = pools.iter().map(|pool| pool["Subnet"].as_str().unwrap()).collect();
        assert_eq!(subnets, ["10.214.0.0/24", "fd00:213::/64"]);
        assert_eq!(pools[1]["Gateway"], "fd00:213::1");
        let web = ["run", "-d", "--name", "web", "--network", "six", "--ip6", "fd00:213::50", "-p", "18000-18001:80"];
        let loop_ = ["made:1", "sleep", "300"];
        run(&served, &[&web[..], &loop_[..]].concat()).await;
        run(
            &served,
            &["run", "-d", "--name", "next", "--network", "six", "-p", "18000-18001:80", "made:1", "sleep", "300"],
        )
        .await;
        let exec = async |container: &str, line: &str| run(&served, &["exec", container, "sh", "-c", line]).await;
        let seen = exec("web", "ip -6 -o addr show eth0; ip -6 route; cat /etc/hosts").await;
        assert!(seen.contains("fd00:213::50/64") && seen.contains("default via fd00:213::1"), "{seen}");
        assert!(seen.contains("fd00:213::50\t"), "{seen}");
        assert!(exec("next", "nslookup -type=aaaa web").await.contains("fd00:213::50"));
        assert!(exec("next", "nslookup fd00:213::50").await.contains("web.six"));
        assert!(exec("next", "ping -6 -c1 -w5 web").await.contains("1 packets received"));
        let format = "{{(index .NetworkSettings.Networks \"six\").GlobalIPv6Address}}";
        assert_eq!(run(&served, &["inspect", "--format", format, "web"]).await.trim(), "fd00:213::50");
        let ports: String = run(&served, &["port", "web"]).await;
        assert_eq!(ports.lines().collect::<Vec<_>>(), ["80/tcp -> 0.0.0.0:18000", "80/tcp -> [::]:18000"]);
        assert!(run(&served, &["port", "next"]).await.contains("[::]:18001"));
        let asked = run(&served, &["inspect", "--format", "{{json .HostConfig.PortBindings}}", "web"]).await;
        assert!(asked.contains("18000-18001"), "{asked}");
        let third = ["run", "-d", "--name", "third", "-p", "18000-18001:80", "made:1", "sleep", "300"];
        let refusal = fails(&served, &third).await;
        assert!(refusal.contains("18000-18001 failed: all ports are allocated"), "{refusal}");
        run(&served, &["rm", "-f", "third"]).await;
        let refusal =
            fails(&served, &["network", "create", "--subnet", "10.1.0.0/24", "--subnet", "10.2.0.0/24", "n"]).await;
        assert!(refusal.contains("bridge driver doesn't support multiple subnets"), "{refusal}");

        run(&served, &["network", "create", "-o", "com.docker.network.bridge.gateway_mode_ipv4=routed", "routed"])
            .await;
        run(
            &served,
            &["run", "-d", "--name", "routed", "--network", "routed", "-p", "8080:80", "made:1", "sleep", "300"],
        )
        .await;
        let bound = run(&served, &["inspect", "--format", "{{json .NetworkSettings.Ports}}", "routed"]).await;
        assert!(!bound.contains("8080"), "{bound}");

        // A network that was removed while a container of it was stopped.
        run(&served, &["network", "create", "passing"]).await;
        run(&served, &["create", "--name", "left", "--network", "passing", "made:1", "sleep", "300"]).await;
        run(&served, &["network", "rm", "passing"]).await;
        let refusal = fails(&served, &["start", "left"]).await;
        assert!(refusal.contains("network passing not found"), "{refusal}");
        for name in ["web", "next", "routed", "left"] {
            run(&served, &["rm", "-f", name]).await;
        }
        run(&served, &["network", "rm", "six", "routed"]).await;
    });
}

#[test]
fn a_network_without_ipv4_is_made_and_used() {
    served("docker-api-networks-without-ipv4", async |served| {
        run(&served, &["network", "create", "--ipv6", "--ipv4=false", "--subnet", "fd00:217::/64", "six"]).await;
        let document = inspect(&served, "six").await;
        assert_eq!((&document["EnableIPv4"], &document["EnableIPv6"]), (&false.into(), &true.into()));
        assert_eq!(document["IPAM"]["Config"].as_array().map(Vec::len), Some(1));
        let ports = ["-p", "18010:80"];
        run(
            &served,
            &[&["run", "-d", "--name", "web", "--network", "six"], &ports[..], &["made:1", "sleep", "300"]].concat(),
        )
        .await;
        let exec = async |line: &str| run(&served, &["exec", "web", "sh", "-c", line]).await;
        let seen = exec("ip -o addr show eth0; ip -6 route; cat /etc/hosts").await;
        assert!(seen.contains("fd00:217::2/64") && seen.contains("default via fd00:217::1"), "{seen}");
        assert!(!seen.contains("inet ") && seen.contains("fd00:217::2\t"), "{seen}");
        assert!(exec("nslookup -type=aaaa web").await.contains("fd00:217::2"));
        let ports = run(&served, &["port", "web"]).await;
        assert_eq!(ports.lines().collect::<Vec<_>>(), ["80/tcp -> 127.0.0.1:18010", "80/tcp -> [::]:18010"]);
        let refusal = fails(&served, &["network", "create", "--ipv4=false", "none-of-both"]).await;
        assert!(refusal.contains("IPv4 or IPv6 must be enabled"), "{refusal}");
        run(&served, &["rm", "-f", "web"]).await;
        run(&served, &["network", "rm", "six"]).await;
    });
}
