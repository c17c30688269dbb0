//! Contexts: which cluster a command speaks to. One file each, readable by its owner alone, as it holds a private key.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stack_api::{Client, Endpoint, Identity};

use crate::failure::{ExitCode, Failure};

/// Where the daemon of this machine listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/stack/stackd.sock";

/// How to reach one cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Context {
    /// A `stackd` on this machine.
    Socket {
        /// Its socket.
        path: PathBuf,
    },
    /// Controllers over the network.
    Remote {
        /// Where they listen.
        controllers: Vec<SocketAddr>,
        /// The cluster's authority, PEM.
        ca_certificate: String,
        /// The operator's certificate, PEM.
        certificate: String,
        /// Its private key, PEM.
        key: String,
    },
}

impl Context {
    /// For tables: never the key.
    pub fn address(&self) -> String {
        match self {
            Self::Socket { path } => format!("unix://{}", path.display()),
            Self::Remote { controllers, .. } => {
                controllers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            }
        }
    }

    /// A client of it.
    pub fn client(&self) -> Result<Client, Failure> {
        let client = match self {
            Self::Socket { path } => Client::new(Endpoint::Socket(path.clone()), None)?,
            Self::Remote { controllers, ca_certificate, certificate, key } => {
                let identity = Identity {
                    ca_certificate: ca_certificate.clone(),
                    certificate: certificate.clone(),
                    key: key.clone(),
                };
                Client::new(Endpoint::Controllers(controllers.clone()), Some(&identity))?
            }
        };
        Ok(client)
    }
}

/// The contexts of one user.
#[derive(Debug, Clone)]
pub struct Contexts {
    directory: PathBuf,
}

impl Contexts {
    /// Those of the environment's user: `STACK_CONFIG_DIR`, else `XDG_CONFIG_HOME/stack`, else `~/.config/stack`.
    pub fn of_user() -> Self {
        let directory = std::env::var_os("STACK_CONFIG_DIR")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("XDG_CONFIG_HOME").map(|home| Path::new(&home).join("stack")))
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config/stack")))
            .unwrap_or_else(|| PathBuf::from(".stack"));
        Self { directory }
    }

    fn file(&self, name: &str) -> Result<PathBuf, Failure> {
        let fits = !name.is_empty()
            && name.len() <= 64
            && !name.starts_with('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if !fits {
            return Err(Failure::new(
                ExitCode::Usage,
                format!("`{name}` cannot be the name of a context: use letters, digits, `-`, `_` and `.`"),
            ));
        }
        Ok(self.directory.join("contexts").join(format!("{name}.json")))
    }

    /// All names, sorted.
    pub fn names(&self) -> Result<Vec<String>, Failure> {
        let entries = match fs::read_dir(self.directory.join("contexts")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.strip_suffix(".json").map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    /// The one that is used when none is named.
    pub fn current(&self) -> Option<String> {
        let name = fs::read_to_string(self.directory.join("current")).ok()?;
        Some(name.trim().to_owned()).filter(|name| !name.is_empty())
    }

    /// Reads one.
    pub fn read(&self, name: &str) -> Result<Context, Failure> {
        let path = self.file(name)?;
        let text = fs::read(&path).map_err(|error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                Failure::new(ExitCode::NotFound, format!("there is no context `{name}`"))
                    .with_hint("`stack context ls` lists them")
            } else {
                Failure::new(ExitCode::Failed, format!("cannot read {}: {error}", path.display()))
            }
        })?;
        serde_json::from_slice(&text)
            .map_err(|error| Failure::new(ExitCode::Failed, format!("{} is damaged: {error}", path.display())))
    }

    /// Writes one, whole or not at all.
    pub fn write(&self, name: &str, context: &Context) -> Result<(), Failure> {
        let path = self.file(name)?;
        let text = serde_json::to_vec_pretty(context)
            .map_err(|error| Failure::new(ExitCode::Failed, format!("the context cannot be written: {error}")))?;
        self.put(&path, &text)
    }

    /// Removes one; whether there was one.
    pub fn remove(&self, name: &str) -> Result<bool, Failure> {
        let path = self.file(name)?;
        if self.current().as_deref() == Some(name) {
            let _ = fs::remove_file(self.directory.join("current"));
        }
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes one the default; `None`: this machine's daemon.
    pub fn set_current(&self, name: Option<&str>) -> Result<(), Failure> {
        match name {
            Some(name) => {
                self.read(name)?;
                self.put(&self.directory.join("current"), name.as_bytes())
            }
            None => match fs::remove_file(self.directory.join("current")) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            },
        }
    }

    fn put(&self, path: &Path, text: &[u8]) -> Result<(), Failure> {
        let fail =
            |error: std::io::Error| Failure::new(ExitCode::Failed, format!("cannot write {}: {error}", path.display()));
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fail)?;
        let temporary = path.with_extension(format!("new-{}", std::process::id()));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(fail)?;
        file.write_all(text).and_then(|()| file.sync_data()).map_err(fail)?;
        fs::rename(&temporary, path).map_err(fail)
    }

    /// The context that a command uses: the one named, else the current one, else this machine's daemon.
    pub fn choose(&self, name: Option<&str>, socket: Option<&Path>) -> Result<Context, Failure> {
        if let Some(path) = socket {
            return Ok(Context::Socket { path: path.to_owned() });
        }
        match name.map(str::to_owned).or_else(|| self.current()) {
            Some(name) => self.read(&name),
            None => Ok(Context::Socket { path: PathBuf::from(DEFAULT_SOCKET) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_context_is_kept_for_its_owner_alone_and_chosen_by_name() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let contexts = Contexts { directory: directory.path().join("stack") };
        let remote = Context::Remote {
            controllers: vec!["10.0.0.1:4600".parse().expect("an address")],
            ca_certificate: String::new(),
            certificate: String::new(),
            key: "k".to_owned(),
        };
        contexts.write("prod", &remote).expect("written");
        let mode = fs::metadata(directory.path().join("stack/contexts/prod.json")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(contexts.choose(None, None), Ok(Context::Socket { .. })));
        contexts.set_current(Some("prod")).expect("set");
        assert!(contexts.choose(None, None).expect("chosen") == remote);
        assert!(contexts.remove("prod").expect("removed"));
        assert_eq!(contexts.current(), None);
        assert!(contexts.write("../x", &remote).is_err());
    }
}
