//! Pure. Names of devices: `VENDOR/CLASS=NAME`.

fn is_word(text: &str, first: fn(u8) -> bool, within: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let (Some(start), Some(end)) = (bytes.first(), bytes.last()) else { return false };
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || within.contains(byte);
    first(*start) && end.is_ascii_alphanumeric() && bytes.iter().all(plain)
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic()
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

/// Whether a text is a kind of devices: `vendor.com/class`.
#[must_use]
pub fn is_kind(text: &str) -> bool {
    text.split_once('/')
        .is_some_and(|(vendor, class)| is_word(vendor, is_letter, b"_-.") && is_word(class, is_letter, b"_-."))
}

/// Whether a text can be the name of a device within its kind.
#[must_use]
pub fn is_device(text: &str) -> bool {
    is_word(text, is_plain, b"_-.:")
}

/// Whether a text names a device of the Container Device Interface, and not a file: `vendor.com/class=name`.
#[must_use]
pub fn is_qualified(text: &str) -> bool {
    text.split_once('=').is_some_and(|(kind, name)| is_kind(kind) && is_device(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_name() {
        for good in
            ["vendor.com/class=name", "nvidia.com/gpu=0", "nvidia.com/gpu=0:1", "a/b=all", "v.x-y/c.d_e=GPU-1a.b"]
        {
            assert!(is_qualified(good), "{good}");
        }
        for bad in [
            "",
            "/dev/fuse",
            "vendor.com/class",
            "vendor.com=name",
            "vendor.com/class=",
            "/class=name",
            "vendor.com/=name",
            "1vendor/class=name",
            "vendor/1class=name",
            "vendor./class=name",
            "vendor/class=name-",
            "vendor/class=-name",
            "vendor/class=a b",
            "vendor/class/more=name",
        ] {
            assert!(!is_qualified(bad), "{bad}");
        }
    }
}
