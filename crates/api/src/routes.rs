//! Every route, once. Servers mount these patterns; the client fills them in.

/// The name that a controller's certificate has beside its node's own.
pub const CONTROLLER_SERVER_NAME: &str = "controller.stack";

/// The name that a node's certificate has: identity, not address.
#[must_use]
pub fn node_server_name(node: stack_model::NodeId) -> String {
    format!("{node}.node.stack")
}

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Anybody who reaches the port: the join, which a token guards.
    Anyone,
    /// Operators, and whoever may open the local socket.
    Operator,
    /// Whoever may open the local socket.
    Local,
    /// A node, for itself.
    Node,
    /// Controllers, for operators whose identity they have checked.
    Controller,
}

/// One route.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// `GET`, `PUT`, …
    pub method: &'static str,
    /// With `{names}` in axum's form.
    pub path: &'static str,
    /// Who may call it.
    pub caller: Caller,
    /// One line for people.
    pub summary: &'static str,
    /// The schema of the request's body.
    pub request: Option<&'static str>,
    /// The schema of the answer; `[]` behind it for a list.
    pub response: Option<&'static str>,
}

macro_rules! routes {
    ($($name:ident = $method:literal $path:literal $caller:ident $request:expr => $response:expr, $summary:literal;)*) => {
        $(
            #[doc = $summary]
            pub const $name: Route = Route {
                method: $method,
                path: $path,
                caller: Caller::$caller,
                summary: $summary,
                request: $request,
                response: $response,
            };
        )*
        /// All of them, in the order of the document.
        pub const ALL: &[Route] = &[$($name),*];
    };
}

routes! {
    LOCAL = "GET" "/v1/local" Local None => Some("LocalView"), "What this host says of itself";
    CLUSTER_INIT = "POST" "/v1/cluster/init" Local Some("InitRequest") => Some("MemberView"), "Make a new cluster of this host";
    CLUSTER_JOIN = "POST" "/v1/cluster/join" Local Some("JoinClusterRequest") => Some("MemberView"), "Make this host a member of a cluster";
    JOIN = "POST" "/v1/join" Anyone Some("JoinRequest") => Some("JoinResponse"), "Become a member, with a token";
    CERTIFICATE = "POST" "/v1/certificate" Node Some("CertificateRequest") => Some("CertificateResponse"), "Renew the node's own certificate";
    OPERATORS = "POST" "/v1/operators" Operator Some("CertificateRequest") => Some("CertificateResponse"), "A certificate for a person's context";
    CLUSTER = "GET" "/v1/cluster" Operator None => Some("ClusterView"), "Which cluster, which controllers, who leads";
    TOKENS = "GET" "/v1/cluster/tokens" Operator None => Some("TokensView"), "The join tokens";
    ROTATE_TOKEN = "POST" "/v1/cluster/tokens/{role}/rotate" Operator None => Some("TokensView"), "Replace a join token";
    STACKS = "GET" "/v1/stacks" Operator None => Some("StackView[]"), "All stacks";
    STACK = "GET" "/v1/stacks/{stack}" Operator None => Some("StackDetail"), "One stack, with its spec";
    DEPLOY = "PUT" "/v1/stacks/{stack}" Operator Some("DeployRequest") => Some("DeployResponse"), "Deploy a stack";
    REMOVE_STACK = "DELETE" "/v1/stacks/{stack}" Operator None => Some("Written"), "Remove a stack";
    PLAN = "POST" "/v1/stacks/{stack}/plan" Operator Some("DeployRequest") => Some("PlanView"), "What a deploy would change";
    STACK_STATUS = "GET" "/v1/stacks/{stack}/status" Operator None => Some("StackStatus"), "How a stack stands, waiting for news if asked";
    SERVICES = "GET" "/v1/services" Operator None => Some("ServiceView[]"), "All services, or those of a stack";
    SCALE = "POST" "/v1/scale" Operator Some("ScaleRequest") => Some("Written"), "Change numbers of replicas";
    TASKS = "GET" "/v1/tasks" Operator None => Some("TaskView[]"), "All tasks, or those of a stack, a service or a node";
    TASK = "GET" "/v1/tasks/{task}" Operator None => Some("TaskView"), "One task";
    TASK_LOGS = "GET" "/v1/tasks/{task}/logs" Operator None => Some("LogLine"), "A task's output, as lines of JSON";
    NODES = "GET" "/v1/nodes" Operator None => Some("NodeView[]"), "All nodes";
    NODE = "GET" "/v1/nodes/{node}" Operator None => Some("NodeView"), "One node, by name or id";
    UPDATE_NODE = "PATCH" "/v1/nodes/{node}" Operator Some("UpdateNodeRequest") => Some("NodeView"), "Drain, activate or label a node";
    REMOVE_NODE = "DELETE" "/v1/nodes/{node}" Operator None => Some("Written"), "Remove a node from the cluster";
    NODE_IMAGES = "GET" "/v1/nodes/{node}/images" Operator None => Some("ImageView[]"), "The images of one host";
    NODE_IMAGE_LOAD = "POST" "/v1/nodes/{node}/images/load" Operator None => Some("ImageView[]"), "Load an archive on one host";
    NODE_IMAGE_IMPORT = "POST" "/v1/nodes/{node}/images/import" Operator None => Some("ImageView"), "Make an image of a root file system on one host";
    NODE_IMAGE_PULL = "POST" "/v1/nodes/{node}/images/pull" Operator Some("PullRequest") => Some("ImageView"), "Pull an image on one host";
    NODE_IMAGE_REMOVE = "DELETE" "/v1/nodes/{node}/images" Operator None => Some("ImageView[]"), "Remove an image from one host";
    REGISTRIES = "GET" "/v1/registries" Operator None => Some("RegistryView[]"), "Registries that the cluster has credentials for";
    SET_REGISTRY = "PUT" "/v1/registries/{registry}" Operator Some("SetRegistryRequest") => Some("Written"), "Set a registry's credential";
    REMOVE_REGISTRY = "DELETE" "/v1/registries/{registry}" Operator None => Some("Written"), "Forget a registry's credential";
    NETWORKS = "GET" "/v1/networks" Operator None => Some("NetworkView[]"), "The networks between hosts";
    NETWORK = "GET" "/v1/networks/{network}" Operator None => Some("NetworkView"), "One network, with who is on it";
    PUT_NETWORK = "PUT" "/v1/networks/{network}" Operator Some("PutNetworkRequest") => Some("Written"), "Make a network by hand, or change one";
    REMOVE_NETWORK = "DELETE" "/v1/networks/{network}" Operator None => Some("Written"), "Remove a network that was made by hand";
    DOCTOR = "POST" "/v1/doctor" Operator None => Some("ExaminationView"), "Examine every host and the ways between them";
    SECRETS = "GET" "/v1/secrets" Operator None => Some("FileView[]"), "All secrets, without what they hold";
    SECRET = "GET" "/v1/secrets/{name}" Operator None => Some("FileView"), "One secret, without what it holds";
    CREATE_SECRET = "POST" "/v1/secrets/{name}" Operator Some("CreateFileRequest") => Some("Written"), "Make a secret by hand";
    REMOVE_SECRET = "DELETE" "/v1/secrets/{name}" Operator None => Some("Written"), "Remove a secret that was made by hand";
    CONFIGS = "GET" "/v1/configs" Operator None => Some("FileView[]"), "All configs";
    CONFIG = "GET" "/v1/configs/{name}" Operator None => Some("FileView"), "One config";
    CREATE_CONFIG = "POST" "/v1/configs/{name}" Operator Some("CreateFileRequest") => Some("Written"), "Make a config by hand";
    REMOVE_CONFIG = "DELETE" "/v1/configs/{name}" Operator None => Some("Written"), "Remove a config that was made by hand";
    NODE_REGISTER = "POST" "/v1/node/register" Node None => None, "A node says what and where it is";
    NODE_HEARTBEAT = "POST" "/v1/node/heartbeat" Node None => None, "A node is alive";
    NODE_ASSIGNMENT = "GET" "/v1/node/assignment" Node None => None, "What a node shall do, when it is news";
    NODE_NETWORKS = "POST" "/v1/node/networks" Node None => None, "Who is on a node's networks, when it is news";
    NODE_GUESTS = "POST" "/v1/node/guests" Node None => None, "Which of a node's containers outside of stacks are on networks";
    NODE_ALL_NETWORKS = "GET" "/v1/node/all-networks" Node None => None, "The networks between hosts, for who uses a node";
    NODE_REPORT = "POST" "/v1/node/report" Node None => None, "What a node saw";
    HOST_IMAGES = "GET" "/v1/host/images" Controller None => Some("ImageView[]"), "The images of this host";
    HOST_IMAGE = "GET" "/v1/host/image" Controller None => Some("ImageView"), "One image of this host, by name";
    HOST_IMAGE_LOAD = "POST" "/v1/host/images/load" Controller None => Some("ImageView[]"), "Load an archive on this host";
    HOST_IMAGE_IMPORT = "POST" "/v1/host/images/import" Controller None => Some("ImageView"), "Make an image of a root file system on this host";
    HOST_IMAGE_PULL = "POST" "/v1/host/images/pull" Controller Some("PullRequest") => Some("ImageView"), "Pull an image on this host";
    HOST_IMAGE_REMOVE = "DELETE" "/v1/host/images" Controller None => Some("ImageView[]"), "Remove an image from this host";
    HOST_TASK_LOGS = "GET" "/v1/host/tasks/{task}/logs" Controller None => Some("LogLine"), "The output of a task on this host";
    HOST_NETWORKS = "GET" "/v1/host/networks" Controller None => Some("HostNetworksView"), "What of the networks is in force on this host";
    HOST_EXAMINE = "POST" "/v1/host/examine" Controller Some("ExamineRequest") => Some("HostExamination"), "Examine this host and the ways to others";
    OPENAPI = "GET" "/v1/openapi.json" Anyone None => None, "This document";
    METRICS = "GET" "/metrics" Operator None => None, "Prometheus metrics";
}

/// The path with its `{names}` replaced in order, each percent-encoded.
#[must_use]
pub fn fill(path: &str, values: &[&str]) -> String {
    let mut filled = String::with_capacity(path.len() + 32);
    let mut values = values.iter();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let Some((name, tail)) = after.split_once('}') else { break };
        match values.next() {
            Some(value) => filled.push_str(&encode(value)),
            None => filled.push_str(name),
        }
        rest = tail;
    }
    filled.push_str(rest);
    filled
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_leave_its_segment() {
        assert_eq!(encode("a/b:1 é"), "a%2Fb%3A1%20%C3%A9");
        assert_eq!(fill(SET_REGISTRY.path, &["a/../b:1"]), "/v1/registries/a%2F..%2Fb%3A1");
        assert_eq!(fill(NODE_IMAGE_LOAD.path, &["n1"]), "/v1/nodes/n1/images/load");
    }
}
