//! Pure. What the configuration of an image says that is made of a container: what the container has, what the request's body
//! says in its place, and changes in the words of a Dockerfile.

use bollard_stubs::models::ContainerConfig;
use serde_json::{Map, Value, json};
use stack_engine::image::ImportChanges;

/// What of a container's configuration is an image's, too.
const KEPT: [&str; 12] = [
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "OnBuild",
    "Shell",
];

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A list of texts as the set that images have: each a key of its own.
fn as_set(value: Value) -> Value {
    match value {
        Value::Array(list) => {
            list.into_iter().filter_map(|entry| Some((entry.as_str()?.to_owned(), json!({})))).collect()
        }
        other => other,
    }
}

fn name(entry: &Value) -> &str {
    entry.as_str().unwrap_or_default().split('=').next().unwrap_or_default()
}

/// Variables: those of `over` in the place of others of their name.
fn merged_environment(under: Value, over: Vec<Value>) -> Value {
    let mut all = match under {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    for entry in over {
        match all.iter_mut().find(|other| name(other) == name(&entry)) {
            Some(other) => *other = entry,
            None => all.push(entry),
        }
    }
    Value::Array(all)
}

fn put_all(config: &mut Map<String, Value>, key: &str, more: Map<String, Value>) {
    if more.is_empty() {
        return;
    }
    match config.entry(key).or_insert_with(|| json!({})) {
        Value::Object(map) => map.extend(more),
        other => *other = Value::Object(more),
    }
}

/// The configuration of the image. `asked` is the request's body.
pub fn config(own: ContainerConfig, asked: Map<String, Value>, changes: &ImportChanges) -> Map<String, Value> {
    let own = serde_json::to_value(own).unwrap_or_default();
    let mut config = Map::new();
    for key in KEPT {
        let value = own.get(key).cloned().unwrap_or_default();
        let value = if matches!(key, "ExposedPorts" | "Volumes") { as_set(value) } else { value };
        if !is_empty(&value) {
            config.insert(key.to_owned(), value);
        }
    }
    for (key, value) in asked.into_iter().filter(|(key, value)| KEPT.contains(&key.as_str()) && !is_empty(value)) {
        match (key.as_str(), value) {
            ("Env", Value::Array(list)) => {
                let before = config.remove("Env").unwrap_or_default();
                config.insert(key, merged_environment(before, list));
            }
            ("ExposedPorts" | "Volumes", value) => {
                if let Value::Object(more) = as_set(value) {
                    put_all(&mut config, &key, more);
                }
            }
            ("Labels", Value::Object(more)) => put_all(&mut config, "Labels", more),
            (_, value) => {
                config.insert(key, value);
            }
        }
    }
    apply(&mut config, changes);
    config
}

fn apply(config: &mut Map<String, Value>, changes: &ImportChanges) {
    if let Some(entrypoint) = &changes.entrypoint {
        config.insert("Entrypoint".to_owned(), json!(entrypoint));
        // The arguments were the former entrypoint's.
        config.remove("Cmd");
    }
    for (key, value) in [
        ("Cmd", changes.cmd.as_ref().map(|words| json!(words))),
        ("WorkingDir", changes.working_dir.as_ref().map(|path| json!(path))),
        ("User", changes.user.as_ref().map(|user| json!(user))),
        ("StopSignal", changes.stop_signal.as_ref().map(|signal| json!(signal))),
    ] {
        if let Some(value) = value {
            config.insert(key.to_owned(), value);
        }
    }
    if !changes.env.is_empty() {
        let before = config.remove("Env").unwrap_or_default();
        let more = changes.env.iter().map(|entry| json!(entry)).collect();
        config.insert("Env".to_owned(), merged_environment(before, more));
    }
    let port = |port: &String| if port.contains('/') { port.clone() } else { format!("{port}/tcp") };
    put_all(config, "ExposedPorts", changes.exposed_ports.iter().map(|text| (port(text), json!({}))).collect());
    put_all(config, "Volumes", changes.volumes.iter().map(|path| (path.clone(), json!({}))).collect());
    put_all(config, "Labels", changes.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_is_that_of_the_changes() {
        let own = ContainerConfig {
            hostname: Some("abc".to_owned()),
            env: Some(vec!["PATH=/bin".to_owned(), "A=1".to_owned()]),
            cmd: Some(vec!["old".to_owned()]),
            entrypoint: Some(vec!["/run".to_owned()]),
            exposed_ports: Some(vec!["80/tcp".to_owned()]),
            working_dir: Some(String::new()),
            ..ContainerConfig::default()
        };
        let asked = json!({"Env": ["A=2", "B=3"], "Labels": {"x": "y"}, "Hostname": "other", "User": ""});
        let changes = ImportChanges {
            entrypoint: Some(vec!["/other".to_owned()]),
            env: vec!["B=4".to_owned()],
            exposed_ports: vec!["53/udp".to_owned(), "81".to_owned()],
            ..ImportChanges::default()
        };
        let made = config(own.clone(), asked.as_object().unwrap().clone(), &changes);
        assert_eq!(
            Value::Object(made),
            json!({
                "Env": ["PATH=/bin", "A=2", "B=4"],
                "Entrypoint": ["/other"],
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "81/tcp": {}},
                "Labels": {"x": "y"},
            })
        );
        let plain = config(own, Map::new(), &ImportChanges::default());
        assert_eq!(plain["Cmd"], json!(["old"]));
    }
}
