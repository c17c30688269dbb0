//! AppArmor on this host: whether the kernel enforces it, our own profile, and those that others have loaded.

mod profile;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

pub use profile::{DEFAULT_PROFILE, UNCONFINED, Wanted, default_profile, wanted};
use stack_shim::launch::{Confinement, ConfinementMoment};

use crate::container::ContainerConfig;

/// Where the kernel says whether it enforces profiles.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// The profiles that it has, one on a line.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
/// Compiles a profile and gives it to the kernel.
const PARSER: &str = "apparmor_parser";
/// Where it is looked for beside `PATH`, which has no directories of administrators in some places.
const PARSER_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Why a container cannot have the profile that it is to run under.
#[derive(Debug, thiserror::Error)]
pub enum AppArmorError {
    /// There is no AppArmor.
    #[error(
        "AppArmor is not enabled on this host, so the profile `{name}` cannot be applied: leave `apparmor={name}` out, or enable AppArmor in the kernel"
    )]
    Absent {
        /// Which profile.
        name: String,
    },
    /// Nobody has loaded the profile.
    #[error(
        "unable to apply apparmor profile: `{name}` is not loaded on this host: load it with `apparmor_parser -r FILE`, or correct its name"
    )]
    NotLoaded {
        /// Which profile.
        name: String,
    },
    /// Our own profile is not in force.
    #[error(
        "AppArmor enabled on system but the {DEFAULT_PROFILE} profile could not be loaded: {reason}; `apparmor=unconfined` goes without"
    )]
    Default {
        /// Why.
        reason: String,
    },
    /// The kernel's list.
    #[error("could not read {PROFILES}")]
    List(#[source] io::Error),
}

/// AppArmor on this host. Clones are the same.
#[derive(Debug, Clone)]
pub struct AppArmor {
    support: Arc<Support>,
}

#[derive(Debug, PartialEq, Eq)]
enum Support {
    /// The kernel enforces no profiles.
    Absent,
    /// It does, but nothing can be loaded: containers that ask for nothing go without.
    Unmanaged { reason: String },
    /// Profiles are loaded with this program.
    Managed { parser: PathBuf },
}

impl AppArmor {
    /// Looks at the host, and loads our own profile where there is AppArmor. Blocks.
    #[must_use]
    pub fn open() -> Self {
        let support = find_support();
        if let Support::Managed { parser } = &support
            && let Err(reason) = load_default(parser)
        {
            // A start tries again, and says it to whoever asked for it.
            tracing::warn!(reason, "the AppArmor profile {DEFAULT_PROFILE} could not be loaded");
        }
        Self { support: Arc::new(support) }
    }

    /// Whether containers that name no profile run under our own.
    #[must_use]
    pub fn is_enforced(&self) -> bool {
        matches!(*self.support, Support::Managed { .. })
    }

    /// What whoever rules the host should know.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        match &*self.support {
            Support::Unmanaged { reason } => {
                Some(format!("AppArmor is enabled but containers that name no profile run without one: {reason}"))
            }
            Support::Absent | Support::Managed { .. } => None,
        }
    }

    /// Refuses what no start on this host could give.
    ///
    /// # Errors
    /// [`AppArmorError::Absent`].
    pub fn check(&self, config: &ContainerConfig) -> Result<(), AppArmorError> {
        let name = match wanted(config) {
            Wanted::Nothing | Wanted::Usual => return Ok(()),
            Wanted::Default => DEFAULT_PROFILE,
            Wanted::Named(name) => name,
        };
        match *self.support {
            Support::Absent => Err(AppArmorError::Absent { name: name.to_owned() }),
            Support::Unmanaged { .. } | Support::Managed { .. } => Ok(()),
        }
    }

    /// What a container that starts now is confined by. Our own profile is loaded anew if somebody has removed it. Blocks.
    ///
    /// # Errors
    /// When it cannot have the profile that it asks for.
    pub fn confinement(&self, config: &ContainerConfig) -> Result<Option<Confinement>, AppArmorError> {
        self.check(config)?;
        match (wanted(config), &*self.support) {
            (Wanted::Nothing, _) | (Wanted::Usual, Support::Absent | Support::Unmanaged { .. }) => Ok(None),
            (Wanted::Usual | Wanted::Default, Support::Managed { parser }) => {
                if !is_loaded(DEFAULT_PROFILE)? {
                    load_default(parser).map_err(|reason| AppArmorError::Default { reason })?;
                }
                // It lets every program be run, so nothing keeps us from being under it already.
                Ok(Some(Confinement { profile: DEFAULT_PROFILE.to_owned(), moment: ConfinementMoment::Now }))
            }
            // Another daemon may have loaded it, as that of the host of a nested one.
            (Wanted::Default, Support::Absent | Support::Unmanaged { .. }) => named(config, DEFAULT_PROFILE),
            (Wanted::Named(name), _) => named(config, name),
        }
    }

    /// The profile of a container that does not run, as it is shown: empty where the host has no AppArmor.
    #[must_use]
    pub fn shown(&self, config: &ContainerConfig) -> String {
        match (wanted(config), &*self.support) {
            (_, Support::Absent) => String::new(),
            (Wanted::Nothing, _) | (Wanted::Usual, Support::Unmanaged { .. }) => UNCONFINED.to_owned(),
            (Wanted::Usual | Wanted::Default, _) => DEFAULT_PROFILE.to_owned(),
            (Wanted::Named(name), _) => name.to_owned(),
        }
    }

    /// The profile of a container that runs, as it is shown.
    #[must_use]
    pub fn shown_of(&self, confinement: Option<&Confinement>) -> String {
        match (&*self.support, confinement) {
            (Support::Absent, _) => String::new(),
            (_, Some(confinement)) => confinement.profile.clone(),
            (_, None) => UNCONFINED.to_owned(),
        }
    }
}

fn named(config: &ContainerConfig, name: &str) -> Result<Option<Confinement>, AppArmorError> {
    if !is_loaded(name)? {
        return Err(AppArmorError::NotLoaded { name: name.to_owned() });
    }
    // A profile may be for the container's program and nothing else. An init process stays what it is, and must be under
    // it too; the profile then has to let it run the program, as with Docker.
    let moment = if config.init { ConfinementMoment::Now } else { ConfinementMoment::Program };
    Ok(Some(Confinement { profile: name.to_owned(), moment }))
}

fn is_loaded(name: &str) -> Result<bool, AppArmorError> {
    fs::read_to_string(PROFILES).map(|list| profile::is_loaded(&list, name)).map_err(AppArmorError::List)
}

fn find_support() -> Support {
    // The file is absent where the kernel was built without AppArmor, and says N where it was started without.
    if !fs::read_to_string(ENABLED).is_ok_and(|text| text.trim() == "Y") {
        return Support::Absent;
    }
    if let Err(error) = fs::metadata(PROFILES) {
        return Support::Unmanaged { reason: format!("{PROFILES}: {error} (is securityfs mounted?)") };
    }
    match find_parser() {
        Some(parser) => Support::Managed { parser },
        None => Support::Unmanaged {
            reason: format!("there is no program {PARSER}: install the host's package `apparmor` and restart stackd"),
        },
    }
}

fn find_parser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).filter(|directory| directory.is_absolute());
    directories
        .chain(PARSER_DIRECTORIES.map(PathBuf::from))
        .map(|directory| directory.join(PARSER))
        .find(|path| path.is_file())
}

/// Gives our own profile to the kernel, in place of one of that name.
fn load_default(parser: &Path) -> Result<(), String> {
    let told = |error: io::Error| format!("{}: {error}", parser.display());
    let own = fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    // `NAME (MODE)`, or `unconfined` alone.
    let own = own.trim_end_matches(['\n', '\0']);
    let own = own.rsplit_once(" (").map_or(own, |(name, _)| name);
    let text = default_profile(Some(own).filter(|own| !own.is_empty()));
    // No cache: its place may be read-only. In place of what is there: another version of this daemon may have had another.
    let mut child = Command::new(parser)
        .args(["--skip-cache", "--replace"])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(told)?;
    if let Some(mut input) = child.stdin.take() {
        // If it does not read, it says why and fails.
        let _ = input.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(told)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(format!("{} ended with {}: {}", parser.display(), output.status, said.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::AppArmorChoice;

    fn host(support: Support) -> AppArmor {
        AppArmor { support: Arc::new(support) }
    }

    fn config(name: Option<&str>) -> ContainerConfig {
        let apparmor = name.map_or(AppArmorChoice::Default, |name| AppArmorChoice::Profile(name.to_owned()));
        ContainerConfig { apparmor, ..ContainerConfig::default() }
    }

    #[test]
    fn a_host_without_apparmor_refuses_a_profile_that_is_named() {
        let host = host(Support::Absent);
        assert_eq!(host.confinement(&config(None)).unwrap(), None);
        assert_eq!(host.shown(&config(None)), "");
        assert!(!host.is_enforced() && host.warning().is_none());
        for name in ["web", "docker-default"] {
            let refusal = host.check(&config(Some(name))).unwrap_err().to_string();
            assert!(refusal.starts_with("AppArmor is not enabled on this host, so the profile `"), "{refusal}");
        }
        let unconfined = ContainerConfig { apparmor: AppArmorChoice::Unconfined, ..ContainerConfig::default() };
        assert_eq!(host.confinement(&unconfined).unwrap(), None);
    }

    #[test]
    fn where_nothing_can_be_loaded_that_is_told() {
        let host = host(Support::Unmanaged { reason: "there is no program".to_owned() });
        assert_eq!(host.confinement(&config(None)).unwrap(), None);
        assert_eq!(host.shown(&config(None)), "unconfined");
        assert_eq!(host.shown(&config(Some("web"))), "web");
        assert!(!host.is_enforced() && host.warning().unwrap().contains("there is no program"));
    }

    #[test]
    fn what_runs_is_shown_as_it_was_started() {
        let host = host(Support::Managed { parser: PathBuf::from("/sbin/apparmor_parser") });
        assert!(host.is_enforced() && host.warning().is_none());
        assert_eq!(host.shown(&config(None)), "stack-default");
        assert_eq!(host.shown(&config(Some("docker-default"))), "stack-default");
        assert_eq!(host.shown_of(None), "unconfined");
        let confinement = Confinement { profile: "web".to_owned(), moment: ConfinementMoment::Program };
        assert_eq!(host.shown_of(Some(&confinement)), "web");
    }
}
