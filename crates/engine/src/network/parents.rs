//! Networks whose containers have links on a link of the host, their parent: which one it is, and whether it is made here.

use super::driver::{self, MadeParent};
use super::errors::NetworkError;
use super::kernel;
use super::networks::Networks;
use super::request::{NetworkRecord, NetworkSettings};
use crate::crash_point::crash_point;

impl Networks {
    /// The parent of a network to be, and whether it is to be made. The caller holds `shaping`.
    pub(super) async fn choose_parent(
        &self,
        name: &str,
        id: &str,
        settings: &NetworkSettings,
    ) -> Result<(String, bool), NetworkError> {
        let refused = |source| NetworkError::Kernel { name: name.to_owned(), source };
        let kind = settings.driver.as_str();
        if !kernel::has_kind(kind).await.map_err(refused)? {
            return Err(NetworkError::NoSuchLinks { name: name.to_owned(), kind });
        }
        // An internal one has no use for a parent that leads somewhere.
        let Some(parent) = settings.driver.parent().filter(|_| !settings.internal) else {
            if !kernel::has_kind("dummy").await.map_err(refused)? {
                return Err(NetworkError::NoSuchLinks { name: name.to_owned(), kind: "dummy" });
            }
            return Ok((driver::dummy_name(id), true));
        };
        let made_before = {
            let state = self.lock();
            driver::check_shared(&settings.driver, parent, state.networks.values())
                .map_err(|problem| NetworkError::ParentTaken { problem })?;
            state.networks.values().any(|other| other.made_parent && other.link == parent)
        };
        if made_before {
            return Ok((parent.to_owned(), true));
        }
        if kernel::link_index(parent).await.map_err(refused)?.is_some() {
            return Ok((parent.to_owned(), false));
        }
        let missing = |hint| NetworkError::NoParent { name: name.to_owned(), parent: parent.to_owned(), hint };
        let MadeParent::Vlan { of, .. } = driver::vlan_of(parent).map_err(missing)? else {
            return Ok((parent.to_owned(), true));
        };
        if kernel::link_index(&of).await.map_err(refused)?.is_none() {
            return Err(missing(format!("its VLANs can be made once there is a link {of}")));
        }
        if !kernel::has_kind("vlan").await.map_err(refused)? {
            return Err(NetworkError::NoSuchLinks { name: name.to_owned(), kind: "vlan" });
        }
        Ok((parent.to_owned(), true))
    }

    /// The index of a network's parent, which is made where it was made before and is gone.
    pub(super) async fn ensure_parent(&self, network: &NetworkRecord) -> Result<u32, NetworkError> {
        let name = &network.name;
        let refused = |source| NetworkError::Kernel { name: name.clone(), source };
        let missing = |hint| NetworkError::NoParent { name: name.clone(), parent: network.link.clone(), hint };
        if let Some(index) = kernel::link_index(&network.link).await.map_err(refused)? {
            return Ok(index);
        }
        if !network.made_parent {
            return Err(missing("bring it back, or make the network anew with another parent".to_owned()));
        }
        let plan = if network.link == driver::dummy_name(&network.id) {
            MadeParent::Dummy
        } else {
            driver::vlan_of(&network.link).map_err(missing)?
        };
        let index = kernel::make_parent(&network.link, &plan).await.map_err(refused)?;
        Ok(index)
    }

    /// The parent of a network that is being made.
    pub(super) async fn make_parent(&self, network: &NetworkRecord) -> Result<u32, NetworkError> {
        let index = self.ensure_parent(network).await?;
        crash_point!("network.parent");
        Ok(index)
    }

    /// Removes the parent of a network that is gone from the state, where it was made for networks and none has it any more.
    pub(super) async fn release_parent(&self, network: &NetworkRecord) -> Result<(), NetworkError> {
        let is_had = self.lock().networks.values().any(|other| other.made_parent && other.link == network.link);
        if !network.made_parent || is_had {
            return Ok(());
        }
        kernel::delete_link(&network.link)
            .await
            .map_err(|source| NetworkError::Kernel { name: network.name.clone(), source })
    }
}
