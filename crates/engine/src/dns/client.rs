//! Pure. What one container may ask, and whom else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::directory::Layer;

/// A container as the name server sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    /// Names of the networks that it is on, in its order: where several know a name, the first one answers.
    pub networks: Vec<String>,
    /// Whose network each of these is, where another may have the same name: only what that layer says is heard. Of those that
    /// are not in here both are.
    pub layers: BTreeMap<String, Layer>,
    /// The stack that it belongs to: a name of this stack's is meant before the same name of another's.
    pub stack: Option<String>,
    /// Who is asked for names that the networks do not have.
    pub upstream: Upstream,
}

/// Who is asked for names that the networks do not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Upstream {
    /// The host's own servers, asked from the host's network namespace: a server on its loopback is reached.
    #[default]
    Host,
    /// These, in this order, asked from the container's network namespace, as its `--dns` means them.
    Servers(Vec<IpAddr>),
    /// Nobody: all of its networks are internal, so that such names do not exist.
    Nobody,
}
