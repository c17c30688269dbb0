//! Pure. The options of a local volume: what is mounted in place of its directory, in the words of Docker's local driver,
//! which are those of mount(8).

use std::collections::BTreeMap;
use std::path::Path;

use nix::mount::MsFlags;

/// Why a volume's options cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// An option that there is not.
    #[error("invalid option: \"{name}\": expected `type`, `device` and `o`")]
    Unknown {
        /// Which.
        name: String,
    },
    /// A limit that directories do not have.
    #[error(
        "the option `size` needs a file system with project quotas, which is not supported: use `type=tmpfs` with `o=size=…`, or leave it out"
    )]
    Size,
    /// Some are missing.
    #[error("missing required option: \"{name}\"")]
    Missing {
        /// Which.
        name: &'static str,
    },
    /// A device that is no path.
    #[error("the device `{device}` of a bind must be an absolute path")]
    NotAbsolute {
        /// What was given.
        device: String,
    },
    /// A word of `o` that would act on other mounts.
    #[error("`{word}` cannot be among a volume's mount options")]
    Word {
        /// Which.
        word: String,
    },
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSource {
    /// The type of file system; empty for a bind.
    pub kind: String,
    /// What it is of.
    pub device: String,
    /// What the kernel has flags for.
    pub flags: MsFlags,
    /// The rest, for the file system, with commas between.
    pub data: String,
}

/// What the options mean; `None`: a directory of the host's own.
pub fn parse(options: &BTreeMap<String, String>) -> Result<Option<MountSource>, OptionsError> {
    for name in options.keys() {
        match name.as_str() {
            "type" | "device" | "o" => {}
            "size" => return Err(OptionsError::Size),
            _ => return Err(OptionsError::Unknown { name: name.chars().take(80).collect() }),
        }
    }
    if options.is_empty() {
        return Ok(None);
    }
    let text = |name: &'static str| options.get(name).map_or("", String::as_str);
    let (kind, device) = (text("type"), text("device"));
    let (flags, data) = flags(text("o"))?;
    if flags.contains(MsFlags::MS_BIND) {
        if !Path::new(device).is_absolute() {
            return Err(OptionsError::NotAbsolute { device: device.to_owned() });
        }
        return Ok(Some(MountSource { kind: String::new(), device: device.to_owned(), flags, data }));
    }
    if kind.is_empty() {
        return Err(OptionsError::Missing { name: "type" });
    }
    if device.is_empty() {
        return Err(OptionsError::Missing { name: "device" });
    }
    Ok(Some(MountSource { kind: kind.to_owned(), device: device.to_owned(), flags, data }))
}

fn flags(words: &str) -> Result<(MsFlags, String), OptionsError> {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for word in words.split(',').filter(|word| !word.is_empty()) {
        match word {
            "defaults" | "rw" | "suid" | "dev" | "exec" | "async" | "atime" | "diratime" | "nofail" | "_netdev" => {}
            "ro" => flags |= MsFlags::MS_RDONLY,
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "sync" => flags |= MsFlags::MS_SYNCHRONOUS,
            "dirsync" => flags |= MsFlags::MS_DIRSYNC,
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "nodiratime" => flags |= MsFlags::MS_NODIRATIME,
            "relatime" => flags |= MsFlags::MS_RELATIME,
            "strictatime" => flags |= MsFlags::MS_STRICTATIME,
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            "remount" | "move" | "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate" | "unbindable" => {
                return Err(OptionsError::Word { word: word.to_owned() });
            }
            other => data.push(other),
        }
    }
    Ok((flags, data.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(pairs: &[(&str, &str)]) -> Result<Option<MountSource>, OptionsError> {
        parse(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn what_docker_takes_is_understood() {
        assert_eq!(parsed(&[]), Ok(None));
        let bind = parsed(&[("type", "none"), ("device", "/srv/x"), ("o", "bind,ro")]).unwrap().unwrap();
        assert_eq!((bind.kind.as_str(), bind.device.as_str()), ("", "/srv/x"));
        assert!(bind.flags.contains(MsFlags::MS_BIND | MsFlags::MS_RDONLY));
        let memory = parsed(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,uid=7,nosuid")]).unwrap().unwrap();
        assert_eq!((memory.data.as_str(), memory.flags), ("size=1m,uid=7", MsFlags::MS_NOSUID));
        let remote = parsed(&[("type", "nfs"), ("device", ":/x"), ("o", "addr=192.0.2.1,rw,vers=4")]).unwrap().unwrap();
        assert_eq!(remote.data, "addr=192.0.2.1,vers=4");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(parsed(&[("colour", "red")]), Err(OptionsError::Unknown { name: "colour".to_owned() }));
        assert_eq!(parsed(&[("size", "1g")]), Err(OptionsError::Size));
        assert_eq!(parsed(&[("type", "nfs")]), Err(OptionsError::Missing { name: "device" }));
        assert_eq!(parsed(&[("device", "x")]), Err(OptionsError::Missing { name: "type" }));
        assert!(matches!(parsed(&[("device", "x"), ("o", "bind")]), Err(OptionsError::NotAbsolute { .. })));
        assert!(matches!(parsed(&[("device", "/x"), ("o", "bind,shared")]), Err(OptionsError::Word { .. })));
    }
}
