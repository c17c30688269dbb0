//! Links and their entries: the steps of a difference, done.

use std::collections::HashMap;
use std::fs::File;
use std::net::IpAddr;

use ipnet::IpNet;
use nlink::netlink::addr::{Ipv4Address, Ipv6Address};
use nlink::netlink::devconf::AddrGenMode;
use nlink::netlink::fdb::FdbEntryBuilder;
use nlink::netlink::link::{BridgeLink, BridgePortConfig, VxlanLink};
use nlink::netlink::neigh::Neighbor;
use nlink::netlink::{Connection, InterfaceRef, Route};

use super::settings;
use crate::network::kernel::{KernelError, refused};
use crate::overlay::difference::Step;
use crate::overlay::state::{LinkAddress, PortFlags};

/// So many requests go into one message: their answers must fit the socket's receive buffer.
const REQUESTS_PER_BATCH: usize = 100;

/// The links of a host, by name, and a socket to change them by.
pub struct Links<'a> {
    host: &'a File,
    connection: &'a Connection<Route>,
    indexes: HashMap<String, u32>,
}

/// An entry that is new, and can therefore be one of many in one message.
enum Entry {
    Forwarding(FdbEntryBuilder),
    Neighbour(Neighbor),
}

impl<'a> Links<'a> {
    /// Those of a host by a socket in its network namespace. `indexes` are those that are known.
    #[must_use]
    pub fn new(host: &'a File, connection: &'a Connection<Route>, indexes: HashMap<String, u32>) -> Self {
        Self { host, connection, indexes }
    }

    /// Looks a link up, so that steps can name it. One that is not there is no error: the steps that name it fail.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn learn(&mut self, link: &str) -> Result<(), KernelError> {
        self.learn_index(link).await.map_err(refused(|| format!("look up the link {link}")))
    }

    /// Does these steps in their order, and answers what did not work. One that fails does not keep the others from being
    /// done: most of them are for other links.
    pub async fn execute(&mut self, steps: &[Step]) -> Vec<KernelError> {
        let mut failures = Vec::new();
        let mut rest = steps;
        while let Some(step) = rest.first() {
            let entries = rest.iter().take(REQUESTS_PER_BATCH).map_while(|step| self.entry(step)).collect::<Vec<_>>();
            if entries.len() > 1 {
                let (some, others) = rest.split_at(entries.len());
                failures.extend(self.add_entries(some, entries).await);
                rest = others;
            } else {
                failures.extend(self.step(step).await.err());
                rest = rest.get(1..).unwrap_or_default();
            }
        }
        failures
    }

    /// What can be done together with its like.
    fn entry(&self, step: &Step) -> Option<(u32, Entry)> {
        match step {
            Step::AddForwarding { link, mac, host } => {
                let index = *self.indexes.get(link)?;
                Some((index, Entry::Forwarding(forwarding(index, *mac).dst(*host))))
            }
            Step::AddNeighbour { link, address, mac } => {
                let index = *self.indexes.get(link)?;
                Some((index, Entry::Neighbour(neighbour(index, *address).lladdr(*mac))))
            }
            _ => None,
        }
    }

    async fn add_entries(&self, steps: &[Step], entries: Vec<(u32, Entry)>) -> Vec<KernelError> {
        let mut batch = self.connection.batch();
        for (index, entry) in entries {
            batch = match entry {
                Entry::Forwarding(entry) => batch.add_fdb(entry, index, None),
                Entry::Neighbour(entry) => batch.add_neighbor(entry, index),
            };
        }
        let results = match batch.execute().await {
            Ok(results) => results,
            Err(error) => return vec![refused(|| "add entries of overlay networks".to_owned())(error)],
        };
        let mut failures = Vec::new();
        for (step, result) in steps.iter().zip(results.iter()) {
            // One that came meanwhile may be another's: the single request replaces it.
            if result.is_err() {
                failures.extend(self.replace_entry(step).await.err());
            }
        }
        failures
    }

    async fn replace_entry(&self, step: &Step) -> Result<(), KernelError> {
        let result = match step {
            Step::AddForwarding { link, mac, host } | Step::MoveForwarding { link, mac, host } => {
                let entry = forwarding(self.index(step, link)?, *mac).dst(*host);
                self.connection.replace_fdb(entry).await
            }
            Step::AddNeighbour { link, address, mac } | Step::ChangeNeighbour { link, address, mac } => {
                let entry = neighbour(self.index(step, link)?, *address).lladdr(*mac);
                self.connection.replace_neighbor(entry).await
            }
            _ => Ok(()),
        };
        result.map_err(refused(|| step.to_string()))
    }

    fn index(&self, step: &Step, link: &str) -> Result<u32, KernelError> {
        let missing = || std::io::Error::new(std::io::ErrorKind::NotFound, format!("there is no link {link}"));
        self.indexes.get(link).copied().ok_or_else(|| refused(|| step.to_string())(missing()))
    }

    async fn learn_index(&mut self, link: &str) -> Result<(), nlink::Error> {
        if let Some(found) = self.connection.get_link_by_name(link).await? {
            self.indexes.insert(link.to_owned(), found.ifindex());
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<(), KernelError> {
        let what = || step.to_string();
        let done = match step {
            Step::MakeBridge { link, mtu, mac, ipv6 } => {
                let made = BridgeLink::new(link.as_str()).stp(false).mtu(*mtu).address(*mac);
                self.make(link, self.connection.add_link(made).await, what).await?;
                settings::prepare_bridge(self.host, link, *ipv6).map_err(refused(what))?;
                return Ok(());
            }
            Step::MakeTunnel { link, vni, local, port, mtu } => {
                let made = VxlanLink::new(link.as_str(), *vni).port(*port).mtu(*mtu).learning(false).proxy(true);
                let made = match local {
                    IpAddr::V4(local) => made.local(*local),
                    IpAddr::V6(local) => made.local6(*local),
                };
                self.make(link, self.connection.add_link(made).await, what).await?;
                self.connection.set_addr_gen_mode_by_index(self.index(step, link)?, AddrGenMode::None).await
            }
            // The one who knows the container's namespace makes it.
            Step::MakePort { link } => self.learn_index(link).await,
            Step::RemoveLink { link } => {
                self.indexes.remove(link);
                self.connection.del_link_if_exists(link.as_str()).await.map(drop)
            }
            Step::SetMtu { link, mtu } => self.connection.set_link_mtu_by_index(self.index(step, link)?, *mtu).await,
            Step::SetLinkAddress { link, mac } => {
                self.connection.set_link_address_by_index(self.index(step, link)?, *mac).await
            }
            Step::Join { link, bridge } => {
                let bridge = self.index(step, bridge)?;
                self.connection.set_link_master_by_index(self.index(step, link)?, bridge).await
            }
            Step::SetPortFlags { link, flags } => {
                self.connection.set_bridge_port_by_index(self.index(step, link)?, port_flags(*flags)).await
            }
            Step::SetUp { link } => self.connection.set_link_up_by_index(self.index(step, link)?).await,
            Step::AddAddress { link, address } => {
                let index = self.index(step, link)?;
                match *address {
                    IpNet::V4(net) => {
                        let address = Ipv4Address::with_index(index, net.addr(), net.prefix_len());
                        self.connection.replace_address(address).await
                    }
                    // Nobody else can have it, so the kernel need not ask before it is used.
                    IpNet::V6(net) => {
                        let address = Ipv6Address::with_index(index, net.addr(), net.prefix_len()).nodad();
                        self.connection.replace_address(address).await
                    }
                }
            }
            Step::RemoveAddress { link, address } => {
                let index = InterfaceRef::Index(self.index(step, link)?);
                self.connection.del_address_if_exists(index, address.addr(), address.prefix_len()).await.map(drop)
            }
            Step::AddPortForwarding { link, mac } => {
                let entry = FdbEntryBuilder::new(*mac).ifindex(self.index(step, link)?).static_();
                self.connection.replace_fdb(entry).await
            }
            Step::RemovePortForwarding { link, mac } => {
                let entry = FdbEntryBuilder::new(*mac).ifindex(self.index(step, link)?);
                absent(self.connection.del_fdb_entry(entry).await)
            }
            Step::RemoveForwarding { link, mac } => {
                absent(self.connection.del_fdb_entry(forwarding(self.index(step, link)?, *mac)).await)
            }
            Step::RemoveNeighbour { link, address } => {
                let entry = neighbour(self.index(step, link)?, *address);
                self.connection.del_neighbor_if_exists(entry).await.map(drop)
            }
            Step::AddForwarding { .. }
            | Step::MoveForwarding { .. }
            | Step::AddNeighbour { .. }
            | Step::ChangeNeighbour { .. } => return self.replace_entry(step).await,
        };
        done.map_err(refused(what))
    }

    async fn make(
        &mut self,
        link: &str,
        made: Result<(), nlink::Error>,
        what: impl Fn() -> String,
    ) -> Result<(), KernelError> {
        match made {
            Err(error) if !error.is_already_exists() => Err(refused(&what)(error)),
            _ => self.learn_index(link).await.map_err(refused(&what)),
        }
    }
}

fn forwarding(index: u32, mac: LinkAddress) -> FdbEntryBuilder {
    FdbEntryBuilder::new(mac).ifindex(index).self_()
}

fn neighbour(index: u32, address: IpAddr) -> Neighbor {
    Neighbor::with_index(index, address).permanent()
}

fn port_flags(flags: PortFlags) -> BridgePortConfig {
    BridgePortConfig::new().learning(flags.learning).unicast_flood(flags.unicast_flood).hairpin(flags.hairpin)
}

/// One that is gone already is no error.
fn absent(done: Result<(), nlink::Error>) -> Result<(), nlink::Error> {
    match done {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
