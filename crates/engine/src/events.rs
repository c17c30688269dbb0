//! What happens on this host to containers, images, volumes and networks: told once, in order, to everybody who listens, and
//! remembered for a while for those who ask for the past.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::broadcast;

use crate::container::{ContainerId, EventKind, EventSubject};

/// So many events are remembered, and so many may a listener fall behind by.
const REMEMBERED: usize = 1024;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// Nanoseconds since the Unix epoch; later ones are never less.
    pub time: u64,
    /// What.
    pub what: Happening,
}

/// What happened, and to what.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// To a container.
    Container {
        /// To which.
        id: ContainerId,
        /// What.
        kind: EventKind,
        /// Whom it happened to.
        subject: Arc<EventSubject>,
    },
    /// To an image.
    Image {
        /// Its identifier; where it comes from or goes to a registry, its name.
        id: String,
        /// As people call it.
        name: String,
        /// Its labels.
        labels: BTreeMap<String, String>,
        /// What.
        kind: ImageEvent,
    },
    /// To a volume.
    Volume {
        /// To which.
        name: String,
        /// What.
        kind: VolumeEvent,
    },
    /// To a network.
    Network {
        /// Its identifier.
        id: String,
        /// As people call it.
        name: String,
        /// What joins its containers: `bridge`, `macvlan`, `ipvlan`.
        driver: &'static str,
        /// What.
        kind: NetworkEvent,
    },
    /// All of a kind that nothing used were removed.
    Pruned {
        /// What kind.
        of: Pruned,
        /// Bytes that were freed.
        freed_bytes: u64,
    },
}

/// What happens to images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageEvent {
    /// It came from a registry.
    Pulled,
    /// It went to one.
    Pushed,
    /// It has one more name.
    Tagged,
    /// It has one name less.
    Untagged,
    /// It is gone.
    Removed,
    /// It came out of an archive of images.
    Loaded,
    /// It was made of an archive of files.
    Imported,
    /// It was written into an archive.
    Saved,
}

/// What happens to volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeEvent {
    /// It was made.
    Created,
    /// A container that starts has it.
    Mounted {
        /// Which.
        container: ContainerId,
        /// Where, in the container.
        target: String,
        /// It may not write to it.
        read_only: bool,
    },
    /// A container that has ended has it no more.
    Unmounted {
        /// Which.
        container: ContainerId,
    },
    /// It is gone.
    Removed,
}

/// What happens to networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkEvent {
    /// It was made.
    Created,
    /// A container is on it.
    Connected {
        /// Which.
        container: ContainerId,
    },
    /// A container is not on it any more.
    Disconnected {
        /// Which.
        container: ContainerId,
    },
    /// It is gone.
    Removed,
}

/// What can be pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pruned {
    /// Containers that do not run.
    Containers,
    /// Images.
    Images,
    /// Networks without containers.
    Networks,
    /// Volumes that no container has.
    Volumes,
}

/// Where events are told and heard. Clones are the same.
#[derive(Debug, Clone)]
pub struct Events {
    bus: Arc<Bus>,
}

#[derive(Debug)]
struct Bus {
    sender: broadcast::Sender<Event>,
    history: Mutex<VecDeque<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self { bus: Arc::new(Bus { sender: broadcast::channel(REMEMBERED).0, history: Mutex::default() }) }
    }
}

impl Events {
    /// Tells what has just happened.
    pub fn tell(&self, what: Happening) {
        // Held until it is sent, so that the remembered ones are in the order in which they are heard.
        let mut history = self.bus.history.lock().unwrap_or_else(PoisonError::into_inner);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let last = history.back().map_or(0, |event| event.time);
        let time = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).max(last);
        let event = Event { time, what };
        if history.len() == REMEMBERED {
            history.pop_front();
        }
        history.push_back(event.clone());
        // Nobody listening is no error.
        let _ = self.bus.sender.send(event);
    }

    /// What happens from now on. A receiver that falls behind by more than 1024 is told so, and lists anew.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.bus.sender.subscribe()
    }

    /// What happened since a time in nanoseconds since the Unix epoch, as far back as it is remembered, and what happens from
    /// now on, without a gap between the two.
    #[must_use]
    pub fn since(&self, since: u64) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let history = self.bus.history.lock().unwrap_or_else(PoisonError::into_inner);
        let past = history.iter().filter(|event| event.time >= since).cloned().collect();
        (past, self.bus.sender.subscribe())
    }
}

/// Where a part of the engine tells its events, once somebody has said where.
#[derive(Debug, Clone, Default)]
pub(crate) struct Teller(Arc<OnceLock<Events>>);

impl Teller {
    /// From now on here. Only the first call has an effect.
    pub fn tell_to(&self, events: Events) {
        let _ = self.0.set(events);
    }

    pub fn tell(&self, what: impl FnOnce() -> Happening) {
        if let Some(events) = self.0.get() {
            events.tell(what());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removed(name: &str) -> Happening {
        Happening::Volume { name: name.to_owned(), kind: VolumeEvent::Removed }
    }

    #[test]
    fn the_past_and_what_comes_have_no_gap() {
        let events = Events::default();
        for number in 0..REMEMBERED + 10 {
            events.tell(removed(&number.to_string()));
        }
        let (past, mut coming) = events.since(0);
        assert_eq!((past.len(), &past[0].what), (REMEMBERED, &removed("10")));
        assert!(past.windows(2).all(|pair| pair[0].time <= pair[1].time));
        let teller = Teller::default();
        teller.tell(|| panic!("nobody hears it"));
        teller.tell_to(events.clone());
        teller.tell(|| removed("last"));
        assert_eq!(coming.try_recv().unwrap().what, removed("last"));
        assert!(events.since(u64::MAX).0.is_empty());
    }
}
