//! The receiving half of a lane: bytes of a stream, in any order, back into messages.
//!
//! Holds at most one window of bytes ahead of the first gap, and the one message that is being received,
//! whose buffer grows with the bytes that arrive and not with the length it announces.
//!
//! The window doubles where it may hold a transfer up: where the peer used it up in less than two round trips, for who
//! waits for credit all the time uses it up in one (after dynamic right-sizing, Fisk and Feng 2001).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf as _, Bytes};

use super::outgoing::MAX_PREFIX_BYTES;
use crate::domain::time::Instant;

/// Fragments below this size are gathered in one buffer with their neighbour, in bytes: a handle of its own
/// would cost more than the copy.
const SMALL_FRAGMENT: usize = 1024;
/// Buffers of gathered fragments grow up to this size, in bytes.
const GATHERED_BYTES: usize = 64 * 1024;
/// Fragments held per byte of window, inverted: fewer bytes per fragment than this on average and further
/// ones are not taken, so that bookkeeping stays below the window in size.
const BYTES_PER_SEGMENT: usize = 256;
/// The buffer of a message may be this many times the bytes that arrived: large messages move less often, and
/// an announced length still costs nothing by itself.
const GROWTH: usize = 8;
/// Credit is given whenever this part of the window was taken: a quarter.
const CREDIT_PART: u32 = 4;
/// A window that lasts for so many round trips is wide enough.
const ENOUGH: u32 = 2;
/// Fragments that any window may hold.
const MIN_SEGMENTS: usize = 64;

#[derive(Debug)]
enum Segment {
    /// A slice of the frame it came in.
    Shared(Bytes),
    /// Bytes of its own, perhaps of several fragments.
    Owned(Vec<u8>),
}

impl Segment {
    fn len(&self) -> usize {
        match self {
            Self::Shared(bytes) => bytes.len(),
            Self::Owned(bytes) => bytes.len(),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Owned(bytes) => bytes.into(),
        }
    }
}

/// What became of a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is here, now or since earlier.
    Yes,
    /// No room for its bookkeeping: it must not be acknowledged.
    No,
}

/// A message announced a length over the limit: nothing of it was kept, and the lane cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageTooLarge;

/// Messages on their way in.
#[derive(Debug)]
pub(crate) struct LaneIn {
    /// Everything below went into messages.
    next: u64,
    segments: BTreeMap<u64, Segment>,
    held: usize,
    /// The length of the next message as far as it came: its value, and how many bytes of it.
    prefix: (u64, usize),
    /// Length of the message that is being received, and what came of it so far.
    partial: Option<(usize, Vec<u8>)>,
    window: u64,
    /// The window never grows beyond this.
    most: u64,
    max_message: usize,
    /// The peer may send bytes below this offset.
    advertised: u64,
    /// When it was last told so.
    told: Option<Instant>,
    paused: bool,
}

impl LaneIn {
    pub(crate) fn new(window: usize, most: usize, max_message: usize) -> Self {
        Self {
            next: 0,
            segments: BTreeMap::new(),
            held: 0,
            prefix: (0, 0),
            partial: None,
            window: window as u64,
            most: most as u64,
            max_message,
            advertised: window as u64,
            told: None,
            paused: false,
        }
    }

    /// Whether the peer was allowed to send bytes up to `end`.
    pub(crate) fn permits(&self, end: u64) -> bool {
        end <= self.advertised
    }

    /// Whether bytes are missing before the first ones held: a link that loses nothing has lost something.
    pub(crate) fn has_gap(&self) -> bool {
        self.segments.first_key_value().is_some_and(|(&start, _)| start != self.next)
    }

    /// While paused, no message comes out and no credit is given.
    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Whether so much was taken since the last advertisement that the peer should hear of it.
    pub(crate) fn is_credit_due(&self) -> bool {
        self.next + self.window - self.advertised >= self.window / u64::from(CREDIT_PART)
    }

    /// The limit to tell the peer now, over a link of this round trip, as far as it is known.
    pub(crate) fn advertise(&mut self, now: Instant, round_trip: Option<Duration>) -> u64 {
        let is_due = self.is_credit_due();
        if let (Some(told), Some(round_trip)) = (self.told.replace(now), round_trip)
            && is_due
            && now.since(told) * CREDIT_PART < round_trip * ENOUGH
        {
            self.window = (2 * self.window).min(self.most);
        }
        self.advertised = self.advertised.max(self.next + self.window);
        self.advertised
    }

    /// Bytes of memory that incoming data occupies.
    pub(crate) fn held(&self) -> usize {
        self.held + self.partial.as_ref().map_or(0, |(_, buffer)| buffer.capacity())
    }

    /// Takes a fragment that came in a frame of `frame_len` bytes and is permitted.
    pub(crate) fn accept(
        &mut self,
        offset: u64,
        mut data: Bytes,
        frame_len: usize,
        messages: &mut Vec<Bytes>,
    ) -> Result<Taken, MessageTooLarge> {
        let end = offset + data.len() as u64;
        if end <= self.next && !mutant!(DedupLost) {
            return Ok(Taken::Yes);
        }
        let mut offset = offset;
        if offset < self.next && !mutant!(DedupLost) {
            data = data.split_off((self.next - offset) as usize);
            offset = self.next;
        }
        let disorder = mutant!(FragmentsReordered) | (mutant!(DedupLost) & (offset < self.next));
        let in_turn = offset == self.next || disorder;
        if in_turn && !self.paused && self.segments.is_empty() {
            self.consume(data, messages)?;
            return Ok(Taken::Yes);
        }
        let taken = self.store(offset, data, frame_len);
        self.drain(messages)?;
        Ok(taken)
    }

    /// Hands out what is complete, unless paused.
    pub(crate) fn drain(&mut self, messages: &mut Vec<Bytes>) -> Result<(), MessageTooLarge> {
        while !self.paused
            && let Some(entry) = self.segments.first_entry()
            && *entry.key() == self.next
        {
            let segment = entry.remove();
            self.held -= segment.len();
            self.consume(segment.into_bytes(), messages)?;
        }
        Ok(())
    }

    /// Keeps the parts of the fragment that are not held yet.
    fn store(&mut self, mut offset: u64, mut data: Bytes, frame_len: usize) -> Taken {
        let most = MIN_SEGMENTS + self.window as usize / BYTES_PER_SEGMENT;
        while !data.is_empty() {
            // Skip what the segment at or before `offset` covers already.
            let before = self.segments.range(..=offset).next_back();
            if let Some((&start, segment)) = before {
                let covered = (start + segment.len() as u64).saturating_sub(offset);
                if covered > 0 {
                    let covered = covered.min(data.len() as u64);
                    data = data.split_off(covered as usize);
                    offset += covered;
                    continue;
                }
            }
            let free = self.segments.range(offset..).next().map_or(u64::MAX, |(&start, _)| start - offset);
            let piece = data.split_to(free.min(data.len() as u64) as usize);
            let (at, len) = (offset, piece.len());
            offset += len as u64;
            if let Some((&start, Segment::Owned(gathered))) = self.segments.range_mut(..at).next_back()
                && start + gathered.len() as u64 == at
                && len < SMALL_FRAGMENT
                && gathered.len() < GATHERED_BYTES
            {
                gathered.extend_from_slice(&piece);
            } else if at != self.next && self.segments.len() >= most {
                return Taken::No;
            } else if len < SMALL_FRAGMENT || len < frame_len / 2 {
                // A slice would keep the whole frame alive.
                self.segments.insert(at, Segment::Owned(piece.to_vec()));
            } else {
                self.segments.insert(at, Segment::Shared(piece));
            }
            self.held += len;
        }
        Taken::Yes
    }

    /// Cuts in-order bytes into messages.
    fn consume(&mut self, mut data: Bytes, messages: &mut Vec<Bytes>) -> Result<(), MessageTooLarge> {
        self.next += data.len() as u64;
        while !data.is_empty() {
            if let Some((len, mut buffer)) = self.partial.take() {
                let piece = data.split_to(data.len().min(len - buffer.len()));
                let needed = buffer.len() + piece.len();
                if needed > buffer.capacity() {
                    let target = len.min(GROWTH * needed);
                    buffer.reserve_exact(target - buffer.len());
                }
                buffer.extend_from_slice(&piece);
                if buffer.len() == len {
                    messages.push(buffer.into());
                } else {
                    self.partial = Some((len, buffer));
                }
                continue;
            }
            let byte = data.get_u8();
            let (value, bytes) = self.prefix;
            let value = value | u64::from(byte & 0x7f) << (7 * bytes);
            if byte & 0x80 != 0 && bytes + 1 < MAX_PREFIX_BYTES {
                self.prefix = (value, bytes + 1);
                continue;
            }
            self.prefix = (0, 0);
            let Some(len) =
                usize::try_from(value).ok().filter(|len| byte & 0x80 == 0 && *len <= self.max_message)
            else {
                self.segments.clear();
                self.held = 0;
                return Err(MessageTooLarge);
            };
            if len <= data.len() {
                messages.push(data.split_to(len));
            } else {
                self.partial = Some((len, Vec::new()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::outgoing::prefix;
    use super::*;
    use proptest::prelude::*;

    const WINDOW: usize = 4096;
    const MAX: usize = 10_000;

    fn stream(messages: &[Vec<u8>]) -> Vec<u8> {
        messages.iter().flat_map(|m| [&prefix(m.len())[..], m].concat()).collect()
    }

    proptest! {
        #[test]
        fn overlapping_fragments_in_any_order_give_the_messages_back(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..20),
            cuts in proptest::collection::vec((0usize..1000, 1usize..300), 1..60),
        ) {
            let bytes = stream(&messages);
            let mut lane = LaneIn::new(WINDOW, WINDOW, MAX);
            let mut got = Vec::new();
            let all = (0..bytes.len()).step_by(7).map(|start| (start, 7));
            for (start, len) in cuts.into_iter().chain(all) {
                let start = start % bytes.len();
                let end = (start + len).min(bytes.len());
                let data = Bytes::copy_from_slice(&bytes[start..end]);
                prop_assert_eq!(lane.accept(start as u64, data, 512, &mut got), Ok(Taken::Yes));
            }
            prop_assert_eq!(got, messages.into_iter().map(Bytes::from).collect::<Vec<_>>());
            prop_assert_eq!(lane.held, 0);
        }
    }

    #[test]
    fn i6_a_length_takes_no_memory_until_its_bytes_arrive() {
        let mut lane = LaneIn::new(WINDOW, WINDOW, MAX);
        let mut got = Vec::new();
        let prefix = Bytes::copy_from_slice(&prefix(MAX));
        let start = prefix.len() as u64;
        lane.accept(0, prefix, 512, &mut got).unwrap();
        lane.accept(start, Bytes::from_static(&[7; 100]), 512, &mut got).unwrap();
        assert!(lane.held() <= GROWTH * 100, "{} bytes for 100 received", lane.held());
    }

    #[test]
    fn i6_a_length_over_the_limit_ends_the_lane() {
        for prefix in [&prefix(u32::MAX as usize)[..], &prefix(MAX + 1), &[0x80, 0x80, 0x80, 0x80, 0x80, 0]] {
            let mut lane = LaneIn::new(WINDOW, WINDOW, MAX);
            let prefix = Bytes::copy_from_slice(prefix);
            assert_eq!(lane.accept(0, prefix, 512, &mut Vec::new()), Err(MessageTooLarge));
            assert_eq!(lane.held(), 0);
        }
    }

    #[test]
    fn i6_many_one_byte_fragments_are_not_all_kept() {
        let mut lane = LaneIn::new(WINDOW, WINDOW, MAX);
        let mut refused = 0;
        for offset in (1..WINDOW as u64).step_by(2) {
            let taken = lane.accept(offset, Bytes::from_static(b"x"), 512, &mut Vec::new()).unwrap();
            refused += usize::from(taken == Taken::No);
        }
        assert!(refused > 0 && lane.segments.len() <= MIN_SEGMENTS + WINDOW / BYTES_PER_SEGMENT);
    }

    /// The window after credit was told each time that a quarter of it was taken, which took so long.
    fn window_after(quarter: Duration, round_trip: Option<Duration>) -> u64 {
        let (mut lane, mut now) = (LaneIn::new(WINDOW, 4 * WINDOW, MAX), Instant::ZERO);
        for _ in 0..20 {
            let end = lane.next + lane.window / u64::from(CREDIT_PART);
            lane.next = end;
            assert!(lane.is_credit_due());
            now = now + quarter;
            lane.advertise(now, round_trip);
            assert!(lane.advertised >= end + lane.window);
        }
        lane.window
    }

    #[test]
    fn a_window_grows_to_its_bound_where_it_lasts_for_less_than_two_round_trips_and_nowhere_else() {
        const MS: Duration = Duration::from_millis(1);
        assert_eq!(window_after(24 * MS, Some(50 * MS)), 4 * WINDOW as u64);
        assert_eq!(window_after(25 * MS, Some(50 * MS)), WINDOW as u64);
        assert_eq!(window_after(MS, None), WINDOW as u64, "nobody knows whether it waits");
    }

    #[test]
    fn i6_credit_that_is_only_told_again_widens_nothing() {
        let mut lane = LaneIn::new(WINDOW, 4 * WINDOW, MAX);
        for _ in 0..20 {
            assert_eq!(lane.advertise(Instant::ZERO, Some(Duration::from_secs(1))), WINDOW as u64);
        }
    }

    #[test]
    fn a_paused_lane_gathers_small_fragments_and_gives_no_credit() {
        let mut lane = LaneIn::new(WINDOW, WINDOW, MAX);
        let mut got = Vec::new();
        lane.set_paused(true);
        let bytes = stream(&vec![vec![1; 7]; WINDOW / 8]);
        for (index, part) in bytes.chunks(8).enumerate() {
            let taken = lane.accept(8 * index as u64, Bytes::copy_from_slice(part), 512, &mut got);
            assert_eq!(taken, Ok(Taken::Yes));
        }
        assert!(got.is_empty() && !lane.is_credit_due() && !lane.has_gap() && lane.segments.len() < 4);
        lane.set_paused(false);
        lane.drain(&mut got).unwrap();
        assert_eq!(got.len(), WINDOW / 8);
        assert!(lane.is_credit_due());
    }
}
