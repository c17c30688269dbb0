//! Pure. Which containers a request means.

use regex::RegexBuilder;
use stack_engine::container::{Container, ContainerMountSource, ContainerState, Health};

use crate::decode::{DecodeError, Filters, Parameters};
use crate::encode::text::{familiar, identifier};
use crate::error::ApiError;

/// The container with this id, this name, or whose id begins so, in this order, as Docker looks for it.
pub fn container(all: Vec<Container>, text: &str) -> Result<Container, ApiError> {
    let plain = text.strip_prefix('/').unwrap_or(text);
    let is_whole = |container: &&Container| container.id.as_str() == text || container.name == plain;
    let exact = all.iter().find(|container| container.id.as_str() == text).or_else(|| all.iter().find(is_whole));
    if let Some(found) = exact {
        return Ok(found.clone());
    }
    let mut begun = all.into_iter().filter(|container| !text.is_empty() && container.id.as_str().starts_with(text));
    match (begun.next(), begun.next()) {
        (None, _) => Err(ApiError::NoSuchContainer { name: text.chars().take(300).collect() }),
        (Some(found), None) => Ok(found),
        (Some(_), Some(_)) => Err(ApiError::AmbiguousContainer { prefix: text.to_owned() }),
    }
}

/// A container's state in Docker's words.
pub fn status(container: &Container) -> &'static str {
    match container.state {
        // Until its program runs it is what it was before.
        ContainerState::Created | ContainerState::Starting => "created",
        ContainerState::Running { .. } if container.paused => "paused",
        ContainerState::Running { .. } => "running",
        ContainerState::Exited(_) if container.restarting => "restarting",
        ContainerState::Exited(_) => "exited",
        ContainerState::Removing => "removing",
    }
}

/// What `/containers/json` was asked for.
pub struct ListRequest {
    all: bool,
    limit: Option<usize>,
    filters: Filters,
    names: Vec<Pattern>,
    ids: Vec<Pattern>,
}

/// A word, or an expression that matches it.
struct Pattern {
    text: String,
    expression: Option<regex::Regex>,
}

impl Pattern {
    fn new(text: &str) -> Self {
        // What is no expression is compared as a word only.
        let expression = RegexBuilder::new(text).size_limit(1 << 16).build().ok();
        Self { text: text.to_owned(), expression }
    }

    fn matches(&self, word: &str) -> bool {
        self.text == word || self.expression.as_ref().is_some_and(|expression| expression.is_match(word))
    }
}

const STATES: [&str; 7] = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];
/// The filters that there are.
const FILTERS: [&str; 17] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
    "config",
];

impl ListRequest {
    /// Reads the parameters.
    pub fn decode(parameters: &Parameters) -> Result<Self, ApiError> {
        let filters = parameters.filters()?;
        if let Some(name) = filters.names().find(|name| !FILTERS.contains(name)) {
            return Err(DecodeError::Filter { name: name.to_owned() }.into());
        }
        for (name, known) in [("status", &STATES[..]), ("health", &HEALTH[..])] {
            if let Some(wrong) = filters.values(name).iter().find(|value| !known.contains(&value.as_str())) {
                return Err(DecodeError::FilterValue { name, value: wrong.clone() }.into());
            }
        }
        if let Some(wrong) = filters.values("exited").iter().find(|value| value.parse::<i32>().is_err()) {
            return Err(DecodeError::FilterValue { name: "exited", value: wrong.clone() }.into());
        }
        let limit =
            parameters.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|&limit| limit > 0);
        let patterns = |name: &str| filters.values(name).iter().map(|text| Pattern::new(text)).collect();
        let (names, ids) = (patterns("name"), patterns("id"));
        // Who asks for the newest few or for states means all containers, not only those that run.
        let all = parameters.flag("all")
            || limit.is_some()
            || ["status", "exited", "before", "since"].iter().any(|name| !filters.values(name).is_empty());
        Ok(Self { all, limit, filters, names, ids })
    }

    /// The containers that are meant, the newest first.
    ///
    /// # Errors
    /// When a filter names a container that there is not.
    pub fn select(&self, mut containers: Vec<Container>) -> Result<Vec<Container>, ApiError> {
        let bound = |name: &str| -> Result<Option<u64>, ApiError> {
            let found =
                self.filters.values(name).first().map(|text| container(containers.clone(), text)).transpose()?;
            Ok(found.map(|found| found.created_at))
        };
        let (before, since) = (bound("before")?, bound("since")?);
        containers.retain(|container| {
            self.wants(container)
                && before.is_none_or(|before| container.created_at < before)
                && since.is_none_or(|since| container.created_at > since)
        });
        containers.sort_by(|one, other| (other.created_at, &other.id).cmp(&(one.created_at, &one.id)));
        containers.truncate(self.limit.unwrap_or(usize::MAX));
        Ok(containers)
    }

    fn wants(&self, container: &Container) -> bool {
        let status = status(container);
        let states = self.filters.values("status");
        let slashed = format!("/{}", container.name);
        let any = |patterns: &[Pattern], words: &[&str]| {
            patterns.is_empty() || patterns.iter().any(|pattern| words.iter().any(|word| pattern.matches(word)))
        };
        (self.all || matches!(status, "running" | "paused" | "restarting"))
            && (states.is_empty() || states.iter().any(|wanted| wanted == status))
            && self.filters.match_labels(|key| container.labels.get(key).map(String::as_str))
            && any(&self.names, &[&container.name, &slashed])
            && any(&self.ids, &[container.id.as_str()])
            && self.wants_by_value(container)
    }

    fn wants_by_value(&self, container: &Container) -> bool {
        let any = |name: &str, matches: &dyn Fn(&str) -> bool| {
            let values = self.filters.values(name);
            values.is_empty() || values.iter().any(|value| matches(value))
        };
        let config = &container.config;
        let code = match &container.state {
            ContainerState::Exited(status) => Some(status.code),
            _ => None,
        };
        let health = container.health.as_ref().map_or("none", |state| match state.health {
            Health::Starting => "starting",
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
        });
        let task = container.labels.contains_key(crate::MANAGED);
        let image = familiar(&full_name(&config.image));
        any("exited", &|value| value.parse().ok() == code && code.is_some())
            && any("health", &|value| value == health)
            && any("is-task", &|value| matches!(value, "1" | "true") == task)
            && any("isolation", &|value| value == "default")
            && any("network", &|value| {
                config
                    .networks
                    .iter()
                    .any(|network| network.name == value || identifier("network", &network.name) == value)
            })
            && any("volume", &|value| {
                config.mounts.iter().any(|mount| {
                    mount.target == value
                        || match &mount.source {
                            ContainerMountSource::Volume { name, .. } => name.as_deref() == Some(value),
                            ContainerMountSource::Bind { path, .. } => path.to_str() == Some(value),
                            ContainerMountSource::Image { reference, .. } => reference == value,
                            ContainerMountSource::Tmpfs { .. } => false,
                        }
                })
            })
            && any("publish", &|value| {
                container.ports.iter().any(|port| is_port(value, port.host_port, port.protocol.as_str()))
            })
            && any("expose", &|value| {
                let exposed = config.exposed_ports.iter().any(|port| port == value || *port == format!("{value}/tcp"));
                exposed || config.ports.iter().any(|port| is_port(value, port.container_port, port.protocol.as_str()))
            })
            && any("ancestor", &|value| {
                let digest = value.strip_prefix("sha256:").unwrap_or(value);
                let own = container.image_digest.strip_prefix("sha256:").unwrap_or(&container.image_digest);
                familiar(&full_name(value)) == image || (digest.len() >= 12 && own.starts_with(digest))
            })
    }
}

/// A name with the tag that it has without one.
fn full_name(name: &str) -> String {
    let reference = name.parse::<stack_engine::image::Reference>().ok();
    reference.map_or_else(|| name.to_owned(), |found| found.tagged_name().unwrap_or_else(|| found.to_string()))
}

/// Whether `80`, `80/tcp` or `80-90/udp` means this port.
fn is_port(text: &str, port: u16, protocol: &str) -> bool {
    let (range, wanted) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let fits =
        first.parse::<u16>().ok().zip(last.parse().ok()).is_some_and(|(first, last)| (first..=last).contains(&port));
    fits && wanted == protocol
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::samples::{container as sample, exited, running};

    fn list(pairs: &[(&str, &str)]) -> Vec<String> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = ListRequest::decode(&Parameters::new(pairs)).unwrap();
        let mut web = sample("aa11", "web", running());
        web.labels.insert("tier".to_owned(), "front".to_owned());
        web.created_at = 5;
        let mut store = sample("aa22", "db", exited(3));
        store.created_at = 9;
        let selected = request.select(vec![web, store, sample("bb33", "new", ContainerState::Created)]).unwrap();
        selected.into_iter().map(|container| container.name).collect()
    }

    #[test]
    fn lists_by_state_number_name_id_and_label() {
        assert_eq!(list(&[]), ["web"]);
        assert_eq!(list(&[("all", "1")]), ["new", "db", "web"]);
        assert_eq!(list(&[("limit", "2")]), ["new", "db"]);
        assert_eq!(list(&[("limit", "0")]), ["web"]);
        assert_eq!(list(&[("filters", r#"{"status":["exited","created"]}"#)]), ["new", "db"]);
        assert_eq!(list(&[("all", "1"), ("filters", r#"{"name":["^/d"]}"#)]), ["db"]);
        assert_eq!(list(&[("all", "1"), ("filters", r#"{"id":["aa"]}"#)]), ["db", "web"]);
        assert_eq!(list(&[("filters", r#"{"label":["tier=front"]}"#)]), ["web"]);
        assert_eq!(list(&[("filters", r#"{"label":["tier=back"]}"#)]), Vec::<String>::new());
        assert_eq!(list(&[("filters", r#"{"name":["("]}"#)]), Vec::<String>::new());
        assert_eq!(list(&[("filters", r#"{"exited":["3"]}"#)]), ["db"]);
        assert_eq!(
            list(&[("filters", r#"{"since":["web"]}"#)]),
            ["db", "new"].map(str::to_owned).into_iter().rev().collect::<Vec<_>>()
        );
        assert_eq!(list(&[("all", "1"), ("filters", r#"{"ancestor":["made:1"]}"#)]), ["new", "db", "web"]);
        assert_eq!(list(&[("all", "1"), ("filters", r#"{"ancestor":["made"]}"#)]), Vec::<String>::new());
        assert_eq!(list(&[("filters", r#"{"is-task":["true"]}"#)]), Vec::<String>::new());
        assert_eq!(list(&[("filters", r#"{"health":["none"]}"#)]), ["web"]);
    }

    #[test]
    fn what_cannot_be_answered_is_refused() {
        let refused = |text: &str| {
            let parameters = Parameters::new(vec![("filters".to_owned(), text.to_owned())]);
            ListRequest::decode(&parameters).err().unwrap()
        };
        assert_eq!(refused(r#"{"colour":["red"]}"#).to_string(), "invalid filter 'colour'");
        assert_eq!(refused(r#"{"status":["red"]}"#).to_string(), "invalid filter 'status=red'");
    }

    #[test]
    fn a_container_is_found_by_id_name_and_beginning() {
        let all =
            || vec![sample("aa11", "bb", running()), sample("bb22", "web", running()), sample("bb33", "x", running())];
        let found = |text| container(all(), text).map(|container| container.id.to_string());
        assert_eq!(found("bb22").unwrap(), "bb22");
        assert_eq!(found("bb").unwrap(), "aa11", "a name goes before a beginning");
        assert_eq!((found("/web").unwrap().as_str(), found("aa").unwrap().as_str()), ("bb22", "aa11"));
        assert!(matches!(found("b"), Err(ApiError::AmbiguousContainer { .. })));
        assert_eq!(found("nope").unwrap_err().to_string(), "No such container: nope");
        assert!(matches!(found(""), Err(ApiError::NoSuchContainer { .. })));
    }
}
