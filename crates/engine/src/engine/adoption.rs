//! What an engine finds when it is opened: the truth about every container that an engine before it made.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use stack_shim::protocol::{Request, Response, State};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Engine, RemoveOptions, Slot, locked, now, report};
use crate::cgroup;
use crate::container::{
    ContainerId, ContainerState, OpenError, Record, RecordedState, Resources, Shim, is_absent, is_own_want,
    name_client, text_of,
};
use crate::overlay::OverlayContainer;

/// The pause before a shim that could not be asked is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What is known of a shim.
#[derive(Debug)]
enum Found {
    Running {
        shim: Shim,
        pid: i32,
        /// Nanoseconds since the Unix epoch.
        started_at: u64,
    },
    /// There is none, or one whose program was never started, of a start that was cut short.
    Ended,
    /// It is there and says nothing.
    Silent,
}

impl Engine {
    /// Ends containers whose records are damaged: nobody knows what they are, which addresses and ports they hold, or who
    /// wants them. What there is of them is set aside. Answers what whoever runs the host should know.
    pub(super) async fn end_damaged(&self, damaged: Vec<(ContainerId, String)>) -> Vec<String> {
        let mut warnings = Vec::new();
        for (id, problem) in damaged {
            crate::container::kill_shims_of("run", &self.inner.launcher.run_directory(&id));
            let groups =
                cgroup::plan(&self.inner.launcher.hierarchies, id.as_str(), &Resources::default(), &[]).cgroups;
            let failures = self.inner.launcher.clear(&id, &groups).await;
            report(&id, &failures);
            let outcome = match self.inner.launcher.records.set_aside(&id, now()) {
                Ok(place) => format!("its directory is kept as {}, remove it when it is of no use", place.display()),
                Err(error) => text_of(&error),
            };
            let warning = format!("{problem}: container {id} was ended, as nothing is known of it; {outcome}");
            tracing::error!("{warning}");
            warnings.push(warning);
        }
        warnings
    }

    /// Clears away containers that were being made: nobody was told of them.
    pub(super) async fn clear_unfinished(&self, unfinished: Vec<ContainerId>) {
        for id in unfinished {
            let mut failures = Vec::new();
            failures.extend(self.inner.roots.remove(id.as_str()).await.err().map(|error| text_of(&error)));
            // Its directory last, which leads to the rest.
            if failures.is_empty() {
                failures.extend(self.inner.launcher.records.remove(&id).err().map(|error| text_of(&error)));
            }
            report(&id, &failures);
        }
    }

    /// Finds the truth about every recorded container. Each shim has `patience` to answer; one that does not cannot be
    /// worked with, so its container is ended, which says so.
    ///
    /// # Errors
    /// When this process has no means to ask a shim, files to open perhaps: that says nothing about the container, which
    /// goes on.
    pub(super) async fn adopt(&self, known: Vec<Record>, patience: Duration) -> Result<(), OpenError> {
        let deadline = Instant::now() + patience;
        let questions = known.into_iter().map(|record| async move {
            let found = match &record.state {
                RecordedState::Started => find(&self.inner.launcher.run_directory(&record.id), deadline)
                    .await
                    .map_err(|source| OpenError::Shim { id: record.id.clone(), source })?,
                RecordedState::Created | RecordedState::Exited(_) | RecordedState::Removing => Found::Ended,
            };
            Ok::<_, OpenError>((record, found))
        });
        let (mut live, mut ended, mut silent) = (Vec::new(), Vec::new(), BTreeSet::<ContainerId>::new());
        for answer in join_all(questions).await {
            match answer? {
                (record, Found::Running { shim, pid, started_at }) => live.push((record, shim, pid, started_at)),
                (record, Found::Ended) => ended.push(record),
                (record, Found::Silent) => {
                    tracing::error!(
                        container = %record.id,
                        seconds = patience.as_secs(),
                        "its shim is there and does not answer: the container is ended, as nothing can be done with it"
                    );
                    crate::container::kill_shims_of("run", &self.inner.launcher.run_directory(&record.id));
                    silent.insert(record.id.clone());
                    ended.push(record);
                }
            }
        }
        let ids: Vec<String> = live.iter().map(|(record, ..)| record.id.to_string()).collect();
        if let Err(error) = self.inner.launcher.networks.adopt(&ids).await {
            tracing::warn!(error = text_of(&error), "not everything about the networks could be adopted");
        }
        let on_overlays = live.iter().filter_map(|(record, _, pid, _)| {
            let mut endpoints = record.config.overlays.clone();
            endpoints.extend(self.networks().attachment(record.id.as_str()).unwrap_or_default().between);
            if endpoints.is_empty() {
                return None;
            }
            let netns = std::fs::File::open(format!("/proc/{pid}/ns/net")).ok()?;
            Some(OverlayContainer { id: record.id.to_string(), netns, endpoints })
        });
        self.inner.launcher.overlay.adopt(on_overlays.collect());
        for (record, ..) in &live {
            for volume in crate::container::volumes(&record.id, &record.config, &record.image) {
                if let Err(error) = self.volumes().mount(&volume.name, record.id.as_str()) {
                    tracing::warn!(container = %record.id, error = text_of(&error), "a volume is not there");
                }
            }
        }
        for failure in self.volumes().sweep() {
            tracing::warn!(failure, "a volume is still mounted");
        }
        for (record, shim, pid, _) in &mut live {
            let Some(client) = name_client(&record.config) else { continue };
            let served = match std::fs::File::open(format!("/proc/{pid}/ns/net")) {
                Ok(netns) => self.inner.launcher.resume_names(&record.id, &netns, client, shim).await.err(),
                Err(_ended) => None,
            };
            if let Some(error) = served {
                tracing::warn!(
                    container = %record.id,
                    error = text_of(&error),
                    "the container has no name server"
                );
            }
        }
        for (record, _, pid, _) in &live {
            let failures = self.settle(record, *pid).await;
            report(&record.id, &failures);
        }
        for (record, shim, pid, started_at) in live {
            let state = ContainerState::Running { pid, started_at: started_at / 1_000_000 };
            tracing::info!(container = %record.id, pid, "adopted");
            self.complete_change(&record).await;
            let is_paused = cgroup::is_frozen(&record.cgroups);
            let slot = Arc::new(Slot::new(record, state));
            locked(&slot.data).paused = is_paused;
            let id = slot.record().id.clone();
            locked(&self.inner.containers).insert(id.clone(), Arc::clone(&slot));
            self.ship(&slot);
            self.supervise(slot, shim, None, pid, started_at);
            self.adopt_execs(&id).await;
        }
        let mut settled = Vec::new();
        for mut record in ended {
            let removing = record.state == RecordedState::Removing;
            let volumes = !record.keeps_volumes;
            let before = record.state.clone();
            if record.state == RecordedState::Started {
                let status = match self.inner.launcher.records.exit(&record.id, record.starts) {
                    Some(exit) => crate::container::exit_status(&exit),
                    None if silent.contains(&record.id) => Record::silent_end(now(), patience),
                    None => Record::unknown_end(now()),
                };
                record.state = RecordedState::Exited(status);
            }
            let failures = self.inner.launcher.clear(&record.id, &record.cgroups).await;
            report(&record.id, &failures);
            if record.state != before
                && let Err(error) = self.inner.launcher.records.save(&record)
            {
                tracing::warn!(container = %record.id, error = text_of(&error), "could not record the end");
            }
            let state = match &record.state {
                RecordedState::Exited(status) => ContainerState::Exited(status.clone()),
                RecordedState::Removing => ContainerState::Removing,
                RecordedState::Created | RecordedState::Started => ContainerState::Created,
            };
            let id = record.id.clone();
            let ended = matches!(state, ContainerState::Exited(_));
            let slot = Arc::new(Slot::new(record, state));
            locked(&self.inner.containers).insert(id.clone(), Arc::clone(&slot));
            if ended {
                // What it wrote last may not have been sent.
                self.ship(&slot);
                self.remove_if_asked(&slot);
                settled.push((Arc::clone(&slot), before));
            }
            if removing && let Err(error) = self.remove(&id, RemoveOptions { force: true, volumes }).await {
                tracing::warn!(container = %id, error = text_of(&error), "a removal could not be completed");
            }
        }
        self.start_with_daemon(&settled);
        Ok(())
    }
}

impl Engine {
    /// What a crash may have cut short for a container that runs: its limits are those of its record, and it is not held still
    /// for an image that nobody makes any more.
    async fn complete_change(&self, record: &Record) {
        let (launcher, record) = (self.inner.launcher.clone(), record.clone());
        let work = move || {
            let id = &record.id;
            if let Err(error) = launcher.limit(&record, &record.config.resources) {
                let error = text_of(&error);
                tracing::warn!(container = %id, error, "the limits of its record are not in force");
            }
            let held = launcher.held_file(id);
            if held.exists() {
                match cgroup::freeze(&record.cgroups, false).and_then(|()| std::fs::remove_file(&held)) {
                    Ok(()) => tracing::info!(container = %id, "goes on: it was held still for an image"),
                    Err(error) => {
                        tracing::warn!(container = %id, %error, "it is held still for an image that nobody makes")
                    }
                }
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(work).await {
            tracing::warn!(%error, "what a crash cut short could not be completed");
        }
    }
}

/// Asks the shim of a run directory until it answers or the deadline has passed. Only a socket that is not there or that
/// nobody listens to says that there is no shim.
async fn find(run: &Path, deadline: Instant) -> io::Result<Found> {
    loop {
        let failure = match timeout_at(deadline, ask(run)).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => error,
            Err(_elapsed) => return Ok(Found::Silent),
        };
        if Instant::now() + ASK_AGAIN >= deadline {
            // What this side lacks says nothing about the shim; whatever else comes in place of an answer is none.
            return if is_own_want(&failure) { Err(failure) } else { Ok(Found::Silent) };
        }
        tracing::warn!(run = %run.display(), error = %failure, "could not ask a shim; trying again");
        sleep(ASK_AGAIN).await;
    }
}

async fn ask(run: &Path) -> io::Result<Found> {
    let mut shim = match Shim::connect(run).await {
        Ok(shim) => shim,
        Err(error) if is_absent(&error) => return Ok(Found::Ended),
        Err(error) => return Err(error),
    };
    match shim.ask(&Request::Describe).await? {
        Some(Response::State(State::Running { pid, started_at })) => Ok(Found::Running { shim, pid, started_at }),
        // It ended as it was asked, so there is none, or it will be found so.
        None => Err(io::ErrorKind::ConnectionReset.into()),
        Some(_) => Ok(Found::Ended),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixListener;

    use stack_shim::launch::SOCKET_FILE;

    use super::*;

    async fn found(run: &Path) -> Found {
        find(run, Instant::now() + Duration::from_millis(500)).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_shim_is_gone_only_where_nobody_listens() {
        let place = tempfile::tempdir().unwrap();
        assert!(matches!(found(place.path()).await, Found::Ended), "no socket");
        let listener = UnixListener::bind(place.path().join(SOCKET_FILE)).unwrap();
        assert!(matches!(found(place.path()).await, Found::Silent), "nobody takes the connection");
        // What is no answer is none.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.and_then(|mut stream| stream.write_all(b"\0\0\0\x07garbage"));
            }
        });
        assert!(matches!(found(place.path()).await, Found::Silent), "garbage");
        let place = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(place.path().join(SOCKET_FILE)).unwrap());
        assert!(matches!(found(place.path()).await, Found::Ended), "a socket that nobody has open");
    }
}
