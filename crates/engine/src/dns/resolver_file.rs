//! Pure. `/etc/resolv.conf`: the host's, read, and a container's, written (resolv.conf(5)).

use std::net::IpAddr;

use super::sockets::NAME_SERVER;

/// What a resolver file says. Lines that no resolver here needs are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolverFile {
    /// In order.
    pub servers: Vec<IpAddr>,
    /// Domains that are tried after a short name; the last line counts.
    pub search: Vec<String>,
    /// As they stand there: `ndots:2`, `edns0`.
    pub options: Vec<String>,
}

/// What a container's own settings say instead of the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolverOverrides {
    /// `--dns-search`. One `.` alone: no domains at all.
    pub search: Vec<String>,
    /// `--dns-option`.
    pub options: Vec<String>,
}

impl ResolverFile {
    /// Reads one; what cannot be understood is passed over, as resolvers do. Zones of link-local addresses are left off.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut file = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address: Option<IpAddr> = words.next().and_then(|word| word.split('%').next()?.parse().ok());
                    file.servers.extend(address);
                }
                Some("search" | "domain") => file.search = words.map(str::to_owned).collect(),
                Some("options") => file.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        file
    }
}

/// The resolver file of a container whose networks have this name server. `ndots:0` sends a name without a dot as it is
/// first, as Docker has it, unless the container's own options say otherwise.
#[must_use]
pub fn container_resolver_file(host: &ResolverFile, own: &ResolverOverrides) -> String {
    let mut text = format!(
        "# Made by stack for this container. Names of its networks are answered here; others are asked of\n\
         # the container's or the host's name servers.\nnameserver {NAME_SERVER}\n"
    );
    let search: &[String] = match own.search.as_slice() {
        [] => &host.search,
        [root] if root == "." => &[],
        own => own,
    };
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    let mut options: Vec<&str> =
        if own.options.is_empty() { &host.options } else { &own.options }.iter().map(String::as_str).collect();
    if own.options.is_empty() {
        // What the host says of dots is about its own search list and servers.
        options.retain(|option| !option.starts_with("ndots:"));
    }
    if !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0");
    }
    text.push_str(&format!("options {}\n", options.join(" ")));
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hosts_file_is_read() {
        let text = "# by systemd\nnameserver 127.0.0.53\n nameserver\t fe80::1%eth0\nnameserver nonsense\nsearch old\n\
                    search corp.example lan\noptions edns0 ndots:2\noptions trust-ad\nsortlist 1.2.3.4\n";
        let file = ResolverFile::parse(text);
        assert_eq!(file.servers, ["127.0.0.53".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
        assert_eq!(file.search, ["corp.example", "lan"]);
        assert_eq!(file.options, ["edns0", "ndots:2", "trust-ad"]);
    }

    #[test]
    fn a_containers_file() {
        let host = ResolverFile {
            servers: vec!["127.0.0.53".parse().unwrap()],
            search: vec!["corp.example".to_owned()],
            options: vec!["edns0".to_owned(), "ndots:2".to_owned()],
        };
        let plain = container_resolver_file(&host, &ResolverOverrides::default());
        let own =
            ResolverOverrides { search: vec!["a".to_owned(), "b".to_owned()], options: vec!["ndots:5".to_owned()] };
        let overridden = container_resolver_file(&host, &own);
        let none = ResolverOverrides { search: vec![".".to_owned()], options: vec!["timeout:1".to_owned()] };
        let bare = container_resolver_file(&host, &none);
        insta::assert_snapshot!(format!("{plain}---\n{overridden}---\n{bare}"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(search in prop::collection::vec("[a-z]{1,9}(\\.[a-z]{1,9})?", 0..4), ndots in 0u8..9) {
            let own = ResolverOverrides { search: search.clone(), options: vec![format!("ndots:{ndots}")] };
            let read = ResolverFile::parse(&container_resolver_file(&ResolverFile::default(), &own));
            prop_assert_eq!(read.servers, vec![IpAddr::V4(NAME_SERVER)]);
            prop_assert_eq!(read.search, search);
            prop_assert_eq!(read.options, own.options);
        }

        #[test]
        fn no_text_panics(text in "(?s).{0,300}") {
            let _ = ResolverFile::parse(&text);
        }
    }
}
