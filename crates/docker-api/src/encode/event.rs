//! Pure. What happens to containers, as Docker tells it.

use std::collections::HashMap;

use bollard_stubs::models::{EventActor, EventMessage, EventMessageScopeEnum, EventMessageTypeEnum};
use serde::Serialize;
use stack_engine::container::{EventKind, Health};
use stack_engine::events::{Event, Happening, ImageEvent, NetworkEvent, Pruned, VolumeEvent};

use super::text::signed;
use crate::decode::{DecodeError, Filters};
use crate::error::ApiError;

/// An event, with the fields that clients older than the current form read.
#[derive(Debug, Serialize)]
pub struct Message {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(flatten)]
    message: EventMessage,
}

type Attributes = Vec<(&'static str, String)>;

/// The words for what happened to a container: an end for want of memory is two messages.
fn of_container(kind: &EventKind) -> Vec<(String, Attributes)> {
    let plain = |action: &str| vec![(action.to_owned(), Vec::new())];
    let with = |action: String, attributes: &[(&'static str, String)]| vec![(action, attributes.to_vec())];
    match kind {
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
    }
}

fn of_image(kind: ImageEvent) -> &'static str {
    match kind {
        ImageEvent::Pulled => "pull",
        ImageEvent::Pushed => "push",
        ImageEvent::Tagged => "tag",
        ImageEvent::Untagged => "untag",
        ImageEvent::Removed => "delete",
        ImageEvent::Loaded => "load",
        ImageEvent::Imported => "import",
        ImageEvent::Saved => "save",
    }
}

fn of_volume(kind: &VolumeEvent) -> (&'static str, Attributes) {
    let mut attributes = vec![("driver", "local".to_owned())];
    let action = match kind {
        VolumeEvent::Created => "create",
        VolumeEvent::Mounted { container, target, read_only } => {
            attributes.extend([
                ("container", container.to_string()),
                ("destination", target.clone()),
                ("propagation", String::new()),
                ("read/write", (!read_only).to_string()),
            ]);
            "mount"
        }
        VolumeEvent::Unmounted { container } => {
            attributes.push(("container", container.to_string()));
            "unmount"
        }
        VolumeEvent::Removed => "destroy",
    };
    (action, attributes)
}

fn of_network(name: &str, driver: &str, kind: &NetworkEvent) -> (&'static str, Attributes) {
    let mut attributes = vec![("name", name.to_owned()), ("type", driver.to_owned())];
    let (action, container) = match kind {
        NetworkEvent::Created => ("create", None),
        NetworkEvent::Connected { container } => ("connect", Some(container)),
        NetworkEvent::Disconnected { container } => ("disconnect", Some(container)),
        NetworkEvent::Removed => ("destroy", None),
    };
    attributes.extend(container.map(|container| ("container", container.to_string())));
    (action, attributes)
}

/// The messages of one event.
pub fn messages(event: &Event) -> Vec<Message> {
    use EventMessageTypeEnum as Type;
    let plain = |typ, action: &str, id: &str, attributes: Attributes| {
        vec![message(event.time, typ, action.to_owned(), id, own(attributes))]
    };
    match &event.what {
        Happening::Container { id, kind, subject } => of_container(kind)
            .into_iter()
            .map(|(action, more)| {
                let mut attributes: HashMap<String, String> = subject.labels.clone().into_iter().collect();
                attributes.insert("name".to_owned(), subject.name.clone());
                attributes.insert("image".to_owned(), subject.image.clone());
                attributes.extend(own(more));
                let mut made = message(event.time, Type::CONTAINER, action, id.as_str(), attributes);
                made.from = Some(subject.image.clone());
                made
            })
            .collect(),
        Happening::Image { id, name, labels, kind } => {
            let mut attributes: HashMap<String, String> = labels.clone().into_iter().collect();
            attributes.insert("name".to_owned(), name.clone());
            vec![message(event.time, Type::IMAGE, of_image(*kind).to_owned(), id, attributes)]
        }
        Happening::Volume { name, kind } => {
            let (action, attributes) = of_volume(kind);
            plain(Type::VOLUME, action, name, attributes)
        }
        Happening::Network { id, name, driver, kind } => {
            let (action, attributes) = of_network(name, driver, kind);
            plain(Type::NETWORK, action, id, attributes)
        }
        Happening::Pruned { of, freed_bytes } => {
            let typ = match of {
                Pruned::Containers => Type::CONTAINER,
                Pruned::Images => Type::IMAGE,
                Pruned::Networks => Type::NETWORK,
                Pruned::Volumes => Type::VOLUME,
            };
            plain(typ, "prune", "", vec![("reclaimed", freed_bytes.to_string())])
        }
    }
}

fn own(attributes: Attributes) -> HashMap<String, String> {
    attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn message(
    time: u64,
    typ: EventMessageTypeEnum,
    action: String,
    id: &str,
    attributes: HashMap<String, String>,
) -> Message {
    // Only containers and images had events when these fields were all that there was.
    let is_old = matches!(typ, EventMessageTypeEnum::CONTAINER | EventMessageTypeEnum::IMAGE) && !id.is_empty();
    Message {
        status: is_old.then(|| action.clone()),
        id: is_old.then(|| id.to_owned()),
        from: None,
        message: EventMessage {
            typ: Some(typ),
            action: Some(action),
            actor: Some(EventActor { id: Some(id.to_owned()), attributes: Some(attributes) }),
            scope: Some(EventMessageScopeEnum::LOCAL),
            time: Some(signed(time / 1_000_000_000)),
            time_nano: Some(signed(time)),
        },
    }
}

/// Which events are asked for.
#[derive(Debug, Default)]
pub struct EventFilter(Filters);

impl EventFilter {
    /// Reads the filters of `/events`.
    pub fn decode(filters: Filters) -> Result<Self, ApiError> {
        for name in filters.names() {
            match name {
                "type" | "container" | "event" | "label" | "image" | "network" | "volume" | "scope" => {}
                // Of these this daemon has no events, so nothing fits.
                "config" | "daemon" | "node" | "plugin" | "secret" | "service" => {}
                other => return Err(DecodeError::Filter { name: other.to_owned() }.into()),
            }
        }
        Ok(Self(filters))
    }

    /// Whether a message is asked for.
    pub fn wants(&self, message: &Message) -> bool {
        let event = &message.message;
        let any = |name: &str, matches: &dyn Fn(&str) -> bool| {
            let values = self.0.values(name);
            values.is_empty() || values.iter().any(|value| matches(value))
        };
        let action = event.action.as_deref().unwrap_or_default();
        let typ = event.typ.map(|typ| typ.to_string()).unwrap_or_default();
        let id = event.actor.as_ref().and_then(|actor| actor.id.as_deref()).unwrap_or_default();
        let attributes = event.actor.as_ref().and_then(|actor| actor.attributes.as_ref());
        let attribute = |key: &str| attributes.and_then(|all| all.get(key)).map(String::as_str);
        let name = attribute("name");
        // By its identifier or the beginning of that, or by its name.
        let is_called = |kind: &str, value: &str| {
            typ == kind && !value.is_empty() && (id.starts_with(value) || name == Some(value.trim_start_matches('/')))
        };
        let others = ["config", "daemon", "node", "plugin", "secret", "service"];
        any("type", &|value| value == typ)
            && any("scope", &|value| value == "local")
            && others.iter().all(|other| self.0.values(other).is_empty())
            && any("container", &|value| is_called("container", value))
            && any("network", &|value| is_called("network", value))
            && any("volume", &|value| typ == "volume" && id == value)
            && any("event", &|value| action == value || action.starts_with(&format!("{value}:")))
            && any("image", &|value| {
                let of_container = attribute("image").is_some_and(|image| is_image(image, value));
                (typ == "container" && of_container)
                    || (typ == "image" && (is_image(id, value) || name.is_some_and(|name| is_image(name, value))))
            })
            && self.0.match_labels(attribute)
    }
}

/// Whether an image is called so, with its tag or without.
fn is_image(image: &str, value: &str) -> bool {
    let short = |text: &str| match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name.to_owned(),
        _ => text.to_owned(),
    };
    image == value || short(image) == value
}

#[cfg(test)]
mod tests {
    use super::super::samples::{TIME, exited};
    use super::*;
    use crate::decode::Parameters;
    use stack_engine::container::{ContainerState, EventSubject};
    use std::sync::Arc;

    fn ended(oom: bool) -> Event {
        let ContainerState::Exited(mut status) = exited(137) else { panic!("it has ended") };
        status.oom = oom;
        Event {
            time: TIME * 1_000_000,
            what: Happening::Container {
                id: "aa11".parse().unwrap(),
                kind: EventKind::Exited(status),
                subject: Arc::new(actor()),
            },
        }
    }

    fn actor() -> EventSubject {
        let labels = [("tier".to_owned(), "front".to_owned())].into();
        EventSubject { name: "web".to_owned(), image: "made:1".to_owned(), labels }
    }

    #[test]
    fn an_end_is_told_with_its_code() {
        let all = messages(&ended(true));
        let words: Vec<&str> = all.iter().filter_map(|message| message.status.as_deref()).collect();
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
            EventFilter::decode(parameters.filters().unwrap()).unwrap().wants(message)
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

    fn told(what: Happening) -> Message {
        messages(&Event { time: TIME * 1_000_000, what }).remove(0)
    }

    #[test]
    fn volumes_networks_and_images_are_told_in_dockers_words() {
        let container: stack_engine::container::ContainerId = "aa11".parse().unwrap();
        let kind = VolumeEvent::Mounted { container: container.clone(), target: "/x".to_owned(), read_only: true };
        let volume = told(Happening::Volume { name: "data".to_owned(), kind });
        let document = serde_json::to_value(&volume).unwrap();
        assert_eq!((&document["Type"], &document["Action"]), (&"volume".into(), &"mount".into()));
        assert_eq!(document["Actor"]["Attributes"]["read/write"], "false");
        assert!(document.get("status").is_none());
        let kind = NetworkEvent::Connected { container };
        let network =
            told(Happening::Network { id: "ab12".to_owned(), name: "front".to_owned(), driver: "bridge", kind });
        let image = told(Happening::Image {
            id: "made:1".to_owned(),
            name: "made".to_owned(),
            labels: std::collections::BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            kind: ImageEvent::Pulled,
        });
        assert_eq!(serde_json::to_value(&image).unwrap()["status"], "pull");
        let pruned = told(Happening::Pruned { of: Pruned::Volumes, freed_bytes: 7 });
        assert_eq!(serde_json::to_value(&pruned).unwrap()["Actor"]["Attributes"]["reclaimed"], "7");
        let wants = |text: &str, message: &Message| {
            let parameters = Parameters::new(vec![("filters".to_owned(), text.to_owned())]);
            EventFilter::decode(parameters.filters().unwrap()).unwrap().wants(message)
        };
        for (filter, fitting) in [
            (r#"{"type":["volume"]}"#, [true, false, false, true]),
            (r#"{"volume":["data"]}"#, [true, false, false, false]),
            (r#"{"network":["front"]}"#, [false, true, false, false]),
            (r#"{"network":["ab"],"event":["connect"]}"#, [false, true, false, false]),
            (r#"{"image":["made"]}"#, [false, false, true, false]),
            (r#"{"image":["made:1"],"label":["a=b"]}"#, [false, false, true, false]),
            (r#"{"container":["aa"]}"#, [false, false, false, false]),
            (r#"{"event":["prune"]}"#, [false, false, false, true]),
        ] {
            let found = [&volume, &network, &image, &pruned].map(|message| wants(filter, message));
            assert_eq!(found, fitting, "{filter}");
        }
    }
}
