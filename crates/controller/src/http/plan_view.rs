//! Pure. What a deploy would do: the same `apply` and `plan` as a real one, on a clone of the state.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use stack_api::views::{Difference, PlanAction, PlanView, ResolvedImage, ServicePlan, UnplacedView};
use stack_model::spec::{ServiceSpec, StackSpec};
use stack_model::{Contents, NodeId, ServiceKey, Slot, TaskId, Timestamp};
use stack_planner::{Change, Command, Entry, Ids, NewTask, Rejected, Service, State};

/// Tries a deploy. `state` stays as it is.
pub(super) fn dry_run(
    state: &State,
    now: Timestamp,
    spec: StackSpec,
    expected_revision: Option<u64>,
    contents: Contents,
    images: Vec<ResolvedImage>,
) -> Result<PlanView, Box<Rejected>> {
    let name = spec.name.clone();
    let mut after = state.clone();
    let entry = Entry { revision: state.revision + 1, time: now, request: None };
    let command = Command::PutStack { spec: Box::new(spec), expected_revision, contents };
    let applied = stack_planner::apply(&mut after, entry, command).map_err(Box::new)?;
    let mut last = 0u128;
    let mut draw = || {
        last += 1;
        last
    };
    let plan = stack_planner::plan(&after, now, &mut Ids(&mut draw));
    let keys: BTreeSet<&ServiceKey> =
        state.services.keys().chain(after.services.keys()).filter(|key| key.stack == name).collect();
    let mut moves = Moves::default();
    for change in &plan.changes {
        moves.note(&after, change);
    }
    let services: Vec<ServicePlan> = keys
        .into_iter()
        .map(|key| service(key, state.services.get(key), after.services.get(key), &after, &mut moves))
        .collect();
    let changed = applied.changed;
    let revision = state.stacks.get(&name).filter(|stack| !stack.removing).map_or(0, |stack| stack.revision);
    Ok(PlanView { revision, changed, services, images })
}

#[derive(Default)]
struct Moves {
    starts: BTreeMap<ServiceKey, Vec<String>>,
    stops: BTreeMap<ServiceKey, Vec<String>>,
    unplaced: BTreeMap<ServiceKey, UnplacedView>,
}

fn place(state: &State, slot: Slot, node: NodeId) -> String {
    let name = state.nodes.get(&node).map_or_else(|| node.to_string(), |node| node.name.clone());
    format!("{slot} on {name}")
}

impl Moves {
    fn start(&mut self, state: &State, start: &NewTask) {
        self.starts.entry(start.service.clone()).or_default().push(place(state, start.slot, start.node));
    }

    fn stop(&mut self, state: &State, stop: TaskId) {
        if let Some(task) = state.tasks.get(&stop) {
            self.stops.entry(task.service.clone()).or_default().push(place(state, task.slot, task.node));
        }
    }

    fn note(&mut self, state: &State, change: &Change) {
        match change {
            Change::StartTask { start } => self.start(state, start),
            Change::StopTask { stop } => self.stop(state, *stop),
            Change::ReplaceLostTask { stop, start } => {
                self.stop(state, *stop);
                self.start(state, start);
            }
            Change::SetUnplaced { service, unplaced: Some(unplaced) } => {
                let view = UnplacedView { count: unplaced.count, reason: unplaced.reason.clone() };
                self.unplaced.insert(service.clone(), view);
            }
            Change::SetUnplaced { unplaced: None, .. }
            | Change::ReleaseTask { .. }
            | Change::ForgetTask { .. }
            | Change::OpenGate { .. }
            | Change::SetUpdate { .. }
            | Change::RollBack { .. }
            | Change::ForgetService { .. }
            | Change::ForgetStack { .. } => {}
        }
    }
}

fn service(
    key: &ServiceKey,
    before: Option<&Service>,
    after: Option<&Service>,
    state: &State,
    moves: &mut Moves,
) -> ServicePlan {
    let before = before.filter(|service| !service.removing);
    let after = after.filter(|service| !service.removing);
    let action = match (before, after) {
        (None, Some(_)) => PlanAction::Create,
        (Some(_), None) | (None, None) => PlanAction::Remove,
        (Some(before), Some(after)) if before.task_spec != after.task_spec => PlanAction::Replace,
        (Some(before), Some(after)) if before.spec != after.spec => PlanAction::Update,
        (Some(_), Some(_)) => PlanAction::Keep,
    };
    let replaces = match action {
        PlanAction::Replace => state.tasks_of(key).filter(|task| task.is_active()).count(),
        PlanAction::Create | PlanAction::Update | PlanAction::Remove | PlanAction::Keep => 0,
    };
    ServicePlan {
        key: key.clone(),
        action,
        differences: match (before, after) {
            (Some(before), Some(after)) => differences(&before.spec, &after.spec),
            _ => Vec::new(),
        },
        starts: moves.starts.remove(key).unwrap_or_default(),
        stops: moves.stops.remove(key).unwrap_or_default(),
        replaces: u32::try_from(replaces).unwrap_or(u32::MAX),
        unplaced: moves.unplaced.remove(key),
    }
}

fn differences(before: &ServiceSpec, after: &ServiceSpec) -> Vec<Difference> {
    let value = |spec: &ServiceSpec| serde_json::to_value(spec).unwrap_or(Value::Null);
    let mut found = Vec::new();
    compare(String::new(), Some(&value(before)), Some(&value(after)), &mut found);
    found
}

/// Goes down where both sides are objects; anything else is compared as a whole.
fn compare(path: String, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Difference>) {
    if before == after {
        return;
    }
    if let (Some(Value::Object(before)), Some(Value::Object(after))) = (before, after) {
        let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for key in keys {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            compare(path, before.get(key), after.get(key), found);
        }
        return;
    }
    let text = |value: Option<&Value>| value.filter(|value| !value.is_null()).map(Value::to_string);
    found.push(Difference { path, old: text(before), new: text(after) });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_name_the_innermost_field() {
        let mut found = Vec::new();
        let before = json!({"a": {"b": 1, "c": [1]}, "gone": true, "same": {}});
        let after = json!({"a": {"b": 2, "c": [1, 2]}, "new": "x", "same": {}});
        compare(String::new(), Some(&before), Some(&after), &mut found);
        let lines: Vec<String> = found
            .iter()
            .map(|one| {
                format!("{} {} {}", one.path, one.old.as_deref().unwrap_or("-"), one.new.as_deref().unwrap_or("-"))
            })
            .collect();
        assert_eq!(lines, ["a.b 1 2", "a.c [1] [1,2]", "gone true -", "new - \"x\""]);
    }
}
