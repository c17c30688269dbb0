use proptest::prelude::*;

use super::*;

fn platform(architecture: &str, variant: Option<&str>) -> Platform {
    Platform { architecture: architecture.into(), os: "linux".into(), variant: variant.map(Into::into) }
}

fn index(platforms: &[Option<Platform>]) -> Index {
    let manifests = platforms
        .iter()
        .enumerate()
        .map(|(number, platform)| Descriptor {
            media_type: OCI_MANIFEST.into(),
            digest: Digest::of(&[number as u8]),
            size: 1,
            platform: platform.clone(),
            annotations: None,
        })
        .collect();
    Index { schema_version: 2, media_type: None, manifests }
}

fn chosen(platforms: &[Option<Platform>], wanted: &Platform) -> Option<usize> {
    let index = index(platforms);
    let digest = &choose(&index, wanted).ok()?.digest;
    index.manifests.iter().position(|descriptor| descriptor.digest == *digest)
}

#[test]
fn the_best_variant_that_runs_here_is_chosen() {
    let offered = [
        Some(platform("arm64", Some("v8"))),
        Some(platform("amd64", None)),
        Some(platform("amd64", Some("v3"))),
        Some(platform("amd64", Some("v4"))),
        Some(platform("unknown", None)),
    ];
    assert_eq!(chosen(&offered, &platform("amd64", Some("v3"))), Some(2));
    assert_eq!(chosen(&offered, &platform("amd64", Some("v2"))), Some(1));
    assert_eq!(chosen(&offered, &platform("arm64", Some("v8"))), Some(0));
    assert_eq!(chosen(&offered, &platform("s390x", None)), None);
    assert_eq!(chosen(&[Some(platform("arm64", None))], &platform("arm64", Some("v8"))), Some(0));
    assert_eq!(chosen(&[Some(platform("arm", Some("v6")))], &platform("arm", Some("v7"))), Some(0));
    assert_eq!(chosen(&[Some(platform("arm", Some("v7")))], &platform("arm", Some("v6"))), None);
    assert_eq!(chosen(&[None], &platform("amd64", None)), Some(0));
    assert_eq!(chosen(&[None, None], &platform("amd64", None)), None);
}

#[test]
fn a_missing_platform_says_what_there_is() {
    let offered = index(&[Some(platform("arm64", Some("v8"))), Some(platform("unknown", None))]);
    let error = choose(&offered, &platform("amd64", Some("v2"))).unwrap_err();
    assert_eq!(error.to_string(), "there is no image for linux/amd64/v2; there is linux/arm64/v8");
}

#[test]
fn documents_are_told_apart() {
    let digest = Digest::of(b"");
    let descriptor = format!(r#"{{"mediaType":"x","digest":"{digest}","size":1}}"#);
    let manifest = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[{descriptor}]}}"#);
    assert!(matches!(parse_document(&digest, manifest.as_bytes()), Ok(Document::Manifest(_))));
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{descriptor}]}}"#);
    assert!(matches!(parse_document(&digest, index.as_bytes()), Ok(Document::Index(_))));
    let confused = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","manifests":[{descriptor}]}}"#);
    assert!(matches!(parse_document(&digest, confused.as_bytes()), Err(DocumentError::Malformed { .. })));
    let old = br#"{"schemaVersion":1,"fsLayers":[]}"#;
    let error = parse_document(&digest, old).unwrap_err().to_string();
    assert_eq!(error, format!("{digest} is a manifest of schema 1, which cannot be run"));
    let other = br#"{"schemaVersion":2,"mediaType":"application/x"}"#;
    assert!(matches!(parse_document(&digest, other), Err(DocumentError::Unsupported { .. })));
}

#[test]
fn a_built_manifest_has_always_the_same_bytes() {
    let bytes = build_manifest((Digest::of(b"config"), 6), vec![(OCI_LAYER, Digest::of(b"layer"), 5)]).unwrap();
    insta::assert_snapshot!(String::from_utf8(bytes).unwrap());
}

#[test]
fn a_configuration_of_another_image_is_refused() {
    let digest = Digest::of(b"");
    let text = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{digest}"]}},"config":{{"Cmd":["x"]}}}}"#
    );
    let configuration = parse_configuration(&digest, text.as_bytes(), 1).unwrap();
    assert_eq!(configuration.diff_ids, std::slice::from_ref(&digest));
    assert!(matches!(parse_configuration(&digest, text.as_bytes(), 2), Err(DocumentError::LayersDiffer { .. })));
    let windows = text.replace("linux", "windows");
    assert!(matches!(parse_configuration(&digest, windows.as_bytes(), 1), Err(DocumentError::Unsupported { .. })));
    assert!(matches!(parse_configuration(&digest, b"{}", 0), Err(DocumentError::Malformed { .. })));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\{.{0,80}\\}") {
        let digest = Digest::of(b"");
        let _ = parse_document(&digest, &bytes);
        let _ = parse_document(&digest, text.as_bytes());
        let _ = parse_configuration(&digest, text.as_bytes(), 1);
    }

    #[test]
    fn what_is_chosen_runs_here(variants in prop::collection::vec(prop::option::of(1u8..6), 0..6), have in 1u8..6) {
        let offered: Vec<_> =
            variants.iter().map(|level| Some(platform("amd64", level.map(|level| format!("v{level}")).as_deref()))).collect();
        let wanted = platform("amd64", Some(&format!("v{have}")));
        let best = variants.iter().map(|level| level.unwrap_or(1)).filter(|&level| level <= have).max();
        prop_assert_eq!(chosen(&offered, &wanted).map(|at| variants[at].unwrap_or(1)), best);
    }
}
