//! Images that come and go: pulled, imported, loaded and saved. The answers are streams of JSON lines, as Docker's.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use stack_engine::copying::outgoing;
use stack_engine::image::{Credentials, Image, ImportChanges, PullProgress, PushProgress, Pushed, Reference};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;

use super::create::check_platform;
use super::images::blocking;
use crate::Daemon;
use crate::decode::Parameters;
use crate::decode::image::{changes, registry_auth};
use crate::encode::progress::{failure, pull as step_line, push as push_line, status, status_of};
use crate::encode::text::familiar;
use crate::error::{ApiError, full_text};

/// So much of a refused body is read at most, in bytes.
const DRAINED: usize = 256 << 20;
/// For so long.
const DRAINING: Duration = Duration::from_secs(10);

/// Lines of JSON, one document each.
fn lines(receiver: mpsc::UnboundedReceiver<Value>) -> Response {
    let lines =
        UnboundedReceiverStream::new(receiver).map(|line| Ok::<_, io::Error>(Bytes::from(format!("{line}\r\n"))));
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}

/// The bytes of a request's body.
pub(super) fn reader(body: Body) -> impl AsyncRead + Send + Unpin + 'static {
    let stream = body.into_data_stream().map_err(io::Error::other).map_ok(|bytes: Bytes| bytes);
    StreamReader::new(Box::pin(stream))
}

/// `POST /images/create`: a pull (`fromImage`), or an import of the body (`fromSrc=-`).
pub async fn create(
    State(daemon): State<Daemon>,
    parameters: Parameters,
    request: Request,
) -> Result<Response, ApiError> {
    let platform = parameters.text("platform").map(str::to_owned);
    if let Some(image) = parameters.text("fromImage") {
        let header = request.headers().get("x-registry-auth").and_then(|value| value.to_str().ok());
        let credentials = registry_auth(header)?;
        let text = match parameters.text("tag") {
            Some(digest) if digest.contains(':') => format!("{image}@{digest}"),
            Some(tag) => format!("{image}:{tag}"),
            None => image.to_owned(),
        };
        let all = !names_one(&text);
        let reference: Reference = text.parse().map_err(|source| ApiError::Reference { text, source })?;
        if all {
            return Err(ApiError::NotSupported {
                what: "pulling all tags of a repository (no tag is named)".to_owned(),
            });
        }
        return pull(daemon, reference, credentials, platform).await;
    }
    match parameters.text("fromSrc") {
        Some("-") => {
            let body = request.into_body();
            match import_request(&parameters) {
                Ok((name, changes)) => import(daemon, name, changes, body).await,
                Err(error) => {
                    drain(reader(body)).await;
                    Err(error)
                }
            }
        }
        Some(_) => {
            Err(ApiError::NotSupported { what: "an import from an address (fetch it, and import the file)".to_owned() })
        }
        None => Err(ApiError::Body { problem: "neither `fromImage` nor `fromSrc` is there".to_owned() }),
    }
}

/// Whether a name has a tag or a digest; without, it means all tags of a repository.
fn names_one(text: &str) -> bool {
    text.contains('@') || text.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

async fn pull(
    daemon: Daemon,
    reference: Reference,
    credentials: Option<Credentials>,
    platform: Option<String>,
) -> Result<Response, ApiError> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let (answer, lines_receiver) = mpsc::unbounded_channel();
    let known = daemon.engine.images().get(&reference.to_string()).ok().map(|image| image.digest);
    let name = reference.clone();
    let work = tokio::spawn(async move {
        let told = |step: PullProgress| {
            // A client that is gone hears nothing; the pull goes on.
            let _ = sender.send(step);
        };
        daemon.engine.images().pull(&name, credentials.as_ref(), &told).await
    });
    // Until something is known to come, a failure has a status of its own.
    let first = receiver.recv().await;
    if first.is_none() {
        let image = work.await.map_err(|_| ApiError::Interrupted)??;
        check(&image, &reference, platform.as_deref())?;
        finish(&answer, &reference, &image, known.as_ref() == Some(&image.digest));
        return Ok(lines(lines_receiver));
    }
    let tag = reference.tag().map_or_else(|| reference.digest().map(ToString::to_string), |tag| Some(tag.to_owned()));
    let repository = reference.repository().to_owned();
    let _ = answer.send(status_of(&tag.unwrap_or_default(), &format!("Pulling from {repository}")));
    tokio::spawn(async move {
        let mut step = first;
        while let Some(now) = step {
            if let Some(line) = step_line(&now) {
                let _ = answer.send(line);
            }
            step = receiver.recv().await;
        }
        let outcome = work.await.map_err(|_| ApiError::Interrupted).and_then(|pulled| pulled.map_err(ApiError::from));
        match outcome.and_then(|image| check(&image, &reference, platform.as_deref()).map(|()| image)) {
            Ok(image) => finish(&answer, &reference, &image, known.as_ref() == Some(&image.digest)),
            Err(error) => {
                let _ = answer.send(failure(&full_text(&error)));
            }
        }
    });
    Ok(lines(lines_receiver))
}

fn check(image: &Image, reference: &Reference, platform: Option<&str>) -> Result<(), ApiError> {
    platform.map_or(Ok(()), |platform| check_platform(image, &reference.familiar(), platform))
}

fn finish(answer: &mpsc::UnboundedSender<Value>, reference: &Reference, image: &Image, is_known: bool) {
    let digest = reference.digest().or_else(|| image.indexes.first()).unwrap_or(&image.digest);
    let what = if is_known { "Image is up to date for" } else { "Downloaded newer image for" };
    let _ = answer.send(status(&format!("Digest: {digest}")));
    let _ = answer.send(status(&format!("Status: {what} {}", reference.familiar())));
}

/// Reads what a client still sends, within limits: Docker's clients do not see an answer that comes before they have sent
/// everything.
pub(super) async fn drain(mut body: impl AsyncRead + Unpin) {
    let all = async {
        let mut piece = vec![0; 64 << 10];
        let mut left = DRAINED;
        while let Ok(count @ 1..) = body.read(&mut piece).await {
            left = left.saturating_sub(count);
            if left == 0 {
                return;
            }
        }
    };
    // Whoever sends more or takes longer sees a broken connection.
    let _ = tokio::time::timeout(DRAINING, all).await;
}

fn import_request(parameters: &Parameters) -> Result<(Option<Reference>, ImportChanges), ApiError> {
    let mut made = changes(&parameters.all("changes"))?;
    made.message = parameters.text("message").map(str::to_owned);
    made.created = Some(jiff::Timestamp::now().to_string());
    let name = parameters.text("repo").map(|repository| match parameters.text("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    });
    let name = name
        .map(|text| text.parse::<Reference>().map_err(|source| ApiError::Reference { text, source }))
        .transpose()?;
    Ok((name, made))
}

async fn import(
    daemon: Daemon,
    name: Option<Reference>,
    changes: ImportChanges,
    body: Body,
) -> Result<Response, ApiError> {
    let image = daemon.engine.images().import(reader(body), name.as_ref(), changes).await?;
    let (answer, receiver) = mpsc::unbounded_channel();
    let _ = answer.send(status(image.id.as_str()));
    Ok(lines(receiver))
}

/// `POST /images/load`.
pub async fn load(State(daemon): State<Daemon>, request: Request) -> Result<Response, ApiError> {
    let images = daemon.engine.images().load(reader(request.into_body())).await?;
    let (answer, receiver) = mpsc::unbounded_channel();
    for image in images {
        let mut texts: Vec<String> =
            image.references.iter().map(|name| format!("Loaded image: {}\n", familiar(name))).collect();
        if texts.is_empty() {
            texts.push(format!("Loaded image ID: {}\n", image.id));
        }
        for text in texts {
            let _ = answer.send(serde_json::json!({ "stream": text }));
        }
    }
    Ok(lines(receiver))
}

/// `GET /images/get`: several images in one archive.
pub async fn get(State(daemon): State<Daemon>, parameters: Parameters) -> Result<Response, ApiError> {
    let names = parameters.all("names");
    if names.is_empty() {
        return Err(ApiError::Body { problem: "the parameter `names` is missing".to_owned() });
    }
    save(daemon, names).await
}

/// An archive of images.
pub(super) async fn save(daemon: Daemon, names: Vec<String>) -> Result<Response, ApiError> {
    let saving = blocking(move || Ok(daemon.engine.images().saving(&names)?)).await?;
    let (mut writer, stream) = outgoing(CancellationToken::new());
    tokio::task::spawn_blocking(move || {
        match saving.write(&mut writer) {
            Ok(()) => {
                // A client that is gone needs no end.
                let _ = writer.finish();
            }
            Err(error) => tracing::warn!(error = full_text(&error), "an archive of images could not be written"),
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], Body::from_stream(stream)).into_response())
}

/// `POST /images/{name}/push`: one tag, or all of a repository. What goes wrong is told in the stream, as Docker does.
pub(super) fn push(
    daemon: Daemon,
    name: &str,
    tag: Option<&str>,
    credentials: Option<Credentials>,
) -> Result<Response, ApiError> {
    let text = match tag {
        Some(tag) => format!("{name}:{tag}"),
        None => name.to_owned(),
    };
    let all = !names_one(&text);
    let reference: Reference = text.parse().map_err(|source| ApiError::Reference { text, source })?;
    let (answer, receiver) = mpsc::unbounded_channel();
    // The name of a repository has no tag, so this is all of it.
    let repository = familiar(&reference.name());
    let _ = answer.send(status(&format!("The push refers to repository [{repository}]")));
    tokio::spawn(async move {
        let told = |step: PushProgress| {
            // A client that is gone hears nothing; the push goes on.
            let _ = answer.send(push_line(&step));
        };
        let outcome = daemon.engine.images().push(&reference, all, credentials.as_ref(), &told).await;
        match outcome {
            Ok(all) => {
                for pushed in all {
                    let Pushed { tag, digest, bytes } = pushed;
                    let _ = answer.send(status(&format!("{tag}: digest: {digest} size: {bytes}")));
                    let aux = serde_json::json!({ "Tag": tag, "Digest": digest.as_str(), "Size": bytes });
                    let _ = answer.send(serde_json::json!({ "progressDetail": {}, "aux": aux }));
                }
            }
            Err(error) => {
                let _ = answer.send(failure(&full_text(&error)));
            }
        }
    });
    Ok(lines(receiver))
}
