//! Secrets and configs on this host. What they hold comes with the assignment and is kept in the agent's memory; a task's own
//! files are on a file system in memory below the run directory, from where they are mounted into its container. So they
//! survive a restart of the agent and not one of the host, and no disk ever has them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use stack_model::{AssignedTask, Assignment, Contents, DesiredState, TaskFile, TaskId};

use crate::host::StepFailure;

/// Where the file of a task lies; translated into a mount of its container.
#[must_use]
pub fn path(root: &Path, task: TaskId, index: usize) -> PathBuf {
    root.join(task.to_string()).join(index.to_string())
}

#[derive(Debug, Default)]
struct Known {
    /// What the controllers said that files hold.
    contents: Contents,
    /// Tasks that should run and have files.
    tasks: BTreeMap<TaskId, Arc<AssignedTask>>,
}

/// The files of this host's tasks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Files {
    root: Arc<Path>,
    known: Arc<Mutex<Known>>,
}

impl Files {
    /// Below `run`, the directory that a restart of the host empties. Nothing is made yet.
    #[must_use]
    pub fn new(run: &Path) -> Self {
        Self { root: run.join("files").into(), known: Arc::default() }
    }

    /// Where the files are.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an assignment, with what its files hold. The files of tasks that shall not run any more are removed: a
    /// container that has not ended yet goes on seeing its own.
    pub fn hear(&self, assignment: &Assignment, contents: Contents) {
        let wanted = assignment
            .tasks
            .iter()
            .filter(|(_, assigned)| assigned.desired == DesiredState::Running && !assigned.spec.files.is_empty());
        let tasks: BTreeMap<TaskId, Arc<AssignedTask>> =
            wanted.map(|(task, assigned)| (*task, Arc::new(assigned.clone()))).collect();
        let names: BTreeSet<String> = tasks.keys().map(ToString::to_string).collect();
        *self.known() = Known { contents, tasks };
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let keeps = entry.file_name().to_str().is_some_and(|name| names.contains(name));
            if !keeps && let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::warn!(%error, path = %entry.path().display(), "the files of a task that is over are still there");
            }
        }
    }

    /// The task as it is assigned, if it has files.
    #[must_use]
    pub fn of(&self, task: TaskId) -> Option<Arc<AssignedTask>> {
        self.known().tasks.get(&task).cloned()
    }

    /// Makes the files of a task, where they are not there already. `fill` fills in the service templates of those that
    /// want it.
    ///
    /// # Errors
    /// No controller has said yet what a file holds, or the file system refuses; both may heal.
    pub fn prepare(&self, task: TaskId, files: &[TaskFile], fill: &dyn Fn(&str) -> String) -> Result<(), StepFailure> {
        for (index, file) in files.iter().enumerate() {
            let path = path(&self.root, task, index);
            // It was moved there whole.
            if path.exists() {
                continue;
            }
            let content = self.known().contents.get(&file.content).cloned();
            let content = content.ok_or_else(|| StepFailure {
                message: format!(
                    "waiting for {} `{}`: what it holds is in no disk of this host, and no controller has said it since \
                     the host started",
                    file.kind, file.name
                ),
                may_heal: true,
            })?;
            let filled = match std::str::from_utf8(&content.0) {
                Ok(text) if file.template => fill(text).into_bytes(),
                Ok(_) | Err(_) => content.0,
            };
            self.write(&path, &filled, file).map_err(|error| StepFailure {
                message: format!("{} `{}` cannot be made: {error}", file.kind, file.name),
                may_heal: true,
            })?;
        }
        Ok(())
    }

    fn write(&self, path: &Path, bytes: &[u8], file: &TaskFile) -> io::Result<()> {
        let closed = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        closed(&self.root)?;
        in_memory(&self.root)?;
        let directory = path.parent().unwrap_or(&self.root);
        closed(directory)?;
        let unfinished = path.with_extension("new");
        let mut made = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        made.write_all(bytes)?;
        std::os::unix::fs::fchown(&made, Some(file.reference.uid), Some(file.reference.gid))?;
        made.set_permissions(fs::Permissions::from_mode(file.reference.mode))?;
        fs::rename(&unfinished, path)
    }
}

/// Makes the directory lie in memory where it does not already, as `/run` does.
fn in_memory(directory: &Path) -> io::Result<()> {
    if statfs(directory)?.filesystem_type() == TMPFS_MAGIC {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let tmpfs = |options: &str| mount(Some("stack-files"), directory, Some("tmpfs"), flags, Some(options));
    // Kernels before 6.4 do not know that memory need not be swapped out.
    tmpfs("mode=0700,noswap").or_else(|_| tmpfs("mode=0700"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use stack_model::{Content, ContentId, FileKind, FileReference};

    use super::*;

    fn file(id: u8, template: bool, mode: u32) -> TaskFile {
        TaskFile {
            kind: FileKind::Secret,
            name: "shop_password".to_owned(),
            content: ContentId::of_bytes([id; 32]),
            template,
            reference: FileReference {
                source: "password".to_owned(),
                target: "/run/secrets/password".to_owned(),
                uid: 0,
                gid: 0,
                mode,
            },
        }
    }

    fn assignment(tasks: &[(u128, &str)]) -> Assignment {
        let tasks: BTreeMap<String, serde_json::Value> = tasks
            .iter()
            .map(|(task, desired)| {
                let assigned = serde_json::json!({
                    "service": "shop/web", "slot": {"replica": 1}, "desired": desired,
                    "spec": {"container": {"image": {"reference": "web"}}, "files": [file(1, false, 0o400)]},
                });
                (TaskId::from_bits(*task).to_string(), assigned)
            })
            .collect();
        let node = stack_model::NodeId::from_bits(1);
        serde_json::from_value(serde_json::json!({"node": node, "generation": 1, "tasks": tasks}))
            .expect("an assignment")
    }

    fn contents() -> Contents {
        Contents::from([(ContentId::of_bytes([1; 32]), Content(b"slot {{.Task.Slot}}".to_vec()))])
    }

    /// A directory that is in memory, so that the test mounts nothing.
    fn run() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").expect("a directory in memory")
    }

    #[test]
    fn a_task_waits_until_its_secret_is_told_and_keeps_it_without_controllers() {
        let run = run();
        let files = Files::new(run.path());
        let task = TaskId::from_bits(7);
        let wanted = [file(1, false, 0o440), file(1, true, 0o444)];
        let as_it_is = |text: &str| text.replace("{{.Task.Slot}}", "3");
        let failure = files.prepare(task, &wanted, &as_it_is).expect_err("nobody has said it");
        assert!(failure.may_heal);
        assert!(failure.message.starts_with("waiting for secret `shop_password`"), "{}", failure.message);

        files.hear(&assignment(&[(7, "running")]), contents());
        files.prepare(task, &wanted, &as_it_is).expect("it is told");
        let first = path(files.root(), task, 0);
        assert_eq!(fs::read_to_string(&first).expect("a file"), "slot {{.Task.Slot}}");
        assert_eq!(fs::read_to_string(path(files.root(), task, 1)).expect("a file"), "slot 3");
        assert_eq!(fs::metadata(&first).expect("a file").mode() & 0o7777, 0o440);
        assert_eq!(fs::metadata(files.root()).expect("a directory").mode() & 0o777, 0o700);

        // The agent starts anew, and hears nobody.
        let files = Files::new(run.path());
        files.hear(&assignment(&[(7, "running")]), Contents::new());
        files.prepare(task, &wanted, &as_it_is).expect("they are there");
        assert!(files.of(task).is_some());
    }

    #[test]
    fn the_files_of_a_task_that_is_over_are_removed() {
        let run = run();
        let files = Files::new(run.path());
        files.hear(&assignment(&[(7, "running"), (8, "running")]), contents());
        for number in [7, 8] {
            files.prepare(TaskId::from_bits(number), &[file(1, false, 0o444)], &str::to_owned).expect("made");
        }
        files.hear(&assignment(&[(7, "stopped"), (8, "running")]), contents());
        assert!(!files.root().join(TaskId::from_bits(7).to_string()).exists());
        assert!(path(files.root(), TaskId::from_bits(8), 0).exists());
    }

    #[test]
    fn what_a_secret_holds_is_in_no_message() {
        let files = Files::new(run().path());
        files.hear(&assignment(&[(7, "running")]), contents());
        assert!(!format!("{files:?}").contains("slot {{"));
    }
}
