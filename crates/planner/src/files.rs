//! Pure. Secrets and configs: which there are, what they hold, and for how long that is kept.
//!
//! What a file holds is kept once, by what names it. A spec or a task names it and never changes, so a task keeps what it
//! was made with however often the stack is deployed; what nothing names any more is dropped.

use std::collections::{BTreeMap, BTreeSet};

use stack_model::{
    Content, ContentId, Contents, FileKind, ServiceKey, ServiceSpec, StackName, StackSpec, TaskFile, TaskSpec,
};

use crate::rejected::Rejected;
use crate::state::{State, StoredFile};

/// Both kinds.
const KINDS: [FileKind; 2] = [FileKind::Secret, FileKind::Config];

/// The full name of a stack's file.
#[must_use]
pub fn full_name(stack: &StackName, given: Option<&String>, key: &str) -> String {
    given.cloned().unwrap_or_else(|| format!("{stack}_{key}"))
}

/// Fills in what external files hold, and checks that what the others hold is known.
pub(crate) fn settle(state: &State, spec: &mut StackSpec, contents: &Contents) -> Result<(), Rejected> {
    let stack = spec.name.clone();
    for kind in KINDS {
        for (key, file) in spec.files_mut(kind) {
            if file.external {
                let name = file.name.as_ref().unwrap_or(key);
                let found = state.files(kind).get(name);
                let found = found.ok_or_else(|| Rejected::NoExternalFile { kind, name: name.clone() })?;
                file.content = Some(found.content.clone());
            }
            let known = |id: &ContentId| contents.contains_key(id) || state.contents.contains_key(id);
            if !file.content.as_ref().is_some_and(known) {
                return Err(Rejected::NoContent { kind, name: full_name(&stack, file.name.as_ref(), key) });
            }
        }
    }
    Ok(())
}

/// What the tasks of a service find in their containers.
pub(crate) fn of_task(stack: &StackSpec, key: &ServiceKey, service: &ServiceSpec) -> Result<Vec<TaskFile>, Rejected> {
    let mut files = Vec::new();
    for kind in KINDS {
        for reference in service.container.files(kind) {
            let refuse = || Rejected::UnknownFile { service: key.clone(), kind, name: reference.source.clone() };
            let file = stack.files(kind).get(&reference.source).ok_or_else(refuse)?;
            files.push(TaskFile {
                kind,
                name: full_name(&stack.name, file.name.as_ref(), &reference.source),
                content: file.content.clone().ok_or_else(refuse)?,
                template: file.template,
                reference: reference.clone(),
            });
        }
    }
    Ok(files)
}

/// Keeps what a deploy brought along; [`sweep`] drops what the spec does not name.
pub(crate) fn keep(state: &mut State, contents: Contents) {
    for (id, content) in contents {
        state.contents.insert(id, content);
    }
}

/// Drops what nothing names any more.
pub(crate) fn sweep(state: &mut State) {
    if state.contents.is_empty() {
        return;
    }
    let mut named: BTreeSet<&ContentId> = BTreeSet::new();
    for kind in KINDS {
        named.extend(state.files(kind).values().map(|file| &file.content));
        for stack in state.stacks.values() {
            named.extend(stack.spec.files(kind).values().filter_map(|file| file.content.as_ref()));
        }
    }
    let of_spec = |spec: &'_ TaskSpec| spec.files.iter().map(|file| file.content.clone()).collect::<Vec<_>>();
    let mut by_tasks: BTreeSet<ContentId> = state.tasks.values().flat_map(|task| of_spec(&task.spec)).collect();
    for service in state.services.values() {
        by_tasks.extend(of_spec(&service.task_spec));
        by_tasks.extend(service.previous_task_spec.as_deref().into_iter().flat_map(of_spec));
    }
    let unnamed: Vec<ContentId> =
        state.contents.keys().filter(|id| !named.contains(id) && !by_tasks.contains(*id)).cloned().collect();
    for id in unnamed {
        state.contents.remove(&id);
    }
}

pub(crate) fn create(
    state: &mut State,
    kind: FileKind,
    name: String,
    labels: BTreeMap<String, String>,
    id: ContentId,
    content: Content,
) -> Result<(), Rejected> {
    if state.files(kind).contains_key(&name) {
        return Err(Rejected::FileExists { kind, name });
    }
    let created_at = state.time;
    state.contents.insert(id.clone(), content);
    state.files_mut(kind).insert(name, StoredFile { content: id, labels, created_at });
    Ok(())
}

pub(crate) fn remove(state: &mut State, kind: FileKind, name: &str) -> Result<(), Rejected> {
    if !state.files(kind).contains_key(name) {
        return Err(Rejected::UnknownStoredFile { kind, name: name.to_owned() });
    }
    if let Some(stack) = users(state, kind, name).next() {
        return Err(Rejected::FileInUse { kind, name: name.to_owned(), stack: stack.clone() });
    }
    state.files_mut(kind).remove(name);
    sweep(state);
    Ok(())
}

/// The stacks that use a file that was made by hand.
pub fn users<'a>(state: &'a State, kind: FileKind, name: &str) -> impl Iterator<Item = &'a StackName> {
    state.stacks.iter().filter_map(move |(stack, present)| {
        let mut files = present.spec.files(kind).iter();
        files.any(|(key, file)| file.external && file.name.as_ref().unwrap_or(key) == name).then_some(stack)
    })
}
