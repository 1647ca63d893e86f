//! The journal: a file of fixed size in front of sled that makes small changes durable with one write and one sync.
//!
//! sled pays two writes, two waits for the disk and the waking of seven threads per flush, and its file grows, so
//! that the file system commits its own journal along. A sync of small changes costs one write into a file that
//! never grows instead. The changes go into sled later, many at once, together with a note of how far that got.
//! This module knows bytes and the file; what the changes mean, and when sled takes them, is its owner's business
//! ([`SledBacking`](crate::backing::SledBacking)).
//!
//! # Format
//!
//! Numbers are big-endian. The file is a row of slots of 512 bytes. A record starts at a slot and holds all changes
//! of one sync:
//!
//! | part | bytes |
//! |---|---|
//! | sum: blake3, keyed by the store's own random key, over all that follows | 16 |
//! | generation | 8 |
//! | number of the record within its generation, from 0 | 4 |
//! | length of the body | 4 |
//! | body: per change length of the key u16, length of the value u32 (`ffffffff`: delete), key, value | |
//!
//! A generation begins at the first slot and ends when sled has taken all of it: sled's tree then says so, in the
//! same atomic batch. What the file holds of earlier generations is dead. A record is written only once the one
//! before it is on the disk, so the live ones end at the first slot without a valid record: that one was never
//! acknowledged. A live record behind such a slot shows damage. Nobody but the owner of the key can make
//! something that looks like a record, whatever payloads are stored.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch::application::ports::StoreError;
use anabranch::infrastructure::packed::Changes;
use bytes::{Buf as _, BufMut as _, Bytes};

use crate::files::{SyncFile, io_error, sync_directory};

/// The journal's file within the directory of a store.
pub(crate) const JOURNAL: &str = "journal";
/// Bytes of the file. Two thousand single appends, until sled takes them as one batch; what they occupy in memory
/// meanwhile is in proportion.
pub(crate) const JOURNAL_BYTES: usize = 1024 * 1024;
/// Records start at multiples of this: the smallest unit that disks write, so that writing one record never
/// touches what is on the disk of another.
const SLOT_BYTES: usize = 512;
const SUM_BYTES: usize = 16;
const HEADER_BYTES: usize = SUM_BYTES + 8 + 4 + 4;
/// Length of the key, length of the value.
const CHANGE_HEADER_BYTES: usize = 2 + 4;
/// Length that stands for "no value".
const DELETED: u32 = u32::MAX;

/// Keys and the values that they have on top of sled's; `None`: deleted.
pub(crate) type Overlay = BTreeMap<Vec<u8>, Option<Bytes>>;

/// What sled says about the journal: written by it in the same batch as the changes it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The last generation that sled took.
    pub(crate) generation: u64,
    /// Keys the sums of all records.
    pub(crate) key: [u8; 32],
}

impl Taken {
    /// As sled keeps it.
    pub(crate) fn value(&self) -> Vec<u8> {
        [&self.generation.to_be_bytes()[..], &self.key].concat()
    }

    pub(crate) fn parse(value: &[u8]) -> Result<Self, StoreError> {
        let split = value.split_first_chunk::<8>();
        let parts = split.and_then(|(generation, key)| Some((*generation, <[u8; 32]>::try_from(key).ok()?)));
        let (generation, key) = parts.ok_or_else(|| damaged("sled's note about it has the wrong length"))?;
        Ok(Self { generation: u64::from_be_bytes(generation), key })
    }
}

pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    sync: Arc<SyncFile>,
    taken: Taken,
    /// Number of the next record.
    number: u32,
    /// Where the next record starts.
    at: usize,
    /// The next record, header included.
    record: Vec<u8>,
}

impl Journal {
    /// Makes the file, if it is not there, and puts it on the disk. Nothing in it is of any generation.
    pub(crate) fn create(store: &Path) -> Result<(), StoreError> {
        let path = store.join(JOURNAL);
        let made = || -> io::Result<()> {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
            // Written, not only reserved: later writes change nothing but contents, so syncing them is cheap.
            file.write_all(&vec![0; JOURNAL_BYTES])?;
            file.sync_all()?;
            sync_directory(store)
        };
        made().map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => StoreError::Full,
            _ => io_error("cannot write", &path, &error),
        })
    }

    /// Opens the journal of `store`, and returns the changes in it that sled has not taken.
    pub(crate) fn open(
        store: &Path,
        taken: Taken,
        sync: Arc<SyncFile>,
    ) -> Result<(Self, Overlay), StoreError> {
        let path = store.join(JOURNAL);
        let read = || -> io::Result<(File, Vec<u8>)> {
            let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
            // What a process wrote and did not sync before it died is read as if it were on the disk.
            sync(&path, &file)?;
            let mut content = Vec::with_capacity(JOURNAL_BYTES);
            Read::by_ref(&mut file).take(JOURNAL_BYTES as u64).read_to_end(&mut content)?;
            Ok((file, content))
        };
        let (file, content) = match read() {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged("it is gone")),
            Err(error) => return Err(io_error("cannot read", &path, &error)),
        };
        if content.len() < JOURNAL_BYTES {
            return Err(damaged("it was cut off"));
        }
        let mut journal = Self { path, file, sync, taken, number: 0, at: 0, record: vec![0; HEADER_BYTES] };
        let mut overlay = Overlay::new();
        while let Some(body) = journal.live(&content, journal.at, journal.number) {
            decode(body, &mut overlay)?;
            journal.passed(body.len());
        }
        let mut behind = (journal.at..JOURNAL_BYTES).step_by(SLOT_BYTES);
        if behind.any(|at| journal.live(&content, at, None).is_some()) {
            return Err(damaged("a record in it is unreadable"));
        }
        Ok((journal, overlay))
    }

    /// Takes `changes` for the next record, if it has room for them.
    pub(crate) fn offer(&mut self, changes: &Changes) -> bool {
        let before = self.record.len();
        let room = JOURNAL_BYTES.saturating_sub(self.at);
        for (key, value) in changes {
            let value_len = value.as_ref().map_or(Some(DELETED), |value| u32::try_from(value.len()).ok());
            let added = key.len() + value.as_ref().map_or(0, Vec::len);
            let (Ok(key_len), Some(value_len)) = (u16::try_from(key.len()), value_len) else {
                self.record.truncate(before);
                return false;
            };
            if self.record.len() + CHANGE_HEADER_BYTES + added > room {
                self.record.truncate(before);
                return false;
            }
            self.record.put_u16(key_len);
            self.record.put_u32(value_len);
            self.record.put_slice(key);
            self.record.put_slice(value.as_deref().unwrap_or_default());
        }
        true
    }

    /// Puts what was taken onto the disk.
    pub(crate) fn write(&mut self) -> Result<(), StoreError> {
        let body = self.record.len() - HEADER_BYTES;
        if body == 0 {
            return Ok(());
        }
        let mut header = &mut self.record[SUM_BYTES..HEADER_BYTES];
        header.put_u64(self.taken.generation + 1);
        header.put_u32(self.number);
        header.put_u32(body as u32);
        let sum = sum(&self.taken.key, &self.record[SUM_BYTES..]);
        self.record[..SUM_BYTES].copy_from_slice(&sum);
        let written = self.file.seek(SeekFrom::Start(self.at as u64));
        let written = written.and_then(|_| self.file.write_all(&self.record));
        let written = written.and_then(|()| (self.sync)(&self.path, &self.file));
        written.map_err(|error| io_error("cannot write", &self.path, &error))?;
        self.record.truncate(HEADER_BYTES);
        self.passed(body);
        Ok(())
    }

    /// What sled must note in the batch that takes everything which this journal holds or was offered.
    pub(crate) fn next_taken(&self) -> Taken {
        Taken { generation: self.taken.generation + 1, ..self.taken }
    }

    /// Begins anew: sled has taken everything, and that is on the disk.
    pub(crate) fn begin(&mut self) {
        self.taken = self.next_taken();
        (self.number, self.at) = (0, 0);
        self.record.truncate(HEADER_BYTES);
    }

    fn passed(&mut self, body: usize) {
        self.at += (HEADER_BYTES + body).next_multiple_of(SLOT_BYTES);
        self.number += 1;
    }

    /// The body of the record of the current generation at `at`, if there is one, with this number if one is given.
    fn live<'a>(&self, content: &'a [u8], at: usize, number: impl Into<Option<u32>>) -> Option<&'a [u8]> {
        let (sum_found, mut header) = content.get(at..at + HEADER_BYTES)?.split_at(SUM_BYTES);
        let (generation, found, body) = (header.get_u64(), header.get_u32(), header.get_u32() as usize);
        let expected = number.into().is_none_or(|number| number == found);
        if generation != self.taken.generation + 1 || !expected || body == 0 {
            return None;
        }
        let summed = content.get(at + SUM_BYTES..(at + HEADER_BYTES).checked_add(body)?)?;
        (sum(&self.taken.key, summed) == sum_found).then(|| &summed[HEADER_BYTES - SUM_BYTES..])
    }
}

fn sum(key: &[u8; 32], content: &[u8]) -> [u8; SUM_BYTES] {
    let mut sum = [0; SUM_BYTES];
    sum.copy_from_slice(&blake3::keyed_hash(key, content).as_bytes()[..SUM_BYTES]);
    sum
}

fn decode(body: &[u8], overlay: &mut Overlay) -> Result<(), StoreError> {
    let mut left = body;
    while !left.is_empty() {
        let cut_off = || damaged("a change in it is cut off");
        if left.len() < CHANGE_HEADER_BYTES {
            return Err(cut_off());
        }
        let (key_len, value_len) = (usize::from(left.get_u16()), left.get_u32());
        let (key, rest) = left.split_at_checked(key_len).ok_or_else(cut_off)?;
        let value_len = if value_len == DELETED { None } else { Some(value_len as usize) };
        let (value, rest) = rest.split_at_checked(value_len.unwrap_or(0)).ok_or_else(cut_off)?;
        overlay.insert(key.to_vec(), value_len.map(|_| Bytes::copy_from_slice(value)));
        left = rest;
    }
    Ok(())
}

fn damaged(what: &str) -> StoreError {
    StoreError::Corrupt(format!("the file {JOURNAL:?}: {what}").into())
}
