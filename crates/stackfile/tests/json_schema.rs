//! The JSON Schema that `stack schema` prints, tried with a public validator: what an editor says about a file is what
//! `stack check` says, as far as a schema can say it.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]

use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::Value;
use stack_stackfile::json_schema;

fn validator() -> Validator {
    let schema = json_schema();
    jsonschema::draft7::meta::validate(&schema).unwrap_or_else(|error| panic!("it is no schema of draft 7: {error}"));
    jsonschema::draft7::new(&schema).unwrap_or_else(|error| panic!("{error}"))
}

/// A file as an editor reads it: anchors and merge keys resolved, variables left alone.
fn as_an_editor_reads(text: &str) -> Value {
    let mut yaml: serde_yaml::Value = serde_yaml::from_str(text).unwrap();
    yaml.apply_merge().unwrap();
    json(yaml)
}

/// The keys of a JSON object are texts.
fn json(yaml: serde_yaml::Value) -> Value {
    match yaml {
        serde_yaml::Value::Mapping(mapping) => Value::Object(
            mapping
                .into_iter()
                .map(|(key, value)| {
                    let key = key.as_str().map_or_else(|| serde_yaml::to_string(&key).unwrap(), str::to_owned);
                    (key.trim_end().to_owned(), json(value))
                })
                .collect(),
        ),
        serde_yaml::Value::Sequence(items) => items.into_iter().map(json).collect(),
        serde_yaml::Value::Tagged(tagged) => json(tagged.value),
        scalar => serde_json::to_value(scalar).unwrap(),
    }
}

fn problems(validator: &Validator, value: &Value) -> Vec<String> {
    validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

fn stack_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            stack_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yml" || extension == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn files_as_people_write_them_are_valid() {
    let validator = validator();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![here.join("tests/files/everything.yml")];
    stack_files(&here.join("tests/files/real"), &mut files);
    stack_files(&here.join("../../examples"), &mut files);
    assert!(files.len() > 26);
    for path in files {
        let value = as_an_editor_reads(&std::fs::read_to_string(&path).unwrap());
        let problems = problems(&validator, &value);
        assert!(problems.is_empty(), "{}: {problems:#?}", path.display());
    }
}

#[test]
fn what_is_wrong_is_found_at_its_place() {
    let validator = validator();
    for (text, place) in [
        ("services: {web: {imag: nginx}}", "/services/web"),
        ("service: {}", ""),
        ("services: [web]", "/services"),
        ("services: {web: {image: 5}}", "/services/web/image"),
        ("services: {web: {ports: '80:80'}}", "/services/web/ports"),
        ("services: {web: {deploy: {replicas: [1]}}}", "/services/web/deploy/replicas"),
        ("services: {web: {deploy: {update_config: {order: first}}}}", "/services/web/deploy/update_config/order"),
        ("services: {web: {volumes: [{target: /x}]}}", "/services/web/volumes/0"),
        ("services: {'a b': {image: 'a:1'}}", "/services"),
        ("networks: {n: {driverr: x}}", "/networks/n"),
    ] {
        let found = problems(&validator, &as_an_editor_reads(text));
        assert!(found.iter().any(|problem| problem.starts_with(&format!("{place}:"))), "{text}: {found:?}");
    }
}

/// Every key that the specification has takes some value here and a description, and nothing beside them is taken.
#[test]
fn every_key_has_a_description_for_the_editor() {
    fn visit(schema: &Value, path: &str, count: &mut usize) {
        match schema {
            Value::Object(object) => {
                for (name, property) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
                    let description = property["description"].as_str().unwrap_or_default();
                    assert!(description.len() > 5, "{path}.{name} has no description");
                    *count += 1;
                }
                object.iter().for_each(|(key, value)| visit(value, &format!("{path}/{key}"), count));
            }
            Value::Array(items) => items.iter().for_each(|item| visit(item, path, count)),
            _ => {}
        }
    }
    let mut count = 0;
    visit(&json_schema(), "", &mut count);
    assert!(count >= 353, "{count}");
}
