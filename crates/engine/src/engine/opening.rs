//! How an engine is opened: its directories, what it finds there, and the containers that run.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use super::{ContainersConfig, Engine, EngineConfig, Inner, locked};
use crate::apparmor::AppArmor;
use crate::cgroup;
use crate::container::{ImageRoots, Launcher, OpenError, Records, Roots, ShimProgram};
use crate::dns::{Directory, NameServers, NameServersConfig};
use crate::events::Events;
use crate::image::ImageStore;
use crate::metrics::Metrics;
use crate::network::Networks;
use crate::overlay::{Overlay, OverlayConfig};
use crate::selinux::{RelabelError, Selinux, relabel};
use crate::snapshot::Snapshots;
use crate::volume::Volumes;

impl Engine {
    /// Opens everything below `config.containers.root` and takes over what runs. Only one process may have it open.
    ///
    /// # Errors
    /// When images, networks or containers cannot be opened.
    pub async fn open(config: EngineConfig) -> Result<Self, OpenError> {
        let root = &config.containers.root;
        make_directory(root, 0o711)?;
        let images = ImageStore::open(&root.join("images"), config.registry)
            .map_err(|error| OpenError::Images(Box::new(error)))?;
        let snapshots = Snapshots::open(&root.join("snapshots")).map_err(|error| OpenError::Images(Box::new(error)))?;
        let networks = Networks::open(&root.join("networks"), config.network).await?;
        let roots = Arc::new(ImageRoots { images: images.clone(), snapshots });
        Self::open_with(config.containers, images, roots, Arc::new(networks)).await
    }

    /// Opens the containers below `config.root` with these images and networks, and takes over what runs.
    ///
    /// # Errors
    /// When a directory, the shim's program or the control groups cannot be had.
    pub async fn open_with(
        config: ContainersConfig,
        images: ImageStore,
        roots: Arc<dyn Roots>,
        networks: Arc<Networks>,
    ) -> Result<Self, OpenError> {
        for directory in [&config.root, &config.run] {
            make_directory(directory, 0o711)?;
        }
        let run = config.run.join("containers");
        make_directory(&run, 0o700)?;
        let program = ShimProgram::load(&config.shim)
            .map_err(|source| OpenError::ShimProgram { path: config.shim.clone(), source })?;
        let volumes_root = config.root.join("volumes");
        let volumes = Volumes::open(&volumes_root)
            .map_err(|source| OpenError::Directory { path: volumes_root.clone(), source })?;
        let records = Records::open(config.root.join("containers"))?;
        let hierarchies = Arc::new(cgroup::detect(&config.cgroup_parent)?);
        let overlay = Arc::new(Overlay::open(OverlayConfig::default())?);
        let names = Arc::new(NameServers::new(NameServersConfig::default(), Arc::new(Directory::new())));
        let events = Events::default();
        images.tell_to(events.clone());
        networks.tell_to(events.clone());
        volumes.tell_to(events.clone());
        networks.publish_in(Arc::clone(names.directory()));
        let mut loaded = records.load()?;
        if loaded.records.iter().any(|record| record.config.storage_size.is_some())
            && let Err(error) = roots.check_size_limit()
        {
            loaded.warnings.push(format!("the sizes of containers are not in force: {error}"));
        }
        let filters = config.root.join("seccomp");
        crate::seccomp::sweep(&filters).map_err(|source| OpenError::Directory { path: filters.clone(), source })?;
        let apparmor = tokio::task::spawn_blocking(AppArmor::open)
            .await
            .map_err(|error| OpenError::Directory { path: filters.clone(), source: io::Error::other(error) })?;
        let mode = config.selinux;
        let selinux = tokio::task::spawn_blocking(move || Selinux::open(mode))
            .await
            .map_err(|error| OpenError::Directory { path: filters.clone(), source: io::Error::other(error) })??;
        if let Err(error) = label_layers(&selinux, images.layer_places()).await {
            let reason = crate::container::text_of(&error);
            loaded.warnings.push(format!("programs of images may not run where SELinux enforces its policy: {reason}"));
        }
        let users_refusal = crate::container::try_user_namespace(&program, &config.root, config.users.ids).await.err();
        if let Some(reason) = users_refusal.as_ref().filter(|_| config.users.by_default) {
            loaded.warnings.push(format!(
                "containers cannot have user namespaces on this host, so that none is started without `--userns=host`: {reason}"
            ));
        }
        let launcher = Launcher {
            apparmor,
            selinux,
            cdi_directories: config.cdi_directories.clone().into(),
            between: Arc::default(),
            program,
            hierarchies,
            networks,
            overlay,
            names,
            volumes,
            records,
            run,
            filters,
            runtimes: config.runtimes,
            users: config.users,
            users_refusal,
        };
        let inner = Inner {
            launcher,
            images,
            roots,
            containers: Mutex::new(BTreeMap::new()),
            execs: Mutex::new(BTreeMap::new()),
            events,
            metrics: Metrics::new(),
            warnings: Mutex::new(loaded.warnings),
            ending: AtomicBool::new(false),
        };
        let engine = Self { inner: Arc::new(inner) };
        engine.clear_unfinished(loaded.unfinished).await;
        let damaged = engine.end_damaged(loaded.damaged).await;
        locked(&engine.inner.warnings).extend(damaged);
        engine.adopt(loaded.records, config.shim_patience).await?;
        Ok(engine)
    }
}

/// Labels the layers of images for SELinux, once: what is unpacked from then on has the label of where it is.
async fn label_layers(selinux: &Selinux, places: [PathBuf; 2]) -> Result<(), RelabelError> {
    let Some(label) = selinux.layers_label() else { return Ok(()) };
    let work = move || places.iter().try_for_each(|place| relabel(place, &label, false));
    // It ends in no other way.
    tokio::task::spawn_blocking(work).await.unwrap_or(Ok(()))
}

fn make_directory(path: &Path, mode: u32) -> Result<(), OpenError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| OpenError::Directory { path: path.to_owned(), source })
}
