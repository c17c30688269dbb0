//! Pure. Limits and weights of a container that nobody plans with.

use stack_model::limits::{BlockDeviceLimit, BlockDeviceWeight, BlockLimitKind, FineLimits};

use super::read::Fields;
use crate::code::Code;
use crate::diagnostic::{Journal, Path, Problem};
use crate::tree::{Node, Value};

/// All of them.
pub(super) fn limits(fields: &Fields<'_>, journal: &mut Journal) -> FineLimits {
    let block = fields.fields("blkio_config");
    FineLimits {
        // 0 is the usual weight.
        cpu_shares: fields
            .integer("cpu_shares", 0, 262_144, journal)
            .and_then(|shares| u64::try_from(shares).ok())
            .filter(|shares| *shares > 0)
            .map(|shares| shares.max(2)),
        cpuset: cpuset(fields, journal),
        memory_and_swap_bytes: memory_and_swap(fields, journal),
        // -1 is the host's own.
        swappiness: fields
            .integer("mem_swappiness", -1, 100, journal)
            .and_then(|swappiness| u64::try_from(swappiness).ok()),
        block_weight: weight(&block, journal),
        block_device_weights: device_weights(&block, journal),
        block_device_limits: device_limits(&block, journal),
    }
}

/// `0-2,5`.
fn cpuset(fields: &Fields<'_>, journal: &mut Journal) -> Option<String> {
    let text = fields.text("cpuset", journal).filter(|text| !text.is_empty())?;
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number < 65_536);
    let fits = text.split(',').all(|part| match part.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
        None => number(part).is_some(),
    });
    if fits {
        return Some(text);
    }
    let node = fields.node("cpuset")?;
    journal.push(
        Problem::new(
            Code::BadValue,
            node.place,
            &fields.path.key("cpuset"),
            format!("{} is not a set of processors", node.quoted()),
        )
        .hint("write numbers and ranges, such as `0-2,5`"),
    );
    None
}

/// Memory and swap space together: 0 is as if it were not there, -1 is no limit.
fn memory_and_swap(fields: &Fields<'_>, journal: &mut Journal) -> Option<u64> {
    let key = "memswap_limit";
    let node = fields.node(key)?;
    let unlimited = match &node.value {
        Value::Integer(value) => *value == -1,
        _ => node.as_text() == Some("-1"),
    };
    let both = if unlimited { u64::MAX } else { fields.size(key, journal).filter(|bytes| *bytes > 0)? };
    let deploy = fields.fields("deploy");
    let resources = deploy.fields("resources");
    let limits = resources.fields("limits");
    let memory = if limits.node("memory").is_some() {
        limits.size("memory", &mut Journal::default())
    } else {
        fields.size("mem_limit", &mut Journal::default())
    };
    let problem = match memory.filter(|bytes| *bytes > 0) {
        None if unlimited => return None,
        None => Some(("`memswap_limit` does nothing without a limit of the memory", "add `mem_limit`, or remove it")),
        Some(memory) if both < memory => Some((
            "`memswap_limit` is memory and swap space together, and is less than the memory alone",
            "raise it: equal to `mem_limit` is no swap space at all",
        )),
        Some(_) => None,
    };
    let Some((problem, hint)) = problem else { return Some(both) };
    journal.push(Problem::new(Code::Conflict, node.place, &fields.path.key(key), problem).hint(hint));
    None
}

fn weight(fields: &Fields<'_>, journal: &mut Journal) -> Option<u16> {
    // 0 is the usual weight, as for Docker.
    if fields.node("weight").and_then(Node::scalar_text).as_deref() == Some("0") {
        return None;
    }
    fields.integer("weight", 10, 1000, journal).and_then(|weight| u16::try_from(weight).ok())
}

fn device_weights(block: &Fields<'_>, journal: &mut Journal) -> Vec<BlockDeviceWeight> {
    let key = "weight_device";
    let list = block.path.key(key);
    let mut weights = Vec::new();
    for (index, node) in block.items(key).iter().enumerate() {
        let fields = Fields::new(node, list.index(index));
        let path = device(&fields, node, journal);
        if fields.node("weight").is_none() {
            missing(&fields, node, "weight", journal);
        }
        if let (Some(path), Some(weight)) = (path, weight(&fields, journal)) {
            weights.push(BlockDeviceWeight { path, weight });
        }
    }
    weights
}

fn device_limits(block: &Fields<'_>, journal: &mut Journal) -> Vec<BlockDeviceLimit> {
    let mut limits = Vec::new();
    for (key, kind) in [
        ("device_read_bps", BlockLimitKind::ReadBytes),
        ("device_write_bps", BlockLimitKind::WriteBytes),
        ("device_read_iops", BlockLimitKind::ReadOperations),
        ("device_write_iops", BlockLimitKind::WriteOperations),
    ] {
        let list = block.path.key(key);
        for (index, node) in block.items(key).iter().enumerate() {
            let fields = Fields::new(node, list.index(index));
            let path = device(&fields, node, journal);
            if fields.node("rate").is_none() {
                missing(&fields, node, "rate", journal);
            }
            let Some(rate) = fields.size("rate", journal) else { continue };
            if rate == 0 {
                journal.push(
                    Problem::new(
                        Code::OutOfRange,
                        fields.key_place("rate"),
                        &fields.path.key("rate"),
                        "a rate of 0 would let nothing through",
                    )
                    .hint("write a rate above 0, or leave the device out for no limit"),
                );
            } else if let Some(path) = path {
                limits.push(BlockDeviceLimit { path, kind, rate });
            }
        }
    }
    limits
}

fn missing(fields: &Fields<'_>, node: &Node, key: &str, journal: &mut Journal) {
    journal.push(
        Problem::new(Code::MissingKey, node.place, &fields.path, format!("a device here needs the key `{key}`"))
            .hint(format!("add `{key}:`")),
    );
}

/// The path of a block device of the host.
fn device(fields: &Fields<'_>, node: &Node, journal: &mut Journal) -> Option<String> {
    let Some(path) = fields.text("path", journal) else {
        if fields.node("path").is_none() {
            missing(fields, node, "path", journal);
        }
        return None;
    };
    if path.starts_with('/') {
        return Some(path);
    }
    let written: &Path<'_> = &fields.path.key("path");
    journal.push(
        Problem::new(
            Code::NotAbsolute,
            fields.node("path").map_or(node.place, |node| node.place),
            written,
            "the path of a device is absolute",
        )
        .hint("write `/dev/NAME`, as it is on the hosts"),
    );
    None
}
