//! `stack secret` and `stack configs`: those that stacks bring along, and those that are made by hand.

use std::io::Read as _;
use std::path::Path;

use stack_api::bodies::CreateFileRequest;
use stack_api::routes::{self, Route};
use stack_api::views::{FileView, Written};
use stack_model::{Content, FileKind};

use crate::arguments::FileCommand;
use crate::commands::network::labels_of;
use crate::failure::{ExitCode, Failure};
use crate::output;
use crate::request::{QUICK, Session};

struct Routes {
    list: Route,
    inspect: Route,
    create: Route,
    remove: Route,
}

const fn routes_of(kind: FileKind) -> Routes {
    match kind {
        FileKind::Secret => Routes {
            list: routes::SECRETS,
            inspect: routes::SECRET,
            create: routes::CREATE_SECRET,
            remove: routes::REMOVE_SECRET,
        },
        FileKind::Config => Routes {
            list: routes::CONFIGS,
            inspect: routes::CONFIG,
            create: routes::CREATE_CONFIG,
            remove: routes::REMOVE_CONFIG,
        },
    }
}

pub async fn run(session: &Session, kind: FileKind, command: FileCommand) -> Result<ExitCode, Failure> {
    let client = session.client()?;
    let routes = routes_of(kind);
    match command {
        FileCommand::Ls(arguments) => {
            let files: Vec<FileView> = client.get(routes.list, &[], QUICK).await?;
            let header = ["NAME", "BYTES", "STACK", "USED BY"];
            output::listing(arguments.format, &files, &header, |file| {
                let users: Vec<&str> = file.used_by.iter().map(stack_model::StackName::as_str).collect();
                vec![
                    file.name.clone(),
                    file.bytes.to_string(),
                    file.stack.as_ref().map(ToString::to_string).unwrap_or_default(),
                    users.join(" "),
                ]
            })?;
        }
        FileCommand::Inspect { name } => {
            let file: FileView = client.get(routes.inspect, &[&name], QUICK).await?;
            output::json(&file)?;
        }
        FileCommand::Create { name, file, labels } => {
            let request = CreateFileRequest { content: read(&file, kind)?, labels: labels_of(labels) };
            let _: Written = client.call(routes.create, &[&name], None::<&()>, Some(&request), QUICK).await?;
            output::story(&format!("{kind} {name} is there; a stack uses it with `external: true`"));
        }
        FileCommand::Rm { name } => {
            let _: Written = client.get(routes.remove, &[&name], QUICK).await?;
            output::story(&format!("{kind} {name} is gone"));
        }
    }
    Ok(ExitCode::Done)
}

fn read(path: &Path, kind: FileKind) -> Result<Content, Failure> {
    let most = u64::try_from(Content::LARGEST).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::new(ExitCode::Usage, format!("cannot read {}: {error}", path.display())))?;
    if bytes.len() > Content::LARGEST {
        let message = format!("the {kind} holds more than {} bytes", Content::LARGEST);
        return Err(Failure::new(ExitCode::Usage, message).with_hint("put a large file into an image or on a volume"));
    }
    Ok(Content(bytes))
}
