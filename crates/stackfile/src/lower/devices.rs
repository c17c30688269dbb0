//! Pure. The devices of a container: by their path, by the name that a description on the hosts gives them, and by a request
//! (`gpus`, `reservations.devices`), which comes to such names as well.

use stack_model::spec::DeviceMapping;

use super::read::Fields;
use crate::code::Code;
use crate::diagnostic::{Journal, Problem};
use crate::short::device::is_name;
use crate::tree::{Node, Value};

/// The kind of the devices that NVIDIA's own tool describes on a host.
const NVIDIA: &str = "nvidia.com/gpu";
/// The most devices that are asked for by their number; more than any host has.
const MOST: i64 = 1024;

/// Devices by their path, and those by a name that the hosts know.
pub(super) fn devices(fields: &Fields<'_>, journal: &mut Journal) -> (Vec<DeviceMapping>, Vec<String>) {
    let list = fields.path.key("devices");
    let (mut devices, mut names) = (Vec::new(), Vec::new());
    for (index, node) in fields.items("devices").iter().enumerate() {
        let device = Fields::new(node, list.index(index));
        let (Some(source), Some(target)) = (device.text("source", journal), device.text("target", journal)) else {
            continue;
        };
        let permissions = device.text("permissions", journal).unwrap_or_else(|| "rwm".to_owned());
        if is_name(&source) {
            if target != source || permissions != "rwm" {
                journal.push(
                    Problem::new(
                        Code::BadDevice,
                        node.place,
                        &device.path,
                        "where a device by name is and how it may be used is told by its description on the hosts",
                    )
                    .hint(format!("write `{source}` alone")),
                );
            } else if !names.contains(&source) {
                names.push(source);
            }
            continue;
        }
        if !source.starts_with('/') || !target.starts_with('/') {
            journal.push(
                Problem::new(Code::NotAbsolute, node.place, &device.path, "the paths of a device are absolute")
                    .hint("write `/dev/NAME`, or the name of a device that the hosts know: `vendor.com/class=name`"),
            );
            continue;
        }
        let known = !permissions.is_empty() && permissions.chars().all(|letter| matches!(letter, 'r' | 'w' | 'm'));
        if !known {
            journal.push(
                Problem::new(
                    Code::BadDevice,
                    device.node("permissions").map_or(node.place, |node| node.place),
                    &device.path,
                    "the permissions of a device are any of `r`, `w` and `m`",
                )
                .hint("write `rwm` for all of them"),
            );
            continue;
        }
        devices.push(DeviceMapping { source, target, permissions });
    }
    let deploy = fields.fields("deploy");
    let resources = deploy.fields("resources");
    let reserved = resources.fields("reservations");
    let requests = requested(&reserved, "devices", true, journal).into_iter();
    for name in requests.chain(requested(fields, "gpus", false, journal)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    (devices, names)
}

/// The names that the requests below a key come to. `says_capabilities`: what is asked for is told by `capabilities`, and not by
/// the key.
fn requested(fields: &Fields<'_>, key: &str, says_capabilities: bool, journal: &mut Journal) -> Vec<String> {
    let list = fields.path.key(key);
    let mut names = Vec::new();
    for (index, node) in fields.items(key).iter().enumerate() {
        let request = Fields::new(node, list.index(index));
        let mut wrong = |key: &str, what: &dyn Fn(&str) -> String, hint: &str| {
            let node = request.node(key).unwrap_or(node);
            let path = request.path.key(key);
            let path = if request.node(key).is_some() { &path } else { &request.path };
            journal.push(Problem::new(Code::BadDevice, node.place, path, what(&node.quoted())).hint(hint));
        };
        let driver = request.node("driver").and_then(Node::as_text).unwrap_or_default();
        match driver {
            "cdi" if request.items("device_ids").is_empty() => wrong(
                "device_ids",
                &|_| "the driver `cdi` is asked for devices by their names".to_owned(),
                "list the names under `device_ids`: `vendor.com/class=name`",
            ),
            "cdi" => names.extend(identified(&request, "", journal)),
            "" | "nvidia" if says_capabilities && lacks_gpu(&request) => wrong(
                "capabilities",
                &|_| "hosts know devices with the capability `gpu` alone, and it is not asked for".to_owned(),
                "write `capabilities: [gpu]`, or name other devices under the driver `cdi` or the key `devices`",
            ),
            "" | "nvidia" if request.node("device_ids").is_some() => {
                names.extend(identified(&request, NVIDIA, journal))
            }
            "" | "nvidia" => match request.node("count").map(|node| &node.value) {
                None | Some(Value::Integer(-1)) => names.push(format!("{NVIDIA}=all")),
                Some(Value::Integer(count @ 1..=MOST)) => {
                    names.extend((0..*count).map(|index| format!("{NVIDIA}={index}")));
                }
                Some(Value::Integer(_)) => wrong(
                    "count",
                    &|count| format!("{count} is not a number of devices that a task can have"),
                    "write a number from 1 to 1024, or `all`",
                ),
                // Refused before, as it is no number.
                Some(_) => {}
            },
            _ => wrong(
                "driver",
                &|driver| format!("hosts have no device driver {driver}"),
                "write `nvidia`, or `cdi` with the names of the devices under `device_ids`: `vendor.com/class=name`",
            ),
        }
    }
    names
}

/// Whether capabilities are named, and those of graphics processors are not among them.
fn lacks_gpu(request: &Fields<'_>) -> bool {
    request.node("capabilities").is_some()
        && !request.items("capabilities").iter().any(|capability| capability.as_text() == Some("gpu"))
}

/// The devices under `device_ids`: by their whole names, or by their number or identifier within a kind.
fn identified(request: &Fields<'_>, kind: &str, journal: &mut Journal) -> Vec<String> {
    let list = request.path.key("device_ids");
    let ids = request.texts("device_ids", journal).unwrap_or_default();
    let mut names = Vec::new();
    for (index, (id, node)) in ids.into_iter().zip(request.items("device_ids")).enumerate() {
        let name = if kind.is_empty() || id.starts_with(kind) { id } else { format!("{kind}={id}") };
        if is_name(&name) {
            names.push(name);
            continue;
        }
        let (what, hint) = match kind {
            "" => (
                "is not a name that the driver `cdi` has",
                "write the vendor, the class and the device: `vendor.com/class=name`",
            ),
            _ => (
                "is neither the number nor the identifier of a device",
                "write a number such as `0`, or an identifier such as `GPU-3faa8a4d`",
            ),
        };
        let what = format!("{} {what}", node.quoted());
        journal.push(Problem::new(Code::BadDevice, node.place, &list.index(index), what).hint(hint));
    }
    names
}
