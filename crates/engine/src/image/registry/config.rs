//! How registries are reached: what an operator configures, checked, and turned into HTTP clients.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use crate::image::document::Platform;

/// What an operator says about registries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryConfig {
    /// For a registry (`docker.io`, `registry.example:5000`), addresses that hold the same content and are asked first,
    /// in order: `https://mirror.example` or, where it is trusted, `http://…`. Credentials are never sent to them.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries that may be spoken to without TLS, as `host` or `host:port`. Loopback addresses always may.
    pub insecure: BTreeSet<String>,
    /// Files of certificate authorities (PEM) that are trusted beside the system's.
    pub certificate_authorities: Vec<PathBuf>,
    /// The platform whose images are pulled; nothing means this host's.
    pub platform: Option<Platform>,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a transfer may stand still.
    pub stall_timeout: Duration,
    /// How many times in a row something is tried without getting any further.
    pub attempts: u32,
    /// The pause after the first failure; each further one is twice as long.
    pub first_pause: Duration,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            mirrors: BTreeMap::new(),
            insecure: BTreeSet::new(),
            certificate_authorities: Vec::new(),
            platform: None,
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            attempts: 5,
            first_pause: Duration::from_millis(200),
        }
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryConfigError {
    /// A mirror is no address.
    #[error(
        "mirror `{mirror}` of registry `{registry}` is not an address like `https://mirror.example`, without a name, password or query"
    )]
    BadMirror {
        /// For which registry.
        registry: String,
        /// What was given, without a name and a password.
        mirror: String,
    },
    /// A file of certificate authorities cannot be read.
    #[error("cannot read the certificate authorities in {path}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// The answer.
        source: std::io::Error,
    },
    /// A file of certificate authorities holds none.
    #[error("{path} holds no certificate in PEM form")]
    NoCertificate {
        /// Which file.
        path: PathBuf,
    },
    /// No HTTP client can be made.
    #[error("cannot set up HTTP over TLS")]
    Client(#[source] reqwest::Error),
}

/// Everything that is needed to talk to any registry. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Registries {
    pub(super) config: RegistryConfig,
    pub(super) mirrors: BTreeMap<String, Vec<Url>>,
    pub(super) client: reqwest::Client,
    /// For loopback addresses, which no proxy reaches.
    pub(super) direct_client: reqwest::Client,
}

impl Registries {
    /// Checks a configuration and reads the files that it names.
    ///
    /// # Errors
    /// When something in it cannot be used.
    pub fn new(config: RegistryConfig) -> Result<Self, RegistryConfigError> {
        let mut mirrors = BTreeMap::new();
        for (registry, addresses) in &config.mirrors {
            let mut urls = Vec::new();
            for mirror in addresses {
                // What stands before an `@` may be a password.
                let shown = mirror.rsplit_once('@').map_or(mirror.as_str(), |(_, rest)| rest);
                let bad = || RegistryConfigError::BadMirror { registry: registry.clone(), mirror: shown.to_owned() };
                let url = Url::parse(mirror).map_err(|_| bad())?;
                let good = matches!(url.scheme(), "http" | "https")
                    && url.host_str().is_some()
                    && url.username().is_empty()
                    && url.password().is_none()
                    && url.query().is_none()
                    && url.fragment().is_none();
                if !good {
                    return Err(bad());
                }
                urls.push(url);
            }
            mirrors.insert(registry.clone(), urls);
        }
        let mut authorities = Vec::new();
        for path in &config.certificate_authorities {
            let text =
                std::fs::read(path).map_err(|source| RegistryConfigError::Unreadable { path: path.clone(), source })?;
            let found = reqwest::Certificate::from_pem_bundle(&text).unwrap_or_default();
            if found.is_empty() {
                return Err(RegistryConfigError::NoCertificate { path: path.clone() });
            }
            authorities.extend(found);
        }
        // Whoever installed a provider before has chosen the same one; the first stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = client(&config, &authorities, false)?;
        let direct_client = client_without_proxy(&config, &authorities)?;
        Ok(Self { config, mirrors, client, direct_client })
    }
}

fn client_without_proxy(
    config: &RegistryConfig,
    authorities: &[reqwest::Certificate],
) -> Result<reqwest::Client, RegistryConfigError> {
    client(config, authorities, true)
}

fn client(
    config: &RegistryConfig,
    authorities: &[reqwest::Certificate],
    direct: bool,
) -> Result<reqwest::Client, RegistryConfigError> {
    let builder = || {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("stack/", env!("CARGO_PKG_VERSION")))
            // Redirects are followed here, one by one, so that no authorization goes to another host.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(config.connect_timeout)
            .read_timeout(config.stall_timeout)
            .pool_idle_timeout(Duration::from_secs(30));
        if direct { builder.no_proxy() } else { builder }
    };
    match builder().tls_certs_merge(authorities.iter().cloned()).build() {
        Ok(client) => Ok(client),
        Err(error) => {
            // A host without any system authorities can still speak to those registries that were configured.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the system's certificate authorities cannot be used; install the package ca-certificates"
            );
            builder().tls_certs_only(authorities.iter().cloned()).build().map_err(RegistryConfigError::Client)
        }
    }
}
