//! Pure. Docker's multiplexed stream: each chunk of output behind eight bytes, the first of which names its source and the
//! last four its length (big endian).

use bytes::{BufMut as _, Bytes, BytesMut};

/// Where a chunk comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
    /// The daemon itself: the client shows it as an error and stops.
    Daemon,
}

/// How output is put on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// In frames.
    Multiplexed,
    /// As it is: of a container with a terminal, which has one stream only.
    Raw,
}

/// Appends a chunk in as many frames as its length needs.
pub fn put(framing: Framing, channel: Channel, parts: &[&[u8]], to: &mut BytesMut) {
    if framing == Framing::Multiplexed {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let Ok(length) = u32::try_from(length) else {
            for part in parts.iter().flat_map(|part| part.chunks(1 << 24)) {
                put(framing, channel, &[part], to);
            }
            return;
        };
        let number = match channel {
            Channel::Output => 1,
            Channel::Error => 2,
            Channel::Daemon => 3,
        };
        to.put_slice(&[number, 0, 0, 0]);
        to.put_u32(length);
    }
    for part in parts {
        to.put_slice(part);
    }
}

/// One chunk on the wire.
pub fn frame(framing: Framing, channel: Channel, parts: &[&[u8]]) -> Bytes {
    let mut to = BytesMut::with_capacity(8 + parts.iter().map(|part| part.len()).sum::<usize>());
    put(framing, channel, parts, &mut to);
    to.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_its_source_and_length() {
        let framed = frame(Framing::Multiplexed, Channel::Error, &[b"12 ", b"oh\n"]);
        assert_eq!(&framed[..], b"\x02\0\0\0\0\0\0\x0612 oh\n");
        assert_eq!(&frame(Framing::Multiplexed, Channel::Output, &[])[..], b"\x01\0\0\0\0\0\0\0");
        assert_eq!(frame(Framing::Multiplexed, Channel::Daemon, &[&[0; 300]])[..8], [3, 0, 0, 0, 0, 0, 1, 44]);
        assert_eq!(&frame(Framing::Raw, Channel::Output, &[b"a", b"b"])[..], b"ab");
    }
}
