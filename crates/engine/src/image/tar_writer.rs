//! Pure. Writes a tar archive entry by entry to a stream: ustar headers, with PAX records for what does not fit into them
//! (POSIX.1-2017, `pax`). It takes what [`super::tar_reader`] gives, sparse maps excepted.

use std::io::{self, Write};

use super::tar_reader::{Entry, Kind};

const BLOCK: usize = 512;
/// The largest number of eight octal digits' field, and of one with twelve.
const SMALL: u64 = 0o7_777_777;
const LARGE: u64 = 0o77_777_777_777;

/// Writes entries; after `entry`, writing to this gives that entry's bytes.
pub struct TarWriter<W> {
    writer: W,
    left: u64,
    padding: usize,
}

impl<W: Write> TarWriter<W> {
    /// Starts an archive.
    pub fn new(writer: W) -> Self {
        Self { writer, left: 0, padding: 0 }
    }

    /// Begins an entry. Its `size` bytes follow, if it is a file.
    ///
    /// # Errors
    /// When the stream fails, or the entry before is not whole.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.end_entry()?;
        let size = if entry.kind == Kind::File { entry.size } else { 0 };
        let mut records = Vec::new();
        if entry.path.len() > 100 {
            record(&mut records, b"path", &entry.path);
        }
        if entry.link.len() > 100 {
            record(&mut records, b"linkpath", &entry.link);
        }
        for (name, value) in [("uid", entry.user), ("gid", entry.group)] {
            if u64::from(value) > SMALL {
                record(&mut records, name.as_bytes(), value.to_string().as_bytes());
            }
        }
        if size > LARGE {
            record(&mut records, b"size", size.to_string().as_bytes());
        }
        let (seconds, nanoseconds) = entry.modified;
        let plain_time = u64::try_from(seconds).ok().filter(|seconds| *seconds <= LARGE && nanoseconds == 0);
        if plain_time.is_none() {
            record(&mut records, b"mtime", time_text(seconds, nanoseconds).as_bytes());
        }
        for (name, value) in &entry.attributes {
            record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        if !records.is_empty() {
            let name = [b"PaxHeaders.0/", last_part(&entry.path)].concat();
            self.writer.write_all(&header(&name, b'x', 0o644, records.len() as u64, None))?;
            self.writer.write_all(&records)?;
            self.writer.write_all(&vec![0; padding(records.len() as u64)])?;
        }
        let kind = match entry.kind {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::CharacterDevice => b'3',
            Kind::BlockDevice => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
            Kind::Unknown(byte) => byte,
        };
        self.writer.write_all(&header(&entry.path, kind, entry.mode, size, Some(entry)))?;
        (self.left, self.padding) = (size, padding(size));
        Ok(())
    }

    fn end_entry(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other(format!("an entry of the archive lacks {} bytes", self.left)));
        }
        self.writer.write_all(&vec![0; std::mem::take(&mut self.padding)])
    }

    /// Ends the archive. The stream is given back.
    ///
    /// # Errors
    /// When the stream fails, or the last entry is not whole.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_entry()?;
        self.writer.write_all(&[0; 2 * BLOCK])?;
        self.writer.flush()?;
        Ok(self.writer)
    }
}

impl<W: Write> Write for TarWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        if wanted == 0 && !bytes.is_empty() {
            return Err(io::Error::other("an entry of the archive is longer than was said"));
        }
        let count = self.writer.write(bytes.get(..wanted).unwrap_or(bytes))?;
        self.left -= count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn padding(size: u64) -> usize {
    // Less than a block.
    usize::try_from((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64).unwrap_or(0)
}

fn last_part(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    name.get(..80).unwrap_or(name)
}

/// `length key=value\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Seconds with decimals; the nanoseconds count upwards also before 1970.
fn time_text(seconds: i64, nanoseconds: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let sign = if total < 0 { "-" } else { "" };
    let (whole, part) = (total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
    let text = format!("{sign}{whole}.{part:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn header(path: &[u8], kind: u8, mode: u32, size: u64, entry: Option<&Entry>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, length: usize, bytes: &[u8]| {
        let count = bytes.len().min(length);
        if let (Some(field), Some(bytes)) = (block.get_mut(at..at + count), bytes.get(..count)) {
            field.copy_from_slice(bytes);
        }
    };
    let octal = |value: u64, digits: usize| format!("{value:0digits$o}").into_bytes();
    let fitting = |value: u64, most: u64| if value > most { 0 } else { value };
    put(0, 100, path);
    put(100, 7, &octal(u64::from(mode & 0o7777), 7));
    put(108, 7, &octal(entry.map_or(0, |entry| fitting(entry.user.into(), SMALL)), 7));
    put(116, 7, &octal(entry.map_or(0, |entry| fitting(entry.group.into(), SMALL)), 7));
    put(124, 11, &octal(fitting(size, LARGE), 11));
    let time = entry.and_then(|entry| u64::try_from(entry.modified.0).ok()).unwrap_or(0);
    put(136, 11, &octal(fitting(time, LARGE), 11));
    put(148, 8, b"        ");
    put(156, 1, &[kind]);
    put(157, 100, entry.map_or(&[], |entry| entry.link.as_slice()));
    put(257, 8, b"ustar\x0000");
    let (major, minor) = entry.map_or((0, 0), |entry| entry.device);
    put(329, 7, &octal(u64::from(major), 7));
    put(337, 7, &octal(u64::from(minor), 7));
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    let text = format!("{sum:06o}\0 ");
    if let Some(field) = block.get_mut(148..156) {
        field.copy_from_slice(text.as_bytes());
    }
    block
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::super::tar_reader::TarReader;
    use super::*;

    prop_compose! {
        fn an_entry()(
            path in "[a-zä/]{1,180}[a-z]",
            link in "[a-z/.]{1,180}",
            kind in 0..7usize,
            mode in 0..0o10000u32,
            user in any::<u32>(),
            group in 0..70000u32,
            modified in (-5_000_000_000i64..200_000_000_000, 0..1_000_000_000u32),
            device in (0..4096u32, 0..1_000_000u32),
            data in proptest::collection::vec(any::<u8>(), 0..1500),
            attributes in proptest::collection::btree_map("user[.][a-z]{1,9}", proptest::collection::vec(any::<u8>(), 1..40), 0..3),
        ) -> (Entry, Vec<u8>) {
            let kind = [
                Kind::File, Kind::Directory, Kind::Symlink, Kind::HardLink, Kind::CharacterDevice, Kind::BlockDevice, Kind::Fifo,
            ][kind];
            let is_link = matches!(kind, Kind::Symlink | Kind::HardLink);
            let is_device = matches!(kind, Kind::CharacterDevice | Kind::BlockDevice);
            let data = if kind == Kind::File { data } else { Vec::new() };
            let attributes: BTreeMap<Vec<u8>, Vec<u8>> =
                attributes.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
            let entry = Entry {
                path: path.into_bytes(),
                kind,
                link: if is_link { link.into_bytes() } else { Vec::new() },
                mode,
                user,
                group,
                modified,
                device: if is_device { device } else { (0, 0) },
                size: data.len() as u64,
                segments: None,
                attributes,
            };
            (entry, data)
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(entries in proptest::collection::vec(an_entry(), 0..6)) {
            let mut writer = TarWriter::new(Vec::new());
            for (entry, data) in &entries {
                writer.entry(entry).unwrap();
                writer.write_all(data).unwrap();
            }
            let bytes = writer.finish().unwrap();
            prop_assert_eq!(bytes.len() % BLOCK, 0);
            let mut reader = TarReader::new(bytes.as_slice());
            for (entry, data) in &entries {
                prop_assert_eq!(&reader.next_entry().unwrap().unwrap(), entry);
                let mut read = Vec::new();
                reader.read_to_end(&mut read).unwrap();
                prop_assert_eq!(&read, data);
            }
            prop_assert!(reader.next_entry().unwrap().is_none());
        }
    }

    #[test]
    fn an_entry_has_as_many_bytes_as_it_says() {
        let entry = Entry { size: 3, ..plain(b"file") };
        let mut writer = TarWriter::new(Vec::new());
        writer.entry(&entry).unwrap();
        writer.write_all(b"ab").unwrap();
        assert!(writer.entry(&entry).unwrap_err().to_string().contains("lacks 1 bytes"));
        writer.write_all(b"c").unwrap();
        assert!(writer.write_all(b"d").unwrap_err().to_string().contains("longer"));
        writer.finish().unwrap();
    }

    fn plain(path: &[u8]) -> Entry {
        Entry {
            path: path.to_vec(),
            kind: Kind::File,
            link: Vec::new(),
            mode: 0o644,
            user: 0,
            group: 0,
            modified: (0, 0),
            device: (0, 0),
            size: 0,
            segments: None,
            attributes: BTreeMap::new(),
        }
    }
}
