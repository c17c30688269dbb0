//! What the engine tells of containers, and of the volumes and networks that they have.

use std::sync::Arc;

use super::Engine;
use crate::container::{ContainerId, EventKind, EventSubject, Record};
use crate::events::{Happening, NetworkEvent, Pruned, VolumeEvent};

/// Whom an event of a container is about.
pub(super) fn subject_of(record: &Record) -> EventSubject {
    let mut labels = record.image.labels.clone();
    labels.extend(record.config.labels.clone());
    let name = record.config.name.clone().unwrap_or_else(|| record.id.to_string());
    EventSubject { name, image: record.config.image.clone(), labels }
}

impl Engine {
    pub(super) fn tell(&self, id: &ContainerId, kind: EventKind) {
        let subject = self.slot(id).map(|slot| subject_of(&slot.record())).unwrap_or_default();
        self.tell_of(id, kind, subject);
    }

    pub(super) fn tell_of(&self, id: &ContainerId, kind: EventKind, subject: EventSubject) {
        self.inner.events.tell(Happening::Container { id: id.clone(), kind, subject: Arc::new(subject) });
    }

    /// Tells that a container that runs has its volumes and is on its networks, or no more.
    pub(super) fn tell_surroundings(&self, record: &Record, begins: bool) {
        let id = &record.id;
        for volume in crate::container::volumes(id, &record.config, &record.image) {
            let read_only = record.config.mounts.iter().any(|mount| mount.target == volume.target && mount.read_only);
            let kind = if begins {
                VolumeEvent::Mounted { container: id.clone(), target: volume.target, read_only }
            } else {
                VolumeEvent::Unmounted { container: id.clone() }
            };
            self.inner.events.tell(Happening::Volume { name: volume.name, kind });
        }
        for endpoint in self.networks().attachment(id.as_str()).unwrap_or_default().endpoints {
            self.tell_network(&endpoint.network, false, id, begins);
        }
    }

    /// Tells that a container is on a network, or no more; `between` where it is one between hosts, as one of this host may have
    /// the same name.
    pub(super) fn tell_network(&self, name: &str, between: bool, container: &ContainerId, begins: bool) {
        let (id, driver) = if between {
            (String::new(), "overlay")
        } else {
            self.networks().id_and_driver(name).unwrap_or_else(|| (String::new(), "bridge"))
        };
        let container = container.clone();
        let kind =
            if begins { NetworkEvent::Connected { container } } else { NetworkEvent::Disconnected { container } };
        self.inner.events.tell(Happening::Network { id, name: name.to_owned(), driver, kind });
    }

    /// Tells that everything of a kind that nothing used was removed, by whoever did it.
    pub fn tell_pruned(&self, of: Pruned, freed_bytes: u64) {
        self.inner.events.tell(Happening::Pruned { of, freed_bytes });
    }
}
