//! What one direction of a link does to frames: chances, delays, limits, with presets after common radios.
//!
//! Plain data. The [`LinkModel`](super::link_model::LinkModel) reads it; it draws nothing itself except a delay
//! from a generator that it is handed.

use std::time::Duration;

use super::prng::Prng;

/// One in this many is the resolution of a [`Chance`].
const MILLION: u32 = 1_000_000;
/// Frame limit of links that behave like a stream socket, in bytes.
const STREAM_FRAME_BYTES: usize = 64 << 10;
/// Frame limit of links that behave like UDP on the open internet, in bytes (RFC 9000, section 14: 1,200 pass everywhere).
const DATAGRAM_FRAME_BYTES: usize = 1_200;
/// What a link may owe its reader unless told otherwise, in bytes: enough for 64 KiB frames in a window.
const DEFAULT_QUEUE_BYTES: usize = 1 << 20;

/// A probability in steps of a millionth, so that profiles compare and replay exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Chance(u32);

impl Chance {
    /// Never.
    pub const NEVER: Self = Self(0);
    /// Always.
    pub const ALWAYS: Self = Self(MILLION);

    /// `share` of all cases, clamped to 0 to 1; not-a-number is never.
    pub fn new(share: f64) -> Self {
        Self((share.clamp(0.0, 1.0) * f64::from(MILLION)).round() as u32)
    }

    /// `count` of a million cases.
    pub const fn per_million(count: u32) -> Self {
        Self(if count > MILLION { MILLION } else { count })
    }

    /// The share, from 0 to 1.
    pub fn share(self) -> f64 {
        f64::from(self.0) / f64::from(MILLION)
    }

    /// Draws once. A chance of zero draws nothing, so that turning a fault off moves no other draw.
    pub(super) fn hit(self, prng: &mut Prng) -> bool {
        self.0 > 0 && prng.below(u64::from(MILLION)) < u64::from(self.0)
    }
}

/// How long a frame travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delay {
    /// Anything from `min` to `max` alike.
    Uniform {
        /// Shortest.
        min: Duration,
        /// Longest.
        max: Duration,
    },
    /// Mostly close to `min`, seldom close to `max`: the fourth power of a uniform draw, so half of all frames
    /// take less than a sixteenth of the way from `min` to `max`.
    LongTail {
        /// Shortest.
        min: Duration,
        /// Longest.
        max: Duration,
    },
}

impl Delay {
    /// No delay at all.
    pub const NONE: Self = Self::fixed(Duration::ZERO);

    /// Always the same.
    pub const fn fixed(delay: Duration) -> Self {
        Self::Uniform { min: delay, max: delay }
    }

    pub(super) fn is_none(self) -> bool {
        let (Self::Uniform { min, max } | Self::LongTail { min, max }) = self;
        min.is_zero() && max.is_zero()
    }

    pub(super) fn draw(self, prng: &mut Prng) -> Duration {
        let (Self::Uniform { min, max } | Self::LongTail { min, max }) = self;
        let span = u64::try_from(max.saturating_sub(min).as_nanos()).unwrap_or(u64::MAX);
        if span == 0 {
            return min;
        }
        let offset = match self {
            Self::Uniform { .. } => prng.below(span.saturating_add(1)),
            Self::LongTail { .. } => {
                // Fixed-point powers: floating-point `powf` may differ between platforms.
                let unit = u128::from(prng.next_u64() >> 32);
                let square = (unit * unit) >> 32;
                let fourth = (square * square) >> 32;
                ((fourth * u128::from(span)) >> 32) as u64
            }
        };
        min + Duration::from_nanos(offset)
    }
}

/// One direction of a link. Start from a preset and change fields:
///
/// ```
/// use anabranch::infrastructure::link_profile::{Chance, LinkProfile};
/// let bad_wifi = LinkProfile { loss: Chance::new(0.2), ..LinkProfile::wifi() };
/// assert!(bad_wifi.loss > LinkProfile::wifi().loss);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkProfile {
    /// Frames that vanish.
    pub loss: Chance,
    /// Frames that arrive twice.
    pub duplicate: Chance,
    /// Frames with one to eight bits flipped.
    pub corrupt: Chance,
    /// Frames that lose their end.
    pub truncate: Chance,
    /// Frames that are held back by [`reorder_by`](Self::reorder_by), so that later ones overtake them.
    pub reorder: Chance,
    /// How long a reordered frame is held back.
    pub reorder_by: Duration,
    /// How long each frame travels. Frames keep their order however the delays fall, unless reordered.
    pub delay: Delay,
    /// Bytes per second; `None` is without limit.
    pub bandwidth: Option<u64>,
    /// Bytes that may be accepted and not yet read by the other side; beyond it the link is full. A frame counts
    /// its length plus [`FRAME_COST`](super::link_model::FRAME_COST). An idle link takes any single frame.
    pub queue_bytes: usize,
    /// Largest frame, in bytes.
    pub max_frame: usize,
    /// The link repairs itself as TCP does: what would be lost, damaged or blocked arrives later instead, in
    /// order and once. Each repair costs [`repair`](Self::repair), doubled for each further one of a frame.
    pub reliable: bool,
    /// How long a reliable link takes to notice a loss.
    pub repair: Duration,
}

impl LinkProfile {
    /// No faults, no delay, no limit but the queue; 64 KiB frames. Frames arrive in the call that sends them.
    pub const fn perfect() -> Self {
        Self {
            loss: Chance::NEVER,
            duplicate: Chance::NEVER,
            corrupt: Chance::NEVER,
            truncate: Chance::NEVER,
            reorder: Chance::NEVER,
            reorder_by: Duration::ZERO,
            delay: Delay::NONE,
            bandwidth: None,
            queue_bytes: DEFAULT_QUEUE_BYTES,
            max_frame: STREAM_FRAME_BYTES,
            reliable: false,
            repair: Duration::from_millis(200), // the smallest retransmission timeout of common TCP stacks
        }
    }

    /// Sockets on one machine: 20 to 100 µs, no faults. (Guess: the order of a scheduler wake-up.)
    pub const fn loopback() -> Self {
        let delay = Delay::Uniform { min: Duration::from_micros(20), max: Duration::from_micros(100) };
        Self { delay, ..Self::perfect() }
    }

    /// A home network: 2 to 60 ms with a long tail, 1 % loss, some duplicates and reordering, 6 MB/s (guess).
    pub const fn wifi() -> Self {
        Self {
            loss: Chance::per_million(10_000),
            duplicate: Chance::per_million(1_000),
            reorder: Chance::per_million(2_000),
            reorder_by: Duration::from_millis(5),
            delay: Delay::LongTail { min: Duration::from_millis(2), max: Duration::from_millis(60) },
            bandwidth: Some(6_000_000),
            max_frame: DATAGRAM_FRAME_BYTES,
            ..Self::perfect()
        }
    }

    /// A telephone on the move: 40 to 400 ms with a long tail, 2 % loss, reordering, 1 MB/s (guess).
    pub const fn mobile() -> Self {
        Self {
            loss: Chance::per_million(20_000),
            duplicate: Chance::per_million(1_000),
            reorder: Chance::per_million(10_000),
            reorder_by: Duration::from_millis(30),
            delay: Delay::LongTail { min: Duration::from_millis(40), max: Duration::from_millis(400) },
            bandwidth: Some(1_000_000),
            queue_bytes: 256 << 10,
            max_frame: DATAGRAM_FRAME_BYTES,
            ..Self::perfect()
        }
    }

    /// Bluetooth low energy: 512-byte frames, 20 KB/s, 5 % loss, 15 to 60 ms (a few connection intervals).
    pub const fn ble() -> Self {
        Self {
            loss: Chance::per_million(50_000),
            delay: Delay::Uniform { min: Duration::from_millis(15), max: Duration::from_millis(60) },
            bandwidth: Some(20_000),
            queue_bytes: 16 << 10,
            max_frame: 512,
            ..Self::perfect()
        }
    }

    /// The same link, repairing itself as TCP does.
    pub const fn reliable(self) -> Self {
        Self { reliable: true, ..self }
    }

    /// Whether frames need no clock: they arrive in the call that sends them, unharmed.
    pub fn is_instant(&self) -> bool {
        let faults = [self.loss, self.duplicate, self.corrupt, self.truncate, self.reorder];
        faults.iter().all(|chance| *chance == Chance::NEVER)
            && self.delay.is_none()
            && self.bandwidth.is_none()
    }
}

impl Default for LinkProfile {
    /// [`LinkProfile::perfect`].
    fn default() -> Self {
        Self::perfect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_tail_is_mostly_short_and_never_leaves_its_bounds() {
        let (min, max) = (Duration::from_millis(10), Duration::from_millis(170));
        let mut prng = Prng::new(3);
        let mut draws: Vec<_> = (0..1_000).map(|_| Delay::LongTail { min, max }.draw(&mut prng)).collect();
        draws.sort();
        assert!(draws[0] >= min && draws[999] <= max && draws[999] > Duration::from_millis(120));
        assert!(draws[500] < Duration::from_millis(25), "median {:?}", draws[500]);
    }

    #[test]
    fn chances_are_clamped_and_not_a_number_is_never() {
        assert_eq!([Chance::new(-1.0), Chance::new(7.0)], [Chance::NEVER, Chance::ALWAYS]);
        assert_eq!(Chance::new(f64::NAN), Chance::NEVER);
        assert_eq!(Chance::per_million(u32::MAX), Chance::ALWAYS);
    }
}
