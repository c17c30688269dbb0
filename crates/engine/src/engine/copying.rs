//! Files of containers, out and in. Each copy has a thread of its own, which sees the container's file system and nothing else
//! does; see `copying`.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stack_shim::identity;
use stack_shim::protocol::{Request, Response, State};
use stack_shim::root_path::{self, Links};
use tokio::io::AsyncRead;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::copies::CopyGuard;
use super::{Engine, Slot, ended_within};
use crate::container::{
    ContainerId, ContainerMountSource, ContainerState, EventKind, NetworkMode, Record, Shim, volumes,
};
use crate::copying::{
    ArchiveStream, Base, CopyError, ExtractOptions, NoExtraction, PathStat, PieceWriter, View, ViewMount, ViewPlan,
    ViewSource, examine, extraction_point, outgoing,
};
use crate::crash_point::crash_point;
use crate::image::compression::decoder;
use crate::image::owners::Owners;
use crate::image::pack::{PackError, Packer};
use crate::image::stream::{channel, pump};
use crate::image::tar_reader::TarReader;
use crate::image::unpack::{Extraction, UnpackLimits, extract};

/// A passwd or group file that is longer is cut: it comes from an image.
const LONGEST_ACCOUNT_FILE: u64 = 16 << 20;
/// How long a container that is ending may take to have ended.
const ENDING: Duration = Duration::from_secs(10);

/// What a copy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// Everything that the thread of a copy needs.
struct Job {
    plan: ViewPlan,
    record: Arc<Record>,
    guard: CopyGuard,
    cancelled: CancellationToken,
    /// Gives the volumes back that were mounted for the copy.
    volumes: VolumeUse,
}

/// Volumes that a copy has taken, as a container that runs does.
struct VolumeUse {
    engine: Engine,
    user: String,
}

impl Drop for VolumeUse {
    fn drop(&mut self) {
        for failure in self.engine.volumes().leave(&self.user) {
            tracing::warn!(failure, "a volume stays mounted after a copy");
        }
    }
}

impl Engine {
    /// What is at a path of a container.
    ///
    /// # Errors
    /// When there is no such container or path, or it cannot be looked at.
    pub async fn stat_path(&self, id: &ContainerId, path: &str) -> Result<PathStat, CopyError> {
        let job = self.copy_job(id, Access::Read, true).await?;
        let (id, path) = (id.clone(), path.to_owned());
        on_view(job, move |view, _| Ok(find(&id, view.root()?, &path)?.stat)).await
    }

    /// What is at a path of a container, with everything below it, as an archive.
    ///
    /// # Errors
    /// When there is no such container or path, or it cannot be looked at. What fails later breaks the archive off.
    pub async fn archive(&self, id: &ContainerId, path: &str) -> Result<(PathStat, ArchiveStream), CopyError> {
        let job = self.copy_job(id, Access::Read, true).await?;
        let (writer, stream) = outgoing(job.cancelled.clone());
        let (told, heard) = oneshot::channel();
        let (container, path) = (id.clone(), path.to_owned());
        let work = move |view: &View, _: &Record| {
            let found = match find(&container, view.root()?, &path) {
                Ok(found) => found,
                Err(error) => {
                    // Whoever asked and is gone needs no answer.
                    let _ = told.send(Err(error));
                    return Ok(());
                }
            };
            if told.send(Ok(found.stat)).is_ok() {
                let outcome = write(writer, view.owners(), |packer| packer.tree(found.held.as_fd(), &found.archived));
                report(&container, outcome);
            }
            Ok(())
        };
        let stat = begun(on_view(job, work), heard).await?;
        self.tell(id, EventKind::Archived);
        Ok((stat, stream))
    }

    /// The whole file system of a container as an archive, without its volumes.
    ///
    /// # Errors
    /// When there is no such container, or it cannot be looked at. What fails later breaks the archive off.
    pub async fn export(&self, id: &ContainerId) -> Result<ArchiveStream, CopyError> {
        let job = self.copy_job(id, Access::Read, false).await?;
        let (writer, stream) = outgoing(job.cancelled.clone());
        let (told, heard) = oneshot::channel();
        let container = id.clone();
        let work = move |view: &View, _: &Record| {
            let root = view.root()?;
            if told.send(Ok(())).is_ok() {
                report(&container, write(writer, view.owners(), |packer| packer.contents(root, b"")));
            }
            Ok(())
        };
        begun(on_view(job, work), heard).await?;
        self.tell(id, EventKind::Exported);
        Ok(stream)
    }

    /// Puts an archive, plain or compressed by gzip, bzip2, xz or Zstandard, into a directory of a container. What comes after the
    /// archive's end, or after what was refused, may not have been read.
    ///
    /// # Errors
    /// When there is no such container or directory, the container may not write there, or the archive is damaged or hostile.
    /// What was unpacked until then stays.
    pub async fn extract(
        &self,
        id: &ContainerId,
        path: &str,
        options: ExtractOptions,
        archive: &mut (impl AsyncRead + Send + Unpin),
    ) -> Result<(), CopyError> {
        let job = self.copy_job(id, Access::Write, true).await?;
        let (writer, mut reader) = channel();
        let cancelled = job.cancelled.clone();
        let (container, path) = (id.clone(), path.to_owned());
        let work = move |view: &View, record: &Record| {
            crash_point!("copy.viewed");
            let root = view.root()?;
            let directory = extraction_point(root, &path).map_err(|error| match error {
                NoExtraction::NotADirectory => CopyError::ExtractionPoint,
                NoExtraction::Io(source) => path_error(&container, &path, source),
            })?;
            view.check_writable(&directory, record.config.read_only)?;
            let owner = if options.as_container_user { Some(user_of(record, root)?) } else { None };
            let extraction = Extraction { directory, owner, keeps_kinds: options.keeps_kinds, owners: view.owners() };
            let root = root.try_clone_to_owned().map_err(|source| path_error(&container, "/", source))?;
            let plain = decoder(&mut reader).map_err(|_| CopyError::Broken)?;
            extract(&mut TarReader::new(plain), root, UnpackLimits::default(), extraction)?;
            crash_point!("copy.extracted");
            Ok(())
        };
        let mut copy = Box::pin(on_view(job, work));
        tokio::select! {
            outcome = &mut copy => outcome?,
            // A client that stalls does not hold up the container's next start: what it sends is broken off then.
            _ = cancelled.run_until_cancelled(pump(archive, writer)) => copy.await?,
        }
        self.tell(id, EventKind::Extracted);
        Ok(())
    }

    /// Decides how a container's files are to be seen, and keeps it so until the copy is over.
    async fn copy_job(&self, id: &ContainerId, access: Access, with_volumes: bool) -> Result<Job, CopyError> {
        let missing = || CopyError::Missing { id: id.clone() };
        loop {
            let slot = self.slot(id).ok_or_else(missing)?;
            let mut guard = slot.copies.share().await;
            let base = match slot.current() {
                ContainerState::Removing => return Err(missing()),
                ContainerState::Running { pid, .. } => match self.namespaces_of(&slot, pid).await {
                    Some((mounts, users)) => Base::Running { mounts, users: users.zip(slot.record().users) },
                    None => {
                        // It is ending: its files can be had in a moment.
                        drop(guard);
                        if !ended_within(&slot, ENDING).await {
                            let source = std::io::Error::other("its shim does not answer");
                            return Err(CopyError::View { action: "reach its processes", id: id.clone(), source });
                        }
                        continue;
                    }
                },
                // Nobody starts it while this is held, but somebody may have begun before: those hold the state.
                ContainerState::Starting | ContainerState::Created | ContainerState::Exited(_) => match access {
                    Access::Read => Base::Read,
                    Access::Write => {
                        drop(guard);
                        guard = slot.copies.alone().await;
                        if matches!(slot.current(), ContainerState::Running { .. } | ContainerState::Removing) {
                            continue;
                        }
                        Base::Written
                    }
                },
            };
            let record = slot.record();
            let volumes = VolumeUse { engine: self.clone(), user: user_name() };
            let is_running = matches!(base, Base::Running { .. });
            let (engine, known, user) = (self.clone(), Arc::clone(&record), volumes.user.clone());
            let failed = |source| CopyError::View { action: "find its volumes", id: id.clone(), source };
            let mounts = match with_volumes {
                true => tokio::task::spawn_blocking(move || engine.view_mounts(&known, is_running, &user))
                    .await
                    .map_err(|error| failed(std::io::Error::other(error)))??,
                false => Vec::new(),
            };
            crash_point!("copy.volumes");
            let plan = ViewPlan {
                id: id.clone(),
                overlay: record.overlay.clone(),
                base,
                mounts,
                mountpoint: self.inner.launcher.records.directory(id),
            };
            return Ok(Job { plan, record, guard, cancelled: slot.copies.cancelled(), volumes });
        }
    }

    /// The mount namespace of a container that runs, and its user namespace if that is not the host's. `None`: it does not
    /// run any more.
    async fn namespaces_of(&self, slot: &Slot, pid: i32) -> Option<(OwnedFd, Option<OwnedFd>)> {
        let open = |name: &str| File::open(format!("/proc/{pid}/ns/{name}")).ok().map(OwnedFd::from);
        let mounts = open("mnt")?;
        let users = if slot.record().users.is_some() { Some(open("user")?) } else { None };
        // Its shim has not reaped it, so that what was opened is of that very process and of no other with its number.
        let mut shim = Shim::connect(&self.inner.launcher.run_directory(&slot.record().id)).await.ok()?;
        match shim.ask(&Request::Describe).await {
            Ok(Some(Response::State(State::Running { pid: now, .. }))) if now == pid => Some((mounts, users)),
            _ => None,
        }
    }

    /// What is mounted in a container, but for what lies in memory alone. Volumes are taken in the name of `user`.
    fn view_mounts(&self, record: &Record, is_running: bool, user: &str) -> Result<Vec<ViewMount>, CopyError> {
        let id = &record.id;
        let config = &record.config;
        let mut all = Vec::new();
        for volume in volumes(id, config, &record.image) {
            let failed = |source| CopyError::Volume { id: id.clone(), source };
            let owner = volume.anonymous.then_some(id.as_str());
            let data = self.volumes().ensure_own(&volume.name, &volume.description, owner).map_err(failed)?;
            self.volumes().mount(&volume.name, user).map_err(failed)?;
            let asked = config.mounts.iter().find(|mount| mount.target == volume.target);
            let (subpath, no_copy) = match asked.map(|mount| &mount.source) {
                Some(ContainerMountSource::Volume { subpath, no_copy, .. }) => (subpath.clone(), *no_copy),
                _ => (None, false),
            };
            all.push(ViewMount {
                target: volume.target,
                source: ViewSource::Path(data),
                recursive: false,
                read_only: asked.is_some_and(|mount| mount.read_only),
                copy_up: !no_copy && subpath.is_none(),
                mapped: true,
                subpath,
            });
        }
        for mount in &config.mounts {
            let ContainerMountSource::Bind { path, non_recursive, mapped, .. } = &mount.source else { continue };
            all.push(ViewMount {
                target: mount.target.clone(),
                source: ViewSource::Path(path.clone()),
                subpath: None,
                recursive: !non_recursive,
                read_only: mount.read_only,
                copy_up: false,
                mapped: *mapped,
            });
        }
        for mounted in &record.mounted_images {
            let asked = config.mounts.iter().find(|mount| mount.target == mounted.target);
            let subpath = match asked.map(|mount| &mount.source) {
                Some(ContainerMountSource::Image { subpath, .. }) => subpath.clone(),
                _ => None,
            };
            all.push(ViewMount {
                target: mounted.target.clone(),
                source: ViewSource::Image(mounted.layers.clone()),
                subpath,
                recursive: false,
                read_only: true,
                copy_up: false,
                mapped: false,
            });
        }
        if is_running && !matches!(config.network_mode, NetworkMode::Container(_)) {
            let directory = self.inner.launcher.records.directory(id);
            for name in ["hosts", "hostname", "resolv.conf"] {
                let target = format!("/etc/{name}");
                let source = directory.join(name);
                if !all.iter().any(|mount| mount.target == target) && source.exists() {
                    all.push(ViewMount {
                        target,
                        source: ViewSource::Path(source),
                        subpath: None,
                        recursive: false,
                        read_only: false,
                        copy_up: false,
                        mapped: true,
                    });
                }
            }
        }
        // Outer ones first, or they would hide those below them.
        all.sort_by_key(|mount| mount.target.trim_end_matches('/').matches('/').count());
        Ok(all)
    }
}

/// Nobody else's.
fn user_name() -> String {
    static COPIES: AtomicU64 = AtomicU64::new(0);
    format!("copy {}", COPIES.fetch_add(1, Ordering::Relaxed))
}

fn find(id: &ContainerId, root: BorrowedFd<'_>, path: &str) -> Result<crate::copying::Found, CopyError> {
    examine(root, path).map_err(|source| path_error(id, path, source))
}

fn path_error(id: &ContainerId, path: &str, source: std::io::Error) -> CopyError {
    let path = path.chars().take(4096).collect();
    match source.raw_os_error() {
        Some(libc::ENOENT) => CopyError::NotFound { path, id: id.clone() },
        Some(libc::ENOTDIR) => CopyError::NotADirectory { path, id: id.clone() },
        _ => CopyError::Path { path, id: id.clone(), source },
    }
}

/// Who a container runs as, by its own files.
fn user_of(record: &Record, root: BorrowedFd<'_>) -> Result<(u32, u32), CopyError> {
    let read = |path: &str| {
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        let Ok(file) = root_path::open(root, path, flags, Links::Follow) else { return String::new() };
        let file = File::from(file);
        let mut bytes = Vec::new();
        let is_file = file.metadata().is_ok_and(|found| found.is_file());
        if !is_file || file.take(LONGEST_ACCOUNT_FILE).read_to_end(&mut bytes).is_err() {
            return String::new();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let user = record.config.user.as_deref().unwrap_or(&record.image.user);
    let found = identity::resolve(user, &[], &read("/etc/passwd"), &read("/etc/group"));
    found.map(|user| (user.uid, user.gid)).map_err(|problem| CopyError::User { problem })
}

fn write(
    writer: PieceWriter,
    owners: Owners,
    pack: impl FnOnce(&mut Packer<PieceWriter>) -> Result<(), PackError>,
) -> Result<(), PackError> {
    let mut packer = Packer::with_owners(writer, owners);
    pack(&mut packer)?;
    Ok(packer.finish()?.finish()?)
}

/// Whoever takes an archive that breaks off sees that it does, and not why.
fn report(id: &ContainerId, outcome: Result<(), PackError>) {
    match outcome {
        Ok(()) => {}
        Err(PackError::Write(error)) => tracing::debug!(container = %id, %error, "nobody takes an archive any more"),
        Err(error) => {
            tracing::warn!(container = %id, error = crate::container::text_of(&error), "an archive broke off");
        }
    }
}

/// Does something with a view, on a thread of its own, and answers when that has ended and the view is gone.
async fn on_view<T: Send + 'static>(
    job: Job,
    work: impl FnOnce(&View, &Record) -> Result<T, CopyError> + Send + 'static,
) -> Result<T, CopyError> {
    let (answer, answered) = oneshot::channel();
    let id = job.plan.id.clone();
    let run = move || {
        let Job { plan, record, guard, cancelled: _, volumes } = job;
        // One more thread, as that one leaves the host's mounts for good, and volumes are given back among them.
        let viewing = || View::open(plan).and_then(|view| work(&view, &record));
        let outcome = std::thread::scope(|scope| scope.spawn(viewing).join()).unwrap_or(Err(CopyError::Broken));
        crash_point!("copy.ended");
        // In this order: the next to mount the container's files finds nothing mounted.
        drop(volumes);
        drop(guard);
        // Whoever is gone needs no answer.
        let _ = answer.send(outcome);
    };
    let spawned = std::thread::Builder::new().name("container-files".to_owned()).spawn(run);
    spawned.map_err(|source| CopyError::View { action: "start a thread", id, source })?;
    answered.await.unwrap_or(Err(CopyError::Broken))
}

/// Lets a copy go on by itself, and answers when it has begun or cannot.
async fn begun<T: Send + 'static>(
    copy: impl Future<Output = Result<(), CopyError>> + Send + 'static,
    heard: oneshot::Receiver<Result<T, CopyError>>,
) -> Result<T, CopyError> {
    let copy = tokio::spawn(copy);
    match heard.await {
        Ok(begun) => begun,
        // It has ended before it began.
        Err(_) => match copy.await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) | Err(_) => Err(CopyError::Broken),
        },
    }
}
