//! Pure. The kinds of diagnostics. A code is a promise: it keeps its number and its meaning.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::diagnostic::Severity;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $severity:ident, $explanation:literal;)*) => {
        /// What kind of problem a diagnostic tells of.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// `E0301`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether a file with such a problem can be deployed.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }

            /// What it means, why it is so, and what to do: some sentences for a newcomer.
            #[must_use]
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => $explanation,)* }
            }
        }
    };
}

codes! {
    /// A file could not be read.
    Unreadable = "E0101", Error, "A file that the stack needs (the stack file itself, an `env_file`, an `include`, an `extends.file`, a seccomp profile) could not be read.\n\nRelative names are looked up from the directory of the first stack file. Check the spelling and that the file is in the project; an `env_file` that may be missing is written with `required: false`.";
    /// The text is not YAML.
    Syntax = "E0102", Error, "The text is not valid YAML, so nothing after this place could be understood.\n\nThe usual causes: a tab in the indentation (YAML wants spaces), a key without the space after its colon (`image:nginx`), an unclosed quote or bracket, or a value that begins with a special character such as `*`, `&`, `!`, `%`, `@` or a backquote and needs quotes.";
    /// The same key twice in one mapping.
    DuplicateKey = "E0103", Error, "One mapping has the same key twice. Only one value can count, and other tools differ in which one they take.\n\nRemove or rename one of them. Two services need two names; two values of one attribute belong in one list.";
    /// Nested too deeply.
    TooDeep = "E0104", Error, "The file is nested more deeply than any stack file needs. This is refused so that a hostile file cannot exhaust memory.";
    /// Aliases that expand to too much.
    TooLarge = "E0105", Error, "The file is too large, or its aliases (`*name`) expand to far more than what is written. This is refused so that a hostile file cannot exhaust memory.\n\nA stack file may have 4 MiB, and may expand to 150,000 keys and values and to 32 MiB of text.";
    /// A key that is no text.
    KeyNotText = "E0106", Error, "A key of a mapping is a number, a boolean, a list or empty, where the name of something is expected.\n\nA name that looks like a number needs quotes: `\"123\":`.";
    /// The document is not a mapping.
    NotAMapping = "E0107", Error, "A stack file is a mapping of keys such as `services:` and `volumes:` to their values. This one is a list or a single value.";
    /// A tag that means nothing here.
    UnknownTag = "E0108", Error, "The YAML tag (`!something`) in front of this value has no meaning in a stack file.\n\nKnown are `!reset` and `!override`, which change how files are merged, and YAML's own `!!str`, `!!int`, `!!float`, `!!bool`, `!!null`, `!!map`, `!!seq`.";
    /// `<<` with something that is no mapping.
    BadMergeKey = "E0109", Error, "The merge key `<<` takes an alias of a mapping, or a list of such aliases: `<<: *defaults`.";
    /// More problems than are shown.
    TooManyProblems = "E0199", Error, "Only the first problems of a file are shown. Correct them and check again.";

    /// A variable reference that cannot be read.
    BadTemplate = "E0201", Error, "A `$` in a value begins a variable: `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:?message}`, `${NAME?message}`, `${NAME:+replacement}`, `${NAME+replacement}`. This one is none of these.\n\nA dollar sign that is meant literally, such as in a password or a shell command, is written twice: `$$`.";
    /// `${NAME:?message}` without a value.
    RequiredVariable = "E0202", Error, "The stack file says that this variable must have a value (`${NAME:?…}`), and it has none.\n\nSet it in the environment of the command, in the file `.env` beside the stack file, or in a file given with `--env-file`.";
    /// An unset variable.
    UnsetVariable = "E0251", Warning, "A variable without a default is not set, so an empty text takes its place, as Docker Compose does.\n\nSet the variable, give it a default (`${NAME:-default}`), demand it (`${NAME:?message}`), or write `$$` for a dollar sign that is meant literally.";

    /// A key that does not exist here.
    UnknownKey = "E0301", Error, "The Compose Specification knows no such key at this place. It is refused and not ignored, because a misspelt key would silently do nothing.\n\nThe usual causes: a spelling mistake, or an indentation that puts the key under the wrong parent. Keys of your own begin with `x-`.";
    /// A value of the wrong type.
    WrongType = "E0302", Error, "The value has another type than this key takes: a list where a mapping is expected, a number where a text is, and so on.\n\nA text that looks like a number or a boolean needs quotes: `\"1.10\"`, `\"yes\"`.";
    /// A key that must be there.
    MissingKey = "E0303", Error, "This mapping means nothing without the named key.";
    /// Not one of the allowed values.
    NotAllowed = "E0304", Error, "This key takes one of a few fixed values, which the message lists.";
    /// The same item twice.
    DuplicateItem = "E0305", Warning, "The same item is in this list twice. It counts once, as for Docker Compose; one of them is superfluous or misspelt.";
    /// A name with characters that names cannot have.
    BadName = "E0306", Error, "Names of services, networks, volumes, configs and secrets may have letters, digits, `.`, `_` and `-`. The name of a stack may have lower-case letters, digits, `_` and `-`, and begins with a letter or a digit. None is longer than 63 characters.";
    /// A port that cannot be read.
    BadPort = "E0310", Error, "A port is written `CONTAINER`, `HOST:CONTAINER` or `ADDRESS:HOST:CONTAINER`, each with `/udp` or `/sctp` where it is not TCP. Ranges such as `8000-8010:80-90` must have the same length on both sides. Ports are numbers from 1 to 65535.";
    /// A short volume that cannot be read.
    BadVolume = "E0311", Error, "A volume is written `TARGET`, `SOURCE:TARGET` or `SOURCE:TARGET:OPTIONS`. The source is a path (then it is a directory of the host) or the name of a volume; the target is an absolute path in the container; options are `ro`, `rw`, `nocopy`, `z`, `Z`, `cached`, `delegated`, `consistent` and propagations such as `rslave`, separated by commas.";
    /// A duration that cannot be read.
    BadDuration = "E0312", Error, "A duration is numbers with units: `10s`, `1m30s`, `250ms`, `1.5h`. The units are `us`, `ms`, `s`, `m` and `h`.";
    /// A size that cannot be read.
    BadSize = "E0313", Error, "A size is a number of bytes, or a number with a unit: `512k`, `64m`, `1.5g`, also `mb` and `MiB`. Every unit is a power of 1024.";
    /// A number out of its range.
    OutOfRange = "E0314", Error, "The number is outside of what this key can mean; the message says the range.";
    /// An address that cannot be read.
    BadAddress = "E0315", Error, "An IPv4 or IPv6 address is expected, such as `192.0.2.7` or `2001:db8::7`.";
    /// A command line that cannot be split.
    BadCommandLine = "E0316", Error, "A command given as one text is split into words as a shell does it, and a quote or a backslash in this one has no end.\n\nClose the quote, or write the command as a list: `[\"sh\", \"-c\", \"echo hi\"]`.";
    /// A device that cannot be read.
    BadDevice = "E0318", Error, "A device is written `HOST-PATH`, `HOST-PATH:CONTAINER-PATH` or `HOST-PATH:CONTAINER-PATH:PERMISSIONS`; permissions are any of `r`, `w` and `m`. A device that the hosts know by a description of its vendor is written `VENDOR/CLASS=NAME`, or is requested under `gpus` or `deploy.resources.reservations.devices`: from the driver `nvidia` by `count` or `device_ids`, from the driver `cdi` by whole names under `device_ids`.";
    /// An entry of `extra_hosts` that cannot be read.
    BadHostEntry = "E0320", Error, "An entry of `extra_hosts` is `NAME=ADDRESS` or `NAME:ADDRESS`.";
    /// A placement constraint that cannot be read.
    BadConstraint = "E0321", Error, "A placement constraint is `ATTRIBUTE == VALUE` or `ATTRIBUTE != VALUE`. Attributes are `node.id`, `node.hostname`, `node.ip`, `node.role`, `node.platform.os`, `node.platform.arch`, `node.labels.KEY` and `engine.labels.KEY`.";
    /// A path that must be absolute.
    NotAbsolute = "E0322", Error, "A path in a container is absolute: it begins with `/`.";
    /// A text that this key cannot take.
    BadValue = "E0323", Error, "The text cannot be read as what this key takes; the message says what is expected.";
    /// A secret or config that holds too much.
    TooMuchContent = "E0324", Error, "A secret or a config holds at most 500 KiB, and all of a stack together at most 4 MiB: they are kept by every controller and sent to each host that needs them.\n\nPut large files into an image, or on a volume.";

    /// `extends` of a service that is not there.
    ExtendsUnknown = "E0401", Error, "`extends` names a service that the file does not have. The service is looked up in `extends.file`, or in the same file where none is given.";
    /// Services that extend each other.
    ExtendsCycle = "E0402", Error, "Services extend each other in a circle, so none of them has a definition to begin with.";
    /// Files that include each other.
    IncludeCycle = "E0403", Error, "Files include each other in a circle, so there is no first one. Remove one of the includes, or move what both need to a third file.";
    /// An included file that defines what is defined already.
    IncludeConflict = "E0404", Error, "An included file defines something that is defined differently elsewhere. What is included cannot be changed by the file that includes it.\n\nRename one of them, or include a list of files of which the later change the earlier: `include: [{path: [base.yml, changes.yml]}]`.";
    /// An environment file that cannot be read.
    BadEnvironmentFile = "E0405", Error, "A line of an environment file is not `NAME=VALUE`.\n\nValues may be in single quotes (nothing is replaced in them) or double quotes (`\\n` and variables are replaced); a quote must be closed; a comment after a value needs a space before its `#`.";

    /// A service with nothing to run.
    NothingToRun = "E0501", Error, "A service needs an `image`: there is nothing to run otherwise.";
    /// A reference to something that the file does not define.
    Undefined = "E0502", Error, "A service refers to a network, volume, config, secret or service that the stack file does not define.\n\nDefine it under the key of that name at the top level, even if empty (`volumes: {data: }`), or correct the name.";
    /// Services that depend on each other.
    DependencyCycle = "E0506", Error, "Services depend on each other in a circle, so none of them could be first.";
    /// Two keys that contradict each other.
    Conflict = "E0507", Error, "Two keys contradict each other, or cannot be used together; the message names both. Remove one.";
    /// The name of the stack is missing or impossible.
    StackName = "E0511", Error, "A stack needs a name of lower-case letters, digits, `_` and `-` that begins with a letter or a digit.\n\nIt is taken from the command line, else from the variable COMPOSE_PROJECT_NAME, else from `name:` in the stack file, else from the name of the directory.";
    /// No service at all.
    NoServices = "E0512", Error, "The file has no services, or none that the chosen profiles enable: there is nothing to deploy.";

    /// A capability that is not built yet.
    NotSupportedYet = "E0601", Error, "The key is part of the Compose Specification, and this version of stack cannot do it yet. It is refused and not ignored, so that nothing runs otherwise than the file says.\n\nThe hint says what to do instead.";
    /// Something that has no meaning in a cluster.
    Refused = "E0602", Error, "The key is part of the Compose Specification, but has no meaning on a group of hosts, or cannot be done there safely. It is refused and not ignored. The hint says what to do instead.";
    /// A path of the host that is relative.
    RelativeBind = "E0603", Error, "A service mounts a directory relative to the stack file. The file is on the computer that deploys; the container runs on some host of the cluster, where that directory is not.\n\nUse a named volume for data, build files into the image, or give an absolute path that is on every host that may run the service.";

    /// A version that Docker's deployer does not know; only with `--docker-stack`.
    DockerStackVersion = "E0604", Error, "The file is to be one that `docker stack deploy` takes, too (`stack check --docker-stack`), and that takes only files of version 3 to 3.13, or without a version. Here, and for Docker Compose, the key means nothing.";
    /// Versions that differ; only with `--docker-stack`.
    DockerStackVersions = "E0605", Error, "The files are to be ones that `docker stack deploy` takes, too (`stack check --docker-stack`), and that takes several files together only if they have the same version. Here, and for Docker Compose, the key means nothing.";

    /// A key that is accepted with a remark.
    Noted = "E0901", Warning, "The key is accepted, but does not do all that it does for Docker Compose on one host; the message says what does not happen. Each is said once, however often the key is there.";
    /// A number where a text is meant.
    NumberAsText = "E0902", Warning, "The value has no quotes and looks like a number, so YAML reads it as one: `1.10` becomes `1.1`, `0644` becomes `420`, `1_000` becomes `1000`.\n\nPut it in quotes if it is meant as a text.";
    /// `yes` as a boolean.
    OldBoolean = "E0903", Warning, "`yes`, `no`, `on`, `off`, `y` and `n` are booleans in YAML 1.1 only. They are read as booleans here, as Docker Compose does.\n\nWrite `true` or `false`.";
    /// An image without a version.
    FloatingTag = "E0904", Warning, "The image has no tag, or the tag `latest`, so each deploy may bring another version. Within one deploy all hosts run the same image: the tag is pinned to a digest.\n\nName a version: `nginx:1.27`.";
    /// The obsolete key `version`.
    ObsoleteVersion = "E0905", Warning, "The key `version` is obsolete and means nothing any more. Remove it.";
    /// The trap of sexagesimal numbers.
    PortNeedsQuotes = "E0906", Warning, "A port mapping such as `22:22` without quotes is a number to the base of sixty for YAML 1.1 readers: other tools may read `1342`.\n\nPut port mappings in quotes.";
    /// A dollar sign that was probably meant literally.
    DollarInSecret = "E0907", Warning, "A value that looks like a password has a `$` that begins a variable, and the variable is not set.\n\nA dollar sign that is meant literally is written twice: `$$`.";
    /// An option of a short volume that nobody knows.
    UnknownOption = "E0908", Warning, "A short volume has an option after its second colon that is not known. It does nothing, as for Docker Compose.\n\nKnown are `ro`, `rw`, `nocopy`, `z`, `Z`, `cached`, `delegated`, `consistent` and propagations such as `rslave`.";
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The page of the documentation that explains every code.
#[must_use]
pub fn codes_page() -> String {
    let mut page = String::from(
        "# What a stack file can be told\n\nThis page is generated from the texts of `stack explain`; a test keeps the two equal. \
         A code keeps its number and its meaning.\n",
    );
    for code in Code::ALL {
        page.push_str(&format!("\n## {code} ({})\n\n{}\n", code.severity(), code.explanation()));
    }
    page
}

/// The explanation of a code such as `E0301` (upper or lower case), for `stack explain`.
#[must_use]
pub fn explain(code: &str) -> Option<&'static str> {
    Code::ALL.iter().find(|known| known.as_str().eq_ignore_ascii_case(code)).map(|code| code.explanation())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_ordered_and_explained() {
        for pair in Code::ALL.windows(2) {
            assert!(pair[0].as_str() < pair[1].as_str(), "{} comes before {}", pair[0], pair[1]);
        }
        for code in Code::ALL {
            assert!(code.explanation().len() > 40, "{code}");
            assert_eq!(explain(code.as_str()), Some(code.explanation()));
        }
        assert_eq!(explain("e0301"), Some(Code::UnknownKey.explanation()));
        assert_eq!(explain("E9999"), None);
    }
}
