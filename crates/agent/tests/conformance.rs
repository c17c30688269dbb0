//! The fake host does what the agent relies on, as every host must.

use std::sync::LazyLock;

use stack_testkit::conformance::{Workload, conformance};
use stack_testkit::fake_host::SharedFakeHost;
use stack_testkit::lone_agent::task_spec;
use stack_testkit::specs::service;

static HOST: LazyLock<SharedFakeHost> = LazyLock::new(SharedFakeHost::default);

#[tokio::test]
async fn the_fake_host_conforms() {
    let workload = Workload {
        serves: task_spec(service("busybox")),
        ends: task_spec(service("busybox").command(&["exit", "7", "0"])),
        ends_with: 7,
        missing: task_spec(service("nobody/has-it").command(&["unpullable"])),
        crash: |task| {
            let mut host = HOST.lock();
            if let Some((life, _, _)) = host.life(task) {
                host.end(task, life, 7, stack_agent::reconcile::now());
            }
        },
    };
    conformance(&*HOST, &workload).await;
}
