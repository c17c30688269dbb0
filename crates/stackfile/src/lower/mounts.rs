//! Pure. The file systems of a container: `volumes` and `tmpfs`.

use stack_model::spec::{Mount, MountSource, Relabel};

use super::read::{self, Fields};
use super::{Context, container};
use crate::code::Code;
use crate::diagnostic::{Journal, Path, Problem};
use crate::short::bytes;
use crate::tree::{Node, Value};

/// All mounts, in the order of the file, `volumes` first.
pub(super) fn mounts(fields: &Fields<'_>, context: &Context<'_>, journal: &mut Journal) -> Vec<Mount> {
    let mut mounts = Vec::new();
    let list = fields.path.key("volumes");
    for (index, node) in fields.items("volumes").iter().enumerate() {
        if node.as_mapping().is_none() {
            continue;
        }
        let volume = Fields::new(node, list.index(index));
        if let Some(mount) = mount(&volume, node, context, journal) {
            mounts.push(mount);
        }
    }
    let list = fields.path.key("tmpfs");
    for (index, node) in fields.items("tmpfs").iter().enumerate() {
        let path = list.index(index);
        if let Some(text) = read::text(node, &path, journal)
            && let Some(mount) = short_tmpfs(&text, node, &path, journal)
        {
            mounts.push(mount);
        }
    }
    mounts
}

fn target(fields: &Fields<'_>, node: &Node, journal: &mut Journal) -> Option<String> {
    let Some(written) = fields.node("target") else {
        journal.push(
            Problem::new(Code::MissingKey, node.place, &fields.path, "a volume of a service needs the key `target`")
                .hint("add `target:` with the path in the container"),
        );
        return None;
    };
    let text = fields.text("target", journal)?;
    let problem = if !text.starts_with('/') {
        Some((Code::NotAbsolute, "is not an absolute path", "a path in the container begins with `/`"))
    } else if text.split('/').any(|part| part == "..") {
        Some((Code::BadValue, "leaves the directory that it names", "write the path without `..`"))
    } else if text == "/" {
        Some((Code::BadValue, "is the root of the container itself", "mount it at a directory, such as `/data`"))
    } else {
        None
    };
    match problem {
        None => Some(text),
        Some((code, reason, hint)) => {
            let path = fields.path.key("target");
            journal.push(
                Problem::new(code, written.place, &path, format!("the target {} {reason}", written.quoted()))
                    .hint(hint),
            );
            None
        }
    }
}

fn mount(fields: &Fields<'_>, node: &Node, context: &Context<'_>, journal: &mut Journal) -> Option<Mount> {
    let target = target(fields, node, journal);
    let kind = fields.node("type")?;
    let source = match kind.as_text()? {
        "bind" => bind(fields, context, journal)?,
        "volume" => named(fields, journal)?,
        "image" => image(fields, journal)?,
        "tmpfs" => {
            let options = fields.fields("tmpfs");
            if fields.node("source").is_some() {
                journal.push(
                    Problem::new(
                        Code::Conflict,
                        fields.key_place("source"),
                        &fields.path.key("source"),
                        "a file system in memory has no `source`",
                    )
                    .hint("remove it"),
                );
            }
            MountSource::Tmpfs {
                options: Vec::new(),
                size: options.size("size", journal).filter(|size| *size > 0),
                mode: options.node("mode").and_then(|node| mode(node, &options.path.key("mode"), journal)),
            }
        }
        other => {
            let (code, word, hint) = match other {
                "npipe" => {
                    (Code::Refused, "is refused: it is for Windows containers, and hosts run Linux", "remove it")
                }
                "cluster" => (
                    Code::Refused,
                    "is refused: hosts drive no CSI storage",
                    "mount the storage on the hosts and give its absolute path with `type: bind`",
                ),
                _ => (Code::NotAllowed, "is no type of a mount", "known are `bind`, `volume`, `tmpfs` and `image`"),
            };
            journal.push(
                Problem::new(code, kind.place, &fields.path.key("type"), format!("`type: {other}` {word}")).hint(hint),
            );
            return None;
        }
    };
    let kind = kind.as_text()?;
    for options in ["bind", "volume", "tmpfs", "image"] {
        let says = fields.fields(options).mapping.is_some_and(|mapping| !mapping.is_empty());
        if options != kind && says {
            journal.push(
                Problem::new(
                    Code::Conflict,
                    fields.key_place(options),
                    &fields.path.key(options),
                    format!("`{options}` says something about a mount whose `type` is `{kind}`"),
                )
                .hint(format!("remove it, or write `type: {options}`")),
            );
        }
    }
    Some(Mount { target: target?, read_only: fields.boolean("read_only", journal).unwrap_or(false), source })
}

fn bind(fields: &Fields<'_>, context: &Context<'_>, journal: &mut Journal) -> Option<MountSource> {
    let written = fields.node("source")?;
    let path = fields.path.key("source");
    let source = fields.text("source", journal)?;
    if !source.starts_with('/') {
        let absolute = if context.directory.is_empty() || source.starts_with('~') {
            "/PATH/ON/THE/HOSTS".to_owned()
        } else {
            crate::paths::join(context.directory, &source)
        };
        journal.push(
            Problem::new(
                Code::RelativeBind,
                written.place,
                &path,
                format!("{} is on the computer that deploys, not on the hosts", written.quoted()),
            )
            .hint(format!(
                "use a named volume, build the files into the image, or give a path that is on every host (here it is `{absolute}`)"
            )),
        );
        return None;
    }
    let options = fields.fields("bind");
    let recursive = options.node("recursive");
    let word = recursive.and_then(Node::as_text);
    if let (Some(node), Some(word @ ("writable" | "readonly"))) = (recursive, word)
        && fields.boolean("read_only", journal) != Some(true)
    {
        journal.push(
            Problem::new(
                Code::Conflict,
                node.place,
                &options.path.key("recursive"),
                format!(
                    "`recursive: {word}` is about what is mounted below something read-only, and this mount is not"
                ),
            )
            .hint("add `read_only: true`, or leave it out"),
        );
    }
    let propagation = options.text("propagation", journal).filter(|propagation| !propagation.is_empty());
    let known = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];
    if let (Some(propagation), Some(node)) = (&propagation, options.node("propagation"))
        && !known.contains(&propagation.as_str())
    {
        super::service::not_allowed(node, &options.path.key("propagation"), &known, journal);
    }
    Some(MountSource::Bind {
        path: crate::paths::clean(&source),
        create_host_path: options.boolean("create_host_path", journal).unwrap_or(true),
        propagation,
        non_recursive: word == Some("disabled"),
        // All that is below something read-only is read-only too, unless this is said.
        writable_below: word == Some("writable"),
        relabel: match options.text("selinux", journal).as_deref() {
            Some("z") => Some(Relabel::Shared),
            Some("Z") => Some(Relabel::Private),
            _ => None,
        },
    })
}

fn named(fields: &Fields<'_>, journal: &mut Journal) -> Option<MountSource> {
    let options = fields.fields("volume");
    let name = fields.text("source", journal).filter(|name| !name.is_empty());
    let subpath = subpath(&options, "volume", journal)?;
    let labels = options.pairs("labels", journal);
    if name.is_none() && !labels.is_empty() {
        journal.push(
            Problem::new(
                Code::Conflict,
                options.key_place("labels"),
                &options.path.key("labels"),
                "a volume without a name belongs to its container alone, and nobody looks it up by its labels",
            )
            .hint("remove them, or name the volume in `source`"),
        );
    }
    Some(MountSource::Volume { name, no_copy: options.boolean("nocopy", journal).unwrap_or(false), subpath, labels })
}

/// The files of another image.
fn image(fields: &Fields<'_>, journal: &mut Journal) -> Option<MountSource> {
    if fields.node("source").is_none() {
        journal.push(
            Problem::new(
                Code::MissingKey,
                fields.key_place("type"),
                &fields.path,
                "a mount of an image needs the key `source`",
            )
            .hint("add `source:` with the name of the image, such as `busybox:1.37`"),
        );
        return None;
    }
    let image = container::image(fields, "source", journal)?;
    let subpath = subpath(&fields.fields("image"), "image", journal)?;
    Some(MountSource::Image { image, subpath })
}

/// The path within a volume or image. The outer `None`: it leaves that.
#[expect(clippy::option_option, reason = "the inner one is a path that was not given")]
fn subpath(options: &Fields<'_>, of: &str, journal: &mut Journal) -> Option<Option<String>> {
    let subpath = options.text("subpath", journal).filter(|subpath| !subpath.is_empty());
    if let (Some(subpath), Some(node)) = (&subpath, options.node("subpath"))
        && (subpath.starts_with('/') || subpath.split('/').any(|part| part == ".."))
    {
        journal.push(
            Problem::new(
                Code::BadValue,
                node.place,
                &options.path.key("subpath"),
                format!("the subpath {} leaves the {of}", node.quoted()),
            )
            .hint("write a relative path without `..`"),
        );
        return None;
    }
    Some(subpath)
}

/// Permissions: YAML has read `0755` as octal; a text is octal too.
pub(super) fn mode(node: &Node, path: &Path<'_>, journal: &mut Journal) -> Option<u32> {
    let value = match &node.value {
        Value::Text(text) => u32::from_str_radix(text.trim_start_matches("0o"), 8).ok(),
        Value::Integer(value) => u32::try_from(*value).ok(),
        _ => None,
    };
    let value = value.filter(|mode| *mode <= 0o7777);
    if value.is_none() {
        journal.push(
            Problem::new(Code::BadValue, node.place, path, format!("{} is not a file mode", node.quoted()))
                .hint("write octal permissions, such as `0755`"),
        );
    }
    value
}

/// `/run:size=64m,mode=1777`.
fn short_tmpfs(text: &str, node: &Node, path: &Path<'_>, journal: &mut Journal) -> Option<Mount> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    if !target.starts_with('/') {
        journal.push(
            Problem::new(
                Code::NotAbsolute,
                node.place,
                path,
                format!("{} does not begin with an absolute path", node.quoted()),
            )
            .hint("write `/run` or `/run:size=64m`"),
        );
        return None;
    }
    let mut mount = Mount {
        target: crate::paths::clean(target),
        read_only: false,
        source: MountSource::Tmpfs { size: None, mode: None, options: Vec::new() },
    };
    let MountSource::Tmpfs { size, mode, options: kept } = &mut mount.source else { return None };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let understood = match key {
            "size" => {
                *size = bytes::parse(value).ok().and_then(|size| u64::try_from(size).ok());
                size.is_some()
            }
            "mode" => {
                *mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
                mode.is_some()
            }
            "ro" => {
                mount.read_only = true;
                true
            }
            // What every such file system has.
            "rw" | "nosuid" | "nodev" | "noexec" | "defaults" => true,
            "exec" | "suid" | "dev" | "noatime" | "nodiratime" | "strictatime" | "relatime" if value.is_empty() => {
                kept.push(option.to_owned());
                true
            }
            "uid" | "gid" if value.parse::<u32>().is_ok() => {
                kept.push(option.to_owned());
                true
            }
            "nr_inodes" | "nr_blocks" if value.trim_end_matches(['k', 'm', 'g']).parse::<u64>().is_ok() => {
                kept.push(option.to_owned());
                true
            }
            _ => false,
        };
        if !understood {
            journal.push(
                Problem::new(
                    Code::NotAllowed,
                    node.place,
                    path,
                    format!("an option of {} is not one of a file system in memory", node.quoted()),
                )
                .hint("known are `size=64m`, `mode=1777`, `uid=1000`, `gid=1000`, `exec`, `suid`, `dev`, `ro`, `rw`, `noatime`, `nr_inodes=N`"),
            );
        }
    }
    Some(mount)
}
