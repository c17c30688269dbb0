//! Pure. The devices of a container: by their path, by the name that a description on the hosts gives them, and by a request
//! (`gpus`, `reservations.devices`), which comes to such names as well.

use stack_model::spec::DeviceMapping;

use super::read::Fields;
use crate::code::Code;
use crate::diagnostic::{Journal, Problem};
use crate::short::device::is_name;
use crate::tree::Value;

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
        match names_of(&request, says_capabilities, journal) {
            Ok(found) => names.extend(found),
            Err((key, what, hint)) => {
                let path = if key.is_empty() { request.path.clone() } else { request.path.key(key) };
                let place = request.node(key).map_or(node.place, |node| node.place);
                journal.push(Problem::new(Code::BadDevice, place, &path, what).hint(hint));
            }
        }
    }
    names
}

/// A key, what is wrong with it, and what to do.
type Wrong = (&'static str, String, &'static str);

fn names_of(request: &Fields<'_>, says_capabilities: bool, journal: &mut Journal) -> Result<Vec<String>, Wrong> {
    let ids = request.texts("device_ids", journal);
    let count = match request.node("count").map(|node| &node.value) {
        Some(Value::Integer(count)) => Some(*count),
        // What is no number has been refused before.
        _ => None,
    };
    let driver = request.text("driver", journal).unwrap_or_default();
    match driver.as_str() {
        "cdi" => {
            let Some(ids) = ids.filter(|ids| !ids.is_empty()) else {
                return Err((
                    "",
                    "the driver `cdi` is asked for devices by their names".to_owned(),
                    "list the names under `device_ids`: `vendor.com/class=name`",
                ));
            };
            match ids.iter().find(|id| !is_name(id)) {
                Some(id) => Err((
                    "device_ids",
                    format!("`{id}` is not a name that the driver `cdi` has"),
                    "write the vendor, the class and the device: `vendor.com/class=name`",
                )),
                None => Ok(ids),
            }
        }
        "" | "nvidia" => {
            let asks_for = |what: &str| {
                request
                    .texts("capabilities", &mut Journal::default())
                    .is_some_and(|all| all.iter().any(|one| one == what))
            };
            if says_capabilities && request.node("capabilities").is_some() && !asks_for("gpu") {
                return Err((
                    "capabilities",
                    "hosts know devices with the capability `gpu` alone, and it is not asked for".to_owned(),
                    "write `capabilities: [gpu]`, or name other devices under the driver `cdi` or the key `devices`",
                ));
            }
            match (ids, count) {
                (Some(ids), _) => ids.into_iter().map(|id| nvidia(&id)).collect(),
                (None, Some(-1) | None) => Ok(vec![format!("{NVIDIA}=all")]),
                (None, Some(count @ 1..=MOST)) => Ok((0..count).map(|index| format!("{NVIDIA}={index}")).collect()),
                (None, Some(count)) => {
                    let hint = "write a number from 1 to 1024, or `all`";
                    Err(("count", format!("`{count}` is not a number of devices that a task can have"), hint))
                }
            }
        }
        other => Err((
            "driver",
            format!("hosts have no device driver `{other}`"),
            "write `nvidia`, or `cdi` with the names of the devices under `device_ids`: `vendor.com/class=name`",
        )),
    }
}

/// The name of a device that is known by its number or identifier, or by that name already.
fn nvidia(id: &str) -> Result<String, Wrong> {
    let name = if id.starts_with(NVIDIA) { id.to_owned() } else { format!("{NVIDIA}={id}") };
    if is_name(&name) {
        return Ok(name);
    }
    Err((
        "device_ids",
        format!("`{id}` is neither the number nor the identifier of a device"),
        "write a number such as `0`, or an identifier such as `GPU-3faa8a4d`",
    ))
}
