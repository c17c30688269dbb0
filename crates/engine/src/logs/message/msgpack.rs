//! Pure. As much of MessagePack as the forward protocol needs.

/// The head of an array.
pub(super) fn array(to: &mut Vec<u8>, length: usize) {
    head(to, length, (0x90, 15), None, (0xdc, 0xdd));
}

/// The head of a map.
pub(super) fn map(to: &mut Vec<u8>, length: usize) {
    head(to, length, (0x80, 15), None, (0xde, 0xdf));
}

/// A text, which may hold any bytes.
pub(super) fn text(to: &mut Vec<u8>, bytes: &[u8]) {
    head(to, bytes.len(), (0xa0, 31), Some(0xd9), (0xda, 0xdb));
    to.extend_from_slice(bytes);
}

fn head(to: &mut Vec<u8>, length: usize, (fixed, most): (u8, u8), byte: Option<u8>, (short, long): (u8, u8)) {
    match (u8::try_from(length), u16::try_from(length), byte) {
        (Ok(length), _, _) if length <= most => to.push(fixed | length),
        (Ok(length), _, Some(byte)) => to.extend([byte, length]),
        (_, Ok(length), _) => {
            to.push(short);
            to.extend(length.to_be_bytes());
        }
        _ => {
            to.push(long);
            to.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}

/// A number that is not negative.
pub(super) fn number(to: &mut Vec<u8>, value: u64) {
    if let Ok(small) = u8::try_from(value) {
        if small >= 0x80 {
            to.push(0xcc);
        }
        to.push(small);
    } else if let Ok(value) = u16::try_from(value) {
        to.push(0xcd);
        to.extend(value.to_be_bytes());
    } else if let Ok(value) = u32::try_from(value) {
        to.push(0xce);
        to.extend(value.to_be_bytes());
    } else {
        to.push(0xcf);
        to.extend(value.to_be_bytes());
    }
}

/// Reads a text, and what is behind it. `None` when there is none.
pub(super) fn read_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (width, length) = match first {
        0xa0..=0xbf => (0, usize::from(first & 0x1f)),
        // Texts and bytes.
        0xd9 | 0xc4 => (1, usize::from(*rest.first()?)),
        0xda | 0xc5 => (2, usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?))),
        _ => return None,
    };
    let rest = rest.get(width..)?;
    Some((rest.get(..length)?, rest.get(length..)?))
}
