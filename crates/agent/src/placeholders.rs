//! Pure. Docker's service templates: `{{.Node.Hostname}}`, `{{.Task.Slot}}` and their like, filled in where the task runs.

use stack_model::{AssignedTask, NodeId, TaskId};

/// What the placeholders of one task stand for.
#[derive(Debug, Clone)]
pub struct Placeholders<'a> {
    /// The task.
    pub task: TaskId,
    /// What it runs.
    pub assigned: &'a AssignedTask,
    /// Where it runs.
    pub node: NodeId,
    /// The node's own name.
    pub node_name: &'a str,
    /// The container's name.
    pub task_name: &'a str,
}

impl Placeholders<'_> {
    /// The text with every placeholder that is known replaced; others stay as they are.
    #[must_use]
    pub fn fill(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((inside, tail)) = after.split_once("}}") else { break };
            filled.push_str(before);
            match self.value(inside.trim()) {
                Some(value) => filled.push_str(&value),
                None => {
                    filled.push_str("{{");
                    filled.push_str(inside);
                    filled.push_str("}}");
                }
            }
            rest = tail;
        }
        filled.push_str(rest);
        filled
    }

    fn value(&self, name: &str) -> Option<String> {
        let key = &self.assigned.service;
        Some(match name {
            ".Service.Name" => format!("{}_{}", key.stack, key.service),
            ".Service.ID" => key.to_string(),
            ".Node.ID" => self.node.to_string(),
            ".Node.Hostname" => self.node_name.to_owned(),
            ".Task.ID" => self.task.to_string(),
            ".Task.Name" => self.task_name.to_owned(),
            ".Task.Slot" => self.assigned.slot.to_string(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_placeholders_are_filled_and_others_stay() {
        let assigned: AssignedTask = serde_json::from_value(serde_json::json!({
            "service": "shop/web",
            "slot": {"replica": 3},
            "spec": {"container": {"image": {"reference": "web"}}},
            "desired": "running"
        }))
        .expect("an assigned task");
        let placeholders = Placeholders {
            task: TaskId::from_bits(1),
            assigned: &assigned,
            node: NodeId::from_bits(2),
            node_name: "alpha",
            task_name: "shop_web.3",
        };
        assert_eq!(placeholders.fill("{{.Node.Hostname}}-{{ .Task.Slot }}"), "alpha-3");
        assert_eq!(placeholders.fill("{{.Other}} {{ open"), "{{.Other}} {{ open");
        assert_eq!(placeholders.fill("{{.Service.Name}}"), "shop_web");
    }
}
