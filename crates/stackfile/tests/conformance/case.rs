//! One case: its inputs through the public interface, its result against what is expected.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use stack_stackfile::{
    CanonicalOptions, Environment, FileError, Files, Source, SourceFile, canonical, docker_stack, dotenv, render_all,
};

use crate::expect;

/// The ids of all cases.
pub fn all(directory: &Path) -> Vec<String> {
    let mut ids = Vec::new();
    for category in std::fs::read_dir(directory).expect("the data is readable").flatten() {
        for case in std::fs::read_dir(category.path()).into_iter().flatten().flatten() {
            if case.path().join("case.json").is_file() {
                ids.push(format!("{}/{}", category.file_name().to_string_lossy(), case.file_name().to_string_lossy()));
            }
        }
    }
    ids.sort();
    ids
}

struct Case {
    directory: PathBuf,
    fixtures: PathBuf,
    json: Value,
}

/// Reads files of the disk: what the command line does for real.
struct Disk {
    current: PathBuf,
}

impl Files for Disk {
    fn read(&self, path: &str) -> Result<String, FileError> {
        std::fs::read_to_string(self.current.join(path)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => FileError::NotFound,
            _ => FileError::Other(error.to_string()),
        })
    }
}

type Outcome = Result<Value, String>;

/// Runs one case.
pub fn run(data: &Path, id: &str) -> Result<(), String> {
    let directory = data.join(id);
    let text = std::fs::read_to_string(directory.join("case.json")).map_err(|error| error.to_string())?;
    let json: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let case = Case { directory, fixtures: data.join("_fixtures"), json };
    let outcome = match case.text("op") {
        "load" => case.load(),
        "merge" | "unicity" => case.merged(),
        "interpolate" => case.interpolate(),
        "template" => case.template(),
        "dotenv" => case.dotenv(),
        "short-volume" => case.in_service("volumes", json!([case.json["input"]])).map(|list| list[0].clone()),
        "short-port" => case.in_service("ports", json!([case.json["input"]])),
        "hosts-list" => case.in_service("extra_hosts", case.json["input"].clone()).map(|list| hosts(&list)),
        "bytes" => case
            .in_service("memswap_limit", case.json["input"].clone())
            .map(|text| text.as_str().and_then(|text| text.parse::<i64>().ok()).map_or(Value::Null, Value::from)),
        "transform" => case.transform(),
        "normalize" => case.normalize(),
        "schema" => case.schema(),
        "validate" => case.validate(),
        "consistency" => case.consistency(),
        other => Err(format!("the operation {other} is not known")),
    };
    case.judge(outcome)
}

fn hosts(list: &Value) -> Value {
    let mut hosts: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in list.as_array().into_iter().flatten() {
        let (name, address) = line.as_str().unwrap_or_default().split_once('=').unwrap_or_default();
        hosts.entry(name.to_owned()).or_default().push(address.into());
    }
    json!(hosts)
}

/// The reference leaves out that an environment file is required, which is the default.
fn leave_out_defaults(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for item in object.get_mut("env_file").and_then(Value::as_array_mut).into_iter().flatten() {
                if item["required"] == Value::Bool(true) {
                    item.as_object_mut().expect("it has a key").remove("required");
                }
            }
            object.values_mut().for_each(leave_out_defaults);
        }
        Value::Array(items) => items.iter_mut().for_each(leave_out_defaults),
        _ => {}
    }
}

fn without_extensions(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|key, _| !key.starts_with("x-"));
            object.values_mut().for_each(without_extensions);
        }
        Value::Array(items) => items.iter_mut().for_each(without_extensions),
        _ => {}
    }
}

impl Case {
    fn text(&self, key: &str) -> &str {
        self.json[key].as_str().unwrap_or_default()
    }

    fn resolved(&self, text: &str) -> String {
        text.replace("${FIXTURES}", &self.fixtures.to_string_lossy())
            .replace("${CASE}", &self.directory.to_string_lossy())
    }

    fn resolved_value(&self, value: &Value) -> Value {
        let text = serde_json::to_string(value).expect("it is JSON");
        serde_json::from_str(&self.resolved(&text)).expect("it stays JSON")
    }

    fn environment(&self) -> Environment {
        let variables = self.json["env"].as_object().cloned().unwrap_or_default();
        // The reference's tests run with this one set, which the data does not keep.
        let home = (self.text("op") == "load").then(|| ("HOME".to_owned(), "/home/foo".to_owned()));
        home.into_iter()
            .chain(variables.into_iter().filter_map(|(name, value)| Some((name, self.resolved(value.as_str()?)))))
            .collect()
    }

    fn inputs(&self) -> Vec<(String, String)> {
        self.json["inputs"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|name| {
                let name = name.as_str().expect("an input is a file name");
                let text = std::fs::read_to_string(self.directory.join(name)).expect("the input is readable");
                (name.to_owned(), text)
            })
            .collect()
    }

    fn flag(&self, key: &str) -> bool {
        self.json["options"][key].as_bool().unwrap_or(false)
    }

    fn texts(&self, key: &str) -> Vec<String> {
        let list = self.json["options"][key].as_array();
        list.into_iter().flatten().filter_map(|value| value.as_str().map(str::to_owned)).collect()
    }

    fn canonical(&self, inputs: &[(String, String)], name: Option<&str>, options: &CanonicalOptions) -> Outcome {
        let directory = match (self.text("working_dir"), self.text("cwd")) {
            ("", "") => "/project".to_owned(),
            ("", current) => self.resolved(current),
            (working, _) => self.resolved(working),
        };
        let files: Vec<SourceFile<'_>> = inputs.iter().map(|(name, text)| SourceFile { name, text }).collect();
        let profiles = self.texts("profiles");
        let current = if self.text("cwd").is_empty() { directory.clone() } else { self.resolved(self.text("cwd")) };
        let reader = Disk { current: PathBuf::from(current) };
        // Without a working directory there is nothing to take a name from.
        let nameless = self.text("op") == "load" && self.text("working_dir").is_empty();
        let source = Source {
            files: &files,
            directory: if nameless { "" } else { &directory },
            name,
            profiles: &profiles,
            reader: &reader,
        };
        canonical(source, &self.environment(), options)
            .map(|canonical| canonical.to_json())
            .map_err(|diagnostics| render_all(&diagnostics))
    }

    fn load(&self) -> Outcome {
        let stack_rules = self.text("cwd").contains("docker-cli");
        let options = CanonicalOptions {
            interpolate: !self.flag("skip_interpolation"),
            normalize: !self.flag("skip_normalization") && !stack_rules,
            resolve_paths: self.flag("resolve_paths") || (stack_rules && !self.text("working_dir").is_empty()),
            check_consistency: !self.flag("skip_consistency_check") && !stack_rules,
            resolve_environment: true,
            discard_environment_files: self.flag("discard_env_files"),
            services: self.texts("selected_services"),
            prune: self.flag("prune"),
        };
        // A name that is not imperative is what the reference falls back to.
        let named = self.inputs().iter().any(|(_, text)| text.lines().any(|line| line.starts_with("name:")));
        let imperative = self.flag("project_name_imperative") || !named;
        let name = self.json["options"]["project_name"].as_str().filter(|_| imperative);
        let name = if stack_rules { Some("stack") } else { name };
        if stack_rules {
            Self::check_docker_stack(&self.inputs())?;
        }
        self.canonical(&self.inputs(), name, &options)
    }

    fn bare() -> CanonicalOptions {
        CanonicalOptions {
            interpolate: false,
            normalize: false,
            resolve_paths: false,
            check_consistency: false,
            resolve_environment: false,
            ..CanonicalOptions::default()
        }
    }

    fn merged(&self) -> Outcome {
        self.canonical(&self.inputs(), Some("test"), &Self::bare())
    }

    fn document(&self, document: &Value, options: &CanonicalOptions) -> Outcome {
        self.canonical(&[("input.json".to_owned(), document.to_string())], None, options)
    }

    fn interpolate(&self) -> Outcome {
        // The paths of these cases are those of no stack file, but for the section that they begin with. Casts are
        // what the types of keys do: `replicas` and `required` in place of the case's own paths.
        if !self.json["input"]["foo"]["replicas"].is_null() {
            return self.casts();
        }
        let document = json!({"x-input": self.json["input"]});
        self.document(&document, &CanonicalOptions { interpolate: true, ..Self::bare() })
            .map(|result| result["x-input"].clone())
    }

    fn casts(&self) -> Outcome {
        let input = &self.json["input"]["foo"];
        let mut service = json!({"image": "foo", "deploy": {"replicas": input["replicas"]}});
        if !input["required"].is_null() {
            service["env_file"] = json!([{"path": "foo", "required": input["required"]}]);
        }
        let document = json!({"services": {"foo": service}});
        let result = self.document(&document, &CanonicalOptions { interpolate: true, ..Self::bare() })?;
        let service = &result["services"]["foo"];
        let mut cast = json!({"replicas": service["deploy"]["replicas"]});
        if !input["required"].is_null() {
            cast["required"] = service["env_file"][0]["required"].clone();
        }
        Ok(json!({"foo": cast}))
    }

    fn template(&self) -> Outcome {
        let document = json!({"x-input": self.json["input"]});
        self.document(&document, &CanonicalOptions { interpolate: true, ..Self::bare() })
            .map(|result| result["x-input"].clone())
    }

    fn dotenv(&self) -> Outcome {
        let environment = self.environment();
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        for (_, text) in self.inputs() {
            let outside = |name: &str| environment.get(name).map(str::to_owned);
            let read =
                dotenv::parse(&text, &outside, &|name| values.get(name).cloned()).map_err(|error| error.to_string())?;
            values.extend(read.values);
        }
        Ok(json!(values))
    }

    fn in_service(&self, key: &str, value: Value) -> Outcome {
        let document = json!({"services": {"test": {"image": "test", key: value}}});
        self.document(&document, &Self::bare()).map(|result| result["services"]["test"][key].clone())
    }

    fn at_path(&self, path: &str, value: Value) -> (Value, Vec<String>) {
        let mut keys: Vec<String> = Vec::new();
        for part in path.split('.') {
            match part.split_once('[') {
                Some((key, _)) => keys.extend([key.to_owned(), "[]".to_owned()]),
                None => keys.push(part.to_owned()),
            }
        }
        let mut document = value;
        for key in keys.iter().rev() {
            document =
                if key == "[]" { json!([document]) } else { Value::Object(Map::from_iter([(key.clone(), document)])) };
        }
        (document, keys)
    }

    fn transform(&self) -> Outcome {
        // The reference calls single functions, some with a path that no stack file has.
        let path = match self.text("fn") {
            "portDefaults" => "services.foo.ports[]",
            "transformSSH" => "services.foo.build.ssh",
            "transformEnvFile" => "services.foo.env_file",
            "transformMaybeExternal" => "networks.foo",
            _ => self.text("path"),
        };
        let (document, keys) = self.at_path(path, self.json["input"].clone());
        let mut result = self.document(&document, &Self::bare())?;
        for key in keys {
            result = if key == "[]" { result[0].clone() } else { result[key].clone() };
        }
        Ok(result)
    }

    fn normalize(&self) -> Outcome {
        let options = CanonicalOptions { normalize: true, ..Self::bare() };
        // The reference's test calls this step alone, with a name that no loader takes.
        let text = self.json["input"].to_string().replace("myProject", "myproject");
        self.canonical(&[("input.json".to_owned(), text)], None, &options)
    }

    /// What `stack check --docker-stack` adds.
    fn check_docker_stack(inputs: &[(String, String)]) -> Result<(), String> {
        let files: Vec<SourceFile<'_>> = inputs.iter().map(|(name, text)| SourceFile { name, text }).collect();
        let said = docker_stack(&files);
        if said.is_empty() { Ok(()) } else { Err(render_all(&said)) }
    }

    fn schema(&self) -> Outcome {
        // docker/cli is told the version beside the file.
        if let Some(version) = self.json["schema_version"].as_str().filter(|version| !version.is_empty()) {
            Self::check_docker_stack(&[("input.json".to_owned(), json!({ "version": version }).to_string())])?;
        }
        self.canonical(&self.inputs(), Some("test"), &Self::bare())
    }

    fn consistency(&self) -> Outcome {
        let options = CanonicalOptions { check_consistency: true, ..Self::bare() };
        self.canonical(&self.inputs(), Some("test"), &options)
    }

    fn validate(&self) -> Outcome {
        let (_, text) = &self.inputs()[0];
        let value: Value = serde_yaml::from_str(text).expect("the input is YAML");
        let (mut document, _) = self.at_path(self.text("path"), value);
        if let Some(service) = document.pointer_mut("/services/test").and_then(Value::as_object_mut) {
            service.insert("image".to_owned(), "test".into());
        }
        let options = CanonicalOptions { check_consistency: true, ..Self::bare() };
        self.canonical(&[("input.json".to_owned(), document.to_string())], Some("test"), &options)
    }

    fn judge(&self, outcome: Outcome) -> Result<(), String> {
        let expected = &self.json["expect"];
        let kind = expected["kind"].as_str().unwrap_or_default();
        match (kind, outcome) {
            ("error", Err(_)) | ("valid", Ok(_)) => Ok(()),
            ("error", Ok(value)) => Err(format!("accepted, and must be refused ({}): {value}", expected["error"])),
            ("has-source", outcome) => {
                let has = outcome.is_ok_and(|volume| volume["source"].is_string());
                let wanted = expected["has_source"].as_bool().unwrap_or(false);
                if has == wanted { Ok(()) } else { Err(format!("has a source: {has}, expected {wanted}")) }
            }
            (_, Err(text)) => Err(format!("refused, and must be accepted:\n{text}")),
            ("value", Ok(value)) => expect::same(&self.expected_value(&expected["value"])?, &self.compared(value)?),
            ("subset", Ok(value)) => {
                for (key, wanted) in expected["value"].as_object().into_iter().flatten() {
                    expect::same(wanted, &value[key])?;
                }
                Ok(())
            }
            ("file", Ok(value)) => {
                let name = expected["file"].as_str().unwrap_or_default();
                let text = std::fs::read_to_string(self.directory.join(name)).map_err(|error| error.to_string())?;
                let wanted = self.canonical(&[(name.to_owned(), text)], Some("test"), &Self::bare())?;
                expect::same(&wanted, &value)
            }
            ("pointers", Ok(value)) => self.pointers(&value),
            (kind, Ok(_)) => Err(format!("the expectation {kind} is not known")),
        }
    }

    /// What is expected, in long form where the case writes a short one.
    fn expected_value(&self, value: &Value) -> Result<Value, String> {
        match self.text("op") {
            "normalize" => {
                let text = value.to_string().replace("myProject", "myproject");
                self.canonical(&[("expected.json".to_owned(), text)], None, &Self::bare())
            }
            _ => Ok(self.resolved_value(value)),
        }
    }

    fn compared(&self, value: Value) -> Outcome {
        match self.text("op") {
            // A cast gives a number where the reference keeps the text that it was given.
            "transform" if self.text("fn") == "portDefaults" => {
                let mut value = value;
                if let Some(number) = value["published"].as_str().and_then(|text| text.parse::<i64>().ok()) {
                    value["published"] = number.into();
                }
                Ok(value)
            }
            _ => Ok(value),
        }
    }

    /// The whole canonical output of the reference implementation, where the case has it. It leaves out extensions
    /// within some resources, and all models.
    fn reference(&self, value: &Value) -> Result<(), String> {
        let Ok(text) = std::fs::read_to_string(self.directory.join("reference.json")) else { return Ok(()) };
        let reference: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let compared = |value: &Value| {
            let mut value = self.with_the_version_of(&reference, value.clone());
            leave_out_defaults(&mut value);
            if self.text("cwd").contains("docker-cli") {
                value = self.as_docker_cli_writes(value);
            }
            value.as_object_mut().expect("it is a mapping").remove("models");
            without_extensions(&mut value);
            value
        };
        expect::same(&compared(&self.resolved_value(&reference)), &compared(value))
            .map_err(|difference| format!("the reference's whole output: {difference}"))
    }

    fn pointers(&self, value: &Value) -> Result<(), String> {
        self.reference(value)?;
        let expected = &self.json["expect"];
        for (pointer, wanted) in expected["pointers"].as_object().into_iter().flatten() {
            let found = value.pointer(pointer).cloned().unwrap_or(Value::Null);
            let wanted = self.resolved_value(wanted);
            let mut found = self.with_the_version_of(&wanted, found);
            leave_out_defaults(&mut found);
            let mut wanted = wanted;
            if self.text("cwd").contains("docker-cli") {
                found = self.as_docker_cli_writes(found);
                wanted = self.as_docker_cli_writes(wanted);
            }
            expect::same(&wanted, &found).map_err(|difference| format!("{pointer}: {difference}"))?;
        }
        for (pointer, length) in expected["lengths"].as_object().into_iter().flatten() {
            let found = match value.pointer(pointer) {
                Some(Value::Array(items)) => items.len(),
                Some(Value::Object(object)) => object.len(),
                _ => 0,
            };
            if length.as_u64() != u64::try_from(found).ok() {
                return Err(format!("{pointer}: expected {length} items, found {found}"));
            }
        }
        for pointer in expected["absent"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let found = value.pointer(pointer).unwrap_or(&Value::Null);
            if !expect::is_nothing(found) {
                return Err(format!("{pointer}: expected nothing, found {found}"));
            }
        }
        Ok(())
    }

    /// A stack of docker/cli keeps the obsolete `version` and has no name, which this loader gives it.
    fn with_the_version_of(&self, wanted: &Value, mut found: Value) -> Value {
        if self.text("cwd").contains("docker-cli")
            && let (Some(wanted), Some(found)) = (wanted.as_object(), found.as_object_mut())
            && let Some(version) = wanted.get("version")
        {
            found.insert("version".to_owned(), version.clone());
            found.remove("name");
        }
        found
    }

    /// What docker/cli writes otherwise and means the same: the published port as a number, defaults of ports and the
    /// target of a secret left out, lists sorted.
    fn as_docker_cli_writes(&self, mut found: Value) -> Value {
        let services = found.pointer_mut("/services").and_then(Value::as_object_mut);
        for service in services.into_iter().flat_map(|services| services.values_mut()) {
            let ports = service.get_mut("ports").and_then(Value::as_array_mut);
            for ports in ports.into_iter() {
                for port in ports.iter_mut().filter_map(Value::as_object_mut) {
                    if let Some(number) =
                        port.get("published").and_then(Value::as_str).and_then(|text| text.parse::<u16>().ok())
                    {
                        port.insert("published".to_owned(), number.into());
                    }
                    for (key, default) in [("mode", "ingress"), ("protocol", "tcp")] {
                        if port.get(key).and_then(Value::as_str) == Some(default) {
                            port.remove(key);
                        }
                    }
                }
                ports.sort_by_key(|port| port["published"].as_u64());
            }
            for key in ["secrets", "configs"] {
                let Some(items) = service.get_mut(key).and_then(Value::as_array_mut) else { continue };
                items.sort_by_key(|item| item["source"].to_string());
                for item in items.iter_mut().filter_map(Value::as_object_mut) {
                    let source = item["source"].as_str().unwrap_or_default();
                    if item.get("target").and_then(Value::as_str) == Some(&format!("/run/secrets/{source}")) {
                        item.remove("target");
                    }
                }
            }
        }
        found
    }
}
