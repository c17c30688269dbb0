//! The labels of containers for SELinux: given with the container, kept in its record, free again when it is removed.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};

use super::{Engine, Slot, locked};
use crate::container::{ContainerConfig, ContainerId, NamespaceMode, Record, StartError};
use crate::selinux::{Selinux, SelinuxError, SelinuxLabels};

impl Engine {
    /// SELinux on this host.
    #[must_use]
    pub fn selinux(&self) -> &Selinux {
        &self.inner.launcher.selinux
    }

    /// The labels of a container beside those that there are. Whoever holds `containers` sees to it that nobody else gets the
    /// same meanwhile.
    pub(super) fn labels_among(
        &self,
        containers: &MutexGuard<'_, BTreeMap<ContainerId, Arc<Slot>>>,
        record: &Record,
    ) -> Result<Option<SelinuxLabels>, SelinuxError> {
        if !self.selinux().is_labelling() {
            return Ok(None);
        }
        let records: Vec<Arc<Record>> = containers.values().map(|slot| slot.record()).collect();
        let process = |other: &ContainerId| {
            let found = records.iter().find(|record| record.id == *other)?;
            found.selinux.as_ref()?.process.as_deref()
        };
        let peers: Vec<&str> = peers(&record.config).filter_map(process).collect();
        let others = records.iter().filter(|other| other.id != record.id).filter_map(|other| other.selinux.as_ref());
        self.selinux().labels(&record.config, &peers, others, rand::random())
    }

    /// Labels a container that is about to be started, if it has no labels yet, or has those of another container, which may
    /// be another one by now.
    pub(super) fn label_again(&self, slot: &Slot, record: &mut Record) -> Result<(), StartError> {
        if !self.selinux().is_labelling() || (record.selinux.is_some() && peers(&record.config).next().is_none()) {
            return Ok(());
        }
        let containers = locked(&self.inner.containers);
        record.selinux = self
            .labels_among(&containers, record)
            .map_err(|source| StartError::Selinux { id: record.id.clone(), source })?;
        locked(&slot.data).record = Arc::new(record.clone());
        Ok(())
    }
}

/// The containers whose processes or IPC objects a container shares.
fn peers(config: &ContainerConfig) -> impl Iterator<Item = &ContainerId> {
    [&config.pid_mode, &config.ipc_mode].into_iter().filter_map(|mode| match mode {
        NamespaceMode::Container(other) => Some(other),
        NamespaceMode::Private | NamespaceMode::Host => None,
    })
}
