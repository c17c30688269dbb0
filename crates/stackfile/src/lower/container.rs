//! Pure. What a container of a service runs and what surrounds it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use stack_model::spec::{ContainerSpec, Healthcheck, Image, Logging, PullPolicy, Ulimit};

use stack_model::FileKind;

use super::Context;
use super::devices;
use super::files;
use super::isolation;
use super::lifecycle;
use super::limits;
use super::mounts;
use super::read::Fields;
use super::service::not_allowed;
use super::templates;
use crate::code::Code;
use crate::diagnostic::{Journal, Problem};
use crate::schema::check::as_integer;
use crate::tree::Value;

/// The container; `None` when it has no image, which the journal says.
pub(super) fn container(fields: &Fields<'_>, context: &Context<'_>, journal: &mut Journal) -> Option<ContainerSpec> {
    let image = image(fields, "image", journal);
    let (environment, environment_removed) = environment(fields, journal);
    let security = isolation::security(fields, context, journal);
    let network_mode = isolation::network_mode(fields, journal);
    let (devices, cdi_devices) = devices::devices(fields, journal);
    let spec = ContainerSpec {
        image: image.clone().unwrap_or(Image { reference: String::new(), digest: None }),
        entrypoint: fields.texts("entrypoint", journal),
        command: fields.texts("command", journal),
        environment,
        environment_removed,
        labels: fields.pairs("labels", journal),
        user: fields.text("user", journal).filter(|user| !user.is_empty()),
        group_add: fields.texts("group_add", journal).unwrap_or_default(),
        working_dir: absolute(fields, "working_dir", journal),
        hostname: host_name(fields, "hostname", journal),
        domainname: fields.text("domainname", journal),
        extra_hosts: extra_hosts(fields, journal),
        dns: addresses(fields, "dns", journal),
        dns_search: fields.texts("dns_search", journal).unwrap_or_default(),
        dns_options: fields.texts("dns_opt", journal).unwrap_or_default(),
        mounts: mounts::mounts(fields, context, journal),
        secrets: files::references(fields, FileKind::Secret, journal),
        configs: files::references(fields, FileKind::Config, journal),
        read_only: fields.boolean("read_only", journal).unwrap_or(false),
        storage_size: storage_size(fields, journal),
        init: fields.boolean("init", journal),
        runtime: isolation::runtime(fields, journal),
        tty: fields.boolean("tty", journal).unwrap_or(false),
        stdin_open: fields.boolean("stdin_open", journal).unwrap_or(false),
        stop_signal: signal(fields, journal),
        stop_grace_period: fields.duration("stop_grace_period", journal),
        healthcheck: healthcheck(&fields.fields("healthcheck"), journal),
        post_start: lifecycle::hooks(fields, "post_start", journal),
        pre_stop: lifecycle::hooks(fields, "pre_stop", journal),
        cap_add: isolation::capabilities(fields, "cap_add", journal),
        cap_drop: isolation::capabilities(fields, "cap_drop", journal),
        privileged: fields.boolean("privileged", journal).unwrap_or(false),
        no_new_privileges: security.no_new_privileges,
        seccomp: security.seccomp,
        apparmor: security.apparmor,
        selinux: security.selinux,
        system_paths_unconfined: security.system_paths_unconfined,
        devices,
        cdi_devices,
        device_cgroup_rules: device_rules(fields, journal),
        ulimits: ulimits(&fields.fields("ulimits"), journal),
        sysctls: fields.pairs("sysctls", journal),
        shm_size: fields.size("shm_size", journal).filter(|size| *size > 0),
        oom_score_adj: fields
            .integer("oom_score_adj", -1000, 1000, journal)
            .and_then(|value| i32::try_from(value).ok()),
        network_mode,
        pid_mode: isolation::namespace(fields, "pid", journal),
        ipc_mode: isolation::namespace(fields, "ipc", journal),
        uts_mode: isolation::uts_mode(fields, journal),
        cgroup_mode: isolation::namespace(fields, "cgroup", journal),
        user_namespace: isolation::user_namespace(fields, journal),
        limits: limits::limits(fields, journal),
        annotations: fields.pairs("annotations", journal),
        logging: logging(&fields.fields("logging"), journal),
        pull_policy: pull_policy(fields, journal),
    };
    templates::check(fields, journal);
    isolation::fixed(fields, journal);
    image.map(|_| spec)
}

/// How much it may write into its root file system.
fn storage_size(fields: &Fields<'_>, journal: &mut Journal) -> Option<u64> {
    let options = fields.fields("storage_opt");
    for (key, entry) in options.mapping.into_iter().flatten().filter(|(key, _)| *key != "size") {
        journal.push(
            Problem::new(
                Code::Refused,
                entry.key_place,
                &options.path.key(key),
                format!(
                    "`storage_opt: {{{key}: …}}` is refused: hosts limit the size of root file systems and nothing else"
                ),
            )
            .hint("remove it; the option is `size`, as in `storage_opt: {size: 10G}`"),
        );
    }
    let size = options.size("size", journal)?;
    if size == 0
        && let Some(node) = options.node("size")
    {
        journal.push(
            Problem::new(
                Code::BadValue,
                node.place,
                &options.path.key("size"),
                "nothing can be written to a size of 0",
            )
            .hint("write a size such as `10G`, or `read_only: true` for a container that writes nothing"),
        );
        return None;
    }
    Some(size)
}

/// The image that a key names.
pub(super) fn image(fields: &Fields<'_>, key: &str, journal: &mut Journal) -> Option<Image> {
    let node = fields.node(key)?;
    let reference = node.as_text()?.to_owned();
    let path = fields.path.key(key);
    if let Some(reason) = image_problem(&reference) {
        journal.push(
            Problem::new(
                Code::BadValue,
                node.place,
                &path,
                format!("{} is not the name of an image: {reason}", node.quoted()),
            )
            .hint("write `nginx:1.27` or `registry.example:5000/team/app:1.2`"),
        );
        return None;
    }
    let last = reference.rsplit('/').next().unwrap_or_default();
    if !reference.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest") {
        journal.push(
            Problem::new(
                Code::FloatingTag,
                node.place,
                &path,
                format!("{} names no version, so each deploy may bring another one", node.quoted()),
            )
            .hint(format!(
                "name a version: `{}:VERSION`",
                crate::tree::shortened(reference.trim_end_matches(":latest"))
            )),
        );
    }
    Some(Image { reference, digest: None })
}

/// Why a text cannot be the name of an image (OCI distribution specification, and Docker's rule for host names).
fn image_problem(reference: &str) -> Option<&'static str> {
    let name = reference.split('@').next().unwrap_or_default();
    if let Some((_, digest)) = reference.split_once('@') {
        let known = digest.split_once(':').is_some_and(|(algorithm, hex)| {
            algorithm == "sha256"
                && hex.len() == 64
                && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        if !known {
            return Some("after `@` come `sha256:` and 64 hexadecimal digits");
        }
    }
    let (host, rest) = match name.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), rest),
        _ => (None, name),
    };
    let (repository, tag) = match rest.rsplit_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (rest, None),
    };
    if let Some(host) = host
        && !host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']' | b'_'))
    {
        return Some("the name of the registry has a character that host names cannot have");
    }
    if repository.is_empty() {
        return Some("the name is empty");
    }
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some("it must be in lower case");
    }
    let component = |part: &str| {
        part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
            && part.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
            && part.bytes().last().is_some_and(|byte| byte.is_ascii_alphanumeric())
    };
    if !repository.split('/').all(component) {
        return Some("it has a part that is empty, or a character that is not one of a-z, 0-9, `.`, `_`, `-`");
    }
    if let Some(tag) = tag {
        let fits = !tag.is_empty()
            && tag.len() <= 128
            && !tag.starts_with(['.', '-'])
            && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
        if !fits {
            return Some("the tag after `:` has a character that tags cannot have, or is empty");
        }
    }
    None
}

pub(super) fn environment(fields: &Fields<'_>, journal: &mut Journal) -> (BTreeMap<String, String>, Vec<String>) {
    let environment = fields.fields("environment");
    let mut set = BTreeMap::new();
    let mut removed = Vec::new();
    for (name, entry) in environment.mapping.into_iter().flatten() {
        if name.is_empty() || name.contains(['=', '\0']) {
            journal.push(
                Problem::new(
                    Code::BadValue,
                    entry.key_place,
                    &environment.path.key(name),
                    "the name of a variable is empty or has a character that names cannot have",
                )
                .hint("write `NAME: value`, or `- NAME=value` in a list"),
            );
            continue;
        }
        if entry.node.is_null() {
            removed.push(name.clone());
        } else if let Some(value) = super::read::text(&entry.node, &environment.path.key(name), journal) {
            set.insert(name.clone(), value);
        }
    }
    (set, removed)
}

pub(super) fn absolute(fields: &Fields<'_>, key: &str, journal: &mut Journal) -> Option<String> {
    let text = fields.text(key, journal)?;
    if !text.starts_with('/') {
        let node = fields.node(key)?;
        journal.push(
            Problem::new(
                Code::NotAbsolute,
                node.place,
                &fields.path.key(key),
                format!("{} is not an absolute path", node.quoted()),
            )
            .hint("a path in the container begins with `/`"),
        );
        return None;
    }
    Some(text)
}

fn host_name(fields: &Fields<'_>, key: &str, journal: &mut Journal) -> Option<String> {
    let text = fields.text(key, journal)?;
    let node = fields.node(key)?;
    let label = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let plain = templates::without(&text);
    if plain.len() <= 64 && plain.split('.').all(label) {
        return Some(text);
    }
    journal.push(
        Problem::new(
            Code::BadValue,
            node.place,
            &fields.path.key(key),
            format!("{} is not a host name", node.quoted()),
        )
        .hint("host names have letters, digits, `-` and `.`, at most 64 characters"),
    );
    None
}

fn extra_hosts(fields: &Fields<'_>, journal: &mut Journal) -> Vec<(String, String)> {
    let list = fields.path.key("extra_hosts");
    let mut hosts = Vec::new();
    for (index, node) in fields.items("extra_hosts").iter().enumerate() {
        let Some((name, address)) = node.as_text().and_then(|text| text.split_once('=')) else { continue };
        if address.is_empty() {
            journal.push(
                Problem::new(
                    Code::BadHostEntry,
                    node.place,
                    &list.index(index),
                    format!("{} has no address", node.quoted()),
                )
                .hint("write `NAME=ADDRESS`, such as `\"db=192.0.2.7\"`"),
            );
        } else if address == "host-gateway" || address.parse::<IpAddr>().is_ok() {
            hosts.push((name.to_owned(), address.to_owned()));
        } else {
            journal.push(
                Problem::new(
                    Code::BadAddress,
                    node.place,
                    &list.index(index),
                    format!("the address of {} is not an IP address", node.quoted()),
                )
                .hint("write an IPv4 or IPv6 address, or `host-gateway`"),
            );
        }
    }
    hosts
}

fn addresses(fields: &Fields<'_>, key: &str, journal: &mut Journal) -> Vec<IpAddr> {
    let list = fields.path.key(key);
    let mut addresses = Vec::new();
    for (index, node) in fields.items(key).iter().enumerate() {
        match node.as_text().unwrap_or_default().parse() {
            Ok(address) => addresses.push(address),
            Err(_) => journal.push(
                Problem::new(
                    Code::BadAddress,
                    node.place,
                    &list.index(index),
                    format!("{} is not an IP address", node.quoted()),
                )
                .hint("a name server is given by its address, such as `9.9.9.9`"),
            ),
        }
    }
    addresses
}

/// The signals that a process can be asked to end with (`signal(7)`).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

fn signal(fields: &Fields<'_>, journal: &mut Journal) -> Option<String> {
    let text = fields.text("stop_signal", journal)?;
    let node = fields.node("stop_signal")?;
    if let Ok(number) = text.parse::<u8>()
        && (1..=64).contains(&number)
    {
        return Some(match SIGNALS.get(usize::from(number) - 1) {
            Some(name) => format!("SIG{name}"),
            None => number.to_string(),
        });
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = name.starts_with("RTMIN") || name.starts_with("RTMAX");
    if SIGNALS.contains(&name) || real_time {
        return Some(format!("SIG{name}"));
    }
    not_allowed(node, &fields.path.key("stop_signal"), &["SIGTERM", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGHUP"], journal);
    None
}

fn healthcheck(fields: &Fields<'_>, journal: &mut Journal) -> Option<Healthcheck> {
    fields.mapping?;
    let mut test = fields.texts("test", journal).unwrap_or_default();
    if fields.boolean("disable", journal) == Some(true) {
        let conflicting = !matches!(test.first().map(String::as_str), None | Some("NONE"));
        if conflicting {
            journal.push(
                Problem::new(
                    Code::Conflict,
                    fields.key_place("disable"),
                    &fields.path.key("disable"),
                    "`disable: true` cannot be used together with a `test`",
                )
                .hint("remove one of the two"),
            );
        }
        test = vec!["NONE".to_owned()];
    }
    if let Some(node) = fields.node("test") {
        let path = fields.path.key("test");
        match (test.first().map(String::as_str), test.len()) {
            (None, _) | (Some("NONE"), 1) | (Some("CMD-SHELL"), 2) | (Some("CMD"), 2..) => {}
            (Some("CMD-SHELL"), length) if length > 2 => journal.push(
                Problem::new(Code::BadValue, node.place, &path, "`CMD-SHELL` takes one shell command in one text")
                    .hint("put the whole command in one item, or use `CMD` with a list of words"),
            ),
            (Some("NONE"), _) => journal.push(
                Problem::new(Code::BadValue, node.place, &path, "`NONE` stands alone").hint("write `test: [NONE]`"),
            ),
            (Some("CMD" | "CMD-SHELL"), _) => journal.push(
                Problem::new(Code::BadValue, node.place, &path, "the test has no command")
                    .hint("write `test: [CMD, curl, -f, http://localhost]`"),
            ),
            (Some(_), _) => journal.push(
                Problem::new(
                    Code::BadValue,
                    node.place,
                    &path,
                    "a test given as a list begins with `CMD`, `CMD-SHELL` or `NONE`",
                )
                .hint("put `CMD` in front of the words, or write the test as one text"),
            ),
        }
    }
    Some(Healthcheck {
        test,
        interval: fields.duration("interval", journal).filter(|time| time.0 > 0),
        timeout: fields.duration("timeout", journal).filter(|time| time.0 > 0),
        retries: fields.count("retries", journal).filter(|count| *count > 0),
        start_period: fields.duration("start_period", journal),
        start_interval: fields.duration("start_interval", journal).filter(|time| time.0 > 0),
    })
}

/// Rules as the kernel's control groups have them: `c 10:* rwm`.
fn device_rules(fields: &Fields<'_>, journal: &mut Journal) -> Vec<String> {
    let list = fields.path.key("device_cgroup_rules");
    let mut rules = Vec::new();
    for (index, node) in fields.items("device_cgroup_rules").iter().enumerate() {
        let text = node.as_text().unwrap_or_default();
        if is_device_rule(text) {
            rules.push(text.to_owned());
            continue;
        }
        journal.push(
            Problem::new(
                Code::BadDevice,
                node.place,
                &list.index(index),
                format!("{} is not a rule for devices", node.quoted()),
            )
            .hint("write `c 10:200 rwm`: `a`, `b` or `c`, the two numbers or `*`, and any of `r`, `w` and `m`"),
        );
    }
    rules
}

fn is_device_rule(text: &str) -> bool {
    let mut words = text.split(' ');
    let (Some("a" | "b" | "c"), Some(numbers), Some(access), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    let number = |text: &str| text == "*" || text.parse::<u32>().is_ok();
    numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
        && !access.is_empty()
        && access.chars().all(|letter| matches!(letter, 'r' | 'w' | 'm'))
}

/// The limits that Linux has (`getrlimit(2)`).
const LIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

fn ulimits(fields: &Fields<'_>, journal: &mut Journal) -> BTreeMap<String, Ulimit> {
    let mut limits = BTreeMap::new();
    for (name, entry) in fields.mapping.into_iter().flatten() {
        let path = fields.path.key(name);
        if !LIMITS.contains(&name.as_str()) {
            let problem = Problem::new(
                Code::NotAllowed,
                entry.key_place,
                &path,
                format!("`{}` is not a limit", crate::tree::shortened(name)),
            );
            journal.push(match crate::diagnostic::did_you_mean(name, LIMITS) {
                Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
                None => problem.hint(format!("limits are `{}`", LIMITS.join("`, `"))),
            });
            continue;
        }
        let limit = match &entry.node.value {
            Value::Mapping(_) => {
                let both = Fields::new(&entry.node, path);
                let soft = both.integer("soft", -1, i64::MAX, journal);
                let hard = both.integer("hard", -1, i64::MAX, journal);
                soft.zip(hard)
            }
            _ => as_integer(&entry.node).filter(|value| *value >= -1).map(|value| (value, value)),
        };
        let Some((soft, hard)) = limit else {
            if !matches!(entry.node.value, Value::Mapping(_)) {
                journal.push(
                    Problem::new(
                        Code::OutOfRange,
                        entry.node.place,
                        &path,
                        format!("{} is not a limit", entry.node.quoted()),
                    )
                    .hint("write a number from 0, or -1 for no limit"),
                );
            }
            continue;
        };
        if hard != -1 && (soft == -1 || soft > hard) {
            journal.push(
                Problem::new(Code::Conflict, entry.node.place, &path, "the soft limit is above the hard limit")
                    .hint("raise `hard` or lower `soft`"),
            );
            continue;
        }
        limits.insert(name.clone(), Ulimit { soft, hard });
    }
    limits
}

fn logging(fields: &Fields<'_>, journal: &mut Journal) -> Logging {
    Logging { driver: fields.text("driver", journal), options: fields.pairs("options", journal) }
}

fn pull_policy(fields: &Fields<'_>, journal: &mut Journal) -> PullPolicy {
    let Some(node) = fields.node("pull_policy") else { return PullPolicy::Missing };
    let path = fields.path.key("pull_policy");
    match node.as_text().unwrap_or_default() {
        "missing" | "if_not_present" | "" => PullPolicy::Missing,
        "always" => PullPolicy::Always,
        "never" => PullPolicy::Never,
        text if text == "build"
            || text == "refresh"
            || text == "daily"
            || text == "weekly"
            || text.starts_with("every_") =>
        {
            journal.push(
                Problem::new(
                    Code::Refused,
                    node.place,
                    &path,
                    format!(
                        "`pull_policy: {}` is refused: what runs is what the deploy found, until the next deploy",
                        node.quoted().trim_matches('`')
                    ),
                )
                .hint("use `always`, which looks for a new version at every deploy"),
            );
            PullPolicy::Missing
        }
        _ => {
            not_allowed(node, &path, &["missing", "always", "never"], journal);
            PullPolicy::Missing
        }
    }
}
