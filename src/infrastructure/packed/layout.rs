//! Keys and values on disk: the format, to the byte. Numbers in keys and headers are big-endian.
//!
//! | key | value |
//! |---|---|
//! | `00` | `"anabranch"`, format u32, sum |
//! | `01`, `02`, `03` | identity (32 B), residence (opaque), node record |
//! | `10` channel | channel record |
//! | `11` channel | largest seen stamp: era u32, time u64 |
//! | `12` node | peer record |
//! | `20` log u32 | channel, stream, author |
//! | `20` log u32, line u16 | line record |
//! | `21` log u32 | empty: the log was removed, its number is not used again |
//! | `22` log u32 | floor u64; none: 0 |
//! | `30` log u32, line u16, first u64 | chunk: entries from `first` on |
//! | `40` log u32, line u16, sequence u64 | block head: hash 32 B, signature 64 B |
//! | `50` channel, blake3(key) | snapshot key and record |
//! | `60` log u32, line u16 | empty: the line has small chunks to merge |
//!
//! Every value but the first starts with a version byte (1) and an 8-byte sum over key and value, so that rot
//! and misdirected writes read as damage. Records are postcard. A chunk goes on with count u32, body length
//! u32, hash of the entry before (32 B), body, hashes. Chunks and snapshots larger than the backing likes are
//! cut: the key itself holds the first piece, the key followed by a u16 (1, 2, …) the others; the sum covers
//! the whole.
//!
//! A record's shape never changes within its version; the fixtures below pin all of them.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes};
use serde::Serialize;
use serde::de::DeserializeOwned;
use twox_hash::XxHash3_64;

use crate::application::ports::{SnapshotKey, StoreError};
use crate::domain::entry::EntryHash;
use crate::domain::head::Head;
use crate::domain::id::{ChannelId, NodeId, StreamId};
use crate::domain::identity::Signature;
use crate::domain::log::{LineNo, LogName, LogNo};
use crate::domain::run::Run;
use crate::domain::time::Timestamp;
use crate::domain::version::Tip;

/// The format that this version of the library writes, and the newest it reads.
pub const FORMAT: u32 = 1;

const MAGIC: &[u8] = b"anabranch";
const VERSION: u8 = 1;
/// Bytes of a sum: 64 bits let one damaged value in 10^19 pass.
const SUM: usize = 8;
/// Version byte and sum.
const PROLOGUE: usize = 1 + SUM;
/// Prologue, count, body length, previous hash.
pub(super) const CHUNK_HEADER: usize = PROLOGUE + 4 + 4 + EntryHash::LEN;

pub(super) const FORMAT_KEY: [u8; 1] = [0x00];
pub(super) const IDENTITY_KEY: [u8; 1] = [0x01];
pub(super) const RESIDENCE_KEY: [u8; 1] = [0x02];
pub(super) const NODE_KEY: [u8; 1] = [0x03];
pub(super) const CHANNELS: u8 = 0x10;
pub(super) const SEEN: u8 = 0x11;
pub(super) const PEERS: u8 = 0x12;
pub(super) const LOGS: u8 = 0x20;
pub(super) const REMOVED_LOGS: u8 = 0x21;
pub(super) const FLOORS: u8 = 0x22;
pub(super) const CHUNKS: u8 = 0x30;
pub(super) const BLOCK_HEADS: u8 = 0x40;
pub(super) const SNAPSHOTS: u8 = 0x50;
pub(super) const MARKS: u8 = 0x60;
/// Largest key that any range of this format reaches.
pub(super) const END: [u8; 1] = [0xff];

/// Bytes that most records fit: those of a line with its head.
const USUAL_RECORD: usize = 256;

/// Length of the keys of logs and of lines.
pub(super) const LOG_KEY: usize = 1 + 4;
pub(super) const LINE_KEY: usize = LOG_KEY + 2;
/// Length of a chunk's key; with a piece number behind it, that of its further pieces.
pub(super) const CHUNK_KEY: usize = LINE_KEY + 8;

pub(super) fn id_key(prefix: u8, id: &[u8; 32]) -> Vec<u8> {
    [&[prefix], &id[..]].concat()
}

pub(super) fn log_key(prefix: u8, log: LogNo) -> Vec<u8> {
    [&[prefix], &log.0.to_be_bytes()[..]].concat()
}

pub(super) fn line_key(prefix: u8, log: LogNo, line: LineNo) -> Vec<u8> {
    [&[prefix], &log.0.to_be_bytes()[..], &line.0.to_be_bytes()].concat()
}

pub(super) fn sequence_key(prefix: u8, log: LogNo, line: LineNo, sequence: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(CHUNK_KEY);
    key.put_u8(prefix);
    key.put_u32(log.0);
    key.put_u16(line.0);
    key.put_u64(sequence);
    key
}

pub(super) fn snapshot_key(key: &SnapshotKey) -> Result<Vec<u8>, StoreError> {
    let name = blake3::hash(&postcard::to_allocvec(key).map_err(unencodable)?);
    Ok([&[SNAPSHOTS], &key.channel.as_bytes()[..], name.as_bytes()].concat())
}

/// The first key behind all that start with `prefix`.
pub(super) fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    END.to_vec()
}

/// Log and line number of a key that starts with them.
pub(super) fn line_of(key: &[u8]) -> Result<(LogNo, LineNo), StoreError> {
    let log = key.get(1..5).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    let line = key.get(5..7).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes);
    log.zip(line).map(|(log, line)| (LogNo(log), LineNo(line))).ok_or_else(|| corrupt(key, "key too short"))
}

/// Log number of a key that starts with it.
pub(super) fn log_of(key: &[u8]) -> Result<LogNo, StoreError> {
    let log = key.get(1..5).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    log.map(LogNo).ok_or_else(|| corrupt(key, "key too short"))
}

/// Sequence in the key of a chunk, a chunk's piece or a block head.
pub(super) fn sequence_of(key: &[u8]) -> Result<u64, StoreError> {
    let bytes = key.get(LINE_KEY..CHUNK_KEY).and_then(|b| b.try_into().ok());
    bytes.map(u64::from_be_bytes).ok_or_else(|| corrupt(key, "key too short"))
}

pub(super) fn corrupt(key: &[u8], what: &str) -> StoreError {
    use std::fmt::Write as _;
    let mut text = String::from("record ");
    // Enough to find it: of ids only the first bytes, since a channel's id is a secret.
    let shown = if matches!(key.first(), Some(&(CHANNELS..LOGS | SNAPSHOTS))) { 5 } else { CHUNK_KEY };
    for byte in key.iter().take(shown) {
        let _ = write!(text, "{byte:02x}");
    }
    StoreError::Corrupt(Arc::from(format!("{text}: {what}")))
}

fn unencodable(error: postcard::Error) -> StoreError {
    StoreError::Io(Arc::from(format!("a record cannot be encoded: {error}")))
}

/// The sum over a key and what is kept under it: XXH3, which finds what disks do wrong for a fraction of the cost of a
/// cryptographic hash. It is no protection against forgery: entries carry their own hashes and signatures.
fn sum(key: &[u8], version: u8, content: &[u8]) -> [u8; SUM] {
    let seed = XxHash3_64::oneshot_with_seed(u64::from(version), key);
    XxHash3_64::oneshot_with_seed(seed, content).to_be_bytes()
}

fn seal(key: &[u8], content: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(PROLOGUE + content.len());
    value.push(VERSION);
    value.extend_from_slice(&sum(key, VERSION, content));
    value.extend_from_slice(content);
    value
}

/// The content of a sealed value.
fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], StoreError> {
    match value.split_first_chunk::<PROLOGUE>() {
        Some((prologue, content)) if prologue[1..] == sum(key, prologue[0], content) => {
            if prologue[0] == VERSION { Ok(content) } else { Err(corrupt(key, "unknown version")) }
        }
        _ => Err(corrupt(key, "checksum mismatch")),
    }
}

/// The format record, whose shape is the same in every format there will ever be.
pub(super) fn format_value(format: u32) -> Vec<u8> {
    let content = [MAGIC, &format.to_be_bytes()].concat();
    let sum = sum(&FORMAT_KEY, 0, &content);
    [&content[..], &sum].concat()
}

pub(super) fn parse_format(value: &[u8]) -> Result<u32, StoreError> {
    let read = || {
        let (content, found) = value.split_last_chunk::<SUM>()?;
        let number = content.strip_prefix(MAGIC)?.try_into().ok()?;
        (*found == sum(&FORMAT_KEY, 0, content)).then(|| u32::from_be_bytes(number))
    };
    read().ok_or_else(|| corrupt(&FORMAT_KEY, "not a format record of this library"))
}

pub(super) fn bytes_value(key: &[u8], content: &[u8]) -> Vec<u8> {
    seal(key, content)
}

pub(super) fn parse_bytes<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], StoreError> {
    unseal(key, value)
}

pub(super) fn record_value<T: Serialize>(key: &[u8], record: &T) -> Result<Vec<u8>, StoreError> {
    let mut value = Vec::with_capacity(PROLOGUE + USUAL_RECORD);
    value.put_u8(VERSION);
    value.put_bytes(0, SUM);
    let mut value = postcard::to_extend(record, value).map_err(unencodable)?;
    let sum = sum(key, VERSION, &value[PROLOGUE..]);
    value[1..PROLOGUE].copy_from_slice(&sum);
    Ok(value)
}

pub(super) fn parse_record<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, StoreError> {
    match postcard::take_from_bytes(unseal(key, value)?) {
        Ok((record, [])) => Ok(record),
        Ok(_) => Err(corrupt(key, "bytes behind the record")),
        Err(error) => Err(corrupt(key, &error.to_string())),
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct LogNameRecord {
    channel: ChannelId,
    stream: StreamId,
    author: NodeId,
}

pub(super) fn log_name_value(key: &[u8], name: &LogName) -> Result<Vec<u8>, StoreError> {
    let (channel, stream, author) = (name.channel, name.stream.clone(), name.author);
    record_value(key, &LogNameRecord { channel, stream, author })
}

pub(super) fn parse_log_name(key: &[u8], value: &[u8]) -> Result<LogName, StoreError> {
    let LogNameRecord { channel, stream, author } = parse_record(key, value)?;
    Ok(LogName::new(channel, stream, author))
}

pub(super) fn seen_value(key: &[u8], seen: Timestamp) -> Vec<u8> {
    seal(key, &[&seen.era().to_be_bytes()[..], &seen.time().to_be_bytes()].concat())
}

pub(super) fn parse_seen(key: &[u8], value: &[u8]) -> Result<Timestamp, StoreError> {
    let content = unseal(key, value)?;
    let split = content.split_first_chunk::<4>();
    let parts = split.and_then(|(era, time)| Some((*era, <[u8; 8]>::try_from(time).ok()?)));
    let (era, time) = parts.ok_or_else(|| corrupt(key, "wrong length"))?;
    Ok(Timestamp::new(u32::from_be_bytes(era), u64::from_be_bytes(time)))
}

pub(super) fn floor_value(key: &[u8], floor: u64) -> Vec<u8> {
    seal(key, &floor.to_be_bytes())
}

pub(super) fn parse_floor(key: &[u8], value: &[u8]) -> Result<u64, StoreError> {
    let content = unseal(key, value)?.try_into().map_err(|_| corrupt(key, "wrong length"))?;
    Ok(u64::from_be_bytes(content))
}

pub(super) fn head_value(key: &[u8], head: &Head) -> Vec<u8> {
    seal(key, &[&head.tip.hash.as_bytes()[..], head.signature.as_bytes()].concat())
}

pub(super) fn parse_head(key: &[u8], value: &[u8]) -> Result<Head, StoreError> {
    let content = unseal(key, value)?;
    let split = content.split_first_chunk::<32>();
    let parts = split.and_then(|(hash, signature)| Some((*hash, <[u8; 64]>::try_from(signature).ok()?)));
    let (hash, signature) = parts.ok_or_else(|| corrupt(key, "wrong length"))?;
    let tip = Tip { sequence: sequence_of(key)?, hash: EntryHash::from_bytes(hash) };
    Ok(Head { tip, signature: Signature::from_bytes(signature) })
}

/// Bytes that the chunk of `run` occupies.
pub(super) fn chunk_size(run: &Run) -> usize {
    CHUNK_HEADER + run.size()
}

pub(super) fn chunk_value(key: &[u8], run: &Run) -> Vec<u8> {
    let mut value = Vec::with_capacity(chunk_size(run));
    value.put_u8(VERSION);
    value.put_bytes(0, SUM);
    value.put_u32(run.len() as u32);
    value.put_u32(run.body().len() as u32);
    value.put_slice(run.previous().as_bytes());
    value.put_slice(run.body());
    value.put_slice(run.hashes());
    let sum = sum(key, VERSION, &value[PROLOGUE..]);
    value[1..PROLOGUE].copy_from_slice(&sum);
    value
}

/// Length of the whole chunk and number of its entries, by its first piece. Not verified: a bound for reading.
pub(super) fn chunk_extent(key: &[u8], piece: &[u8]) -> Result<(usize, u32), StoreError> {
    let number = |at: usize| {
        let bytes = piece.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map(u32::from_be_bytes).ok_or_else(|| corrupt(key, "truncated chunk"))
    };
    let (count, body) = (number(PROLOGUE)?, number(PROLOGUE + 4)?);
    Ok((CHUNK_HEADER + body as usize + (count as usize).saturating_mul(EntryHash::LEN), count))
}

pub(super) fn parse_chunk(key: &[u8], value: &Bytes) -> Result<Run, StoreError> {
    let content = unseal(key, value)?;
    let (total, _) = chunk_extent(key, value)?;
    let body_len = u32::from_be_bytes([content[4], content[5], content[6], content[7]]) as usize;
    if value.len() != total {
        return Err(corrupt(key, "wrong length"));
    }
    let mut previous = [0; 32];
    previous.copy_from_slice(&content[8..40]);
    let (body, hashes) =
        (value.slice(CHUNK_HEADER..CHUNK_HEADER + body_len), value.slice(CHUNK_HEADER + body_len..));
    Run::from_parts(sequence_of(key)?, EntryHash::from_bytes(previous), body, hashes)
        .map_err(|error| corrupt(key, &error.to_string()))
}
