//! Pure. Why an entry of the log was refused.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use stack_model::{FileKind, NodeId, ServiceKey, StackName};

/// Why an entry was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejected {
    /// The cluster was already made.
    #[error("the cluster is already initialized")]
    AlreadyInitialized,
    /// The first entry must make the cluster.
    #[error("the cluster is not initialized")]
    NotInitialized,
    /// Somebody else changed the stack meanwhile.
    #[error(
        "stack `{stack}` is at revision {present}, not at {expected} as expected: look at it again, then deploy again"
    )]
    Conflict {
        /// Which.
        stack: StackName,
        /// What the caller believed.
        expected: u64,
        /// What is there; 0 is nothing.
        present: u64,
    },
    /// A task could not be pinned to what it shall run.
    #[error("service `{service}`: image `{image}` has no digest")]
    NoDigest {
        /// Which service.
        service: ServiceKey,
        /// As in the stack file.
        image: String,
    },
    /// Two services want the same port on the same hosts.
    #[error("service `{service}`: port {port} is already published by `{other}`")]
    PortTaken {
        /// Which service.
        service: ServiceKey,
        /// Such as `8080/tcp`.
        port: String,
        /// Who has it.
        other: ServiceKey,
    },
    /// All ports of the range are given out.
    #[error("service `{service}`: no free port from {first} to {last} is left to publish {target}")]
    NoFreePort {
        /// Which service.
        service: ServiceKey,
        /// The port in the container.
        target: u16,
        /// The first port of the range.
        first: u16,
        /// The last one.
        last: u16,
    },
    /// A mount names a volume that the stack does not declare.
    #[error("service `{service}`: volume `{volume}` is not declared by the stack")]
    UnknownVolume {
        /// Which service.
        service: ServiceKey,
        /// The key.
        volume: String,
    },
    /// A service names a network that the stack does not declare.
    #[error("service `{service}`: network `{network}` is not declared by the stack")]
    UnknownNetwork {
        /// Which service.
        service: ServiceKey,
        /// The key.
        network: String,
    },
    /// A network that the stack does not make itself is not there.
    #[error("there is no network `{network}`, and the stack says that it exists: make it with `stack network create`")]
    NoExternalNetwork {
        /// Its full name.
        network: String,
    },
    /// A network of that name is somebody else's.
    #[error(
        "network `{network}` belongs to {owner}: give this one another `name`, or say `external: true` to share it"
    )]
    NetworkTaken {
        /// Its full name.
        network: String,
        /// Whose it is.
        owner: String,
    },
    /// It cannot be changed, or removed, while somebody is on it.
    #[error(
        "network `{network}` has {tasks} tasks on it: its subnets can be changed, and it can be removed, once it has none"
    )]
    NetworkInUse {
        /// Its full name.
        network: String,
        /// How many.
        tasks: usize,
    },
    /// Containers that belong to no stack are on it.
    #[error("network `{network}` has active endpoints: {guests} containers that belong to no stack; remove them first")]
    NetworkHasGuests {
        /// Its full name.
        network: String,
        /// How many.
        guests: usize,
    },
    /// The subnet that the user gave meets another one.
    #[error("network `{network}`: subnet {subnet} meets {whose}: choose another")]
    SubnetTaken {
        /// The network's full name.
        network: String,
        /// What was given.
        subnet: IpNet,
        /// What it meets.
        whose: String,
    },
    /// A subnet of the family that the network is without.
    #[error("network `{network}`: subnet {subnet} is of IPv4, which the network is without: leave one of the two out")]
    SubnetOfNoFamily {
        /// The network's full name.
        network: String,
        /// What was given.
        subnet: IpNet,
    },
    /// Nobody could be on it.
    #[error("network `{network}`: subnet {subnet} has no address for a host and a task: choose a larger one")]
    SubnetTooSmall {
        /// The network's full name.
        network: String,
        /// What was given.
        subnet: IpNet,
    },
    /// The cluster's pool is used up.
    #[error("network `{network}`: no free subnet is left in the cluster's pool: give it one under `ipam`")]
    NoFreeSubnet {
        /// The network's full name.
        network: String,
    },
    /// A service cannot have the address that the user gave it.
    #[error("service `{service}`: it cannot have the address {address}: {reason}")]
    AddressRefused {
        /// Which service.
        service: ServiceKey,
        /// What was given.
        address: IpAddr,
        /// Why not.
        reason: String,
    },
    /// There is none of that name.
    #[error("there is no network `{network}`")]
    UnknownClusterNetwork {
        /// What was asked for.
        network: String,
    },
    /// What a file of the stack holds was not sent, and is not here.
    #[error("what the {kind} `{name}` holds is not known: deploy the stack file, which brings it along")]
    NoContent {
        /// Which kind.
        kind: FileKind,
        /// Its full name.
        name: String,
    },
    /// A file that the stack does not make itself is not there.
    #[error("there is no {kind} `{name}`, and the stack says that it exists: make it with `stack {} create`", kind.command())]
    NoExternalFile {
        /// Which kind.
        kind: FileKind,
        /// Its name.
        name: String,
    },
    /// A service names a file that the stack does not declare.
    #[error("service `{service}`: {kind} `{name}` is not declared by the stack")]
    UnknownFile {
        /// Which service.
        service: ServiceKey,
        /// Which kind.
        kind: FileKind,
        /// The key.
        name: String,
    },
    /// There is one of that name.
    #[error("there is a {kind} `{name}` already, and it cannot be changed: give the new one another name")]
    FileExists {
        /// Which kind.
        kind: FileKind,
        /// Its name.
        name: String,
    },
    /// There is none of that name.
    #[error("there is no {kind} `{name}` that was made by hand")]
    UnknownStoredFile {
        /// Which kind.
        kind: FileKind,
        /// What was asked for.
        name: String,
    },
    /// A stack uses it.
    #[error("the stack `{stack}` uses the {kind} `{name}`: it can be removed once none does")]
    FileInUse {
        /// Which kind.
        kind: FileKind,
        /// Its name.
        name: String,
        /// Which stack, or the first of several.
        stack: StackName,
    },
    /// There is none of that name.
    #[error("there is no stack `{stack}`")]
    UnknownStack {
        /// What was asked for.
        stack: StackName,
    },
    /// There is none of that name.
    #[error("there is no service `{service}`")]
    UnknownService {
        /// What was asked for.
        service: ServiceKey,
    },
    /// A global service has one task per node.
    #[error("service `{service}` is global: it has one task on every node and cannot be scaled")]
    NotReplicated {
        /// What was asked for.
        service: ServiceKey,
    },
    /// There is none with that id.
    #[error("there is no node {node}")]
    UnknownNode {
        /// What was asked for.
        node: NodeId,
    },
    /// A node that was removed, or a stranger with the same id, may not come back in another role.
    #[error("node {node} is a member with another role")]
    RoleMismatch {
        /// Which.
        node: NodeId,
    },
    /// A node that is up still has tasks.
    #[error("node `{name}` is up and has {tasks} tasks: drain it first, or use --force")]
    NodeInUse {
        /// Its name.
        name: String,
        /// How many.
        tasks: usize,
    },
}
