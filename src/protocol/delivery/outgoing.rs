//! The sending half of a lane: messages as one stream of bytes, and what became of each byte.

use std::collections::VecDeque;

use bytes::Bytes;

use super::ranges::RangeSet;

/// Most bytes of the length (LEB128) that precedes each message in the stream: it is below 2^32.
pub(crate) const MAX_PREFIX_BYTES: usize = 5;

#[derive(Debug)]
struct Queued {
    start: u64,
    message: Bytes,
}

impl Queued {
    /// Where the message starts, after its length.
    fn body(&self) -> u64 {
        self.start + prefix_bytes(self.message.len())
    }

    fn end(&self) -> u64 {
        self.body() + self.message.len() as u64
    }
}

/// Bytes of the length of a message of `len` bytes.
fn prefix_bytes(len: usize) -> u64 {
    u64::from((usize::BITS - len.leading_zeros()).max(1).div_ceil(7))
}

/// The length of a message of `len` bytes as it travels.
pub(crate) fn prefix(len: usize) -> smallvec::SmallVec<[u8; 8]> {
    let mut bytes = smallvec::SmallVec::new();
    let mut rest = len;
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

/// Messages on their way out. Stream offsets count from 0 and never wrap.
#[derive(Debug)]
pub(crate) struct LaneOut {
    messages: VecDeque<Queued>,
    /// Everything below is acknowledged.
    base: u64,
    /// Nothing from here on was ever sent.
    next: u64,
    /// End of the last message.
    end: u64,
    acked: RangeSet,
    lost: RangeSet,
    /// The peer takes bytes below this offset.
    credit: u64,
    /// Bytes that may wait here.
    cap: u64,
    /// A message was refused and nobody was told yet that there is room again.
    starved: bool,
}

impl LaneOut {
    pub(crate) fn new(cap: usize) -> Self {
        Self {
            messages: VecDeque::new(),
            base: 0,
            next: 0,
            end: 0,
            acked: RangeSet::default(),
            lost: RangeSet::default(),
            credit: 0,
            cap: cap as u64,
            starved: false,
        }
    }

    /// Queues `message`, or gives it back. An empty lane takes any size.
    pub(crate) fn push(&mut self, message: Bytes) -> Result<(), Bytes> {
        let waiting = self.end - self.base;
        if waiting > 0 && waiting + (MAX_PREFIX_BYTES + message.len()) as u64 > self.cap {
            self.starved = true;
            return Err(message);
        }
        let queued = Queued { start: self.end, message };
        self.end = queued.end();
        self.messages.push_back(queued);
        Ok(())
    }

    /// Bytes of message that [`push`](Self::push) would take now, unless the lane is empty and takes anything.
    pub(crate) fn room(&self) -> Option<u64> {
        let waiting = self.end - self.base;
        (waiting > 0).then(|| self.cap.saturating_sub(waiting + MAX_PREFIX_BYTES as u64))
    }

    /// Whether a refused sender should hear that half the queue is free again.
    pub(crate) fn has_room_news(&self) -> bool {
        self.starved && self.end - self.base <= self.cap / 2
    }

    /// The refused sender hears of the room.
    pub(crate) fn take_room_news(&mut self) -> bool {
        let news = self.has_room_news();
        self.starved &= !news;
        news
    }

    /// The peer takes bytes below `limit`. Credit never shrinks.
    pub(crate) fn raise_credit(&mut self, limit: u64) {
        self.credit = self.credit.max(limit);
    }

    /// Whether something could be sent now.
    pub(crate) fn is_ready(&self) -> bool {
        !self.lost.is_empty() || self.next < self.end.min(self.credit)
    }

    /// Whether something that was taken for lost waits to be sent again.
    pub(crate) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Bytes that could be sent now.
    pub(crate) fn ready_bytes(&self) -> u64 {
        if self.lost.is_empty() { self.end.min(self.credit).saturating_sub(self.next) } else { u64::MAX }
    }

    /// The next range to send, at most `max` bytes: lost bytes first. The flag says that it was sent before.
    pub(crate) fn take(&mut self, max: u64) -> Option<(u64, u64, bool)> {
        if max == 0 {
            return None;
        }
        if let Some((start, end)) = self.lost.first() {
            let end = end.min(start + max);
            self.lost.remove(start, end);
            return Some((start, end, true));
        }
        let (start, end) = (self.next, self.end.min(self.credit).min(self.next + max));
        (start < end).then(|| {
            self.next = end;
            (start, end, false)
        })
    }

    /// Appends the stream bytes `start..end` to `frame`. They are sent and not acknowledged.
    pub(crate) fn copy(&self, mut start: u64, end: u64, frame: &mut Vec<u8>) {
        let mut index = self.messages.partition_point(|queued| queued.end() <= start);
        while start < end
            && let Some(queued) = self.messages.get(index)
        {
            let body = queued.body();
            if start < body {
                let prefix = prefix(queued.message.len());
                let stop = end.min(body);
                frame.extend_from_slice(
                    &prefix[(start - queued.start) as usize..(stop - queued.start) as usize],
                );
                start = stop;
            }
            let stop = end.min(queued.end());
            if start < stop {
                frame.extend_from_slice(&queued.message[(start - body) as usize..(stop - body) as usize]);
                start = stop;
            }
            index += 1;
        }
    }

    /// The peer holds `start..end`, or the link is reliable and has taken it.
    pub(crate) fn on_acked(&mut self, start: u64, end: u64) {
        let start = start.max(self.base);
        if start >= end {
            return;
        }
        self.lost.remove(start, end);
        if start == self.base && self.acked.is_empty() {
            self.base = end;
        } else {
            self.acked.insert(start, end);
            while let Some((low, high)) = self.acked.first()
                && low <= self.base
            {
                self.acked.pop_first();
                self.base = self.base.max(high);
            }
        }
        while self.messages.front().is_some_and(|queued| queued.end() <= self.base) {
            self.messages.pop_front();
        }
    }

    /// Everything below is acknowledged.
    pub(crate) fn acked_below(&self) -> u64 {
        self.base
    }

    /// Whether all of `start..end` is acknowledged.
    pub(crate) fn is_acked(&self, start: u64, end: u64) -> bool {
        let start = start.max(self.base);
        self.acked.covers(start, end)
    }

    /// What of `start..end` is worth sending once more: from the first byte on that is not acknowledged, if there is one.
    pub(crate) fn unacked(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        (!self.is_acked(start, end)).then(|| (start.max(self.base), end))
    }

    /// `start..end` is taken for lost: what of it is not acknowledged goes out again.
    pub(crate) fn on_lost(&mut self, start: u64, end: u64) {
        let start = start.max(self.base);
        if start >= end || mutant!(RetransmitLost) {
            return;
        }
        self.lost.insert(start, end);
        let held: smallvec::SmallVec<[(u64, u64); 4]> = self.acked.within(start, end).collect();
        for (low, high) in held {
            self.lost.remove(low, high);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(messages: &[&'static [u8]]) -> LaneOut {
        let mut lane = LaneOut::new(1 << 20);
        for message in messages {
            lane.push(Bytes::from_static(message)).unwrap();
        }
        lane.raise_credit(1 << 20);
        lane
    }

    fn sent(lane: &mut LaneOut, max: u64) -> (Vec<u8>, bool) {
        let (start, end, again) = lane.take(max).unwrap();
        let mut bytes = Vec::new();
        lane.copy(start, end, &mut bytes);
        assert_eq!(bytes.len() as u64, end - start);
        (bytes, again)
    }

    #[test]
    fn messages_become_one_stream_with_lengths() {
        let mut lane = lane(&[b"ab", b"", b"c"]);
        let whole = sent(&mut lane, 1000).0;
        assert_eq!(whole, [2, b'a', b'b', 0, 1, b'c']);
        assert!(!lane.is_ready());
    }

    #[test]
    fn a_length_takes_as_many_bytes_as_it_needs() {
        for len in [0, 1, 127, 128, 16_383, 16_384, (1 << 21) - 1, 1 << 21, u32::MAX as usize] {
            assert_eq!(prefix(len).len() as u64, prefix_bytes(len));
        }
        assert_eq!(prefix(300)[..], [0xac, 2]);
        assert_eq!(prefix(u32::MAX as usize).len(), MAX_PREFIX_BYTES);
    }

    #[test]
    fn only_what_was_lost_and_not_acknowledged_goes_out_again() {
        let mut lane = lane(&[b"abcdefgh"]);
        while lane.is_ready() {
            sent(&mut lane, 3);
        }
        lane.on_acked(3, 6);
        lane.on_lost(0, 9);
        assert_eq!(sent(&mut lane, 100), (b"\x08ab".to_vec(), true));
        assert_eq!(sent(&mut lane, 100), (b"fgh".to_vec(), true));
        lane.on_acked(0, 9);
        assert!(lane.messages.is_empty() && lane.room().is_none());
    }

    #[test]
    fn credit_and_cap_hold_and_room_is_told_once() {
        let mut lane = LaneOut::new(10);
        lane.push(Bytes::from_static(b"a message longer than the cap")).unwrap();
        assert_eq!(lane.push(Bytes::from_static(b"x")), Err(Bytes::from_static(b"x")));
        assert!(lane.take(100).is_none(), "sent without credit");
        lane.raise_credit(5);
        assert_eq!(lane.take(100), Some((0, 5, false)));
        lane.raise_credit(100);
        assert_eq!(lane.take(100), Some((5, 30, false)));
        assert!(!lane.take_room_news());
        lane.on_acked(0, 30);
        assert!(lane.take_room_news() && !lane.take_room_news());
    }
}
