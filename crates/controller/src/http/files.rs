//! Secrets and configs: what a deploy brings along, and those that are made by hand.

use axum::Json;
use axum::extract::State;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use stack_api::ErrorCode;
use stack_api::bodies::CreateFileRequest;
use stack_api::views::{FileView, Written};
use stack_model::{Content, ContentId, Contents, FileContents, FileKind, StackSpec};
use stack_planner::{Command, State as ClusterState, files};

use super::extract::{Body, Named, RequestId};
use super::stacks::written;
use super::{Context, Failure};

/// HMAC with SHA-256 of parts that belong together.
fn keyed_hash(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    // The block of SHA-256 is longer than the key, which is filled up with zeros (RFC 2104).
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let mut hash = Hmac::<Sha256>::new(&block.into());
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into_bytes().into()
}

/// Names what a file holds. The key is the cluster's own, so that nobody who sees a name can try passwords against it.
fn content_id(state: &ClusterState, kind: FileKind, content: &Content) -> Result<ContentId, Failure> {
    let identity = state.identity.as_ref();
    let identity =
        identity.ok_or_else(|| Failure::new(ErrorCode::Unavailable, "the cluster is not initialized".to_owned()))?;
    let mut key = Sha256::new();
    key.update(b"names of contents\0");
    key.update(identity.ca_key.0.as_bytes());
    let key: [u8; 32] = key.finalize().into();
    Ok(ContentId::of_bytes(keyed_hash(&key, &[kind.as_str().as_bytes(), b"\0", &content.0])))
}

fn check_size(kind: FileKind, name: &str, content: &Content) -> Result<(), Failure> {
    if content.0.len() <= Content::LARGEST {
        return Ok(());
    }
    let message =
        format!("the {kind} `{name}` holds {} bytes; at most {} are taken", content.0.len(), Content::LARGEST);
    Err(Failure::new(ErrorCode::TooLarge, message).with_hint("put a large file into an image or on a volume"))
}

/// Writes into the spec what its files hold, and answers what is to be kept.
pub(super) fn pin(state: &ClusterState, spec: &mut StackSpec, given: FileContents) -> Result<Contents, Failure> {
    let mut contents = Contents::new();
    for (kind, given) in [(FileKind::Secret, given.secrets), (FileKind::Config, given.configs)] {
        for (key, content) in given {
            let Some(file) = spec.files_mut(kind).get_mut(&key).filter(|file| !file.external) else {
                let message = format!("the stack declares no {kind} `{key}` that it brings along");
                return Err(Failure::new(ErrorCode::BadRequest, message));
            };
            check_size(kind, &key, &content)?;
            let id = content_id(state, kind, &content)?;
            file.content = Some(id.clone());
            contents.insert(id, content);
        }
    }
    Ok(contents)
}

fn views(state: &ClusterState, kind: FileKind) -> Vec<FileView> {
    let bytes = |id: &ContentId| {
        let content = state.contents.get(id);
        content.and_then(|content| u64::try_from(content.0.len()).ok()).unwrap_or(0)
    };
    let by_hand = state.files(kind).iter().map(|(name, file)| FileView {
        name: name.clone(),
        stack: None,
        labels: file.labels.clone(),
        bytes: bytes(&file.content),
        content: file.content.clone(),
        created_at: Some(file.created_at),
        used_by: files::users(state, kind, name).cloned().collect(),
        text: None,
    });
    let of_stacks = state.stacks.iter().flat_map(|(stack, present)| {
        let own = present.spec.files(kind).iter().filter(|(_, file)| !file.external);
        own.filter_map(move |(key, file)| {
            let id = file.content.as_ref()?;
            Some(FileView {
                name: files::full_name(stack, file.name.as_ref(), key),
                stack: Some(stack.clone()),
                labels: file.labels.clone(),
                bytes: bytes(id),
                content: id.clone(),
                created_at: None,
                used_by: vec![stack.clone()],
                text: None,
            })
        })
    });
    let mut all: Vec<FileView> = by_hand.chain(of_stacks).collect();
    all.sort_by(|one, other| (&one.name, &one.stack).cmp(&(&other.name, &other.stack)));
    all
}

async fn list(context: &Context, kind: FileKind) -> Result<Json<Vec<FileView>>, Failure> {
    context.store.read_barrier().await?;
    Ok(Json(views(&context.store.state(), kind)))
}

async fn inspect(context: &Context, kind: FileKind, name: &str) -> Result<Json<FileView>, Failure> {
    context.store.read_barrier().await?;
    let state = context.store.state();
    let found = views(&state, kind).into_iter().find(|view| view.name == name);
    let mut view = found.ok_or_else(|| Failure::new(ErrorCode::NotFound, format!("there is no {kind} `{name}`")))?;
    if kind == FileKind::Config {
        let content = state.contents.get(&view.content);
        view.text = content.and_then(|content| String::from_utf8(content.0.clone()).ok());
    }
    Ok(Json(view))
}

fn is_a_name(name: &str) -> bool {
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
    name.starts_with(|first: char| first.is_ascii_alphanumeric()) && name.len() <= 64 && name.chars().all(plain)
}

async fn create(
    context: &Context,
    kind: FileKind,
    name: String,
    request: &str,
    body: CreateFileRequest,
) -> Result<Json<Written>, Failure> {
    if !is_a_name(&name) {
        let message = format!("`{name}` is no name of a {kind}");
        return Err(Failure::new(ErrorCode::BadRequest, message)
            .with_hint("1 to 64 letters, digits, `_`, `.` and `-`, a letter or digit first"));
    }
    check_size(kind, &name, &body.content)?;
    context.store.read_barrier().await?;
    let id = content_id(&context.store.state(), kind, &body.content)?;
    let command = Command::CreateFile { kind, name, labels: body.labels, id, content: body.content };
    Ok(written(context.store.propose_as(&command, request).await?))
}

async fn remove(context: &Context, kind: FileKind, name: String, request: &str) -> Result<Json<Written>, Failure> {
    Ok(written(context.store.propose_as(&Command::RemoveFile { kind, name }, request).await?))
}

pub(super) async fn secrets(State(context): State<Context>) -> Result<Json<Vec<FileView>>, Failure> {
    list(&context, FileKind::Secret).await
}

pub(super) async fn configs(State(context): State<Context>) -> Result<Json<Vec<FileView>>, Failure> {
    list(&context, FileKind::Config).await
}

pub(super) async fn secret(
    State(context): State<Context>,
    Named(name): Named<String>,
) -> Result<Json<FileView>, Failure> {
    inspect(&context, FileKind::Secret, &name).await
}

pub(super) async fn config(
    State(context): State<Context>,
    Named(name): Named<String>,
) -> Result<Json<FileView>, Failure> {
    inspect(&context, FileKind::Config, &name).await
}

pub(super) async fn create_secret(
    State(context): State<Context>,
    Named(name): Named<String>,
    RequestId(request): RequestId,
    Body(body): Body<CreateFileRequest>,
) -> Result<Json<Written>, Failure> {
    create(&context, FileKind::Secret, name, &request, body).await
}

pub(super) async fn create_config(
    State(context): State<Context>,
    Named(name): Named<String>,
    RequestId(request): RequestId,
    Body(body): Body<CreateFileRequest>,
) -> Result<Json<Written>, Failure> {
    create(&context, FileKind::Config, name, &request, body).await
}

pub(super) async fn remove_secret(
    State(context): State<Context>,
    Named(name): Named<String>,
    RequestId(request): RequestId,
) -> Result<Json<Written>, Failure> {
    remove(&context, FileKind::Secret, name, &request).await
}

pub(super) async fn remove_config(
    State(context): State<Context>,
    Named(name): Named<String>,
    RequestId(request): RequestId,
) -> Result<Json<Written>, Failure> {
    remove(&context, FileKind::Config, name, &request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keyed_hash_is_hmac() {
        // RFC 4231, test case 3; its key is filled up with zeros, as HMAC does itself.
        let mut key = [0; 32];
        key[..20].fill(0xaa);
        let id = ContentId::of_bytes(keyed_hash(&key, &[&[0xdd; 20], &[0xdd; 30]]));
        assert_eq!(id.as_str(), "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
    }

    #[test]
    fn names_are_plain() {
        assert!(is_a_name("db-password.v2"));
        for bad in ["", "-x", "a/b", "a b", &"x".repeat(65)] {
            assert!(!is_a_name(bad), "{bad}");
        }
    }
}
