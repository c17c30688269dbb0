//! The listings: stacks, services, tasks; and `inspect`.

use serde::Serialize;
use stack_api::bodies::{StackQuery, TaskQuery};
use stack_api::routes;
use stack_api::views::{NodeView, ServiceView, StackDetail, StackView, TaskView};
use stack_model::{DesiredState, Slot};

use crate::arguments::{PsArguments, StackListArguments};
use crate::failure::{ExitCode, Failure};
use crate::output::{self, Format};
use crate::request::{QUICK, Session};

pub async fn stacks(session: &Session, format: Format) -> Result<ExitCode, Failure> {
    let stacks: Vec<StackView> = session.client()?.get(routes::STACKS, &[], QUICK).await?;
    let now = output::now();
    output::listing(format, &stacks, &["STACK", "SERVICES", "TASKS", "STATE", "UPDATED"], |stack| {
        let state = match (stack.removing, stack.converged) {
            (true, _) => "removing",
            (false, true) => "running",
            (false, false) => "converging",
        };
        vec![
            stack.name.to_string(),
            stack.services.to_string(),
            format!("{}/{}", stack.ready, stack.desired),
            state.to_owned(),
            format!("{} ago", output::ago(stack.updated_at, now)),
        ]
    })?;
    Ok(ExitCode::Done)
}

async fn fetch_services(client: &stack_api::Client, stack: Option<&str>) -> Result<Vec<ServiceView>, Failure> {
    let query = StackQuery { stack: stack.map(str::to_owned) };
    Ok(client.call(routes::SERVICES, &[], Some(&query), None::<&()>, QUICK).await?)
}

pub async fn services(session: &Session, arguments: StackListArguments) -> Result<ExitCode, Failure> {
    let services = fetch_services(&session.client()?, arguments.stack.as_deref()).await?;
    output::listing(
        arguments.format,
        &services,
        &["SERVICE", "MODE", "TASKS", "IMAGE", "PORTS", "STATE"],
        |service| {
            vec![
                service.key.to_string(),
                service.mode.clone(),
                format!("{}/{}", service.ready, service.desired),
                service.image.clone(),
                service.ports.join(", "),
                service_state(service),
            ]
        },
    )?;
    Ok(ExitCode::Done)
}

fn service_state(service: &ServiceView) -> String {
    let mut state = match (&service.update, service.removing, service.converged) {
        (_, true, _) => "removing".to_owned(),
        (Some(update), ..) => update.clone(),
        (None, _, true) => "running".to_owned(),
        (None, _, false) => "converging".to_owned(),
    };
    if let Some(reason) = &service.update_reason {
        state.push_str(&format!(": {reason}"));
    }
    if let Some(unplaced) = &service.unplaced {
        state.push_str(&format!("; {} pending: {}", unplaced.count, unplaced.reason));
    }
    state
}

/// One line of `ps`: a task, or slots that no node can take.
#[derive(Debug, Serialize)]
struct Row {
    id: Option<String>,
    name: String,
    service: String,
    node: Option<String>,
    image: String,
    desired: &'static str,
    state: String,
    ready: bool,
    health: Option<stack_model::Health>,
    restarts: u32,
    exit_code: Option<i32>,
    pid: Option<u32>,
    container: Option<String>,
    ports: Vec<String>,
    since_milliseconds: Option<u64>,
    message: Option<String>,
}

/// What a task is called: `web.1`, and for a global service `web.NODE`.
pub fn task_name(task: &TaskView) -> String {
    match task.slot {
        Slot::Replica(number) => format!("{}.{number}", task.service.service),
        Slot::Node(_) => format!("{}.{}", task.service.service, task.node_name),
    }
}

/// The phase, and what readiness and health add to it.
fn task_state(task: &TaskView) -> String {
    use stack_model::{Health, Phase};

    match (task.phase, task.ready, task.health) {
        (_, _, _) if !task.node_ready && !task.phase.is_terminal() => "node down".to_owned(),
        (Phase::Running, true, Some(Health::Healthy)) => "running (healthy)".to_owned(),
        (Phase::Running, true, _) => "running".to_owned(),
        (Phase::Running, false, Some(Health::Starting)) => "running (starting)".to_owned(),
        (Phase::Running, false, Some(Health::Unhealthy)) => "running (unhealthy)".to_owned(),
        (Phase::Running, false, _) => "restarting".to_owned(),
        (phase, _, _) => phase.to_string(),
    }
}

pub async fn tasks(session: &Session, arguments: PsArguments) -> Result<ExitCode, Failure> {
    let client = session.client()?;
    let query = TaskQuery { stack: arguments.stack.clone(), service: None, node: arguments.node.clone() };
    let tasks: Vec<TaskView> = client.call(routes::TASKS, &[], Some(&query), None::<&()>, QUICK).await?;
    let shown = |task: &&TaskView| arguments.all || task.desired == DesiredState::Running || !task.phase.is_terminal();
    let mut rows: Vec<Row> = tasks.iter().filter(shown).map(row).collect();
    if arguments.node.is_none() {
        for service in fetch_services(&client, arguments.stack.as_deref()).await? {
            if let Some(unplaced) = &service.unplaced {
                rows.push(Row {
                    id: None,
                    name: format!("{} (x{})", service.key.service, unplaced.count),
                    service: service.key.to_string(),
                    node: None,
                    image: service.image.clone(),
                    desired: "running",
                    state: "pending".to_owned(),
                    ready: false,
                    health: None,
                    restarts: 0,
                    exit_code: None,
                    pid: None,
                    container: None,
                    ports: Vec::new(),
                    since_milliseconds: None,
                    message: Some(unplaced.reason.clone()),
                });
            }
        }
    }
    rows.sort_by(|one, other| (&one.service, &one.name, &one.id).cmp(&(&other.service, &other.name, &other.id)));
    let now = output::now();
    output::listing(
        arguments.format,
        &rows,
        &["ID", "NAME", "STACK", "NODE", "IMAGE", "STATE", "RESTARTS", "SINCE", "PORTS", "MESSAGE"],
        |row| {
            vec![
                row.id.as_deref().map_or("-".to_owned(), |id| id.chars().take(12).collect()),
                row.name.clone(),
                row.service.split('/').next().unwrap_or_default().to_owned(),
                row.node.clone().unwrap_or_else(|| "-".to_owned()),
                row.image.clone(),
                row.state.clone(),
                row.restarts.to_string(),
                row.since_milliseconds.map_or_else(String::new, |at| output::ago(stack_model::Timestamp(at), now)),
                row.ports.join(", "),
                row.message.clone().unwrap_or_default(),
            ]
        },
    )?;
    Ok(ExitCode::Done)
}

fn row(task: &TaskView) -> Row {
    Row {
        id: Some(task.id.to_string()),
        name: task_name(task),
        service: task.service.to_string(),
        node: Some(task.node_name.clone()),
        image: task.image.clone(),
        desired: match task.desired {
            DesiredState::Running => "running",
            DesiredState::Stopped => "stopped",
        },
        state: task_state(task),
        ready: task.ready,
        health: task.health,
        restarts: task.restarts,
        exit_code: task.exit_code,
        pid: task.pid,
        container: task.container.clone(),
        ports: task.ports.clone(),
        since_milliseconds: Some(task.since.0),
        message: task.message.clone(),
    }
}

/// Looks in turn for a service (`STACK/SERVICE`), a stack, a node and a task of that name.
pub async fn inspect(session: &Session, name: &str) -> Result<ExitCode, Failure> {
    let client = session.client()?;
    if let Some((stack, service)) = name.split_once('/') {
        let services = fetch_services(&client, Some(stack)).await?;
        let Some(found) = services.iter().find(|view| view.key.service.as_str() == service) else {
            return Err(Failure::new(ExitCode::NotFound, format!("there is no service `{name}`"))
                .with_hint("`stack services` lists them"));
        };
        let detail: StackDetail = client.get(routes::STACK, &[stack], QUICK).await?;
        let spec = detail.spec.services.get(&found.key.service);
        output::json(&serde_json::json!({"service": found, "spec": spec}))?;
        return Ok(ExitCode::Done);
    }
    match client.get::<StackDetail>(routes::STACK, &[name], QUICK).await {
        Ok(detail) => {
            output::json(&detail)?;
            return Ok(ExitCode::Done);
        }
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(error.into()),
    }
    match client.get::<NodeView>(routes::NODE, &[name], QUICK).await {
        Ok(node) => {
            output::json(&node)?;
            return Ok(ExitCode::Done);
        }
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(error.into()),
    }
    let tasks: Vec<TaskView> = client.get(routes::TASKS, &[], QUICK).await?;
    let mut found = tasks.iter().filter(|task| task.id.to_string().starts_with(name));
    match (found.next(), found.next()) {
        (Some(task), None) => {
            output::json(task)?;
            Ok(ExitCode::Done)
        }
        (Some(_), Some(_)) => {
            Err(Failure::new(ExitCode::NotFound, format!("`{name}` is the start of several tasks' ids")))
        }
        (None, _) => Err(Failure::new(ExitCode::NotFound, format!("there is no stack, node or task `{name}`"))
            .with_hint("a service is named STACK/SERVICE")),
    }
}

fn is_absent(error: &stack_api::ClientError) -> bool {
    error
        .refused()
        .is_some_and(|body| matches!(body.code, stack_api::ErrorCode::NotFound | stack_api::ErrorCode::BadRequest))
}
