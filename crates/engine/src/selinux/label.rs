//! Pure. Labels of SELinux: what they are made of, what a container may ask for, and which ones a container gets.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::container::{ContainerConfig, NamespaceMode};

/// So many categories there are.
const CATEGORIES: u32 = 1024;
/// Pairs of two different ones.
const PAIRS: u32 = CATEGORIES * (CATEGORIES - 1) / 2;
/// The level of the files of containers whose processes have no label, which no other container gets.
const RESERVED_LEVEL: &str = "s0:c1022,c1023";
/// The level of files that several containers share.
const SHARED_LEVEL: &str = "s0";

/// A label: `user:role:type`, and `:level` where the policy has levels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The user.
    pub user: String,
    /// The role.
    pub role: String,
    /// The type.
    pub kind: String,
    /// The level, which may have colons of its own: `s0:c1,c2`.
    pub level: Option<String>,
}

/// Why a text is no label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no label of SELinux: expected user:role:type:level")]
pub struct ContextError {
    /// What was given, at most 200 characters of it.
    pub text: String,
}

impl FromStr for Context {
    type Err = ContextError;

    fn from_str(text: &str) -> Result<Self, ContextError> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(user), Some(role), Some(kind), level)
                if [&user, &role, &kind].into_iter().chain(&level).all(|part| is_part(part)) =>
            {
                Ok(Self { user, role, kind, level })
            }
            _ => Err(ContextError { text: text.chars().take(200).collect() }),
        }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.user, self.role, self.kind)?;
        self.level.iter().try_for_each(|level| write!(formatter, ":{level}"))
    }
}

impl Context {
    fn at(&self, level: &str) -> Self {
        // A policy without levels has none to give.
        Self { level: self.level.is_some().then(|| level.to_owned()), ..self.clone() }
    }
}

/// Whether a text can be a part of a label, and can be an option of a mount between quotes.
fn is_part(text: &str) -> bool {
    let plain = |character: char| character.is_ascii_alphanumeric() || "_.-:,".contains(character);
    (1..=1024).contains(&text.len()) && text.chars().all(plain)
}

/// What a container asks for in place of what it would get (`--security-opt label=…`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SelinuxOptions {
    /// Its processes have no label of their own.
    pub disabled: bool,
    /// The user of its processes and files.
    pub user: Option<String>,
    /// The role of its processes.
    pub role: Option<String>,
    /// The type of its processes.
    pub kind: Option<String>,
    /// The level of its processes and files.
    pub level: Option<String>,
    /// The type of its files.
    pub file_kind: Option<String>,
}

/// Why an option of a label cannot be. The words are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "bad label option \"{text}\", valid options 'disable' or 'user, role, level, type, filetype' followed by ':' and a value"
)]
pub struct LabelOptionError {
    /// What was given, at most 200 characters of it.
    pub text: String,
}

impl SelinuxOptions {
    /// Adds an option: what follows `label=`. A later one goes before an earlier one.
    ///
    /// # Errors
    /// When there is no such option, or its value cannot be in a label.
    pub fn add(&mut self, text: &str) -> Result<(), LabelOptionError> {
        let refuse = || LabelOptionError { text: text.chars().take(200).collect() };
        if text == "disable" {
            self.disabled = true;
            return Ok(());
        }
        let (key, value) = text.split_once(':').ok_or_else(refuse)?;
        if !is_part(value) || (key != "level" && value.contains(':')) {
            return Err(refuse());
        }
        let place = match key {
            "user" => &mut self.user,
            "role" => &mut self.role,
            "type" => &mut self.kind,
            "level" => &mut self.level,
            "filetype" => &mut self.file_kind,
            _ => return Err(refuse()),
        };
        *place = Some(value.to_owned());
        Ok(())
    }

    /// The options, as they would be added.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let disabled = self.disabled.then(|| "disable".to_owned());
        let values = [
            ("user", &self.user),
            ("role", &self.role),
            ("type", &self.kind),
            ("level", &self.level),
            ("filetype", &self.file_kind),
        ];
        let values = values.into_iter().filter_map(|(key, value)| Some(format!("{key}:{}", value.as_ref()?)));
        disabled.into_iter().chain(values).collect()
    }

    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it asks for something that only a host with SELinux has.
    #[must_use]
    pub fn needs_selinux(&self) -> bool {
        !self.disabled && !self.is_default()
    }

    /// Those that give another container the label of a process.
    fn like(process: &Context) -> Self {
        Self {
            user: Some(process.user.clone()),
            role: Some(process.role.clone()),
            kind: Some(process.kind.clone()),
            level: process.level.clone(),
            ..Self::default()
        }
    }
}

/// The labels of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxLabels {
    /// Of its processes; `None`: what the policy makes of them.
    pub process: Option<String>,
    /// Of its files.
    pub mount: String,
}

impl SelinuxLabels {
    /// The label of files that it shares with other containers.
    #[must_use]
    pub fn shared_mount(&self) -> String {
        self.mount
            .parse::<Context>()
            .map_or_else(|_| self.mount.clone(), |context| context.at(SHARED_LEVEL).to_string())
    }

    /// The levels that nobody else is to have.
    pub(super) fn levels(&self) -> impl Iterator<Item = String> {
        let process = self.process.as_ref().and_then(|text| text.parse::<Context>().ok());
        let mount = self.mount.parse::<Context>().ok();
        process.into_iter().chain(mount).filter_map(|context| context.level)
    }
}

/// The labels that a policy has for containers, without categories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyLabels {
    /// Of processes.
    pub process: Context,
    /// Of files.
    pub file: Context,
    /// Of files that all of them read and none writes.
    pub read_only_file: Context,
}

impl PolicyLabels {
    /// By the policy's file `lxc_contexts`, lines of `KEY = "LABEL"`; what it does not say, or says wrongly, is what policies
    /// for containers have. `has_levels`: whether the policy has levels.
    #[must_use]
    pub fn read(lxc_contexts: &str, has_levels: bool) -> Self {
        let named = |wanted: &str| {
            let lines = lxc_contexts.lines().filter_map(|line| line.split_once('='));
            let mut values = lines.filter(|(key, _)| key.trim() == wanted);
            values.next_back().and_then(|(_, value)| value.trim().trim_matches('"').parse::<Context>().ok())
        };
        let usual = |role: &str, kind: &str| Context {
            user: "system_u".to_owned(),
            role: role.to_owned(),
            kind: kind.to_owned(),
            level: None,
        };
        let process = named("process").unwrap_or_else(|| usual("system_r", "container_t"));
        let file = named("file").unwrap_or_else(|| usual("object_r", "container_file_t"));
        let read_only = named("ro_file").unwrap_or_else(|| usual("object_r", "container_ro_file_t"));
        let level = |context: Context| {
            let level = has_levels.then(|| context.level.clone().unwrap_or_else(|| SHARED_LEVEL.to_owned()));
            Context { level, ..context }
        };
        Self { process: level(process), file: level(file), read_only_file: level(read_only) }
    }

    /// The labels of a container, as Docker gives them: a container that sees all processes or IPC objects of the host, or may
    /// do anything, has no label of its own unless it asks for one. `peer`: the label of the container whose processes or IPC
    /// objects it shares. `level`: one that nobody else has.
    ///
    /// # Errors
    /// When the label of the peer is none.
    pub fn labels(
        &self,
        config: &ContainerConfig,
        peer: Option<&str>,
        level: &str,
    ) -> Result<SelinuxLabels, ContextError> {
        let of_host = config.pid_mode == NamespaceMode::Host || config.ipc_mode == NamespaceMode::Host;
        let asks = !config.selinux.is_default();
        if config.selinux.disabled || (!asks && (of_host || config.privileged)) {
            return Ok(SelinuxLabels { process: None, mount: self.file.at(RESERVED_LEVEL).to_string() });
        }
        let options = match peer {
            Some(label) if !asks => SelinuxOptions::like(&label.parse()?),
            _ => config.selinux.clone(),
        };
        let level = options.level.as_deref().unwrap_or(level);
        let (mut process, mut mount) = (self.process.at(level), self.file.at(level));
        if let Some(user) = options.user {
            process.user.clone_from(&user);
            mount.user = user;
        }
        process.role = options.role.unwrap_or(process.role);
        process.kind = options.kind.unwrap_or(process.kind);
        mount.kind = options.file_kind.unwrap_or(mount.kind);
        let process = (!config.privileged).then(|| process.to_string());
        Ok(SelinuxLabels { process, mount: mount.to_string() })
    }
}

/// A level of two categories that is not among those in use. `random`: from where on one is looked for.
#[must_use]
pub fn free_level(used: &BTreeSet<String>, random: u32) -> Option<String> {
    let level = |pair: u32| {
        // Pairs in the order (0,1), (0,2), (1,2), (0,3), …
        let (mut high, mut below) = (1, pair);
        while below >= high {
            below -= high;
            high += 1;
        }
        format!("s0:c{below},c{high}")
    };
    (0..PAIRS)
        .map(|step| level((random % PAIRS + step) % PAIRS))
        .find(|level| level != RESERVED_LEVEL && !used.contains(level))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> PolicyLabels {
        PolicyLabels::read("", true)
    }

    fn config(options: &[&str]) -> ContainerConfig {
        let mut selinux = SelinuxOptions::default();
        options.iter().for_each(|option| selinux.add(option).unwrap());
        ContainerConfig { selinux, ..ContainerConfig::default() }
    }

    fn labels(config: &ContainerConfig, peer: Option<&str>) -> (String, String) {
        let labels = policy().labels(config, peer, "s0:c1,c2").unwrap();
        (labels.process.unwrap_or_default(), labels.mount)
    }

    #[test]
    fn a_label_is_read_and_written() {
        for text in ["system_u:system_r:container_t:s0:c1,c2", "u:r:t", "u:r:t:s0-s15:c0.c1023"] {
            assert_eq!(text.parse::<Context>().unwrap().to_string(), text);
        }
        for wrong in ["", "u:r", "u::t", "u:r:t:", "u:r:t:s0\"", "u:r:t x:s0", "u:r:t:s0\n"] {
            wrong.parse::<Context>().unwrap_err();
        }
    }

    #[test]
    fn options_are_read_and_told_as_they_were_given() {
        let texts = ["user:staff_u", "role:web_r", "type:web_t", "level:s0:c3,c4", "filetype:web_file_t"];
        assert_eq!(config(&texts).selinux.texts(), texts);
        assert_eq!(config(&["disable"]).selinux.texts(), ["disable"]);
        for wrong in ["", "disabled", "type", "type:", "kind:web_t", "type:a b", "type:a:b", "level:s0\"", "nested"] {
            let error = SelinuxOptions::default().add(wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("bad label option \"{wrong}\", valid options 'disable' or")), "{error}");
        }
        assert!(config(&["type:a"]).selinux.needs_selinux() && !config(&["disable"]).selinux.needs_selinux());
    }

    #[test]
    fn the_labels_of_a_policy_are_those_of_its_file_or_the_usual_ones() {
        let usual = policy();
        assert_eq!(usual.process.to_string(), "system_u:system_r:container_t:s0");
        assert_eq!(usual.file.to_string(), "system_u:object_r:container_file_t:s0");
        let text =
            "# for containers\nprocess = \"system_u:system_r:web_t:s0\"\n file=\"system_u:object_r:web_file_t:s0\"\n";
        let own = PolicyLabels::read(text, true);
        assert_eq!(own.process.to_string(), "system_u:system_r:web_t:s0");
        assert_eq!(own.file.to_string(), "system_u:object_r:web_file_t:s0");
        assert_eq!(own.read_only_file.to_string(), "system_u:object_r:container_ro_file_t:s0");
        assert_eq!(PolicyLabels::read(text, false).process.to_string(), "system_u:system_r:web_t");
        assert_eq!(PolicyLabels::read("process = nonsense", true), usual);
    }

    #[test]
    fn a_container_gets_the_labels_that_docker_gives() {
        let (process, file) = ("system_u:system_r:container_t:", "system_u:object_r:container_file_t:");
        let both = |level: &str| (format!("{process}{level}"), format!("{file}{level}"));
        let none = (String::new(), format!("{file}s0:c1022,c1023"));
        assert_eq!(labels(&config(&[]), None), both("s0:c1,c2"));
        assert_eq!(labels(&config(&["disable"]), None), none);
        assert_eq!(labels(&config(&["level:s0:c3,c4"]), None), both("s0:c3,c4"));
        let chosen = labels(&config(&["type:web_t", "user:u", "role:r", "filetype:web_file_t"]), None);
        assert_eq!(chosen, ("u:r:web_t:s0:c1,c2".to_owned(), "u:object_r:web_file_t:s0:c1,c2".to_owned()));
        // Those that share the host's.
        for (pid, ipc, privileged) in [(true, false, false), (false, true, false), (false, false, true)] {
            let mode = |host| if host { NamespaceMode::Host } else { NamespaceMode::Private };
            let shares = |options: &[&str]| ContainerConfig {
                pid_mode: mode(pid),
                ipc_mode: mode(ipc),
                privileged,
                ..config(options)
            };
            assert_eq!(labels(&shares(&[]), None), none);
            let asked = labels(&shares(&["type:web_t"]), None).0;
            assert_eq!(asked, if privileged { "" } else { "system_u:system_r:web_t:s0:c1,c2" });
        }
    }

    #[test]
    fn who_shares_processes_has_the_label_of_the_other() {
        let other = "u:r:web_t:s0:c8,c9";
        let shared = ("u:r:web_t:s0:c8,c9".to_owned(), "u:object_r:container_file_t:s0:c8,c9".to_owned());
        assert_eq!(labels(&config(&[]), Some(other)), shared);
        assert_eq!(labels(&config(&["disable"]), Some(other)).0, "");
        assert_eq!(labels(&config(&["type:own_t"]), Some(other)).0, "system_u:system_r:own_t:s0:c1,c2");
    }

    #[test]
    fn a_policy_without_levels_has_labels_without_them() {
        let policy = PolicyLabels::read("", false);
        let labels = policy.labels(&config(&[]), None, "s0:c1,c2").unwrap();
        assert_eq!(labels.process.as_deref(), Some("system_u:system_r:container_t"));
        assert_eq!(labels.mount, labels.shared_mount());
    }

    #[test]
    fn what_is_shared_has_no_categories() {
        let labels = policy().labels(&config(&[]), None, "s0:c1,c2").unwrap();
        assert_eq!(labels.shared_mount(), "system_u:object_r:container_file_t:s0");
    }

    #[test]
    fn levels_are_given_once() {
        let mut used = BTreeSet::new();
        for random in [0, 0, 1, 523_775, 523_775, u32::MAX] {
            let level = free_level(&used, random).unwrap();
            assert!(used.insert(level.clone()), "{level} was given twice");
            assert_ne!(level, RESERVED_LEVEL);
        }
        assert_eq!(free_level(&BTreeSet::new(), 0).as_deref(), Some("s0:c0,c1"));
        assert_eq!(free_level(&BTreeSet::new(), 2).as_deref(), Some("s0:c1,c2"));
        assert_eq!(free_level(&BTreeSet::new(), PAIRS - 2).as_deref(), Some("s0:c1021,c1023"));
        // The last pair is the one that nobody gets.
        assert_eq!(free_level(&BTreeSet::new(), PAIRS - 1).as_deref(), Some("s0:c0,c1"));
    }
}
