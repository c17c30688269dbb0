//! Pure. The keys of a service.

use super::Shape::{
    self, Boolean, Duration, Entries, Integer, List, Named, Null, Number, Object as Mapping, Size, Text, UniqueList,
};
use super::Support::{Applied, Noted, Refused};
use super::deploy::{DEPLOY, DEVICE_REQUEST, FREE};
use super::resources::{ONE_HOST, WINDOWS};
use super::{COMMAND, DRIVER_OPTIONS, LIST_OR_MAPPING, Object, Support, TEXT_OR_LIST, TEXTS, field};

const BUILT: Support = Refused(
    "hosts run images and build none: what is to be built is on the computer that deploys",
    "build the image beforehand, push it to a registry or load it into the cluster (`stack image load`), and name it under `image`",
);
const BEFORE: Support = Refused(
    "it would run in a container of its own, which is what a service is",
    "make it a service, and write `depends_on: {NAME: {condition: service_completed_successfully}}`",
);
const PROVIDED: Support = Refused(
    "a provider is a program on the computer that deploys, which would have to run there for good",
    "run what the provider would as a service of its own",
);
pub(super) const MODELS: Support = Refused(
    "Docker Compose has a program of its own run models on the computer that it runs on, and hosts have none",
    "run the model server as a service with an image of its own, and give its address in `environment`",
);
const LINK_LOCAL: Support = Refused(
    "link-local addresses hold on one link, and a network here joins many hosts",
    "remove them: the name of the service leads to it, whatever its address",
);
const MAC_ADDRESS: Support = Refused(
    "hosts derive the addresses of interfaces from the IP addresses, so that none has to ask the others for them",
    "remove it: give the only task of a service an `ipv4_address` where something must know it",
);
const ENDPOINT_OPTIONS: Support = Refused(
    "they are for Docker's drivers of networks of one host",
    "remove them: `interface_name` names the interface, and `sysctls` sets parameters of the kernel",
);
const DEVELOP_NOTE: &str = "it only concerns `docker compose watch`; a deployed stack does not watch files";
const BLKIO_WEIGHT_NOTE: Support = Noted(
    "weights are in force only on hosts whose kernel weighs the access to the device (the BFQ scheduler, or `io.cost` of version 2 control groups)",
);

/// A service.
pub(crate) static SERVICE: Object = Object {
    noun: "a service",
    required: &[],
    extensions: true,
    fields: &[
        field(
            "annotations",
            LIST_OR_MAPPING,
            Noted("`docker inspect` shows them; the hosts' engine acts on none"),
            "Annotations of the container for its runtime",
        ),
        field(
            "attach",
            Boolean,
            Noted("it only concerns `docker compose up`; the output of every container is kept"),
            "Whether `up` shows its output",
        ),
        field("blkio_config", Mapping(&BLKIO), Applied, "Limits of block devices"),
        field("build", Shape::Either(&[Text, Mapping(&BUILD)]), BUILT, "How its image is built"),
        field("cap_add", TEXTS, Applied, "Capabilities beside the default ones"),
        field("cap_drop", TEXTS, Applied, "Default capabilities to go without"),
        field("cgroup", Text, Applied, "Which control group namespace it has: `private`, or that of the `host`"),
        field(
            "cgroup_parent",
            Text,
            Refused(
                "stackd keeps its containers in its own control groups, where limits and clean-up rely on them",
                "set limits under `deploy.resources.limits`",
            ),
            "Under which control group it runs",
        ),
        field("command", COMMAND, Applied, "Replaces the image's command"),
        field(
            "configs",
            List(&Shape::Either(&[Text, Mapping(&FILE_REFERENCE)])),
            Applied,
            "Configuration files that it sees",
        ),
        field(
            "container_name",
            Text,
            Noted(
                "a service may have several containers, so none has this name alone; it is an alias on the service's networks; `stack ps` shows the names of the containers",
            ),
            "Another name of the container",
        ),
        field("cpu_count", Integer, WINDOWS, "How many processors it may use (Windows)"),
        field("cpu_percent", Number, WINDOWS, "Which share of the processors it may use (Windows)"),
        field("cpu_period", Shape::TextOrNumber, Applied, "The period of `cpu_quota` in microseconds"),
        field("cpu_quota", Number, Applied, "Microseconds of processor time in each period"),
        field(
            "cpu_rt_period",
            Shape::TextOrNumber,
            Refused("real-time scheduling of containers can stop a host", "use `cpus`"),
            "The period of real-time scheduling",
        ),
        field(
            "cpu_rt_runtime",
            Shape::TextOrNumber,
            Refused("real-time scheduling of containers can stop a host", "use `cpus`"),
            "The time of real-time scheduling",
        ),
        field("cpu_shares", Number, Applied, "Its weight when processors are short"),
        field("cpus", Number, Applied, "How many processors it may use, such as `0.5`"),
        field("cpuset", Text, Applied, "On which processors it runs, such as `0-2,5`"),
        field("credential_spec", Mapping(&CREDENTIAL_SPEC), WINDOWS, "A managed account (Windows)"),
        field(
            "depends_on",
            Shape::Either(&[TEXTS, Named(&Mapping(&DEPENDENCY))]),
            Applied,
            "Services that must be there before tasks of a new or changed one are started",
        ),
        field("deploy", Shape::Either(&[Mapping(&DEPLOY), Null]), Applied, "How it runs in a cluster"),
        field(
            "develop",
            Shape::Either(&[Mapping(&DEVELOP), Null]),
            Noted(DEVELOP_NOTE),
            "How changed files reach it during development",
        ),
        field("device_cgroup_rules", TEXTS, Applied, "Which kinds of devices it may use, such as `c 10:* rwm`"),
        field(
            "devices",
            List(&Shape::Either(&[Text, Mapping(&DEVICE)])),
            Applied,
            "Devices of the host that it sees: `/dev/NAME`, or `vendor.com/class=name` as vendors describe them (CDI)",
        ),
        field("dns", TEXT_OR_LIST, Applied, "Name servers in place of the host's"),
        field("dns_opt", TEXTS, Applied, "Options of its resolver"),
        field("dns_search", TEXT_OR_LIST, Applied, "Domains that it looks names up in"),
        field("domainname", Text, Applied, "Its NIS domain name"),
        field("entrypoint", COMMAND, Applied, "Replaces the image's entrypoint"),
        field(
            "env_file",
            Shape::Either(&[Text, List(&Shape::Either(&[Text, Mapping(&ENV_FILE)]))]),
            Applied,
            "Files with environment variables",
        ),
        field("environment", LIST_OR_MAPPING, Applied, "Environment variables"),
        field(
            "expose",
            UniqueList(&Shape::TextOrNumber),
            Applied,
            "Ports that others may use; tasks of a network on one host reach all ports of each other",
        ),
        field(
            "extends",
            Shape::Either(&[Text, Mapping(&EXTENDS)]),
            Applied,
            "Another service that this one is made from",
        ),
        field(
            "external_links",
            TEXTS,
            Refused(
                "containers of other stacks are not reached by link",
                "publish a port of the other service and use the address of a host",
            ),
            "Containers outside that it knows by name",
        ),
        field("extra_hosts", EXTRA_HOSTS, Applied, "Lines for its `/etc/hosts`"),
        field(
            "gpus",
            Shape::Either(&[Shape::Choice(&["all"]), List(&Mapping(&DEVICE_REQUEST))]),
            Applied,
            "Graphics processors, on hosts that are chosen by `deploy.placement`",
        ),
        field("group_add", UniqueList(&Shape::TextOrNumber), Applied, "Further groups of its user"),
        field("healthcheck", Mapping(&HEALTHCHECK), Applied, "How its health is found out"),
        field("hostname", Text, Applied, "The host name that it sees"),
        field("image", Text, Applied, "What it runs"),
        field("init", Boolean, Applied, "Whether a small init process reaps orphans"),
        field("ipc", Text, Applied, "Whose IPC objects it sees: `private` or `host`"),
        field("isolation", Text, Applied, "How it is kept apart from others: `default`"),
        field("label_file", TEXT_OR_LIST, Applied, "Files with labels of the container"),
        field("labels", LIST_OR_MAPPING, Applied, "Labels of the container"),
        field(
            "links",
            TEXTS,
            Refused(
                "a link is between two containers on one host",
                "remove it: on a network that both are on the other service is found by its name, and by the `aliases` that it gives itself there",
            ),
            "Other names of other services",
        ),
        field("logging", Mapping(&LOGGING), Applied, "Where its output goes"),
        field("mac_address", Text, MAC_ADDRESS, "The address of its network interface"),
        field("mem_limit", Size, Applied, "How much memory it may use"),
        field("mem_reservation", Size, Applied, "How much memory its host keeps free for it"),
        field(
            "mem_swappiness",
            Integer,
            Noted("it is in force only on hosts with version 1 control groups; version 2 has no such setting"),
            "How readily its memory is swapped out, from 0 to 100",
        ),
        field(
            "memswap_limit",
            Size,
            Applied,
            "How much memory and swap space together it may use; -1 is any, as much as `mem_limit` is no swap space",
        ),
        field(
            "models",
            Shape::Either(&[TEXTS, Named(&Shape::Either(&[Mapping(&MODEL_REFERENCE), Null]))]),
            MODELS,
            "Language models that it uses",
        ),
        field("network_mode", Text, Applied, "`host`, `none`, or its networks"),
        field(
            "networks",
            Shape::Either(&[TEXTS, Named(&Shape::Either(&[Mapping(&NETWORK_REFERENCE), Null]))]),
            Applied,
            "The networks that it is on",
        ),
        field(
            "oom_kill_disable",
            Boolean,
            Refused(
                "a container that cannot be killed when memory is short stops its whole host",
                "set `mem_limit`, and `oom_score_adj` to be killed later than others",
            ),
            "Whether it is spared when memory is short",
        ),
        field("oom_score_adj", Integer, Applied, "How likely it is killed when memory is short, from -1000 to 1000"),
        field("pid", Shape::Either(&[Text, Null]), Applied, "Whose processes it sees: its own or those of the `host`"),
        field("pids_limit", Integer, Applied, "How many processes and threads it may have; -1 is any number"),
        field(
            "platform",
            Text,
            Applied,
            "For which system and processor, such as `linux/amd64`: it runs on such hosts only",
        ),
        field(
            "ports",
            UniqueList(&Shape::Either(&[Shape::TextOrNumber, Mapping(&PORT)])),
            Applied,
            "Ports that the hosts publish",
        ),
        field(
            "post_start",
            List(&Mapping(&HOOK)),
            Applied,
            "Commands that run in it after each start, all together for at most five minutes; where one fails, it is stopped and started again",
        ),
        field("pre_start", List(&Mapping(&HOOK_BEFORE)), BEFORE, "Commands that run before its start"),
        field(
            "pre_stop",
            List(&Mapping(&HOOK)),
            Applied,
            "Commands that run in it before it is asked to end, all together for at most its `stop_grace_period`",
        ),
        field("privileged", Boolean, Applied, "All capabilities and devices"),
        field("profiles", TEXTS, Applied, "It is deployed only when one of these profiles is chosen"),
        field("provider", Mapping(&PROVIDER), PROVIDED, "Who else runs it"),
        field("pull_policy", Text, Applied, "When its image is looked for: `missing`, `always` or `never`"),
        field(
            "pull_refresh_after",
            Text,
            Refused(
                "what runs is what the deploy found, until the next deploy",
                "deploy again, with `pull_policy: always`",
            ),
            "After which time the image is looked for again",
        ),
        field("read_only", Boolean, Applied, "Whether its root file system is read-only"),
        field(
            "restart",
            Text,
            Applied,
            "What happens when its container ends: `no`, `always`, `on-failure[:N]`, `unless-stopped`",
        ),
        field(
            "runtime",
            Text,
            Applied,
            "Which runtime runs it: the hosts' own engine, also by the name `runc`, or one that its host has in `runtimes` of `stackd.toml`",
        ),
        field("scale", Integer, Applied, "How many tasks run, as `deploy.replicas`"),
        field("secrets", List(&Shape::Either(&[Text, Mapping(&FILE_REFERENCE)])), Applied, "Secrets that it sees"),
        field(
            "security_opt",
            TEXTS,
            Applied,
            "`no-new-privileges`, `seccomp=unconfined`, `seccomp=FILE`, `apparmor=unconfined`, `apparmor=NAME`, `label=disable` and other options of SELinux's label, `systempaths=unconfined`",
        ),
        field("shm_size", Size, Applied, "The size of `/dev/shm`"),
        field("stdin_open", Boolean, Applied, "Standard input stays open"),
        field("stop_grace_period", Duration, Applied, "How long it may take to end"),
        field("stop_signal", Text, Applied, "The signal that asks it to end"),
        field(
            "storage_opt",
            FREE,
            Applied,
            "`size`: how much it may write, on hosts whose file system has project quotas (XFS with `pquota`, ext4 with `prjquota`)",
        ),
        field("sysctls", LIST_OR_MAPPING, Applied, "Kernel parameters of its namespaces"),
        field("tmpfs", TEXT_OR_LIST, Applied, "File systems in memory"),
        field("tty", Boolean, Applied, "Whether it has a terminal"),
        field("ulimits", ULIMITS, Applied, "Resource limits of its processes"),
        field(
            "use_api_socket",
            Boolean,
            Refused(
                "who can use the engine's socket is root on the host",
                "if that is meant, mount the socket as a volume",
            ),
            "Whether it may use the engine",
        ),
        field("user", Text, Applied, "The user that it runs as"),
        field(
            "userns_mode",
            Text,
            Applied,
            "Whose user namespace it has: one of its own, `private`, or that of the `host`; as its host is set unless said otherwise",
        ),
        field("uts", Text, Applied, "Whose host name it sees: its own or that of the `host`"),
        field("volumes", UniqueList(&Shape::Either(&[Text, Mapping(&MOUNT)])), Applied, "File systems that it sees"),
        field(
            "volumes_from",
            TEXTS,
            Refused(ONE_HOST, "name the volumes under `volumes` of both services"),
            "Services whose volumes it sees",
        ),
        field("working_dir", Text, Applied, "The directory that its command starts in"),
    ],
};

const EXTRA_HOSTS: Shape = Shape::Either(&[Entries(&Shape::Either(&[Text, List(&Text)])), UniqueList(&Text)]);

/// Limits by name.
const ULIMITS: Shape = Entries(&Shape::Either(&[Integer, Mapping(&ULIMIT)]));

static ULIMIT: Object = Object {
    noun: "a limit",
    required: &[],
    extensions: true,
    fields: &[
        field("hard", Integer, Applied, "To which a process may raise it"),
        field("soft", Integer, Applied, "What is in force"),
    ],
};

static EXTENDS: Object = Object {
    noun: "`extends`",
    required: &["service"],
    extensions: false,
    fields: &[
        field("service", Text, Applied, "The name of the other service"),
        field("file", Text, Applied, "The file that has it, where it is another"),
    ],
};

static DEPENDENCY: Object = Object {
    noun: "a dependency",
    required: &[],
    extensions: true,
    fields: &[
        field(
            "condition",
            Shape::Choice(&["service_started", "service_healthy", "service_completed_successfully"]),
            Applied,
            "What all tasks of the other service must have reached: `service_started`, `service_healthy` (it runs, where it has no health check) or `service_completed_successfully`",
        ),
        field(
            "required",
            Shape::StrictBoolean,
            Applied,
            "`false`: it is started all the same where the other service has failed for good or is not deployed",
        ),
        field(
            "restart",
            Boolean,
            Applied,
            "Whether a deploy that replaces the tasks of the other service replaces its own, too",
        ),
    ],
};

static ENV_FILE: Object = Object {
    noun: "an environment file",
    required: &["path"],
    extensions: false,
    fields: &[
        field("path", Text, Applied, "The file"),
        field("format", Text, Applied, "`raw`: values are taken as they are"),
        field("required", Boolean, Applied, "Whether the file must be there"),
    ],
};

static PORT: Object = Object {
    noun: "a port",
    required: &[],
    extensions: true,
    fields: &[
        field("name", Text, Applied, "A name for readers"),
        field(
            "mode",
            Text,
            Applied,
            "`ingress`: all tasks on a host have it together, on the hosts that run one; `host`: one task of a host has it alone",
        ),
        field("host_ip", Text, Applied, "The address of the hosts that it is published on"),
        field("target", Integer, Applied, "The port in the container"),
        field("published", Shape::TextOrNumber, Applied, "The port of the hosts, or a range"),
        field("protocol", Text, Applied, "`tcp`, `udp` or `sctp`"),
        field("app_protocol", Text, Applied, "What is spoken there, for readers"),
        field(
            "x-stack-proxy-protocol",
            Shape::Choice(&["v2"]),
            Applied,
            "`v2`: each connection begins with a header of the PROXY protocol, which says who asks, also to tasks on other hosts",
        ),
    ],
};

static MOUNT: Object = Object {
    noun: "a volume of a service",
    required: &["type"],
    extensions: true,
    fields: &[
        field(
            "type",
            Shape::Choice(&["bind", "volume", "tmpfs", "cluster", "npipe", "image"]),
            Applied,
            "`volume`, `bind`, `tmpfs` or `image`",
        ),
        field("source", Text, Applied, "The name of the volume, a path of the host, or an image"),
        field("target", Text, Applied, "Where it is in the container"),
        field("read_only", Boolean, Applied, "Whether it is read-only"),
        field("consistency", Text, Applied, "For macOS; means nothing on Linux"),
        field("bind", Mapping(&BIND), Applied, "For the type `bind`"),
        field("volume", Mapping(&VOLUME_OPTIONS), Applied, "For the type `volume`"),
        field("tmpfs", Mapping(&TMPFS), Applied, "For the type `tmpfs`"),
        field("image", Mapping(&IMAGE_OPTIONS), Applied, "For the type `image`"),
    ],
};

static BIND: Object = Object {
    noun: "`bind`",
    required: &[],
    extensions: true,
    fields: &[
        field("propagation", Text, Applied, "How mounts below it are passed on"),
        field("create_host_path", Boolean, Applied, "Whether a missing directory is made"),
        field(
            "recursive",
            Shape::Choice(&["enabled", "disabled", "writable", "readonly"]),
            Applied,
            "Whether what is mounted below it comes along: `enabled`, `disabled`, or along and `writable` or `readonly` where it is read-only",
        ),
        field(
            "selinux",
            Shape::Choice(&["z", "Z"]),
            Applied,
            "On hosts with SELinux: whether its files are labelled for all containers (`z`) or for the one alone (`Z`)",
        ),
    ],
};

static VOLUME_OPTIONS: Object = Object {
    noun: "`volume`",
    required: &[],
    extensions: true,
    fields: &[
        field("labels", LIST_OR_MAPPING, Applied, "Labels of the volume, if this is what makes it on a host"),
        field("nocopy", Boolean, Applied, "Whether the image's files are kept out of a new volume"),
        field("subpath", Text, Applied, "A directory within the volume"),
    ],
};

static TMPFS: Object = Object {
    noun: "`tmpfs`",
    required: &[],
    extensions: true,
    fields: &[
        field("size", Size, Applied, "How much it may hold"),
        field("mode", Shape::TextOrNumber, Applied, "The permissions of its root directory, octal"),
    ],
};

static IMAGE_OPTIONS: Object = Object {
    noun: "`image`",
    required: &[],
    extensions: true,
    fields: &[field("subpath", Text, Applied, "A path within the image")],
};

static DEVICE: Object = Object {
    noun: "a device",
    required: &["source"],
    extensions: true,
    fields: &[
        field("source", Text, Applied, "On the host"),
        field("target", Text, Applied, "In the container"),
        field("permissions", Text, Applied, "Any of `r`, `w`, `m`"),
    ],
};

static HEALTHCHECK: Object = Object {
    noun: "`healthcheck`",
    required: &[],
    extensions: true,
    fields: &[
        field("disable", Boolean, Applied, "Whether the image's check is switched off"),
        field("interval", Duration, Applied, "The time between two checks"),
        field("retries", Integer, Applied, "How many failures in a row make it unhealthy"),
        field(
            "test",
            Shape::Either(&[Text, List(&Text)]),
            Applied,
            "What is run: `[CMD, …]`, `[CMD-SHELL, …]`, `[NONE]` or a shell command",
        ),
        field("timeout", Duration, Applied, "After which a check has failed"),
        field("start_period", Duration, Applied, "The time after the start in which failures do not count"),
        field("start_interval", Duration, Applied, "The time between two checks in the start period"),
    ],
};

static LOGGING: Object = Object {
    noun: "`logging`",
    required: &[],
    extensions: true,
    fields: &[
        field("driver", Text, Applied, "Who keeps or takes the output; docs/logging.md has the drivers"),
        field(
            "options",
            Entries(&Shape::Either(&[Shape::TextOrNumber, Null])),
            Applied,
            "Options of the driver, also in docs/logging.md",
        ),
    ],
};

static NETWORK_REFERENCE: Object = Object {
    noun: "a network of a service",
    required: &[],
    extensions: true,
    fields: &[
        field("aliases", TEXTS, Applied, "Further names of the service there"),
        field("interface_name", Text, Applied, "The name of the interface in the container"),
        field("ipv4_address", Text, Applied, "The IPv4 address of a service's only task"),
        field("ipv6_address", Text, Applied, "The IPv6 address of a service's only task"),
        field("link_local_ips", TEXTS, LINK_LOCAL, "Link-local addresses"),
        field("mac_address", Text, MAC_ADDRESS, "The address of the interface"),
        field("driver_opts", DRIVER_OPTIONS, ENDPOINT_OPTIONS, "Options of the driver"),
        field(
            "priority",
            Number,
            Applied,
            "In which order networks are connected: interfaces on those with more come first",
        ),
        field("gw_priority", Number, Applied, "Which network has the default route: that with most"),
    ],
};

static FILE_REFERENCE: Object = Object {
    noun: "a reference to a config or secret",
    required: &[],
    extensions: true,
    fields: &[
        field("source", Text, Applied, "Its key at the top level"),
        field(
            "target",
            Text,
            Applied,
            "Where it is in the container: a secret that is not at an absolute path is below `/run/secrets`",
        ),
        field("uid", Text, Applied, "The number of the user whose it is"),
        field("gid", Text, Applied, "The number of the group whose it is"),
        field("mode", Shape::TextOrNumber, Applied, "Its permissions, octal; `0444` unless said otherwise"),
    ],
};

static HOOK: Object = Object {
    noun: "a hook",
    required: &[],
    extensions: true,
    fields: &[
        field("command", COMMAND, Applied, "What is run"),
        field("user", Text, Applied, "As which user"),
        field("privileged", Boolean, Applied, "With all capabilities"),
        field("working_dir", Text, Applied, "In which directory"),
        field("environment", LIST_OR_MAPPING, Applied, "With which variables"),
    ],
};

/// A hook that runs in a container of its own.
static HOOK_BEFORE: Object = Object {
    noun: "a hook",
    required: &[],
    extensions: true,
    fields: &[
        field("command", COMMAND, BEFORE, "What is run"),
        field("image", Text, BEFORE, "In which image, for `pre_start`"),
        field("user", Text, BEFORE, "As which user"),
        field("privileged", Boolean, BEFORE, "With all capabilities"),
        field("per_replica", Boolean, BEFORE, "Before each task and not once"),
        field("working_dir", Text, BEFORE, "In which directory"),
        field("environment", LIST_OR_MAPPING, BEFORE, "With which variables"),
    ],
};

static PROVIDER: Object = Object {
    noun: "a provider",
    required: &["type"],
    extensions: true,
    fields: &[
        field("type", Text, PROVIDED, "Which provider"),
        field("options", Entries(&Shape::Either(&[Shape::Scalar, List(&Shape::Scalar)])), PROVIDED, "Its options"),
    ],
};

static MODEL_REFERENCE: Object = Object {
    noun: "a model of a service",
    required: &[],
    extensions: true,
    fields: &[
        field("endpoint_var", Text, MODELS, "The variable for its address"),
        field("model_var", Text, MODELS, "The variable for its name"),
    ],
};

static CREDENTIAL_SPEC: Object = Object {
    noun: "`credential_spec`",
    required: &[],
    extensions: true,
    fields: &[
        field("config", Text, WINDOWS, "The config that has it"),
        field("file", Text, WINDOWS, "The file that has it"),
        field("registry", Text, WINDOWS, "The registry key that has it"),
    ],
};

static DEVELOP: Object = Object {
    noun: "`develop`",
    required: &[],
    extensions: true,
    fields: &[field("watch", List(&Mapping(&WATCH)), Noted(DEVELOP_NOTE), "Which changed files do what")],
};

static WATCH: Object = Object {
    noun: "a watch rule",
    required: &["path", "action"],
    extensions: true,
    fields: &[
        field("ignore", TEXT_OR_LIST, Noted(DEVELOP_NOTE), "Files to leave out"),
        field("include", TEXT_OR_LIST, Noted(DEVELOP_NOTE), "Files to watch"),
        field("path", Text, Noted(DEVELOP_NOTE), "Where to watch"),
        field(
            "action",
            Shape::Choice(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"]),
            Noted(DEVELOP_NOTE),
            "What a change does",
        ),
        field("target", Text, Noted(DEVELOP_NOTE), "Where files are copied to"),
        field("exec", Mapping(&WATCH_EXEC), Noted(DEVELOP_NOTE), "What is run after files were copied"),
        field("initial_sync", Boolean, Noted(DEVELOP_NOTE), "Whether files are copied at the start"),
    ],
};

/// As a hook, which is not run here.
static WATCH_EXEC: Object = Object {
    noun: "a command of a watch rule",
    required: &[],
    extensions: true,
    fields: &[
        field("command", COMMAND, Noted(DEVELOP_NOTE), "What is run"),
        field("user", Text, Noted(DEVELOP_NOTE), "As which user"),
        field("privileged", Boolean, Noted(DEVELOP_NOTE), "With all capabilities"),
        field("working_dir", Text, Noted(DEVELOP_NOTE), "In which directory"),
        field("environment", LIST_OR_MAPPING, Noted(DEVELOP_NOTE), "With which variables"),
    ],
};

/// A secret of a build.
static BUILD_SECRET: Object = Object {
    noun: "a secret of a build",
    required: &[],
    extensions: true,
    fields: &[
        field("source", Text, BUILT, "Its key at the top level"),
        field("target", Text, BUILT, "Where it is in the build"),
        field("uid", Text, BUILT, "Whose it is"),
        field("gid", Text, BUILT, "Which group's it is"),
        field("mode", Shape::TextOrNumber, BUILT, "Its permissions, octal"),
    ],
};

static BUILD: Object = Object {
    noun: "`build`",
    required: &[],
    extensions: true,
    fields: &[
        field("context", Text, BUILT, "The directory or address of what is built"),
        field("dockerfile", Text, BUILT, "The Dockerfile in it"),
        field("dockerfile_inline", Text, BUILT, "The Dockerfile itself"),
        field("entitlements", List(&Text), BUILT, "What the build may do"),
        field("args", LIST_OR_MAPPING, BUILT, "Variables of the build"),
        field("ssh", Shape::Either(&[LIST_OR_MAPPING, Text]), BUILT, "SSH agents and keys that the build may use"),
        field("labels", LIST_OR_MAPPING, BUILT, "Labels of the image"),
        field("cache_from", List(&Text), BUILT, "Where cached layers come from"),
        field("cache_to", List(&Text), BUILT, "Where cached layers go"),
        field("no_cache", Boolean, BUILT, "Build all anew"),
        field("no_cache_filter", TEXT_OR_LIST, BUILT, "Stages to build anew"),
        field("additional_contexts", LIST_OR_MAPPING, BUILT, "Further contexts by name"),
        field("network", Text, BUILT, "Which network the build has"),
        field("provenance", Shape::Either(&[Text, Boolean]), BUILT, "Whether a provenance attestation is added"),
        field("sbom", Shape::Either(&[Text, Boolean]), BUILT, "Whether a bill of materials is added"),
        field("pull", Boolean, BUILT, "Look for newer base images"),
        field("target", Text, BUILT, "Which stage is built"),
        field("shm_size", Size, BUILT, "The size of `/dev/shm` in the build"),
        field("extra_hosts", EXTRA_HOSTS, BUILT, "Lines for `/etc/hosts` in the build"),
        field("isolation", Text, BUILT, "How the build is kept apart"),
        field("privileged", Boolean, BUILT, "All capabilities for the build"),
        field("secrets", List(&Shape::Either(&[Text, Mapping(&BUILD_SECRET)])), BUILT, "Secrets of the build"),
        field("tags", List(&Text), BUILT, "Further names of the image"),
        field("ulimits", ULIMITS, BUILT, "Limits of the build"),
        field("platforms", List(&Text), BUILT, "For which platforms"),
    ],
};

static BLKIO: Object = Object {
    noun: "`blkio_config`",
    required: &[],
    extensions: false,
    fields: &[
        field("device_read_bps", List(&Mapping(&BLKIO_LIMIT)), Applied, "Bytes read per second"),
        field("device_read_iops", List(&Mapping(&BLKIO_LIMIT)), Applied, "Reads per second"),
        field("device_write_bps", List(&Mapping(&BLKIO_LIMIT)), Applied, "Bytes written per second"),
        field("device_write_iops", List(&Mapping(&BLKIO_LIMIT)), Applied, "Writes per second"),
        field("weight", Integer, BLKIO_WEIGHT_NOTE, "Its weight, from 10 to 1000"),
        field("weight_device", List(&Mapping(&BLKIO_WEIGHT)), BLKIO_WEIGHT_NOTE, "Its weight on single devices"),
    ],
};

static BLKIO_LIMIT: Object = Object {
    noun: "a limit of a device",
    required: &[],
    extensions: false,
    fields: &[field("path", Text, Applied, "The device"), field("rate", Shape::TextOrNumber, Applied, "The limit")],
};

static BLKIO_WEIGHT: Object = Object {
    noun: "a weight of a device",
    required: &[],
    extensions: false,
    fields: &[
        field("path", Text, Applied, "The device"),
        field("weight", Integer, Applied, "The weight, from 10 to 1000"),
    ],
};
