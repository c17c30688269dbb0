//! What must hold for every input, however broken: used by the mutation test and by the fuzz target.

use std::collections::BTreeMap;

use stack_stackfile::{
    Canonical, CanonicalOptions, Environment, Source, SourceFile, canonical, dotenv, parse, render_all, sarif,
};

/// Parts of an input are divided by this: the stack file, one over it, an environment file.
pub const DIVIDER: char = '\0';

/// Puts an input through everything. Panics when a promise does not hold: an answer without a diagnostic, a diagnostic
/// outside of its file, a canonical form that does not parse to itself.
pub fn survive(input: &str) {
    let parts: Vec<&str> = input.splitn(3, DIVIDER).collect();
    let environment: Environment = [("TAG".to_owned(), "1.27".to_owned())].into_iter().collect();
    let reader: BTreeMap<String, String> = [
        ("/srv/shop/app.yml", parts.first().copied().unwrap_or_default()),
        ("/srv/shop/more.yml", parts.get(1).copied().unwrap_or_default()),
        ("/srv/shop/web.env", parts.get(2).copied().unwrap_or_default()),
    ]
    .into_iter()
    .map(|(name, text)| (name.to_owned(), text.to_owned()))
    .collect();
    let files: Vec<SourceFile<'_>> =
        parts.iter().take(2).zip(["app.yml", "more.yml"]).map(|(text, name)| SourceFile { name, text }).collect();
    let profiles = ["*".to_owned()];
    let source =
        Source { files: &files, directory: "/srv/shop", name: Some("shop"), profiles: &profiles, reader: &reader };
    match parse(source, &environment) {
        Ok(parsed) => {
            assert!(!parsed.spec.services.is_empty(), "a stack without services is accepted");
            drop(render_all(&parsed.warnings));
        }
        Err(diagnostics) => {
            assert!(!diagnostics.is_empty(), "refused without a reason");
            for diagnostic in &diagnostics {
                let Some(location) = &diagnostic.location else { continue };
                assert!(location.line >= 1 && location.column >= 1 && location.length >= 1, "{diagnostic:?}");
            }
            drop(render_all(&diagnostics));
            drop(sarif(&diagnostics, "0"));
        }
    }
    let bare = CanonicalOptions {
        normalize: false,
        check_consistency: false,
        resolve_environment: false,
        resolve_paths: false,
        ..CanonicalOptions::default()
    };
    for options in [CanonicalOptions::default(), bare.clone(), CanonicalOptions { interpolate: false, ..bare }] {
        if let Ok(first) = canonical(source, &environment, &options) {
            parses_to_itself(&first, source, &environment, &options);
        }
    }
    if let Some(text) = parts.get(2) {
        let _ = dotenv::parse(text, &|_| None, &|_| None);
    }
}

fn parses_to_itself(first: &Canonical, source: Source<'_>, environment: &Environment, options: &CanonicalOptions) {
    let printed = first.to_yaml();
    let files = [SourceFile { name: "app.yml", text: &printed }];
    match canonical(Source { files: &files, ..source }, environment, options) {
        Ok(again) => {
            assert_eq!(again.to_json(), first.to_json(), "the canonical form reads back differently:\n{printed}");
            assert_eq!(again.to_yaml(), printed, "the canonical form prints differently");
            assert_eq!(again.hashes(), first.hashes());
        }
        Err(diagnostics) => panic!("the canonical form is refused:\n{}\n{printed}", render_all(&diagnostics)),
    }
}
