//! Networks on a link of the host by the Docker CLI.

use serde_json::Value;

use crate::served::{Served, fails, run, served};

/// A link of the host with a machine behind it that nobody is.
fn make_parent(name: &str) {
    let other = format!("{name}x");
    for arguments in [
        vec!["link", "add", name, "type", "veth", "peer", "name", &other],
        vec!["link", "set", name, "up"],
        vec!["link", "set", &other, "up"],
    ] {
        assert!(std::process::Command::new("ip").args(&arguments).status().unwrap().success(), "{arguments:?}");
    }
}

async fn inspect(served: &Served, what: &str, name: &str) -> Value {
    let document: Value = serde_json::from_str(&run(served, &[what, "inspect", name]).await).unwrap();
    document[0].clone()
}

#[test]
fn macvlan_networks_are_made_used_and_pruned() {
    served("docker-api-macvlan", async |served| {
        make_parent("par0");
        let create = [
            "network",
            "create",
            "-d",
            "macvlan",
            "-o",
            "parent=par0",
            "--subnet",
            "10.214.0.0/24",
            "--gateway",
            "10.214.0.254",
            "--ip-range",
            "10.214.0.64/26",
            "--aux-address",
            "printer=10.214.0.64",
            "--label",
            "a=b",
            "lan",
        ];
        run(&served, &create).await;
        let document = inspect(&served, "network", "lan").await;
        assert_eq!((&document["Driver"], &document["Scope"]), (&"macvlan".into(), &"local".into()));
        assert_eq!(document["Options"]["parent"], "par0");
        let pool = &document["IPAM"]["Config"][0];
        assert_eq!((&pool["Gateway"], &pool["IPRange"]), (&"10.214.0.254".into(), &"10.214.0.64/26".into()));
        assert_eq!(pool["AuxiliaryAddresses"]["printer"], "10.214.0.64");
        let listed = run(&served, &["network", "ls", "--filter", "driver=macvlan", "--format", "{{.Name}} {{.Scope}}"]);
        assert_eq!(listed.await.trim(), "lan local");

        let web = ["create", "--name", "web", "--network", "lan", "--network-alias", "site", "-p", "8080:80", "made:1"];
        let (_, _, told) = crate::served::docker(&served, &[&web[..], &["sleep", "300"]].concat()).await;
        assert!(told.contains("Published ports are discarded on macvlan"), "{told}");
        run(&served, &["start", "web"]).await;
        let next =
            ["run", "-d", "--name", "next", "--network", "lan", "--ip", "10.214.0.99", "-p", "8080:80", "made:1"];
        run(&served, &[&next[..], &["sleep", "300"]].concat()).await;
        let exec = async |container: &str, line: &str| run(&served, &["exec", container, "sh", "-c", line]).await;
        let seen = exec("web", "ip -o addr show eth0; ip route; cat /etc/resolv.conf").await;
        assert!(seen.contains("10.214.0.65/24") && seen.contains("default via 10.214.0.254"), "{seen}");
        assert!(seen.contains("nameserver 127.0.0.11"), "{seen}");
        assert!(exec("next", "nslookup site").await.contains("10.214.0.65"));
        assert!(exec("next", "ping -c1 -w5 web").await.contains("1 packets received"));
        assert!(exec("web", "ping -c1 -w5 next").await.contains("1 packets received"));
        assert_eq!(run(&served, &["port", "web"]).await.trim(), "");
        let own = &inspect(&served, "container", "next").await["NetworkSettings"]["Networks"]["lan"];
        assert_eq!((&own["IPAddress"], &own["Gateway"]), (&"10.214.0.99".into(), &"10.214.0.254".into()));
        let refusal = fails(&served, &["network", "rm", "lan"]).await;
        assert!(refusal.contains("network lan has active endpoints"), "{refusal}");

        // On and off while they run.
        run(&served, &["run", "-d", "--name", "third", "-p", "8080:80", "made:1", "sleep", "300"]).await;
        run(&served, &["network", "connect", "--ip", "10.214.0.77", "lan", "third"]).await;
        assert!(exec("web", "ping -c1 -w5 10.214.0.77").await.contains("1 packets received"));
        run(&served, &["network", "disconnect", "lan", "third"]).await;
        assert!(!exec("third", "ip -o addr").await.contains("10.214.0.77"));
        run(&served, &["restart", "-t", "0", "next"]).await;
        assert!(exec("web", "ping -c1 -w5 next").await.contains("1 packets received"));
        run(&served, &["rm", "-f", "web", "next", "third"]).await;
        assert!(run(&served, &["network", "prune", "-f"]).await.contains("lan"));
        assert!(std::process::Command::new("ip").args(["link", "show", "par0"]).output().unwrap().status.success());
    });
}

#[test]
fn what_no_link_of_the_host_can_be_is_refused() {
    served("docker-api-macvlan-refused", async |served| {
        make_parent("par0");
        for (options, text) in [
            (vec!["-d", "macvlan", "-o", "parent=par7"], "requested parent interface par7 was not found"),
            (vec!["-d", "macvlan", "-o", "parent=lo"], "loopback interface is not a valid macvlan parent link"),
            (
                vec!["-d", "macvlan", "-o", "parent=par0", "-o", "macvlan_mode=x"],
                "expected bridge, private, vepa or passthru",
            ),
            (vec!["-d", "ipvlan", "-o", "parent=par0", "-o", "ipvlan_mode=l9"], "expected l2, l3 or l3s"),
            (
                vec!["-d", "ipvlan", "-o", "parent=par0", "-o", "ipvlan_mode=l3", "--ipv4=false"],
                "IPv4 or IPv6 must be enabled",
            ),
        ] {
            let refusal = fails(&served, &[&["network", "create"], options.as_slice(), &["no"]].concat()).await;
            assert!(refusal.contains(text), "{refusal}");
        }
        let subnets = ["--subnet", "10.215.0.0/24", "--subnet", "10.216.0.0/24", "--gateway", "10.216.0.9"];
        run(&served, &[&["network", "create", "-d", "macvlan", "-o", "parent=par0"], &subnets[..], &["wide"]].concat())
            .await;
        let format = "{{range .IPAM.Config}}{{.Subnet}} {{.Gateway}};{{end}}";
        let pools = run(&served, &["network", "inspect", "--format", format, "wide"]).await;
        // The client says them in any order.
        let mut pools: Vec<&str> = pools.trim().split_terminator(';').collect();
        pools.sort_unstable();
        assert_eq!(pools, ["10.215.0.0/24 10.215.0.1", "10.216.0.0/24 10.216.0.9"]);
        let asked = ["run", "--rm", "--network", "wide", "--ip", "10.216.0.7", "made:1", "ip", "route"];
        assert!(run(&served, &asked).await.contains("default via 10.216.0.9"));
        run(&served, &["network", "rm", "wide"]).await;
        run(&served, &["network", "create", "-d", "macvlan", "-o", "parent=par0", "lan"]).await;
        let second = ["network", "create", "-d", "macvlan", "-o", "parent=par0", "-o", "macvlan_mode=passthru", "two"];
        let refusal = fails(&served, &second).await;
        assert!(refusal.contains("cannot use mode passthru, macvlan network lan is already using parent"), "{refusal}");
        run(&served, &["create", "--name", "web", "--network", "lan", "made:1", "sleep", "300"]).await;
        assert!(std::process::Command::new("ip").args(["link", "delete", "par0"]).status().unwrap().success());
        let refusal = fails(&served, &["start", "web"]).await;
        assert!(refusal.contains("requested parent interface par0 was not found on this host"), "{refusal}");
        // It comes back with its parent.
        make_parent("par0");
        run(&served, &["start", "web"]).await;
        run(&served, &["rm", "-f", "web"]).await;
        run(&served, &["network", "rm", "lan"]).await;
    });
}

#[test]
fn networks_are_made_of_settings_that_are_kept() {
    served("docker-api-config-only", async |served| {
        make_parent("par0");
        let keep =
            ["network", "create", "--config-only", "--subnet", "10.215.0.0/24", "-o", "parent=par0", "--label", "a=b"];
        let id = run(&served, &[&keep[..], &["kept"]].concat()).await;
        let document = inspect(&served, "network", "kept").await;
        assert_eq!((&document["ConfigOnly"], &document["Driver"]), (&true.into(), &"null".into()));
        assert_eq!(document["IPAM"]["Config"][0]["Subnet"], "10.215.0.0/24");
        assert_eq!(document["Id"].as_str(), Some(id.trim()));
        let refusal = fails(&served, &["network", "create", "-d", "macvlan", "--config-from", "absent", "lan"]).await;
        assert!(refusal.contains("configuration network \"absent\" does not exist"), "{refusal}");
        let more = ["network", "create", "-d", "macvlan", "--config-from", "kept", "-o", "parent=par1", "lan"];
        let refusal = fails(&served, &more).await;
        assert!(refusal.contains("user specified configurations are not supported"), "{refusal}");
        run(&served, &["network", "create", "-d", "macvlan", "--config-from", "kept", "--attachable", "lan"]).await;
        let document = inspect(&served, "network", "lan").await;
        assert_eq!((&document["Driver"], &document["ConfigFrom"]["Network"]), (&"macvlan".into(), &"kept".into()));
        assert_eq!((&document["Options"]["parent"], &document["Labels"]["a"]), (&"par0".into(), &"b".into()));
        assert!(fails(&served, &["network", "create", "kept"]).await.contains("network with name kept already exists"));

        let web = ["run", "-d", "--name", "web", "--network", "lan", "--link-local-ip", "169.254.7.7"];
        run(&served, &[&web[..], &["--link-local-ip", "fe80::77", "made:1", "sleep", "300"]].concat()).await;
        let seen = run(&served, &["exec", "web", "ip", "-o", "addr", "show", "eth0"]).await;
        for address in ["10.215.0.2/24", "169.254.7.7/16", "fe80::77/64"] {
            assert!(seen.contains(address), "{seen}");
        }
        let own = &inspect(&served, "container", "web").await["NetworkSettings"]["Networks"]["lan"];
        assert_eq!(own["IPAMConfig"]["LinkLocalIPs"][0], "169.254.7.7");
        let refusal = fails(&served, &["network", "connect", "kept", "web"]).await;
        assert!(refusal.contains("make a network of it with --config-from kept"), "{refusal}");
        run(&served, &["network", "create", "front"]).await;
        let refusal = fails(&served, &["network", "connect", "--link-local-ip", "10.0.0.1", "front", "web"]).await;
        assert!(refusal.contains("expected one of 169.254.0.0/16 or fe80::/10"), "{refusal}");

        let refusal = fails(&served, &["network", "rm", "kept"]).await;
        assert!(refusal.contains("configuration network kept is in use"), "{refusal}");
        let listed =
            run(&served, &["network", "ls", "--filter", "type=custom", "--format", "{{.Name}} {{.Driver}}"]).await;
        let mut listed: Vec<&str> = listed.lines().collect();
        listed.sort_unstable();
        assert_eq!(listed, ["front bridge", "kept null", "lan macvlan"]);
        run(&served, &["rm", "-f", "web"]).await;
        let pruned = run(&served, &["network", "prune", "-f"]).await;
        assert!(["front", "kept", "lan"].iter().all(|name| pruned.contains(name)), "{pruned}");
    });
}
