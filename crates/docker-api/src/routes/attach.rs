//! `/containers/{id}/attach`, over an upgraded connection and over WebSocket, and `/containers/{id}/resize`.

use std::io;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use stack_engine::Engine;
use stack_engine::container::{
    Attach, AttachedInput, AttachedOutput, Attachment, Container, ContainerState, ExecId, TerminalSize,
};
use stack_engine::logs::{LogQuery, Source};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::Name;
use crate::Daemon;
use crate::decode::{DecodeError, Parameters};
use crate::detach::DetachKeys;
use crate::error::ApiError;
use crate::frame::{Channel, Framing, frame};
use crate::version::ApiVersion;

/// From this version on the content type says whether a stream is in frames.
const FRAMES_ARE_SAID: ApiVersion = ApiVersion { major: 1, minor: 42 };
/// A client that takes nothing for so long is given up.
const STUCK: Duration = Duration::from_secs(60);

/// How long the end of a process is waited for when its streams have ended.
const SETTLED: Duration = Duration::from_secs(5);

/// What the client asked for.
struct AttachRequest {
    logs: bool,
    stream: bool,
    wanted: Attach,
    keys: DetachKeys,
}

impl AttachRequest {
    fn decode(parameters: &Parameters, container: &Container) -> Result<Self, ApiError> {
        let logs = parameters.flag("logs");
        let wanted = Attach {
            input: parameters.flag("stdin") && container.config.stdin_open,
            output: parameters.flag("stdout"),
            error: parameters.flag("stderr"),
            replay: logs,
        };
        let keys = DetachKeys::decode(parameters.text("detachKeys").unwrap_or_default())?;
        Ok(Self { logs, stream: parameters.flag("stream"), wanted, keys })
    }
}

/// A connection that the client wants for itself, once it has been answered.
pub(super) struct Hijack(Option<OnUpgrade>);

impl Hijack {
    /// Of a request.
    pub fn of(request: &mut Request) -> Self {
        let asks = request.headers().contains_key(header::UPGRADE);
        Self(request.extensions_mut().remove::<OnUpgrade>().filter(|_| asks))
    }

    /// Answers, and serves `conversation` on the connection. A client that did not ask for the connection gets the output
    /// as the answer's body, and has no input.
    pub fn serve(
        self,
        framing: Framing,
        version: ApiVersion,
        conversation: impl FnOnce(Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>) -> BoxedFuture
        + Send
        + 'static,
    ) -> Response {
        let content = match framing {
            Framing::Multiplexed if version >= FRAMES_ARE_SAID => "application/vnd.docker.multiplexed-stream",
            Framing::Multiplexed | Framing::Raw => "application/vnd.docker.raw-stream",
        };
        let Some(upgrade) = self.0 else {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(conversation(Box::new(tokio::io::empty()), Box::new(ours)));
            let chunks = tokio_util::io::ReaderStream::new(theirs);
            return ([(header::CONTENT_TYPE, content)], Body::from_stream(chunks)).into_response();
        };
        tokio::spawn(async move {
            match upgrade.await {
                Ok(upgraded) => {
                    let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
                    conversation(Box::new(reader), Box::new(writer)).await;
                }
                Err(error) => tracing::debug!(%error, "a client has gone before its connection was its own"),
            }
        });
        let headers = [(header::CONTENT_TYPE, content), (header::CONNECTION, "Upgrade"), (header::UPGRADE, "tcp")];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    }
}

/// A conversation on a connection.
pub(super) type BoxedFuture = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// What happens with a client's input.
pub(super) struct InputRules {
    /// There is somebody to give it to.
    pub wanted: bool,
    /// Its end is the end of the process's input.
    pub ends: bool,
    /// Keys that leave, where there is a terminal.
    pub keys: Option<DetachKeys>,
}

/// How a conversation ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// With the process, or the client went away.
    Ended,
    /// The client pressed its detach keys.
    Detached,
}

/// Carries the streams until the process ends or the client leaves. A client that sees the end asks how it was, so the end
/// is not shown before `ended` is.
pub(super) async fn carry(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    attachment: Attachment,
    framing: Framing,
    rules: InputRules,
    ended: impl Future<Output = ()>,
) -> Left {
    let Attachment { input, output, .. } = attachment;
    let left = tokio::select! {
        left = carry_input(&mut reader, input, rules) => left,
        result = carry_output(output, &mut writer, framing) => {
            if let Err(error) = result {
                tracing::debug!(%error, "a client's streams have broken");
            }
            Left::Ended
        }
    };
    // One whose streams were cut off goes on, which a client may know.
    if left == Left::Ended && tokio::time::timeout(SETTLED, ended).await.is_err() {
        tracing::debug!("the streams of a process have ended before it");
    }
    // The client may be gone.
    let _ = writer.shutdown().await;
    left
}

/// Until a container has ended, or is gone.
async fn container_ended(engine: &Engine, container: &Container) {
    // One that is gone has ended.
    let _ = engine.wait(&container.id).await;
}

async fn carry_output(
    mut output: AttachedOutput,
    writer: &mut (impl AsyncWrite + Unpin),
    framing: Framing,
) -> io::Result<()> {
    while let Some(chunk) = output.next().await? {
        let channel = match chunk.source {
            Source::Stdout => Channel::Output,
            Source::Stderr => Channel::Error,
        };
        write(writer, &frame(framing, channel, &[&chunk.bytes])).await?;
    }
    Ok(())
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let written = tokio::time::timeout(STUCK, async {
        writer.write_all(bytes).await?;
        writer.flush().await
    });
    written.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Ends when the client leaves: by its keys, or by closing where that does not mean the end of the input alone.
async fn carry_input(reader: &mut (impl AsyncRead + Unpin), mut input: AttachedInput, mut rules: InputRules) -> Left {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => break,
            Err(error) => {
                tracing::debug!(%error, "a client has gone");
                if rules.wanted && rules.ends {
                    // Whoever reads it shall not wait for a client that is gone.
                    let _ = input.end().await;
                }
                return Left::Ended;
            }
            Ok(_) if !rules.wanted => {}
            Ok(length) => {
                let (passed, detached) = match &mut rules.keys {
                    Some(keys) => keys.pass(&buffer[..length]),
                    None => (buffer[..length].to_vec(), false),
                };
                if input.write(&passed).await.is_err() {
                    // It reads no more; what it says is still wanted.
                    rules.wanted = false;
                }
                if detached {
                    return Left::Detached;
                }
            }
        }
    }
    if rules.wanted && rules.ends {
        // The process may have ended.
        let _ = input.end().await;
    } else if rules.wanted {
        return Left::Ended;
    }
    // The output goes on.
    std::future::pending().await
}

/// What the log has that was not sent: everything until `at`.
async fn write_log(
    engine: &Engine,
    container: &Container,
    at: Option<u64>,
    wanted: Attach,
    framing: Framing,
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let logging = &container.config.logging;
    if logging.driver.as_deref() == Some("none") || !logging.is_readable() {
        return Ok(());
    }
    let mut records = engine.logs(&container.id, LogQuery { until: at, ..LogQuery::default() });
    while let Some(record) = records.next().await {
        let record = record.map_err(io::Error::other)?;
        let (is_wanted, channel) = match record.source {
            Source::Stdout => (wanted.output, Channel::Output),
            Source::Stderr => (wanted.error, Channel::Error),
        };
        if is_wanted {
            write(writer, &frame(framing, channel, &[&record.output])).await?;
        }
    }
    Ok(())
}

/// `POST /containers/{id}/attach`.
pub async fn attach(
    State(daemon): State<Daemon>,
    Extension(version): Extension<ApiVersion>,
    Name(name): Name,
    parameters: Parameters,
    mut request: Request,
) -> Result<Response, ApiError> {
    let container = daemon.container(&name)?;
    let asked = AttachRequest::decode(&parameters, &container)?;
    let tty = container.config.tty;
    let framing = if tty { Framing::Raw } else { Framing::Multiplexed };
    let attachment = if asked.stream { Some(daemon.engine.attach(&container.id, asked.wanted).await?) } else { None };
    let hijack = Hijack::of(&mut request);
    let rules = InputRules {
        // Without a connection of its own a client has no input to send.
        wanted: asked.wanted.input && hijack.0.is_some(),
        ends: container.config.stdin_once && !tty,
        keys: tty.then_some(asked.keys),
    };
    let engine = daemon.engine.clone();
    Ok(hijack.serve(framing, version, move |reader, mut writer| {
        Box::pin(async move {
            if asked.logs {
                let at = attachment.as_ref().and_then(|attachment| attachment.at);
                let written = write_log(&engine, &container, at, asked.wanted, framing, &mut writer).await;
                if let Err(error) = written {
                    tracing::debug!(%error, "a log could not be shown to its end");
                    return;
                }
            }
            match attachment {
                Some(attachment) => {
                    let ended = container_ended(&engine, &container);
                    if carry(reader, writer, attachment, framing, rules, ended).await == Left::Detached {
                        engine.tell_detached(&container.id);
                    }
                }
                None => {
                    // The client may be gone.
                    let _ = writer.shutdown().await;
                }
            }
        })
    }))
}

/// `GET /containers/{id}/attach/ws`: binary messages of bytes, both ways, whatever stream they are of.
pub async fn attach_socket(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|refused| ApiError::WebSocket { problem: refused.body_text() })?;
    let container = daemon.container(&name)?;
    let asked = AttachRequest::decode(&parameters, &container)?;
    let attachment = if asked.stream { Some(daemon.engine.attach(&container.id, asked.wanted).await?) } else { None };
    let tty = container.config.tty;
    let rules = InputRules {
        wanted: asked.wanted.input,
        ends: container.config.stdin_once && !tty,
        keys: tty.then(|| asked.keys.clone()),
    };
    let engine = daemon.engine.clone();
    Ok(upgrade.on_upgrade(move |socket| async move {
        // The streams are carried as over any connection; only the ends of it are messages here.
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (reader, mut writer) = tokio::io::split(ours);
        let messages = tokio::spawn(carry_messages(socket, theirs));
        let mut left = Left::Ended;
        let at = attachment.as_ref().and_then(|attachment| attachment.at);
        let logged = if asked.logs {
            write_log(&engine, &container, at, asked.wanted, Framing::Raw, &mut writer).await.is_ok()
        } else {
            true
        };
        if let Some(attachment) = attachment.filter(|_| logged) {
            let ended = container_ended(&engine, &container);
            left = carry(reader, writer, attachment, Framing::Raw, rules, ended).await;
        } else {
            let _ = writer.shutdown().await;
        }
        if left == Left::Detached {
            engine.tell_detached(&container.id);
        }
        if let Err(error) = messages.await {
            tracing::debug!(%error, "a client's messages have broken");
        }
    }))
}

/// Bytes to messages and back, until either side ends.
async fn carry_messages(socket: WebSocket, streams: tokio::io::DuplexStream) {
    let (mut to, mut from) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(streams);
    let incoming = async {
        while let Some(Ok(message)) = from.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => Bytes::from(text),
                Message::Close(_) => break,
                Message::Ping(_) | Message::Pong(_) => continue,
            };
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
        // Nobody may read it any more.
        let _ = writer.shutdown().await;
        std::future::pending::<()>().await;
    };
    let outgoing = async {
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            let message = Message::Binary(Bytes::copy_from_slice(&buffer[..length]));
            match tokio::time::timeout(STUCK, to.send(message)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
        // The client may be gone.
        let _ = to.send(Message::Close(None)).await;
    };
    tokio::select! {
        () = incoming => {}
        () = outgoing => {}
    }
}

/// The parameters `h` and `w`.
pub(super) fn size(parameters: &Parameters) -> Result<TerminalSize, ApiError> {
    let side = |name: &'static str| {
        let number = parameters.number(name)?.and_then(|number| u16::try_from(number).ok());
        number.ok_or_else(|| DecodeError::Parameter {
            name,
            value: parameters.text(name).unwrap_or_default().chars().take(80).collect(),
            expected: "a number of characters from 0 to 65535",
        })
    };
    Ok(TerminalSize { rows: side("h")?, columns: side("w")? })
}

/// `POST /containers/{id}/resize`.
pub async fn resize(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<StatusCode, ApiError> {
    let size = size(&parameters)?;
    let container = daemon.container(&name)?;
    if !matches!(container.state, ContainerState::Running { .. }) {
        return Err(ApiError::NotRunning { name: container.id.to_string() });
    }
    daemon.engine.resize(&container.id, size).await?;
    Ok(StatusCode::OK)
}

/// The id of an exec in a path.
pub(super) fn exec_id(text: &str) -> Result<ExecId, ApiError> {
    text.parse().map_err(|_| ApiError::NoSuchExec { id: text.chars().take(80).collect() })
}
