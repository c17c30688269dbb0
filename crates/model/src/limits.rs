//! Pure. Limits and weights of a container that nobody plans with: only the host that runs it knows of them.

use serde::{Deserialize, Serialize};

/// Limits and weights of a container that nobody plans with. `None` is the host's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FineLimits {
    /// Weight against others when processors are short, from 2 to 262144; 1024 is the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// Processors by number: `0-2,5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuset: Option<String>,
    /// Memory and swap space together, in bytes; `u64::MAX` is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_and_swap_bytes: Option<u64>,
    /// How readily memory is swapped out, from 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swappiness: Option<u64>,
    /// Weight of access to block devices against others, from 10 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_weight: Option<u16>,
    /// The same for single block devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub block_device_weights: Vec<BlockDeviceWeight>,
    /// The most that may be done with single block devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub block_device_limits: Vec<BlockDeviceLimit>,
}

impl FineLimits {
    /// Nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The weight of access to one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockDeviceWeight {
    /// On the host: `/dev/sda`.
    pub path: String,
    /// From 10 to 1000.
    pub weight: u16,
}

/// The most that may be done with one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockDeviceLimit {
    /// On the host: `/dev/sda`.
    pub path: String,
    /// What is limited.
    pub kind: BlockLimitKind,
    /// So much in a second.
    pub rate: u64,
}

/// What of the access to a block device is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockLimitKind {
    /// Bytes read.
    ReadBytes,
    /// Bytes written.
    WriteBytes,
    /// Operations that read.
    ReadOperations,
    /// Operations that write.
    WriteOperations,
}
