//! Pure. What an attached connection carries, both ways: packets of one byte that says what it is, four bytes of length
//! (big endian), and that many bytes.

use std::io;

/// Bytes before each packet's content.
pub const HEADER: usize = 5;
/// No packet's content is longer.
pub const LONGEST_PACKET: usize = 64 * 1024;

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet {
    /// To the shim: bytes for standard input.
    Input,
    /// To the shim: there is no more input. Nobody else can send any either.
    EndOfInput,
    /// From the shim: bytes of standard output, or of the terminal.
    Output,
    /// From the shim: bytes of standard error.
    Error,
}

impl Packet {
    const fn number(self) -> u8 {
        match self {
            Self::Input => 0,
            Self::Output => 1,
            Self::Error => 2,
            Self::EndOfInput => 3,
        }
    }
}

/// The bytes before a packet's content.
///
/// # Errors
/// When it is longer than [`LONGEST_PACKET`].
pub fn header(packet: Packet, length: usize) -> io::Result<[u8; HEADER]> {
    let announced = u32::try_from(length).ok().filter(|_| length <= LONGEST_PACKET);
    let [a, b, c, d] = announced.ok_or_else(|| too_long(length))?.to_be_bytes();
    Ok([packet.number(), a, b, c, d])
}

/// What a header says: the packet and its content's length.
///
/// # Errors
/// When there is no such packet, or it is longer than [`LONGEST_PACKET`].
pub fn read_header(bytes: [u8; HEADER]) -> io::Result<(Packet, usize)> {
    let [number, a, b, c, d] = bytes;
    let packet = match number {
        0 => Packet::Input,
        1 => Packet::Output,
        2 => Packet::Error,
        3 => Packet::EndOfInput,
        other => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("there is no packet of kind {other}")));
        }
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > LONGEST_PACKET { Err(too_long(length)) } else { Ok((packet, length)) }
}

fn too_long(length: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a packet of {length} bytes is too long"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(length in 0..=LONGEST_PACKET) {
            for packet in [Packet::Input, Packet::EndOfInput, Packet::Output, Packet::Error] {
                prop_assert_eq!(read_header(header(packet, length).unwrap()).unwrap(), (packet, length));
            }
        }

        #[test]
        fn no_bytes_panic(bytes: [u8; HEADER]) {
            if let Ok((_, length)) = read_header(bytes) {
                prop_assert!(length <= LONGEST_PACKET);
            }
        }
    }

    #[test]
    fn nothing_longer_is_taken() {
        assert!(header(Packet::Input, LONGEST_PACKET + 1).is_err());
        assert!(read_header([1, 0xff, 0, 0, 0]).is_err());
        assert!(read_header([9, 0, 0, 0, 0]).is_err());
    }
}
