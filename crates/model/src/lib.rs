//! Pure. The nouns of a cluster: what a user wants (specs), what the leader decided (tasks, assignments) and what the
//! hosts saw (reports). No behaviour beyond parsing and printing of small values lives here.

pub mod assignment;
pub mod files;
pub mod id;
pub mod lifecycle;
pub mod limits;
pub mod name;
pub mod network;
pub mod node;
pub mod report;
pub mod spec;
pub mod task;
pub mod time;

pub use assignment::{AssignedTask, Assignment, DesiredState, RegistryCredential};
pub use files::{Content, ContentId, Contents, FileContents, FileKind, FileReference, SharedFile, TaskFile};
pub use id::{Digest, NodeId, ParseIdError, TaskId};
pub use name::{NameError, RequestId, ServiceKey, ServiceName, StackName};
pub use network::{
    AssignedNetwork, Draining, EndpointState, GuestAnswer, GuestWishes, NetworkDocument, NetworkEndpoint, NetworkGuest,
    NetworkHost, NetworkService, Wish,
};
pub use node::{Availability, Node, NodeDescription, NodeEncryption, NodeRole, Readiness, TunnelKey};
pub use report::{Health, Report, TaskStatus};
pub use spec::{ContainerSpec, ServiceSpec, StackSpec};
pub use task::{Phase, Slot, Task, TaskSpec};
pub use time::{Milliseconds, Timestamp};
