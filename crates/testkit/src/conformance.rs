//! What every [`Host`] must do, whatever it is made of. The fake host and the engine are run through the same suite, so
//! that what the simulation shows of the agent holds for real hosts too.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stack_agent::{Host, ObservedContainer, ObservedState, Step};
use stack_model::{AssignedTask, DesiredState, ServiceKey, Slot, TaskId, TaskSpec};

/// How long the suite waits for something to be so.
const DEADLINE: Duration = Duration::from_secs(60);

/// What the suite runs. The host must be able to get the image of `serves` and of `ends`.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Runs until it is stopped, and ends by itself within its grace period when it is asked to.
    pub serves: TaskSpec,
    /// Ends by itself with [`ends_with`](Self::ends_with), soon after it was started.
    pub ends: TaskSpec,
    /// The exit code of `ends`.
    pub ends_with: i32,
    /// Names an image that nobody has.
    pub missing: TaskSpec,
    /// Ends the container of this task as a crash would, where the host does not do so by itself.
    pub crash: fn(TaskId),
}

/// Runs the suite. The host must be empty, and is empty afterwards.
///
/// # Panics
/// The host does not do what the agent relies on: the message says what.
pub async fn conformance<H: Host>(host: &H, workload: &Workload) {
    assert!(host.observe().await.containers.is_empty(), "the suite needs an empty host");
    serves_until_it_is_stopped(host, &workload.serves).await;
    tells_how_a_container_ended(host, workload).await;
    keeps_tasks_apart(host, &workload.serves).await;
    says_why_a_step_failed(host, workload).await;
    assert!(host.observe().await.containers.is_empty(), "the suite leaves an empty host");
}

fn assigned(spec: &TaskSpec) -> Arc<AssignedTask> {
    let service: ServiceKey = "conformance/service".parse().expect("a service's key");
    Arc::new(AssignedTask {
        request: None,
        service,
        slot: Slot::Replica(1),
        spec: Arc::new(spec.clone()),
        desired: DesiredState::Running,
        addresses: std::collections::BTreeMap::new(),
    })
}

async fn container<H: Host>(host: &H, task: TaskId) -> Option<ObservedContainer> {
    host.observe().await.containers.remove(&task)
}

/// Looks until `found` answers something.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut found: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn made<H: Host>(host: &H, task: TaskId, spec: &TaskSpec) -> String {
    let assigned = assigned(spec);
    for _twice in 0..2 {
        let pull = Step::Pull { task, assigned: Arc::clone(&assigned), credentials: BTreeMap::new() };
        host.execute(&pull).await.expect("the image can be had, again and again");
    }
    assert_eq!(container(host, task).await, None, "a pull makes no container");
    for _twice in 0..2 {
        let create = Step::Create { task, assigned: Arc::clone(&assigned) };
        host.execute(&create).await.expect("a container can be made, and making it again does no harm");
    }
    let made = container(host, task).await.expect("a made container is observed by its task");
    assert_eq!(made.state, ObservedState::Created, "a container that was never started");
    made.id
}

async fn serves_until_it_is_stopped<H: Host>(host: &H, spec: &TaskSpec) {
    let task = TaskId::from_bits(0xC0F0_0001);
    let id = made(host, task, spec).await;
    let start = Step::Start { task, container: id.clone(), restart: None, hooks: Vec::new() };
    host.execute(&start).await.expect("a made container can be started");
    let running = container(host, task).await.expect("a started container is observed");
    let ObservedState::Running { pid, since, .. } = running.state else {
        panic!("a started container runs, but it is {:?}", running.state)
    };
    assert!(pid > 0, "it has a process");
    assert_eq!(running.id, id, "it keeps its id");
    host.execute(&start).await.expect("starting a running container does no harm");
    let again = container(host, task).await.expect("it is still observed");
    assert!(
        matches!(again.state, ObservedState::Running { pid: same, .. } if same == pid),
        "starting a running container does not start another process"
    );
    let stop = Step::Stop { task, container: id.clone(), unhealthy: false, hooks: Vec::new() };
    host.execute(&stop).await.expect("a running container can be stopped");
    let (started, finished) = until("a stopped container has ended", || async {
        match container(host, task).await?.state {
            ObservedState::Exited { started, finished, .. } => Some((started, finished)),
            _ => None,
        }
    })
    .await;
    assert_eq!(started, since, "the start is remembered");
    assert!(started <= finished, "it ended after it started");
    host.execute(&stop).await.expect("stopping an ended container does no harm");
    let restart = Step::Start { task, container: id.clone(), restart: Some(false), hooks: Vec::new() };
    host.execute(&restart).await.expect("an ended container can be started again");
    until("a container that was started again runs", || async {
        matches!(container(host, task).await?.state, ObservedState::Running { .. }).then_some(())
    })
    .await;
    host.execute(&stop).await.expect("it can be stopped again");
    until("it has ended again", || async {
        matches!(container(host, task).await?.state, ObservedState::Exited { .. }).then_some(())
    })
    .await;
    removed(host, task, &id).await;
    host.execute(&stop).await.expect("stopping what is gone does no harm");
}

async fn tells_how_a_container_ended<H: Host>(host: &H, workload: &Workload) {
    let task = TaskId::from_bits(0xC0F0_0002);
    let id = made(host, task, &workload.ends).await;
    let start = Step::Start { task, container: id.clone(), restart: None, hooks: Vec::new() };
    host.execute(&start).await.expect("a made container can be started");
    (workload.crash)(task);
    let found = until("the container ends by itself", || async {
        match container(host, task).await?.state {
            ObservedState::Exited { code, out_of_memory, .. } => Some((code, out_of_memory)),
            _ => None,
        }
    })
    .await;
    assert_eq!(found, (workload.ends_with, false), "the exit code is the true one");
    removed(host, task, &id).await;
}

async fn keeps_tasks_apart<H: Host>(host: &H, spec: &TaskSpec) {
    let (one, other) = (TaskId::from_bits(0xC0F0_0003), TaskId::from_bits(0xC0F0_0004));
    let (one_id, other_id) = (made(host, one, spec).await, made(host, other, spec).await);
    assert_ne!(one_id, other_id, "each task has a container of its own");
    let start = Step::Start { task: other, container: other_id.clone(), restart: None, hooks: Vec::new() };
    host.execute(&start).await.expect("the second can be started");
    removed(host, one, &one_id).await;
    assert!(
        matches!(container(host, other).await.map(|found| found.state), Some(ObservedState::Running { .. })),
        "removing the first leaves the second alone"
    );
    let stop = Step::Stop { task: other, container: other_id.clone(), unhealthy: false, hooks: Vec::new() };
    host.execute(&stop).await.expect("the second can be stopped");
    until("the second has ended", || async {
        matches!(container(host, other).await?.state, ObservedState::Exited { .. }).then_some(())
    })
    .await;
    removed(host, other, &other_id).await;
}

async fn says_why_a_step_failed<H: Host>(host: &H, workload: &Workload) {
    let task = TaskId::from_bits(0xC0F0_0005);
    let start = Step::Start { task, container: "no-such-container".to_owned(), restart: None, hooks: Vec::new() };
    let failure = host.execute(&start).await.expect_err("what is not there cannot be started");
    assert!(failure.message.contains("no-such-container"), "it names what is not there: {failure}");
    let pull = Step::Pull { task, assigned: assigned(&workload.missing), credentials: BTreeMap::new() };
    let failure = host.execute(&pull).await.expect_err("an image that nobody has cannot be pulled");
    let reference = &workload.missing.container.image.reference;
    assert!(failure.message.contains(reference), "it names the image `{reference}`: {failure}");
}

async fn removed<H: Host>(host: &H, task: TaskId, id: &str) {
    for _twice in 0..2 {
        let remove = Step::Remove { task, container: id.to_owned() };
        host.execute(&remove).await.expect("a container that does not run can be removed, and again");
    }
    assert_eq!(container(host, task).await, None, "what was removed is gone");
}
