//! Pure. The keys by which a client leaves a terminal without ending what runs there: `ctrl-p,ctrl-q` unless it says
//! otherwise.

/// Why a text names no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid detach keys provided: `{text}`: expected single characters and ctrl-LETTER, with commas between them")]
pub struct DetachKeysError {
    /// What was given, at most 80 characters of it.
    pub text: String,
}

/// The keys, and how many of them have come just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys {
    keys: Vec<u8>,
    seen: usize,
}

impl Default for DetachKeys {
    fn default() -> Self {
        Self { keys: vec![16, 17], seen: 0 }
    }
}

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q` or `a,b`. Empty is the usual keys.
    pub fn decode(text: &str) -> Result<Self, DetachKeysError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let refuse = || DetachKeysError { text: text.chars().take(80).collect() };
        let key = |word: &str| -> Option<u8> {
            if let &[single] = word.as_bytes() {
                return Some(single);
            }
            match word.to_ascii_lowercase().strip_prefix("ctrl-")?.as_bytes() {
                [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
                [b'@'] => Some(0),
                [b'['] => Some(27),
                [b'\\'] => Some(28),
                [b']'] => Some(29),
                [b'^'] => Some(30),
                [b'_'] => Some(31),
                _ => None,
            }
        };
        let keys = text.split(',').map(key).collect::<Option<Vec<u8>>>().ok_or_else(refuse)?;
        Ok(Self { keys, seen: 0 })
    }

    /// What of the input is passed on, and whether the keys have come. A part of the keys is held back until it is clear
    /// that the rest does not come.
    pub fn pass(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(input.len());
        for &byte in input {
            if byte != self.keys[self.seen] {
                passed.extend_from_slice(&self.keys[..self.seen]);
                self.seen = 0;
                if byte != self.keys[0] {
                    passed.push(byte);
                    continue;
                }
            }
            self.seen += 1;
            if self.seen == self.keys.len() {
                self.seen = 0;
                return (passed, true);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_by_name() {
        assert_eq!(DetachKeys::decode("").unwrap(), DetachKeys::default());
        assert_eq!(DetachKeys::decode("ctrl-p,ctrl-q").unwrap(), DetachKeys::default());
        assert_eq!(DetachKeys::decode("a,ctrl-[,Ctrl-Z").unwrap().keys, [b'a', 27, 26]);
        for bad in ["ctrl-", "ab", "ctrl-1", "a,,b", "ctrl-é"] {
            assert!(DetachKeys::decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_detach_however_they_come_and_nothing_else_is_lost() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.pass(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.pass(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(keys.pass(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.pass(b"\x11rest"), (Vec::new(), true));
        let mut single = DetachKeys::decode("x").unwrap();
        assert_eq!(single.pass(b"abxc"), (b"ab".to_vec(), true));
    }
}
