//! Commands that are run in a task's container after its start and before its end (`post_start`, `pre_stop`).

use std::time::Duration;

use stack_api::error::full_text;
use stack_engine::Engine;
use stack_engine::container::{ContainerId, ExecConfig};
use stack_model::lifecycle::Hook;

/// All `post_start` commands of a container together may take so long.
pub const LONGEST: Duration = Duration::from_secs(300);
/// How long a container may take to end where nothing else is said.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// Runs one after the other, until one fails.
///
/// # Errors
/// Why, for people: which one, and how it ended.
pub async fn run(engine: &Engine, container: &ContainerId, hooks: &[Hook], longest: Duration) -> Result<(), String> {
    if hooks.is_empty() {
        return Ok(());
    }
    let all = async {
        for hook in hooks {
            run_one(engine, container, hook)
                .await
                .map_err(|reason| format!("`{}` {reason}", hook.command.join(" ")))?;
        }
        Ok(())
    };
    let late = |_| Err(format!("its commands have not ended after {} s", longest.as_secs()));
    tokio::time::timeout(longest, all).await.unwrap_or_else(late)
}

async fn run_one(engine: &Engine, container: &ContainerId, hook: &Hook) -> Result<(), String> {
    let config = ExecConfig {
        arguments: hook.command.clone(),
        environment: hook.environment.clone(),
        user: hook.user.clone(),
        working_dir: hook.working_dir.clone(),
        privileged: hook.privileged,
        ..ExecConfig::default()
    };
    let refused = |error: &(dyn std::error::Error + 'static)| format!("cannot be run: {}", full_text(error));
    let exec = engine.exec_create(container, config).await.map_err(|error| refused(&error))?;
    engine.exec_start(&exec, None, None).await.map_err(|error| refused(&error))?;
    match engine.exec_wait(&exec).await.map_err(|error| refused(&error))? {
        Some(0) => Ok(()),
        Some(code) => Err(format!("ended with exit code {code}")),
        None => Err("ended, and nobody knows how".to_owned()),
    }
}
