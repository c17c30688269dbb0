//! What goes wrong, and how everything is put right at the end.

use stack_model::{Availability, NodeId};
use stack_planner::{Command, State};

use super::world::{Event, World};
use crate::fake_host::Trouble;

impl World {
    fn some_host(&mut self) -> Option<NodeId> {
        let nodes: Vec<NodeId> = self.hosts.keys().copied().collect();
        self.dice.pick(&nodes).copied()
    }

    /// One fault of any kind.
    pub(super) fn fault_happens(&mut self) -> Result<(), String> {
        if !self.troubled || !self.settings.faults {
            return Ok(());
        }
        let next = self.dice.between(100, 2_500);
        self.schedule(next, Event::FaultHappens);
        self.summary.faults += 1;
        let Some(node) = self.some_host() else { return Ok(()) };
        let name = self.name(node);
        match self.dice.below(12) {
            0 => self.host_dies(node),
            1 | 2 => {
                self.tell(|_| format!("fault: the agent of {name} is killed"));
                self.kill_agent(node);
                let after = self.dice.between(20, 4_000);
                self.schedule(after, Event::AgentReturns { node });
            }
            3 | 4 => {
                self.tell(|_| format!("fault: {name} is cut off"));
                if let Some(host) = self.hosts.get_mut(&node) {
                    host.connected = false;
                }
                let after = self.dice.between(200, 9_000);
                self.schedule(after, Event::LinkHeals { node });
            }
            5 | 6 => {
                self.tell(|_| "fault: the leader is gone".to_owned());
                let without = self.dice.between(50, 2_000);
                self.change_leader(without);
            }
            7 => {
                self.tell(|_| "fault: all controllers restart".to_owned());
                self.store_and_load()?;
                let without = self.dice.between(100, 4_000);
                self.change_leader(without);
            }
            8 => {
                let trouble = match self.dice.below(3) {
                    0 => Trouble { registry_is_down: true, ..Trouble::default() },
                    1 => Trouble { disk_is_full: true, ..Trouble::default() },
                    _ => Trouble { rejects_everything: true, ..Trouble::default() },
                };
                self.tell(|_| format!("fault: {name}: {trouble:?}"));
                if let Some(host) = self.hosts.get_mut(&node) {
                    host.host.trouble = trouble;
                }
                let after = self.dice.between(500, 8_000);
                self.schedule(after, Event::TroubleEnds { node });
            }
            _ => self.some_container_crashes(node),
        }
        Ok(())
    }

    fn some_container_crashes(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get(&node).filter(|host| host.up) else { return };
        let running: Vec<_> = host
            .host
            .containers()
            .filter_map(|(task, _, _)| host.host.life(task).map(|(life, _, _)| (task, life)))
            .collect();
        let Some(&(task, life)) = self.dice.pick(&running) else { return };
        self.tell(|_| format!("fault: t{} crashes", task.bits()));
        let code = if self.dice.chance(20) { 0 } else { 139 };
        self.container_ends(node, task, life, code);
    }

    fn host_dies(&mut self, node: NodeId) {
        let clock = self.true_time();
        self.kill_agent(node);
        let Some(host) = self.hosts.get_mut(&node).filter(|host| host.up) else { return };
        host.up = false;
        host.host.lose_power(clock);
        self.tell(|world| format!("fault: {} dies", world.name(node)));
        let after = self.dice.between(1_000, 12_000);
        self.schedule(after, Event::HostReturns { node });
    }

    pub(super) fn host_returns(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get_mut(&node).filter(|host| !host.up) else { return };
        host.up = true;
        self.tell(|world| format!("{} is back", world.name(node)));
        self.schedule(50, Event::AgentReturns { node });
    }

    pub(super) fn link_heals(&mut self, node: NodeId) {
        if let Some(host) = self.hosts.get_mut(&node) {
            host.connected = true;
        }
        self.tell(|world| format!("{} is connected again", world.name(node)));
    }

    pub(super) fn trouble_ends(&mut self, node: NodeId) {
        if let Some(host) = self.hosts.get_mut(&node) {
            host.host.trouble = Trouble::default();
        }
        self.tell(|world| format!("{} has no trouble any more", world.name(node)));
    }

    /// Every controller stops and starts: the state is written and read back.
    pub(super) fn store_and_load(&mut self) -> Result<(), String> {
        self.check_stored_state()?;
        let written =
            serde_json::to_string(&self.state).map_err(|error| format!("the state cannot be stored: {error}"))?;
        let read: State =
            serde_json::from_str(&written).map_err(|error| format!("the state does not load: {error}"))?;
        self.state = read;
        Ok(())
    }

    /// Nothing goes wrong any more: every host, agent, link and controller works, every node takes tasks, and every
    /// stack is deployed once more in a form that can run.
    pub(super) fn heal_everything(&mut self) -> Result<(), String> {
        self.troubled = false;
        self.tell(|_| "everything is healed".to_owned());
        let nodes: Vec<NodeId> = self.hosts.keys().copied().collect();
        for node in &nodes {
            self.host_returns(*node);
            self.agent_returns(*node)?;
            self.link_heals(*node);
            self.trouble_ends(*node);
        }
        let term = self.leader.term;
        self.leader_returns(term);
        for node in nodes {
            if self.state.nodes.contains_key(&node) {
                let labels = std::collections::BTreeMap::new();
                let availability = Some(Availability::Active);
                self.must(Command::UpdateNode { id: node, availability, labels })?;
            } else {
                self.join(node)?;
            }
        }
        self.deploy_what_can_run()
    }

    pub(super) fn must(&mut self, command: Command) -> Result<(), String> {
        let kind = command.kind();
        self.commit(command)?.map(drop).map_err(|rejected| format!("`{kind}` should not be refused: {rejected}"))
    }
}
