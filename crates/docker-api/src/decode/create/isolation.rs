//! Pure. What separates a container from its host and from other containers.

use bollard_stubs::models::{HostConfig, HostConfigCgroupnsModeEnum, HostConfigIsolationEnum};
use stack_engine::container::{
    AppArmorChoice, ContainerConfig, ContainerId, NamespaceMode, SeccompChoice, UserNamespaceMode,
};

use super::{Creation, CreationError, World, invalid};
use crate::error::ApiError;
use crate::select;

/// The runtime's own name, and those that clients name without meaning another one, unless the daemon is told of one that
/// is called so.
const RUNTIMES: [&str; 4] = ["", "stack", "runc", "io.containerd.runc.v2"];

/// The id of the container that a mode `container:NAME` means.
pub(super) fn other(world: &World, name: &str) -> Result<ContainerId, ApiError> {
    select::container(world.containers.clone(), name).map(|container| container.id)
}

/// Applies it.
pub(super) fn apply(creation: &mut Creation, host: &HostConfig, world: &World) -> Result<(), ApiError> {
    let config = &mut creation.config;
    config.cap_add = host.cap_add.clone().unwrap_or_default();
    config.cap_drop = host.cap_drop.clone().unwrap_or_default();
    config.privileged = host.privileged.unwrap_or(false);
    config.read_only = host.readonly_rootfs.unwrap_or(false);
    config.group_add = host.group_add.clone().unwrap_or_default();
    config.sysctls = host.sysctls.clone().unwrap_or_default().into_iter().collect();
    config.masked_paths = host.masked_paths.clone();
    config.read_only_paths = host.readonly_paths.clone();
    namespaces(config, host, world)?;
    for option in host.security_opt.iter().flatten() {
        security_option(config, option)?;
    }
    match host.isolation.unwrap_or(HostConfigIsolationEnum::EMPTY) {
        HostConfigIsolationEnum::EMPTY | HostConfigIsolationEnum::DEFAULT => {}
        wrong @ (HostConfigIsolationEnum::PROCESS | HostConfigIsolationEnum::HYPERV) => {
            return Err(invalid("HostConfig.Isolation", wrong.to_string(), "expected `default` on Linux").into());
        }
    }
    let runtime = host.runtime.as_deref().unwrap_or_default();
    if world.runtimes.contains(runtime) {
        config.runtime = Some(runtime.to_owned());
    } else if !RUNTIMES.contains(&runtime) {
        return Err(CreationError::Runtime(runtime.chars().take(200).collect()).into());
    }
    Ok(())
}

fn namespaces(config: &mut ContainerConfig, host: &HostConfig, world: &World) -> Result<(), ApiError> {
    let shared = |field: &'static str, mode: &Option<String>| -> Result<NamespaceMode, ApiError> {
        match mode.as_deref().unwrap_or_default() {
            "" | "private" | "shareable" => Ok(NamespaceMode::Private),
            "host" => Ok(NamespaceMode::Host),
            mode => match mode.strip_prefix("container:") {
                Some(name) => Ok(NamespaceMode::Container(other(world, name)?)),
                None => Err(invalid(field, mode, "expected `host` or `container:NAME`").into()),
            },
        }
    };
    config.without_shm = host.ipc_mode.as_deref() == Some("none");
    if !config.without_shm {
        config.ipc_mode = shared("IPC mode", &host.ipc_mode)?;
    }
    config.pid_mode = match host.pid_mode.as_deref() {
        Some(mode @ ("private" | "shareable")) => {
            return Err(invalid("PID mode", mode, "expected `host` or `container:NAME`").into());
        }
        _ => shared("PID mode", &host.pid_mode)?,
    };
    config.uts_mode = match host.uts_mode.as_deref().unwrap_or_default() {
        "" => NamespaceMode::Private,
        "host" if config.hostname.is_some() => {
            return Err(CreationError::Conflict { one: "hostname", other: "the UTS mode" }.into());
        }
        "host" => NamespaceMode::Host,
        mode => return Err(invalid("UTS mode", mode, "expected `host`").into()),
    };
    config.cgroup_mode = match host.cgroupns_mode.unwrap_or(HostConfigCgroupnsModeEnum::EMPTY) {
        HostConfigCgroupnsModeEnum::EMPTY | HostConfigCgroupnsModeEnum::PRIVATE => NamespaceMode::Private,
        HostConfigCgroupnsModeEnum::HOST => NamespaceMode::Host,
    };
    config.user_namespace = match host.userns_mode.as_deref().unwrap_or_default() {
        "" => UserNamespaceMode::Default,
        "host" => UserNamespaceMode::Host,
        // Docker has the daemon's choice and the host's. That a container may ask for one of its own is ours.
        "private" => UserNamespaceMode::Private,
        mode => return Err(invalid("user namespace mode", mode, "expected `host` or `private`").into()),
    };
    let groups = host.cgroup.as_deref().unwrap_or_default();
    if !groups.is_empty() {
        return Err(CreationError::NotSupported { field: format!("HostConfig.Cgroup `{groups}`") }.into());
    }
    Ok(())
}

/// One of `--security-opt`, by `=` or, in old clients, `:`.
fn security_option(config: &mut ContainerConfig, option: &str) -> Result<(), CreationError> {
    if option == "no-new-privileges" {
        config.no_new_privileges = true;
        return Ok(());
    }
    let parts = option.split_once('=').or_else(|| option.split_once(':'));
    let Some((name, value)) = parts else {
        return Err(invalid("--security-opt", option, "expected NAME=VALUE"));
    };
    match (name, value) {
        ("no-new-privileges", "true") => config.no_new_privileges = true,
        ("no-new-privileges", "false") => config.no_new_privileges = false,
        ("seccomp", "unconfined") => config.seccomp = SeccompChoice::Unconfined,
        ("seccomp", "builtin") => config.seccomp = SeccompChoice::Default,
        ("seccomp", profile) if profile.trim_start().starts_with('{') => {
            config.seccomp = SeccompChoice::Custom(profile.to_owned());
        }
        ("seccomp", _) => {
            return Err(invalid("seccomp profile", value, "expected the profile's JSON, `unconfined` or `builtin`"));
        }
        ("systempaths", "unconfined") => {
            config.masked_paths = Some(Vec::new());
            config.read_only_paths = Some(Vec::new());
        }
        ("apparmor", "unconfined") => config.apparmor = AppArmorChoice::Unconfined,
        ("apparmor", profile) => config.apparmor = AppArmorChoice::Profile(profile.to_owned()),
        ("label", text) => config.selinux.add(text).map_err(CreationError::Label)?,
        _ => return Err(invalid("--security-opt", option, "there is no such option")),
    }
    Ok(())
}
