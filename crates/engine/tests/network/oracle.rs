//! The ruleset that we say by netlink, against the same one said by the `nft` program.

use stack_engine::network::{PortBinding, Protocol};

use crate::machines::{Machine, container, networks, nft, on_a_host, port};

#[test]
fn the_kernel_understands_what_the_text_says() {
    on_a_host(async |host, _outside| {
        let root = tempfile::tempdir().unwrap();
        let networks = networks(root.path()).await;
        let loopback = PortBinding { host_ip: Some("127.0.0.1".parse().unwrap()), ..port(9000, false) };
        let udp = PortBinding { protocol: Protocol::Udp, ..port(53, true) };
        container(&networks, "one", &["default"], &[port(8080, true), loopback]).await;
        container(&networks, "two", &["default", "other"], &[port(8080, true), udp.clone()]).await;
        container(&networks, "three", &["other"], &[port(8080, true), udp]).await;
        let ours = nft(&host, &["list", "table", "inet", "stack"], "");
        let machine = Machine::new();
        nft(&machine, &["-f", "-"], &networks.ruleset_text());
        let theirs = nft(&machine, &["list", "table", "inet", "stack"], "");
        assert_eq!(ours, theirs);
        networks.remove_all().await.unwrap();
    });
}
