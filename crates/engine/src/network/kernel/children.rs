//! Links of containers that are made on a link of the host, and the links that are made to be such parents.

use std::fs::File;
use std::time::Duration;

use nlink::netlink::link::{
    DummyLink, IpvlanFlags, IpvlanLink, IpvlanMode as KernelIpvlanMode, LinkCreateExt as _, MacvlanLink,
    MacvlanMode as KernelMacvlanMode, VlanLink,
};
use nlink::netlink::{Connection, Route};

use super::links::{LinkPlan, configure, connect, index_of, open_in};
use super::{KernelError, Refusal, refused};
use crate::network::driver::{Driver, IpvlanMode, IpvlanReach, MacvlanMode, MadeParent};

/// How long a link of the same address may take to go with the container that had it.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// A link that no host has: with it for a parent the kernel makes nothing, and says whether it could.
const NO_LINK: u32 = i32::MAX as u32;

/// Whether the kernel makes links of this kind; where they are of a module, this loads it.
///
/// # Errors
/// When it cannot be asked.
pub async fn has_kind(kind: &'static str) -> Result<bool, KernelError> {
    let connection = connect()?;
    let probe = "stack-probe";
    let answer = match kind {
        "macvlan" => connection.add_link(MacvlanLink::with_parent_index(probe, NO_LINK)).await,
        "ipvlan" => connection.add_link(IpvlanLink::with_parent_index(probe, NO_LINK)).await,
        "vlan" => connection.add_link(VlanLink::with_parent_index(probe, NO_LINK, 1)).await,
        // Of an MTU that is refused.
        _ => connection.add_link(DummyLink::new(probe).mtu(u32::MAX)).await,
    };
    match answer {
        Err(error) if error.is_not_supported() => Ok(false),
        Err(error) if error.is_permission_denied() => Err(refused(|| format!("make links of kind {kind}"))(error)),
        Err(_that_it_could) => Ok(true),
        Ok(()) => {
            let deleted = connection.del_link_if_exists(probe).await;
            deleted.map_err(refused(|| format!("remove the link {probe}")))?;
            Ok(true)
        }
    }
}

/// Makes a link to be a parent, and sets it up. One that is there is taken.
///
/// # Errors
/// What the kernel refused; a link that it made is gone then.
pub async fn make_parent(name: &str, plan: &MadeParent) -> Result<u32, KernelError> {
    let connection = connect()?;
    let what = || format!("make the parent link {name}");
    let made = match plan {
        MadeParent::Dummy => connection.add_link(DummyLink::new(name)).await,
        MadeParent::Vlan { of, id } => connection.add_link(VlanLink::new(name, of.as_str(), *id)).await,
    };
    match made {
        Ok(()) => {}
        Err(error) if error.is_already_exists() => {}
        Err(error) => return Err(refused(what)(error)),
    }
    let index = index_of(&connection, name).await?;
    let index = index.ok_or_else(|| refused(what)(std::io::Error::from(std::io::ErrorKind::NotFound)))?;
    if let Err(error) = connection.set_link_up_by_index(index).await {
        let _ = connection.del_link_if_exists(name).await;
        return Err(refused(|| format!("set the parent link {name} up"))(error));
    }
    Ok(index)
}

/// Makes a container's link on a link of the host, inside the container's namespace.
///
/// # Errors
/// What the kernel refused; nothing is left of the link then.
pub async fn make_child(netns: &File, plan: &LinkPlan, parent: u32) -> Result<(), KernelError> {
    let start = tokio::time::Instant::now();
    loop {
        match try_child(netns, plan, parent).await {
            // A container that ended has its link until the kernel has taken its namespace apart, which takes a moment.
            Err(error) if is_in_use(plan, &error) && start.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
            other => return other,
        }
    }
}

async fn try_child(netns: &File, plan: &LinkPlan, parent: u32) -> Result<(), KernelError> {
    let (host, inside) = (connect()?, open_in(netns)?);
    let interface = plan.interface.as_str();
    let what = || {
        format!(
            "make the container's {interface} on its parent, which can be no port of a bridge and no parent of networks of another driver"
        )
    };
    add(&host, netns, plan, parent).await.map_err(refused(what))?;
    let configured = configure(netns, &inside, plan).await;
    if configured.is_err() {
        // The error that is reported is the first one.
        let _ = inside.del_link_if_exists(interface).await;
    }
    configured
}

async fn add(host: &Connection<Route>, netns: &File, plan: &LinkPlan, parent: u32) -> Result<(), nlink::Error> {
    let interface = plan.interface.as_str();
    match &plan.driver {
        Driver::Bridge => Err(nlink::Error::invalid_message("a bridge is no parent")),
        Driver::Macvlan { mode, .. } => {
            let link = MacvlanLink::with_parent_index(interface, parent).mode(match mode {
                MacvlanMode::Bridge => KernelMacvlanMode::Bridge,
                MacvlanMode::Private => KernelMacvlanMode::Private,
                MacvlanMode::Vepa => KernelMacvlanMode::Vepa,
                MacvlanMode::Passthru => KernelMacvlanMode::Passthru,
            });
            let link = plan.mac.iter().fold(link, |link, mac| link.address(mac.0));
            let link = plan.mtu.iter().fold(link, |link, mtu| link.mtu(*mtu));
            host.add_link(link.netns(netns)).await
        }
        Driver::Ipvlan { mode, reach, .. } => {
            let link = IpvlanLink::with_parent_index(interface, parent)
                .mode(match mode {
                    IpvlanMode::L2 => KernelIpvlanMode::L2,
                    IpvlanMode::L3 => KernelIpvlanMode::L3,
                    IpvlanMode::L3s => KernelIpvlanMode::L3S,
                })
                .flags(match reach {
                    IpvlanReach::Bridge => IpvlanFlags::Bridge,
                    IpvlanReach::Private => IpvlanFlags::Private,
                    IpvlanReach::Vepa => IpvlanFlags::Vepa,
                });
            let link = plan.mtu.iter().fold(link, |link, mtu| link.mtu(*mtu));
            host.add_link(link.netns(netns)).await
        }
    }
}

fn is_in_use(plan: &LinkPlan, error: &KernelError) -> bool {
    match &error.source {
        // A parent that one link has alone says to the second that its request makes no sense.
        Refusal::Netlink(error) => {
            error.is_address_in_use() || error.is_busy() || (plan.driver.is_for_one() && error.is_invalid_argument())
        }
        Refusal::System(_) => false,
    }
}

/// Removes a link of a container. One that is gone already is no error.
///
/// # Errors
/// What the kernel refused.
pub async fn delete_child(netns: &File, interface: &str) -> Result<(), KernelError> {
    let deleted = open_in(netns)?.del_link_if_exists(interface).await;
    deleted.map(drop).map_err(refused(|| format!("remove the container's {interface}")))
}

/// Whether a container has a link of this name.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn has_child(netns: &File, interface: &str) -> Result<bool, KernelError> {
    Ok(index_of(&open_in(netns)?, interface).await?.is_some())
}
