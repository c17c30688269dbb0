//! A host in memory. It carries out the agent's steps at once and says how long they would have taken; what its
//! containers do by themselves is read from their command (see [`Behaviour`]), and is played by whoever owns the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use stack_agent::{Host, HostNetworks, Observed, ObservedContainer, ObservedState, Step, StepFailure};
use stack_model::spec::PublishMode;
use stack_model::{AssignedTask, Health, Milliseconds, ServiceKey, TaskId, Timestamp};

/// What a container does once it runs, by the first word of its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Anything else: it runs until it is stopped.
    Serve,
    /// `exit CODE MILLISECONDS`: it ends so long after each start.
    Exit(i32, Milliseconds),
    /// `sicken MILLISECONDS`: its health check fails so long after each start.
    Sicken(Milliseconds),
    /// `linger MILLISECONDS`: it takes so long to stop.
    Linger(Milliseconds),
    /// `reject`: its host can never run it.
    Reject,
    /// `unpullable`: its image cannot be had for the time being.
    Unpullable,
}

impl Behaviour {
    /// Of a task.
    #[must_use]
    pub fn of(assigned: &AssignedTask) -> Self {
        let words: Vec<&str> = assigned.spec.container.command.iter().flatten().map(String::as_str).collect();
        let number = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        match words.first() {
            Some(&"exit") => Self::Exit(i32::try_from(number(1)).unwrap_or(1), Milliseconds(number(2))),
            Some(&"sicken") => Self::Sicken(Milliseconds(number(1))),
            Some(&"linger") => Self::Linger(Milliseconds(number(1))),
            Some(&"reject") => Self::Reject,
            Some(&"unpullable") => Self::Unpullable,
            _ => Self::Serve,
        }
    }
}

/// What is wrong with the host itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trouble {
    /// No image can be had.
    pub registry_is_down: bool,
    /// Nothing can be made.
    pub disk_is_full: bool,
    /// Every container is refused for good.
    pub rejects_everything: bool,
}

#[derive(Debug, Clone)]
struct Container {
    id: String,
    assigned: AssignedTask,
    state: ObservedState,
    /// How often it was started: tells one life of it from the next.
    starts: u64,
}

/// A host in memory.
#[derive(Debug, Clone, Default)]
pub struct FakeHost {
    containers: BTreeMap<TaskId, Container>,
    images: BTreeSet<String>,
    made: u32,
    /// What is wrong with it.
    pub trouble: Trouble,
}

impl FakeHost {
    /// Everything on it.
    #[must_use]
    pub fn observe(&self) -> Observed {
        let containers = self.containers.iter().map(|(task, container)| {
            let ports = container.assigned.spec.ports.iter();
            let ports = ports.filter_map(|port| port.published.map(|number| (number, port.protocol.as_str())));
            let observed =
                ObservedContainer { id: container.id.clone(), state: container.state.clone(), ports: ports.collect() };
            (*task, observed)
        });
        Observed { containers: containers.collect() }
    }

    /// The service of each container, and whether it runs.
    pub fn containers(&self) -> impl Iterator<Item = (TaskId, &ServiceKey, bool)> {
        self.containers.iter().map(|(task, container)| {
            (*task, &container.assigned.service, matches!(container.state, ObservedState::Running { .. }))
        })
    }

    /// Which life of the task's container this is, and what it is going to do; `None`: it does not run.
    #[must_use]
    pub fn life(&self, task: TaskId) -> Option<(u64, Behaviour, bool)> {
        let container = self.containers.get(&task)?;
        let ObservedState::Running { health, .. } = container.state else { return None };
        Some((container.starts, Behaviour::of(&container.assigned), health.is_some()))
    }

    /// How long a step takes at least; a stop by the container's behaviour.
    #[must_use]
    pub fn least_time(&self, step: &Step) -> Milliseconds {
        match step {
            Step::Pull { assigned, .. } if self.images.contains(&assigned.spec.container.image.reference) => {
                Milliseconds(1)
            }
            Step::Pull { .. } => Milliseconds(40),
            Step::Create { .. } => Milliseconds(5),
            Step::Start { .. } => Milliseconds(4),
            Step::Stop { task, .. } => match self.containers.get(task).map(|found| Behaviour::of(&found.assigned)) {
                Some(Behaviour::Linger(time)) => time,
                _ => Milliseconds(6),
            },
            Step::Remove { .. } => Milliseconds(3),
        }
    }

    /// Carries out a step.
    ///
    /// # Errors
    /// The step cannot be done: as a real host would say.
    pub fn perform(&mut self, step: &Step, now: Timestamp) -> Result<(), StepFailure> {
        let later = |message: String| Err(StepFailure { message, may_heal: true });
        let never = |message: String| Err(StepFailure { message, may_heal: false });
        match step {
            Step::Pull { assigned, .. } => {
                let image = &assigned.spec.container.image.reference;
                if Behaviour::of(assigned) == Behaviour::Unpullable {
                    return later(format!("cannot pull `{image}`: the registry answers 503"));
                }
                if self.trouble.registry_is_down && !self.images.contains(image) {
                    return later(format!("cannot pull `{image}`: the registry does not answer"));
                }
                self.images.insert(image.clone());
            }
            Step::Create { task, assigned } => {
                let image = &assigned.spec.container.image.reference;
                if Behaviour::of(assigned) == Behaviour::Reject || self.trouble.rejects_everything {
                    return never(format!("image `{image}` is for another processor"));
                }
                if self.trouble.disk_is_full {
                    return later("no space left on the device".to_owned());
                }
                if !self.images.contains(image) {
                    return later(format!("image `{image}` is not here"));
                }
                if !self.containers.contains_key(task) {
                    self.made = self.made.saturating_add(1);
                    let container = Container {
                        id: format!("container-{}-{}", task.short(), self.made),
                        assigned: AssignedTask::clone(assigned),
                        state: ObservedState::Created,
                        starts: 0,
                    };
                    self.containers.insert(*task, container);
                }
            }
            Step::Start { task, container, .. } => {
                let Some(found) = self.containers.get(task).filter(|found| found.id == *container) else {
                    return later(format!("there is no container {container}"));
                };
                if matches!(found.state, ObservedState::Running { .. }) {
                    return Ok(());
                }
                if let Some(port) = self.taken_port(*task, &found.assigned) {
                    return later(format!("port {port} is taken by another container"));
                }
                let has_check = found.assigned.spec.container.healthcheck.is_some();
                self.made = self.made.saturating_add(1);
                let pid = self.made.saturating_add(1000);
                if let Some(found) = self.containers.get_mut(task) {
                    found.starts = found.starts.saturating_add(1);
                    let health = has_check.then_some(Health::Starting);
                    found.state = ObservedState::Running { pid, since: now, health };
                }
            }
            Step::Stop { task, container, .. } => {
                let Some(found) = self.containers.get(task).filter(|found| found.id == *container) else {
                    return Ok(());
                };
                let life = found.starts;
                self.end(*task, life, 143, now);
            }
            Step::Remove { task, container } => {
                if self.containers.get(task).is_some_and(|found| found.id == *container) {
                    self.containers.remove(task);
                }
            }
        }
        Ok(())
    }

    /// A port that a running container keeps from this one: tasks of one service share theirs unless each owns it.
    fn taken_port(&self, task: TaskId, assigned: &AssignedTask) -> Option<u16> {
        let others = self
            .containers
            .iter()
            .filter(|(other, container)| **other != task && matches!(container.state, ObservedState::Running { .. }));
        others
            .flat_map(|(_, other)| other.assigned.spec.ports.iter().map(move |port| (other, port)))
            .find(|(other, theirs)| {
                assigned.spec.ports.iter().any(|port| {
                    let shared = other.assigned.service == assigned.service
                        && port.mode == PublishMode::Ingress
                        && theirs.mode == PublishMode::Ingress;
                    port.published == theirs.published && port.protocol == theirs.protocol && !shared
                })
            })
            .and_then(|(_, port)| port.published)
    }

    /// The container's first process ends, if it is still in this life. Answers whether it was.
    pub fn end(&mut self, task: TaskId, life: u64, code: i32, now: Timestamp) -> bool {
        let Some(container) = self.containers.get_mut(&task).filter(|container| container.starts == life) else {
            return false;
        };
        let ObservedState::Running { since, .. } = container.state else { return false };
        container.state =
            ObservedState::Exited { code, out_of_memory: false, started: since, finished: now.max(since) };
        true
    }

    /// Its health check comes to a verdict, if it is still in this life. Answers whether it was.
    pub fn set_health(&mut self, task: TaskId, life: u64, verdict: Health) -> bool {
        let Some(container) = self.containers.get_mut(&task).filter(|container| container.starts == life) else {
            return false;
        };
        match &mut container.state {
            ObservedState::Running { health: health @ Some(_), .. } => {
                *health = Some(verdict);
                true
            }
            _ => false,
        }
    }

    /// The host dies: every process ends, the disk stays.
    pub fn lose_power(&mut self, now: Timestamp) {
        let lives: Vec<(TaskId, u64)> =
            self.containers.iter().map(|(task, container)| (*task, container.starts)).collect();
        for (task, life) in lives {
            self.end(task, life, 137, now);
        }
    }
}

/// [`FakeHost`] behind the agent's own trait, with the real clock.
#[derive(Debug, Default)]
pub struct SharedFakeHost(Mutex<FakeHost>);

impl SharedFakeHost {
    /// The host within.
    pub fn lock(&self) -> MutexGuard<'_, FakeHost> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host for SharedFakeHost {
    async fn observe(&self) -> Observed {
        self.lock().observe()
    }

    async fn execute(&self, step: &Step) -> Result<(), StepFailure> {
        self.lock().perform(step, stack_agent::reconcile::now())
    }

    async fn apply_networks(&self, _networks: &HostNetworks) -> Result<(), StepFailure> {
        Ok(())
    }
}
