//! Pure. What happens to containers, as Docker tells it.

use std::collections::HashMap;

use bollard_stubs::models::{EventActor, EventMessage, EventMessageScopeEnum, EventMessageTypeEnum};
use serde::Serialize;
use stack_engine::container::{Event, EventKind, EventSubject, Health};

use super::text::signed;
use crate::decode::{DecodeError, Filters};
use crate::error::ApiError;

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
pub fn messages(event: &Event) -> Vec<Message> {
    let actor = &event.subject;
    let plain = |action: &str| vec![(action.to_owned(), Vec::new())];
    let with = |action: String, attributes: &[(&'static str, String)]| vec![(action, attributes.to_vec())];
    let actions: Vec<(String, Vec<(&str, String)>)> = match &event.kind {
        EventKind::Created => plain("create"),
        EventKind::Started => plain("start"),
        EventKind::Exited(status) => {
            let mut all = if status.oom { plain("oom") } else { Vec::new() };
            all.extend(with("die".to_owned(), &[("exitCode", status.code.to_string())]));
            all
        }
        // It begins so, which is no change.
        EventKind::Health(Health::Starting) => Vec::new(),
        EventKind::Health(Health::Healthy) => plain("health_status: healthy"),
        EventKind::Health(Health::Unhealthy) => plain("health_status: unhealthy"),
        EventKind::Removed => plain("destroy"),
        EventKind::Killed { signal } => with("kill".to_owned(), &[("signal", signal.to_string())]),
        EventKind::Stopped => plain("stop"),
        EventKind::Restarted => plain("restart"),
        EventKind::Paused => plain("pause"),
        EventKind::Unpaused => plain("unpause"),
        EventKind::Renamed { before } => with("rename".to_owned(), &[("oldName", format!("/{before}"))]),
        EventKind::Updated => plain("update"),
        EventKind::Archived => plain("archive-path"),
        EventKind::Extracted => plain("extract-to-dir"),
        EventKind::Exported => plain("export"),
        EventKind::Committed { image, name } => with(
            "commit".to_owned(),
            &[("comment", String::new()), ("imageID", image.clone()), ("imageRef", name.clone())],
        ),
        EventKind::Attached => plain("attach"),
        EventKind::Detached => plain("detach"),
        EventKind::Resized(size) => {
            let size = [("height", size.rows.to_string()), ("width", size.columns.to_string())];
            with("resize".to_owned(), &size)
        }
        EventKind::ExecCreated { exec, command } => {
            with(format!("exec_create: {command}"), &[("execID", exec.to_string())])
        }
        EventKind::ExecStarted { exec, command } => {
            with(format!("exec_start: {command}"), &[("execID", exec.to_string())])
        }
        EventKind::ExecDetached { exec } => with("exec_detach".to_owned(), &[("execID", exec.to_string())]),
        EventKind::ExecEnded { exec, code } => {
            let mut all = vec![("execID", exec.to_string())];
            all.extend(code.map(|code| ("exitCode", code.to_string())));
            with("exec_die".to_owned(), &all)
        }
    };
    let message = |(action, more): (String, Vec<(&str, String)>)| {
        let mut attributes: HashMap<String, String> = actor.labels.clone().into_iter().collect();
        attributes.insert("name".to_owned(), actor.name.clone());
        attributes.insert("image".to_owned(), actor.image.clone());
        attributes.extend(more.into_iter().map(|(key, value)| (key.to_owned(), value)));
        Message {
            status: action.clone(),
            id: event.id.to_string(),
            from: actor.image.clone(),
            message: EventMessage {
                typ: Some(EventMessageTypeEnum::CONTAINER),
                action: Some(action),
                actor: Some(EventActor { id: Some(event.id.to_string()), attributes: Some(attributes) }),
                scope: Some(EventMessageScopeEnum::LOCAL),
                time: Some(signed(event.time / 1_000_000_000)),
                time_nano: Some(signed(event.time)),
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
                // Of these this daemon has no events, so nothing fits.
                "config" | "daemon" | "network" | "node" | "plugin" | "secret" | "service" | "volume" => {}
                "scope" => {}
                other => return Err(DecodeError::Filter { name: other.to_owned() }.into()),
            }
        }
        Ok(Self(filters))
    }

    /// Whether a message is asked for.
    pub fn wants(&self, message: &Message, actor: &EventSubject) -> bool {
        let any = |name: &str, matches: &dyn Fn(&str) -> bool| {
            let values = self.0.values(name);
            values.is_empty() || values.iter().any(|value| matches(value))
        };
        let label = |key: &str| actor.labels.get(key).map(String::as_str);
        let others = ["config", "daemon", "network", "node", "plugin", "secret", "service", "volume"];
        any("type", &|value| value == "container")
            && any("scope", &|value| value == "local")
            && others.iter().all(|other| self.0.values(other).is_empty())
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
    use std::sync::Arc;

    fn ended(oom: bool) -> Event {
        let ContainerState::Exited(mut status) = exited(137) else { panic!("it has ended") };
        status.oom = oom;
        Event {
            id: "aa11".parse().unwrap(),
            time: TIME * 1_000_000,
            kind: EventKind::Exited(status),
            subject: Arc::new(actor()),
        }
    }

    fn actor() -> EventSubject {
        let labels = [("tier".to_owned(), "front".to_owned())].into();
        EventSubject { name: "web".to_owned(), image: "made:1".to_owned(), labels }
    }

    #[test]
    fn an_end_is_told_with_its_code() {
        let all = messages(&ended(true));
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
        let message = &messages(&ended(false))[0];
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
            r#"{"node":["a"]}"#,
            r#"{"scope":["swarm"]}"#,
        ] {
            assert!(!wants(no), "{no}");
        }
        let refused = |text: &str| {
            let parameters = Parameters::new(vec![("filters".to_owned(), text.to_owned())]);
            EventFilter::decode(parameters.filters().unwrap()).unwrap_err().status()
        };
        assert_eq!(refused(r#"{"x":["a"]}"#).as_u16(), 400);
    }
}
