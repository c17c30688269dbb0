//! `stack image`: images on the hosts.

use std::io::{Seek, SeekFrom};
use std::path::Path;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stack_api::bodies::{ImageQuery, ImportQuery, PullRequest};
use stack_api::routes::{self, Route};
use stack_api::views::{ImageView, NodeView};
use stack_api::{Client, ClientError};
use tokio_util::io::ReaderStream;

use crate::arguments::ImageCommand;
use crate::failure::{ExitCode, Failure, chain};
use crate::output;
use crate::request::{QUICK, SLOW, Session, nodes_for};

pub async fn run(session: &Session, command: ImageCommand) -> Result<ExitCode, Failure> {
    let client = session.client()?;
    match command {
        ImageCommand::Load { input, nodes } => {
            let nodes = nodes_for(&client, &nodes.node).await?;
            let file = archive(input.as_deref().unwrap_or(Path::new("-")))?;
            let outcomes: Vec<(NodeView, Vec<ImageView>)> =
                upload(&client, nodes, routes::NODE_IMAGE_LOAD, None::<&()>, &file).await?;
            for (node, images) in outcomes {
                for image in images {
                    output::data(&format!("{}: {}", node.name, named(&image)));
                }
            }
        }
        ImageCommand::Import { file, reference, command, entrypoint, nodes } => {
            let nodes = nodes_for(&client, &nodes.node).await?;
            let words = |words: Vec<String>| (!words.is_empty()).then(|| serde_json::json!(words).to_string());
            let query = ImportQuery { reference, command: words(command), entrypoint: words(entrypoint) };
            let file = archive(&file)?;
            let outcomes: Vec<(NodeView, ImageView)> =
                upload(&client, nodes, routes::NODE_IMAGE_IMPORT, Some(&query), &file).await?;
            for (node, image) in outcomes {
                output::data(&format!("{}: {}", node.name, named(&image)));
            }
        }
        ImageCommand::Pull { reference, nodes } => {
            let nodes = nodes_for(&client, &nodes.node).await?;
            let request = PullRequest { reference, credential: None };
            let outcomes = on_each(nodes, |node| {
                let (client, request) = (client.clone(), request.clone());
                async move {
                    let id = node.id.to_string();
                    client.call::<(), _, ImageView>(routes::NODE_IMAGE_PULL, &[&id], None, Some(&request), SLOW).await
                }
            })
            .await?;
            for (node, image) in outcomes {
                output::data(&format!("{}: {}", node.name, named(&image)));
            }
        }
        ImageCommand::Ls { nodes, format } => {
            #[derive(Serialize)]
            struct Row {
                node: String,
                #[serde(flatten)]
                image: ImageView,
            }
            let nodes = nodes_for(&client, &nodes.node).await?;
            let outcomes = on_each(nodes, |node| {
                let client = client.clone();
                async move { client.get::<Vec<ImageView>>(routes::NODE_IMAGES, &[&node.id.to_string()], QUICK).await }
            })
            .await?;
            let rows: Vec<Row> = outcomes
                .into_iter()
                .flat_map(|(node, images)| images.into_iter().map(move |image| Row { node: node.name.clone(), image }))
                .collect();
            output::listing(format, &rows, &["NODE", "IMAGE", "ID", "DIGEST", "SIZE", "ORIGIN"], |row| {
                let short = |digest: &stack_model::Digest| digest.hex().chars().take(12).collect::<String>();
                let names = row.image.references.join(", ");
                vec![
                    row.node.clone(),
                    if names.is_empty() { "<none>".to_owned() } else { names },
                    short(&row.image.id),
                    short(&row.image.digest),
                    output::bytes(row.image.size_bytes),
                    row.image.origin.clone(),
                ]
            })?;
        }
        ImageCommand::Rm { reference, nodes } => {
            let everywhere = nodes.node.is_empty();
            let nodes = nodes_for(&client, &nodes.node).await?;
            let query = ImageQuery { reference: reference.clone() };
            let mut removed = 0;
            let outcomes = on_each(nodes, |node| {
                let (client, query) = (client.clone(), query.clone());
                async move {
                    let id = node.id.to_string();
                    let answer: Result<Vec<ImageView>, ClientError> =
                        client.call(routes::NODE_IMAGE_REMOVE, &[&id], Some(&query), None::<&()>, SLOW).await;
                    match answer {
                        // A host that never had it is as asked, unless it was named.
                        Err(error) if everywhere && is_absent(&error) => Ok(Vec::new()),
                        other => other,
                    }
                }
            })
            .await?;
            for (node, images) in outcomes {
                removed += images.len();
                for image in images {
                    output::data(&format!("{}: removed {}", node.name, named(&image)));
                }
            }
            if removed == 0 {
                return Err(Failure::new(ExitCode::NotFound, format!("no host has an image `{reference}`")));
            }
        }
    }
    Ok(ExitCode::Done)
}

fn is_absent(error: &ClientError) -> bool {
    error.refused().is_some_and(|body| body.code == stack_api::ErrorCode::NotFound)
}

fn named(image: &ImageView) -> String {
    let names = image.references.join(", ");
    if names.is_empty() { image.digest.to_string() } else { format!("{names} ({})", image.digest) }
}

/// The archive as a file that can be read once for every host; what comes on standard input is kept in one.
fn archive(path: &Path) -> Result<std::fs::File, Failure> {
    let fail =
        |error: std::io::Error| Failure::new(ExitCode::Failed, format!("cannot read {}: {error}", path.display()));
    if path == Path::new("-") {
        let mut file = unnamed_file().map_err(fail)?;
        std::io::copy(&mut std::io::stdin().lock(), &mut file).map_err(fail)?;
        file.seek(SeekFrom::Start(0)).map_err(fail)?;
        return Ok(file);
    }
    std::fs::File::open(path).map_err(fail)
}

/// A temporary file without a name: it is gone with the process.
fn unnamed_file() -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;

    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(std::env::temp_dir())
}

async fn upload<Q, A>(
    client: &Client,
    nodes: Vec<NodeView>,
    route: Route,
    query: Option<&Q>,
    file: &std::fs::File,
) -> Result<Vec<(NodeView, A)>, Failure>
where
    Q: Serialize + Sync,
    A: DeserializeOwned,
{
    on_each(nodes, |node| {
        let client = client.clone();
        async move {
            // Each host reads the file from its start at its own pace: a description of its own, not a shared offset.
            let opened = reopen(file).map_err(|error| ClientError::Unexpected {
                target: "the archive".to_owned(),
                reason: error.to_string(),
            })?;
            let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(opened, 256 * 1024));
            client.upload(route, &[&node.id.to_string()], query, body).await
        }
    })
    .await
}

fn reopen(file: &std::fs::File) -> std::io::Result<tokio::fs::File> {
    use std::os::fd::AsRawFd;

    std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map(tokio::fs::File::from_std)
}

/// Does the same on each node at once. Every failure is told; one is enough for the command to fail.
async fn on_each<A, F>(nodes: Vec<NodeView>, work: impl Fn(NodeView) -> F) -> Result<Vec<(NodeView, A)>, Failure>
where
    F: Future<Output = Result<A, ClientError>>,
{
    let mut running: FuturesUnordered<_> = nodes
        .into_iter()
        .map(|node| {
            let future = work(node.clone());
            async move { (node, future.await) }
        })
        .collect();
    let mut done = Vec::new();
    let mut failed: Option<Failure> = None;
    while let Some((node, outcome)) = running.next().await {
        match outcome {
            Ok(answer) => done.push((node, answer)),
            Err(error) => {
                output::story(&format!("{}: {}", node.name, chain(&error)));
                let failure = Failure::from(error);
                failed.get_or_insert(Failure { message: format!("{}: {}", node.name, failure.message), ..failure });
            }
        }
    }
    done.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    match failed {
        Some(failure) => Err(failure),
        None => Ok(done),
    }
}
