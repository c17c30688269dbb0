//! The interface by which the host reaches the others.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;

use nlink::netlink::{Connection, Route};

use crate::network::kernel::{KernelError, refused};

/// The MTU of the interface that has this address, in bytes; `None`: no interface has it.
///
/// # Errors
/// When the kernel cannot be asked.
pub async fn mtu_of(host: &File, address: IpAddr) -> Result<Option<u32>, KernelError> {
    let ask = |what: &'static str| refused(move || what.to_owned());
    let connection = Connection::<Route>::new_in(host.as_fd())
        .map_err(ask("open a netlink socket in the host's network namespace"))?;
    let addresses = connection.get_addresses().await.map_err(ask("list the host's addresses"))?;
    let holder = addresses.iter().find(|message| message.primary_address() == Some(&address));
    let Some(index) = holder.map(|message| message.ifindex()) else { return Ok(None) };
    let links = connection.get_links().await.map_err(ask("list the host's links"))?;
    Ok(links.iter().find(|link| link.ifindex() == index).and_then(|link| link.mtu()))
}
