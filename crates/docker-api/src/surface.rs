//! Pure. What is answered where there is no handler: the routes that Docker has and this daemon does not serve yet, the
//! cluster's routes, and everything else.

use axum::http::Method;

use crate::error::ApiError;

/// `{}` is one part of a path, `{..}` one or more.
const NOT_YET: &[(&str, &[&str])] = &[
    ("GET", &["plugins", "plugins/privileges", "plugins/{..}/json"]),
    ("PUT", &["volumes/{}"]),
    (
        "POST",
        &[
            "build",
            "build/cancel",
            "build/prune",
            "session",
            "grpc",
            "plugins/create",
            "plugins/pull",
            "plugins/{..}/disable",
            "plugins/{..}/enable",
            "plugins/{..}/push",
            "plugins/{..}/set",
            "plugins/{..}/upgrade",
            "swarm/init",
            "swarm/join",
        ],
    ),
    ("DELETE", &["plugins/{..}"]),
];

/// Families of routes that only a manager of a swarm has.
const CLUSTER: [&str; 6] = ["swarm", "nodes", "services", "tasks", "secrets", "configs"];

/// Why a request that no handler takes is refused. `path` is without its version.
pub fn refusal(method: &Method, path: &str) -> ApiError {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let known = NOT_YET
        .iter()
        .filter(|(name, _)| *name == method.as_str())
        .flat_map(|(_, patterns)| patterns.iter())
        .find(|pattern| matches(&pattern.split('/').collect::<Vec<_>>(), &parts));
    if let Some(pattern) = known {
        let route = format!("{method} /{}", pattern.replace("{..}", "{name}").replace("{}", "{id}"));
        return ApiError::NotSupported { what: route };
    }
    if parts.first().is_some_and(|family| CLUSTER.contains(family)) {
        return ApiError::NoManager;
    }
    ApiError::PageNotFound
}

fn matches(pattern: &[&str], parts: &[&str]) -> bool {
    match (pattern.split_first(), parts.split_first()) {
        (None, None) => true,
        (Some((&"{..}", rest)), Some((part, others))) => {
            !part.is_empty() && (matches(rest, others) || matches(pattern, others))
        }
        (Some((&"{}", rest)), Some((part, others))) => !part.is_empty() && matches(rest, others),
        (Some((word, rest)), Some((part, others))) => word == part && matches(rest, others),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_has_its_refusal() {
        let text = |method: Method, path: &str| refusal(&method, path).to_string();
        assert_eq!(text(Method::POST, "/build"), "POST /build is not supported by this daemon yet");
        assert_eq!(
            text(Method::POST, "/plugins/docker.io/library/web/push"),
            "POST /plugins/{name}/push is not supported by this daemon yet"
        );
        for (method, path) in [
            (Method::GET, "/services"),
            (Method::GET, "/nodes/self"),
            (Method::POST, "/secrets/create"),
            (Method::GET, "/swarm"),
        ] {
            assert!(matches!(refusal(&method, path), ApiError::NoManager), "{path}");
        }
        for (method, path) in [
            (Method::GET, "/"),
            (Method::GET, "/containers"),
            (Method::GET, "/containers//changes"),
            (Method::POST, "/_ping"),
            (Method::GET, "/images/x/push"),
            (Method::DELETE, "/images/"),
        ] {
            assert!(matches!(refusal(&method, path), ApiError::PageNotFound), "{path}");
        }
    }
}
