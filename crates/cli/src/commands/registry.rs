//! `stack registry`: credentials for the whole cluster, so that every host can pull.

use std::io::Read;

use stack_api::bodies::SetRegistryRequest;
use stack_api::routes;
use stack_api::views::{RegistryView, Written};
use stack_model::RegistryCredential;

use crate::arguments::RegistryCommand;
use crate::failure::{ExitCode, Failure};
use crate::output;
use crate::request::{QUICK, Session};

pub async fn run(session: &Session, command: RegistryCommand) -> Result<ExitCode, Failure> {
    let client = session.client()?;
    match command {
        RegistryCommand::Login { registry, username } => {
            let mut password = String::new();
            std::io::stdin().lock().take(64 * 1024).read_to_string(&mut password)?;
            let password = password.trim_end_matches(['\r', '\n']).to_owned();
            if password.is_empty() {
                return Err(Failure::new(ExitCode::Usage, "no password came on standard input")
                    .with_hint(format!("`stack registry login {registry} --username {username} < FILE`")));
            }
            let request = SetRegistryRequest { credential: RegistryCredential { username, password } };
            let _: Written =
                client.call(routes::SET_REGISTRY, &[&registry], None::<&()>, Some(&request), QUICK).await?;
            output::story(&format!("the hosts now present this credential to {registry}"));
        }
        RegistryCommand::Ls(arguments) => {
            let registries: Vec<RegistryView> = client.get(routes::REGISTRIES, &[], QUICK).await?;
            output::listing(arguments.format, &registries, &["REGISTRY", "USERNAME"], |registry| {
                vec![registry.registry.clone(), registry.username.clone()]
            })?;
        }
        RegistryCommand::Logout { registry } => {
            let _: Written = client.get(routes::REMOVE_REGISTRY, &[&registry], QUICK).await?;
            output::story(&format!("the credential of {registry} is forgotten"));
        }
    }
    Ok(ExitCode::Done)
}
