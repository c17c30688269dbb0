//! Pure. The keys at the top of a stack file, and those of networks, volumes, configs, secrets, models and includes.

use super::Shape::{self, Boolean, Entries, Integer, List, Named, Null, Object as Mapping, Text};
use super::Support::{Applied, Noted, Refused};
use super::service::{MODELS, SERVICE};
use super::{DRIVER_OPTIONS, LIST_OR_MAPPING, Object, TEXT_OR_LIST, field};

const SECRET_DRIVER: Support = Refused(
    "the cluster keeps its secrets itself, and drives no other store",
    "remove it, and give the secret a `file`, an `environment` variable, or `external: true`",
);
const NETWORK_LABELS_NOTE: &str = "networks do not keep labels yet; nothing shows them or selects by them";
/// What to do where a volume is meant to be more than a directory of its host.
pub(crate) const VOLUME_OF_ITS_HOST: &str = "leave it out: a volume is a directory of its host; mount other storage on the hosts and give its absolute path (`/mnt/data:/data`)";
const GATEWAY: Support = Refused(
    "each host has an address of its own on the network, which is the gateway of its containers",
    "leave it out",
);
const IP_RANGE: Support = Refused(
    "hosts, services and tasks draw from one row of addresses, and nobody else is on a network between hosts",
    "leave it out, and give the network the `subnet` that it is to have",
);
const IPAM_OPTIONS: Support = Refused("the cluster gives out addresses, and has no options for it", "leave it out");

/// The whole file.
pub(crate) static STACK: Object = Object {
    noun: "a stack file",
    required: &[],
    extensions: true,
    fields: &[
        field("version", Text, Applied, "Obsolete; means nothing"),
        field("name", Text, Applied, "The name of the stack"),
        field(
            "include",
            List(&Shape::Either(&[Text, Mapping(&INCLUDE)])),
            Applied,
            "Further stack files to be part of this one",
        ),
        field("services", Named(&Shape::Either(&[Mapping(&SERVICE), Null])), Applied, "What runs"),
        field("models", Named(&Mapping(&MODEL)), MODELS, "Language models that services use"),
        field(
            "networks",
            Named(&Shape::Either(&[Mapping(&NETWORK), Null])),
            Applied,
            "Networks that join tasks on all hosts",
        ),
        field(
            "volumes",
            Named(&Shape::Either(&[Mapping(&VOLUME), Null])),
            Applied,
            "Volumes that tasks on one host share",
        ),
        field("secrets", Named(&Mapping(&SECRET)), Applied, "Secrets that services use"),
        field("configs", Named(&Mapping(&CONFIG)), Applied, "Configuration files that services use"),
    ],
};

static INCLUDE: Object = Object {
    noun: "an include",
    required: &[],
    extensions: false,
    fields: &[
        field("path", TEXT_OR_LIST, Applied, "The file, or several of which the later change the earlier"),
        field("env_file", TEXT_OR_LIST, Applied, "Variables for the included files"),
        field("project_directory", Text, Applied, "From where the relative paths of the included files are resolved"),
    ],
};

const EXTERNAL: Shape = Shape::Either(&[Boolean, Mapping(&EXTERNAL_NAME)]);

static EXTERNAL_NAME: Object = Object {
    noun: "`external`",
    required: &[],
    extensions: true,
    fields: &[field("name", Text, Applied, "Obsolete: write `name` beside `external: true`")],
};

static NETWORK: Object = Object {
    noun: "a network",
    required: &[],
    extensions: true,
    fields: &[
        field("name", Text, Applied, "Its name in the cluster, in place of STACK_KEY"),
        field("driver", Text, Applied, "`overlay` or `bridge`: either joins the hosts that run tasks on it"),
        field(
            "driver_opts",
            DRIVER_OPTIONS,
            Applied,
            "`com.docker.network.driver.mtu`: the size of its packets, in bytes; `encrypted`: as `x-stack-encrypted`",
        ),
        field(
            "x-stack-encrypted",
            Boolean,
            Applied,
            "Whether what it sends between hosts is encrypted (WireGuard); left out: as `stack cluster init` was told",
        ),
        field("ipam", Mapping(&IPAM), Applied, "Which addresses it has"),
        field(
            "external",
            EXTERNAL,
            Applied,
            "It is there without this stack: made with `stack network create`, or another stack's",
        ),
        field("internal", Boolean, Applied, "Its containers reach nothing outside"),
        field(
            "enable_ipv4",
            Boolean,
            Applied,
            "Whether it has IPv4 addresses: `false` needs `enable_ipv6: true`, and its services' ports answer over IPv6 alone",
        ),
        field("enable_ipv6", Boolean, Applied, "Whether it has IPv6 addresses"),
        field("attachable", Boolean, Applied, "Containers of no stack may join, as by `docker run --network`"),
        field("labels", LIST_OR_MAPPING, Noted(NETWORK_LABELS_NOTE), "Labels of the network"),
    ],
};

static IPAM: Object = Object {
    noun: "`ipam`",
    required: &[],
    extensions: true,
    fields: &[
        field("driver", Text, Applied, "Who gives out addresses: `default`, the cluster"),
        field("config", List(&Mapping(&IPAM_CONFIG)), Applied, "Its subnets: at most one of IPv4 and one of IPv6"),
        field("options", Entries(&Text), IPAM_OPTIONS, "Options of the driver"),
    ],
};

static IPAM_CONFIG: Object = Object {
    noun: "a range of addresses",
    required: &[],
    extensions: true,
    fields: &[
        field("subnet", Text, Applied, "All addresses of the network, such as `10.5.0.0/16`"),
        field("ip_range", Text, IP_RANGE, "Those that containers get"),
        field("gateway", Text, GATEWAY, "The address of the hosts"),
        field("aux_addresses", Entries(&Text), IP_RANGE, "Addresses that are taken"),
    ],
};

static VOLUME: Object = Object {
    noun: "a volume",
    required: &[],
    extensions: true,
    fields: &[
        field("name", Text, Applied, "Its name on the hosts, in place of STACK_KEY"),
        field("driver", Text, Applied, "Who stores it: `local`, the host itself"),
        field(
            "driver_opts",
            DRIVER_OPTIONS,
            Applied,
            "What is mounted in place of a directory of the host: `type`, `device` and `o`, as for Docker's `local` driver",
        ),
        field(
            "external",
            EXTERNAL,
            Applied,
            "It was made by somebody else: on a host without it a task fails until it is there",
        ),
        field("labels", LIST_OR_MAPPING, Applied, "Labels of the volume on the hosts that make it"),
    ],
};

const FILE_NAME: &str = "Its name in the cluster, in place of STACK_KEY";
const FILE_EXTERNAL_NOTE: &str = "It was made by hand beforehand";
const TEMPLATE: &str = "`golang`: templates such as `{{.Node.Hostname}}` in it are filled in for each task";

static SECRET: Object = Object {
    noun: "a secret",
    required: &[],
    extensions: true,
    fields: &[
        field("name", Text, Applied, FILE_NAME),
        field("environment", Text, Applied, "The variable that holds it, of the command that deploys"),
        field("file", Text, Applied, "The file that holds it, on the computer that deploys"),
        field("external", EXTERNAL, Applied, FILE_EXTERNAL_NOTE),
        field("labels", LIST_OR_MAPPING, Applied, "Labels of the secret"),
        field("driver", Text, SECRET_DRIVER, "Who stores it"),
        field("driver_opts", DRIVER_OPTIONS, SECRET_DRIVER, "Options of the driver"),
        field("template_driver", Text, Applied, TEMPLATE),
    ],
};

static CONFIG: Object = Object {
    noun: "a config",
    required: &[],
    extensions: true,
    fields: &[
        field("name", Text, Applied, FILE_NAME),
        field("content", Text, Applied, "What it says"),
        field("environment", Text, Applied, "The variable that holds it, of the command that deploys"),
        field("file", Text, Applied, "The file that holds it, on the computer that deploys"),
        field("external", EXTERNAL, Applied, FILE_EXTERNAL_NOTE),
        field("labels", LIST_OR_MAPPING, Applied, "Labels of the config"),
        field("template_driver", Text, Applied, TEMPLATE),
    ],
};

static MODEL: Object = Object {
    noun: "a model",
    required: &["model"],
    extensions: true,
    fields: &[
        field("name", Text, MODELS, "Its name"),
        field("model", Text, MODELS, "Which model"),
        field("context_size", Integer, MODELS, "How much it takes in"),
        field("runtime_flags", List(&Text), MODELS, "Flags of its server"),
    ],
};

/// Why a key that only works on one host is refused.
pub(crate) const ONE_HOST: &str = "the two containers would have to be on the same host";
/// The support of keys for Windows containers.
pub(crate) const WINDOWS: Support = Refused("it is for Windows containers, and hosts run Linux", "remove it");

use super::Support;
