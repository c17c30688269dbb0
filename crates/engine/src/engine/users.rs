//! Which user namespace a container has.

use std::fs;

use stack_shim::launch::{Joined, Peer, Users};

use super::Engine;
use crate::container::{
    ContainerConfig, ContainerId, NamespaceMode, NetworkMode, Record, SpecError, UserNamespaceMode, UserNamespaces,
    UsersError, check_users, is_user_namespace_wanted, joins_others,
};

impl Engine {
    /// The user namespaces of this host's containers.
    #[must_use]
    pub fn user_namespaces(&self) -> UserNamespaces {
        self.inner.launcher.users
    }

    /// Why this host can give containers no user namespaces, if it cannot.
    #[must_use]
    pub fn user_namespaces_refusal(&self) -> Option<&str> {
        self.inner.launcher.users_refusal.as_deref()
    }

    /// Refuses what excludes a container's user namespace. That of one that joins others is only known when it starts.
    pub(super) fn check_users(&self, config: &ContainerConfig) -> Result<(), SpecError> {
        let is_open = joins_others(config) && config.user_namespace != UserNamespaceMode::Private;
        if is_open || !is_user_namespace_wanted(config, self.user_namespaces()) {
            return Ok(());
        }
        check_users(config)
    }

    /// The user namespace of a container that starts: that of those whose namespaces it joins, or one of its own.
    pub(super) fn users_of(&self, record: &Record, joined: &Joined) -> Result<Option<Users>, UsersError> {
        let config = &record.config;
        let mut others = self.others(config, joined).into_iter();
        let users = match others.next() {
            None if is_user_namespace_wanted(config, self.user_namespaces()) => {
                Some(Users { ids: self.user_namespaces().ids, shared: None, layers: Vec::new() })
            }
            None => None,
            Some((other, peer)) => {
                if let Some((second, _)) = others.find(|(_, second)| namespace(*second) != namespace(peer)) {
                    return Err(UsersError::JoinsTwo { one: other, other: second });
                }
                let ids = self.slot(&other).and_then(|slot| slot.record().users);
                match (ids, config.user_namespace) {
                    (None, UserNamespaceMode::Private) => return Err(UsersError::JoinsHost { other }),
                    (Some(_), UserNamespaceMode::Host) => return Err(UsersError::JoinsPrivate { other }),
                    (ids, _) => ids.map(|ids| Users { ids, shared: Some(peer), layers: Vec::new() }),
                }
            }
        };
        match &self.inner.launcher.users_refusal {
            Some(reason) if users.is_some() => Err(UsersError::Unsupported { reason: reason.clone() }),
            Some(_) | None => Ok(users),
        }
    }

    /// The containers whose namespaces a container joins.
    fn others(&self, config: &ContainerConfig, joined: &Joined) -> Vec<(ContainerId, Peer)> {
        let of_mode = |mode: &NamespaceMode| match mode {
            NamespaceMode::Container(other) => Some(other.clone()),
            NamespaceMode::Private | NamespaceMode::Host => None,
        };
        let network = match &config.network_mode {
            NetworkMode::Container(other) => Some(other.clone()),
            NetworkMode::Networks | NetworkMode::None | NetworkMode::Host => None,
        };
        let all = [
            (network, joined.network),
            (of_mode(&config.pid_mode), joined.pid),
            (of_mode(&config.ipc_mode), joined.ipc),
        ];
        all.into_iter().filter_map(|(other, peer)| Some((other?, peer?))).collect()
    }
}

/// Which user namespace a process is in, as the kernel names it.
fn namespace(process: Peer) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{}/ns/user", process.pid)).ok()
}
