//! Which logs two nodes hold differently: rateless cells of 8 bytes.
//!
//! After "Practical Rateless Set Reconciliation" (Yang, Gilad and Alizadeh, 2024, arXiv 2402.02668): one
//! side sends a prefix of an endless sequence of cells over its whole list, the other subtracts its own
//! and peels; if the prefix was too short, a longer one continues it and nothing was sent in vain. The
//! density 1 / (1 + i / 2) of cell i is theirs. The content of a cell is not:
//!
//! - A log is a pair (k, v) of 32-bit residues modulo the prime 2^32 - 5: k stands for the log, v for what is
//!   held of it. A cell is (Σv, Σv·k). A log in two versions is *one* difference, (v - v')·(1, k), and a cell
//!   with one difference yields its k by a division in the field. No XOR, no separate checksum, no count.
//! - v is 20 bits of content and 12 that check (k, content). A cell with several differences yields a random
//!   k; it is taken for a single one only if k maps to that cell *and* v' has its check: 2^-12 times the
//!   density. Where that happens all the same, the phantom is one more difference, and peels off again.
//! - k and v are hashes under both nonces of the exchange, so nobody who writes a log can choose logs
//!   that collide or do not peel.
//!
//! What this never does: claim certainty. Two logs with one k, two versions with one v or a lying peer give
//! a wrong or incomplete answer, always finite and capped; the caller compares fingerprints again, under
//! another salt. `docs/protocol/reconciliation.md` has the arithmetic in full. The gossip engine calls this.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::fingerprint::LogDigest;
use crate::domain::id::{ChannelId, LogKey};

/// The largest prime below 2^32: sums, keys and versions are residues modulo it.
const PRIME: u64 = 4_294_967_291;
/// Context string of the salt's derivation (blake3 derive-key mode).
const SALT_CONTEXT: &str = "anabranch 1 cells";
/// Bits of a version that check the others: a mixture of logs passes for a single one with 2^-12 times the
/// density of the cell, and then costs a detour. The other bits tell versions of one log apart: there a
/// collision costs a further exchange, so they get more.
const CHECK_BITS: u32 = 12;
/// Contents of a version: one less than 2^20, so that 1 + content * 2^12 + check stays below [`PRIME`].
const CONTENTS: u64 = (1 << (32 - CHECK_BITS)) - 1;
/// Increment of the generator that places keys: the golden ratio in 64 bits (Steele, Lea and Flood 2014).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// Cells besides those for each log that is expected to differ: alone enough for five.
const FIRST_CELLS: u32 = 12;
/// Estimates up to this are exact but for a log or two.
const FEW: u32 = 2;
/// Cells for such an estimate: enough for three.
const FEW_CELLS: u32 = 8;

/// Bytes of a [`Cell`] on the wire.
pub const CELL_BYTES: usize = 8;
/// Cells of one exchange: 256 KiB. They carry some 20,000 differing logs; above that the paged list in key
/// order costs no more than three times the bytes and much less work.
pub const MAX_CELLS: u32 = 32_768;

/// How many cells to send first for an estimate: 2.6 for each differing log and 12, at most [`MAX_CELLS`]; 8 for
/// one or two.
///
/// Half of that would do if the estimate were exact; its error is what the rest is for.
pub fn cells_for(estimate: u32) -> u32 {
    if estimate <= FEW {
        return FEW_CELLS;
    }
    let cells = (u64::from(estimate) * 13).div_ceil(5) + u64::from(FIRST_CELLS);
    cells.min(u64::from(MAX_CELLS)) as u32
}

/// How many cells to send first where no more logs differ than this: 5 for three and 12, at most [`MAX_CELLS`]; 8 for one
/// or two.
pub fn cells_for_at_most(differing: u32) -> u32 {
    if differing <= FEW {
        return FEW_CELLS;
    }
    let cells = (u64::from(differing) * 5).div_ceil(3) + u64::from(FIRST_CELLS);
    cells.min(u64::from(MAX_CELLS)) as u32
}

/// What stands for a log in one exchange: a residue, meaningless under another [`Salt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct ShortKey(u32);

impl ShortKey {
    /// The key a peer sent as this number. One that is no residue matches no log.
    pub const fn from_u32(value: u32) -> Self {
        Self(value)
    }

    /// The number, as it travels in 4 bytes.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// What stands for the tips of a log in one exchange; never zero, which stands for "not held".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShortVersion(u32);

/// A log as the cells see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Stands for the log.
    pub key: ShortKey,
    /// Stands for its tips.
    pub version: ShortVersion,
}

/// Multilinear hashing (Lemire and Kaser, "Strongly universal string hashing is fast", 2014) of four words:
/// (b + Σ a·w mod 2^128) / 2^64. Pairwise independent over random a and b, for a few nanoseconds.
#[derive(Clone)]
struct Multilinear([u128; 5]);

impl Multilinear {
    fn hash(&self, bytes: &[u8; 32]) -> u64 {
        let words = bytes
            .chunks_exact(8)
            .map(|w| u128::from(u64::from_le_bytes([w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]])));
        let terms = words.zip(&self.0[1..]).map(|(word, a)| word.wrapping_mul(*a));
        (terms.fold(self.0[0], u128::wrapping_add) >> 64) as u64
    }
}

/// The hash functions of one exchange, from the nonces of both sides.
///
/// Neither side alone determines it, and no author knew it when writing.
#[derive(Clone)]
pub struct Salt {
    keys: Multilinear,
    versions: Multilinear,
    check: u64,
    fingerprint: [u8; 32],
}

impl Salt {
    /// The salt of an exchange about `channel` between the side that asks (a) and the side that sends cells
    /// (b). Nonces of any length that both know; they must be fresh for each exchange.
    pub fn new(nonce_a: &[u8], nonce_b: &[u8], channel: &ChannelId) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(SALT_CONTEXT);
        hasher.update(&(nonce_a.len() as u64).to_le_bytes());
        hasher.update(nonce_a);
        hasher.update(&(nonce_b.len() as u64).to_le_bytes());
        hasher.update(nonce_b);
        hasher.update(channel.as_bytes());
        let mut stream = hasher.finalize_xof();
        let mut wide = || {
            let mut bytes = [0; 16];
            stream.fill(&mut bytes);
            u128::from_le_bytes(bytes)
        };
        let mut five = || [wide(), wide(), wide(), wide(), wide()];
        let (keys, versions) = (Multilinear(five()), Multilinear(five()));
        let check = wide() as u64;
        let mut fingerprint = [0; 32];
        stream.fill(&mut fingerprint);
        Self { keys, versions, check, fingerprint }
    }

    /// The salt for [`Fingerprint::salted`](super::fingerprint::Fingerprint::salted) in the same exchange.
    pub fn for_fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// The short key of a log.
    pub fn key(&self, log: &LogKey) -> ShortKey {
        let high = mix(self.keys.hash(log.as_bytes())) >> 32;
        ShortKey(((high * PRIME) >> 32) as u32)
    }

    /// The short version of what is held of the log of this short key.
    pub fn version(&self, key: ShortKey, digest: &LogDigest) -> ShortVersion {
        let high = mix(self.versions.hash(digest.as_bytes())) >> 32;
        let content = (high * CONTENTS) >> 32;
        ShortVersion((1 + (content << CHECK_BITS | self.check(key.0, content))) as u32)
    }

    /// A log with what is held of it.
    pub fn item(&self, log: &LogKey, digest: &LogDigest) -> Item {
        let key = self.key(log);
        Item { key, version: self.version(key, digest) }
    }

    fn check(&self, key: u32, content: u64) -> u64 {
        mix((u64::from(key) << 32 | content) ^ self.check) >> (64 - CHECK_BITS)
    }

    /// Whether this residue can be a version of the log of this key; zero stands for "not held".
    fn admits(&self, key: u32, version: u64) -> bool {
        let Some(parts) = version.checked_sub(1) else { return true };
        let (content, check) = (parts >> CHECK_BITS, parts & ((1 << CHECK_BITS) - 1));
        content < CONTENTS && self.check(key, content) == check
    }
}

impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salt(..)")
    }
}

/// One cell: two residues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cell {
    sum: u32,
    weighted: u32,
}

impl Cell {
    /// Σv u32, Σv·k u32, little-endian.
    pub fn to_bytes(self) -> [u8; CELL_BYTES] {
        (u64::from(self.weighted) << 32 | u64::from(self.sum)).to_le_bytes()
    }

    /// The cell that travelled as these bytes; `None` if a sum is no residue, which no honest peer sends.
    pub fn from_bytes(bytes: [u8; CELL_BYTES]) -> Option<Self> {
        let both = u64::from_le_bytes(bytes);
        let cell = Self { sum: both as u32, weighted: (both >> 32) as u32 };
        let residues = u64::from(cell.sum) < PRIME && u64::from(cell.weighted) < PRIME;
        residues.then_some(cell)
    }

    fn is_zero(self) -> bool {
        self == Self::default()
    }

    fn minus(self, other: Self) -> Self {
        Self { sum: minus(self.sum, other.sum), weighted: minus(self.weighted, other.weighted) }
    }

    /// The cell of nothing but `version` (or a difference of versions) under `key`.
    fn single(key: u32, version: u32) -> Self {
        Self { sum: version, weighted: times(version, key) }
    }
}

/// The side that sends cells: its list, frozen for the exchange (8 bytes per log).
#[derive(Debug, Clone)]
pub struct Encoder {
    items: Vec<Item>,
}

impl Encoder {
    /// The list of logs, in any order that the caller can find again: differences name positions in it.
    pub fn new(items: impl IntoIterator<Item = Item>) -> Self {
        Self { items: items.into_iter().collect() }
    }

    /// Number of logs.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no log.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Cells `range.start` to `range.end`, cut off at [`MAX_CELLS`].
    ///
    /// Work: each log is added to about 2·ln(1 + end / 2) cells. Any range can be asked for at any time.
    pub fn cells(&self, range: Range<u32>) -> Vec<Cell> {
        let (start, end) = (range.start, range.end.min(MAX_CELLS));
        let mut sums = vec![(0u64, 0u64); end.saturating_sub(start) as usize];
        if sums.is_empty() {
            return Vec::new();
        }
        for Item { key, version } in &self.items {
            // Each addend is below 2^32: 2^32 logs would fit before a sum overflows.
            let (one, weighted) = (u64::from(version.0), u64::from(times(version.0, key.0)));
            for at in Places::of(key.0).take_while(|at| *at < end) {
                if at >= start {
                    let cell = &mut sums[(at - start) as usize];
                    cell.0 += one;
                    cell.1 += weighted;
                }
            }
        }
        let reduced = |(sum, weighted)| Cell { sum: reduce(sum), weighted: reduce(weighted) };
        sums.into_iter().map(reduced).collect()
    }
}

/// A log that the two sides hold differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// Stands for the log; both sides can match it to theirs.
    pub key: ShortKey,
    /// Position of the log in our own list; `None` if we hold nothing under this key.
    pub position: Option<usize>,
    /// Our version; `None` if we hold nothing under this key.
    pub ours: Option<ShortVersion>,
    /// Their version; `None` if they hold nothing under this key.
    pub theirs: Option<ShortVersion>,
}

/// How far decoding came.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// All cells are explained by these differences, in the order of their keys.
    Done(Vec<Difference>),
    /// Not yet: ask for this many cells after those that came.
    NeedMore(u32),
}

/// The cells cannot be decoded. Nothing changed; the caller falls back to the paged list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// More cells than [`MAX_CELLS`]: the peer sent what nobody asked for.
    #[error("more than {MAX_CELLS} cells")]
    TooManyCells,
    /// As many cells as there may be, and they do not suffice: too many differing logs.
    #[error("the differing logs do not fit {MAX_CELLS} cells")]
    TooManyDifferences,
    /// Peeling went beyond its budget: the cells were not made under this salt, or made to waste time.
    #[error("the cells do not add up")]
    Inconsistent,
}

/// The side that asks: subtracts its own cells and peels.
///
/// Work per cell received is capped, whatever the cells contain: at most 2 logs are peeled for each, and again
/// when it starts over, which it does only after the cells became half as many again.
#[derive(Debug)]
pub struct Decoder {
    salt: Salt,
    own: Encoder,
    /// Key in the high, position in the low half; sorted.
    index: Vec<u64>,
    /// What is not explained yet: ours minus theirs.
    cells: Vec<Cell>,
    open: usize,
    /// Cells that changed since they were looked at. The sparsest is tried first, as it is the likeliest to
    /// hold one difference, and the least likely to look as if it did.
    dirty: BTreeSet<u32>,
    found: BTreeMap<u32, Found>,
    /// Logs taken out since it last started over.
    peeled: usize,
    /// Whether something was put back since it last started over: then cells contradict each other, and what
    /// is believed or refused may be the wrong half of it.
    doubted: bool,
    /// Number of cells with which it may start over: half as many again as the last time.
    restart_at: u32,
}

/// What is known about one key so far.
#[derive(Debug)]
struct Found {
    /// Ours minus theirs, as taken out of the cells.
    net: u32,
    /// Our logs under this key (nearly always one or none): position, our version, theirs as far as known.
    own: Vec<(u32, u32, u32)>,
    /// Version of a log of theirs under this key that is none of ours; zero if there is none.
    foreign: u32,
    /// What was taken out and put back: as a rule a mixture that looked like this log. It is not believed again
    /// until decoding starts over, else two cells that contradict each other would take turns for ever. It may
    /// be a true log, though, that a cell emptied by a phantom had put back.
    phantom: Option<u32>,
}

impl Decoder {
    /// Our own list, made under the same salt as theirs.
    pub fn new(salt: &Salt, own: Encoder) -> Self {
        let keyed = own.items.iter().enumerate();
        let mut index: Vec<u64> =
            keyed.map(|(position, item)| u64::from(item.key.0) << 32 | position as u64).collect();
        index.sort_unstable();
        Self {
            salt: salt.clone(),
            own,
            index,
            cells: Vec::new(),
            open: 0,
            dirty: BTreeSet::new(),
            found: BTreeMap::new(),
            peeled: 0,
            doubted: false,
            restart_at: 0,
        }
    }

    /// Number of cells that came so far: where the next ones start.
    pub fn received(&self) -> u32 {
        self.cells.len() as u32
    }

    /// Takes the next cells of the other side and peels what they allow.
    ///
    /// # Errors
    /// See [`DecodeError`]: none is worth retrying with this decoder.
    pub fn push(&mut self, theirs: &[Cell]) -> Result<Progress, DecodeError> {
        let start = self.received();
        if theirs.len() > (MAX_CELLS - start) as usize {
            return Err(DecodeError::TooManyCells);
        }
        let end = start + theirs.len() as u32;
        let ours = self.own.cells(start..end);
        self.cells.extend(ours.iter().zip(theirs).map(|(ours, theirs)| ours.minus(*theirs)));
        for (key, found) in &self.found {
            let known = Cell::single(*key, found.net);
            for at in Places::of(*key).skip_while(|at| *at < start).take_while(|at| *at < end) {
                self.cells[at as usize] = self.cells[at as usize].minus(known);
            }
        }
        self.open += self.cells[start as usize..].iter().filter(|cell| !cell.is_zero()).count();
        self.dirty.extend(start..end);
        let mut peeled = self.peel();
        let stuck = peeled.is_err() || (self.open > 0 && self.doubted);
        if stuck && start > 0 && end >= self.restart_at {
            self.start_over();
            peeled = self.peel();
        }
        peeled?;
        if self.open == 0 && end > 0 {
            return Ok(Progress::Done(self.differences()));
        }
        if end == MAX_CELLS {
            return Err(DecodeError::TooManyDifferences);
        }
        Ok(Progress::NeedMore((end / 2 + FIRST_CELLS).min(MAX_CELLS - end)))
    }

    /// Forgets what is believed and what is refused: puts all of it back and looks at every cell again, the
    /// sparsest first. The cells that came last are the sparsest so far, so this is not the same once more.
    fn start_over(&mut self) {
        let end = self.received();
        for (key, found) in std::mem::take(&mut self.found) {
            let taken = Cell::single(key, minus(0, found.net));
            for place in Places::of(key).take_while(|place| *place < end) {
                self.cells[place as usize] = self.cells[place as usize].minus(taken);
            }
        }
        self.open = self.cells.iter().filter(|cell| !cell.is_zero()).count();
        self.dirty.extend(0..end);
        self.peeled = 0;
        self.doubted = false;
        self.restart_at = (end + end / 2).min(MAX_CELLS);
    }

    fn peel(&mut self) -> Result<(), DecodeError> {
        while let Some(at) = self.dirty.pop_last() {
            let cell = self.cells[at as usize];
            if cell.sum == 0 {
                continue;
            }
            let key = times(cell.weighted, inverse(cell.sum));
            let maps_here = Places::of(key).take_while(|place| *place <= at).last() == Some(at);
            if !maps_here || !self.explain(key, cell.sum) {
                continue;
            }
            self.peeled += 1;
            if self.peeled > 2 * self.cells.len() + FIRST_CELLS as usize {
                return Err(DecodeError::Inconsistent);
            }
            let end = self.received();
            for place in Places::of(key).take_while(|place| *place < end) {
                let before = self.cells[place as usize];
                let after = before.minus(cell);
                self.cells[place as usize] = after;
                self.open -= usize::from(!before.is_zero());
                self.open += usize::from(!after.is_zero());
                self.dirty.insert(place);
            }
        }
        Ok(())
    }

    /// Whether ours minus theirs being `rest` more than known makes sense as a difference under `key`; if so
    /// it is now known.
    fn explain(&mut self, key: u32, rest: u32) -> bool {
        let fresh = !self.found.contains_key(&key);
        if fresh {
            let own = self.own_under(key);
            self.found.insert(key, Found { net: 0, own, foreign: 0, phantom: None });
        }
        let Some(found) = self.found.get_mut(&key) else { return false };
        if found.net == 0 && found.phantom == Some(rest) {
            return false;
        }
        let admitted = |known: u32| {
            let theirs = minus(known, rest);
            self.salt.admits(key, u64::from(theirs)).then_some(theirs)
        };
        let theirs = found.own.iter_mut().map(|(_, _, theirs)| theirs).chain([&mut found.foreign]);
        let mut explained = false;
        for known in theirs {
            if let Some(theirs) = admitted(*known) {
                *known = theirs;
                let before = found.net;
                found.net = plus(before, rest);
                if found.net == 0 {
                    found.phantom = Some(before);
                    self.doubted = true;
                }
                explained = true;
                break;
            }
        }
        if fresh && !explained {
            self.found.remove(&key);
        }
        explained
    }

    fn own_under(&self, key: u32) -> Vec<(u32, u32, u32)> {
        let first = self.index.partition_point(|entry| *entry < u64::from(key) << 32);
        let same = self.index[first..].iter().take_while(|entry| *entry >> 32 == u64::from(key));
        same.map(|entry| {
            let version = self.own.items[*entry as u32 as usize].version.0;
            (*entry as u32, version, version)
        })
        .collect()
    }

    fn differences(&self) -> Vec<Difference> {
        let some = |version: u32| (version != 0).then_some(ShortVersion(version));
        let mut all = Vec::new();
        for (key, found) in &self.found {
            let key = ShortKey(*key);
            for (position, ours, theirs) in found.own.iter().filter(|(_, ours, theirs)| ours != theirs) {
                let position = Some(*position as usize);
                all.push(Difference { key, position, ours: some(*ours), theirs: some(*theirs) });
            }
            if let Some(theirs) = some(found.foreign) {
                all.push(Difference { key, position: None, ours: None, theirs: Some(theirs) });
            }
        }
        all
    }
}

/// The cells that a key maps to, ascending; the first is always 0.
///
/// After cell i the next is i + max(1, ceil((i + 1.5) · (2^16 / sqrt(r + 1) - 1))) for 32 random bits r: the
/// inverse of the distribution of gaps that density 1 / (1 + i / 2) implies. Additions, a division and a
/// square root in IEEE 754 binary64 are exact to the last bit everywhere, so all machines agree.
struct Places {
    next: u32,
    state: u64,
}

impl Places {
    fn of(key: u32) -> Self {
        Self { next: 0, state: u64::from(key) }
    }
}

impl Iterator for Places {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let at = self.next;
        if at >= MAX_CELLS {
            return None;
        }
        self.state = self.state.wrapping_add(GOLDEN);
        let random = (mix(self.state) >> 32) as f64;
        let gap = (f64::from(at) + 1.5) * (65_536.0 / (random + 1.0).sqrt() - 1.0);
        // At most 2^16 * (MAX_CELLS + 1.5), below 2^32; rounding up by hand spares a call to the C library.
        let whole = gap as u32;
        let up = whole + u32::from(f64::from(whole) < gap);
        self.next = at.saturating_add(up.max(1));
        Some(at)
    }
}

/// The finalizer of `splitmix64` (Steele, Lea and Flood 2014, constants of Stafford's variant 13).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn reduce(x: u64) -> u32 {
    (x % PRIME) as u32
}

fn plus(a: u32, b: u32) -> u32 {
    reduce(u64::from(a) + u64::from(b))
}

fn minus(a: u32, b: u32) -> u32 {
    reduce(u64::from(a) + PRIME - u64::from(b))
}

fn times(a: u32, b: u32) -> u32 {
    reduce(u64::from(a) * u64::from(b))
}

/// The inverse modulo [`PRIME`] by the extended Euclidean algorithm; zero for zero.
fn inverse(x: u32) -> u32 {
    let (mut old_rest, mut rest) = (PRIME as i64, i64::from(x));
    let (mut old_factor, mut factor) = (0i64, 1i64);
    while rest != 0 {
        let quotient = old_rest / rest;
        (old_rest, rest) = (rest, old_rest - quotient * rest);
        (old_factor, factor) = (factor, old_factor - quotient * factor);
    }
    old_factor.rem_euclid(PRIME as i64) as u32 * u32::from(x != 0)
}

#[cfg(test)]
mod tests;
