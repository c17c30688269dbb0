//! `/containers/{id}/wait`.

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use stack_engine::Engine;
use stack_engine::container::{Container, ContainerId, ContainerState, EventKind, ExitStatus, WaitError};
use stack_engine::events::{Event, Happening};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::Name;
use crate::Daemon;
use crate::decode::{Parameters, WaitCondition};
use crate::encode::container::waited;
use crate::error::ApiError;

/// `POST /containers/{id}/wait`. The head of the answer comes at once, so that a client knows that it is being waited.
pub async fn wait(
    State(daemon): State<Daemon>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let condition = WaitCondition::decode(&parameters)?;
    // Before the container is looked at, so that nothing happens unseen in between.
    let events = daemon.engine.events().listen();
    let container = daemon.container(&name)?;
    let body = futures::stream::once(async move {
        let status = ended(&daemon.engine, events, &container, condition).await;
        serde_json::to_vec(&waited(&status)).map(Bytes::from)
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response())
}

/// What is said of a container that never ran or is gone before its end was seen.
fn unseen() -> ExitStatus {
    ExitStatus { code: 0, signal: None, oom: false, started_at: None, finished_at: 0, error: None }
}

/// The newest end of a container that has been told until now.
fn told(events: &mut Receiver<Event>, id: &ContainerId) -> Option<ExitStatus> {
    let mut found = None;
    loop {
        match events.try_recv() {
            Ok(Event { what: Happening::Container { id: other, kind: EventKind::Exited(status), .. }, .. })
                if other == *id =>
            {
                found = Some(status);
            }
            Ok(_) | Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return found,
        }
    }
}

async fn ended(
    engine: &Engine,
    mut events: Receiver<Event>,
    container: &Container,
    condition: WaitCondition,
) -> ExitStatus {
    let id = &container.id;
    let mut last = match &container.state {
        ContainerState::Exited(status) => status.clone(),
        _ => unseen(),
    };
    let runs = matches!(container.state, ContainerState::Running { .. } | ContainerState::Starting);
    if condition == WaitCondition::NotRunning {
        if !runs {
            return last;
        }
        return match engine.wait(id).await {
            Ok(status) => status,
            // It was removed at once after its end, which the events still tell.
            Err(WaitError::Missing { .. }) => told(&mut events, id).unwrap_or(last),
        };
    }
    let before = container.state.clone();
    loop {
        match events.recv().await {
            Ok(Event { what: Happening::Container { id: other, kind, .. }, .. }) if other == *id => {
                if kind == EventKind::Removed {
                    return last;
                }
                if let EventKind::Exited(status) = kind {
                    last = status;
                    if condition == WaitCondition::NextExit {
                        return last;
                    }
                }
            }
            Ok(_) => {}
            Err(RecvError::Closed) => return last,
            // Some were missed: what is now says whether the one that is waited for was among them.
            Err(RecvError::Lagged(_)) => match engine.inspect(id).map(|container| container.state) {
                None => return last,
                Some(ContainerState::Exited(status)) => {
                    let is_new = ContainerState::Exited(status.clone()) != before;
                    last = status;
                    if is_new && condition == WaitCondition::NextExit {
                        return last;
                    }
                }
                Some(_) => {}
            },
        }
    }
}
