//! Searching a registry's images, as Docker does it: `GET /v1/search`, an interface that Docker Hub and some others have kept
//! from before the distribution specification, which knows no search.

use reqwest::Url;
use serde::Deserialize;

use super::config::Registries;
use super::error::PullError;
use super::session::{Credentials, Session};

/// Where Docker Hub is searched.
const DEFAULT_SEARCH_HOST: &str = "index.docker.io";
/// The longest answer; a hundred results are a tenth of it.
const RESULTS_LIMIT: u64 = 4 << 20;

/// What a registry has found.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FoundImage {
    /// How many users like it.
    #[serde(default)]
    pub star_count: i64,
    /// Whether it is one of Docker's own selection.
    #[serde(default)]
    pub is_official: bool,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// What its owner says of it.
    #[serde(default)]
    pub description: String,
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    results: Option<Vec<FoundImage>>,
}

/// Which registry a term is for, and what is left of the term: the first part is a registry if it looks like a host.
fn registry_of(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => match host {
            "docker.io" | DEFAULT_SEARCH_HOST => (DEFAULT_SEARCH_HOST, rest.strip_prefix("library/").unwrap_or(rest)),
            host => (host, rest),
        },
        _ => (DEFAULT_SEARCH_HOST, term.strip_prefix("library/").unwrap_or(term)),
    }
}

/// At most `limit` images that a registry finds by a term.
pub(in crate::image) async fn search(
    registries: &Registries,
    term: &str,
    limit: u8,
    credentials: Option<&Credentials>,
) -> Result<Vec<FoundImage>, PullError> {
    let (registry, term) = registry_of(term);
    // A term must not choose another host: what comes before the first slash is all of it, and a name and password are no part.
    let is_host = Url::parse(&format!("https://{registry}")).is_ok_and(|url| {
        url.username().is_empty() && url.password().is_none() && url.path() == "/" && url.query().is_none()
    });
    if !is_host {
        return Err(PullError::NoRegistry { registry: registry.to_owned() });
    }
    let session = Session::of_registry(registries, registry, credentials);
    let answer = session.search(term, limit, RESULTS_LIMIT).await?;
    let found: Found = serde_json::from_slice(&answer).map_err(|source| PullError::Registry {
        registry: format!("the registry {registry}"),
        what: format!("search for {term}"),
        status: 200,
        detail: format!("the results cannot be understood: {source}"),
    })?;
    Ok(found.results.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_of_a_term_is_a_registry_if_it_looks_like_one() {
        for (term, expected) in [
            ("busybox", ("index.docker.io", "busybox")),
            ("library/busybox", ("index.docker.io", "busybox")),
            ("some/thing", ("index.docker.io", "some/thing")),
            ("docker.io/library/busybox", ("index.docker.io", "busybox")),
            ("localhost/x", ("localhost", "x")),
            ("registry.example.com/a/b", ("registry.example.com", "a/b")),
            ("registry:5000/a", ("registry:5000", "a")),
        ] {
            assert_eq!(registry_of(term), expected, "{term}");
        }
    }
}
