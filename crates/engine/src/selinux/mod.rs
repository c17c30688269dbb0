//! SELinux on this host: whether the kernel enforces a policy that knows containers, and what their labels are.

mod label;
mod relabel;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use label::{Context, ContextError, LabelOptionError, PolicyLabels, SelinuxLabels, SelinuxOptions, free_level};
use nix::sys::statfs::{FsType, statfs};
pub use relabel::{RelabelError, relabel};
use serde::{Deserialize, Serialize};

use crate::container::ContainerConfig;

/// Where the kernel's interface is.
const INTERFACE: &str = "/sys/fs/selinux";
/// What kind of file system it is (`SELINUX_MAGIC` of <linux/magic.h>).
const INTERFACE_MAGIC: u32 = 0xf97c_ff8c;
/// The host's settings.
const SETTINGS: &str = "/etc/selinux/config";
/// Where the policies' files are.
const POLICIES: &str = "/etc/selinux";
/// The label of every process while no policy is loaded.
const WITHOUT_POLICY: &str = "kernel";

/// Whether containers are labelled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SelinuxMode {
    /// Where the host has SELinux and its policy knows containers.
    #[default]
    Auto,
    /// Always: without it the engine cannot be opened.
    Enabled,
    /// Never.
    Disabled,
}

/// How a mount's files are labelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relabel {
    /// For all containers (`z`).
    Shared,
    /// For this container alone (`Z`).
    Private,
}

impl Relabel {
    /// By its letter.
    #[must_use]
    pub fn from_letter(letter: &str) -> Option<Self> {
        match letter {
            "z" => Some(Self::Shared),
            "Z" => Some(Self::Private),
            _ => None,
        }
    }

    /// Its letter.
    #[must_use]
    pub const fn letter(self) -> &'static str {
        match self {
            Self::Shared => "z",
            Self::Private => "Z",
        }
    }
}

/// Why a container cannot have the labels that it is to have.
#[derive(Debug, thiserror::Error)]
pub enum SelinuxError {
    /// Nothing is labelled on this host.
    #[error("the security option `label={option}` cannot be applied: {reason}; leave it out, or say `label=disable`")]
    Absent {
        /// What was asked for.
        option: String,
        /// Why not.
        reason: String,
    },
    /// The policy does not know it.
    #[error("the SELinux policy of this host has no label {label}: correct `label=…`, or load a policy that has it")]
    Unknown {
        /// Which.
        label: String,
    },
    /// The kernel could not be asked.
    #[error("could not ask the kernel for the SELinux label {label}")]
    Ask {
        /// Which.
        label: String,
        /// Why.
        source: io::Error,
    },
    /// It shares with two containers.
    #[error("--ipc and --pid containers SELinux labels aren't the same")]
    TwoPeers,
    /// The label of the container that it shares something with.
    #[error("the container that it shares processes or IPC objects with has no valid label")]
    Peer(#[from] ContextError),
    /// There are not enough categories.
    #[error("all pairs of SELinux categories are in use: remove containers, or give a level by `label=level:…`")]
    Exhausted,
}

/// Why containers cannot be labelled though they must be.
#[derive(Debug, thiserror::Error)]
#[error("`selinux` is `enabled`, but {reason}; `selinux = \"auto\"` goes without where it must")]
pub struct SelinuxRequired {
    /// Why not.
    reason: String,
}

/// SELinux on this host. Clones are the same.
#[derive(Debug, Clone)]
pub struct Selinux {
    support: Arc<Support>,
}

#[derive(Debug, PartialEq, Eq)]
enum Support {
    /// The kernel does not have it.
    Absent,
    /// Somebody who rules the host does not want it.
    Off,
    /// It has, but containers cannot be labelled.
    Unusable { reason: String },
    /// Containers are labelled.
    Labels(Box<PolicyLabels>),
}

impl Selinux {
    /// Looks at the host. Blocks.
    ///
    /// # Errors
    /// When containers must be labelled and cannot be.
    pub fn open(mode: SelinuxMode) -> Result<Self, SelinuxRequired> {
        let support = match mode {
            SelinuxMode::Disabled => Support::Off,
            SelinuxMode::Auto | SelinuxMode::Enabled => find_support(),
        };
        let this = Self { support: Arc::new(support) };
        match (mode, this.reason()) {
            (SelinuxMode::Enabled, Some(reason)) => Err(SelinuxRequired { reason }),
            _ => Ok(this),
        }
    }

    /// Whether containers are labelled.
    #[must_use]
    pub fn is_labelling(&self) -> bool {
        matches!(*self.support, Support::Labels(_))
    }

    /// The label of what images bring, which is not the container's own: the kernel asks for it when a container maps a file of
    /// a layer into its memory, whatever label the container's root file system has.
    #[must_use]
    pub fn layers_label(&self) -> Option<String> {
        match &*self.support {
            Support::Labels(policy) => Some(policy.read_only_file.to_string()),
            Support::Absent | Support::Off | Support::Unusable { .. } => None,
        }
    }

    /// Why they are not.
    fn reason(&self) -> Option<String> {
        match &*self.support {
            Support::Absent => Some("SELinux is not enabled on this host".to_owned()),
            Support::Off => Some("`selinux` is `disabled` in the daemon's configuration".to_owned()),
            Support::Unusable { reason } => Some(reason.clone()),
            Support::Labels(_) => None,
        }
    }

    /// What whoever rules the host should know.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        match &*self.support {
            Support::Unusable { reason } => {
                Some(format!("SELinux is enabled but containers run without labels of their own: {reason}"))
            }
            Support::Absent | Support::Off | Support::Labels(_) => None,
        }
    }

    /// Refuses what no start on this host could give. Asks the kernel.
    ///
    /// # Errors
    /// When a label is asked for that cannot be had.
    pub fn check(&self, config: &ContainerConfig) -> Result<(), SelinuxError> {
        let options = &config.selinux;
        if !options.needs_selinux() {
            return Ok(());
        }
        let Support::Labels(policy) = &*self.support else {
            let option = options.texts().into_iter().next().unwrap_or_default();
            return Err(SelinuxError::Absent { option, reason: self.reason().unwrap_or_default() });
        };
        let level = options.level.as_deref().unwrap_or("s0:c0,c1");
        let labels = policy.labels(config, None, level)?;
        labels.process.iter().chain([&labels.mount]).try_for_each(|label| ask(label))
    }

    /// The labels of a container; `None` where nothing is labelled. `peers`: the labels of the processes of the containers
    /// whose processes or IPC objects it shares. `others`: the labels of all other containers. `random`: any number.
    ///
    /// # Errors
    /// When there are none for it.
    pub fn labels<'a>(
        &self,
        config: &ContainerConfig,
        peers: &[&str],
        others: impl Iterator<Item = &'a SelinuxLabels>,
        random: u32,
    ) -> Result<Option<SelinuxLabels>, SelinuxError> {
        let Support::Labels(policy) = &*self.support else { return Ok(None) };
        let peer = match peers {
            [] => None,
            [peer, others @ ..] if others.iter().all(|other| other == peer) => Some(*peer),
            _ if config.selinux.is_default() => return Err(SelinuxError::TwoPeers),
            _ => None,
        };
        let used: BTreeSet<String> = others.flat_map(SelinuxLabels::levels).collect();
        let level = free_level(&used, random).ok_or(SelinuxError::Exhausted)?;
        Ok(Some(policy.labels(config, peer, &level)?))
    }
}

fn find_support() -> Support {
    let is_interface = |kind: FsType| u32::try_from(kind.0).is_ok_and(|kind| kind == INTERFACE_MAGIC);
    if !statfs(INTERFACE).is_ok_and(|found| is_interface(found.filesystem_type())) {
        return Support::Absent;
    }
    let own = fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    if own.trim_end_matches(['\n', '\0']) == WITHOUT_POLICY {
        return Support::Unusable { reason: "no policy is loaded: install one, and restart the host".to_owned() };
    }
    let has_levels = fs::read_to_string(Path::new(INTERFACE).join("mls")).is_ok_and(|text| text.trim() == "1");
    let settings = fs::read_to_string(SETTINGS).unwrap_or_default();
    let contexts = policy_directory(&settings)
        .and_then(|directory| fs::read_to_string(directory.join("contexts/lxc_contexts")).ok())
        .unwrap_or_default();
    let mut policy = PolicyLabels::read(&contexts, has_levels);
    for context in [&policy.process, &policy.file] {
        if let Err(error) = ask(&context.to_string()) {
            let reason = crate::container::text_of(&error);
            return Support::Unusable {
                reason: format!("{reason} (policies for containers are in the package `container-selinux`)"),
            };
        }
    }
    if ask(&policy.read_only_file.to_string()).is_err() {
        // What containers share they may read, too.
        policy.read_only_file = policy.file.clone();
    }
    Support::Labels(Box::new(policy))
}

/// Where the files of the policy are that the host's settings name.
fn policy_directory(settings: &str) -> Option<PathBuf> {
    let mut values = settings.lines().filter_map(|line| line.trim().strip_prefix("SELINUXTYPE="));
    let name = values.next_back().map_or("targeted", |name| name.trim().trim_matches('"'));
    let is_name = !name.is_empty() && !name.contains('/') && ![".", ".."].contains(&name);
    is_name.then(|| Path::new(POLICIES).join(name))
}

/// Whether the policy has a label.
fn ask(label: &str) -> Result<(), SelinuxError> {
    let asked = |source| SelinuxError::Ask { label: label.to_owned(), source };
    let mut file = OpenOptions::new().write(true).open(Path::new(INTERFACE).join("context")).map_err(asked)?;
    // In one piece.
    match file.write(label.as_bytes()) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Err(SelinuxError::Unknown { label: label.to_owned() })
        }
        Err(error) => Err(asked(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::NamespaceMode;

    fn host(support: Support) -> Selinux {
        Selinux { support: Arc::new(support) }
    }

    fn config(option: &str) -> ContainerConfig {
        let mut selinux = SelinuxOptions::default();
        selinux.add(option).unwrap();
        ContainerConfig { selinux, ..ContainerConfig::default() }
    }

    #[test]
    fn a_host_without_selinux_refuses_a_label_that_is_named() {
        for (support, reason) in [
            (Support::Absent, "SELinux is not enabled on this host"),
            (Support::Off, "`selinux` is `disabled` in the daemon's configuration"),
            (Support::Unusable { reason: "no policy is loaded".to_owned() }, "no policy is loaded"),
        ] {
            let host = host(support);
            host.check(&config("disable")).unwrap();
            host.check(&ContainerConfig::default()).unwrap();
            let refusal = host.check(&config("type:web_t")).unwrap_err().to_string();
            let wanted = format!("the security option `label=type:web_t` cannot be applied: {reason}; leave it out");
            assert!(refusal.starts_with(&wanted), "{refusal}");
            assert_eq!(host.labels(&config("type:web_t"), &[], std::iter::empty(), 0).unwrap(), None);
            assert!(!host.is_labelling());
        }
    }

    #[test]
    fn only_what_somebody_can_change_is_warned_of() {
        assert_eq!(host(Support::Absent).warning(), None);
        assert_eq!(host(Support::Off).warning(), None);
        let warning = host(Support::Unusable { reason: "no policy is loaded".to_owned() }).warning().unwrap();
        assert!(warning.ends_with("without labels of their own: no policy is loaded"), "{warning}");
    }

    #[test]
    fn no_two_containers_have_the_same_categories_but_those_that_share_processes() {
        let host = host(Support::Labels(Box::new(PolicyLabels::read("", true))));
        let usual = ContainerConfig::default();
        let one = host.labels(&usual, &[], std::iter::empty(), 7).unwrap().unwrap();
        let other = host.labels(&usual, &[], [&one].into_iter(), 7).unwrap().unwrap();
        assert_ne!(one, other);
        let process = one.process.clone().unwrap();
        let shares = ContainerConfig { pid_mode: NamespaceMode::Container("one".parse().unwrap()), ..usual };
        let third = host.labels(&shares, &[&process, &process], [&one, &other].into_iter(), 7).unwrap().unwrap();
        assert_eq!(third, one);
        let error = host.labels(&shares, &[&process, "u:r:t:s0"], std::iter::empty(), 7).unwrap_err();
        assert_eq!(error.to_string(), "--ipc and --pid containers SELinux labels aren't the same");
    }

    #[test]
    fn the_settings_name_the_policy() {
        let directory = |settings| policy_directory(settings);
        assert_eq!(directory("").unwrap(), Path::new("/etc/selinux/targeted"));
        assert_eq!(directory("# SELINUXTYPE=no\nSELINUXTYPE=mcs \n").unwrap(), Path::new("/etc/selinux/mcs"));
        assert_eq!(directory("SELINUXTYPE=../..\n"), None);
        assert_eq!(directory("SELINUXTYPE=..\n"), None);
    }
}
