//! The ruleset that we say by netlink, against the same one said by the `nft` program.

use stack_engine::network::{GatewayMode, NetworkSettings, Networks, PortBinding, Protocol};

use crate::machines::{Machine, container, networks, nft, on_a_host, port};

/// What `nft` lists, its chains in the order of their names: they are listed in the order in which they came to be.
fn listed(machine: &Machine) -> String {
    let text = nft(machine, &["list", "table", "inet", "stack"], "");
    let mut blocks: Vec<&str> = text.trim().trim_end_matches('}').trim_end().split("\n\n").collect();
    blocks.sort_unstable();
    blocks.join("\n\n")
}

/// That what the kernel has is what `nft` would have made of the text.
fn agrees(host: &Machine, networks: &Networks) {
    let machine = Machine::new();
    nft(&machine, &["-f", "-"], &networks.ruleset_text());
    assert_eq!(listed(host), listed(&machine));
}

#[test]
fn the_kernel_understands_what_the_text_says() {
    on_a_host(async |host, _outside| {
        let root = tempfile::tempdir().unwrap();
        let networks = networks(root.path()).await;
        let loopback = PortBinding { host_ip: Some("127.0.0.1".parse().unwrap()), ..port(9000, false) };
        let udp = PortBinding { protocol: Protocol::Udp, ..port(53, true) };
        // Each step changes the ruleset in another way; the last makes it anew.
        container(&networks, "one", &["default"], &[port(8080, true), loopback]).await;
        agrees(&host, &networks);
        container(&networks, "two", &["default", "other"], &[port(8080, true), udp.clone()]).await;
        agrees(&host, &networks);
        container(&networks, "three", &["other"], &[port(8080, true), udp]).await;
        agrees(&host, &networks);
        networks.set_ready("two", false).await.unwrap();
        agrees(&host, &networks);
        networks.detach("one").await.unwrap();
        agrees(&host, &networks);
        networks.set_ready("two", true).await.unwrap();
        networks.detach("three").await.unwrap();
        agrees(&host, &networks);
        networks.detach("two").await.unwrap();
        networks.remove_network("other").await.unwrap();
        agrees(&host, &networks);
        let both = NetworkSettings { ipv6: true, gateway_mode4: GatewayMode::Routed, ..NetworkSettings::default() };
        networks.make_network("both", &both).await.unwrap();
        let at_one = PortBinding { host_ip: Some("::".parse().unwrap()), ..port(9001, false) };
        container(&networks, "six", &["both"], &[port(8081, false), at_one]).await;
        agrees(&host, &networks);
        networks.detach("six").await.unwrap();
        let open = NetworkSettings { gateway_mode6: GatewayMode::NatUnprotected, ..both };
        networks.make_network("open", &open).await.unwrap();
        agrees(&host, &networks);
        // Behind our back, so that what was thought to be there is not.
        nft(&host, &["flush", "ruleset"], "");
        container(&networks, "four", &["default"], &[port(8080, false)]).await;
        agrees(&host, &networks);
        networks.remove_all().await.unwrap();
    });
}
