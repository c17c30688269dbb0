//! Pure. The file systems of a container, in each of the five ways in which Docker can be asked for them.

use bollard_stubs::models::{
    ContainerCreateBody, HostConfig, Mount, MountBindOptions, MountTypeEnum, MountVolumeOptions,
};
use stack_engine::container::{Container, ContainerMount, ContainerMountSource, ImageDefaults, volumes as volumes_of};

use super::{Creation, CreationError, NewVolume, World, invalid, nonempty, without};
use stack_engine::selinux::Relabel;
use stack_engine::volume::VolumeDescription;

use crate::error::ApiError;
use crate::select;

/// Applies them.
pub(super) fn apply(
    creation: &mut Creation,
    body: &ContainerCreateBody,
    host: &HostConfig,
    world: &World,
) -> Result<(), ApiError> {
    let driver = host.volume_driver.as_deref().unwrap_or_default();
    without(!["", "local"].contains(&driver), &format!("HostConfig.VolumeDriver `{driver}`"))?;
    let mut all = Vec::new();
    for text in host.binds.iter().flatten() {
        all.push(bind(text)?);
    }
    for mount in host.mounts.iter().flatten() {
        all.push(described(mount, creation)?);
    }
    let mut tmpfs: Vec<(&String, &String)> = host.tmpfs.iter().flatten().collect();
    tmpfs.sort();
    for (target, options) in tmpfs {
        let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
        let source = ContainerMountSource::Tmpfs { size: None, mode: None, options };
        all.push(ContainerMount { target: target.clone(), read_only: false, relabel: None, source });
    }
    for (one, mount) in all.iter().enumerate() {
        if all[..one].iter().any(|other| plain(&other.target) == plain(&mount.target)) {
            return Err(invalid("mount", &mount.target, "Duplicate mount point").into());
        }
    }
    // What is mounted anyway goes before what others have and before what is only said to be a volume.
    for text in host.volumes_from.iter().flatten() {
        for mount in taken_over(world, text)? {
            if !has(&all, &mount.target) {
                all.push(mount);
            }
        }
    }
    let mut anonymous: Vec<&String> = body.volumes.iter().flatten().collect();
    anonymous.sort();
    for target in anonymous {
        if !has(&all, target) {
            let source = ContainerMountSource::Volume { name: None, no_copy: false, subpath: None };
            all.push(ContainerMount { target: target.clone(), read_only: false, relabel: None, source });
        }
    }
    for mount in &all {
        if let ContainerMountSource::Volume { name: Some(name), .. } = &mount.source
            && !creation.volumes.iter().any(|volume| volume.name == *name)
        {
            creation.volumes.push(NewVolume { name: name.clone(), description: VolumeDescription::default() });
        }
    }
    creation.config.mounts = all;
    Ok(())
}

fn plain(target: &str) -> &str {
    target.trim_end_matches('/')
}

fn has(all: &[ContainerMount], target: &str) -> bool {
    all.iter().any(|mount| plain(&mount.target) == plain(target))
}

/// `SOURCE:TARGET[:OPTIONS]`, where the source is an absolute path or the name of a volume.
fn bind(text: &str) -> Result<ContainerMount, CreationError> {
    let refuse = || invalid("volume specification", text, "expected SOURCE:TARGET or SOURCE:TARGET:OPTIONS");
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(refuse()),
    };
    if target.is_empty() || (source.is_empty() && parts.len() > 1) {
        return Err(refuse());
    }
    if plain(target).is_empty() {
        return Err(invalid("volume specification", text, "destination can't be '/'"));
    }
    if ["ro", "rw"].iter().all(|mode| options.split(',').any(|option| option == *mode)) {
        return Err(CreationError::Mode(options.chars().take(80).collect()));
    }
    let (mut read_only, mut no_copy, mut propagation, mut relabel) = (false, false, None, None);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "readonly" => read_only = true,
            "nocopy" => no_copy = true,
            // What is so anyway, or means something elsewhere only.
            "rw" | "copy" | "consistent" | "cached" | "delegated" => {}
            // Not for two kinds of readers.
            "z" | "Z" if relabel.is_none() => relabel = Relabel::from_letter(option),
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                propagation = Some(option.to_owned());
            }
            other => return Err(CreationError::Mode(other.chars().take(80).collect())),
        }
    }
    let source = if source.starts_with('/') {
        if no_copy {
            return Err(invalid("volume specification", text, "`nocopy` is for volumes only"));
        }
        let path = source.into();
        ContainerMountSource::Bind {
            path,
            create_host_path: true,
            propagation,
            non_recursive: false,
            writable_below: false,
            mapped: false,
        }
    } else {
        if propagation.is_some() {
            return Err(invalid("volume specification", text, "propagation is for directories of the host only"));
        }
        if source.contains('/') || (source.starts_with('.') && !source.is_empty()) {
            return Err(CreationError::VolumeName { name: source.to_owned() });
        }
        ContainerMountSource::Volume { name: nonempty(Some(source.to_owned())), no_copy, subpath: None }
    };
    Ok(ContainerMount { target: target.to_owned(), read_only, relabel, source })
}

/// One of `--mount`.
fn described(mount: &Mount, creation: &mut Creation) -> Result<ContainerMount, CreationError> {
    let target = mount.target.clone().unwrap_or_default();
    let refuse = |expected| invalid("mount config", mount.target.clone().unwrap_or_default(), expected);
    if !target.starts_with('/') || plain(&target).is_empty() {
        return Err(refuse("the target must be an absolute path, and not `/`"));
    }
    let source = mount.source.clone().unwrap_or_default();
    let kind = mount.typ.unwrap_or(MountTypeEnum::EMPTY);
    let foreign = (kind != MountTypeEnum::BIND && mount.bind_options.is_some())
        || (kind != MountTypeEnum::VOLUME && mount.volume_options.is_some())
        || (kind != MountTypeEnum::TMPFS && mount.tmpfs_options.is_some())
        || (kind != MountTypeEnum::IMAGE && mount.image_options.is_some());
    if foreign {
        return Err(refuse("it has options of another type of mount"));
    }
    let source = match kind {
        MountTypeEnum::BIND => {
            if !source.starts_with('/') {
                return Err(refuse("the source of a bind must be an absolute path"));
            }
            let options = mount.bind_options.clone().unwrap_or_default();
            bound(source, mount.read_only.unwrap_or(false), &options)?
        }
        MountTypeEnum::VOLUME => volume(source, &target, mount.volume_options.clone().unwrap_or_default(), creation)?,
        MountTypeEnum::TMPFS => {
            if !source.is_empty() {
                return Err(refuse("a tmpfs has no source"));
            }
            let options = mount.tmpfs_options.clone().unwrap_or_default();
            let words = options.options.unwrap_or_default().into_iter().map(|words| words.join("="));
            let number = |number: Option<i64>, expected| match number.unwrap_or(0) {
                0 => Ok(None),
                number => u64::try_from(number).map(Some).map_err(|_| refuse(expected)),
            };
            let mode = number(options.mode, "the mode of a tmpfs cannot be negative")?;
            ContainerMountSource::Tmpfs {
                size: number(options.size_bytes, "the size of a tmpfs cannot be negative")?,
                mode: mode.and_then(|mode| u32::try_from(mode & 0o7777).ok()),
                options: words.collect(),
            }
        }
        MountTypeEnum::IMAGE => {
            if source.is_empty() {
                return Err(refuse("field Source must not be empty"));
            }
            // Docker takes any word for it, and what is mounted cannot be written to whatever it is.
            let subpath = nonempty(mount.image_options.clone().unwrap_or_default().subpath);
            let climbs = |path: &String| path.starts_with('/') || path.split('/').any(|part| part == "..");
            if subpath.as_ref().is_some_and(climbs) {
                return Err(refuse("the subpath of an image must be a relative path that stays within the image"));
            }
            ContainerMountSource::Image { reference: source, subpath }
        }
        MountTypeEnum::NPIPE | MountTypeEnum::CLUSTER => {
            return Err(CreationError::NotSupported { field: format!("a mount of the type `{kind}`") });
        }
        MountTypeEnum::EMPTY => return Err(refuse("the type must be bind, volume, tmpfs or image")),
    };
    Ok(ContainerMount { target, read_only: mount.read_only.unwrap_or(false), relabel: None, source })
}

fn bound(source: String, read_only: bool, options: &MountBindOptions) -> Result<ContainerMountSource, CreationError> {
    let writable_below = options.read_only_non_recursive.unwrap_or(false);
    let non_recursive = options.non_recursive.unwrap_or(false);
    let refuse = |value: &str, expected| Err(invalid("mount config", value, expected));
    if writable_below && !read_only {
        return refuse("ReadOnlyNonRecursive", "must be specified together with ReadOnly");
    }
    // What is read-only is so with everything below it, unless somebody asks for less: this kernel can, or nothing starts.
    if options.read_only_force_recursive.unwrap_or(false) {
        if !read_only {
            return refuse("ReadOnlyForceRecursive", "must be specified together with ReadOnly");
        }
        if writable_below {
            return refuse("ReadOnlyForceRecursive", "conflicts with ReadOnlyNonRecursive");
        }
        if non_recursive {
            return refuse("ReadOnlyForceRecursive", "conflicts with NonRecursive");
        }
        let propagation = options.propagation.map(|propagation| propagation.to_string()).unwrap_or_default();
        if !["", "rprivate"].contains(&propagation.as_str()) {
            return refuse("ReadOnlyForceRecursive", "must be specified together with the propagation `rprivate`");
        }
    }
    Ok(ContainerMountSource::Bind {
        path: source.into(),
        create_host_path: options.create_mountpoint.unwrap_or(false),
        propagation: nonempty(options.propagation.map(|propagation| propagation.to_string())),
        non_recursive,
        writable_below,
        mapped: false,
    })
}

fn volume(
    source: String,
    target: &str,
    options: MountVolumeOptions,
    creation: &mut Creation,
) -> Result<ContainerMountSource, CreationError> {
    let driver = options.driver_config.unwrap_or_default();
    let name = driver.name.unwrap_or_default();
    without(!["", "local"].contains(&name.as_str()), &format!("the volume driver `{name}`"))?;
    let description = VolumeDescription {
        labels: options.labels.unwrap_or_default().into_iter().collect(),
        options: driver.options.unwrap_or_default().into_iter().collect(),
    };
    if source.contains('/') {
        return Err(CreationError::VolumeName { name: source });
    }
    if !source.is_empty() {
        creation.volumes.push(NewVolume { name: source.clone(), description });
    } else if description != VolumeDescription::default() {
        creation.config.own_volumes.insert(target.to_owned(), description);
    }
    Ok(ContainerMountSource::Volume {
        name: nonempty(Some(source)),
        no_copy: options.no_copy.unwrap_or(false),
        subpath: nonempty(options.subpath),
    })
}

/// What another container has: its volumes, and the directories of the host that it sees.
fn taken_over(world: &World, text: &str) -> Result<Vec<ContainerMount>, ApiError> {
    let (name, mode) = text.rsplit_once(':').unwrap_or((text, "rw"));
    let (read_only, relabel) = match mode {
        "ro" => (true, None),
        "rw" => (false, None),
        "z" | "Z" => (false, Relabel::from_letter(mode)),
        other => return Err(invalid("volumes-from mode", other, "expected `ro`, `rw`, `z` or `Z`").into()),
    };
    let container: Container = select::container(world.containers.clone(), name)?;
    let declared = world.image_volumes.get(&container.id).cloned().unwrap_or_default();
    let image = ImageDefaults { volumes: declared, ..ImageDefaults::default() };
    let config = &container.config;
    let mut all: Vec<ContainerMount> = config
        .mounts
        .iter()
        .filter(|mount| matches!(mount.source, ContainerMountSource::Bind { .. }))
        .cloned()
        .collect();
    for volume in volumes_of(&container.id, config, &image) {
        let own = config.mounts.iter().find(|mount| mount.target == volume.target);
        let subpath = match own.map(|mount| &mount.source) {
            Some(ContainerMountSource::Volume { subpath, .. }) => subpath.clone(),
            _ => None,
        };
        let is_read_only = own.is_some_and(|mount| mount.read_only);
        let source = ContainerMountSource::Volume { name: Some(volume.name), no_copy: true, subpath };
        let relabel = own.and_then(|mount| mount.relabel);
        all.push(ContainerMount { target: volume.target, read_only: is_read_only, relabel, source });
    }
    for mount in &mut all {
        mount.read_only |= read_only;
        mount.relabel = relabel.or(mount.relabel);
    }
    Ok(all)
}
