//! Pure. What a user would deploy, with as few words as the test needs.

use std::collections::BTreeMap;

use stack_model::lifecycle::Hook;
use stack_model::spec::{
    Constraint, EndpointMode, FailureAction, Healthcheck, Image, Placement, Protocol, PublishMode, PublishedPort,
    Resources, RestartPolicy, ServiceMode, UpdateOrder, UpdatePolicy,
};
use stack_model::{ContainerSpec, Digest, Milliseconds, ServiceKey, ServiceName, ServiceSpec, StackName, StackSpec};

/// A digest that stands for the content `text`.
///
/// # Panics
/// Never: the text that it builds is a digest.
#[must_use]
pub fn digest(text: &str) -> Digest {
    let mut bits = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        bits = (bits ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("sha256:{}", format!("{bits:016x}").repeat(4)).parse().expect("64 hexadecimal digits")
}

/// The name of a stack.
///
/// # Panics
/// The text is no name of a stack.
#[must_use]
pub fn stack_name(name: &str) -> StackName {
    name.parse().expect("a test names its stacks well")
}

/// A service by `stack/service`.
///
/// # Panics
/// The text is no key of a service.
#[must_use]
pub fn key(text: &str) -> ServiceKey {
    text.parse().expect("a test names its services well")
}

/// A stack of these services.
///
/// # Panics
/// A name is not allowed.
#[must_use]
pub fn stack<const N: usize>(name: &str, services: [(&str, Service); N]) -> StackSpec {
    StackSpec {
        name: stack_name(name),
        services: services
            .into_iter()
            .map(|(name, service)| {
                (name.parse::<ServiceName>().expect("a test names its services well"), service.spec())
            })
            .collect(),
        networks: BTreeMap::new(),
        volumes: BTreeMap::new(),
        secrets: BTreeMap::new(),
        configs: BTreeMap::new(),
    }
}

/// A service that is being described.
#[derive(Debug, Clone)]
pub struct Service(ServiceSpec);

/// A service of one task that runs `image`.
///
/// # Panics
/// Never: a container needs nothing but its image.
#[must_use]
pub fn service(image: &str) -> Service {
    let image = Image { reference: image.to_owned(), digest: Some(digest(image)) };
    // Every other field has its default, also those that are added later.
    let container: ContainerSpec =
        serde_json::from_value(serde_json::json!({ "image": image })).expect("an image is all that is required");
    Service(ServiceSpec {
        container,
        mode: ServiceMode::Replicated { replicas: 1 },
        placement: Placement::default(),
        resources: Resources::default(),
        restart: RestartPolicy::default(),
        update: UpdatePolicy::default(),
        rollback: None,
        depends_on: BTreeMap::new(),
        ports: Vec::new(),
        networks: BTreeMap::new(),
        endpoint_mode: EndpointMode::default(),
        sticky: false,
        labels: BTreeMap::new(),
    })
}

impl Service {
    /// As the model has it.
    #[must_use]
    pub fn spec(self) -> ServiceSpec {
        self.0
    }

    /// Changed in a way that has no word of its own here.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut ServiceSpec)) -> Self {
        change(&mut self.0);
        self
    }

    /// So many tasks.
    #[must_use]
    pub fn replicas(self, replicas: u32) -> Self {
        self.with(|spec| spec.mode = ServiceMode::Replicated { replicas })
    }

    /// One task on every node.
    #[must_use]
    pub fn global(self) -> Self {
        self.with(|spec| spec.mode = ServiceMode::Global)
    }

    /// Runs this command; the fake host reads its behaviour from it.
    #[must_use]
    pub fn command(self, command: &[&str]) -> Self {
        self.with(|spec| spec.container.command = Some(command.iter().map(|&word| word.to_owned()).collect()))
    }

    /// Has this in its environment.
    #[must_use]
    pub fn environment(self, key: &str, value: &str) -> Self {
        self.with(|spec| drop(spec.container.environment.insert(key.to_owned(), value.to_owned())))
    }

    /// Keeps so much memory free, in bytes.
    #[must_use]
    pub fn reserve_memory(self, bytes: u64) -> Self {
        self.with(|spec| spec.resources.memory_reservation_bytes = bytes)
    }

    /// Keeps so many thousandths of a processor free.
    #[must_use]
    pub fn reserve_cpu(self, millis: u64) -> Self {
        self.with(|spec| spec.resources.cpu_reservation_millis = millis)
    }

    /// Only on nodes where the attribute has the value.
    #[must_use]
    pub fn only_where(self, attribute: &str, value: &str) -> Self {
        let constraint = Constraint { attribute: attribute.to_owned(), equal: true, value: value.to_owned() };
        self.with(|spec| spec.placement.constraints.push(constraint))
    }

    /// At most so many tasks on one node.
    #[must_use]
    pub fn at_most_per_node(self, limit: u32) -> Self {
        self.with(|spec| spec.placement.max_replicas_per_node = Some(limit))
    }

    /// Publishes a port at one of a range of the hosts' ports.
    #[must_use]
    pub fn publish_within(self, target: u16, first: u16, last: u16) -> Self {
        self.publish(target, None).with(|spec| {
            if let Some(port) = spec.ports.last_mut() {
                port.published_within = Some((first, last));
            }
        })
    }

    /// Publishes a port of the container for all hosts; `None`: a number that the cluster draws.
    #[must_use]
    pub fn publish(self, target: u16, published: Option<u16>) -> Self {
        self.port(target, published, PublishMode::Ingress)
    }

    /// Publishes a port of the container on the task's own host alone.
    #[must_use]
    pub fn publish_on_host(self, target: u16, published: u16) -> Self {
        self.port(target, Some(published), PublishMode::Host)
    }

    fn port(self, target: u16, published: Option<u16>, mode: PublishMode) -> Self {
        let port = PublishedPort {
            target,
            published,
            published_within: None,
            protocol: Protocol::Tcp,
            mode,
            host_ip: None,
            proxy_protocol: false,
        };
        self.with(|spec| spec.ports.push(port))
    }

    /// What the agent does when the container ends.
    #[must_use]
    pub fn restart(self, restart: RestartPolicy) -> Self {
        self.with(|spec| spec.restart = restart)
    }

    /// So many tasks are replaced at once.
    #[must_use]
    pub fn parallelism(self, parallelism: u32) -> Self {
        self.with(|spec| spec.update.parallelism = parallelism)
    }

    /// The pause between two batches, in milliseconds.
    #[must_use]
    pub fn update_delay(self, milliseconds: u64) -> Self {
        self.with(|spec| spec.update.delay = Milliseconds(milliseconds))
    }

    /// How long a new task is watched, in milliseconds.
    #[must_use]
    pub fn monitor(self, milliseconds: u64) -> Self {
        self.with(|spec| spec.update.monitor = Milliseconds(milliseconds))
    }

    /// The new task is ready before the old one ends.
    #[must_use]
    pub fn start_first(self) -> Self {
        self.with(|spec| spec.update.order = UpdateOrder::StartFirst)
    }

    /// What happens when an update fails.
    #[must_use]
    pub fn on_failure(self, action: FailureAction) -> Self {
        self.with(|spec| spec.update.failure_action = action)
    }

    /// A command runs in its containers after each start.
    #[must_use]
    pub fn post_start(self, command: &[&str]) -> Self {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        self.with(|spec| spec.container.post_start.push(Hook { command, ..Hook::default() }))
    }

    /// Is ready only once a health check says so.
    #[must_use]
    pub fn healthcheck(self) -> Self {
        self.with(|spec| {
            spec.container.healthcheck = Some(Healthcheck {
                test: vec!["CMD".to_owned(), "probe".to_owned()],
                interval: None,
                timeout: None,
                retries: None,
                start_period: None,
                start_interval: None,
            });
        })
    }
}
