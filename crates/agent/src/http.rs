//! What a host serves to the controllers: its images, and the output of its tasks. Who may call is checked by the
//! listener's guard, before anything here runs.

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use futures::{StreamExt, TryStreamExt};
use stack_api::bodies::{ImageQuery, ImportQuery, LogQuery, PullRequest};
use stack_api::examination::{ExamineRequest, HostExamination};
use stack_api::routes::{self, Route};
use stack_api::views::{HostNetworksView, ImageView};
use stack_api::{ErrorBody, ErrorCode};
use stack_engine::Engine;
use stack_engine::content::Digest as EngineDigest;
use stack_engine::image::{Image, ImportChanges, Origin, Reference};
use stack_model::TaskId;
use tokio_util::io::StreamReader;

use stack_api::error::full_text;

use crate::doctor::{self, Patient};
use crate::engine_host::{credentials, log_query};
use crate::log_lines::LogLines;
use crate::networks::Networks;

/// An answer that is not a success.
#[derive(Debug)]
pub struct Refusal(ErrorBody);

impl Refusal {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(ErrorBody::new(code, message))
    }

    fn of(code: ErrorCode, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(code, full_text(error))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

/// The routes of one host, each with the table's entry, for the caller to guard and mount.
pub fn host_routes(engine: Engine, networks: Networks, patient: Patient) -> Vec<(Route, Router)> {
    let examined = (engine.clone(), patient);
    let mount = |route: Route, handler: MethodRouter<Engine>| {
        (route, Router::new().route(route.path, handler).with_state(engine.clone()))
    };
    vec![
        mount(routes::HOST_IMAGES, get(images)),
        mount(routes::HOST_IMAGE, get(image)),
        mount(routes::HOST_IMAGE_LOAD, post(load).layer(DefaultBodyLimit::disable())),
        mount(routes::HOST_IMAGE_IMPORT, post(import).layer(DefaultBodyLimit::disable())),
        mount(routes::HOST_IMAGE_PULL, post(pull)),
        mount(routes::HOST_IMAGE_REMOVE, delete(remove)),
        mount(routes::HOST_TASK_LOGS, get(logs)),
        (routes::HOST_NETWORKS, Router::new().route(routes::HOST_NETWORKS.path, get(in_force)).with_state(networks)),
        (routes::HOST_EXAMINE, Router::new().route(routes::HOST_EXAMINE.path, post(examine)).with_state(examined)),
    ]
}

async fn in_force(State(networks): State<Networks>) -> Json<HostNetworksView> {
    let state = networks.in_force().borrow().clone();
    let problem = state.failure.map(|failure| failure.message);
    Json(HostNetworksView { generations: state.generations, problem })
}

async fn examine(
    State((engine, patient)): State<(Engine, Patient)>,
    Json(request): Json<ExamineRequest>,
) -> Json<HostExamination> {
    Json(doctor::examine(&engine, &patient, request).await)
}

fn view(image: &Image) -> Result<ImageView, Refusal> {
    let digest =
        |digest: &EngineDigest| digest.as_str().parse().map_err(|error| Refusal::of(ErrorCode::Internal, &error));
    Ok(ImageView {
        digest: digest(&image.digest)?,
        id: digest(&image.id)?,
        references: image.references.clone(),
        size_bytes: image.size_bytes,
        origin: match image.origin {
            Origin::Registry => "registry",
            Origin::Loaded => "loaded",
            Origin::Imported => "imported",
            Origin::Committed => "committed",
        }
        .to_owned(),
        created: image.created.clone(),
    })
}

async fn images(State(engine): State<Engine>) -> Result<Json<Vec<ImageView>>, Refusal> {
    let images = engine.images().list().map_err(|error| Refusal::of(ErrorCode::Internal, &error))?;
    images.iter().map(view).collect::<Result<_, _>>().map(Json)
}

async fn image(State(engine): State<Engine>, Query(query): Query<ImageQuery>) -> Result<Json<ImageView>, Refusal> {
    let image = engine.images().get(&query.reference).map_err(|error| Refusal::of(ErrorCode::NotFound, &error))?;
    view(&image).map(Json)
}

fn reader(body: Body) -> impl tokio::io::AsyncRead + Send + Unpin + 'static {
    let stream = body.into_data_stream().map_err(std::io::Error::other).map_ok(|bytes: Bytes| bytes);
    StreamReader::new(Box::pin(stream))
}

async fn load(State(engine): State<Engine>, body: Body) -> Result<Json<Vec<ImageView>>, Refusal> {
    let images =
        engine.images().load(reader(body)).await.map_err(|error| Refusal::of(ErrorCode::Unprocessable, &error))?;
    images.iter().map(view).collect::<Result<_, _>>().map(Json)
}

async fn import(
    State(engine): State<Engine>,
    Query(query): Query<ImportQuery>,
    body: Body,
) -> Result<Json<ImageView>, Refusal> {
    let reference: Reference = query.reference.parse().map_err(|error| Refusal::of(ErrorCode::BadRequest, &error))?;
    let words = |text: Option<String>, what: &str| -> Result<Option<Vec<String>>, Refusal> {
        text.map(|text| {
            serde_json::from_str(&text).map_err(|error| {
                Refusal::new(ErrorCode::BadRequest, format!("`{what}` is no JSON array of strings: {error}"))
            })
        })
        .transpose()
    };
    let changes = ImportChanges {
        cmd: words(query.command, "command")?,
        entrypoint: words(query.entrypoint, "entrypoint")?,
        ..ImportChanges::default()
    };
    let image = engine
        .images()
        .import(reader(body), Some(&reference), changes)
        .await
        .map_err(|error| Refusal::of(ErrorCode::Unprocessable, &error))?;
    view(&image).map(Json)
}

async fn pull(State(engine): State<Engine>, Json(request): Json<PullRequest>) -> Result<Json<ImageView>, Refusal> {
    let reference: Reference = request.reference.parse().map_err(|error| Refusal::of(ErrorCode::BadRequest, &error))?;
    let credentials = request.credential.as_ref().map(credentials);
    let image = engine
        .images()
        .pull(&reference, credentials.as_ref(), &|_progress| {})
        .await
        .map_err(|error| Refusal::of(ErrorCode::Upstream, &error))?;
    view(&image).map(Json)
}

async fn remove(
    State(engine): State<Engine>,
    Query(query): Query<ImageQuery>,
) -> Result<Json<Vec<ImageView>>, Refusal> {
    let image = engine.images().get(&query.reference).map_err(|error| Refusal::of(ErrorCode::NotFound, &error))?;
    let containers = engine.list();
    let in_use = |digest: &EngineDigest| {
        containers
            .iter()
            .find(|container| container.needs_image(digest.as_str()))
            .map(|container| container.name.clone())
    };
    engine
        .images()
        .remove(&query.reference, &in_use)
        .await
        .map_err(|error| Refusal::of(ErrorCode::Conflict, &error))?;
    view(&image).map(|view| Json(vec![view]))
}

/// Lines of JSON, as they are read; a failure in the middle ends the connection, which the reader notices.
async fn logs(
    State(engine): State<Engine>,
    Path(task): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Refusal> {
    let task: TaskId = task.parse().map_err(|error| Refusal::of(ErrorCode::BadRequest, &error))?;
    let container = task.to_string().parse().map_err(|error| Refusal::of(ErrorCode::BadRequest, &error))?;
    let Some(found) = engine.inspect(&container) else {
        return Err(Refusal::new(ErrorCode::NotFound, format!("this host has no container of task {task}")));
    };
    if !found.config.logging.is_readable() {
        let reason =
            format!("the log of task {task} is kept for sending alone: its logging option cache-disabled says so");
        return Err(Refusal::new(ErrorCode::Conflict, reason));
    }
    let records = engine.logs(&container, log_query(&query));
    let mut texts = LogLines::default();
    let lines = records.map(move |record| -> Result<Bytes, std::io::Error> {
        let record = record.map_err(std::io::Error::other)?;
        let mut text = serde_json::to_vec(&texts.line(task, &record))?;
        text.push(b'\n');
        Ok(Bytes::from(text))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response
        .headers_mut()
        .insert(axum::http::header::CONTENT_TYPE, axum::http::HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}
