//! The forms in which archives come: plain, or compressed by gzip, bzip2, xz or Zstandard, told by the content's first bytes
//! and never by a name. Decompressed as a stream, in memory that is bounded whatever the archive asks for.

use std::io::{self, BufReader, Cursor, Read};

/// How many of the first bytes tell how content is compressed.
pub const MAGIC_LENGTH: u64 = 6;
/// What is read of compressed content at once.
const INPUT_BUFFER: usize = 64 << 10;
/// What decompressing xz may take, in KiB: twice what `xz -9` makes needs, and as much as a dictionary of 128 MiB, which is also the
/// largest window of Zstandard that is taken.
const XZ_MEMORY_KIB: u32 = 136 << 10;

/// How content is compressed, told by its first bytes (RFC 1952, RFC 8878, the formats of bzip2 and xz).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// Zstandard.
    Zstandard,
}

impl Compression {
    /// By the first [`MAGIC_LENGTH`] bytes or more.
    #[must_use]
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // The size of its blocks is a digit; a block, or the end of an empty stream, comes next. A file of an archive may well be
            // called `BZh9`.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, ..] => {
                Self::Bzip2
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // A Zstandard frame, or a skippable frame before one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstandard,
            _ => Self::None,
        }
    }

    /// What users call it.
    fn name(self) -> &'static str {
        match self {
            Self::None => "no compression",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstandard => "Zstandard",
        }
    }
}

/// Why compressed content cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// It ends before its own end.
    #[error("the {compression} stream is cut off: unexpected EOF", compression = .0.name())]
    Truncated(Compression),
    /// It says what cannot be.
    #[error("the {compression} stream is damaged", compression = .compression.name())]
    Damaged {
        /// How it is compressed.
        compression: Compression,
        /// What the decompressor says.
        source: io::Error,
    },
    /// It asks for more memory than archives may.
    #[error(
        "the {compression} stream needs more memory than archives may take; compress it with a dictionary of at most 128 MiB",
        compression = .0.name()
    )]
    TooMuchMemory(Compression),
}

/// A reader of the uncompressed content.
///
/// # Errors
/// When the first bytes cannot be read.
pub fn decoder<'a>(mut compressed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = Vec::with_capacity(MAGIC_LENGTH as usize);
    (&mut compressed).take(MAGIC_LENGTH).read_to_end(&mut start)?;
    let compression = Compression::of(&start);
    let whole = Cursor::new(start).chain(compressed);
    let buffered = |whole| BufReader::with_capacity(INPUT_BUFFER, whole);
    let reader: Box<dyn Read + 'a> = match compression {
        Compression::None => return Ok(Box::new(whole)),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered(whole))),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(buffered(whole))),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(buffered(whole), true, XZ_MEMORY_KIB)),
        Compression::Zstandard => Box::new(zstd::stream::read::Decoder::new(whole)?),
    };
    Ok(Box::new(Telling { compression, reader: Some(reader) }))
}

/// Says what is wrong with compressed content in words that do not depend on who decompresses it; what has failed is not
/// asked again.
struct Telling<'a> {
    compression: Compression,
    reader: Option<Box<dyn Read + 'a>>,
}

impl Read for Telling<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(reader) = &mut self.reader else {
            return Err(io::Error::other(format!("the {} stream has failed before", self.compression.name())));
        };
        match reader.read(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                self.reader = None;
                Err(told(self.compression, error))
            }
            outcome => outcome,
        }
    }
}

fn told(compression: Compression, error: io::Error) -> io::Error {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, OutOfMemory, UnexpectedEof, Unsupported};
    let kind = error.kind();
    // What the system says is about whoever feeds the decompressor.
    if error.raw_os_error().is_some() {
        return error;
    }
    match kind {
        UnexpectedEof => io::Error::new(kind, DecompressError::Truncated(compression)),
        OutOfMemory => io::Error::new(kind, DecompressError::TooMuchMemory(compression)),
        InvalidData | InvalidInput | Unsupported | Other => {
            io::Error::new(InvalidData, DecompressError::Damaged { compression, source: error })
        }
        _ => error,
    }
}

#[cfg(test)]
#[path = "compression_tests.rs"]
mod tests;
