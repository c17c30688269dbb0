//! Pure. Which containers a request means.

use regex::RegexBuilder;
use stack_engine::container::{Container, ContainerState};

use crate::decode::{DecodeError, Filters, Parameters};
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
pub fn status(state: &ContainerState) -> &'static str {
    match state {
        // Until its program runs it is what it was before.
        ContainerState::Created | ContainerState::Starting => "created",
        ContainerState::Running { .. } => "running",
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
/// Filters that Docker has and that nothing here can answer yet.
const NOT_YET: [&str; 11] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "isolation",
    "is-task",
    "network",
    "publish",
    "since",
    "volume",
];

impl ListRequest {
    /// Reads the parameters.
    pub fn decode(parameters: &Parameters) -> Result<Self, ApiError> {
        if parameters.flag("size") {
            return Err(ApiError::NotSupported { what: "the parameter `size` of GET /containers/json".to_owned() });
        }
        let filters = parameters.filters()?;
        for name in filters.names() {
            if NOT_YET.contains(&name) {
                return Err(ApiError::NotSupported { what: format!("the filter `{name}` of GET /containers/json") });
            }
            if !["status", "label", "name", "id"].contains(&name) {
                return Err(DecodeError::Filter { name: name.to_owned() }.into());
            }
        }
        if let Some(wrong) = filters.values("status").iter().find(|value| !STATES.contains(&value.as_str())) {
            return Err(DecodeError::FilterValue { name: "status", value: wrong.clone() }.into());
        }
        let limit =
            parameters.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|&limit| limit > 0);
        let patterns = |name: &str| filters.values(name).iter().map(|text| Pattern::new(text)).collect();
        let (names, ids) = (patterns("name"), patterns("id"));
        // Who asks for the newest few or for states means all containers, not only those that run.
        let all = parameters.flag("all") || limit.is_some() || !filters.values("status").is_empty();
        Ok(Self { all, limit, filters, names, ids })
    }

    /// The containers that are meant, the newest first.
    pub fn select(&self, mut containers: Vec<Container>) -> Vec<Container> {
        containers.retain(|container| self.wants(container));
        containers.sort_by(|one, other| (other.created_at, &other.id).cmp(&(one.created_at, &one.id)));
        containers.truncate(self.limit.unwrap_or(usize::MAX));
        containers
    }

    fn wants(&self, container: &Container) -> bool {
        let status = status(&container.state);
        let states = self.filters.values("status");
        let slashed = format!("/{}", container.name);
        let any = |patterns: &[Pattern], words: &[&str]| {
            patterns.is_empty() || patterns.iter().any(|pattern| words.iter().any(|word| pattern.matches(word)))
        };
        (self.all || status == "running")
            && (states.is_empty() || states.iter().any(|wanted| wanted == status))
            && self.filters.match_labels(|key| container.labels.get(key).map(String::as_str))
            && any(&self.names, &[&container.name, &slashed])
            && any(&self.ids, &[container.id.as_str()])
    }
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
        let selected = request.select(vec![web, store, sample("bb33", "new", ContainerState::Created)]);
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
    }

    #[test]
    fn what_cannot_be_answered_is_refused() {
        let refused = |text: &str| {
            let parameters = Parameters::new(vec![("filters".to_owned(), text.to_owned())]);
            ListRequest::decode(&parameters).err().unwrap()
        };
        assert_eq!(refused(r#"{"ancestor":["busybox"]}"#).status(), 501);
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
