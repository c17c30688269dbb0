//! Pure. Images, in a list and one by one.

use std::collections::HashMap;

use bollard_stubs::models::{
    DriverData, HistoryResponseItem, ImageConfig, ImageInspect, ImageInspectRootFs, ImageSearchResponseItem,
    ImageSummary,
};
use serde::Deserialize;
use serde_json::{Value, json};
use stack_engine::image::{FoundImage, Image};

use super::text::{familiar, signed};

/// What a registry has found.
pub fn found(image: FoundImage) -> ImageSearchResponseItem {
    ImageSearchResponseItem {
        description: Some(image.description),
        is_official: Some(image.is_official),
        // Registries build nothing by themselves any more.
        is_automated: Some(false),
        name: Some(image.name),
        star_count: Some(image.star_count),
    }
}

/// An image's configuration as it was fetched: the OCI fields and those that only Docker has.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Configuration {
    /// How its containers run.
    #[serde(default)]
    pub config: Option<ImageConfig>,
    #[serde(default)]
    author: Option<String>,
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default, rename = "os.version")]
    os_version: Option<String>,
    #[serde(default)]
    rootfs: RootFileSystem,
    #[serde(default)]
    history: Vec<Step>,
}

/// A step of an image's making, as its configuration tells it.
#[derive(Debug, Clone, Default, Deserialize)]
struct Step {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    created_by: Option<String>,
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    empty_layer: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct RootFileSystem {
    #[serde(default)]
    diff_ids: Vec<String>,
}

impl Configuration {
    /// Reads the bytes of an image's configuration.
    pub fn read(image: &Image) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(&image.raw_config)
    }
}

fn names(all: &[String]) -> Vec<String> {
    all.iter().map(|name| familiar(name)).collect()
}

/// Seconds since the Unix epoch; 0 where an image does not say when it was made.
pub fn created(image: &Image) -> i64 {
    let time = image.created.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    time.map_or(0, jiff::Timestamp::as_second)
}

/// One row of `/images/json`.
pub fn summary(image: &Image, configuration: &Configuration) -> ImageSummary {
    let labels = configuration.config.as_ref().and_then(|config| config.labels.clone());
    ImageSummary {
        id: image.id.to_string(),
        parent_id: String::new(),
        repo_tags: names(&image.references),
        repo_digests: names(&image.repository_digests),
        created: created(image),
        size: signed(image.size_bytes),
        // Not computed, in Docker's words.
        shared_size: -1,
        labels: labels.unwrap_or_default(),
        containers: -1,
        ..ImageSummary::default()
    }
}

/// The answer of `/images/{name}/json`. docker-compose of version 1 makes no container anew without a field that newer versions
/// of the API do not have any more; others pass it over.
pub fn inspected(image: &Image, configuration: Configuration) -> Value {
    let mut document = serde_json::to_value(inspect(image, configuration)).unwrap_or_default();
    document["ContainerConfig"] = json!({ "Volumes": null, "Env": null, "Cmd": null, "Labels": null });
    document
}

fn inspect(image: &Image, configuration: Configuration) -> ImageInspect {
    // What was said when it was made, also where only its history has it.
    let of_history = configuration.history.last().and_then(|step| step.comment.clone());
    let comment = configuration.comment.filter(|comment| !comment.is_empty()).or(of_history).unwrap_or_default();
    ImageInspect {
        id: Some(image.id.to_string()),
        repo_tags: Some(names(&image.references)),
        repo_digests: Some(names(&image.repository_digests)),
        comment: Some(comment),
        created: image.created.clone(),
        author: Some(configuration.author.unwrap_or_default()),
        config: Some(configuration.config.unwrap_or_default()),
        architecture: Some(configuration.architecture.unwrap_or_default()),
        variant: configuration.variant,
        os: Some(configuration.os.unwrap_or_default()),
        os_version: configuration.os_version,
        size: Some(signed(image.size_bytes)),
        graph_driver: Some(DriverData { name: "overlay".to_owned(), data: HashMap::new() }),
        root_fs: Some(ImageInspectRootFs { typ: "layers".to_owned(), layers: Some(configuration.rootfs.diff_ids) }),
        ..ImageInspect::default()
    }
}

/// The answer of `/images/{name}/history`: how it was made, the last step first. Only the last one has an identifier.
pub fn history(image: &Image, configuration: &Configuration) -> Vec<HistoryResponseItem> {
    let mut sizes = image.layer_bytes.iter().copied();
    let mut steps = configuration.history.clone();
    let told = steps.iter().filter(|step| !step.empty_layer).count();
    // Layers that no step tells of are shown all the same.
    steps.extend((told..image.layer_bytes.len()).map(|_| Step { created: image.created.clone(), ..Step::default() }));
    let mut rows: Vec<_> = steps
        .into_iter()
        .map(|step| HistoryResponseItem {
            id: "<missing>".to_owned(),
            created: step
                .created
                .and_then(|text| text.parse::<jiff::Timestamp>().ok())
                .map_or(0, jiff::Timestamp::as_second),
            created_by: step.created_by.unwrap_or_default(),
            tags: Vec::new(),
            size: if step.empty_layer { 0 } else { signed(sizes.next().unwrap_or(0)) },
            comment: step.comment.unwrap_or_default(),
        })
        .collect();
    rows.reverse();
    if let Some(first) = rows.first_mut() {
        first.id = image.id.to_string();
        first.tags = names(&image.references);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Configuration, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn a_configuration_with_what_only_docker_has() {
        let configuration = read(
            r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:aa"]},"history":[],
                "config":{"Cmd":["sh"],"Entrypoint":null,"ExposedPorts":{"80/tcp":{}},"Volumes":{"/data":{}},
                "Labels":{"a":"b"},"Healthcheck":{"Test":["CMD","true"],"Interval":1000000000},"ArgsEscaped":true}}"#,
        )
        .unwrap();
        let config = configuration.config.unwrap();
        assert_eq!(config.exposed_ports, Some(vec!["80/tcp".to_owned()]));
        assert_eq!(config.healthcheck.unwrap().interval, Some(1_000_000_000));
        assert_eq!(configuration.rootfs.diff_ids, ["sha256:aa"]);
        assert!(read("{}").unwrap().config.is_none());
        assert!(read("nothing").is_err());
    }
}
