//! Pure. Whose users those of a container are: the host's, or those of a user namespace.

use stack_shim::launch::{IdRange, Mount, MountSource};

use super::config::{ContainerConfig, NamespaceMode, NetworkMode, UserNamespaceMode};
use super::spec::SpecError;

/// How many ids a user namespace has at least: images have users up to 65534, who is nobody.
pub const FEWEST_IDS: u32 = 65_536;
/// The first id that may be root of a container: lower ones are users of the host.
pub const LOWEST_ID: u32 = 65_536;

/// The user namespaces of a host's containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserNamespaces {
    /// A container that does not say which it wants has one.
    pub by_default: bool,
    /// The ids of the host that are the users and groups of every such container.
    pub ids: IdRange,
}

impl Default for UserNamespaces {
    fn default() -> Self {
        Self { by_default: false, ids: IdRange { first: 1_000_000, count: FEWEST_IDS } }
    }
}

/// Whether a container that joins nothing of others has a user namespace.
#[must_use]
pub(crate) fn is_wanted(config: &ContainerConfig, settings: UserNamespaces) -> bool {
    match config.user_namespace {
        UserNamespaceMode::Default => settings.by_default,
        UserNamespaceMode::Private => true,
        UserNamespaceMode::Host => false,
    }
}

/// Whether a container joins namespaces of others, whose user namespace it then shares.
#[must_use]
pub(crate) fn joins_others(config: &ContainerConfig) -> bool {
    matches!(config.network_mode, NetworkMode::Container(_))
        || [&config.pid_mode, &config.ipc_mode].into_iter().any(|mode| matches!(mode, NamespaceMode::Container(_)))
}

/// What a container cannot have beside a user namespace. Docker's words where it has some.
///
/// # Errors
/// The first such thing.
pub(crate) fn check(config: &ContainerConfig) -> Result<(), SpecError> {
    let refuse = |reason| Err(SpecError::UserNamespace { reason });
    if config.privileged {
        return refuse(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when \
             running privileged mode",
        );
    }
    if config.network_mode == NetworkMode::Host {
        return refuse("cannot share the host's network namespace when user namespaces are enabled");
    }
    if config.pid_mode == NamespaceMode::Host {
        return refuse("cannot share the host PID namespace when user namespaces are enabled");
    }
    let is_shared = |mount: &super::config::ContainerMount| {
        matches!(&mount.source, super::config::ContainerMountSource::Bind { propagation: Some(propagation), .. }
            if matches!(propagation.as_str(), "shared" | "rshared"))
    };
    if config.mounts.iter().any(is_shared) {
        return refuse(
            "cannot share mounts with the host (propagation `shared`) when user namespaces are enabled: use `rslave`, or \
             run the container in the host namespace",
        );
    }
    Ok(())
}

/// Owners that options of file systems name, as those of the host.
///
/// # Errors
/// When the user namespace does not have one.
pub(super) fn map_options(mounts: &mut [Mount], ids: IdRange) -> Result<(), SpecError> {
    for mount in mounts {
        let MountSource::Filesystem { options, .. } = &mut mount.source else { continue };
        for (key, value) in options {
            let Some(text) = value.as_mut().filter(|_| matches!(key.as_str(), "uid" | "gid")) else { continue };
            let on_host = text.parse().ok().and_then(|id| ids.on_host(id));
            *text = on_host
                .ok_or_else(|| SpecError::UnknownId { target: mount.target.clone(), option: format!("{key}={text}") })?
                .to_string();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: UserNamespaces =
        UserNamespaces { by_default: true, ids: IdRange { first: 200_000, count: FEWEST_IDS } };

    #[test]
    fn a_container_has_one_by_default_or_by_its_own_wish() {
        let off = UserNamespaces { by_default: false, ..SETTINGS };
        let wants = |mode, settings| {
            is_wanted(&ContainerConfig { user_namespace: mode, ..ContainerConfig::default() }, settings)
        };
        assert!(wants(UserNamespaceMode::Default, SETTINGS) && !wants(UserNamespaceMode::Default, off));
        assert!(wants(UserNamespaceMode::Private, SETTINGS) && wants(UserNamespaceMode::Private, off));
        assert!(!wants(UserNamespaceMode::Host, SETTINGS));
    }

    #[test]
    fn what_excludes_it_is_said_as_docker_says_it() {
        let said = |config: ContainerConfig| check(&config).unwrap_err().to_string();
        let plain = ContainerConfig::default;
        assert_eq!(check(&plain()), Ok(()));
        assert!(said(ContainerConfig { privileged: true, ..plain() }).starts_with("privileged mode is incompatible"));
        let network = ContainerConfig { network_mode: NetworkMode::Host, ..plain() };
        assert_eq!(said(network), "cannot share the host's network namespace when user namespaces are enabled");
        let processes = ContainerConfig { pid_mode: NamespaceMode::Host, ..plain() };
        assert_eq!(said(processes), "cannot share the host PID namespace when user namespaces are enabled");
    }

    #[test]
    fn ids_are_mapped_both_ways_and_no_further() {
        let ids = SETTINGS.ids;
        assert_eq!((ids.on_host(0), ids.on_host(65_535), ids.on_host(65_536)), (Some(200_000), Some(265_535), None));
        assert_eq!((ids.in_container(200_033), ids.in_container(0), ids.in_container(265_536)), (Some(33), None, None));
        assert_eq!(IdRange { first: u32::MAX, count: 2 }.on_host(1), None);
    }
}
