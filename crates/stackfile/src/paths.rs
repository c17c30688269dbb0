//! Pure. Paths as texts: nothing here asks a file system.

/// Without `.`, doubled slashes and, where something is before them, `..`.
pub(crate) fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// `path` as seen from `directory`; an absolute one stays, and so does one below somebody's home (`~`).
pub(crate) fn join(directory: &str, path: &str) -> String {
    if path.starts_with('~') || is_remote(path) {
        return path.to_owned();
    }
    if path.starts_with('/') || directory.is_empty() { clean(path) } else { clean(&format!("{directory}/{path}")) }
}

/// Whether a path, which may have been cleaned, is the address of something elsewhere: `https://…`, `oci://…`, `git@…`.
pub(crate) fn is_remote(path: &str) -> bool {
    let scheme = path.split_once(":/").is_some_and(|(scheme, _)| {
        scheme.len() > 1 && scheme.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'+')
    });
    scheme || path.starts_with("git@")
}

/// The directory that a file is in.
pub(crate) fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((parent, _)) => parent,
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_joined() {
        for (path, cleaned) in [("/a/./b//c/", "/a/b/c"), ("a/../b", "b"), ("../a", "../a"), ("/..", "/"), (".", ".")] {
            assert_eq!(clean(path), cleaned);
        }
        assert_eq!(join("/srv/app", "./conf"), "/srv/app/conf");
        assert_eq!(join("/srv/app", "/etc"), "/etc");
        assert_eq!(join("", "conf"), "conf");
        assert_eq!(join("/srv", "~/conf"), "~/conf");
        assert!(is_remote("https://example.com/a.yml") && is_remote("oci:/x/y") && is_remote("git@example.com:a.git"));
        assert!(!is_remote("../a.yml") && !is_remote("/a:/b"));
        assert_eq!(parent("/a/b.yml"), "/a");
        assert_eq!(parent("b.yml"), "");
    }
}
