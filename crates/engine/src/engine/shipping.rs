//! Sends containers' logs where their drivers say, and says how it goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Engine, Slot, locked};
use crate::container::{ContainerId, Record, StartError, arguments, environment};
use crate::logs::delivery::{self, Delivery};
use crate::logs::message::{Encoder, Sender};
use crate::logs::options::{Plan, decide};
use crate::logs::subject::Subject;

fn subject(record: &Record) -> Subject {
    let mut labels = record.image.labels.clone();
    labels.extend(record.config.labels.clone());
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    Subject {
        id: record.id.to_string(),
        name: record.config.name.clone().unwrap_or_else(|| record.id.to_string()),
        image_id: record.image_digest.clone(),
        image_name: record.config.logging.image_name.as_ref().unwrap_or(&record.config.image).clone(),
        // What is wrong with either is told by the start.
        command: arguments(&record.config, &record.image).unwrap_or_default(),
        environment: environment(&record.id, &record.config, &record.image).unwrap_or_default(),
        created_at: record.created_at,
        labels,
        host: host.unwrap_or_else(|| "localhost".to_owned()),
    }
}

fn plan(record: &Record) -> Option<Plan> {
    decide(&record.config.logging)
        .inspect_err(|reason| tracing::warn!(container = %record.id, reason, "its log options make no sense any more"))
        .ok()
}

impl Engine {
    /// Begins to send a container's log, where that is wanted and not under way.
    pub(super) fn ship(&self, slot: &Slot) {
        let record = slot.record();
        let Some(plan) = plan(&record) else { return };
        let sender = Sender { pid: std::process::id(), zone: jiff::tz::TimeZone::system() };
        let Some(encoder) = Encoder::new(&plan, &subject(&record), sender) else { return };
        let Some(remote) = plan.remote else { return };
        if slot.delivery.get().is_some() {
            return;
        }
        let status = slot.delivery.get_or_init(delivery::Status::default).clone();
        let directory = self.inner.launcher.records.directory(&record.id);
        let delivery = Delivery {
            id: record.id.to_string(),
            logs: directory.join("logs"),
            directory,
            remote,
            encoder,
            writing: slot.writing.subscribe(),
            names: Arc::clone(&slot.log_names),
            status,
            counters: self.inner.metrics.logs.clone(),
        };
        tokio::spawn(delivery.run());
    }

    /// Asks whether whoever takes a container's log is there, if its driver wants to know that before a start. A start does not
    /// ask: a container that is started by its policy or by the cluster does not depend on where its log goes.
    ///
    /// # Errors
    /// When nobody is there, or there is no such container.
    pub async fn reach_log_endpoint(&self, id: &ContainerId) -> Result<(), StartError> {
        let slot = self.slot(id).ok_or_else(|| StartError::Missing { id: id.clone() })?;
        match plan(&slot.record()).and_then(|plan| plan.remote) {
            Some(remote) if remote.must_answer => {
                delivery::reach(&remote).await.map_err(|source| StartError::Logging { source })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What is told with each line of a container's log: the labels and variables that its options name, and its tag.
    #[must_use]
    pub fn log_details(&self, id: &ContainerId) -> BTreeMap<String, String> {
        let Some(slot) = self.slot(id) else { return BTreeMap::new() };
        let record = slot.record();
        let Some(plan) = plan(&record) else { return BTreeMap::new() };
        let subject = subject(&record);
        let mut details = plan.attributes.of(&subject, str::to_owned);
        details.extend(plan.tag.map(|tag| ("tag".to_owned(), tag.of(&subject))));
        details
    }

    /// What is wrong with logs that are sent.
    pub(super) fn log_troubles(&self) -> Vec<String> {
        let slots: Vec<Arc<Slot>> = locked(&self.inner.containers).values().cloned().collect();
        let all = slots.iter().flat_map(|slot| {
            let record = slot.record();
            let name = record.config.name.clone().unwrap_or_else(|| record.id.to_string());
            slot.log_troubles().into_iter().map(move |trouble| format!("container {name}: {trouble}"))
        });
        all.collect()
    }
}

impl Slot {
    /// What is wrong with how its log is sent.
    pub(super) fn log_troubles(&self) -> Vec<String> {
        self.delivery.get().map(delivery::Status::troubles).unwrap_or_default()
    }
}
