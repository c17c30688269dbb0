//! What containers share with others: their streams with whoever is attached, their namespaces with other containers.

use stack_shim::protocol::{Request, Response};

use stack_shim::launch::{Joined, Peer, Users};

use super::Engine;
use crate::container::{
    Attach, AttachError, Attachment, ContainerId, ContainerState, DescribeError, EventKind, NamespaceMode, NetworkMode,
    Record, Shim, StartError, TerminalSize, attach, is_absent, started,
};

impl Engine {
    /// Attaches to a container's streams from now on. One that does not run is attached to when it starts, before its
    /// first word. The container never waits long for a reader, and does not notice when it goes.
    ///
    /// # Errors
    /// When there is no such container, or its shim cannot be reached.
    pub async fn attach(&self, id: &ContainerId, wanted: Attach) -> Result<Attachment, AttachError> {
        let slot = self.slot(id).ok_or_else(|| AttachError::Missing { id: id.clone() })?;
        let running = matches!(slot.current(), ContainerState::Running { .. });
        let attachment = if running {
            match attach(&self.inner.launcher.run_directory(id), wanted).await {
                // It has just ended.
                Err(error) if is_absent(&error) => return Err(AttachError::NotRunning { id: id.clone() }),
                result => result.map_err(|source| AttachError::Shim { id: id.clone(), source })?,
            }
        } else {
            let attachment = slot.waiting.add(wanted);
            // It may have come to run since it was looked at, when those who waited were connected already.
            if matches!(slot.current(), ContainerState::Running { .. }) {
                slot.waiting.connect(self.inner.launcher.run_directory(id)).await;
            }
            attachment
        };
        self.tell(id, EventKind::Attached);
        Ok(attachment)
    }

    /// Tells others that a client has left a container's streams by its detach keys.
    pub fn tell_detached(&self, id: &ContainerId) {
        self.tell(id, EventKind::Detached);
    }

    /// Gives a container's terminal another size.
    ///
    /// # Errors
    /// When it does not run or has no terminal.
    pub async fn resize(&self, id: &ContainerId, size: TerminalSize) -> Result<(), AttachError> {
        let slot = self.slot(id).ok_or_else(|| AttachError::Missing { id: id.clone() })?;
        let not_running = || AttachError::NotRunning { id: id.clone() };
        if !matches!(slot.current(), ContainerState::Running { .. }) {
            return Err(not_running());
        }
        let failed = |source| AttachError::Shim { id: id.clone(), source };
        let mut shim = match Shim::connect(&self.inner.launcher.run_directory(id)).await {
            Err(error) if is_absent(&error) => return Err(not_running()),
            result => result.map_err(failed)?,
        };
        match shim.ask(&Request::Resize(size)).await.map_err(failed)? {
            Some(Response::Done) => {
                self.tell(id, EventKind::Resized(size));
                Ok(())
            }
            Some(Response::BadRequest { reason }) => Err(AttachError::Refused { id: id.clone(), reason }),
            _ => Err(not_running()),
        }
    }

    /// What a start of a container would do, as an OCI runtime specification for other tools. Its volumes are made.
    ///
    /// # Errors
    /// When there is no such container, it could not be started, or such a document cannot say what it is.
    pub async fn runtime_spec(&self, id: &ContainerId) -> Result<oci_spec::runtime::Spec, DescribeError> {
        let slot = self.slot(id).ok_or_else(|| StartError::Missing { id: id.clone() })?;
        let record = slot.record();
        let (joined, users) = self.joined(&record)?;
        let launcher = self.inner.launcher.clone();
        let work = move || {
            let prepared = launcher.prepare(&record, joined, users)?;
            let filter = launcher.uncompiled_filter_of(&record)?;
            Ok(prepared.runtime_spec(filter.as_ref())?)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
            let source = std::io::Error::other(error);
            Err(StartError::Shim { id: id.clone(), what: "prepare the start", source }.into())
        })
    }

    /// The running containers whose namespaces a container joins, and its user namespace, which may be theirs.
    pub(super) fn joined(&self, record: &Record) -> Result<(Joined, Option<Users>), StartError> {
        let config = &record.config;
        let peer = |other: &ContainerId, kind: &'static str| {
            let state = self.slot(other).map(|slot| slot.current());
            let pid = match state {
                Some(ContainerState::Running { pid, .. }) => Some(pid),
                _ => None,
            };
            let found = pid.and_then(|pid| Some(Peer { pid, started: started(pid).ok()? }));
            found.ok_or_else(|| StartError::Peer { id: record.id.clone(), other: other.clone(), kind })
        };
        // Its addresses are only known, and its own, while it runs.
        for (other, _) in &config.links {
            peer(other, "network")?;
        }
        let of_mode = |mode: &NamespaceMode, kind| match mode {
            NamespaceMode::Container(other) => peer(other, kind).map(Some),
            NamespaceMode::Private | NamespaceMode::Host => Ok(None),
        };
        let joined = Joined {
            pid: of_mode(&config.pid_mode, "processes")?,
            ipc: of_mode(&config.ipc_mode, "IPC objects")?,
            network: match &config.network_mode {
                NetworkMode::Container(other) => Some(peer(other, "network")?),
                NetworkMode::Networks | NetworkMode::None | NetworkMode::Host => None,
            },
        };
        let users =
            self.users_of(record, &joined).map_err(|source| StartError::Users { id: record.id.clone(), source })?;
        Ok((joined, users))
    }
}
