//! Makes an image of a root file system's archive: one layer and a configuration. The same archive and changes give the
//! same image, digest and all, on every host, so nothing of the present moment goes into it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write as _};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::compression::decoder;
use super::document::{OCI_LAYER, build_manifest, parse_configuration};
use super::load::{LoadError, finish};
use super::records::{Origin, Record};
use super::reference::Reference;
use super::store::{Image, ImageStore, Inner};
use super::stream::{channel, pump};
use crate::content::Digest;
use crate::events::ImageEvent;

/// What the configuration of an imported image says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportChanges {
    /// The default arguments.
    pub cmd: Option<Vec<String>>,
    /// The program that is always run.
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Where it starts; absolute.
    pub working_dir: Option<String>,
    /// As whom: `user`, `user:group`, by name or number.
    pub user: Option<String>,
    /// `80`, `80/tcp`, `53/udp`.
    pub exposed_ports: Vec<String>,
    /// Paths that get a volume of their own.
    pub volumes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The signal that ends it.
    pub stop_signal: Option<String>,
    /// When it was made (RFC 3339); part of the image's identity, so say nothing to have the same image everywhere.
    pub created: Option<String>,
    /// A note on where it came from.
    pub message: Option<String>,
}

impl ImageStore {
    /// Makes an image of a root file system's archive, plain or compressed by gzip, bzip2, xz or Zstandard, and names it.
    ///
    /// # Errors
    /// When the archive is damaged, a change is not valid, or the disk refuses.
    pub async fn import(
        &self,
        reader: impl tokio::io::AsyncRead + Send + Unpin + 'static,
        name: Option<&Reference>,
        changes: ImportChanges,
    ) -> Result<Image, LoadError> {
        let name = match name {
            Some(name) if name.digest().is_some() => {
                return Err(LoadError::BadChange {
                    problem: format!("`{name}` has a digest, which only content gives"),
                });
            }
            name => name.and_then(Reference::tagged_name),
        };
        check(&changes)?;
        let (writer, mut blocking) = channel();
        let inner = Arc::clone(&self.inner);
        let work =
            tokio::task::spawn_blocking(move || inner.import(&mut blocking, name, &changes).map_err(LoadError::told));
        let image = finish(pump(reader, writer).await, work.await)?;
        self.inner.tell_image(&image, image.id.as_str(), ImageEvent::Imported);
        Ok(image)
    }
}

impl Inner {
    fn import(&self, reader: &mut dyn Read, name: Option<String>, changes: &ImportChanges) -> Result<Image, LoadError> {
        let mut lease = self.leases.lease();
        let mut writer = self.blobs.writer()?;
        let mut plain = decoder(reader).map_err(LoadError::Read)?;
        io::copy(&mut plain, &mut writer).and_then(|_| writer.flush()).map_err(LoadError::Read)?;
        drop(plain);
        let size = writer.bytes();
        let layer = writer.digest();
        lease.add(&layer);
        // Unpacked before it is kept: what is no archive leaves nothing behind.
        let lock = self.locks.of(&layer);
        let held = lock.blocking_lock();
        if !self.layers.contains(&layer) {
            self.layers.publish(self.layers.unpack(&mut writer.reopen()?, &layer)?)?;
        }
        drop(held);
        self.blobs.commit(writer, Some(&layer))?;

        let text = configuration(changes, &layer, &self.platform.architecture, self.platform.architecture_variant());
        let config = Digest::of(&text);
        parse_configuration(&config, &text, 1)?;
        let manifest = build_manifest((config.clone(), text.len() as u64), vec![(OCI_LAYER, layer.clone(), size)])
            .map_err(|error| LoadError::BadChange { problem: error.to_string() })?;
        let record = Record {
            manifest: Digest::of(&manifest),
            config,
            layers: vec![layer.clone()],
            diff_ids: vec![layer],
            origin: Origin::Imported,
        };
        lease.add_record(&record);
        self.blobs.put(&text)?;
        self.blobs.put(&manifest)?;
        self.records.put(&record, name.as_slice(), &[])?;
        let records = self.records.all()?;
        Ok(self.assemble(&records, &record)?)
    }
}

/// The configuration's bytes. Keys have a fixed order.
fn configuration(changes: &ImportChanges, layer: &Digest, architecture: &str, variant: Option<&str>) -> Vec<u8> {
    let mut config = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            config.insert(key.to_owned(), value);
        }
    };
    let set = |paths: &[String]| {
        let paths: BTreeMap<_, _> = paths.iter().map(|path| (path.clone(), json!({}))).collect();
        (!paths.is_empty()).then(|| json!(paths))
    };
    let ports: Vec<_> = changes
        .exposed_ports
        .iter()
        .map(|port| if port.contains('/') { port.clone() } else { format!("{port}/tcp") })
        .collect();
    put("User", changes.user.as_ref().map(|user| json!(user)));
    put("ExposedPorts", set(&ports));
    put("Env", (!changes.env.is_empty()).then(|| json!(changes.env)));
    put("Entrypoint", changes.entrypoint.as_ref().map(|words| json!(words)));
    put("Cmd", changes.cmd.as_ref().map(|words| json!(words)));
    put("Volumes", set(&changes.volumes));
    put("WorkingDir", changes.working_dir.as_ref().map(|path| json!(path)));
    put("Labels", (!changes.labels.is_empty()).then(|| json!(changes.labels)));
    put("StopSignal", changes.stop_signal.as_ref().map(|signal| json!(signal)));

    let mut document = Map::new();
    let mut history = Map::new();
    if let Some(created) = &changes.created {
        document.insert("created".to_owned(), json!(created));
        history.insert("created".to_owned(), json!(created));
    }
    history.insert("comment".to_owned(), json!(changes.message.as_deref().unwrap_or("imported")));
    document.insert("architecture".to_owned(), json!(architecture));
    if let Some(variant) = variant {
        document.insert("variant".to_owned(), json!(variant));
    }
    document.insert("os".to_owned(), json!("linux"));
    document.insert("config".to_owned(), Value::Object(config));
    document.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": [layer] }));
    document.insert("history".to_owned(), json!([history]));
    Value::Object(document).to_string().into_bytes()
}

fn check(changes: &ImportChanges) -> Result<(), LoadError> {
    let bad = |problem| Err(LoadError::BadChange { problem });
    if let Some(entry) =
        changes.env.iter().find(|entry| entry.find('=').is_none_or(|at| at == 0) || entry.contains('\0'))
    {
        // What follows the name may be a secret.
        let name = entry.split('=').next().unwrap_or("");
        return bad(format!("an environment entry must be `NAME=value`, `{name}` is not"));
    }
    let is_port = |port: &String| {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        number.parse::<u16>().is_ok_and(|number| number > 0) && matches!(protocol, "tcp" | "udp" | "sctp")
    };
    if let Some(port) = changes.exposed_ports.iter().find(|port| !is_port(port)) {
        return bad(format!("`{port}` is no port; write `80`, `80/tcp` or `53/udp`"));
    }
    let mut paths = changes.working_dir.iter().chain(&changes.volumes);
    if let Some(path) = paths.find(|path| !path.starts_with('/') || path.contains('\0')) {
        return bad(format!("`{path}` must be an absolute path"));
    }
    if let Some(created) = &changes.created
        && created.parse::<jiff::Timestamp>().is_err()
    {
        return bad(format!("`{created}` is no time; write it like `2026-01-31T12:00:00Z`"));
    }
    let words =
        changes.cmd.iter().chain(&changes.entrypoint).flatten().chain(&changes.user).chain(&changes.stop_signal);
    if words.into_iter().any(|word| word.contains('\0')) {
        return bad("a zero byte cannot be part of an argument".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_always_the_same_bytes() {
        let changes = ImportChanges {
            cmd: Some(vec!["serve".into()]),
            entrypoint: Some(vec!["/app".into()]),
            env: vec!["A=1".into()],
            working_dir: Some("/srv".into()),
            user: Some("1000:1000".into()),
            exposed_ports: vec!["80".into(), "53/udp".into()],
            volumes: vec!["/data".into()],
            labels: BTreeMap::from([("b".into(), "2".into()), ("a".into(), "1".into())]),
            stop_signal: Some("SIGINT".into()),
            created: Some("2026-01-31T12:00:00Z".into()),
            message: None,
        };
        check(&changes).unwrap();
        let text = configuration(&changes, &Digest::of(b""), "amd64", None);
        insta::assert_snapshot!(String::from_utf8(text.clone()).unwrap());
        parse_configuration(&Digest::of(&text), &text, 1).unwrap();
        let bare = configuration(&ImportChanges::default(), &Digest::of(b""), "arm64", Some("v8"));
        insta::assert_snapshot!(String::from_utf8(bare.clone()).unwrap());
        parse_configuration(&Digest::of(&bare), &bare, 1).unwrap();
    }

    #[test]
    fn wrong_changes_are_refused_and_values_of_variables_are_not_told() {
        let changes = |edit: fn(&mut ImportChanges)| {
            let mut changes = ImportChanges::default();
            edit(&mut changes);
            check(&changes).map_err(|error| error.to_string())
        };
        assert!(
            changes(|changes| changes.exposed_ports = vec!["http".into()]).unwrap_err().contains("`http` is no port")
        );
        assert!(changes(|changes| changes.working_dir = Some("srv".into())).unwrap_err().contains("absolute"));
        assert!(changes(|changes| changes.created = Some("today".into())).unwrap_err().contains("no time"));
        let secret = changes(|changes| changes.env = vec!["=hunter2".into()]).unwrap_err();
        assert!(!secret.contains("hunter2"), "{secret}");
    }
}
