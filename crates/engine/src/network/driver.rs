//! Pure. What joins the containers of a network: a bridge of the host, or a link of the host that theirs are made on.

use serde::{Deserialize, Serialize};

use super::request::{LONGEST_LINK_NAME, NetworkRecord};

/// The VLANs that a link can be of: 0 and 4095 have meanings of their own (IEEE 802.1Q).
const VLANS: std::ops::RangeInclusive<u16> = 1..=4094;

/// So many characters of a network's id are in the name of the parent that is made for it.
const SHORT_ID: usize = 12;

/// What joins the containers of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// A bridge of the host, which leads outside by translation and routes.
    #[default]
    Bridge,
    /// Links on a link of the host: each container is a machine of its own beside the host, with its own link-layer address.
    Macvlan {
        /// The link of the host; `None`: one is made that leads nowhere.
        parent: Option<String>,
        /// Whom they reach.
        mode: MacvlanMode,
    },
    /// The same with the link-layer address of the host's link, for all of them.
    Ipvlan {
        /// The link of the host; `None`: one is made that leads nowhere.
        parent: Option<String>,
        /// On which layer they are joined.
        mode: IpvlanMode,
        /// Whom they reach.
        reach: IpvlanReach,
    },
}

/// Whom the containers of a macvlan network reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MacvlanMode {
    /// Each other and whatever is beyond the parent.
    #[default]
    Bridge,
    /// Only what is beyond the parent.
    Private,
    /// What is beyond the parent, whose switch must send back what goes from one to another.
    Vepa,
    /// One container alone, which has the parent's traffic.
    Passthru,
}

/// On which layer the containers of an ipvlan network are joined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpvlanMode {
    /// Frames: neighbours are found as on any Ethernet.
    #[default]
    L2,
    /// Packets: the host's kernel routes, no broadcasts; others need routes to the containers.
    L3,
    /// The same, through the firewall and connection tracking of the host.
    L3s,
}

/// Whom the containers of an ipvlan network reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpvlanReach {
    /// Each other and whatever is beyond the parent.
    #[default]
    Bridge,
    /// Only what is beyond the parent.
    Private,
    /// What is beyond the parent, whose switch must send back what goes from one to another.
    Vepa,
}

/// A link that is made to be a parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MadeParent {
    /// One that leads nowhere.
    Dummy,
    /// A VLAN of a link of the host.
    Vlan {
        /// That link.
        of: String,
        /// The VLAN's number.
        id: u16,
    },
}

impl Driver {
    /// As Docker writes it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Macvlan { .. } => "macvlan",
            Self::Ipvlan { .. } => "ipvlan",
        }
    }

    /// Whether the containers are on a bridge of the host, which publishes their ports.
    #[must_use]
    pub const fn is_bridge(&self) -> bool {
        matches!(self, Self::Bridge)
    }

    /// The link of the host that was asked for.
    #[must_use]
    pub fn parent(&self) -> Option<&str> {
        match self {
            Self::Bridge => None,
            Self::Macvlan { parent, .. } | Self::Ipvlan { parent, .. } => parent.as_deref(),
        }
    }

    /// Whether there is no router on the network: its default route leads through the interface alone.
    #[must_use]
    pub const fn routes_by_interface(&self) -> bool {
        matches!(self, Self::Ipvlan { mode: IpvlanMode::L3 | IpvlanMode::L3s, .. })
    }

    /// Whether only one container can be on the network.
    #[must_use]
    pub const fn is_for_one(&self) -> bool {
        matches!(self, Self::Macvlan { mode: MacvlanMode::Passthru, .. })
    }
}

/// The first thing of a parent that makes no sense, in the words of Docker where it has some.
pub fn check(driver: &Driver) -> Result<(), String> {
    let Some(parent) = driver.parent() else { return Ok(()) };
    if parent == "lo" {
        return Err(format!("loopback interface is not a valid {} parent link", driver.as_str()));
    }
    let plain = |character: char| character.is_ascii_graphic() && !matches!(character, '/' | ':');
    if parent.is_empty() || parent.len() > LONGEST_LINK_NAME || !parent.chars().all(plain) || parent.starts_with('.') {
        return Err(format!(
            "the parent `{parent}` is not possible: expected the name of a link of this host, 1 to {LONGEST_LINK_NAME} characters without `/`, `:` and spaces"
        ));
    }
    Ok(())
}

/// The name of the parent that is made for a network without one.
pub fn dummy_name(id: &str) -> String {
    format!("dm-{}", id.chars().take(SHORT_ID).collect::<String>())
}

/// What a parent that is not there is to be made of: `eth0.10` is VLAN 10 of `eth0`.
///
/// # Errors
/// Why nothing can be made for this name.
pub fn vlan_of(parent: &str) -> Result<MadeParent, String> {
    let Some((of, id)) = parent.rsplit_once('.').filter(|(of, _)| !of.is_empty()) else {
        return Err("a link that is to be made is a VLAN of another, such as eth0.10".to_owned());
    };
    match id.parse::<u16>() {
        Ok(number) if VLANS.contains(&number) && number.to_string() == id => {
            Ok(MadeParent::Vlan { of: of.to_owned(), id: number })
        }
        _ => Err(format!("vlan id must be between {} and {}, received: {id}", VLANS.start(), VLANS.end())),
    }
}

/// Why a parent cannot be shared with the networks that have it already, in Docker's words. Networks of macvlan can share
/// one, but for the mode that wants it alone; those of ipvlan cannot.
pub fn check_shared<'a>(
    driver: &Driver,
    parent: &str,
    others: impl Iterator<Item = &'a NetworkRecord>,
) -> Result<(), String> {
    for other in others.filter(|other| !other.settings.driver.is_bridge() && other.link == parent) {
        let (name, kind) = (&other.name, other.settings.driver.as_str());
        match (driver, &other.settings.driver) {
            (_, theirs) if theirs.is_for_one() => {
                return Err(format!(
                    "{kind} network {name} is already using parent interface {parent} in mode passthru"
                ));
            }
            (ours, _) if ours.is_for_one() => {
                return Err(format!(
                    "cannot use mode passthru, {kind} network {name} is already using parent interface {parent}"
                ));
            }
            (Driver::Ipvlan { .. }, Driver::Ipvlan { .. }) => {
                return Err(format!("network {name} is already using parent interface {parent}"));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::request::NetworkSettings;

    fn macvlan(mode: MacvlanMode) -> Driver {
        Driver::Macvlan { parent: Some("eth0".to_owned()), mode }
    }

    fn ipvlan() -> Driver {
        Driver::Ipvlan { parent: Some("eth0".to_owned()), mode: IpvlanMode::L2, reach: IpvlanReach::Bridge }
    }

    #[test]
    fn a_vlan_is_told_by_its_name() {
        assert_eq!(vlan_of("eth0.10"), Ok(MadeParent::Vlan { of: "eth0".to_owned(), id: 10 }));
        assert_eq!(vlan_of("a.b.4094"), Ok(MadeParent::Vlan { of: "a.b".to_owned(), id: 4094 }));
        for (wrong, text) in [
            ("eth1", "such as eth0.10"),
            (".10", "such as eth0.10"),
            ("eth0.0", "received: 0"),
            ("eth0.4095", "received: 4095"),
            ("eth0.010", "received: 010"),
            ("eth0.x", "received: x"),
        ] {
            assert!(vlan_of(wrong).unwrap_err().contains(text), "{wrong}");
        }
        assert_eq!(dummy_name("0123456789abcdef"), "dm-0123456789ab");
    }

    #[test]
    fn parents_that_make_no_sense() {
        let on = |parent: &str| Driver::Macvlan { parent: Some(parent.to_owned()), mode: MacvlanMode::Bridge };
        check(&on("eth0.10")).unwrap();
        check(&Driver::Bridge).unwrap();
        for (wrong, text) in [("lo", "loopback interface is not"), ("a/b", "the parent `a/b`"), ("", "the parent ``")] {
            assert!(check(&on(wrong)).unwrap_err().contains(text), "{wrong}");
        }
    }

    #[test]
    fn who_can_share_a_parent() {
        let having = |driver: Driver| NetworkRecord {
            settings: NetworkSettings { driver, ..NetworkSettings::default() },
            ..NetworkRecord::new("old", "eth0", "10.0.0.0/24".parse().unwrap(), "10.0.0.1".parse().unwrap())
        };
        let refused = |new: Driver, old: Driver| check_shared(&new, "eth0", [having(old)].iter()).err();
        assert_eq!(refused(macvlan(MacvlanMode::Bridge), macvlan(MacvlanMode::Private)), None);
        assert_eq!(refused(macvlan(MacvlanMode::Passthru), Driver::Bridge), None);
        assert_eq!(
            refused(macvlan(MacvlanMode::Bridge), macvlan(MacvlanMode::Passthru)).unwrap(),
            "macvlan network old is already using parent interface eth0 in mode passthru"
        );
        assert_eq!(
            refused(macvlan(MacvlanMode::Passthru), macvlan(MacvlanMode::Bridge)).unwrap(),
            "cannot use mode passthru, macvlan network old is already using parent interface eth0"
        );
        assert_eq!(refused(ipvlan(), ipvlan()).unwrap(), "network old is already using parent interface eth0");
        assert_eq!(check_shared(&ipvlan(), "eth1", [having(ipvlan())].iter()), Ok(()));
    }
}
