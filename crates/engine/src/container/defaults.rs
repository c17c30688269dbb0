//! Pure. What an image's configuration document says about its containers (OCI image specification, `config`, with
//! Docker's `Healthcheck`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::config::{Healthcheck, ImageDefaults};

#[derive(Deserialize, Default)]
struct Document {
    #[serde(default)]
    config: Option<Config>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Config {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    healthcheck: Option<Check>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Check {
    test: Option<Vec<String>>,
    /// These spans are in nanoseconds.
    interval: Option<u64>,
    timeout: Option<u64>,
    start_period: Option<u64>,
    start_interval: Option<u64>,
    retries: Option<u32>,
}

/// Reads an image's configuration document.
///
/// # Errors
/// When it is no such document.
pub(crate) fn image_defaults(document: &[u8]) -> Result<ImageDefaults, serde_json::Error> {
    let config = serde_json::from_slice::<Document>(document)?.config.unwrap_or_default();
    let healthcheck = config.healthcheck.map(|check| Healthcheck {
        test: check.test.unwrap_or_default(),
        interval: check.interval.map(Duration::from_nanos),
        timeout: check.timeout.map(Duration::from_nanos),
        retries: check.retries,
        start_period: check.start_period.map(Duration::from_nanos),
        start_interval: check.start_interval.map(Duration::from_nanos),
    });
    Ok(ImageDefaults {
        entrypoint: config.entrypoint.unwrap_or_default(),
        command: config.cmd.unwrap_or_default(),
        environment: config.env.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        working_dir: config.working_dir.unwrap_or_default(),
        volumes: config.volumes.unwrap_or_default().into_keys().collect(),
        stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
        healthcheck,
        labels: config.labels.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_builders_write() {
        let text = br#"{"architecture":"amd64","os":"linux","config":{"User":"web","Env":["A=b"],"Entrypoint":null,
            "Cmd":["sh"],"Volumes":{"/data":{}},"StopSignal":"SIGQUIT","Labels":null,
            "Healthcheck":{"Test":["CMD","true"],"Interval":1000000000,"Retries":2}},"rootfs":{"type":"layers"}}"#;
        let made = image_defaults(text).unwrap();
        assert_eq!((made.user.as_str(), made.command.as_slice()), ("web", &["sh".to_owned()][..]));
        assert_eq!(made.volumes, ["/data"]);
        assert_eq!(made.healthcheck.unwrap().interval, Some(Duration::from_secs(1)));
        assert_eq!(image_defaults(b"{}").unwrap(), ImageDefaults::default());
        assert!(image_defaults(b"7").is_err());
    }
}
