//! Pure. The types that Raft is instantiated with. What is replicated is opaque here: a payload of bytes goes in, the
//! bytes of an outcome come out, and only the [`Machine`](super::machine::Machine) knows what they mean.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use stack_model::NodeId;

/// A controller in the eyes of Raft: 64 random bits, drawn when it joins and never used again, not even by the same host
/// after its disk was wiped (a controller that forgot its vote must not come back under its old id).
pub type RaftId = u64;

/// Where a member of the Raft group is reached, and who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The cluster's name of the host; its certificate must say the same.
    pub node: NodeId,
    /// Where its `stackd` listens.
    pub address: SocketAddr,
}

impl Default for Member {
    /// Nobody, nowhere. Raft's own conformance suite wants a default; no member of a cluster is made this way.
    fn default() -> Self {
        Self { node: NodeId::from_bits(0), address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)) }
    }
}

/// One command as replicated: the bytes that the proposer wrote.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub Bytes);

/// What the machine answered to one command.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Outcome(pub Bytes);

macro_rules! opaque_bytes {
    ($name:ident) => {
        impl fmt::Debug for $name {
            /// Only the size: a payload may hold a secret.
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}({} bytes)", stringify!($name), self.0.len())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, formatter)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Vec::<u8>::deserialize(deserializer).map(|bytes| Self(Bytes::from(bytes)))
            }
        }
    };
}

opaque_bytes!(Payload);
opaque_bytes!(Outcome);

openraft::declare_raft_types!(
    /// What Raft is made of here.
    pub Types:
        D = Payload,
        R = Outcome,
        NodeId = RaftId,
        Node = Member,
);

/// The position of one entry: who led when it was written, and its number.
pub type LogId = openraft::type_config::alias::LogIdOf<Types>;
/// Whom this controller voted for.
pub type Vote = openraft::type_config::alias::VoteOf<Types>;
/// One entry of the log.
pub type Entry = openraft::type_config::alias::EntryOf<Types>;
/// The members, and the entry that made them so.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
/// What a snapshot contains.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
/// A snapshot, with its file.
pub type Snapshot = openraft::type_config::alias::SnapshotOf<Types, super::snapshot::SnapshotFile>;
