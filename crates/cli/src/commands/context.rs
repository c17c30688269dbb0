//! `stack context`: which clusters this user can address, and how another machine gets to address one.

use std::io::Read;
use std::path::Path;

use serde::Serialize;
use stack_api::bodies::{CertificateRequest, CertificateResponse};
use stack_api::{Client, routes};

use crate::arguments::ContextCommand;
use crate::context::Context;
use crate::failure::{ExitCode, Failure};
use crate::output;
use crate::request::{QUICK, Session};

pub async fn run(session: &Session, command: ContextCommand) -> Result<ExitCode, Failure> {
    let contexts = &session.contexts;
    match command {
        ContextCommand::Ls(arguments) => {
            #[derive(Serialize)]
            struct Row {
                name: String,
                address: String,
                current: bool,
            }
            let current = contexts.current();
            let mut rows = Vec::new();
            for name in contexts.names()? {
                let address = contexts.read(&name)?.address();
                rows.push(Row { current: current.as_deref() == Some(&name), name, address });
            }
            output::listing(arguments.format, &rows, &["CONTEXT", "ADDRESS", "CURRENT"], |row| {
                vec![row.name.clone(), row.address.clone(), if row.current { "*" } else { "" }.to_owned()]
            })?;
        }
        ContextCommand::Create { name, controller, ca, certificate, key } => {
            let context = Context::Remote {
                controllers: controller,
                ca_certificate: read_text(&ca)?,
                certificate: read_text(&certificate)?,
                key: read_text(&key)?,
            };
            // What cannot be used is refused now, not at the first command.
            context.client()?;
            contexts.write(&name, &context)?;
            output::story(&format!("context {name} addresses {}", context.address()));
        }
        ContextCommand::Export { operator } => {
            let context = new_operator(&session.client()?, &operator).await?;
            output::json(&context)?;
            output::hint("this holds a private key: keep it secret; `stack context import NAME FILE` reads it");
        }
        ContextCommand::Import { name, file } => {
            let text = read_text(&file)?;
            let context: Context = serde_json::from_str(&text)
                .map_err(|error| Failure::new(ExitCode::Failed, format!("{}: {error}", file.display())))?;
            context.client()?;
            contexts.write(&name, &context)?;
            output::story(&format!("context {name} addresses {}", context.address()));
        }
        ContextCommand::Use { name } => {
            contexts.set_current(name.as_deref())?;
            match name {
                Some(name) => output::story(&format!("commands now address {name}")),
                None => output::story("commands now address this machine's daemon"),
            }
        }
        ContextCommand::Rm { name } => {
            if !contexts.remove(&name)? {
                return Err(Failure::new(ExitCode::NotFound, format!("there is no context `{name}`")));
            }
            output::story(&format!("context {name} is removed"));
        }
    }
    Ok(ExitCode::Done)
}

/// A context with a certificate of its own for `operator`. The private key is made here and goes nowhere else.
pub async fn new_operator(client: &Client, operator: &str) -> Result<Context, Failure> {
    let broken = |error: rcgen::Error| Failure::new(ExitCode::Failed, format!("cannot make a key: {error}"));
    let key = rcgen::KeyPair::generate().map_err(broken)?;
    let request = rcgen::CertificateParams::default().serialize_request(&key).map_err(broken)?;
    let request =
        CertificateRequest { name: Some(operator.to_owned()), certificate_request: request.pem().map_err(broken)? };
    let response: CertificateResponse = client.call(routes::OPERATORS, &[], None::<&()>, Some(&request), QUICK).await?;
    Ok(Context::Remote {
        controllers: response.controllers,
        ca_certificate: response.ca_certificate,
        certificate: response.certificate,
        key: key.serialize_pem(),
    })
}

fn read_text(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(1024 * 1024).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(1024 * 1024).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::new(ExitCode::Failed, format!("cannot read {}: {error}", path.display())))?;
    Ok(text)
}
