//! What holds for every file: nothing panics, the canonical form parses to itself, merging is associative, and variables
//! that a file does not name are not read.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};
use stack_stackfile::{
    CanonicalOptions, Environment, NoFiles, Source, SourceFile, canonical, parse, reference, render_all,
};

fn environment() -> Environment {
    [("TAG", "1.27"), ("SECRET", "Hunter2"), ("EMPTY", "")]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn with<T>(texts: &[&str], take: impl FnOnce(Source<'_>) -> T) -> T {
    let names = ["a.yml", "b.yml", "c.yml"];
    let files: Vec<SourceFile<'_>> = texts.iter().zip(names).map(|(text, name)| SourceFile { name, text }).collect();
    let profiles = ["*".to_owned()];
    take(Source { files: &files, directory: "/srv/shop", name: Some("shop"), profiles: &profiles, reader: &NoFiles })
}

fn bare() -> CanonicalOptions {
    CanonicalOptions {
        normalize: false,
        resolve_paths: false,
        check_consistency: false,
        resolve_environment: false,
        ..CanonicalOptions::default()
    }
}

fn canonical_json(texts: &[&str], options: &CanonicalOptions) -> Result<(Value, String), String> {
    with(texts, |source| {
        canonical(source, &environment(), options)
            .map(|canonical| (canonical.to_json(), canonical.to_yaml()))
            .map_err(|diagnostics| render_all(&diagnostics))
    })
}

/// Any scalar that a file may hold, most of them wrong where they end up.
fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-70_000i64..70_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9:/.${}\\- _=,]{0,16}".prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        select(vec![
            "10s", "64m", "80:80", "v:/data", "/a:/b:ro", "host", "${TAG}", "$SECRET", "yes", "always", "NONE"
        ])
        .prop_map(Value::from),
    ]
}

/// Any tree of keys that the specification has somewhere, in any order.
fn any_tree() -> impl Strategy<Value = Value> {
    let keys: Vec<String> = reference()
        .iter()
        .map(|entry| entry.path.trim_end_matches("[]").rsplit(['.', ']']).next().unwrap_or_default().to_owned())
        .filter(|key| !key.is_empty())
        .collect();
    let key = prop_oneof![4 => select(keys), 1 => Just("web".to_owned()), 1 => "[a-zA-Z0-9 .<&*!-]{0,6}"];
    scalar().prop_recursive(6, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// A tree with every key at a place where the specification has it, and any value.
fn placed_tree() -> impl Strategy<Value = Value> {
    let paths: Vec<String> = reference().into_iter().map(|entry| entry.path).collect();
    prop::collection::vec((select(paths), any_tree()), 1..8).prop_map(|entries| {
        let mut root = json!({"services": {"web": {"image": "nginx:1"}}});
        for (path, value) in entries {
            place(&mut root, &path.replace("[]", ".[]").split('.').collect::<Vec<_>>(), value);
        }
        root
    })
}

fn place(at: &mut Value, path: &[&str], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *at = value;
        return;
    };
    if *first == "[]" {
        if !at.is_array() {
            *at = json!([]);
        }
        let items = at.as_array_mut().unwrap();
        items.push(Value::Null);
        let last = items.last_mut().unwrap();
        place(last, rest, value);
        return;
    }
    let key = if *first == "*" { "web" } else { first };
    if !at.is_object() {
        *at = json!({});
    }
    place(at.as_object_mut().unwrap().entry(key).or_insert(Value::Null), rest, value);
}

/// A valid service, with what merging has rules for.
fn service() -> impl Strategy<Value = Value> {
    let word = || select(vec!["a", "b", "c", "d"]);
    let pairs = move || {
        prop::collection::btree_map(word(), prop_oneof![Just(json!("x")), Just(json!("y z")), Just(json!(5))], 0..3)
            .prop_map(|map| json!(map))
    };
    let list_of_pairs = prop::collection::btree_set(select(vec!["a=1", "b=2", "c", "d="]), 0..3);
    let words = move || prop::collection::btree_set(word(), 0..3).prop_map(|set| json!(set));
    let ports = prop::collection::btree_set(
        select(vec!["80", "8080:80", "127.0.0.1:81:81", "53:53/udp", "9000-9002:90-92"]),
        0..3,
    )
    .prop_map(|set| json!(set));
    let volumes = prop::collection::btree_set(
        select(vec!["data:/a", "data:/b:ro", "/etc/x:/a", "/scratch", "./x:/c:rslave"]),
        0..3,
    )
    .prop_map(|set| json!(set));
    let command = prop_oneof![Just(json!("run 'it all' now")), Just(json!(["run", "$$HOME"])), Just(json!([]))];
    let environment = prop_oneof![pairs(), list_of_pairs.prop_map(|set| json!(set))];
    let health = prop_oneof![
        Just(json!({"test": "curl x", "interval": "1m"})),
        Just(json!({"test": ["CMD", "x"], "retries": 3})),
        Just(json!({"disable": true})),
    ];
    let logging = (word(), pairs()).prop_map(|(driver, options)| json!({"driver": driver, "options": options}));
    let limits = prop_oneof![Just(json!(5)), Just(json!({"soft": 1, "hard": 2}))];
    let deploy = prop_oneof![
        Just(json!({"replicas": 3})),
        Just(json!({"mode": "global", "labels": ["a=b"]})),
        Just(json!({"resources": {"limits": {"memory": "1g", "cpus": "0.5"}}, "update_config": {"delay": "90s"}})),
    ];
    (
        (
            prop::option::of(command),
            prop::option::of(environment),
            prop::option::of(pairs()),
            prop::option::of(ports),
            prop::option::of(volumes),
            prop::option::of(words()),
        ),
        (
            prop::option::of(health),
            prop::option::of(logging),
            prop::option::of(limits),
            prop::option::of(deploy),
            prop::option::of(words()),
            prop::option::of(word()),
        ),
    )
        .prop_map(
            |(
                (command, environment, labels, ports, volumes, dns_search),
                (healthcheck, logging, nofile, deploy, networks, image),
            )| {
                let fields = [
                    ("image", image.map(|tag| json!(format!("image:{tag}")))),
                    ("command", command),
                    ("environment", environment),
                    ("labels", labels),
                    ("ports", ports),
                    ("volumes", volumes),
                    ("dns_search", dns_search),
                    ("healthcheck", healthcheck),
                    ("logging", logging),
                    ("ulimits", nofile.map(|limit| json!({"nofile": limit}))),
                    ("deploy", deploy),
                    ("networks", networks),
                ];
                Value::Object(fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
            },
        )
}

/// A valid file with some of three services.
fn file() -> impl Strategy<Value = Value> {
    prop::collection::btree_map(select(vec!["web", "db", "x-job"]), service(), 1..3).prop_map(|services| {
        let services: Map<String, Value> =
            services.into_iter().map(|(name, service)| (name.to_owned(), service)).collect();
        json!({"services": services, "volumes": {"data": null}, "x-note": "kept"})
    })
}

/// The specification drops the options of another driver: whether one was between depends on the order of merging.
fn without_logging(mut file: Value) -> Value {
    for service in file["services"].as_object_mut().unwrap().values_mut() {
        service.as_object_mut().unwrap().shift_remove("logging");
    }
    file
}

fn yaml(value: &Value) -> String {
    serde_yaml::to_string(value).unwrap()
}

/// Parses in every way; whatever comes out, it comes out.
fn survive(text: &str) {
    with(&[text], |source| match parse(source, &environment()) {
        Ok(parsed) => drop(render_all(&parsed.warnings)),
        Err(diagnostics) => {
            assert!(!diagnostics.is_empty());
            drop(render_all(&diagnostics));
        }
    });
    for options in [CanonicalOptions::default(), CanonicalOptions { interpolate: false, ..bare() }] {
        let _ = canonical_json(&[text], &options);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_tree_panics(tree in any_tree()) {
        survive(&yaml(&tree));
        survive(&tree.to_string());
    }

    #[test]
    fn no_value_at_any_place_panics(tree in placed_tree()) {
        survive(&tree.to_string());
    }

    #[test]
    fn no_text_panics(text in "[a-z:{}\\[\\]&*!|>'\"%@`#,?\\- \\n\\t$<~]{0,80}") {
        survive(&text);
    }

    #[test]
    fn no_damaged_file_panics(cut in 0usize..3_000, length in 0usize..40, insert in "\\PC{0,6}") {
        let whole = include_str!("files/everything.yml");
        let characters: Vec<char> = whole.chars().collect();
        let cut = cut.min(characters.len());
        let end = (cut + length).min(characters.len());
        let damaged: String =
            characters[..cut].iter().copied().chain(insert.chars()).chain(characters[end..].iter().copied()).collect();
        survive(&damaged);
    }

    #[test]
    fn the_canonical_form_parses_to_itself(file in file()) {
        for options in [bare(), CanonicalOptions { check_consistency: false, resolve_environment: false, ..CanonicalOptions::default() }] {
            let (json, yaml) = canonical_json(&[&yaml(&file)], &options).unwrap();
            let (again, yaml_again) = canonical_json(&[&yaml], &options).unwrap_or_else(|told| panic!("{yaml}\n{told}"));
            prop_assert_eq!(&again, &json, "{}", yaml);
            prop_assert_eq!(yaml_again, yaml);
        }
    }

    #[test]
    fn merging_is_associative(a in file(), b in file(), c in file()) {
        let (a, b, c) = (yaml(&without_logging(a)), yaml(&without_logging(b)), yaml(&without_logging(c)));
        let all = canonical_json(&[&a, &b, &c], &bare()).unwrap().0;
        let first = canonical_json(&[&a, &b], &bare()).unwrap().1;
        let last = canonical_json(&[&b, &c], &bare()).unwrap().1;
        prop_assert_eq!(&canonical_json(&[&first, &c], &bare()).unwrap().0, &all);
        prop_assert_eq!(&canonical_json(&[&a, &last], &bare()).unwrap().0, &all);
    }

    #[test]
    fn only_named_variables_are_read(text in "[a-zA-Z${}:+?\\-]{0,30}") {
        prop_assume!(!text.contains("SECRET"));
        let file = json!({"services": {"web": {"image": "nginx:1", "labels": {"x": text}}}}).to_string();
        match canonical_json(&[&file], &bare()) {
            Ok((json, _)) => prop_assert!(!json.to_string().contains("Hunter2")),
            Err(told) => prop_assert!(!told.contains("Hunter2")),
        }
    }
}

#[test]
fn the_file_with_everything_parses_to_itself() {
    let options = CanonicalOptions { resolve_environment: false, ..CanonicalOptions::default() };
    let (json, yaml) = canonical_json(&[include_str!("files/everything.yml")], &options).unwrap();
    let (again, _) = canonical_json(&[&yaml], &options).unwrap();
    assert_eq!(again, json);
    let spec = |text: &str| {
        let further: BTreeMap<String, String> = BTreeMap::from([("/srv/shop/web.env".to_owned(), "A=1".to_owned())]);
        let files = [SourceFile { name: "app.yml", text }];
        let source = Source { files: &files, directory: "/srv/shop", name: None, profiles: &[], reader: &further };
        match parse(source, &environment()) {
            Ok(parsed) => serde_json::to_value(&parsed.spec).unwrap(),
            Err(diagnostics) => panic!("{}", render_all(&diagnostics)),
        }
    };
    let options = CanonicalOptions { normalize: false, ..options };
    let (_, yaml) = canonical_json(&[include_str!("files/everything.yml")], &options).unwrap();
    let mut expected = spec(include_str!("files/everything.yml"));
    let mut printed = spec(&yaml);
    // The canonical form was made with another name and all profiles.
    for spec in [&mut expected, &mut printed] {
        spec["services"].as_object_mut().unwrap().shift_remove("debug");
    }
    assert_eq!(printed, expected);
}
