//! Pure. The names that users give, checked once where they enter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` cannot be the name of a {kind}: {reason}")]
pub struct NameError {
    /// `stack` or `service`.
    pub kind: &'static str,
    /// What was given, at most 80 characters of it.
    pub text: String,
    /// The rule that it breaks.
    pub reason: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                match $check(text) {
                    Ok(()) => Ok(Self(text.to_owned())),
                    Err(reason) => Err(NameError { kind: $kind, text: text.chars().take(80).collect(), reason }),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

name! {
    /// The name of a stack: Compose's rule for project names.
    StackName, "stack", stack_rule
}
name! {
    /// The name of a service within its stack: Compose's rule for service keys.
    ServiceName, "service", service_rule
}
name! {
    /// The id of a user's request: from the CLI or made by the first host, carried to every step that comes of it.
    RequestId, "request", request_rule
}

fn request_rule(text: &str) -> Result<(), &'static str> {
    if !(8..=64).contains(&text.len()) {
        return Err("it must have 8 to 64 characters");
    }
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        Ok(())
    } else {
        Err("it may have only letters, digits and `-`")
    }
}

fn stack_rule(text: &str) -> Result<(), &'static str> {
    let mut bytes = text.bytes();
    match bytes.next() {
        None => return Err("it is empty"),
        Some(b'a'..=b'z' | b'0'..=b'9') => {}
        Some(_) => return Err("it must start with a lower-case letter or a digit"),
    }
    if text.len() > 63 {
        return Err("it is longer than 63 characters");
    }
    if bytes.all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')) {
        Ok(())
    } else {
        Err("it may have only lower-case letters, digits, `-` and `_`")
    }
}

fn service_rule(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > 63 {
        return Err("it is longer than 63 characters");
    }
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
        Ok(())
    } else {
        Err("it may have only letters, digits, `-`, `_` and `.`")
    }
}

/// A service of the cluster: its stack and its name in it. Printed and serialised as `stack/service`, which is
/// unambiguous because no name may have a `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The stack that it belongs to.
    pub stack: StackName,
    /// Its key in the stack file.
    pub service: ServiceName,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&format!("{}/{}", self.stack, self.service))
    }
}

impl FromStr for ServiceKey {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some((stack, service)) = text.split_once('/') else {
            return Err(NameError {
                kind: "service",
                text: text.chars().take(80).collect(),
                reason: "expected STACK/SERVICE",
            });
        };
        Ok(Self { stack: stack.parse()?, service: service.parse()? })
    }
}

impl Serialize for ServiceKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServiceKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
