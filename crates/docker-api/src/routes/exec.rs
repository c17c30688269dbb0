//! `/containers/{id}/exec` and `/exec/{id}`.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use bollard_stubs::models::{ExecConfig as ExecBody, ExecInspectResponse, ExecStartConfig, ProcessConfig};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use stack_engine::container::{Attach, ContainerState, Exec, ExecConfig, ExecError, ExecState};
use tokio::io::AsyncWriteExt as _;

use super::Name;
use super::attach::{Hijack, InputRules, Left, carry, exec_id, size};
use crate::Daemon;
use crate::decode::Parameters;
use crate::decode::create::terminal_size;
use crate::detach::DetachKeys;
use crate::error::{ApiError, full_text};
use crate::frame::{Channel, Framing, frame};
use crate::version::ApiVersion;

/// The answer of a route that makes something.
#[derive(serde::Serialize)]
pub struct Made {
    #[serde(rename = "Id")]
    id: String,
}

/// No body is longer.
const LONGEST_BODY: usize = 8 << 20;

/// A JSON body, whatever its content type says.
pub(super) async fn body<T: DeserializeOwned + Default>(request: &mut Request) -> Result<T, ApiError> {
    let bytes = bytes(request).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes).map_err(|error| ApiError::Body { problem: error.to_string() })
}

/// The body of a request, of which the rest stays.
pub(super) async fn bytes(request: &mut Request) -> Result<Bytes, ApiError> {
    let body = http_body_util::Limited::new(std::mem::take(request.body_mut()), LONGEST_BODY);
    let collected = body.collect().await;
    Ok(collected.map_err(|error| ApiError::Body { problem: error.to_string() })?.to_bytes())
}

/// Environment variables of a list; those without a value are none.
fn environment(list: Option<Vec<String>>) -> BTreeMap<String, String> {
    let pairs = list.unwrap_or_default().into_iter();
    pairs.filter_map(|entry| entry.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))).collect()
}

fn nonempty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// `POST /containers/{id}/exec`.
pub async fn create(
    State(daemon): State<Daemon>,
    Name(name): Name,
    mut request: Request,
) -> Result<(StatusCode, Json<Made>), ApiError> {
    let asked: ExecBody = body(&mut request).await?;
    let container = daemon.container(&name)?;
    if !matches!(container.state, ContainerState::Running { .. }) {
        return Err(ApiError::NotRunning { name: container.id.to_string() });
    }
    let arguments = asked.cmd.unwrap_or_default();
    if arguments.is_empty() {
        return Err(ApiError::Body { problem: "No exec command specified".to_owned() });
    }
    // They are looked at now, so that a mistake is said before anything runs.
    DetachKeys::decode(asked.detach_keys.as_deref().unwrap_or_default())?;
    let config = ExecConfig {
        arguments,
        environment: environment(asked.env),
        user: nonempty(asked.user),
        working_dir: nonempty(asked.working_dir),
        privileged: asked.privileged.unwrap_or(false),
        tty: asked.tty.unwrap_or(false),
        input: asked.attach_stdin.unwrap_or(false),
        output: asked.attach_stdout.unwrap_or(false),
        error: asked.attach_stderr.unwrap_or(false),
        detach_keys: nonempty(asked.detach_keys),
    };
    let id = daemon.engine.exec_create(&container.id, config).await?;
    Ok((StatusCode::CREATED, Json(Made { id: id.to_string() })))
}

/// What a client reads that sees an exec fail: `docker exec` prints it.
fn refusal(error: &ExecError) -> String {
    match error {
        ExecError::Command { source, .. } => {
            format!("OCI runtime exec failed: exec failed: unable to start container process: {source}: unknown\r\n")
        }
        other => format!("{}\r\n", full_text(other)),
    }
}

fn find(daemon: &Daemon, id: &str) -> Result<Exec, ApiError> {
    let missing = || ApiError::NoSuchExec { id: id.chars().take(80).collect() };
    daemon.engine.exec_inspect(&exec_id(id)?).ok_or_else(missing)
}

/// `POST /exec/{id}/start`.
pub async fn start(
    State(daemon): State<Daemon>,
    Extension(version): Extension<ApiVersion>,
    Name(id): Name,
    mut request: Request,
) -> Result<Response, ApiError> {
    let asked: ExecStartConfig = body(&mut request).await?;
    let exec = find(&daemon, &id)?;
    match exec.state {
        ExecState::Created => {}
        ExecState::Starting | ExecState::Running { .. } => {
            return Err(ExecError::Started { id: exec.id }.into());
        }
        ExecState::Ended { .. } => return Err(ExecError::ExecNotRunning { id: exec.id }.into()),
    }
    let running = daemon.engine.inspect(&exec.container).map(|container| container.state);
    if !matches!(running, Some(ContainerState::Running { .. })) {
        return Err(ApiError::NotRunning { name: exec.container.to_string() });
    }
    let console = terminal_size(asked.console_size.as_deref()).filter(|_| exec.config.tty);
    if asked.detach.unwrap_or(false) {
        daemon.engine.exec_start(&exec.id, None, console).await?;
        return Ok(StatusCode::OK.into_response());
    }
    let config = exec.config.clone();
    let framing = if config.tty { Framing::Raw } else { Framing::Multiplexed };
    let keys = DetachKeys::decode(config.detach_keys.as_deref().unwrap_or_default())?;
    let wanted = Attach { input: config.input, output: config.output, error: config.error, replay: false };
    let rules = InputRules { wanted: config.input, ends: !config.tty, keys: config.tty.then_some(keys) };
    let engine = daemon.engine.clone();
    Ok(Hijack::of(&mut request).serve(framing, version, move |reader, mut writer| {
        Box::pin(async move {
            match engine.exec_start(&exec.id, Some(wanted), console).await {
                Ok(Some(attachment)) => {
                    let ended = async {
                        // One that is forgotten has ended.
                        let _ = engine.exec_wait(&exec.id).await;
                    };
                    if carry(reader, writer, attachment, framing, rules, ended).await == Left::Detached {
                        engine.tell_exec_detached(&exec.id);
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    let text = refusal(&error);
                    // The client asks for the exit code next, whether it has got this or not.
                    let _ = writer.write_all(&frame(framing, Channel::Output, &[text.as_bytes()])).await;
                    let _ = writer.shutdown().await;
                }
            }
        })
    }))
}

/// `POST /exec/{id}/resize`.
pub async fn resize(
    State(daemon): State<Daemon>,
    Name(id): Name,
    parameters: Parameters,
) -> Result<StatusCode, ApiError> {
    let size = size(&parameters)?;
    let exec = find(&daemon, &id)?;
    daemon.engine.exec_resize(&exec.id, size).await?;
    Ok(StatusCode::OK)
}

/// `GET /exec/{id}/json`.
pub async fn inspect(State(daemon): State<Daemon>, Name(id): Name) -> Result<Json<ExecInspectResponse>, ApiError> {
    let exec = find(&daemon, &id)?;
    let config = exec.config;
    let mut arguments = config.arguments.into_iter();
    let (running, pid, exit_code) = match exec.state {
        ExecState::Created => (false, 0, None),
        ExecState::Starting => (true, 0, None),
        ExecState::Running { pid } => (true, i64::from(pid), None),
        // What nobody knows is told as a kill, which is what it most likely was.
        ExecState::Ended { code } => (false, 0, Some(i64::from(code.unwrap_or(137)))),
    };
    Ok(Json(ExecInspectResponse {
        id: Some(exec.id.to_string()),
        container_id: Some(exec.container.to_string()),
        running: Some(running),
        exit_code,
        pid: Some(pid),
        can_remove: Some(false),
        detach_keys: Some(config.detach_keys.unwrap_or_default()),
        open_stdin: Some(config.input),
        open_stdout: Some(config.output),
        open_stderr: Some(config.error),
        process_config: Some(ProcessConfig {
            privileged: Some(config.privileged),
            user: config.user,
            tty: Some(config.tty),
            entrypoint: Some(arguments.next().unwrap_or_default()),
            arguments: Some(arguments.collect()),
        }),
    }))
}
