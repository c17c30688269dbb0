//! The command line, as clap reads it. No effect happens here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::dev::DevCommand;
use crate::output::Format;

/// Put applications on a group of Linux servers and keep them running.
#[derive(Debug, Parser)]
#[command(name = "stack", version, max_term_width = 110, propagate_version = true)]
pub struct Arguments {
    /// Which cluster to address, by the name of its context
    #[arg(long, global = true, env = "STACK_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,
    /// Address the daemon behind this socket instead of a context
    #[arg(long, global = true, env = "STACK_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a cluster, or join one
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// The hosts of the cluster
    #[command(subcommand)]
    Node(NodeCommand),
    /// Deploy a stack file and wait until it runs
    Deploy(DeployArguments),
    /// Show what a deploy would change
    Plan(PlanArguments),
    /// Check a stack file without a cluster
    Check(CheckArguments),
    /// Print the stack file as it is understood: merged, filled in, in long form
    Config(ConfigArguments),
    /// Explain a diagnostic's code, such as E0301
    Explain {
        /// The code
        code: String,
    },
    /// Print the JSON Schema of stack files, for editors
    Schema,
    /// List the stacks
    Ls(ListArguments),
    /// List services, of one stack or of all
    Services(StackListArguments),
    /// List tasks, of one stack or of all
    Ps(PsArguments),
    /// Show all about a stack, service, task or node, as JSON
    Inspect {
        /// `STACK`, `STACK/SERVICE`, a task's or node's id or name
        name: String,
    },
    /// Show the output of tasks, merged over the hosts
    Logs(LogsArguments),
    /// Change numbers of replicas, until the next deploy of the file
    Scale {
        /// `STACK/SERVICE=REPLICAS`
        #[arg(required = true, value_name = "STACK/SERVICE=N")]
        replicas: Vec<String>,
        /// Do not wait until it is so
        #[arg(long)]
        detach: bool,
        /// Give up waiting after this time
        #[arg(long, default_value = "5m", value_parser = humantime::parse_duration, value_name = "TIME")]
        timeout: Duration,
    },
    /// Remove a stack and wait until it is gone; named volumes stay
    Rm {
        /// Which
        stack: String,
        /// Do not wait until it is gone
        #[arg(long)]
        detach: bool,
        /// Give up waiting after this time
        #[arg(long, default_value = "5m", value_parser = humantime::parse_duration, value_name = "TIME")]
        timeout: Duration,
    },
    /// Images on the hosts
    #[command(subcommand)]
    Image(ImageCommand),
    /// The networks between hosts
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Examine the hosts and the ways between them: ports, packet sizes, clocks, kernels, disks
    Doctor(ListArguments),
    /// Secrets; what they hold is never shown
    #[command(subcommand)]
    Secret(FileCommand),
    /// Configuration files that stacks bring along or that were made by hand
    #[command(subcommand)]
    Configs(FileCommand),
    /// Credentials of registries, for the whole cluster
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// Which clusters this user can address
    #[command(subcommand)]
    Context(ContextCommand),
    /// A cluster of namespaced hosts on this machine, for trying things
    #[command(subcommand)]
    Dev(DevCommand),
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// `stack cluster`.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Make a new cluster of this host
    Init {
        /// Where other hosts reach this one
        #[arg(long, value_name = "ADDRESS:PORT")]
        advertise: Option<SocketAddr>,
        /// Encrypt all networks between hosts, unless one says `encrypted: false`
        #[arg(long)]
        encrypt_networks: bool,
        /// How to print the result
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Make this host a member of a cluster
    Join {
        /// Read the token from this file instead of standard input; `-` is standard input
        #[arg(long, value_name = "FILE", conflicts_with = "token")]
        token_file: Option<PathBuf>,
        /// As `stack cluster token` prints it. Other users of this machine can see it while the command runs
        #[arg(long, env = "STACK_JOIN_TOKEN", hide_env_values = true)]
        token: Option<String>,
        /// Where other hosts reach this one
        #[arg(long, value_name = "ADDRESS:PORT")]
        advertise: Option<SocketAddr>,
        /// Controllers of the cluster; one is enough
        #[arg(required = true, value_name = "ADDRESS:PORT")]
        controllers: Vec<SocketAddr>,
        /// How to print the result
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Show the token that lets a host join
    Token {
        /// As what it joins
        #[arg(value_enum, default_value = "worker")]
        role: TokenRole,
        /// Replace the token: the old one lets nobody in any more
        #[arg(long)]
        rotate: bool,
        /// Print the token alone
        #[arg(long, short)]
        quiet: bool,
    },
    /// Show the controllers and who leads
    Info {
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

/// As what a host joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TokenRole {
    /// It runs tasks.
    Worker,
    /// It runs tasks and holds a copy of the cluster's state.
    Controller,
}

/// `stack node`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List the nodes
    Ls(ListArguments),
    /// Show all about a node, as JSON
    Inspect {
        /// Name or id
        node: String,
    },
    /// Move all tasks away from a node, and place none on it
    Drain {
        /// Name or id
        node: String,
    },
    /// Let a drained node take tasks again
    Activate {
        /// Name or id
        node: String,
    },
    /// Remove a node from the cluster for good
    Rm {
        /// Name or id
        node: String,
        /// Even though it is up
        #[arg(long)]
        force: bool,
    },
    /// Set labels (`KEY=VALUE`) and remove them (`KEY-`)
    Label {
        /// Name or id
        node: String,
        /// `KEY=VALUE` or `KEY-`
        #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
        labels: Vec<String>,
    },
}

/// Where stack files come from.
#[derive(Debug, Args)]
#[command(after_help = FILES_HELP)]
pub struct FileArguments {
    /// Stack files, later ones over earlier ones; `-` is standard input
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A further stack file, as Docker Compose's `-f`
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub more_files: Vec<PathBuf>,
    /// The stack's name, over the file's `name:` and the directory's
    #[arg(short, long, short_alias = 'p', alias = "project-name", value_name = "STACK")]
    pub name: Option<String>,
    /// From where relative paths start, in place of the first file's directory
    #[arg(long, value_name = "DIRECTORY")]
    pub project_directory: Option<PathBuf>,
    /// Files of variables instead of `.env`, later ones over earlier ones
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Take services of these profiles as well; `*` is all of them
    #[arg(long, value_name = "NAME")]
    pub profile: Vec<String>,
}

const FILES_HELP: &str = "\
Without a FILE: those of the variable COMPOSE_FILE (divided by `:`, or by COMPOSE_PATH_SEPARATOR); else the first of \
stack.yaml, stack.yml, compose.yaml, compose.yml, docker-compose.yml and docker-compose.yaml that is in the working \
directory or above it, with the compose.override.yaml (stack.override.yaml) beside it.

Variables come from the environment, then from the files of --env-file or COMPOSE_ENV_FILES, else from `.env`. \
COMPOSE_PROJECT_NAME names the stack and COMPOSE_PROFILES chooses profiles, also when they stand in `.env`. \
COMPOSE_DISABLE_ENV_FILE=1 leaves `.env` out.";

/// `stack deploy`.
#[derive(Debug, Args)]
pub struct DeployArguments {
    /// The files
    #[command(flatten)]
    pub files: FileArguments,
    /// Do not wait until it runs
    #[arg(long)]
    pub detach: bool,
    /// Give up waiting after this time
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub timeout: Duration,
    /// Everything must have run this long before it counts
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub stable: Duration,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `stack plan`.
#[derive(Debug, Args)]
pub struct PlanArguments {
    /// The files
    #[command(flatten)]
    pub files: FileArguments,
    /// End with code 7 when a deploy would change something
    #[arg(long)]
    pub exit_code: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `stack check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The files
    #[command(flatten)]
    pub files: FileArguments,
    /// How to print what is found
    #[arg(long, value_enum, default_value_t)]
    pub format: CheckFormat,
    /// Refuse also what `docker stack deploy` would not take: versions other than 3 to 3.13, or several of them
    #[arg(long)]
    pub docker_stack: bool,
}

/// How `stack check` prints what it finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CheckFormat {
    /// For people, on standard error.
    #[default]
    Text,
    /// One JSON document.
    Json,
    /// SARIF 2.1.0, for code-scanning tools.
    Sarif,
}

/// `stack config`.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct ConfigArguments {
    /// The files
    #[command(flatten)]
    pub files: FileArguments,
    /// Only this service and what it depends on (repeatable)
    #[arg(long, value_name = "SERVICE")]
    pub service: Vec<String>,
    /// What to print in place of the whole
    #[command(flatten)]
    pub part: ConfigPart,
    /// Leave variables as they are
    #[arg(long)]
    pub no_interpolate: bool,
    /// Do not write out what is understood: names, the default network, implied dependencies
    #[arg(long)]
    pub no_normalize: bool,
    /// Leave relative paths as they are
    #[arg(long)]
    pub no_path_resolution: bool,
    /// Do not read `env_file` and `label_file`
    #[arg(long)]
    pub no_env_resolution: bool,
    /// Do not demand that everything is defined that is referred to
    #[arg(long)]
    pub no_consistency: bool,
    /// Ask the cluster which digest each image stands for, and write it behind the image's name
    #[arg(long, conflicts_with = "no_interpolate")]
    pub resolve_image_digests: bool,
    /// Only check: print nothing but what is wrong
    #[arg(short, long)]
    pub quiet: bool,
    /// Write to this file in place of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub format: ConfigFormat,
}

/// What `stack config` prints in place of the whole: at most one of these.
#[derive(Debug, Args)]
#[group(multiple = false)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line; clap refuses two of them")]
pub struct ConfigPart {
    /// The names of the services, one a line
    #[arg(long)]
    pub services: bool,
    /// The images, one a line
    #[arg(long)]
    pub images: bool,
    /// The names of the volumes, one a line
    #[arg(long)]
    pub volumes: bool,
    /// The names of the networks, one a line
    #[arg(long)]
    pub networks: bool,
    /// The names of the models, one a line
    #[arg(long)]
    pub models: bool,
    /// The profiles of all services, one a line
    #[arg(long)]
    pub profiles: bool,
    /// A hash of each service, or of those named, that changes when its tasks would
    #[arg(long, value_name = "SERVICE,…", num_args = 0..=1, require_equals = true, default_missing_value = "*")]
    pub hash: Option<String>,
    /// The variables that the files refer to, and their defaults
    #[arg(long)]
    pub variables: bool,
    /// The variables that the files see, with their values
    #[arg(long)]
    pub environment: bool,
}

/// How `stack config` prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ConfigFormat {
    /// YAML.
    #[default]
    Yaml,
    /// JSON.
    Json,
}

/// A listing of everything.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// A listing that a stack narrows.
#[derive(Debug, Args)]
pub struct StackListArguments {
    /// Only of this stack
    pub stack: Option<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `stack ps`.
#[derive(Debug, Args)]
pub struct PsArguments {
    /// Only of this stack
    pub stack: Option<String>,
    /// Only on this node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Also tasks that have ended and were replaced
    #[arg(short, long)]
    pub all: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `stack logs`.
#[derive(Debug, Args)]
pub struct LogsArguments {
    /// `STACK`, `STACK/SERVICE`, or a task's id
    pub name: String,
    /// Go on with what is still to come
    #[arg(short, long)]
    pub follow: bool,
    /// Only so many of the last lines of each task
    #[arg(short = 'n', long, value_name = "LINES")]
    pub tail: Option<u64>,
    /// Only what is not older than this
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    pub since: Option<Duration>,
    /// Show when each line was written
    #[arg(short, long)]
    pub timestamps: bool,
    /// Do not show which task wrote a line
    #[arg(long)]
    pub no_prefix: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Which hosts a command is for.
#[derive(Debug, Args)]
pub struct NodeArguments {
    /// Only this node (repeatable); all nodes that are up unless said otherwise
    #[arg(long, value_name = "NODE")]
    pub node: Vec<String>,
}

/// `stack image`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Load an archive of `docker save` or an OCI archive
    Load {
        /// The archive; standard input unless said otherwise
        #[arg(short, long, value_name = "FILE")]
        input: Option<PathBuf>,
        /// Where
        #[command(flatten)]
        nodes: NodeArguments,
    },
    /// Make an image of a root file system's tar
    Import {
        /// The tar; `-` is standard input
        file: PathBuf,
        /// The name that it gets
        reference: String,
        /// The command that its containers run: one word each
        #[arg(long, num_args = 1.., value_name = "WORD", allow_hyphen_values = true)]
        command: Vec<String>,
        /// The entrypoint that its containers have: one word each
        #[arg(long, num_args = 1.., value_name = "WORD", allow_hyphen_values = true)]
        entrypoint: Vec<String>,
        /// Where
        #[command(flatten)]
        nodes: NodeArguments,
    },
    /// Pull an image from its registry
    Pull {
        /// Which
        reference: String,
        /// Where
        #[command(flatten)]
        nodes: NodeArguments,
    },
    /// List the images of the hosts
    Ls {
        /// Where
        #[command(flatten)]
        nodes: NodeArguments,
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Remove an image
    Rm {
        /// Name, digest, or start of an id
        reference: String,
        /// Where
        #[command(flatten)]
        nodes: NodeArguments,
    },
}

/// `stack network`.
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// List the networks
    Ls(ListArguments),
    /// Show who is on a network, as JSON
    Inspect {
        /// Its full name: that of a stack's is `STACK_KEY`
        name: String,
    },
    /// Make a network that several stacks use with `external: true`
    Create {
        /// Its name
        name: String,
        /// Its subnet, at most one of IPv4 and one of IPv6; without one it is taken from the cluster's pool
        #[arg(long = "subnet", value_name = "CIDR")]
        subnets: Vec<ipnet::IpNet>,
        /// It has IPv6 addresses, too
        #[arg(long)]
        ipv6: bool,
        /// No way leads out of it
        #[arg(long)]
        internal: bool,
        /// Encrypt what it sends between hosts; `--encrypted=false`: do not, though the cluster does
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        encrypted: Option<bool>,
        /// Containers that are no tasks may be on it
        #[arg(long)]
        attachable: bool,
        /// The size of its packets in bytes, where it must be less than what fits between the hosts
        #[arg(long, value_name = "BYTES")]
        mtu: Option<u32>,
        /// A label, KEY=VALUE
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
    },
    /// Remove a network that nobody is on
    Rm {
        /// Its name
        name: String,
    },
}

/// `stack secret` and `stack configs`.
#[derive(Debug, Subcommand)]
pub enum FileCommand {
    /// List them
    Ls(ListArguments),
    /// Show one, as JSON; what a secret holds is not shown
    Inspect {
        /// Its full name: that of a stack's is `STACK_KEY`
        name: String,
    },
    /// Make one that stacks use with `external: true`
    Create {
        /// Its name
        name: String,
        /// What it holds, at most 500 KiB; `-` is standard input
        #[arg(default_value = "-")]
        file: PathBuf,
        /// A label, KEY=VALUE
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
    },
    /// Remove one that was made by hand and that no stack uses
    Rm {
        /// Its name
        name: String,
    },
}

/// `stack registry`.
#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    /// Give the cluster a credential; the password is read from standard input
    Login {
        /// The registry's host and port
        registry: String,
        /// The name
        #[arg(short, long)]
        username: String,
    },
    /// List the registries that the cluster has credentials for
    Ls(ListArguments),
    /// Forget a registry's credential
    Logout {
        /// The registry's host and port
        registry: String,
    },
}

/// `stack context`.
#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List the contexts
    Ls(ListArguments),
    /// Make a context from its parts
    Create {
        /// Its name
        name: String,
        /// Controllers of the cluster (repeatable)
        #[arg(long, required = true, value_name = "ADDRESS:PORT")]
        controller: Vec<SocketAddr>,
        /// The cluster's authority, PEM
        #[arg(long, value_name = "FILE")]
        ca: PathBuf,
        /// The operator's certificate, PEM
        #[arg(long, value_name = "FILE")]
        certificate: PathBuf,
        /// Its private key, PEM
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Write a context for another machine, with a new certificate, to standard output
    Export {
        /// For whom: the name that the cluster's logs show
        operator: String,
    },
    /// Read a context that `export` wrote, from a file or standard input
    Import {
        /// Its name here
        name: String,
        /// The file; `-` is standard input
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// Make a context the default; without a name: this machine's daemon
    Use {
        /// Which
        name: Option<String>,
    },
    /// Remove a context
    Rm {
        /// Which
        name: String,
    },
}
