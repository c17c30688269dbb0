//! `stack node`: the hosts of the cluster.

use stack_api::bodies::{RemoveNodeQuery, UpdateNodeRequest};
use stack_api::routes;
use stack_api::views::{NodeView, Written};
use stack_model::{Availability, Readiness};

use crate::arguments::NodeCommand;
use crate::failure::{ExitCode, Failure};
use crate::output;
use crate::request::{QUICK, Session};

pub async fn run(session: &Session, command: NodeCommand) -> Result<ExitCode, Failure> {
    let client = session.client()?;
    match command {
        NodeCommand::Ls(arguments) => {
            let mut nodes: Vec<NodeView> = client.get(routes::NODES, &[], QUICK).await?;
            nodes.sort_by(|one, other| one.name.cmp(&other.name));
            let now = output::now();
            output::listing(
                arguments.format,
                &nodes,
                &["ID", "NAME", "ADDRESS", "ROLE", "STATE", "AVAILABILITY", "TASKS", "CPUS", "MEMORY", "LABELS"],
                |node| {
                    let state = match node.readiness {
                        Readiness::Ready => "ready".to_owned(),
                        Readiness::Down => format!("down for {}", output::ago(node.readiness_since, now)),
                    };
                    let role = if node.leader { "leader" } else { node.role.as_str() };
                    let labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                    vec![
                        node.id.short(),
                        node.name.clone(),
                        node.address.to_string(),
                        role.to_owned(),
                        state,
                        availability(node.availability).to_owned(),
                        node.tasks.to_string(),
                        format!("{}", node.description.cpu_millis / 1000),
                        output::bytes(node.description.memory_bytes),
                        labels.join(","),
                    ]
                },
            )?;
        }
        NodeCommand::Inspect { node } => {
            let node: NodeView = client.get(routes::NODE, &[&node], QUICK).await?;
            output::json(&node)?;
        }
        NodeCommand::Drain { node } => {
            let request = UpdateNodeRequest { availability: Some(Availability::Drain), ..Default::default() };
            let node = update(&client, &node, &request).await?;
            output::story(&format!(
                "{} is being drained; `stack ps --node {}` shows what is left",
                node.name, node.name
            ));
        }
        NodeCommand::Activate { node } => {
            let request = UpdateNodeRequest { availability: Some(Availability::Active), ..Default::default() };
            let node = update(&client, &node, &request).await?;
            output::story(&format!("{} takes tasks", node.name));
        }
        NodeCommand::Rm { node, force } => {
            let _: Written = client
                .call(routes::REMOVE_NODE, &[&node], Some(&RemoveNodeQuery { force }), None::<&()>, QUICK)
                .await?;
            output::story(&format!("{node} is no member any more"));
        }
        NodeCommand::Label { node, labels } => {
            let labels = labels
                .iter()
                .map(|label| match (label.split_once('='), label.strip_suffix('-')) {
                    (Some((key, value)), _) if !key.is_empty() => Ok((key.to_owned(), Some(value.to_owned()))),
                    (None, Some(key)) if !key.is_empty() => Ok((key.to_owned(), None)),
                    _ => Err(Failure::new(ExitCode::Usage, format!("`{label}` is neither KEY=VALUE nor KEY-"))),
                })
                .collect::<Result<_, _>>()?;
            let node = update(&client, &node, &UpdateNodeRequest { availability: None, labels }).await?;
            let labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            output::story(&format!("{} has labels: {}", node.name, labels.join(", ")));
        }
    }
    Ok(ExitCode::Done)
}

async fn update(client: &stack_api::Client, node: &str, request: &UpdateNodeRequest) -> Result<NodeView, Failure> {
    Ok(client.call(routes::UPDATE_NODE, &[node], None::<&()>, Some(request), QUICK).await?)
}

const fn availability(availability: Availability) -> &'static str {
    match availability {
        Availability::Active => "active",
        Availability::Drain => "drain",
    }
}
