//! The journal on a disk that crashes: after any number of operations, with any part of what was not synced lost.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;

use openraft::EntryPayload;
use openraft::impls::leader_id_adv::LeaderId;
use proptest::prelude::*;

use super::*;
use crate::raft::log::HostDisk;
use crate::raft::types::{Entry, LogId, Payload, Vote};

const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
struct SimulatedFile {
    durable: Vec<u8>,
    /// Sectors that were written and not synced.
    pending: BTreeMap<usize, [u8; SECTOR]>,
    length: usize,
    name_is_durable: bool,
}

impl SimulatedFile {
    fn sector(&self, number: usize) -> [u8; SECTOR] {
        self.pending.get(&number).copied().unwrap_or_else(|| {
            let mut sector = [0; SECTOR];
            let start = (number * SECTOR).min(self.durable.len());
            let end = (start + SECTOR).min(self.durable.len());
            sector[..end - start].copy_from_slice(&self.durable[start..end]);
            sector
        })
    }

    fn settle(&mut self, keep: &mut dyn FnMut() -> bool) {
        for (number, sector) in std::mem::take(&mut self.pending) {
            if keep() {
                let end = (number * SECTOR + SECTOR).min(self.length);
                if self.durable.len() < end {
                    self.durable.resize(end, 0);
                }
                let start = number * SECTOR;
                self.durable[start..end].copy_from_slice(&sector[..end - start]);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Simulated {
    files: BTreeMap<u64, SimulatedFile>,
    /// Removed, and not yet durably so.
    removed: BTreeMap<u64, SimulatedFile>,
    operations_left: Option<usize>,
}

#[derive(Debug, Default)]
struct SimulatedDisk(Mutex<Simulated>);

impl SimulatedDisk {
    fn change<T>(&self, change: impl FnOnce(&mut Simulated) -> io::Result<T>) -> io::Result<T> {
        let mut simulated = self.0.lock().unwrap();
        if let Some(left) = &mut simulated.operations_left {
            if *left == 0 {
                return Err(io::Error::other("the host has crashed"));
            }
            *left -= 1;
        }
        change(&mut simulated)
    }

    /// What the disk holds when the host comes back; `keep` says what of the unsynced survived.
    fn crash(&self, mut keep: impl FnMut() -> bool) -> Self {
        let mut simulated = self.0.lock().unwrap();
        let mut files = std::mem::take(&mut simulated.files);
        files.retain(|_, file| file.name_is_durable || keep());
        for (number, file) in std::mem::take(&mut simulated.removed) {
            if keep() {
                files.insert(number, file);
            }
        }
        for file in files.values_mut() {
            file.settle(&mut keep);
            file.length = file.durable.len();
            file.name_is_durable = true;
        }
        Self(Mutex::new(Simulated { files, removed: BTreeMap::new(), operations_left: None }))
    }
}

impl Disk for SimulatedDisk {
    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(self.0.lock().unwrap().files.keys().copied().collect())
    }

    fn create(&self, number: u64) -> io::Result<()> {
        self.change(|simulated| {
            if simulated.files.contains_key(&number) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            simulated.files.insert(number, SimulatedFile::default());
            Ok(())
        })
    }

    fn read(&self, number: u64) -> io::Result<Vec<u8>> {
        let length = self.0.lock().unwrap().files.get(&number).ok_or(io::ErrorKind::NotFound)?.length;
        let mut buffer = vec![0; length];
        self.read_at(number, 0, &mut buffer)?;
        Ok(buffer)
    }

    fn read_at(&self, number: u64, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let simulated = self.0.lock().unwrap();
        let file = simulated.files.get(&number).ok_or(io::ErrorKind::NotFound)?;
        let offset = usize::try_from(offset).unwrap();
        if offset + buffer.len() > file.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (at, byte) in buffer.iter_mut().enumerate() {
            *byte = file.sector((offset + at) / SECTOR)[(offset + at) % SECTOR];
        }
        Ok(())
    }

    fn write_at(&self, number: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(|simulated| {
            let file = simulated.files.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
            let offset = usize::try_from(offset).unwrap();
            for (at, &byte) in bytes.iter().enumerate() {
                let place = offset + at;
                let sector = file.sector(place / SECTOR);
                file.pending.entry(place / SECTOR).or_insert(sector)[place % SECTOR] = byte;
            }
            file.length = file.length.max(offset + bytes.len());
            Ok(())
        })
    }

    fn sync(&self, number: u64) -> io::Result<()> {
        self.change(|simulated| {
            let file = simulated.files.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
            file.settle(&mut || true);
            Ok(())
        })
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.change(|simulated| {
            simulated.removed.clear();
            simulated.files.values_mut().for_each(|file| file.name_is_durable = true);
            Ok(())
        })
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        self.change(|simulated| {
            let file = simulated.files.remove(&number).ok_or(io::ErrorKind::NotFound)?;
            simulated.removed.insert(number, file);
            Ok(())
        })
    }
}

#[derive(Debug, Clone)]
enum Action {
    Append { payload: usize },
    Vote,
    Truncate { back: u64 },
    Purge { forward: u64 },
    Commit,
    Sync,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        6 => (0usize..900).prop_map(|payload| Action::Append { payload }),
        1 => Just(Action::Vote),
        1 => (0u64..4).prop_map(|back| Action::Truncate { back }),
        1 => (0u64..6).prop_map(|forward| Action::Purge { forward }),
        1 => Just(Action::Commit),
        3 => Just(Action::Sync),
    ];
    proptest::collection::vec(action, 1..60)
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: 7 }, index }
}

fn entry(term: u64, index: u64, payload: usize) -> Record {
    let payload = EntryPayload::Normal(Payload(vec![u8::try_from(index % 251).unwrap() + 1; payload].into()));
    let entry = Entry { log_id: log_id(term, index), payload };
    Record::Entry { log_id: entry.log_id, encoded: record::encode_entry(&entry).unwrap() }
}

/// Entries, purge mark and vote.
type Contents = (Vec<LogId>, Option<LogId>, Option<Vote>);

/// What the log is, as far as one can see from outside.
fn contents(index: &Index) -> Contents {
    let ids = index.range(Bound::Unbounded, Bound::Unbounded).into_iter().map(|slot| slot.log_id).collect();
    (ids, index.purged(), index.vote())
}

/// Runs the actions until the disk crashes. Answers the states after each record, and how many were acknowledged.
fn run(disk: &Arc<SimulatedDisk>, actions: &[Action], segment_bytes: u64) -> (Vec<Contents>, usize) {
    let nowhere = Location { segment: 0, offset: 0, length: 0 };
    let mut states = vec![contents(&Index::default())];
    let mut acknowledged = 0;
    let Ok((mut journal, mut model)) = Journal::open_with(Arc::clone(disk), segment_bytes) else {
        return (states, acknowledged);
    };
    let (mut term, mut purged) = (1, None::<u64>);
    for action in actions {
        let last = model.last().map_or(0, |last| last.index);
        let record = match action {
            Action::Append { payload } => entry(term, last + 1, *payload),
            Action::Vote => {
                term += 1;
                Record::Vote(Vote { leader_id: LeaderId { term, node_id: 7 }, committed: false })
            }
            Action::Truncate { back } => {
                let first =
                    model.range(Bound::Unbounded, Bound::Unbounded).first().map_or(last, |slot| slot.log_id.index);
                let keep = last.saturating_sub(*back).max(first);
                let Some(slot) = model.range(Bound::Included(&keep), Bound::Included(&keep)).pop() else { continue };
                term += 1;
                Record::Truncate(Some(slot.log_id))
            }
            Action::Purge { forward } => {
                let through = purged.unwrap_or(0) + forward;
                let Some(slot) = model.range(Bound::Included(&through), Bound::Included(&through)).pop() else {
                    continue;
                };
                purged = Some(through);
                Record::Purge(slot.log_id)
            }
            Action::Commit => Record::Committed(model.last()),
            Action::Sync => {
                if journal.sync().is_err() {
                    break;
                }
                acknowledged = states.len() - 1;
                if let Some(purged) = model.purged()
                    && journal.remove_through(purged.index).is_err()
                {
                    break;
                }
                continue;
            }
        };
        model.replay(record.clone(), nowhere).unwrap();
        states.push(contents(&model));
        if journal.write(&[record]).is_err() {
            break;
        }
    }
    (states, acknowledged)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever was acknowledged is there after a crash at any step, and what is there is what the log was at some moment.
    #[test]
    fn a_crash_loses_nothing_that_was_acknowledged(
        actions in actions(),
        crash_after in 0usize..160,
        survival in proptest::collection::vec(any::<bool>(), 1..64),
    ) {
        let disk = Arc::new(SimulatedDisk::default());
        disk.0.lock().unwrap().operations_left = Some(crash_after);
        let (states, acknowledged) = run(&disk, &actions, 4096);
        let mut survival = survival.into_iter().cycle();
        let mut after = Arc::new(disk.crash(|| survival.next().unwrap()));
        // Opening repairs; a crash right after it must change nothing any more.
        for _ in 0..2 {
            let (_, index) = Journal::open_with(Arc::clone(&after), 4096).unwrap();
            let found = contents(&index);
            prop_assert!(
                states[acknowledged..].contains(&found),
                "found {found:?}, expected one of {:?}", &states[acknowledged..]
            );
            for slot in index.range(Bound::Unbounded, Bound::Unbounded) {
                let location = slot.location.unwrap();
                let mut buffer = vec![0; location.length];
                after.read_at(location.segment, location.offset, &mut buffer).unwrap();
                prop_assert_eq!(record::decode_entry(&buffer.into()).unwrap().log_id, slot.log_id);
            }
            after = Arc::new(after.crash(|| false));
        }
    }

    /// A log that came through a crash takes new records and keeps them through the next one.
    #[test]
    fn writing_goes_on_after_a_crash(
        first in actions(), second in actions(),
        crash_after in 0usize..120,
        survival in proptest::collection::vec(any::<bool>(), 1..64),
    ) {
        let disk = Arc::new(SimulatedDisk::default());
        disk.0.lock().unwrap().operations_left = Some(crash_after);
        run(&disk, &first, 4096);
        let mut survival = survival.into_iter().cycle();
        let disk = Arc::new(disk.crash(|| survival.next().unwrap()));
        let (mut journal, before) = Journal::open_with(Arc::clone(&disk), 4096).unwrap();
        let next = before.last().map_or(0, |last| last.index) + 1;
        for offset in 0..second.len() as u64 {
            journal.write(&[entry(100, next + offset, 300)]).unwrap();
        }
        journal.sync().unwrap();
        let disk = Arc::new(disk.crash(|| false));
        let (_, after) = Journal::open_with(disk, 4096).unwrap();
        prop_assert_eq!(after.last(), Some(log_id(100, next + second.len() as u64 - 1)));
        prop_assert_eq!(after.purged(), before.purged());
    }
}

fn written(disk: &Arc<SimulatedDisk>, batches: u64) {
    let (mut journal, _) = Journal::open_with(Arc::clone(disk), 1 << 14).unwrap();
    for number in 1..=batches {
        journal.write(&[entry(1, number, 100)]).unwrap();
        journal.sync().unwrap();
    }
}

#[test]
fn a_damaged_record_that_was_acknowledged_is_not_mistaken_for_a_torn_tail() {
    let disk = Arc::new(SimulatedDisk::default());
    written(&disk, 5);
    // The first record's body: all later ones know that it was on the disk.
    disk.write_at(1, 60, &[0xff; 4]).unwrap();
    let error = Journal::open_with(disk, 1 << 14).unwrap_err();
    assert!(matches!(error, OpenLogError::Damaged { segment: 1, offset: 24, .. }), "{error}");
    assert!(error.to_string().contains("00000000000000000001.log"), "{error}");
}

#[test]
fn a_missing_segment_is_noticed() {
    let disk = Arc::new(SimulatedDisk::default());
    let (mut journal, _) = Journal::open_with(Arc::clone(&disk), 1000).unwrap();
    for number in 1..=40 {
        journal.write(&[entry(1, number, 200)]).unwrap();
    }
    journal.sync().unwrap();
    assert!(disk.list().unwrap().len() > 3);
    disk.remove(2).unwrap();
    let error = Journal::open_with(disk, 1000).unwrap_err();
    assert!(matches!(error, OpenLogError::Damaged { segment: 3, .. }), "{error}");
}

#[test]
fn purged_segments_are_removed() {
    let disk = Arc::new(SimulatedDisk::default());
    let (mut journal, _) = Journal::open_with(Arc::clone(&disk), 1000).unwrap();
    for number in 1..=40 {
        journal.write(&[entry(1, number, 200)]).unwrap();
    }
    journal.write(&[Record::Purge(log_id(1, 38))]).unwrap();
    journal.sync().unwrap();
    let before = disk.list().unwrap().len();
    journal.remove_through(38).unwrap();
    assert!(disk.list().unwrap().len() < before / 2);
    drop(journal);
    let (_, index) = Journal::open_with(disk, 1000).unwrap();
    assert_eq!(contents(&index).0, [log_id(1, 39), log_id(1, 40)]);
}

/// The simulated disk must behave as the host's does where no crash comes in.
fn conforms(disk: &impl Disk) {
    assert_eq!(disk.list().unwrap(), Vec::<u64>::new());
    disk.create(3).unwrap();
    disk.create(12).unwrap();
    assert_eq!(disk.create(3).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    disk.write_at(3, 0, b"first").unwrap();
    disk.write_at(3, 1000, b"second").unwrap();
    disk.sync(3).unwrap();
    disk.sync_directory().unwrap();
    assert_eq!(disk.list().unwrap(), [3, 12]);
    let all = disk.read(3).unwrap();
    assert_eq!((all.len(), &all[..5], &all[1000..]), (1006, &b"first"[..], &b"second"[..]));
    assert!(all[5..1000].iter().all(|&byte| byte == 0));
    let mut buffer = [0; 6];
    disk.read_at(3, 1000, &mut buffer).unwrap();
    assert_eq!(&buffer, b"second");
    assert_eq!(disk.read_at(3, 1001, &mut buffer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    disk.remove(3).unwrap();
    assert_eq!(disk.remove(3).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(disk.read(3).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(disk.list().unwrap(), [12]);
}

#[test]
fn the_simulated_disk_conforms() {
    conforms(&SimulatedDisk::default());
}

#[test]
fn the_hosts_disk_conforms() {
    let directory = tempfile::tempdir().unwrap();
    conforms(&HostDisk::new(directory.path()));
}
