//! What the leader alone does: plan, gather reports, watch who is heard, and keep Raft's members what the state says.
//! All of it is one set of tasks that is dropped when leadership is lost; nothing of it remembers anything that the next
//! leader would lack.

pub mod liveness;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng as _;
use stack_model::{NodeId, Report, TaskId, TaskStatus};
use stack_planner::{Applied, Command, Ids};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::liveness::Liveness;
use crate::metrics::Metrics;
use crate::store::{MAX_COMMAND, ProposeError, Store, now};

/// Liveness is looked at this often.
const TICK: Duration = Duration::from_millis(100);
/// After a proposal that failed the loop tries again after this time.
const RETRY: Duration = Duration::from_millis(200);
/// One proposal takes the reports of at most so many nodes.
const MOST_REPORTS: usize = 512;
/// One proposal takes at most about so much of reports, in bytes: a few would else be more than a log's entry may be.
const REPORT_BYTES: usize = MAX_COMMAND / 4;
/// One proposal takes so many changes of a plan. They are made in order, and what follows is planned again from what they
/// made.
const MOST_CHANGES: usize = 5_000;

type Answer = oneshot::Sender<Result<Applied, ProposeError>>;

struct Inner {
    store: Store,
    metrics: Arc<Metrics>,
    /// Nodes that spoke since the last tick.
    heard: Mutex<BTreeSet<NodeId>>,
    reports: mpsc::Sender<(Report, Answer)>,
}

/// What handlers tell the leader's tasks. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    /// Starts to follow leadership: the leader's tasks run while this controller leads, until told to stop.
    pub(crate) fn start(
        store: Store,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (reports, receiver) = mpsc::channel(1024);
        let inner = Arc::new(Inner { store, metrics, heard: Mutex::default(), reports });
        let control = Self { inner };
        let task = tokio::spawn(control.clone().follow_leadership(receiver, stop));
        (control, task)
    }

    /// A node spoke. Counts only while this controller leads.
    pub fn heard(&self, node: NodeId) {
        self.inner.metrics.heartbeats.inc();
        self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(node);
    }

    /// Takes a node's report; returns when it is in the state.
    ///
    /// # Errors
    /// As for any proposal.
    pub async fn report(&self, report: Report) -> Result<Applied, ProposeError> {
        self.inner.metrics.reports.inc();
        let (answer, receiver) = oneshot::channel();
        if self.inner.reports.send((report, answer)).await.is_err() {
            return Err(ProposeError::NoLeader);
        }
        receiver.await.unwrap_or(Err(ProposeError::NoLeader))
    }

    async fn follow_leadership(self, mut reports: mpsc::Receiver<(Report, Answer)>, stop: CancellationToken) {
        loop {
            let leads = self.inner.store.is_leader();
            // Dropped at the end of the round, and with it everything that only a leader does.
            let mut tasks = JoinSet::new();
            if leads {
                tracing::info!("this controller leads");
                tasks.spawn(self.clone().plan_forever());
                tasks.spawn(self.clone().watch_liveness());
                tasks.spawn(self.clone().keep_membership());
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.inner.store.leadership_change(leads) => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = self.take_reports(leads, &mut reports) => return,
            }
            if leads {
                tracing::info!("this controller does not lead any more");
            }
        }
    }

    /// Gathers reports for a moment and proposes them as one. On a follower they are turned away.
    async fn take_reports(&self, leads: bool, reports: &mut mpsc::Receiver<(Report, Answer)>) {
        while let Some((first, answer)) = reports.recv().await {
            if !leads {
                // Whoever does not wait any more asks the next leader.
                let _ = answer.send(Err(ProposeError::NoLeader));
                continue;
            }
            let mut answers = vec![answer];
            let mut gathered = vec![first];
            let until = tokio::time::Instant::now() + self.inner.store.tuning().report_delay;
            while gathered.len() < MOST_REPORTS
                && let Ok(Some((report, answer))) = tokio::time::timeout_at(until, reports.recv()).await
            {
                gathered.push(report);
                answers.push(answer);
            }
            // What is said again only to be heard makes no entry in the log.
            let state = self.inner.store.state();
            let news: Vec<Report> =
                merge(gathered).into_iter().filter(|report| stack_planner::is_news(&state, report)).collect();
            let mut result = Ok(Applied { revision: state.revision, changed: false, skipped: 0 });
            for reports in portions(news, REPORT_BYTES) {
                result = self.inner.store.propose(&Command::Report { reports }).await;
                if result.is_err() {
                    break;
                }
            }
            for answer in answers {
                let copy = match &result {
                    Ok(applied) => Ok(*applied),
                    Err(ProposeError::Rejected(rejected)) => Err(ProposeError::Rejected(rejected.clone())),
                    Err(error) => {
                        tracing::debug!(%error, "reports were not taken");
                        Err(ProposeError::NoLeader)
                    }
                };
                let _ = answer.send(copy);
            }
        }
    }

    /// A change of the state, a timer, or a failed attempt: whatever wakes it, it plans from the whole state.
    async fn plan_forever(self) {
        let mut states = self.inner.store.watch();
        loop {
            let state = Arc::clone(&states.borrow_and_update());
            let started = Instant::now();
            let at = now();
            let planned = tokio::task::spawn_blocking(move || {
                let mut random = rand::rng();
                let mut draw = || random.random();
                stack_planner::plan(&state, at, &mut Ids(&mut draw))
            })
            .await;
            self.inner.metrics.plan_seconds.observe(started.elapsed().as_secs_f64());
            let plan = match planned {
                Ok(mut plan) => {
                    plan.changes.truncate(MOST_CHANGES);
                    plan
                }
                Err(error) => {
                    tracing::error!(%error, "the planner failed: trying again when the state changes");
                    if states.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let wake_at = plan.wake_at;
            let mut wait = wake_at.map(|wake_at| wake_at.since(at).to_duration().max(Duration::from_millis(1)));
            if !plan.is_empty() {
                let changes = plan.changes.len() as u64;
                let (starts, stops) = plan.starts_and_stops();
                match self.inner.store.propose(&Command::Commit { plan }).await {
                    Ok(applied) => {
                        self.inner.metrics.changes.inc_by(changes.saturating_sub(u64::from(applied.skipped)));
                        tracing::info!(changes, starts, stops, skipped = applied.skipped, "committed a plan");
                        if applied.changed {
                            // What it changed may call for more; the state's own change says so, too.
                            continue;
                        }
                        tracing::debug!("no change of the plan fitted any more");
                        wait = Some(RETRY);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a plan was not committed");
                        wait = Some(RETRY);
                    }
                }
            }
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                () = sleep_or_never(wait) => {}
            }
        }
    }

    async fn watch_liveness(self) {
        let tuning = self.inner.store.tuning();
        let ticks = |span: Duration| u64::try_from(span.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX);
        let mut liveness = Liveness::new(ticks(tuning.node_timeout), ticks(tuning.leader_grace));
        // What was heard while another one led says nothing about now.
        self.take_heard();
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            liveness.heard(self.take_heard());
            let state = self.inner.store.state();
            let nodes = liveness.tick(state.nodes.values().map(|node| (node.id, node.readiness)));
            if nodes.is_empty() {
                continue;
            }
            for (id, readiness) in &nodes {
                let name = state.nodes.get(id).map_or("", |node| node.name.as_str());
                tracing::info!(node = %id, name, ?readiness, "a node's readiness changes");
            }
            if let Err(error) = self.inner.store.propose(&Command::SetReadiness { nodes }).await {
                tracing::warn!(%error, "a change of readiness was not taken");
            }
        }
    }

    fn take_heard(&self) -> BTreeSet<NodeId> {
        std::mem::take(&mut *self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn keep_membership(self) {
        let mut states = self.inner.store.watch();
        loop {
            states.borrow_and_update();
            let refused = match self.inner.store.reconcile_membership().await {
                Ok(true) => continue,
                Ok(false) => false,
                Err(error) => {
                    tracing::debug!(error, "the group of controllers cannot change now");
                    true
                }
            };
            // A new leader is not ready at once, and learners catch up, without a change of the state: look again then.
            let membership = self.inner.store.membership();
            let settled = !refused && membership.members.len() == membership.voters.len();
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                () = sleep_or_never((!settled).then_some(RETRY)) => {}
            }
        }
    }
}

async fn sleep_or_never(span: Option<Duration>) {
    match span {
        Some(span) => tokio::time::sleep(span).await,
        None => std::future::pending().await,
    }
}

/// Of each node one report: what a later one says of a task replaces what an earlier one said.
fn merge(reports: Vec<Report>) -> Vec<Report> {
    let mut merged: BTreeMap<NodeId, (u64, BTreeMap<TaskId, TaskStatus>)> = BTreeMap::new();
    for report in reports {
        let (generation, tasks) = merged.entry(report.node).or_default();
        *generation = report.generation;
        tasks.extend(report.tasks);
    }
    merged.into_iter().map(|(node, (generation, tasks))| Report { node, generation, tasks }).collect()
}

/// The same reports in the same order, in portions of about so many bytes. What a report says of one task does not depend
/// on what it says of another.
fn portions(reports: Vec<Report>, most_bytes: usize) -> Vec<Vec<Report>> {
    let mut portions: Vec<Vec<Report>> = Vec::new();
    let mut bytes = usize::MAX;
    for Report { node, generation, tasks } in reports {
        let mut is_begun = false;
        for (task, status) in tasks {
            // Twice the text's length is more than JSON makes of it, but for control characters.
            let size = 256 + 2 * status.message.as_ref().map_or(0, String::len);
            if bytes.saturating_add(size) > most_bytes {
                portions.push(Vec::new());
                bytes = 0;
                is_begun = false;
            }
            bytes += size;
            let Some(portion) = portions.last_mut() else { continue };
            if !is_begun {
                portion.push(Report { node, generation, tasks: BTreeMap::new() });
                is_begun = true;
            }
            if let Some(report) = portion.last_mut() {
                report.tasks.insert(task, status);
            }
        }
    }
    portions
}

#[cfg(test)]
mod tests {
    use stack_model::{Phase, Timestamp};

    use super::*;

    #[test]
    fn reports_go_in_portions_that_a_log_takes_and_nothing_of_them_is_lost() {
        let report = |node: u128, tasks: u128| Report {
            node: NodeId::from_bits(node),
            generation: 7,
            tasks: (0..tasks)
                .map(|task| {
                    let message = Some("why ".repeat(250));
                    (
                        TaskId::from_bits(node * 10_000 + task),
                        TaskStatus { message, ..TaskStatus::assigned(Timestamp(1)) },
                    )
                })
                .collect(),
        };
        let whole = vec![report(1, 3), report(2, 500), report(3, 0), report(4, 1)];
        let most = 64 * 1024;
        let portions = portions(whole.clone(), most);
        assert!(portions.len() > 10, "{}", portions.len());
        for portion in &portions {
            let command = Command::Report { reports: portion.clone() };
            assert!(serde_json::to_vec(&command).unwrap().len() <= most);
        }
        // Applied one after the other they say what the whole said; a report of nothing says nothing.
        let joined = merge(portions.into_iter().flatten().collect());
        let wanted: Vec<Report> = merge(whole).into_iter().filter(|report| !report.tasks.is_empty()).collect();
        assert_eq!(joined, wanted);
        assert_eq!(super::portions(Vec::new(), most), Vec::<Vec<Report>>::new());
    }

    #[test]
    fn the_latest_word_on_a_task_counts() {
        let status = |phase| TaskStatus { phase, ..TaskStatus::assigned(Timestamp(1)) };
        let (node, other) = (NodeId::from_bits(1), NodeId::from_bits(2));
        let (task, another) = (TaskId::from_bits(1), TaskId::from_bits(2));
        let merged = merge(vec![
            Report {
                node,
                generation: 1,
                tasks: [(task, status(Phase::Starting)), (another, status(Phase::Failed))].into(),
            },
            Report { node: other, generation: 9, tasks: BTreeMap::new() },
            Report { node, generation: 2, tasks: [(task, status(Phase::Running))].into() },
        ]);
        assert_eq!(
            merged,
            [
                Report {
                    node,
                    generation: 2,
                    tasks: [(task, status(Phase::Running)), (another, status(Phase::Failed))].into()
                },
                Report { node: other, generation: 9, tasks: BTreeMap::new() },
            ]
        );
    }
}
