//! Pure. What a service waits for, and what is run in its containers beside its own command.

use std::collections::BTreeMap;

use stack_model::ServiceName;
use stack_model::lifecycle::{Dependency, DependencyCondition, Hook};
use stack_model::spec::{RestartCondition, ServiceSpec};

use super::container;
use super::read::Fields;
use crate::code::Code;
use crate::diagnostic::{Journal, Problem};
use crate::tree::Node;

/// The services that it needs, of those that are deployed with it.
pub(super) fn dependencies(fields: &Fields<'_>, journal: &mut Journal) -> BTreeMap<ServiceName, Dependency> {
    let list = fields.fields("depends_on");
    let mut dependencies = BTreeMap::new();
    for (key, entry) in list.mapping.into_iter().flatten() {
        let path = list.path.key(key);
        let one = Fields { mapping: entry.node.as_mapping(), path, place: entry.key_place };
        let condition = match one.node("condition").map(|node| (node, node.as_text())) {
            None | Some((_, Some("service_started"))) => DependencyCondition::Started,
            Some((_, Some("service_healthy"))) => DependencyCondition::Healthy,
            Some((_, Some("service_completed_successfully"))) => DependencyCondition::Completed,
            Some((node, _)) => {
                let choices = ["service_started", "service_healthy", "service_completed_successfully"];
                super::service::not_allowed(node, &one.path.key("condition"), &choices, journal);
                DependencyCondition::Started
            }
        };
        let optional = one.boolean("required", journal) == Some(false);
        let restart = one.boolean("restart", journal).unwrap_or(false);
        // Names that cannot be are told where the service is.
        if let Ok(name) = key.parse() {
            dependencies.insert(name, Dependency { condition, optional, restart });
        }
    }
    dependencies
}

/// Services that others wait for the end of. As for Docker Compose, one that says nothing of restarts is not restarted; one
/// that is restarted whenever it ends would never be waited for in vain.
pub(super) fn settle_completion(
    services: &Fields<'_>,
    specs: &mut BTreeMap<ServiceName, ServiceSpec>,
    journal: &mut Journal,
) {
    let mut known = specs.keys().cloned().collect::<std::collections::BTreeSet<ServiceName>>();
    for spec in specs.values_mut() {
        // One of a profile that is not chosen; `required: false` allows it.
        spec.depends_on.retain(|name, dependency| known.contains(name) || !dependency.optional);
    }
    let awaited: BTreeMap<ServiceName, ServiceName> = specs
        .iter()
        .flat_map(|(waiting, spec)| spec.depends_on.iter().map(move |(name, dependency)| (name, waiting, dependency)))
        .filter(|(_, _, dependency)| dependency.condition == DependencyCondition::Completed)
        .map(|(name, waiting, _)| (name.clone(), waiting.clone()))
        .collect();
    known.retain(|name| awaited.contains_key(name));
    for (name, waiting) in &awaited {
        let Some(spec) = specs.get_mut(name) else { continue };
        let fields = services.fields(name.as_str());
        let deploy = fields.fields("deploy");
        let policy = deploy.fields("restart_policy");
        let says = fields.node("restart").is_some() || policy.node("condition").is_some();
        if !says {
            spec.restart.condition = RestartCondition::None;
        } else if spec.restart.condition == RestartCondition::Any {
            let (holder, key) =
                if policy.node("condition").is_some() { (&policy, "condition") } else { (&fields, "restart") };
            journal.push(
                Problem::new(
                    Code::Conflict,
                    holder.key_place(key),
                    &holder.path.key(key),
                    format!(
                        "`{waiting}` waits until `{name}` has ended well, and it is started again whenever it ends"
                    ),
                )
                .hint("write `restart: \"no\"` or `restart: on-failure`, or leave it out"),
            );
        }
    }
}

/// Commands that are run in a container.
pub(super) fn hooks(fields: &Fields<'_>, key: &str, journal: &mut Journal) -> Vec<Hook> {
    let list = fields.path.key(key);
    let mut hooks = Vec::new();
    for (index, node) in fields.items(key).iter().enumerate() {
        let hook = Fields::new(node, list.index(index));
        let command = command(&hook, journal);
        if command.is_empty() {
            journal.push(
                Problem::new(
                    Code::MissingKey,
                    node.place,
                    &hook.path,
                    format!("what is run by `{key}` needs the key `command`"),
                )
                .hint("add `command:` with a list of words, such as `[sh, -c, \"echo hello\"]`"),
            );
            continue;
        }
        let (environment, _) = container::environment(&hook, journal);
        hooks.push(Hook {
            command,
            user: hook.text("user", journal).filter(|user| !user.is_empty()),
            privileged: hook.boolean("privileged", journal).unwrap_or(false),
            working_dir: container::absolute(&hook, "working_dir", journal),
            environment,
        });
    }
    hooks
}

fn command(hook: &Fields<'_>, journal: &mut Journal) -> Vec<String> {
    if hook.node("command").and_then(Node::as_sequence).is_some() {
        return hook.texts("command", journal).unwrap_or_default();
    }
    Vec::new()
}
