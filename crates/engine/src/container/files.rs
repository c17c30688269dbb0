//! Pure. The text of a container's `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.

use std::fmt::Write;
use std::net::IpAddr;

use super::config::ContainerConfig;

/// What the networks say about a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// The host's address as the container sees it.
    pub gateway: Option<IpAddr>,
    /// Name servers of the networks; empty: the host's.
    pub name_servers: Vec<IpAddr>,
}

/// `/etc/hosts`.
#[must_use]
pub fn hosts(hostname: &str, config: &ContainerConfig, around: &Surroundings) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                    ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
        .to_owned();
    for (name, address) in &config.extra_hosts {
        let address = match (address.as_str(), around.gateway) {
            ("host-gateway", Some(gateway)) => gateway.to_string(),
            ("host-gateway", None) => "127.0.0.1".to_owned(),
            (address, _) => address.to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address}\t{name}");
    }
    let names = own_names(hostname, config);
    for address in &around.addresses {
        let _ = writeln!(text, "{address}\t{names}");
    }
    if around.addresses.is_empty() {
        let _ = writeln!(text, "127.0.1.1\t{names}");
    }
    text
}

fn own_names(hostname: &str, config: &ContainerConfig) -> String {
    match &config.domainname {
        Some(domain) => format!("{hostname}.{domain} {hostname}"),
        None => hostname.to_owned(),
    }
}

/// A container's `/etc/hosts` with one more address of its own.
#[must_use]
pub fn hosts_with(text: &str, hostname: &str, config: &ContainerConfig, address: IpAddr) -> String {
    let mut text = hosts_without(text, address);
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let _ = writeln!(text, "{address}\t{}", own_names(hostname, config));
    text
}

/// A container's `/etc/hosts` without the lines of an address.
#[must_use]
pub fn hosts_without(text: &str, address: IpAddr) -> String {
    let is_of = |line: &str| line.split_whitespace().next().and_then(|word| word.parse().ok()) == Some(address);
    text.split_inclusive('\n').filter(|line| !is_of(line)).collect()
}

/// `/etc/resolv.conf`. `host` is the host's own, or that of systemd-resolved behind it. Name servers on the host's
/// loopback cannot be reached from another network namespace and are left out.
#[must_use]
pub fn resolv_conf(host: &str, config: &ContainerConfig, around: &Surroundings, own_network: bool) -> String {
    let words = |key: &str| -> Vec<String> {
        host.lines()
            .filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix([' ', '\t']))
            .flat_map(|rest| rest.split_whitespace().map(str::to_owned))
            .collect()
    };
    let reachable = |address: &IpAddr| !own_network || !address.is_loopback();
    let servers: Vec<IpAddr> = if !config.dns.is_empty() {
        config.dns.clone()
    } else if !around.name_servers.is_empty() {
        around.name_servers.clone()
    } else {
        words("nameserver").iter().filter_map(|word| word.parse().ok()).filter(reachable).collect()
    };
    let search = if config.dns_search.is_empty() { words("search") } else { config.dns_search.clone() };
    let options = if config.dns_options.is_empty() { words("options") } else { config.dns_options.clone() };
    let mut text = String::new();
    for server in servers {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "nameserver {server}");
    }
    if !search.is_empty() && search != ["."] {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_file() {
        let config = ContainerConfig {
            domainname: Some("example.org".to_owned()),
            extra_hosts: vec![("db".to_owned(), "10.1.1.1".to_owned()), ("me".to_owned(), "host-gateway".to_owned())],
            ..ContainerConfig::default()
        };
        let around = Surroundings {
            addresses: vec![address("172.30.0.2")],
            gateway: Some(address("172.30.0.1")),
            name_servers: vec![],
        };
        insta::assert_snapshot!(hosts("web", &config, &around));
    }

    #[test]
    fn an_address_comes_and_goes() {
        let config = ContainerConfig::default();
        let text = hosts_with("127.0.0.1\tlocalhost\n10.1.1.1 own", "web", &config, address("10.2.0.2"));
        assert_eq!(text, "127.0.0.1\tlocalhost\n10.1.1.1 own\n10.2.0.2\tweb\n");
        assert_eq!(hosts_without(&text, address("10.2.0.2")), "127.0.0.1\tlocalhost\n10.1.1.1 own\n");
    }

    #[test]
    fn name_servers_on_the_loopback_of_the_host_are_left_out() {
        let host = "# made by somebody\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nsearch a b\noptions edns0\n";
        let config = ContainerConfig::default();
        let around = Surroundings::default();
        assert_eq!(resolv_conf(host, &config, &around, true), "nameserver 10.0.0.2\nsearch a b\noptions edns0\n");
        assert!(resolv_conf(host, &config, &around, false).contains("127.0.0.53"));
        let chosen = ContainerConfig {
            dns: vec![address("9.9.9.9")],
            dns_search: vec![".".to_owned()],
            dns_options: vec!["ndots:1".to_owned()],
            ..ContainerConfig::default()
        };
        assert_eq!(resolv_conf(host, &chosen, &around, true), "nameserver 9.9.9.9\noptions ndots:1\n");
    }
}
