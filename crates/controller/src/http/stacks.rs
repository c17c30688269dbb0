//! Stacks, services and tasks.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use stack_api::ErrorCode;
use stack_api::bodies::{DeployRequest, ScaleRequest, StackQuery, StatusQuery, TaskQuery};
use stack_api::views::{DeployResponse, PlanView, ServiceView, StackDetail, StackStatus, StackView, TaskView, Written};
use stack_model::{ServiceKey, StackName, TaskId};
use stack_planner::{Applied, Command};

use super::extract::{Body, Named, Query, RequestId};
use super::{Context, Failure, files, images, plan_view, views};
use crate::store::now;

/// A status query without news is answered after at most this time.
const LONGEST_WAIT: u64 = 30_000;

pub(super) const fn written(applied: Applied) -> Json<Written> {
    Json(Written { revision: applied.revision, changed: applied.changed })
}

fn stack_name(text: Option<&str>) -> Result<Option<StackName>, Failure> {
    text.map(str::parse)
        .transpose()
        .map_err(|error: stack_model::NameError| Failure::new(ErrorCode::BadRequest, error.to_string()))
}

pub(super) async fn list(State(context): State<Context>) -> Result<Json<Vec<StackView>>, Failure> {
    context.store.read_barrier().await?;
    let state = context.store.state();
    Ok(Json(state.stacks.iter().map(|(name, stack)| views::stack(&state, name, stack)).collect()))
}

pub(super) async fn inspect(
    State(context): State<Context>,
    Named(name): Named<StackName>,
) -> Result<Json<StackDetail>, Failure> {
    context.store.read_barrier().await?;
    let state = context.store.state();
    let stack = state
        .stacks
        .get(&name)
        .ok_or_else(|| Failure::new(ErrorCode::NotFound, format!("there is no stack `{name}`")))?;
    Ok(Json(StackDetail { stack: views::stack(&state, &name, stack), spec: (*stack.spec).clone() }))
}

fn same_name(name: &StackName, body: &DeployRequest) -> Result<(), Failure> {
    if body.spec.name == *name {
        return Ok(());
    }
    let message = format!("the path names the stack `{name}`, the body the stack `{}`", body.spec.name);
    Err(Failure::new(ErrorCode::BadRequest, message))
}

pub(super) async fn deploy(
    State(context): State<Context>,
    Named(name): Named<StackName>,
    RequestId(request): RequestId,
    Body(mut body): Body<DeployRequest>,
) -> Result<Json<DeployResponse>, Failure> {
    same_name(&name, &body)?;
    context.store.read_barrier().await?;
    let state = context.store.state();
    let contents = files::pin(&state, &mut body.spec, body.contents)?;
    let images = images::pin(&context, &state, &mut body.spec, &request).await?;
    let expected_revision = body.expected_revision;
    let command = Command::PutStack { spec: Box::new(body.spec), expected_revision, contents };
    let applied = context.store.propose_as(&command, &request).await?;
    Ok(Json(DeployResponse { revision: applied.revision, changed: applied.changed, images }))
}

pub(super) async fn plan(
    State(context): State<Context>,
    Named(name): Named<StackName>,
    RequestId(request): RequestId,
    Body(mut body): Body<DeployRequest>,
) -> Result<Json<PlanView>, Failure> {
    same_name(&name, &body)?;
    context.store.read_barrier().await?;
    let state = context.store.state();
    let contents = files::pin(&state, &mut body.spec, body.contents)?;
    let images = images::pin(&context, &state, &mut body.spec, &request).await?;
    let view = plan_view::dry_run(&state, now(), body.spec, body.expected_revision, contents, images);
    Ok(Json(view.map_err(|rejected| Failure::from(*rejected))?))
}

pub(super) async fn remove(
    State(context): State<Context>,
    Named(stack): Named<StackName>,
    RequestId(request): RequestId,
) -> Result<Json<Written>, Failure> {
    Ok(written(context.store.propose_as(&Command::RemoveStack { stack }, &request).await?))
}

pub(super) async fn status(
    State(context): State<Context>,
    Named(name): Named<StackName>,
    Query(query): Query<StatusQuery>,
) -> Result<Json<StackStatus>, Failure> {
    context.store.read_barrier().await?;
    let wait = Duration::from_millis(query.wait_milliseconds.min(LONGEST_WAIT));
    let mut states = context.store.watch();
    // Nothing new in time is an answer, too.
    let _ = tokio::time::timeout(wait, states.wait_for(|state| state.revision > query.after)).await;
    let state = context.store.state();
    Ok(Json(views::stack_status(&state, &name)))
}

pub(super) async fn services(
    State(context): State<Context>,
    Query(query): Query<StackQuery>,
) -> Result<Json<Vec<ServiceView>>, Failure> {
    let stack = stack_name(query.stack.as_deref())?;
    context.store.read_barrier().await?;
    Ok(Json(views::services(&context.store.state(), stack.as_ref())))
}

pub(super) async fn scale(
    State(context): State<Context>,
    RequestId(request): RequestId,
    Body(body): Body<ScaleRequest>,
) -> Result<Json<Written>, Failure> {
    Ok(written(context.store.propose_as(&Command::Scale { replicas: body.replicas }, &request).await?))
}

pub(super) async fn tasks(
    State(context): State<Context>,
    Query(query): Query<TaskQuery>,
) -> Result<Json<Vec<TaskView>>, Failure> {
    let stack = stack_name(query.stack.as_deref())?;
    let service: Option<ServiceKey> = match (&stack, query.service.as_deref()) {
        (_, None) => None,
        (None, Some(_)) => {
            return Err(Failure::new(ErrorCode::BadRequest, "a service is named without its stack"));
        }
        (Some(stack), Some(service)) => {
            let service = service
                .parse()
                .map_err(|error: stack_model::NameError| Failure::new(ErrorCode::BadRequest, error.to_string()))?;
            Some(ServiceKey { stack: stack.clone(), service })
        }
    };
    context.store.read_barrier().await?;
    let state = context.store.state();
    let node = match query.node.as_deref() {
        None => None,
        Some(text) => Some(find_node(&state, text)?.id),
    };
    let wanted = state.tasks.values().filter(|task| {
        stack.as_ref().is_none_or(|stack| task.service.stack == *stack)
            && service.as_ref().is_none_or(|service| task.service == *service)
            && node.is_none_or(|node| task.node == node)
    });
    Ok(Json(views::tasks(&state, wanted)))
}

pub(super) fn find_node<'state>(
    state: &'state stack_planner::State,
    text: &str,
) -> Result<&'state stack_model::Node, Failure> {
    views::find_node(state, text).ok_or_else(|| {
        Failure::new(ErrorCode::NotFound, format!("there is no node `{text}`")).with_hint("`stack node ls` shows them")
    })
}

pub(super) async fn task(State(context): State<Context>, Named(id): Named<TaskId>) -> Result<Json<TaskView>, Failure> {
    context.store.read_barrier().await?;
    let state = context.store.state();
    let task =
        state.tasks.get(&id).ok_or_else(|| Failure::new(ErrorCode::NotFound, format!("there is no task {id}")))?;
    Ok(Json(views::task(&state, task)))
}
