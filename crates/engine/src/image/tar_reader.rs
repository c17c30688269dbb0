//! Pure. Reads a tar archive of any dialect that images are made of (v7, ustar, GNU, PAX) entry by entry from a stream.
//!
//! Names, PAX records and sparse maps are bounded before they are read, PAX values may hold any byte (file capabilities
//! do), and all four sparse encodings are understood. The layout is that of POSIX.1-2017 `pax` and of GNU tar's manual.

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::{EntryType, Header};

/// The unit that everything in an archive is padded to.
const BLOCK: u64 = 512;
/// The most that the headers of one entry (its long names, PAX records and sparse map) may hold.
const METADATA_LIMIT: u64 = 4 << 20;
/// The most pieces that a sparse file may have.
const SEGMENT_LIMIT: usize = 1 << 16;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream failed.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The stream ended within an entry.
    #[error("the archive is cut off at byte {position}")]
    Truncated {
        /// How much was read.
        position: u64,
    },
    /// The archive is not well formed.
    #[error("the archive is malformed before byte {position}: {problem}")]
    Malformed {
        /// How much was read.
        position: u64,
        /// What is wrong.
        problem: &'static str,
    },
}

/// What kind of thing an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file; its bytes follow.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to `link`.
    Symlink,
    /// A second name of the entry `link`.
    HardLink,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// Something that this program does not know; its header's type byte.
    Unknown(u8),
}

/// A piece of a sparse file that holds data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// One entry's description. Names are bytes as they stand in the archive: nothing is resolved or cleaned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The target of a link, else empty.
    pub link: Vec<u8>,
    /// Permission bits, with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// Time of last change: seconds since 1970 and nanoseconds.
    pub modified: (i64, u32),
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Length of the file in bytes, holes included.
    pub size: u64,
    /// For a sparse file, where its data goes, in order and without overlap. The stream holds only these pieces.
    pub segments: Option<Vec<Segment>>,
    /// Extended attributes by name.
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Reads entries; after `next_entry` gave one, reading from this gives that entry's bytes.
pub struct TarReader<R> {
    reader: R,
    position: u64,
    data_left: u64,
    padding: u64,
    global: Records,
}

type Records = Vec<(Vec<u8>, Vec<u8>)>;

impl<R: Read> TarReader<R> {
    /// Starts at the beginning of an archive.
    pub fn new(reader: R) -> Self {
        Self { reader, position: 0, data_left: 0, padding: 0, global: Records::new() }
    }

    /// The stream, positioned after what was read. Bytes after the end of the archive are still in it.
    pub fn into_inner(self) -> R {
        self.reader
    }

    /// The next entry, or nothing at the end of the archive. What is left of the present entry's bytes is skipped.
    ///
    /// # Errors
    /// When the stream fails or ends within an entry, and when the archive is malformed.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut long_name = None;
        let mut long_link = None;
        let mut local = Records::new();
        let mut described = false;
        loop {
            self.skip_data()?;
            let Some(header) = self.header()? else {
                return if described {
                    Err(self.malformed("headers describe an entry that is missing"))
                } else {
                    Ok(None)
                };
            };
            let field = header.as_old().size;
            let size = number(&field)
                .and_then(|size| u64::try_from(size).ok())
                .ok_or_else(|| self.malformed("an entry's size is no number"))?;
            described = true;
            match header.entry_type() {
                EntryType::GNULongName => long_name = Some(self.metadata_name(size)?),
                EntryType::GNULongLink => long_link = Some(self.metadata_name(size)?),
                EntryType::XHeader => {
                    let text = self.metadata(size)?;
                    local = records(&text).ok_or_else(|| self.malformed("a PAX record is not well formed"))?;
                }
                EntryType::XGlobalHeader => {
                    let text = self.metadata(size)?;
                    let more = records(&text).ok_or_else(|| self.malformed("a PAX record is not well formed"))?;
                    self.global.extend(more);
                    if self.global.len() > 4096 {
                        return Err(self.malformed("there are too many global PAX records"));
                    }
                    described = false;
                }
                _ => return self.entry(&header, size, long_name, long_link, &local).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        size: u64,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        local: &Records,
    ) -> Result<Entry, TarError> {
        let old = header.as_old();
        let bad = |reader: &Self, problem| reader.malformed(problem);
        let identity = |field: &[u8]| number(field).map(|value| value as u32);
        let mut entry = Entry {
            path: long_name.unwrap_or_else(|| header.path_bytes().into_owned()),
            kind: kind(header.entry_type()),
            link: long_link.unwrap_or_else(|| header.link_name_bytes().map_or_else(Vec::new, |link| link.into_owned())),
            mode: number(&old.mode)
                .map(|mode| (mode & 0o7777) as u32)
                .ok_or_else(|| bad(self, "a mode is no number"))?,
            user: identity(&old.uid).ok_or_else(|| bad(self, "a user id is no number"))?,
            group: identity(&old.gid).ok_or_else(|| bad(self, "a group id is no number"))?,
            modified: (number(&old.mtime).ok_or_else(|| bad(self, "a time is no number"))?, 0),
            device: (0, 0),
            size,
            segments: None,
            attributes: BTreeMap::new(),
        };
        if matches!(entry.kind, Kind::CharacterDevice | Kind::BlockDevice) {
            let numbers = header.as_ustar().map(|header| (header.dev_major, header.dev_minor));
            let numbers = numbers.or_else(|| header.as_gnu().map(|header| (header.dev_major, header.dev_minor)));
            let (major, minor) = numbers.ok_or_else(|| bad(self, "a device has no numbers"))?;
            entry.device =
                identity(&major).zip(identity(&minor)).ok_or_else(|| bad(self, "a device number is no number"))?;
        }
        let mut stored = size;
        let mut sparse = PaxSparse::default();
        let global = std::mem::take(&mut self.global);
        let applied = global
            .iter()
            .chain(local)
            .try_for_each(|(key, value)| apply_record(&mut entry, &mut stored, &mut sparse, key, value));
        self.global = global;
        applied.map_err(|problem| self.malformed(problem))?;
        // An old v7 archive marks directories by their name alone; a name that is cut in the header is whole by now.
        if entry.kind == Kind::File && entry.path.ends_with(b"/") {
            entry.kind = Kind::Directory;
        }

        // Only regular files have bytes after their header; some writers repeat a hard link's size.
        self.set_data(if matches!(entry.kind, Kind::File | Kind::Unknown(_)) { stored } else { 0 })?;
        if header.entry_type() == EntryType::GNUSparse {
            self.gnu_sparse(header, &mut entry)?;
        } else {
            self.pax_sparse(sparse, &mut entry)?;
        }
        if let Some(segments) = &entry.segments {
            let mut end = 0u64;
            let mut total = 0u64;
            for segment in segments {
                let next = segment
                    .offset
                    .checked_add(segment.length)
                    .filter(|&next| segment.offset >= end && next <= entry.size);
                end = next.ok_or_else(|| self.malformed("a sparse map overlaps or leaves its file"))?;
                total += segment.length;
            }
            if total != self.data_left {
                return Err(self.malformed("a sparse map does not fit its data"));
            }
        } else if entry.kind == Kind::File {
            entry.size = stored;
        } else {
            entry.size = 0;
        }
        Ok(entry)
    }

    /// GNU's own format: the map is in the header and in blocks right after it.
    fn gnu_sparse(&mut self, header: &Header, entry: &mut Entry) -> Result<(), TarError> {
        let Some(gnu) = header.as_gnu() else { return Err(self.malformed("a sparse file's header is not GNU's")) };
        let (stored, padding) = (self.data_left, self.padding);
        entry.size = number(&gnu.realsize)
            .and_then(|size| u64::try_from(size).ok())
            .ok_or_else(|| self.malformed("a sparse file's size is no number"))?;
        let mut segments = Vec::new();
        let mut add = |fields: &[tar::GnuSparseHeader]| {
            for field in fields.iter().filter(|field| field.offset[0] != 0 && field.numbytes[0] != 0) {
                let offset = number(&field.offset).and_then(|value| u64::try_from(value).ok())?;
                let length = number(&field.numbytes).and_then(|value| u64::try_from(value).ok())?;
                segments.push(Segment { offset, length });
            }
            (segments.len() <= SEGMENT_LIMIT).then_some(())
        };
        let mut good = add(&gnu.sparse);
        let mut more = gnu.isextended[0] == 1;
        while more && good.is_some() {
            let mut extension = tar::GnuExtSparseHeader::new();
            self.fill(extension.as_mut_bytes())?;
            good = add(&extension.sparse);
            more = extension.isextended[0] == 1;
        }
        good.ok_or_else(|| self.malformed("a sparse map is not well formed"))?;
        (self.data_left, self.padding) = (stored, padding);
        entry.segments = Some(segments);
        Ok(())
    }

    /// The three formats in PAX records; the newest keeps its map in front of the data.
    fn pax_sparse(&mut self, sparse: PaxSparse, entry: &mut Entry) -> Result<(), TarError> {
        if entry.kind != Kind::File {
            return Ok(());
        }
        let numbers = if sparse.in_data {
            let mut numbers = Vec::new();
            let mut wanted = 1;
            let mut text = Vec::new();
            while numbers.len() < wanted {
                let mut block = [0; BLOCK as usize];
                if self.data_left < BLOCK {
                    return Err(self.malformed("a sparse map is longer than its file's data"));
                }
                self.fill(&mut block)?;
                self.data_left -= BLOCK;
                text.extend_from_slice(&block);
                while numbers.len() < wanted
                    && let Some(end) = text.iter().position(|&byte| byte == b'\n')
                {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    let value =
                        decimal(&line[..end]).ok_or_else(|| self.malformed("a sparse map is not well formed"))?;
                    if numbers.is_empty() {
                        let count = usize::try_from(value).ok().filter(|&count| count <= SEGMENT_LIMIT);
                        wanted += 2 * count.ok_or_else(|| self.malformed("a sparse map is too long"))?;
                    }
                    numbers.push(value);
                }
                if text.len() > 64 && numbers.len() < wanted && !text.contains(&b'\n') {
                    return Err(self.malformed("a sparse map is not well formed"));
                }
            }
            numbers.remove(0);
            numbers
        } else if sparse.numbers.is_empty() {
            return Ok(());
        } else {
            sparse.numbers
        };
        if numbers.len() % 2 != 0 || numbers.len() / 2 > SEGMENT_LIMIT {
            return Err(self.malformed("a sparse map is not well formed"));
        }
        entry.size = sparse.size.ok_or_else(|| self.malformed("a sparse file has no size"))?;
        entry.segments = Some(numbers.chunks(2).map(|pair| Segment { offset: pair[0], length: pair[1] }).collect());
        Ok(())
    }

    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut header = Header::new_old();
        let bytes = header.as_mut_bytes();
        let mut filled = 0;
        while filled < bytes.len() {
            match self.reader.read(&mut bytes[filled..]) {
                // Some writers leave out the blocks of zeros at the end.
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated { position: self.position }),
                Ok(count) => {
                    filled += count;
                    self.position += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let sum = |signed: bool| -> i64 {
            let value = |byte: u8| if signed { i64::from(byte as i8) } else { i64::from(byte) };
            bytes[..148].iter().chain(&bytes[156..]).map(|&byte| value(byte)).sum::<i64>() + 8 * 32
        };
        let stated = number(&bytes[148..156]);
        if stated != Some(sum(false)) && stated != Some(sum(true)) {
            return Err(self.malformed("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    fn metadata(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > METADATA_LIMIT {
            return Err(self.malformed("the headers of an entry are too long"));
        }
        self.set_data(size)?;
        let mut bytes = vec![0; size as usize];
        self.fill(&mut bytes)?;
        self.data_left = 0;
        Ok(bytes)
    }

    fn metadata_name(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.metadata(size)?;
        if let Some(end) = name.iter().position(|&byte| byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn set_data(&mut self, size: u64) -> Result<(), TarError> {
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
        self.data_left = size;
        if size > i64::MAX as u64 { Err(self.malformed("an entry's size is out of range")) } else { Ok(()) }
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let wanted = self.data_left + self.padding;
        (self.data_left, self.padding) = (0, 0);
        let skipped = io::copy(&mut (&mut self.reader).take(wanted), &mut io::sink()).map_err(TarError::Read)?;
        self.position += skipped;
        if skipped < wanted { Err(TarError::Truncated { position: self.position }) } else { Ok(()) }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), TarError> {
        self.reader.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => TarError::Truncated { position: self.position },
            _ => TarError::Read(error),
        })?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn malformed(&self, problem: &'static str) -> TarError {
        TarError::Malformed { position: self.position, problem }
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.data_left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let wanted = usize::try_from(self.data_left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.reader.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, TarError::Truncated { position: self.position }));
        }
        self.data_left -= count as u64;
        self.position += count as u64;
        Ok(count)
    }
}

#[derive(Default)]
struct PaxSparse {
    size: Option<u64>,
    numbers: Vec<u64>,
    in_data: bool,
}

fn apply_record(
    entry: &mut Entry,
    stored: &mut u64,
    sparse: &mut PaxSparse,
    key: &[u8],
    value: &[u8],
) -> Result<(), &'static str> {
    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
        entry.attributes.insert(name.to_vec(), value.to_vec());
        return Ok(());
    }
    // A record without a value takes back what a global record set.
    if value.is_empty() {
        return Ok(());
    }
    match key {
        b"path" | b"GNU.sparse.name" => entry.path = value.to_vec(),
        b"linkpath" => entry.link = value.to_vec(),
        b"size" => *stored = decimal(value).ok_or("a PAX size is no number")?,
        b"uid" => entry.user = small(value).ok_or("a PAX user id is no number")?,
        b"gid" => entry.group = small(value).ok_or("a PAX group id is no number")?,
        b"mtime" => entry.modified = timestamp(value).ok_or("a PAX time is no number")?,
        b"GNU.sparse.major" => sparse.in_data = value == b"1",
        b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
            sparse.size = Some(decimal(value).ok_or("a sparse file's size is no number")?);
        }
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
            sparse.numbers.push(decimal(value).ok_or("a sparse map is not well formed")?);
        }
        b"GNU.sparse.map" => {
            for number in value.split(|&byte| byte == b',') {
                sparse.numbers.push(decimal(number).ok_or("a sparse map is not well formed")?);
            }
        }
        _ => {}
    }
    if sparse.numbers.len() > 2 * SEGMENT_LIMIT { Err("a sparse map is too long") } else { Ok(()) }
}

fn kind(entry_type: EntryType) -> Kind {
    match entry_type {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
        EntryType::Link => Kind::HardLink,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Char => Kind::CharacterDevice,
        EntryType::Block => Kind::BlockDevice,
        EntryType::Directory => Kind::Directory,
        EntryType::Fifo => Kind::Fifo,
        other => Kind::Unknown(other.as_byte()),
    }
}

/// PAX records: `length key=value\n` each, where the length counts the whole record.
fn records(mut text: &[u8]) -> Option<Records> {
    let mut found = Records::new();
    // Some writers pad with zeros.
    while !text.is_empty() && text[0] != 0 {
        let space = text.iter().take(20).position(|&byte| byte == b' ')?;
        let length = usize::try_from(decimal(&text[..space])?).ok()?;
        let record = text.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&byte| byte == b'=')?;
        found.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        text = &text[length..];
    }
    Some(found)
}

/// A header's number: octal digits between blanks and zeros, or base 256 where the first bit is set.
fn number(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let start = if negative { i128::from(first) - 256 } else { i128::from(first & 0x3f) };
        let value =
            rest.iter().try_fold(start, |value, &byte| value.checked_mul(256)?.checked_add(i128::from(byte)))?;
        return i64::try_from(value).ok();
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let digits = &digits[..digits.iter().position(is_blank).unwrap_or(digits.len())];
    digits.iter().try_fold(0i64, |value, &byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn small(text: &[u8]) -> Option<u32> {
    u32::try_from(decimal(text)?).ok()
}

/// Seconds with an optional fraction, perhaps before 1970; the nanoseconds of the answer always count upwards.
fn timestamp(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or(b"");
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |place: usize| u32::from(fraction.get(place).map_or(0, |byte| byte - b'0'));
    let nanoseconds = (0..9).fold(0, |value, place| value * 10 + digit(place));
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
#[path = "tar_reader_tests.rs"]
mod tests;
