//! Pure. Which subnet a network gets and which address a container gets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest as _, Sha256};

/// The first subnet of the pools that meets neither another network nor a route of the host.
#[must_use]
pub fn choose_subnet(pools: &[Ipv4Net], subnet_length: u8, taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    pools.iter().find_map(|pool| {
        let subnets = pool.trunc().subnets(subnet_length).ok()?;
        first_free(subnets, taken)
    })
}

fn first_free(subnets: impl Iterator<Item = Ipv4Net>, taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    let mut beyond: Option<u32> = None;
    for subnet in subnets {
        // A route that covers many subnets is stepped over at once, not compared with each of them.
        if beyond.is_some_and(|last| u32::from(subnet.network()) <= last) {
            continue;
        }
        match taken.iter().find(|other| overlap(**other, subnet)) {
            None => return Some(subnet),
            Some(other) => beyond = Some(u32::from(other.broadcast())),
        }
    }
    None
}

/// Whether two subnets have an address in common. A default route covers everything and therefore counts for nothing.
#[must_use]
pub fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.prefix_len() > 0 && other.prefix_len() > 0 && (one.contains(&other.network()) || other.contains(&one.network()))
}

/// The same of any family.
#[must_use]
pub fn meet(one: IpNet, other: IpNet) -> bool {
    one.prefix_len() > 0 && other.prefix_len() > 0 && (one.contains(&other) || other.contains(&one))
}

/// A /64 of unique local addresses (RFC 4193) that meets nothing else. Its 56 bits come from `draw`, which the caller drew.
#[must_use]
pub fn choose_subnet6(draw: u64, taken: &[IpNet]) -> Option<Ipv6Net> {
    const FREE_BITS: u64 = (1 << 56) - 1;
    // Among 2^56 subnets the next one is free unless somebody has all around it.
    (0..1024).find_map(|step| {
        let bits = (0xfd_u128 << 120) | (u128::from(draw.wrapping_add(step) & FREE_BITS) << 64);
        let subnet = Ipv6Net::new(Ipv6Addr::from_bits(bits), 64).ok()?;
        let is_free = |other: &IpNet| !meet(*other, IpNet::V6(subnet));
        taken.iter().all(is_free).then_some(subnet)
    })
}

/// The bridge's IPv6 address: the first of the subnet after the one of all its routers.
#[must_use]
pub fn gateway6(subnet: Ipv6Net) -> Ipv6Addr {
    Ipv6Addr::from_bits(subnet.network().to_bits().saturating_add(1))
}

/// A free IPv6 address of `range`, a part of the subnet. Beside an IPv4 address it has the place in its subnet that this one has
/// in its own, so that the link-layer address, which follows from the latter, is the same whenever somebody has it. Where that
/// is not possible, it is the next free one after `last`, starting again at the front.
#[must_use]
pub fn choose_address6(
    subnet: Ipv6Net,
    range: Ipv6Net,
    taken: &BTreeSet<Ipv6Addr>,
    beside: Option<(Ipv4Net, Ipv4Addr)>,
    last: Option<Ipv6Addr>,
) -> Option<Ipv6Addr> {
    let alike = beside.map(|(net, address)| {
        let place = u32::from(address).saturating_sub(u32::from(net.network()));
        Ipv6Addr::from_bits(subnet.network().to_bits().saturating_add(u128::from(place)))
    });
    let is_free =
        |address: &Ipv6Addr| is_host6(subnet, *address) && range.contains(address) && !taken.contains(address);
    let (first, end) = (range.network().to_bits(), range.broadcast().to_bits());
    // Among so many there is a free one, unless the range ends before.
    let most = u128::try_from(taken.len()).unwrap_or(u128::MAX).saturating_add(2);
    let from = |start: u128| start..=start.saturating_add(most).min(end);
    let after = last.filter(|last| range.contains(last)).map(|last| from(last.to_bits().saturating_add(1)));
    let in_order = after.into_iter().flatten().chain(from(first)).map(Ipv6Addr::from_bits);
    alike.into_iter().chain(in_order).find(is_free)
}

/// Whether an interface in the subnet can have this IPv6 address: the very first is that of all its routers.
#[must_use]
pub fn is_host6(subnet: Ipv6Net, address: Ipv6Addr) -> bool {
    subnet.contains(&address) && address != subnet.network()
}

/// Whether an interface in the subnet can have this address, of either family.
#[must_use]
pub fn can_have(subnet: IpNet, address: IpAddr) -> bool {
    match (subnet, address) {
        (IpNet::V4(subnet), IpAddr::V4(address)) => is_host(subnet, address),
        (IpNet::V6(subnet), IpAddr::V6(address)) => is_host6(subnet, address),
        (IpNet::V4(_), IpAddr::V6(_)) | (IpNet::V6(_), IpAddr::V4(_)) => false,
    }
}

/// The first address of a subnet of either family that an interface can have.
#[must_use]
pub fn first(subnet: IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(subnet) => IpAddr::V4(gateway(subnet)),
        IpNet::V6(subnet) => IpAddr::V6(gateway6(subnet)),
    }
}

/// The bridge's address: the first of the subnet.
#[must_use]
pub fn gateway(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1))
}

/// The next free address of `range`, a part of the subnet, after `last`, starting again at the front. An address that was
/// given back is thereby the last to be given out again, so that nothing that still remembers its former owner reaches the
/// new one.
#[must_use]
pub fn choose_address(
    subnet: Ipv4Net,
    range: Ipv4Net,
    taken: &BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let first = u32::from(range.network()).max(u32::from(subnet.network()).saturating_add(1));
    let end = u32::from(range.broadcast()).saturating_add(1).min(u32::from(subnet.broadcast())).max(first);
    let start = last.map_or(first, |last| u32::from(last).saturating_add(1)).clamp(first, end);
    (start..end).chain(first..start).map(Ipv4Addr::from).find(|address| !taken.contains(address))
}

/// Whether an interface in the subnet can have this address.
#[must_use]
pub fn is_host(subnet: Ipv4Net, address: Ipv4Addr) -> bool {
    subnet.contains(&address) && address != subnet.network() && address != subnet.broadcast()
}

/// The link-layer address of an interface with this address: locally administered, so that the same address always
/// has the same one and no neighbour's cache is ever wrong.
#[must_use]
pub const fn link_address(address: Ipv4Addr) -> [u8; 6] {
    let [first, second, third, fourth] = address.octets();
    [0x02, 0x53, first, second, third, fourth]
}

/// The same for an interface without IPv4, of what tells it from others: its IPv6 address. The second byte is none that an
/// interface with IPv4 has.
#[must_use]
pub fn link_address_of(what: &[u8]) -> [u8; 6] {
    let digest = Sha256::digest(what);
    let [first, second, third, fourth, fifth, ..] = <[u8; 32]>::from(digest);
    [0x02, first | 0x80, second, third, fourth, fifth]
}

/// The name of the host's end of the link to the interface with this address: unique as the address is.
#[must_use]
pub fn link_name(prefix: &str, address: Ipv4Addr) -> String {
    format!("{prefix}{:08x}", u32::from(address))
}

/// The same for an interface without IPv4, which none of `taken` has. It is the name of no IPv4 address that an interface can
/// have, as those of 0.0.0.0/8 are none.
#[must_use]
pub fn link_name6(prefix: &str, address: Ipv6Addr, taken: impl Fn(&str) -> bool) -> Option<String> {
    (0..1024_u16).find_map(|attempt| {
        let digest = Sha256::new().chain_update(address.octets()).chain_update(attempt.to_be_bytes()).finalize();
        let [first, second, third, ..] = <[u8; 32]>::from(digest);
        let name = link_name(prefix, Ipv4Addr::new(0, first, second, third));
        (!taken(&name)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_that_meets_a_route_is_passed_over() {
        let pools = [net("172.30.0.0/16"), net("172.29.0.0/16")];
        assert_eq!(choose_subnet(&pools, 24, &[]), Some(net("172.30.0.0/24")));
        assert_eq!(choose_subnet(&pools, 24, &[net("172.30.0.128/25")]), Some(net("172.30.1.0/24")));
        assert_eq!(choose_subnet(&pools, 24, &[net("172.30.0.0/15")]), Some(net("172.29.0.0/24")));
        assert_eq!(choose_subnet(&pools, 24, &[net("0.0.0.0/0")]), Some(net("172.30.0.0/24")));
        assert_eq!(choose_subnet(&pools, 24, &[net("172.16.0.0/12")]), None);
    }

    #[test]
    fn an_address_given_back_is_given_out_last() {
        let subnet = net("10.0.0.0/29");
        let mut taken = BTreeSet::from([gateway(subnet)]);
        let mut last = None;
        let mut seen = Vec::new();
        for _ in 0..7 {
            last = choose_address(subnet, subnet, &taken, last);
            seen.push(last.unwrap().octets()[3]);
        }
        assert_eq!(seen, [2, 3, 4, 5, 6, 2, 3]);
        taken.extend((2..=6).map(|host| Ipv4Addr::new(10, 0, 0, host)));
        assert_eq!(choose_address(subnet, subnet, &taken, last), None);
        let range = net("10.0.0.4/30");
        assert_eq!(choose_address(subnet, range, &BTreeSet::new(), None), Some(Ipv4Addr::new(10, 0, 0, 4)));
        assert_eq!(choose_address(subnet, range, &taken, None), None, "the last address is the broadcast");
    }

    #[test]
    fn an_ipv6_address_has_the_place_of_the_ipv4_address_where_it_can() {
        let subnet: Ipv6Net = "fd00:1::/64".parse().unwrap();
        let beside = Some((net("10.1.0.0/23"), Ipv4Addr::new(10, 1, 1, 2)));
        let at = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        let mut taken = BTreeSet::from([gateway6(subnet)]);
        assert_eq!(choose_address6(subnet, subnet, &taken, beside, None), Some(at("fd00:1::102")));
        taken.insert(at("fd00:1::102"));
        assert_eq!(choose_address6(subnet, subnet, &taken, beside, None), Some(at("fd00:1::2")));
        let range: Ipv6Net = "fd00:1::8/126".parse().unwrap();
        for last in ["8", "9", "a", "b"] {
            let address = at(&format!("fd00:1::{last}"));
            assert_eq!(choose_address6(subnet, range, &taken, beside, None), Some(address));
            taken.insert(address);
        }
        assert_eq!(choose_address6(subnet, range, &taken, beside, None), None);
        // Without IPv4 the next one after the last, so that one that was given back comes last again.
        let taken = BTreeSet::from([gateway6(subnet), at("fd00:1::3")]);
        assert_eq!(choose_address6(subnet, subnet, &taken, None, None), Some(at("fd00:1::2")));
        assert_eq!(choose_address6(subnet, subnet, &taken, None, Some(at("fd00:1::2"))), Some(at("fd00:1::4")));
        let end = Some(at("fd00:1::ffff:ffff:ffff:ffff"));
        assert_eq!(choose_address6(subnet, subnet, &taken, None, end), Some(at("fd00:1::2")));
        assert!(!is_host6(subnet, at("fd00:1::")) && is_host6(subnet, at("fd00:1::1")));
    }

    #[test]
    fn an_interface_without_ipv4_has_names_that_no_other_has() {
        let address: Ipv6Addr = "fd00:1::2".parse().unwrap();
        let first = link_name6("stk", address, |_| false).unwrap();
        assert!(first.len() == 11 && first.starts_with("stk00"), "{first}");
        let second = link_name6("stk", address, |name| name == first).unwrap();
        assert_ne!(first, second);
        assert_eq!(link_name6("stk", address, |_| true), None);
        let mac = link_address_of(&address.octets());
        assert!(mac[0] == 2 && mac[1] >= 0x80 && mac == link_address_of(&address.octets()), "{mac:x?}");
    }

    #[test]
    fn an_ipv6_subnet_is_unique_local_and_meets_nothing() {
        let first = choose_subnet6(u64::MAX, &[]).unwrap();
        assert_eq!(first.to_string(), "fdff:ffff:ffff:ffff::/64");
        assert_eq!(choose_subnet6(u64::MAX, &[first.into()]).unwrap().to_string(), "fd00::/64");
        assert_eq!(choose_subnet6(5, &["::/0".parse().unwrap()]).unwrap().to_string(), "fd00:0:0:5::/64");
        assert_eq!(choose_subnet6(5, &["fd00::/8".parse().unwrap()]), None);
    }

    proptest! {
        #[test]
        fn a_chosen_subnet_meets_nothing(routes in prop::collection::vec((any::<u32>(), 8u8..=30), 0..40), length in 16u8..=29) {
            let pool = net("172.30.0.0/16");
            // Half of the routes are moved into the pool, where they matter.
            let taken: Vec<Ipv4Net> = routes
                .iter()
                .enumerate()
                .map(|(index, &(bits, prefix))| {
                    let bits = if index % 2 == 0 { (bits & 0xffff) | 0xac1e_0000 } else { bits };
                    Ipv4Net::new(Ipv4Addr::from(bits), prefix).unwrap().trunc()
                })
                .collect();
            let free = |subnet: &Ipv4Net| taken.iter().all(|other| !overlap(*other, *subnet));
            // Against the plain search: the same answer, and the first one.
            let plain = pool.subnets(length).unwrap().find(|subnet| free(subnet));
            prop_assert_eq!(choose_subnet(&[pool], length, &taken), plain);
        }

        #[test]
        fn an_address_is_free_inside_and_neither_gateway_nor_broadcast(hosts in prop::collection::btree_set(0u32..64, 0..64), last in 0u32..64) {
            let subnet = net("10.1.2.0/26");
            let at = |host: u32| Ipv4Addr::from(u32::from(subnet.network()) + host);
            let mut taken: BTreeSet<Ipv4Addr> = hosts.iter().map(|&host| at(host)).collect();
            taken.insert(gateway(subnet));
            match choose_address(subnet, subnet, &taken, Some(at(last))) {
                Some(address) => {
                    prop_assert!(subnet.contains(&address) && !taken.contains(&address));
                    prop_assert!(address != gateway(subnet) && address != subnet.broadcast() && address != subnet.network());
                }
                None => prop_assert!((2..63).all(|host| taken.contains(&at(host)))),
            }
        }
    }
}
