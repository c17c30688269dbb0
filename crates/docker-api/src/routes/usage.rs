//! What containers use: `/containers/{id}/stats`, `/containers/{id}/top` and `/system/df`.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bollard_stubs::models::{ChangeType, FilesystemChange};
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};
use stack_engine::Difference;
use stack_engine::container::{Container, ContainerId, ContainerState};
use stack_engine::copying::{PieceWriter, outgoing};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Name;
use super::images::{blocking, shared_layers, shared_size};
use crate::Daemon;
use crate::decode::Parameters;
use crate::encode::image::{Configuration, summary};
use crate::encode::network as encode;
use crate::encode::statistics::{Sample, document, host_cpu};
use crate::encode::text::signed;
use crate::error::ApiError;
use crate::top::{self, Columns};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or_default()
}

impl Daemon {
    async fn sample(&self, id: &ContainerId) -> Sample {
        let (engine, id) = (self.engine.clone(), id.clone());
        let work = move || {
            let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
            let hertz = hertz.and_then(|hertz| u64::try_from(hertz).ok()).unwrap_or(100);
            let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
            let statistics = engine.statistics(&id).unwrap_or_default();
            Sample { time: now(), statistics, host_cpu: host_cpu(&stat, hertz) }
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_default()
    }
}

/// `GET /containers/{id}/stats`: once a second, or once. A container that does not run uses nothing.
pub async fn stats(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let container = daemon.container(&name)?;
    let streams = parameters.text("stream").is_none_or(|_| parameters.flag("stream"));
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let processors = u32::try_from(processors).unwrap_or(u32::MAX);
    let host_memory = crate::host::Host::read().memory_bytes;
    let (id, name) = (container.id.clone(), container.name.clone());
    let shown = move |now: &Sample, before: &Sample| document(id.as_str(), &name, now, before, processors, host_memory);
    if !streams {
        let mut before = Sample::default();
        // Two looks make a share of the processors; who wants one at once says so.
        if !parameters.flag("one-shot") && matches!(container.state, ContainerState::Running { .. }) {
            before = daemon.sample(&container.id).await;
            tokio::time::sleep(PERIOD).await;
        }
        let sample = daemon.sample(&container.id).await;
        return Ok(Json(shown(&sample, &before)).into_response());
    }
    let looks = futures::stream::unfold((Sample::default(), false), move |(before, over)| {
        let (daemon, id, shown) = (daemon.clone(), container.id.clone(), shown.clone());
        async move {
            if over {
                return None;
            }
            if before.time != 0 {
                tokio::time::sleep(PERIOD).await;
            }
            let sample = daemon.sample(&id).await;
            let line = format!("{}\n", shown(&sample, &before));
            // A container that is gone has no more to tell.
            let over = daemon.engine.inspect(&id).is_none();
            Some((Ok::<_, io::Error>(Bytes::from(line)), (sample, over)))
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(looks.boxed())).into_response())
}

/// `GET /containers/{id}/top`.
pub async fn top(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<Json<Value>, ApiError> {
    let columns = Columns::parse(parameters.text("ps_args").unwrap_or("-ef"))?;
    let container = daemon.container(&name)?;
    if !matches!(container.state, ContainerState::Running { .. }) {
        return Err(ApiError::NotRunning { name });
    }
    blocking(move || {
        let pids = daemon.engine.pids(&container.id);
        let rows: Vec<Vec<String>> = pids.into_iter().filter_map(|pid| top::row(pid, &columns)).collect();
        Ok(Json(json!({ "Titles": columns.titles(), "Processes": rows })))
    })
    .await
}

/// `GET /system/df`: what lies on the disk.
pub async fn disk(State(daemon): State<Daemon>, parameters: Parameters) -> Result<Json<Value>, ApiError> {
    let kinds = parameters.all("type");
    let wants = move |kind: &str| kinds.is_empty() || kinds.iter().any(|wanted| wanted == kind);
    let containers = daemon.engine.list();
    let mut own = Vec::new();
    for container in &containers {
        own.push(daemon.engine.own_bytes(&container.id).await.unwrap_or(0));
    }
    blocking(move || {
        let images = daemon.engine.images().list()?;
        let counts = shared_layers(&images);
        let users = |digest: &str| containers.iter().filter(|container| container.needs_image(digest)).count();
        let image_rows: Vec<Value> = images
            .iter()
            .map(|image| {
                let mut row = summary(image, &Configuration::read(image).unwrap_or_default());
                row.shared_size = signed(shared_size(image, &counts));
                row.containers = signed(users(image.digest.as_str()) as u64);
                serde_json::to_value(row).unwrap_or_default()
            })
            .collect();
        // Each layer once, however many images have it.
        let mut layers: std::collections::BTreeMap<&std::path::Path, u64> = std::collections::BTreeMap::new();
        for image in &images {
            layers.extend(image.layers.iter().map(std::path::PathBuf::as_path).zip(image.layer_bytes.iter().copied()));
        }
        let container_rows: Vec<Value> =
            containers.iter().zip(&own).map(|(container, own)| container_row(container, *own)).collect();
        let volume_users = daemon.engine.volume_users();
        let mut volume_rows = Vec::new();
        for volume in daemon.engine.volumes().list() {
            let path = daemon.engine.volumes().data(&volume.name)?;
            let size = daemon.engine.volumes().size_bytes(&volume.name).map_or(-1, signed);
            let mut row = serde_json::to_value(encode::volume(&volume, path.display().to_string())).unwrap_or_default();
            row["UsageData"] = json!({"Size": size, "RefCount": volume_users.get(&volume.name).map_or(0, Vec::len)});
            volume_rows.push(row);
        }
        let mut document = json!({ "BuilderSize": 0 });
        if wants("image") {
            document["LayersSize"] = layers.values().sum::<u64>().into();
            document["Images"] = image_rows.into();
        }
        if wants("container") {
            document["Containers"] = container_rows.into();
        }
        if wants("volume") {
            document["Volumes"] = volume_rows.into();
        }
        if wants("build-cache") {
            document["BuildCache"] = json!([]);
        }
        Ok(Json(document))
    })
    .await
}

fn container_row(container: &Container, own: u64) -> Value {
    json!({
        "Id": container.id.as_str(),
        "Names": [format!("/{}", container.name)],
        "Image": container.config.image,
        "ImageID": container.image_digest,
        "Command": container.config.command.clone().unwrap_or_default().join(" "),
        "Created": container.created_at / 1000,
        "SizeRw": own,
        "SizeRootFs": own,
        "Labels": container.labels,
        "State": crate::select::status(container),
        "Status": crate::encode::container::status_text(container, now() / 1_000_000),
        "Mounts": [],
    })
}

/// The list of changes on its way to a client, which is never in memory as a whole.
struct ChangesWriter {
    writer: PieceWriter,
    /// Tells that there is a first change.
    begun: Option<oneshot::Sender<()>>,
}

impl ChangesWriter {
    fn write(&mut self, path: &Path, difference: Difference) -> io::Result<()> {
        let change = FilesystemChange {
            // Docker has texts for paths, too: what is no text has marks in its place.
            path: path.to_string_lossy().into_owned(),
            kind: match difference {
                Difference::Changed => ChangeType::_0,
                Difference::Added => ChangeType::_1,
                Difference::Deleted => ChangeType::_2,
            },
        };
        match self.begun.take() {
            Some(begun) => {
                // Whoever does not wait for it has gone, which the next piece shows.
                let _ = begun.send(());
                self.writer.write_all(b"[")?;
            }
            None => self.writer.write_all(b",")?,
        }
        serde_json::to_writer(&mut self.writer, &change).map_err(io::Error::from)
    }

    fn finish(mut self) -> io::Result<()> {
        self.writer.write_all(b"]\n")?;
        self.writer.finish()
    }
}

/// `GET /containers/{id}/changes`: what a container has changed in its file system. Nothing is `null`, as with Docker. What
/// fails before the first change is an answer; what fails later breaks the list off.
pub async fn changes(State(daemon): State<Daemon>, Name(name): Name) -> Result<Response, ApiError> {
    let container = daemon.container(&name)?;
    let (writer, stream) = outgoing(CancellationToken::new());
    let (begun, heard) = oneshot::channel();
    let changes = Arc::new(Mutex::new(Some(ChangesWriter { writer, begun: Some(begun) })));
    let work = async move {
        let shared = Arc::clone(&changes);
        let tell = move |path: &Path, difference| match &mut *shared.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(changes) => changes.write(path, difference),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        let found = daemon.engine.differences(&container.id, tell).await;
        found.ok_or(ApiError::NoSuchContainer { name })?.map_err(ApiError::Changes)?;
        let whole = changes.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A list that nobody has begun is not sent.
        match whole.filter(|changes| changes.begun.is_none()) {
            Some(changes) => tokio::task::spawn_blocking(|| changes.finish())
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error)))
                .map_err(ApiError::Changes),
            None => Ok(()),
        }
    };
    let work = tokio::spawn(work);
    let json = [(header::CONTENT_TYPE, "application/json")];
    if heard.await.is_ok() {
        return Ok((json, Body::from_stream(stream)).into_response());
    }
    work.await.map_err(|_| ApiError::Interrupted)??;
    Ok((json, "null\n").into_response())
}
