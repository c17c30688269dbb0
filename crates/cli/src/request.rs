//! One run's connection: the context that it uses and the id that its requests carry.

use std::path::PathBuf;
use std::time::Duration;

use stack_api::views::NodeView;
use stack_api::{Client, routes};

use crate::context::Contexts;
use crate::failure::{ExitCode, Failure};

/// For everything that the controllers answer at once.
pub const QUICK: Duration = Duration::from_secs(15);
/// For what asks a registry or moves an image.
pub const SLOW: Duration = Duration::from_secs(15 * 60);

/// What the commands share.
pub struct Session {
    context: Option<String>,
    socket: Option<PathBuf>,
    /// The user's contexts.
    pub contexts: Contexts,
    request_id: String,
}

impl Session {
    /// A session that has not connected.
    pub fn new(context: Option<String>, socket: Option<PathBuf>) -> Self {
        Self { context, socket, contexts: Contexts::of_user(), request_id: new_request_id() }
    }

    /// A client of the cluster.
    pub fn client(&self) -> Result<Client, Failure> {
        let context = self.contexts.choose(self.context.as_deref(), self.socket.as_deref())?;
        Ok(context.client()?.with_request_id(&self.request_id))
    }

    /// A client of this machine's daemon, whatever the context.
    pub fn local(&self) -> Result<Client, Failure> {
        let path = self.socket.clone().unwrap_or_else(|| PathBuf::from(crate::context::DEFAULT_SOCKET));
        let client = Client::new(stack_api::Endpoint::Socket(path), None)?;
        Ok(client.with_request_id(&self.request_id))
    }
}

/// 64 random bits, as 16 hexadecimal digits.
fn new_request_id() -> String {
    use std::io::Read;

    let mut bytes = [0_u8; 8];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    if read.is_err() {
        // An id is for finding a request in logs; the process and the time tell requests apart well enough.
        bytes = (u64::from(std::process::id()) ^ crate::output::now().0.rotate_left(32)).to_le_bytes();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The nodes that a command is for: those named, else all that are up.
pub async fn nodes_for(client: &Client, named: &[String]) -> Result<Vec<NodeView>, Failure> {
    if named.is_empty() {
        let nodes: Vec<NodeView> = client.get(routes::NODES, &[], QUICK).await?;
        let (up, down): (Vec<NodeView>, Vec<NodeView>) =
            nodes.into_iter().partition(|node| node.readiness == stack_model::Readiness::Ready);
        for node in down {
            crate::output::story(&format!("{} is down and left out", node.name));
        }
        if up.is_empty() {
            return Err(Failure::new(ExitCode::Failed, "no node is up"));
        }
        return Ok(up);
    }
    let mut nodes = Vec::new();
    for name in named {
        nodes.push(client.get(routes::NODE, &[name], QUICK).await?);
    }
    Ok(nodes)
}
