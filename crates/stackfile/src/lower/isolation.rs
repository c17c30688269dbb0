//! Pure. What separates a container from its host and from other containers.

use stack_model::spec::{
    AppArmorProfile, NamespaceMode, NetworkMode, SeccompProfile, SelinuxOptions, UserNamespaceMode,
};

use super::Context;
use super::read::Fields;
use super::service::not_allowed;
use crate::code::Code;
use crate::diagnostic::{Journal, Problem};

/// The capabilities of Linux (`capabilities(7)`), without their prefix.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

pub(super) fn capabilities(fields: &Fields<'_>, key: &str, journal: &mut Journal) -> Vec<String> {
    let list = fields.path.key(key);
    let mut names = Vec::new();
    for (index, node) in fields.items(key).iter().enumerate() {
        let upper = node.as_text().unwrap_or_default().to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" || CAPABILITIES.contains(&name) {
            names.push(name.to_owned());
            continue;
        }
        let problem = Problem::new(
            Code::NotAllowed,
            node.place,
            &list.index(index),
            format!("{} is not a capability", node.quoted()),
        );
        let meant = crate::diagnostic::did_you_mean(name, CAPABILITIES).filter(|_| !node.interpolated);
        journal.push(match meant {
            Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
            None => problem.hint("write `ALL` or the name of a capability, such as `NET_ADMIN`"),
        });
    }
    names
}

/// What `security_opt` says.
pub(super) struct Security {
    pub no_new_privileges: bool,
    pub seccomp: SeccompProfile,
    pub apparmor: AppArmorProfile,
    pub selinux: SelinuxOptions,
    pub system_paths_unconfined: bool,
}

pub(super) fn security(fields: &Fields<'_>, context: &Context<'_>, journal: &mut Journal) -> Security {
    let mut security = Security {
        no_new_privileges: false,
        seccomp: SeccompProfile::Default,
        apparmor: AppArmorProfile::Default,
        selinux: SelinuxOptions::default(),
        system_paths_unconfined: false,
    };
    let list = fields.path.key("security_opt");
    for (index, node) in fields.items("security_opt").iter().enumerate() {
        let path = list.index(index);
        let text = node.as_text().unwrap_or_default();
        let (key, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
        match (key, value) {
            ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
            ("no-new-privileges", "false") => security.no_new_privileges = false,
            ("seccomp", "unconfined") => security.seccomp = SeccompProfile::Unconfined,
            ("seccomp", "builtin" | "default") => security.seccomp = SeccompProfile::Default,
            ("seccomp", profile) if !profile.is_empty() => match (context.read_file)(profile) {
                Ok(text) if serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|json| json.is_object()) => {
                    security.seccomp = SeccompProfile::Custom(text);
                }
                Ok(_) => journal.push(
                    Problem::new(
                        Code::BadValue,
                        node.place,
                        &path,
                        format!("the seccomp profile of {} is not a JSON object", node.quoted()),
                    )
                    .hint("a profile has the form of Docker's: `{\"defaultAction\": …, \"syscalls\": […]}`"),
                ),
                Err(reason) => journal.push(
                    Problem::new(
                        Code::Unreadable,
                        node.place,
                        &path,
                        format!("the seccomp profile of {} cannot be read: {reason}", node.quoted()),
                    )
                    .hint("the path is relative to the stack file's directory; `seccomp=unconfined` means none"),
                ),
            },
            ("systempaths", "unconfined") => security.system_paths_unconfined = true,
            ("apparmor", "unconfined") => security.apparmor = AppArmorProfile::Unconfined,
            ("apparmor", name) if !name.is_empty() && !name.contains(char::is_control) => {
                security.apparmor = AppArmorProfile::Named(name.to_owned());
            }
            ("label", option) if add_label_option(&mut security.selinux, option) => {}
            ("label", _) => journal.push(
                Problem::new(
                    Code::NotAllowed,
                    node.place,
                    &path,
                    format!("{} is not an option of a label", node.quoted()),
                )
                .hint(
                    "write `label=disable`, or `label=` with `user:`, `role:`, `type:`, `level:` or `filetype:` and a value, such as `label=type:container_init_t`",
                ),
            ),
            ("systempaths" | "writable-cgroups" | "credentialspec", _) => journal.push(
                Problem::new(
                    Code::Refused,
                    node.place,
                    &path,
                    format!("the security option {} is refused: hosts apply no such setting", node.quoted()),
                )
                .hint("remove it; seccomp, capabilities, AppArmor and masked paths protect the host"),
            ),
            _ => journal.push(
                Problem::new(
                    Code::NotAllowed,
                    node.place,
                    &path,
                    format!("{} is not a security option", node.quoted()),
                )
                .hint(
                    "known are `no-new-privileges`, `seccomp=unconfined`, `seccomp=FILE`, `apparmor=unconfined`, `apparmor=NAME`, `label=OPTION` and `systempaths=unconfined`",
                ),
            ),
        }
    }
    security
}

/// Adds what follows `label=`. Whether there is such an option, and its value can be in a label.
fn add_label_option(options: &mut SelinuxOptions, text: &str) -> bool {
    if text == "disable" {
        options.disabled = true;
        return true;
    }
    let Some((key, value)) = text.split_once(':') else { return false };
    let place = match key {
        "user" => &mut options.user,
        "role" => &mut options.role,
        "type" => &mut options.kind,
        "level" => &mut options.level,
        "filetype" => &mut options.file_kind,
        _ => return false,
    };
    let allowed = if key == "level" { "_.-:," } else { "_.-" };
    let fits = !value.is_empty() && value.chars().all(|one| one.is_ascii_alphanumeric() || allowed.contains(one));
    if fits {
        *place = Some(value.to_owned());
    }
    fits
}

pub(super) fn network_mode(fields: &Fields<'_>, journal: &mut Journal) -> NetworkMode {
    let Some(node) = fields.node("network_mode") else { return NetworkMode::Networks };
    let path = fields.path.key("network_mode");
    match node.as_text().unwrap_or_default() {
        "host" => NetworkMode::Host,
        "none" => NetworkMode::None,
        "bridge" | "default" | "" => NetworkMode::Networks,
        text if text.starts_with("service:") || text.starts_with("container:") => {
            journal.push(
                Problem::new(
                    Code::Refused,
                    node.place,
                    &path,
                    format!(
                        "`network_mode: {}` is refused: the two containers would have to be on the same host",
                        node.quoted().trim_matches('`')
                    ),
                )
                .hint("put both services on one network and use the name of the other service"),
            );
            NetworkMode::Networks
        }
        _ => {
            not_allowed(node, &path, &["host", "none", "bridge"], journal);
            NetworkMode::Networks
        }
    }
}

pub(super) fn namespace(fields: &Fields<'_>, key: &str, journal: &mut Journal) -> NamespaceMode {
    let Some(node) = fields.node(key) else { return NamespaceMode::Private };
    let path = fields.path.key(key);
    match node.as_text().unwrap_or_default() {
        "host" => NamespaceMode::Host,
        "private" | "" => NamespaceMode::Private,
        text if text.starts_with("service:") || text.starts_with("container:") || text == "shareable" => {
            journal.push(
                Problem::new(
                    Code::Refused,
                    node.place,
                    &path,
                    format!(
                        "`{key}: {}` is refused: the two containers would have to be on the same host",
                        node.quoted().trim_matches('`')
                    ),
                )
                .hint("run both programs in one container, or let them talk over the network"),
            );
            NamespaceMode::Private
        }
        _ => {
            not_allowed(node, &path, &["host", "private"], journal);
            NamespaceMode::Private
        }
    }
}

/// Whether it has the host's name; then it can have none of its own.
pub(super) fn uts_mode(fields: &Fields<'_>, journal: &mut Journal) -> NamespaceMode {
    let mode = namespace(fields, "uts", journal);
    for key in ["hostname", "domainname"] {
        if mode == NamespaceMode::Host && fields.node(key).is_some() {
            journal.push(
                Problem::new(
                    Code::Conflict,
                    fields.key_place("uts"),
                    &fields.path.key("uts"),
                    format!("`uts: host` cannot be used together with `{key}`"),
                )
                .hint("remove one of the two: with `uts: host` it has the name of its host"),
            );
        }
    }
    mode
}

/// The runtime; `None` is the hosts' own, also by the names that other engines have for the usual one.
pub(super) fn runtime(fields: &Fields<'_>, journal: &mut Journal) -> Option<String> {
    let usual = ["runc", "io.containerd.runc.v2", "stack", ""];
    fields.text("runtime", journal).filter(|name| !usual.contains(&name.as_str()))
}

/// Whose users its users are.
pub(super) fn user_namespace(fields: &Fields<'_>, journal: &mut Journal) -> UserNamespaceMode {
    let Some(node) = fields.node("userns_mode") else { return UserNamespaceMode::Default };
    match node.as_text().unwrap_or_default() {
        "" => UserNamespaceMode::Default,
        "host" => UserNamespaceMode::Host,
        "private" => {
            for (key, value) in [("privileged", "true"), ("network_mode", "host"), ("pid", "host")] {
                if fields.node(key).is_some_and(|node| node.quoted().trim_matches('`') == value) {
                    let problem = format!("`userns_mode: private` cannot be used together with `{key}: {value}`");
                    journal.push(
                        Problem::new(Code::Conflict, fields.key_place(key), &fields.path.key(key), problem).hint(
                            "remove one of the two: root of a user namespace has no rights over what is the host's",
                        ),
                    );
                }
            }
            UserNamespaceMode::Private
        }
        _ => {
            not_allowed(node, &fields.path.key("userns_mode"), &["host", "private"], journal);
            UserNamespaceMode::Default
        }
    }
}

/// Keys of which only the value that every container has is taken.
pub(super) fn fixed(fields: &Fields<'_>, journal: &mut Journal) {
    for (key, fine, reason) in [("isolation", &["default", ""][..], "other isolation is for Windows containers")] {
        let Some(node) = fields.node(key) else { continue };
        if fine.contains(&node.as_text().unwrap_or_default()) {
            continue;
        }
        let written = node.quoted();
        let written = written.trim_matches('`');
        let problem = format!("`{key}: {written}` is refused: {reason}");
        let fine = fine.first().copied().unwrap_or_default();
        journal.push(
            Problem::new(Code::Refused, node.place, &fields.path.key(key), problem)
                .hint(format!("remove it, or write `{key}: {fine}`, which every container has")),
        );
    }
}
