//! Pure. The keys under `deploy`.

use super::Shape::{self, Duration, Entries, Integer, List, Number, Object as Mapping, Size, Text};
use super::Support::{Applied, Refused};
use super::{LIST_OR_MAPPING, Object, Support, TEXTS, field};

/// Why drivers of devices have no options.
const DEVICE_OPTIONS: Support = Refused(
    "what a device is and how it is used is told by its description on the hosts",
    "leave the options out; set what the vendor's programs read, such as `NVIDIA_DRIVER_CAPABILITIES`, under `environment`",
);
const GENERIC: Support = Refused(
    "hosts declare no resources beside processors and memory",
    "label the hosts that have the resource (`stack node label`), and use a placement constraint with `max_replicas_per_node`",
);

/// `deploy`.
pub(crate) static DEPLOY: Object = Object {
    noun: "`deploy`",
    required: &[],
    extensions: true,
    fields: &[
        field(
            "mode",
            Text,
            Applied,
            "`replicated` (the default): so many tasks as `replicas` says; `global`: one on each host",
        ),
        field(
            "endpoint_mode",
            Text,
            Applied,
            "What the service's name means on its networks: `vip` (the default), one virtual address for all its tasks; `dnsrr`, the addresses of the tasks",
        ),
        field(
            "x-stack-session-affinity",
            Text,
            Applied,
            "`none` (the default); `client-ip`: a client, by its address, is sent to the same task as long as that serves",
        ),
        field("replicas", Integer, Applied, "How many tasks run"),
        field("labels", LIST_OR_MAPPING, Applied, "Labels of the service, not of its containers"),
        field("rollback_config", Mapping(&ROLLBACK_CONFIG), Applied, "How a failed update is undone"),
        field("update_config", Mapping(&UPDATE_CONFIG), Applied, "How a changed service replaces its tasks"),
        field("resources", Mapping(&RESOURCES), Applied, "What each task may use, and what its host keeps free for it"),
        field("restart_policy", Mapping(&RESTART_POLICY), Applied, "What happens when a container ends"),
        field("placement", Mapping(&PLACEMENT), Applied, "On which hosts tasks may run"),
    ],
};

static ROLLBACK_CONFIG: Object = Object {
    noun: "`rollback_config`",
    required: &[],
    extensions: true,
    fields: &[
        field("parallelism", Integer, Applied, "How many tasks are rolled back at once; 0 is all"),
        field("delay", Duration, Applied, "The time between two batches"),
        field("failure_action", Text, Applied, "What to do when the rollback fails: `pause` or `continue`"),
        field("monitor", Duration, Applied, "How long each task is watched for failure"),
        field("max_failure_ratio", Number, Applied, "Which share of failures is tolerated"),
        field("order", ORDER, Applied, "Whether the old or the new task comes first"),
    ],
};

const ORDER: Shape = Shape::Choice(&["start-first", "stop-first"]);

static UPDATE_CONFIG: Object = Object {
    noun: "`update_config`",
    required: &[],
    extensions: true,
    fields: &[
        field("parallelism", Integer, Applied, "How many tasks are replaced at once; 0 is all"),
        field("delay", Duration, Applied, "The time between two batches"),
        field(
            "failure_action",
            Text,
            Applied,
            "What to do when too many new tasks fail: `pause`, `continue` or `rollback`",
        ),
        field("monitor", Duration, Applied, "How long each new task is watched for failure"),
        field("max_failure_ratio", Number, Applied, "Which share of new tasks may fail, from 0 to 1"),
        field("order", ORDER, Applied, "Whether the old task ends first or the new one starts first"),
    ],
};

static RESOURCES: Object = Object {
    noun: "`resources`",
    required: &[],
    extensions: true,
    fields: &[
        field("limits", Mapping(&LIMITS), Applied, "What each task may use at most"),
        field("reservations", Mapping(&RESERVATIONS), Applied, "What its host keeps free for each task"),
    ],
};

static LIMITS: Object = Object {
    noun: "`limits`",
    required: &[],
    extensions: true,
    fields: &[
        field("cpus", Number, Applied, "Processors, such as `0.5`"),
        field("memory", Size, Applied, "Memory, such as `512m`"),
        field("pids", Integer, Applied, "Processes and threads"),
    ],
};

static RESERVATIONS: Object = Object {
    noun: "`reservations`",
    required: &[],
    extensions: true,
    fields: &[
        field("cpus", Number, Applied, "Processors, such as `0.5`"),
        field("memory", Size, Applied, "Memory, such as `512m`"),
        field("generic_resources", List(&Mapping(&GENERIC_RESOURCE)), GENERIC, "Resources that the hosts declare"),
        field(
            "devices",
            List(&Mapping(&DEVICE_REQUEST)),
            Applied,
            "Devices such as GPUs, on hosts that are chosen by `placement`",
        ),
    ],
};

static GENERIC_RESOURCE: Object = Object {
    noun: "a generic resource",
    required: &[],
    extensions: true,
    fields: &[field("discrete_resource_spec", Mapping(&DISCRETE_RESOURCE), GENERIC, "A resource that is counted")],
};

static DISCRETE_RESOURCE: Object = Object {
    noun: "`discrete_resource_spec`",
    required: &[],
    extensions: true,
    fields: &[
        field("kind", Text, GENERIC, "The name of the resource"),
        field("value", Number, GENERIC, "How many of it"),
    ],
};

/// A request for devices, of which one of the two keys must be there: checked with the values.
pub(crate) static DEVICE_REQUEST: Object = Object {
    noun: "a device request",
    required: &[],
    extensions: true,
    fields: &[
        field("capabilities", TEXTS, Applied, "What the device must be able to do: `gpu`"),
        field("count", Shape::TextOrNumber, Applied, "How many, from the first on, or `all`"),
        field("device_ids", TEXTS, Applied, "Which ones"),
        field("driver", Text, Applied, "`nvidia`, or `cdi` for any device by its whole name"),
        field("options", LIST_OR_MAPPING, DEVICE_OPTIONS, "Options of the driver"),
    ],
};

static RESTART_POLICY: Object = Object {
    noun: "`restart_policy`",
    required: &[],
    extensions: true,
    fields: &[
        field("condition", Text, Applied, "After which ends it starts again: `any`, `on-failure` or `none`"),
        field("delay", Duration, Applied, "The time before it starts again"),
        field("max_attempts", Integer, Applied, "After how many attempts the task has failed"),
        field("window", Duration, Applied, "The time in which attempts are counted"),
    ],
};

static PLACEMENT: Object = Object {
    noun: "`placement`",
    required: &[],
    extensions: true,
    fields: &[
        field("constraints", List(&Text), Applied, "Conditions that a host must meet: `node.labels.disk == ssd`"),
        field("preferences", List(&Mapping(&PREFERENCE)), Applied, "How tasks are spread over the hosts"),
        field("max_replicas_per_node", Integer, Applied, "At most so many tasks on one host"),
    ],
};

static PREFERENCE: Object = Object {
    noun: "a placement preference",
    required: &[],
    extensions: true,
    fields: &[field("spread", Text, Applied, "Evenly over the values of this attribute: `node.labels.zone`")],
};

/// Free keys to values of any kind.
pub(crate) const FREE: Shape = Entries(&Shape::Any);
