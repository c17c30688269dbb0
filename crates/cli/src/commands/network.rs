//! `stack network`: the networks between hosts.

use std::collections::BTreeMap;

use stack_api::bodies::PutNetworkRequest;
use stack_api::routes;
use stack_api::views::{NetworkView, Written};
use stack_model::spec::NetworkSpec;

use crate::arguments::NetworkCommand;
use crate::failure::{ExitCode, Failure};
use crate::output;
use crate::request::{QUICK, Session};

/// `KEY=VALUE` or `KEY`.
pub fn labels_of(labels: Vec<String>) -> BTreeMap<String, String> {
    labels
        .into_iter()
        .map(|label| match label.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (label, String::new()),
        })
        .collect()
}

pub async fn run(session: &Session, command: NetworkCommand) -> Result<ExitCode, Failure> {
    let client = session.client()?;
    match command {
        NetworkCommand::Ls(arguments) => {
            let networks: Vec<NetworkView> = client.get(routes::NETWORKS, &[], QUICK).await?;
            let header = ["NAME", "SUBNETS", "HOSTS", "SERVICES", "TASKS", "STACK"];
            output::listing(arguments.format, &networks, &header, |network| {
                vec![
                    network.name.clone(),
                    network.subnets.join(" "),
                    network.hosts.len().to_string(),
                    network.services.len().to_string(),
                    network.tasks.len().to_string(),
                    network.stack.as_ref().map(ToString::to_string).unwrap_or_default(),
                ]
            })?;
        }
        NetworkCommand::Inspect { name } => {
            let network: NetworkView = client.get(routes::NETWORK, &[&name], QUICK).await?;
            output::json(&network)?;
        }
        NetworkCommand::Create { name, subnets, ipv6, internal, encrypted, attachable, mtu, labels } => {
            let labels = labels_of(labels);
            let spec =
                NetworkSpec { labels, internal, encrypted, attachable, ipv6, mtu, subnets, ..NetworkSpec::default() };
            let request = PutNetworkRequest { spec };
            let _: Written = client.call(routes::PUT_NETWORK, &[&name], None::<&()>, Some(&request), QUICK).await?;
            output::story(&format!("network {name} is there; a stack uses it with `external: true`"));
        }
        NetworkCommand::Rm { name } => {
            let _: Written = client.get(routes::REMOVE_NETWORK, &[&name], QUICK).await?;
            output::story(&format!("network {name} is gone"));
        }
    }
    Ok(ExitCode::Done)
}
