//! Pure. Names of devices that are no paths: `VENDOR/CLASS=NAME` of the Container Device Interface.

fn is_word(text: &str, starts: fn(&char) -> bool, within: &[char]) -> bool {
    let ends_well = text.ends_with(|last: char| last.is_ascii_alphanumeric());
    let known = |character: char| character.is_ascii_alphanumeric() || within.contains(&character);
    text.chars().next().is_some_and(|first| starts(&first)) && ends_well && text.chars().all(known)
}

/// Whether a text names a device in this way.
pub(crate) fn is_name(text: &str) -> bool {
    let Some((kind, name)) = text.split_once('=') else { return false };
    let Some((vendor, class)) = kind.split_once('/') else { return false };
    [vendor, class].into_iter().all(|word| is_word(word, char::is_ascii_alphabetic, &['_', '-', '.']))
        && is_word(name, char::is_ascii_alphanumeric, &['_', '-', '.', ':'])
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_are_told_from_paths() {
        for good in ["vendor.com/class=name", "nvidia.com/gpu=0:1", "a/b=0"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["/dev/fuse", "/dev/a=b", "vendor.com/class", "vendor.com/class=", "a/1=x", "a/b=x:", "a/b/c=x", ""]
        {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
