//! Pure. What is at a path of a container, as the header of Docker's answers has it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use stack_engine::copying::PathStat;

/// Bits of Go's `os.FileMode` beside the permissions.
const DIRECTORY: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const PIPE: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SET_USER: u32 = 1 << 23;
const SET_GROUP: u32 = 1 << 22;
const CHARACTER: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;

fn mode(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => DIRECTORY,
        0o120_000 => SYMLINK,
        0o060_000 => DEVICE,
        0o020_000 => DEVICE | CHARACTER,
        0o010_000 => PIPE,
        0o140_000 => SOCKET,
        _ => 0,
    };
    let special = [(0o4000, SET_USER), (0o2000, SET_GROUP), (0o1000, STICKY)];
    let special = special.iter().filter(|(bit, _)| mode & bit != 0).fold(0, |all, (_, bit)| all | bit);
    (mode & 0o777) | kind | special
}

/// The value of `X-Docker-Container-Path-Stat`.
pub fn header(stat: &PathStat) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (seconds, nanoseconds) = stat.modified;
    let modified = jiff::Timestamp::new(seconds, i32::try_from(nanoseconds).unwrap_or(0)).unwrap_or_default();
    let document = json!({
        "name": text(&stat.name),
        "size": stat.size,
        "mode": mode(stat.mode),
        "mtime": modified.to_string(),
        "linkTarget": stat.link_target.as_deref().map(text).unwrap_or_default(),
    });
    STANDARD.encode(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_what_go_reads() {
        let stat = PathStat {
            name: b"tmp".to_vec(),
            size: 4096,
            mode: 0o041_777,
            modified: (1_700_000_000, 500_000_000),
            link_target: None,
        };
        let text = STANDARD.decode(header(&stat)).unwrap();
        let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            document,
            json!({"name": "tmp", "size": 4096, "mode": 2_148_532_735_u32, "mtime": "2023-11-14T22:13:20.5Z", "linkTarget": ""})
        );
        assert_eq!(mode(0o120_777), SYMLINK | 0o777);
        assert_eq!(mode(0o104_755), SET_USER | 0o755);
        assert_eq!(mode(0o020_666), DEVICE | CHARACTER | 0o666);
    }
}
