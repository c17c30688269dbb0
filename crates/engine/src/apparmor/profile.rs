//! Pure. The profile that containers run under unless they say otherwise, and which one a container is to have.

use crate::container::{AppArmorChoice, ContainerConfig};

/// The name of our own profile.
pub const DEFAULT_PROFILE: &str = "stack-default";
/// What Docker calls its own, which whoever names it here means ours by.
const DOCKERS_DEFAULT: &str = "docker-default";
/// What AppArmor itself calls the want of a profile.
pub const UNCONFINED: &str = "unconfined";

/// What a container is to be confined by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// Nothing.
    Nothing,
    /// Our own profile, where the host can have it.
    Usual,
    /// Our own profile, and nothing less.
    Default,
    /// A profile that the host's administrator has loaded.
    Named(&'a str),
}

/// What a configuration asks for. As with Docker, a profile that is named holds for privileged containers too.
#[must_use]
pub fn wanted(config: &ContainerConfig) -> Wanted<'_> {
    match &config.apparmor {
        AppArmorChoice::Default if config.privileged => Wanted::Nothing,
        AppArmorChoice::Default => Wanted::Usual,
        AppArmorChoice::Unconfined => Wanted::Nothing,
        AppArmorChoice::Profile(name) if [DEFAULT_PROFILE, DOCKERS_DEFAULT].contains(&name.as_str()) => Wanted::Default,
        AppArmorChoice::Profile(name) => Wanted::Named(name),
    }
}

/// Whether the kernel has a profile, by its list of them: lines of a name and, in parentheses, a mode.
#[must_use]
pub fn is_loaded(list: &str, name: &str) -> bool {
    list.lines().filter_map(|line| line.rsplit_once(" (")).any(|(loaded, _)| loaded == name)
}

/// The text of our own profile. It includes no files of the host, so that it is the same everywhere. `daemon` is the profile
/// that this process runs under, if any: it must be able to send signals.
///
/// What it keeps a container from is what Docker's keeps it from: to mount, to write to the kernel's settings, to trace or
/// signal what is not in a container, to look at the kernel's memory and security modules. It is a second line: most of
/// that is masked, read-only or needs a capability already.
#[must_use]
pub fn default_profile(daemon: Option<&str>) -> String {
    let signals = daemon
        .filter(|daemon| *daemon != UNCONFINED && !daemon.contains(['"', '\n']))
        .map_or_else(String::new, |daemon| format!("  signal (receive) peer=\"{daemon}\",\n"));
    format!(
        "profile {DEFAULT_PROFILE} flags=(attach_disconnected,mediate_deleted) {{
  network,
  capability,
  file,
  umount,

  # Who rules containers may end them; containers may signal and trace their own kind.
  signal (receive) peer=unconfined,
{signals}  signal (send, receive) peer={DEFAULT_PROFILE},
  ptrace (trace, read, tracedby, readby) peer={DEFAULT_PROFILE},

  deny mount,
  deny pivot_root,

  # Of /proc only what belongs to a process is written, and the limits of shared memory.
  deny /proc/* w,
  deny /proc/[^0-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sy[^s]*/** w,
  deny /proc/sys?*/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/k[^e]** w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^h]** w,
  deny /proc/sys/kernel/sh[^m]** w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,

  # Of /sys only control groups.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let config = |apparmor: AppArmorChoice, privileged| ContainerConfig {
            apparmor,
            privileged,
            ..ContainerConfig::default()
        };
        let named = |name: &str| AppArmorChoice::Profile(name.to_owned());
        assert_eq!(wanted(&config(AppArmorChoice::Default, false)), Wanted::Usual);
        assert_eq!(wanted(&config(AppArmorChoice::Default, true)), Wanted::Nothing);
        assert_eq!(wanted(&config(AppArmorChoice::Unconfined, false)), Wanted::Nothing);
        assert_eq!(wanted(&config(named("docker-default"), false)), Wanted::Default);
        assert_eq!(wanted(&config(named("stack-default"), true)), Wanted::Default);
        assert_eq!(wanted(&config(named("web"), true)), Wanted::Named("web"));
    }

    #[test]
    fn the_list_of_the_kernel() {
        let list = "/usr/bin/man (enforce)\nstack-default (enforce)\nmy profile (complain)\n";
        for (name, loaded) in [("stack-default", true), ("my profile", true), ("stack", false), ("", false)] {
            assert_eq!(is_loaded(list, name), loaded, "{name}");
        }
    }

    #[test]
    fn the_profile_names_who_may_send_signals() {
        insta::assert_snapshot!(default_profile(None));
        assert_eq!(default_profile(Some("unconfined")), default_profile(None));
        assert!(default_profile(Some("/usr/bin/stackd")).contains("signal (receive) peer=\"/usr/bin/stackd\","));
        assert_eq!(default_profile(Some("a\",\n  mount,")), default_profile(None), "a name is no way to more rules");
    }
}
