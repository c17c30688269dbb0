//! Pure. Capabilities by name (capabilities(7), linux/capability.h) and the sets that containers get.

/// By number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What Docker gives a container that asks for nothing.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities, bit N for number N.
pub type Set = u64;

/// All that are known here.
pub const ALL: Set = (1 << NAMES.len()) - 1;

/// The bit of a capability, with or without `CAP_`, in any case; `None` when there is no such.
#[must_use]
pub fn bit(name: &str) -> Option<Set> {
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == plain).map(|number| 1 << number)
}

/// The set that remains after additions and removals, which Docker applies in this order: `ALL` first, then names.
///
/// # Errors
/// The name that is no capability.
pub fn resolve(add: &[String], drop: &[String], privileged: bool) -> Result<Set, String> {
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL");
    let bits = |names: &[String]| -> Result<Set, String> {
        names
            .iter()
            .filter(|name| !is_all(name))
            .try_fold(0, |set, name| Ok(set | bit(name).ok_or_else(|| name.clone())?))
    };
    let (added, dropped) = (bits(add)?, bits(drop)?);
    if privileged {
        return Ok(ALL);
    }
    let default = DEFAULT.iter().filter_map(|name| bit(name)).fold(0, |set, bit| set | bit);
    let base = match (add.iter().any(is_all), drop.iter().any(is_all)) {
        (true, _) => ALL,
        (false, true) => 0,
        (false, false) => default,
    };
    Ok(base & !dropped | added)
}

/// The names of a set, without `CAP_`.
pub fn names(set: Set) -> impl Iterator<Item = &'static str> {
    NAMES.iter().enumerate().filter(move |(number, _)| set & (1 << number) != 0).map(|(_, name)| *name)
}

/// Whether a set has a capability, by its name without `CAP_`.
#[must_use]
pub fn has(set: Set, name: &str) -> bool {
    bit(name).is_some_and(|bit| set & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_sets() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(resolve(&[], &[], false).unwrap(), 0xa804_25fb);
        assert_eq!(resolve(&list(&["net_admin"]), &list(&["ALL"]), false).unwrap(), 1 << 12);
        assert_eq!(resolve(&list(&["ALL"]), &list(&["CAP_SYS_ADMIN"]), false).unwrap(), ALL & !(1 << 21));
        assert_eq!(resolve(&[], &list(&["CHOWN"]), true).unwrap(), ALL);
        assert_eq!(resolve(&list(&["NONSENSE"]), &[], false).unwrap_err(), "NONSENSE");
        assert_eq!(bit("CAP_CHECKPOINT_RESTORE"), Some(1 << 40));
    }
}
