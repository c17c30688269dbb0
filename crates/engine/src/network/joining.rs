//! Containers that join a network or leave one while they run.
//!
//! As everywhere here the record is on disk before the kernel is told, and the default route and the published ports follow
//! from the records alone: whichever network leads after the change has both.

use std::fs::File;

use super::errors::{AttachError, Failure, Failures, all_or};
use super::kernel::{self, KernelError};
use super::networks::{Entry, Networks};
use super::records::RecordError;
use super::request::{Attachment, ContainerRecord, DefaultRoute, Endpoint, NetworkEndpoint};
use crate::crash_point::crash_point;
use crate::overlay::OverlayEndpoint;

impl Networks {
    /// Puts a container that runs onto one more network.
    ///
    /// # Errors
    /// Why it cannot be; the container is then where it was.
    pub async fn connect(&self, id: &str, netns: &File, wanted: &NetworkEndpoint) -> Result<Endpoint, AttachError> {
        let on = self.usable_network(&wanted.name).await?;
        let record = self.decide_joining(id, wanted)?;
        crash_point!("joining.recorded");
        self.publish();
        let index = record.attachment.endpoints.len().saturating_sub(1);
        let made = async {
            if let Some(mut plan) = self.link_plan(&record, index) {
                // With the other networks there may be a route already: it is set as a whole below.
                plan.routes.clear();
                if plan.driver.is_bridge() {
                    kernel::make_link(netns, &plan).await?;
                    crash_point!("joining.linked");
                    kernel::join_bridge(&plan.host, on, self.is_isolated(&wanted.name)).await?;
                } else {
                    kernel::make_child(netns, &plan, on).await?;
                }
            }
            crash_point!("joining.bridged");
            self.follow(netns, &record).await
        };
        if let Err(source) = made.await {
            if let Err(failures) = self.disconnect(id, Some(netns), &wanted.name).await {
                tracing::warn!(%failures, id, "an attempt to connect a container left something behind");
            }
            return Err(AttachError::Kernel { id: id.to_owned(), source });
        }
        let made = record.attachment.endpoints.into_iter().nth(index);
        made.ok_or_else(|| AttachError::NotConnected { id: id.to_owned(), network: wanted.name.clone() })
    }

    fn decide_joining(&self, id: &str, wanted: &NetworkEndpoint) -> Result<ContainerRecord, AttachError> {
        let mut state = self.lock();
        let mut record = match state.containers.get(id) {
            Some(entry) => entry.record.clone(),
            None => return Err(AttachError::NotAttached { id: id.to_owned() }),
        };
        if record.attachment.endpoints.iter().any(|endpoint| endpoint.network == wanted.name) {
            return Err(AttachError::Connected { id: id.to_owned(), network: wanted.name.clone() });
        }
        let is_free = |name: &String| record.attachment.endpoints.iter().all(|endpoint| endpoint.interface != *name);
        let interface = (0..=record.attachment.endpoints.len()).map(|number| format!("eth{number}")).find(is_free);
        let endpoint = state.choose_endpoint(id, wanted, interface.unwrap_or_else(|| "eth0".to_owned()))?;
        // Records of older engines have no settings, and those of any may lack aliases.
        record.sysctls.resize(record.attachment.endpoints.len(), Vec::new());
        record.aliases.resize(record.attachment.endpoints.len(), Vec::new());
        record.links.push(state.host_link(&self.config.prefix, &endpoint, &record.links)?);
        state.note_given(&endpoint);
        record.attachment.endpoints.push(endpoint);
        record.sysctls.push(wanted.sysctls.clone());
        record.aliases.push(wanted.aliases.clone());
        self.records.put_container(&record).map_err(|source| AttachError::Record { id: id.to_owned(), source })?;
        state.containers.insert(id.to_owned(), Entry { record: record.clone(), linked: true });
        Ok(record)
    }

    /// Takes a container off one network. One that is not on it is no error. Without a namespace it does not run any more.
    ///
    /// # Errors
    /// Everything that did not work; the rest was done.
    pub async fn disconnect(&self, id: &str, netns: Option<&File>, network: &str) -> Result<(), Failures> {
        let mut failures: Vec<Failure> = Vec::new();
        let (before, interface, link) = {
            let state = self.lock();
            let Some(entry) = state.containers.get(id) else { return Ok(()) };
            let mut pairs = entry.record.attachment.endpoints.iter().zip(&entry.record.links);
            let Some((endpoint, link)) = pairs.find(|(endpoint, _)| endpoint.network == network) else { return Ok(()) };
            (entry.record.clone(), endpoint.interface.clone(), link.clone())
        };
        // The link goes before the record that knows of it: after a crash between the two it is taken away again.
        let deleted = match netns {
            // It goes with the container's namespace.
            None if link.is_empty() => Ok(()),
            Some(netns) if link.is_empty() => kernel::delete_child(netns, &interface).await,
            _ => kernel::delete_link(&link).await,
        };
        failures.extend(deleted.err().map(Failure::from));
        crash_point!("leaving.unlinked");
        let after = {
            let mut state = self.lock();
            let Some(entry) = state.containers.get_mut(id) else { return Ok(()) };
            let after = without(&entry.record, network);
            failures.extend(self.records.put_container(&after).err().map(Failure::from));
            entry.record = after.clone();
            after
        };
        crash_point!("leaving.recorded");
        self.publish();
        let followed = match netns {
            Some(netns) => self.follow(netns, &after).await,
            None => self.apply().await,
        };
        failures.extend(followed.err().map(Failure::from));
        let stays: Vec<_> = after.serving().map(|(_, address)| address).collect();
        for (_, address) in before.serving().filter(|(_, address)| !stays.contains(address)) {
            failures.extend(kernel::forget_connections(address).await.err().map(Failure::from));
        }
        all_or(|| format!("could not take container {id} off the network {network}"), failures)
    }

    /// Lets a container that is attached be known by another name.
    ///
    /// # Errors
    /// When it cannot be written down; the name is published all the same.
    pub(crate) fn rename(&self, id: &str, name: &str) -> Result<(), RecordError> {
        let record = {
            let mut state = self.lock();
            let Some(entry) = state.containers.get_mut(id) else { return Ok(()) };
            entry.record.name = name.to_owned();
            entry.record.clone()
        };
        self.publish();
        self.records.put_container(&record)
    }

    /// Changes what is kept of a container's interfaces on networks between hosts.
    ///
    /// # Errors
    /// When it cannot be written down; what is in memory is changed all the same.
    pub(crate) fn note_between(
        &self,
        id: &str,
        change: impl FnOnce(&mut Vec<OverlayEndpoint>),
    ) -> Result<(), RecordError> {
        let record = {
            let mut state = self.lock();
            let Some(entry) = state.containers.get_mut(id) else { return Ok(()) };
            change(&mut entry.record.attachment.between);
            entry.record.clone()
        };
        self.records.put_container(&record)
    }

    /// The networks whose links to a container are not there, though its record has them.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(crate) async fn without_links(&self, id: &str, netns: &File) -> Result<Vec<String>, KernelError> {
        let recorded: Vec<(Endpoint, String)> = {
            let state = self.lock();
            let record = state.containers.get(id).map(|entry| &entry.record);
            let pairs = record.into_iter().flat_map(|record| record.attachment.endpoints.iter().zip(&record.links));
            pairs.map(|(endpoint, link)| (endpoint.clone(), link.clone())).collect()
        };
        let mut missing = Vec::new();
        for (endpoint, link) in recorded {
            let is_there = match link.as_str() {
                "" => kernel::has_child(netns, &endpoint.interface).await?,
                link => kernel::link_index(link).await?.is_some(),
            };
            if !is_there {
                missing.push(endpoint.network);
            }
        }
        Ok(missing)
    }

    /// Sets the default route of a container as its record has it.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) async fn settle_route(&self, id: &str, netns: &File) -> Result<(), KernelError> {
        let record = self.lock().containers.get(id).map(|entry| entry.record.clone());
        match record {
            Some(record) => self.follow(netns, &record).await,
            None => Ok(()),
        }
    }

    /// The default route and the published ports follow the network that leads now.
    async fn follow(&self, netns: &File, record: &ContainerRecord) -> Result<(), KernelError> {
        // Where no network of this host leads outside, one between hosts may.
        let by_between = |is_ipv6: bool| {
            let mut ways =
                record.attachment.between.iter().flat_map(|endpoint| {
                    endpoint.gateways.iter().map(|gateway| (endpoint.interface.as_str(), *gateway))
                });
            let way = ways.find(|(_, gateway)| gateway.is_ipv6() == is_ipv6);
            way.map(|(interface, gateway)| (interface, DefaultRoute::By(gateway)))
        };
        let ipv4 = record.attachment.leading4();
        let ipv4 = ipv4.map(|(leading, part)| (leading.interface.as_str(), leading.default_route(part.gateway.into())));
        let ipv6 = record.attachment.leading6();
        let ipv6 = ipv6.map(|(leading, part)| (leading.interface.as_str(), leading.default_route(part.gateway.into())));
        let (ipv4, ipv6) = (ipv4.or_else(|| by_between(false)), ipv6.or_else(|| by_between(true)));
        kernel::set_default_routes(netns, ipv4, ipv6).await?;
        self.apply().await
    }
}

/// The same container off one network.
fn without(record: &ContainerRecord, network: &str) -> ContainerRecord {
    let mut left = ContainerRecord {
        attachment: Attachment { endpoints: Vec::new(), ..record.attachment.clone() },
        links: Vec::new(),
        aliases: Vec::new(),
        sysctls: Vec::new(),
        ..record.clone()
    };
    for (index, endpoint) in record.attachment.endpoints.iter().enumerate() {
        if endpoint.network == network {
            continue;
        }
        left.attachment.endpoints.push(endpoint.clone());
        left.links.extend(record.links.get(index).cloned());
        left.aliases.push(record.aliases.get(index).cloned().unwrap_or_default());
        left.sysctls.push(record.sysctls.get(index).cloned().unwrap_or_default());
    }
    left
}
