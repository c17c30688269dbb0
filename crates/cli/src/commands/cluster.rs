//! `stack cluster`: make a cluster, join one, see it.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use stack_api::bodies::{InitRequest, JoinClusterRequest};
use stack_api::routes;
use stack_api::views::{ClusterView, MemberView, TokensView};

use crate::arguments::{ClusterCommand, TokenRole};
use crate::failure::{ExitCode, Failure};
use crate::output::{self, Format};
use crate::request::{QUICK, Session};

/// A join waits until the new member is known to the leader.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);

pub async fn run(session: &Session, command: ClusterCommand) -> Result<ExitCode, Failure> {
    match command {
        ClusterCommand::Init { advertise, encrypt_networks, format } => {
            let request = InitRequest { advertise, encrypt_networks };
            let member: MemberView =
                session.local()?.call(routes::CLUSTER_INIT, &[], None::<&()>, Some(&request), JOIN_TIMEOUT).await?;
            print_member(&member, format)?;
            if format == Format::Table {
                output::hint("`stack cluster token` shows how other hosts join");
            }
        }
        ClusterCommand::Join { token_file, token, advertise, controllers, format } => {
            let token = match token {
                Some(token) => token,
                None => read_token(token_file.as_deref().unwrap_or(Path::new("-")))?,
            };
            let request = JoinClusterRequest { token: token.trim().to_owned(), controllers, advertise };
            let member: MemberView =
                session.local()?.call(routes::CLUSTER_JOIN, &[], None::<&()>, Some(&request), JOIN_TIMEOUT).await?;
            print_member(&member, format)?;
        }
        ClusterCommand::Token { role, rotate, quiet } => {
            let client = session.client()?;
            let role_name = match role {
                TokenRole::Worker => "worker",
                TokenRole::Controller => "controller",
            };
            let tokens: TokensView = if rotate {
                client.get(routes::ROTATE_TOKEN, &[role_name], QUICK).await?
            } else {
                client.get(routes::TOKENS, &[], QUICK).await?
            };
            let token = match role {
                TokenRole::Worker => &tokens.worker,
                TokenRole::Controller => &tokens.controller,
            };
            output::data(token);
            if !quiet && let Some(controller) = tokens.controllers.first() {
                output::hint(&format!(
                    "on the host that is to join as a {role_name}: `stack cluster join --token-file FILE {controller}`"
                ));
            }
        }
        ClusterCommand::Info { format } => {
            let cluster: ClusterView = session.client()?.get(routes::CLUSTER, &[], QUICK).await?;
            if format == Format::Json {
                output::json(&cluster)?;
            } else {
                output::data(&format!("cluster {} at revision {}", cluster.cluster_id, cluster.revision));
                output::listing(
                    format,
                    &cluster.controllers,
                    &["CONTROLLER", "ADDRESS", "VOTE", "LEADER"],
                    |controller| {
                        vec![
                            controller.name.clone(),
                            controller.address.to_string(),
                            if controller.voter { "yes" } else { "catching up" }.to_owned(),
                            if controller.leader { "leader" } else { "" }.to_owned(),
                        ]
                    },
                )?;
                if cluster.controllers.len().is_multiple_of(2) {
                    output::hint(
                        "an even number of controllers survives no more failures than one fewer: use 1, 3 or 5",
                    );
                }
            }
        }
    }
    Ok(ExitCode::Done)
}

fn read_token(path: &Path) -> Result<String, Failure> {
    let mut token = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(4096).read_to_string(&mut token)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(4096).read_to_string(&mut token))
    };
    read.map_err(|error| {
        Failure::new(ExitCode::Failed, format!("cannot read the token from {}: {error}", path.display()))
    })?;
    Ok(token)
}

fn print_member(member: &MemberView, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::json(member),
        Format::Table => {
            output::story(&format!(
                "this host is node {} of cluster {}, a {}",
                member.node.short(),
                member.cluster_id,
                member.role.as_str()
            ));
            Ok(())
        }
    }
}
