//! One lane's frames: numbers, what is under way, what arrived and is to be acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use smallvec::SmallVec;

use super::incoming::LaneIn;
use super::outgoing::LaneOut;
use super::ranges::RangeSet;
use super::{ACK_DELAY, ACK_FRAMES, RELIABLE_ACK_BYTES, RELIABLE_ACK_PAUSE};
use crate::domain::time::Instant;

/// A frame is lost once this many later ones arrived (RFC 9002 `kPacketThreshold`).
const PACKET_THRESHOLD: u64 = 3;
/// Ranges of received frames that are remembered; older ones were acknowledged several times by then.
const MAX_RANGES: usize = 32;
/// Frames of one lane under way: bounds the records whatever the windows allow.
const MAX_UNDER_WAY: usize = 8192;
/// Frames of one lane on a reliable link whose departure is remembered, to measure the round trip.
const MAX_TIMED: usize = 256;

/// A frame under way.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) number: u64,
    pub(crate) at: Instant,
    pub(crate) size: u64,
    pub(crate) fragments: SmallVec<[(u64, u64); 2]>,
    /// The frame carried a credit for these lanes.
    pub(crate) credit: [bool; 2],
    /// The highest frame number of each lane that it acknowledged.
    pub(crate) named: [Option<u64>; 2],
    /// Acknowledged or taken for lost.
    pub(crate) settled: bool,
}

/// How soon a frame is in doubt that nothing has overtaken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// One that carries what was never sent before.
    pub(crate) fresh: Duration,
    /// One that carries what was lost once.
    pub(crate) again: Duration,
}

/// Frames that come in doubt, in the order in which they left: their numbers and when that was.
#[derive(Debug, Default)]
struct Doubts {
    fresh: VecDeque<(u64, Instant)>,
    again: VecDeque<(u64, Instant)>,
}

/// When the next acknowledgement is due.
#[derive(Debug, Default)]
pub(crate) struct AckState {
    /// Something arrived that is not acknowledged yet.
    pending: bool,
    now: bool,
    frames: u32,
    bytes: usize,
    deadline: Option<Instant>,
    /// When the highest frame arrived.
    highest_at: Instant,
    /// When the last acknowledgement left.
    told: Option<Instant>,
}

impl AckState {
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.now || self.deadline.is_some_and(|deadline| deadline <= now)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.now { None } else { self.deadline }
    }

    pub(crate) fn on_timeout(&mut self, now: Instant) {
        self.now |= self.is_due(now);
    }

    /// Whether it is time for another acknowledgement on a reliable link, where they only measure the round trip.
    pub(crate) fn is_of_use(&self, now: Instant) -> bool {
        self.now || self.told.is_none_or(|told| now >= told + RELIABLE_ACK_PAUSE)
    }

    /// If an acknowledgement is pending, settles it and returns how long it waited, in microseconds.
    pub(crate) fn take(&mut self, now: Instant) -> Option<u64> {
        if !self.pending {
            return None;
        }
        let highest_at = self.highest_at;
        *self = Self { highest_at, told: Some(now), ..Self::default() };
        Some(u64::try_from(now.since(highest_at).as_micros()).unwrap_or(u64::MAX))
    }
}

/// Everything that one lane keeps.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) out: LaneOut,
    pub(crate) incoming: LaneIn,
    /// What was sent again a moment ago and goes out once more.
    pub(crate) second: SmallVec<[(u64, u64); 2]>,
    pub(crate) next_number: u64,
    pub(crate) sent: VecDeque<Sent>,
    pub(crate) largest_acked: Option<u64>,
    pub(crate) received: RangeSet,
    pub(crate) ack: AckState,
    /// What waits to be sent again is only in doubt and goes out in one frame.
    pub(crate) once: bool,
    /// What was sent again already: it is not doubted a second time.
    repeated: RangeSet,
    doubts: Doubts,
    /// The last credit told may not have arrived.
    pub(crate) credit_lost: bool,
}

impl Space {
    pub(crate) fn new(out: LaneOut, incoming: LaneIn) -> Self {
        Self {
            out,
            incoming,
            second: SmallVec::new(),
            next_number: 0,
            sent: VecDeque::new(),
            largest_acked: None,
            received: RangeSet::default(),
            ack: AckState::default(),
            once: false,
            repeated: RangeSet::default(),
            doubts: Doubts::default(),
            credit_lost: false,
        }
    }

    /// Whether something of the lane could be sent now.
    pub(crate) fn is_ready(&self) -> bool {
        !self.second.is_empty() || self.out.is_ready()
    }

    pub(crate) fn may_track(&self) -> bool {
        self.sent.len() < MAX_UNDER_WAY
    }

    /// Remembers when a frame on a reliable link left.
    pub(crate) fn time_frame(&mut self, number: u64, at: Instant) {
        if self.sent.len() < MAX_TIMED {
            self.sent.push_back(Sent {
                number,
                at,
                size: 0,
                fragments: SmallVec::new(),
                credit: [false; 2],
                named: [None; 2],
                settled: false,
            });
        }
    }

    pub(crate) fn is_credit_due(&self) -> bool {
        self.credit_lost || self.incoming.is_credit_due()
    }

    /// Remembers that frame `number` arrived and decides when to say so.
    pub(crate) fn on_received(
        &mut self,
        number: u64,
        len: usize,
        eliciting: bool,
        reliable: bool,
        now: Instant,
    ) {
        let highest = self.received.descending().next().map(|(_, end)| end);
        let in_order = highest.is_none_or(|highest| number == highest);
        if highest.is_none_or(|highest| number >= highest) {
            self.ack.highest_at = now;
        }
        self.received.insert(number, number + 1);
        if self.received.len() > MAX_RANGES {
            self.received.pop_first();
        }
        if !eliciting {
            return;
        }
        let ack = &mut self.ack;
        ack.pending = true;
        ack.frames += 1;
        ack.bytes += len;
        if reliable {
            ack.now |= ack.bytes >= RELIABLE_ACK_BYTES;
        } else {
            ack.now |= ack.frames >= ACK_FRAMES || !in_order;
            ack.deadline.get_or_insert(now + ACK_DELAY);
        }
    }

    /// Takes frames for lost that enough later ones have overtaken, or one that left long enough ago: `timeout` after
    /// their own departure.
    pub(crate) fn declare_lost(&mut self, now: Instant, timeout: Duration, mut lost: impl FnMut(&Sent)) {
        let Some(largest) = self.largest_acked else { return };
        for sent in &mut self.sent {
            let overdue = sent.number < largest && sent.at + timeout <= now;
            if sent.number + PACKET_THRESHOLD > largest && !overdue {
                break;
            }
            if !std::mem::replace(&mut sent.settled, true) {
                self.once = false;
                for &(start, end) in &sent.fragments {
                    self.out.on_lost(start, end);
                }
                lost(sent);
            }
        }
    }

    /// When the first frame that was overtaken counts as lost.
    pub(crate) fn lost_at(&self, timeout: Duration) -> Option<Instant> {
        let largest = self.largest_acked?;
        let waiting = self.sent.iter().take_while(|sent| sent.number < largest).find(|sent| !sent.settled);
        waiting.map(|sent| sent.at + timeout)
    }

    /// The frame with this number, which left at `at`, is doubted once, if it carries what is fresh or was lost for the first
    /// time (`lost`).
    pub(crate) fn may_doubt(&mut self, number: u64, at: Instant, lost: &[(u64, u64)]) {
        self.repeated.remove(0, self.out.acked_below());
        if lost.is_empty() {
            return self.doubts.fresh.push_back((number, at));
        }
        if !lost.iter().all(|&(start, end)| self.repeated.covers(start, end)) {
            self.doubts.again.push_back((number, at));
        }
        for &(start, end) in lost {
            self.repeated.insert(start, end);
        }
    }

    /// When the first frame is in doubt.
    pub(crate) fn doubted_at(&self, patience: Patience) -> Option<Instant> {
        let fresh = self.doubts.fresh.front().map(|&(_, at)| at + patience.fresh);
        let again = self.doubts.again.front().map(|&(_, at)| at + patience.again);
        fresh.into_iter().chain(again).min()
    }

    /// What frames carried that are in doubt goes out again. They stay under way, for they may have arrived.
    pub(crate) fn doubt(&mut self, now: Instant, patience: Patience) {
        self.once = !self.out.has_lost();
        for (waiting, patience, again) in
            [(&mut self.doubts.fresh, patience.fresh, false), (&mut self.doubts.again, patience.again, true)]
        {
            while let Some(&(number, at)) = waiting.front()
                && at + patience <= now
            {
                waiting.pop_front();
                let Some(sent) = under_way(&self.sent, number) else { continue };
                let mut covered = sent.fragments.iter();
                if !again && covered.all(|&(start, end)| self.repeated.covers(start, end)) {
                    continue;
                }
                self.once &= !again;
                for &(start, end) in &sent.fragments {
                    self.out.on_lost(start, end);
                }
            }
        }
    }

    /// Drops the records of frames whose fate is known.
    pub(crate) fn forget_settled(&mut self) {
        while self.sent.front().is_some_and(|sent| sent.settled) {
            self.sent.pop_front();
        }
        let sent = &self.sent;
        for waiting in [&mut self.doubts.fresh, &mut self.doubts.again] {
            while waiting.front().is_some_and(|&(number, _)| under_way(sent, number).is_none()) {
                waiting.pop_front();
            }
        }
    }
}

/// The frame with this number, if its fate is not known.
fn under_way(sent: &VecDeque<Sent>, number: u64) -> Option<&Sent> {
    let at = sent.binary_search_by_key(&number, |sent| sent.number).ok()?;
    sent.get(at).filter(|sent| !sent.settled)
}
