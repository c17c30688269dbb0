//! Pure. Which version of the API a request is meant in: `/v1.41/containers/json`, or the newest where it says none.

use std::fmt;

/// The newest version that is answered.
pub const NEWEST: ApiVersion = ApiVersion { major: 1, minor: 51 };
/// The oldest version that is answered.
pub const OLDEST: ApiVersion = ApiVersion { major: 1, minor: 24 };
/// [`NEWEST`] as text.
pub const NEWEST_TEXT: &str = "1.51";
/// [`OLDEST`] as text.
pub const OLDEST_TEXT: &str = "1.24";

/// A version of Docker's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// Always 1 until now.
    pub major: u32,
    /// Grows with each release that changes the API.
    pub minor: u32,
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// Why a request's version is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Newer than ours.
    #[error("client version {asked} is too new. Maximum supported API version is {NEWEST}")]
    TooNew {
        /// What was asked for.
        asked: ApiVersion,
    },
    /// Older than ours.
    #[error(
        "client version {asked} is too old. Minimum supported API version is {OLDEST}, please upgrade your client to a newer version"
    )]
    TooOld {
        /// What was asked for.
        asked: ApiVersion,
    },
}

/// The version of a path and the path without it. What only looks like a version is part of the path.
pub fn negotiate(path: &str) -> Result<(ApiVersion, &str), VersionError> {
    let Some((asked, rest)) = split(path) else { return Ok((NEWEST, path)) };
    if asked > NEWEST {
        return Err(VersionError::TooNew { asked });
    }
    if asked < OLDEST {
        return Err(VersionError::TooOld { asked });
    }
    Ok((asked, rest))
}

fn split(path: &str) -> Option<(ApiVersion, &str)> {
    let after = path.strip_prefix("/v")?;
    let (version, _) = after.split_once('/')?;
    let (major, minor) = version.split_once('.')?;
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse().unwrap_or(u32::MAX))
    };
    let asked = ApiVersion { major: number(major)?, minor: number(minor)? };
    Some((asked, &after[version.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_taken_off_the_path() {
        assert_eq!(negotiate("/_ping"), Ok((NEWEST, "/_ping")));
        assert_eq!(negotiate("/v1.41/containers/json"), Ok((ApiVersion { major: 1, minor: 41 }, "/containers/json")));
        assert_eq!(negotiate("/v1.24/_ping"), Ok((OLDEST, "/_ping")));
        for plain in ["/volumes", "/v1/x", "/v1.x/y", "/v1.30", "/v.1/x", "", "/v1.+3/x"] {
            assert_eq!(negotiate(plain), Ok((NEWEST, plain)));
        }
        assert_eq!((NEWEST.to_string().as_str(), OLDEST.to_string().as_str()), (NEWEST_TEXT, OLDEST_TEXT));
    }

    #[test]
    fn what_is_too_new_or_too_old_is_said_so() {
        let text = |path| negotiate(path).unwrap_err().to_string();
        assert_eq!(text("/v1.52/_ping"), "client version 1.52 is too new. Maximum supported API version is 1.51");
        assert!(
            text("/v1.23/_ping").starts_with("client version 1.23 is too old. Minimum supported API version is 1.24")
        );
        assert!(text("/v99999999999.0/_ping").contains("too new"));
    }
}
