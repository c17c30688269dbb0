//! The interface by which the host reaches the others.

use std::net::IpAddr;

use nlink::netlink::{Connection, Route};

use crate::network::kernel::{KernelError, refused};

/// The MTU of the interface that has this address, in bytes; `None`: no interface has it.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn mtu_of(connection: &Connection<Route>, address: IpAddr) -> Result<Option<u32>, KernelError> {
    let ask = |what: &'static str| refused(move || what.to_owned());
    let addresses = connection.get_addresses().await.map_err(ask("list the host's addresses"))?;
    let holder = addresses.iter().find(|message| message.primary_address() == Some(&address));
    let Some(index) = holder.map(|message| message.ifindex()) else { return Ok(None) };
    let links = connection.get_links().await.map_err(ask("list the host's links"))?;
    Ok(links.iter().find(|link| link.ifindex() == index).and_then(|link| link.mtu()))
}
