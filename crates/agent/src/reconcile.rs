//! The loop that makes the host match. Wake-ups carry nothing: a new assignment, an event of the host, the end of a step
//! and a timer all start the same pass from whole state.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt as _;
use stack_model::{Assignment, Digest, Report, TaskId, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, field};

use crate::host::{Host, StepFailure};
use crate::ledger::SharedLedger;
use crate::metrics::AgentMetrics;
use crate::networks::Networks;
use crate::pass::pass;
use crate::plan::{Circumstances, Step};

/// How long after its start an agent that hears no controller waits before it starts anything from its ledger.
const START_WITHOUT_CONTROLLER: Duration = Duration::from_secs(5);
/// Looks again though nothing happened, in case a wake-up was lost to somebody else's doing.
const AT_LEAST_EVERY: Duration = Duration::from_secs(10);

const PANICKED: &str = "a defect in stackd interrupted this step (its log says where); it is tried again";

/// The host's clock.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Whether a controller was heard since the agent started.
#[derive(Debug, Clone, Default)]
pub struct Contact(Arc<std::sync::atomic::AtomicBool>);

impl Contact {
    /// A controller has said what the assignment is.
    pub fn made(&self) {
        self.0.store(true, std::sync::atomic::Ordering::Release);
    }

    fn was_made(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Acquire)
    }
}

/// The parts of a reconcile loop.
pub struct Reconciler<H> {
    /// What is looked at and worked on.
    pub host: Arc<H>,
    /// What is wanted, and what is remembered.
    pub ledger: SharedLedger,
    /// Wakes the loop.
    pub wake: Arc<Notify>,
    /// Whether a controller was heard.
    pub contact: Contact,
    /// The last report, for whoever sends it.
    pub reports: watch::Sender<Option<Report>>,
    /// Where it is said which tasks serve.
    pub networks: Networks,
    /// Counters.
    pub metrics: AgentMetrics,
}

struct Ended {
    step: Step,
    outcome: Result<(), StepFailure>,
    /// Everything that is logged of the step, with the user's request that it comes of.
    span: Span,
}

fn span_of(step: &Step, want: &Assignment) -> Span {
    let assigned = want.tasks.get(&step.task());
    tracing::info_span!(
        "task",
        id = %step.task(),
        step = step.kind(),
        // What is not assigned any more is cleared away for nobody's request.
        service = assigned.map(|assigned| field::display(&assigned.service)),
        request = assigned.and_then(|assigned| assigned.request.as_ref()).map(field::display),
    )
}

impl<H: Host> Reconciler<H> {
    /// Runs until `stop`; steps under way are given up, and done again by the next agent.
    pub async fn run(self, stop: CancellationToken) {
        let started = now();
        let mut running: JoinSet<Ended> = JoinSet::new();
        let mut busy: BTreeSet<TaskId> = BTreeSet::new();
        let mut pulled: BTreeMap<TaskId, Option<Digest>> = BTreeMap::new();
        loop {
            let wake_at = self.pass(started, &mut running, &mut busy, &mut pulled).await;
            let pause = wake_at.map_or(AT_LEAST_EVERY, |at| at.since(now()).to_duration().min(AT_LEAST_EVERY));
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
                Some(ended) = running.join_next(), if !running.is_empty() => {
                    self.take_end(ended, &mut busy, &mut pulled).await;
                    // Whatever else has ended meanwhile belongs to the same pass.
                    while let Some(ended) = running.try_join_next() {
                        self.take_end(ended, &mut busy, &mut pulled).await;
                    }
                }
            }
        }
    }

    async fn take_end(
        &self,
        ended: Result<Ended, tokio::task::JoinError>,
        busy: &mut BTreeSet<TaskId>,
        pulled: &mut BTreeMap<TaskId, Option<Digest>>,
    ) {
        let ended = match ended {
            Ok(ended) => ended,
            // Steps are never cancelled but by the end of everything, and a panic in one is an outcome of it.
            Err(error) => {
                tracing::error!(%error, "a step did not end as it should");
                return;
            }
        };
        let task = ended.step.task();
        busy.remove(&task);
        self.metrics.step(ended.step.kind(), ended.outcome.is_ok());
        match (&ended.step, &ended.outcome) {
            (Step::Pull { assigned, .. }, Ok(())) => {
                pulled.insert(task, assigned.spec.container.image.digest.clone());
            }
            // The image may have been removed meanwhile: look for it again before the next try.
            (Step::Create { .. }, _) => {
                pulled.remove(&task);
            }
            _ => {}
        }
        if let Err(failure) = &ended.outcome {
            ended.span.in_scope(|| tracing::warn!(may_heal = failure.may_heal, "{failure}"));
        }
        // The pass that follows at once writes it, for all that have ended, before anything is done because of it.
        let mut ledger = self.ledger.lock().await;
        let mut memory = ledger.memory().clone();
        memory.end(&ended.step, ended.outcome, now());
        ledger.remember(memory);
    }

    /// One pass: observe, plan, begin the steps, report. Answers when to look again.
    async fn pass(
        &self,
        started: Timestamp,
        running: &mut JoinSet<Ended>,
        busy: &mut BTreeSet<TaskId>,
        pulled: &mut BTreeMap<TaskId, Option<Digest>>,
    ) -> Option<Timestamp> {
        let have = self.host.observe().await;
        let now = now();
        let start_not_before =
            (!self.contact.was_made()).then(|| started + START_WITHOUT_CONTROLLER.into()).filter(|at| *at > now);
        let ledger = self.ledger.lock().await;
        let want = ledger.assignment();
        pulled.retain(|task, _| want.tasks.contains_key(task));
        let have_image: BTreeSet<TaskId> = pulled.keys().copied().collect();
        let circumstances = Circumstances { memory: ledger.memory(), busy, pulled: &have_image, start_not_before, now };
        let decided = pass(want, &have, circumstances);
        let spans: Vec<Span> = decided.steps.iter().map(|step| span_of(step, want)).collect();
        self.metrics.tasks(want.tasks.len(), have.containers.len());
        let is_news = decided.memory != *ledger.memory() || !ledger.is_saved();
        drop(ledger);
        // Nobody else changes the memory.
        if is_news {
            self.ledger.change(|ledger| ledger.set_memory(decided.memory)).await;
        }

        let ready = decided.report.tasks.iter().filter(|(_, status)| status.ready).map(|(task, _)| *task);
        self.networks.observe(ready.collect());
        self.reports.send_if_modified(|last| {
            let is_news = last.as_ref() != Some(&decided.report);
            if is_news {
                *last = Some(decided.report);
            }
            is_news
        });
        for (step, span) in decided.steps.into_iter().zip(spans) {
            busy.insert(step.task());
            let host = Arc::clone(&self.host);
            running.spawn(async move {
                let begun = tokio::time::Instant::now();
                let outcome = AssertUnwindSafe(host.execute(&step).instrument(span.clone())).catch_unwind().await;
                // A defect, which must not keep the task from being tried again.
                let outcome =
                    outcome.unwrap_or_else(|_panic| Err(StepFailure { message: PANICKED.to_owned(), may_heal: true }));
                let milliseconds = begun.elapsed().as_millis();
                if outcome.is_ok() {
                    span.in_scope(|| tracing::info!(milliseconds, "done"));
                }
                Ended { step, outcome, span }
            });
        }
        decided.wake_at
    }
}
