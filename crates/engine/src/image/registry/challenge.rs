//! Pure. What a registry demands before it answers: the `WWW-Authenticate` header (RFC 9110 section 11.6.1, and the
//! distribution project's token authentication).

/// How to get in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// A name and a password with each request.
    Basic,
    /// A token from another service.
    Bearer {
        /// That service's address.
        realm: String,
        /// What the token is for.
        service: Option<String>,
        /// What it shall allow.
        scope: Option<String>,
    },
}

/// The first challenge of a header that is understood; a token is preferred to a password.
#[must_use]
pub fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = false;
    for header in headers.take(8) {
        let mut rest = header.trim();
        while !rest.is_empty() {
            let (scheme, after) = rest.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((rest, ""));
            let scheme = scheme.trim_matches(',');
            let (parameters, after) = parameters(after.trim_start());
            if scheme.eq_ignore_ascii_case("bearer") {
                let get = |name: &str| {
                    let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
                };
                if let Some(realm) = get("realm") {
                    return Some(Challenge::Bearer { realm, service: get("service"), scope: get("scope") });
                }
            }
            basic |= scheme.eq_ignore_ascii_case("basic");
            rest = after.trim_start_matches([',', ' ', '\t']);
        }
    }
    basic.then_some(Challenge::Basic)
}

/// `key=value, key="value"` up to the next scheme, and what follows.
fn parameters(text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let candidate = rest.trim_start_matches([',', ' ', '\t']);
        let end =
            candidate.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))).unwrap_or(candidate.len());
        let Some(value) = candidate[end..].strip_prefix('=').filter(|_| end > 0) else { return (found, candidate) };
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = value.find([',', ' ', '\t']).unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        found.push((candidate[..end].to_owned(), value));
        rest = after;
    }
}

fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_of_registries_are_understood() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(Into::into),
                scope: scope.map(Into::into),
            })
        };
        for (header, expected) in [
            (
                r#"Bearer realm="https://a/token",service="reg",scope="repository:x:pull,push""#,
                bearer("https://a/token", Some("reg"), Some("repository:x:pull,push")),
            ),
            (r#"bearer service=reg , realm="https://a""#, bearer("https://a", Some("reg"), None)),
            (r#"Basic realm="Registry Realm""#, Some(Challenge::Basic)),
            (r#"Basic realm="x", Bearer realm="https://a""#, bearer("https://a", None, None)),
            (r#"Bearer realm="a\"b""#, bearer("a\"b", None, None)),
            ("Bearer", None),
            ("Digest realm=\"x\"", None),
            ("", None),
        ] {
            assert_eq!(parse([header].into_iter()), expected, "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics_or_hangs(header in "\\PC{0,80}", other in "[Bb]earer [a-z=\", \\\\]{0,40}") {
            let _ = parse([header.as_str(), other.as_str()].into_iter());
        }
    }
}
