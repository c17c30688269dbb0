//! Pure. What happens to containers, as Docker tells it.

use std::collections::HashMap;

use bollard_stubs::models::{EventActor, EventMessage, EventMessageScopeEnum, EventMessageTypeEnum};
use serde::Serialize;
use stack_engine::container::{Event, EventKind, Health};

use super::text::signed;
use crate::decode::{DecodeError, Filters};
use crate::error::ApiError;

/// What an event says about its container, also when that is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actor {
    /// For people.
    pub name: String,
    /// As it was asked for.
    pub image: String,
    /// Its labels.
    pub labels: Vec<(String, String)>,
}

/// An event, with the fields that clients older than the current form read.
#[derive(Debug, Serialize)]
pub struct Message {
    status: String,
    id: String,
    from: String,
    #[serde(flatten)]
    message: EventMessage,
}

/// The messages of one event: an end for want of memory is two.
pub fn messages(event: &Event, actor: &Actor) -> Vec<Message> {
    let actions: Vec<(&str, Option<i32>)> = match &event.kind {
        EventKind::Created => vec![("create", None)],
        EventKind::Started => vec![("start", None)],
        EventKind::Exited(status) if status.oom => vec![("oom", None), ("die", Some(status.code))],
        EventKind::Exited(status) => vec![("die", Some(status.code))],
        // It begins so, which is no change.
        EventKind::Health(Health::Starting) => Vec::new(),
        EventKind::Health(Health::Healthy) => vec![("health_status: healthy", None)],
        EventKind::Health(Health::Unhealthy) => vec![("health_status: unhealthy", None)],
        EventKind::Removed => vec![("destroy", None)],
    };
    let message = |(action, code): (&str, Option<i32>)| {
        let mut attributes: HashMap<String, String> = actor.labels.iter().cloned().collect();
        attributes.insert("name".to_owned(), actor.name.clone());
        attributes.insert("image".to_owned(), actor.image.clone());
        if let Some(code) = code {
            attributes.insert("exitCode".to_owned(), code.to_string());
        }
        Message {
            status: action.to_owned(),
            id: event.id.to_string(),
            from: actor.image.clone(),
            message: EventMessage {
                typ: Some(EventMessageTypeEnum::CONTAINER),
                action: Some(action.to_owned()),
                actor: Some(EventActor { id: Some(event.id.to_string()), attributes: Some(attributes) }),
                scope: Some(EventMessageScopeEnum::LOCAL),
                time: Some(signed(event.time / 1000)),
                time_nano: Some(signed(event.time.saturating_mul(1_000_000))),
            },
        }
    };
    actions.into_iter().map(message).collect()
}

/// Which events are asked for.
#[derive(Debug, Default)]
pub struct EventFilter(Filters);

impl EventFilter {
    /// Reads the filters of `/events`.
    pub fn decode(filters: Filters) -> Result<Self, ApiError> {
        for name in filters.names() {
            match name {
                "type" | "container" | "event" | "label" | "image" => {}
                "config" | "daemon" | "network" | "node" | "plugin" | "scope" | "secret" | "service" | "volume" => {
                    return Err(ApiError::NotSupported { what: format!("the filter `{name}` of GET /events") });
                }
                other => return Err(DecodeError::Filter { name: other.to_owned() }.into()),
            }
        }
        Ok(Self(filters))
    }

    /// Whether a message is asked for.
    pub fn wants(&self, message: &Message, actor: &Actor) -> bool {
        let any = |name: &str, matches: &dyn Fn(&str) -> bool| {
            let values = self.0.values(name);
            values.is_empty() || values.iter().any(|value| matches(value))
        };
        let label = |key: &str| actor.labels.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        any("type", &|value| value == "container")
            && any("container", &|value| value.trim_start_matches('/') == actor.name || message.id.starts_with(value))
            && any("event", &|value| message.status == value || message.status.starts_with(&format!("{value}:")))
            && any("image", &|value| value == actor.image)
            && self.0.match_labels(label)
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{TIME, exited};
    use super::*;
    use crate::decode::Parameters;
    use stack_engine::container::ContainerState;

    fn ended(oom: bool) -> Event {
        let ContainerState::Exited(mut status) = exited(137) else { panic!("it has ended") };
        status.oom = oom;
        Event { id: "aa11".parse().unwrap(), time: TIME, kind: EventKind::Exited(status) }
    }

    fn actor() -> Actor {
        let labels = vec![("tier".to_owned(), "front".to_owned())];
        Actor { name: "web".to_owned(), image: "made:1".to_owned(), labels }
    }

    #[test]
    fn an_end_is_told_with_its_code() {
        let all = messages(&ended(true), &actor());
        let words: Vec<&str> = all.iter().map(|message| message.status.as_str()).collect();
        assert_eq!(words, ["oom", "die"]);
        let document = serde_json::to_value(&all[1]).unwrap();
        assert_eq!(document["Type"], "container");
        assert_eq!((&document["Action"], &document["status"]), (&"die".into(), &"die".into()));
        assert_eq!(document["Actor"]["Attributes"]["exitCode"], "137");
        assert_eq!(document["Actor"]["Attributes"]["tier"], "front");
        assert_eq!(document["timeNano"], 1_700_000_000_000_000_000_i64);
    }

    #[test]
    fn filters_choose() {
        let message = &messages(&ended(false), &actor())[0];
        let wants = |text: &str| {
            let parameters = Parameters::new(vec![("filters".to_owned(), text.to_owned())]);
            EventFilter::decode(parameters.filters().unwrap()).unwrap().wants(message, &actor())
        };
        for yes in [
            r#"{}"#,
            r#"{"type":["container"],"event":["die"]}"#,
            r#"{"container":["web"]}"#,
            r#"{"container":["aa"]}"#,
            r#"{"label":["tier"]}"#,
        ] {
            assert!(wants(yes), "{yes}");
        }
        for no in [
            r#"{"type":["image"]}"#,
            r#"{"event":["start"]}"#,
            r#"{"container":["db"]}"#,
            r#"{"label":["tier=x"]}"#,
            r#"{"image":["x"]}"#,
        ] {
            assert!(!wants(no), "{no}");
        }
        let refused = |text: &str| {
            let parameters = Parameters::new(vec![("filters".to_owned(), text.to_owned())]);
            EventFilter::decode(parameters.filters().unwrap()).unwrap_err().status()
        };
        assert_eq!((refused(r#"{"node":["a"]}"#).as_u16(), refused(r#"{"x":["a"]}"#).as_u16()), (501, 400));
    }
}
