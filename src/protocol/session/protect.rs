//! Frames on an open session: numbered, encrypted and authenticated; each accepted once.
//!
//! On a link that the transport has proven, the same framing without encryption. Called by [`Session`](super::Session).

use bytes::{Bytes, BytesMut};
use chacha20poly1305::aead::AeadInPlace as _;
use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit as _, Nonce, Tag};
use zeroize::Zeroizing;

use super::{SessionFault, WIRE_VERSION};
use crate::protocol::delivery::Lane;

/// Frame kinds; the lowest bit is the lane, the two above it say how long the number is.
pub(crate) const SEALED: u8 = 0x10;
pub(crate) const PLAIN: u8 = 0x18;
/// The bits that tell sealed frames from plain ones and both from all others.
pub(crate) const DATA: u8 = 0x18;
const BULK: u8 = 0x01;
/// Where the length of the number is.
const NUMBER_SHIFT: u8 = 1;

/// The version takes the upper three bits of a frame's first byte, the kind the rest.
const KIND_BITS: u8 = 5;

/// The first byte of a frame of this kind.
pub(crate) fn first_byte(kind: u8) -> u8 {
    WIRE_VERSION << KIND_BITS | kind
}

/// The kind in a first byte, if it is of our version.
pub(crate) fn kind_of(first: u8) -> Option<u8> {
    (first >> KIND_BITS == WIRE_VERSION).then_some(first & ((1 << KIND_BITS) - 1))
}

/// A frame number as it travels: whole while it is small, and then its low 32 bits. Both ends are never 2^31 frames apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShortNumber {
    Whole(u64),
    Low(u32),
}

impl ShortNumber {
    /// Longest form in bytes.
    const MAX_BYTES: usize = 4;

    /// What stands beside the kind, and the bytes.
    fn encode(number: u64) -> (u8, smallvec::SmallVec<[u8; 4]>) {
        match number {
            0..0x100 => (0, smallvec::smallvec![number as u8]),
            0x100..0x1_0000 => (1, (number as u16).to_le_bytes().as_slice().into()),
            _ => (2, (number as u32).to_le_bytes().as_slice().into()),
        }
    }

    /// The number at the start of `bytes`, in the form that `kind` says, and its length.
    fn decode(kind: u8, bytes: &[u8]) -> Result<(Self, usize), SessionFault> {
        match ((kind & !DATA) >> NUMBER_SHIFT, bytes) {
            (0, [a, ..]) => Ok((Self::Whole(u64::from(*a)), 1)),
            (1, [a, b, ..]) => Ok((Self::Whole(u64::from(u16::from_le_bytes([*a, *b]))), 2)),
            (2, [a, b, c, d, ..]) => Ok((Self::Low(u32::from_le_bytes([*a, *b, *c, *d])), 4)),
            (0..=2, _) => Err(SessionFault::Malformed),
            _ => Err(SessionFault::UnknownKind),
        }
    }
}

/// Most bytes before the body of a sealed frame: kind, number.
const SEALED_HEAD: usize = 1 + ShortNumber::MAX_BYTES;
/// Bytes that tell one session's plain frames from another's on the same link.
const SESSION_TAG: usize = 4;
/// Bytes of a Poly1305 tag.
const SEAL: usize = 16;
/// Frames before the highest one that are still accepted, once each. Reordering beyond that counts as replay.
const REPLAY_WINDOW: u64 = 4096;
/// One word of the bitmap is being filled while the others are valid (RFC 6479).
const REPLAY_WORDS: usize = REPLAY_WINDOW as usize / 64 + 1;

const LANE_CONTEXT: &str = "anabranch 1 session lane key";
const EPOCH_CONTEXT: &str = "anabranch 1 session next key";

type Secret = Zeroizing<[u8; 32]>;

/// The key of one lane and direction in one epoch.
struct EpochKey {
    secret: Secret,
    cipher: ChaCha20Poly1305,
}

impl EpochKey {
    fn new(secret: Secret) -> Self {
        Self { cipher: ChaCha20Poly1305::new(Key::from_slice(&*secret)), secret }
    }

    fn next(&self) -> Self {
        Self::new(Zeroizing::new(blake3::derive_key(EPOCH_CONTEXT, &*self.secret)))
    }
}

fn lane_key(direction: &[u8; 32], lane: Lane) -> EpochKey {
    let mut hasher = blake3::Hasher::new_derive_key(LANE_CONTEXT);
    hasher.update(&[lane.index() as u8]);
    hasher.update(direction);
    EpochKey::new(Zeroizing::new(*hasher.finalize().as_bytes()))
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::from(nonce)
}

/// Which of the last [`REPLAY_WINDOW`] frame numbers were seen (RFC 6479).
#[derive(Debug)]
struct ReplayWindow {
    /// One past the highest number seen.
    next: u64,
    words: [u64; REPLAY_WORDS],
}

impl ReplayWindow {
    fn new() -> Self {
        Self { next: 0, words: [0; REPLAY_WORDS] }
    }

    fn is_fresh(&self, number: u64) -> bool {
        if number >= self.next {
            return true;
        }
        self.next - number <= REPLAY_WINDOW
            && self.words[(number / 64) as usize % REPLAY_WORDS] & (1 << (number % 64)) == 0
    }

    fn mark(&mut self, number: u64) {
        if number >= self.next {
            // Words between the old and the new highest number start empty.
            let (old, new) = (self.next.wrapping_sub(1) / 64, number / 64);
            let old = if self.next == 0 { 0 } else { old };
            for word in (old + 1..=new).take(REPLAY_WORDS) {
                self.words[word as usize % REPLAY_WORDS] = 0;
            }
            if new - old >= REPLAY_WORDS as u64 {
                self.words = [0; REPLAY_WORDS];
            }
            self.next = number + 1;
        }
        self.words[(number / 64) as usize % REPLAY_WORDS] |= 1 << (number % 64);
    }

    /// The full number: of a cut one, the closest to the next expected.
    fn expand(&self, short: ShortNumber) -> u64 {
        const SPAN: u64 = 1 << 32;
        let low = match short {
            ShortNumber::Whole(number) => return number,
            ShortNumber::Low(low) => low,
        };
        let near = (self.next & !(SPAN - 1)) | u64::from(low);
        if near + SPAN / 2 <= self.next && near <= u64::MAX - SPAN {
            near + SPAN
        } else if near > self.next + SPAN / 2 && near >= SPAN {
            near - SPAN
        } else {
            near
        }
    }
}

struct Sending {
    epoch: u64,
    key: EpochKey,
}

struct Receiving {
    epoch: u64,
    key: EpochKey,
    previous: Option<EpochKey>,
    /// Made when the first frame that claims it arrives, kept so that forgeries do not cost a derivation each.
    next: Option<EpochKey>,
}

impl Receiving {
    fn key(&mut self, epoch: u64) -> Option<&EpochKey> {
        if epoch == self.epoch {
            Some(&self.key)
        } else if epoch == self.epoch + 1 {
            Some(self.next.get_or_insert_with(|| self.key.next()))
        } else if epoch + 1 == self.epoch {
            self.previous.as_ref()
        } else {
            None
        }
    }

    /// A frame of `epoch` was authentic.
    fn advance(&mut self, epoch: u64) {
        if epoch == self.epoch + 1
            && let Some(next) = self.next.take()
        {
            self.previous = Some(std::mem::replace(&mut self.key, next));
            self.epoch = epoch;
        }
    }
}

enum Mode {
    Sealed { sending: [Sending; 2], receiving: Box<[Receiving; 2]>, epoch_frames: u64 },
    Plain { tag: [u8; SESSION_TAG] },
}

/// The keys and windows of one open session.
pub(crate) struct Protection {
    mode: Mode,
    windows: Box<[ReplayWindow; 2]>,
}

/// An authentic frame that was not seen before.
#[derive(Debug)]
pub(crate) struct OpenedFrame {
    pub(crate) lane: Lane,
    pub(crate) number: u64,
    pub(crate) body: Bytes,
}

impl Protection {
    /// Most bytes that a frame has around its body, on any link.
    pub(crate) const MAX_OVERHEAD: usize = SEALED_HEAD + SEAL;

    /// Encrypts with `send`, accepts what is encrypted with `receive`.
    pub(crate) fn sealed(send: &[u8; 32], receive: &[u8; 32], epoch_frames: u64) -> Self {
        let sending = Lane::ALL.map(|lane| Sending { epoch: 0, key: lane_key(send, lane) });
        let receiving = Lane::ALL.map(|lane| Receiving {
            epoch: 0,
            key: lane_key(receive, lane),
            previous: None,
            next: None,
        });
        Self::new(Mode::Sealed { sending, receiving: Box::new(receiving), epoch_frames: epoch_frames.max(1) })
    }

    /// Frames in the clear, told apart from another session's by the first bytes of `binding`.
    pub(crate) fn plain(binding: &[u8; 32]) -> Self {
        let mut tag = [0; SESSION_TAG];
        tag.copy_from_slice(&binding[..SESSION_TAG]);
        Self::new(Mode::Plain { tag })
    }

    fn new(mode: Mode) -> Self {
        Self { mode, windows: Box::new([ReplayWindow::new(), ReplayWindow::new()]) }
    }

    /// Most bytes that a frame has before its body.
    pub(crate) fn head(&self) -> usize {
        match self.mode {
            Mode::Sealed { .. } => SEALED_HEAD,
            Mode::Plain { .. } => SEALED_HEAD + SESSION_TAG,
        }
    }

    /// Bytes that a frame has after its body.
    pub(crate) fn tail(&self) -> usize {
        match self.mode {
            Mode::Sealed { .. } => SEAL,
            Mode::Plain { .. } => 0,
        }
    }

    /// Starts frame `number` of `lane`. Each number is used once.
    pub(crate) fn begin(&self, lane: Lane, number: u64, frame: &mut Vec<u8>) {
        let bulk = if lane == Lane::Bulk { BULK } else { 0 };
        let (form, number) = ShortNumber::encode(number);
        let bits = form << NUMBER_SHIFT | bulk;
        match &self.mode {
            Mode::Sealed { .. } => frame.push(first_byte(SEALED | bits)),
            Mode::Plain { tag } => {
                frame.push(first_byte(PLAIN | bits));
                frame.extend_from_slice(tag);
            }
        }
        frame.extend_from_slice(&number);
    }

    /// Frame 0 of the control lane came with the handshake: it counts as seen.
    pub(crate) fn came_with_handshake(&mut self) {
        self.windows[Lane::Control.index()].mark(0);
    }

    /// Finishes the frame that [`begin`](Self::begin) started. Numbers of a lane rise.
    pub(crate) fn finish(&mut self, lane: Lane, number: u64, mut frame: Vec<u8>) -> Bytes {
        if let Mode::Sealed { sending, epoch_frames, .. } = &mut self.mode {
            let sending = &mut sending[lane.index()];
            while sending.epoch < number / *epoch_frames {
                sending.key = sending.key.next();
                sending.epoch += 1;
            }
            let (_, bytes) = ShortNumber::encode(number);
            let (head, body) = frame.split_at_mut(1 + bytes.len());
            let tag = sending
                .key
                .cipher
                .encrypt_in_place_detached(&nonce(number), head, body)
                .expect("a frame is far below the cipher's limit of 256 GiB");
            frame.extend_from_slice(&tag);
        }
        frame.into()
    }

    /// Checks a frame of kind [`SEALED`] or [`PLAIN`]. Anything but an authentic, new frame changes nothing.
    pub(crate) fn open(&mut self, frame: Bytes) -> Result<OpenedFrame, SessionFault> {
        let kind = frame.first().and_then(|first| kind_of(*first)).ok_or(SessionFault::Malformed)?;
        let lane = if kind & BULK == 0 { Lane::Control } else { Lane::Bulk };
        let before = match self.mode {
            Mode::Sealed { .. } => 1,
            Mode::Plain { .. } => 1 + SESSION_TAG,
        };
        let numbered = frame.get(before..).ok_or(SessionFault::Malformed)?;
        let (short, number_bytes) = ShortNumber::decode(kind, numbered)?;
        let head = before + number_bytes;
        let Some(body_len) = frame.len().checked_sub(head + self.tail()) else {
            return Err(SessionFault::Malformed);
        };
        let window = &mut self.windows[lane.index()];
        let number = window.expand(short);
        let body = match &mut self.mode {
            Mode::Sealed { receiving, epoch_frames, .. } => {
                if kind & DATA != SEALED {
                    return Err(SessionFault::UnknownKind);
                }
                if !window.is_fresh(number) {
                    return Err(SessionFault::Replayed);
                }
                let (receiving, epoch) = (&mut receiving[lane.index()], number / *epoch_frames);
                let key = receiving.key(epoch).ok_or(SessionFault::Unauthentic)?;
                let mut frame = frame.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                let seal = frame.split_off(head + body_len);
                let (head_bytes, body) = frame.split_at_mut(head);
                key.cipher
                    .decrypt_in_place_detached(&nonce(number), head_bytes, body, Tag::from_slice(&seal))
                    .map_err(|_| SessionFault::Unauthentic)?;
                receiving.advance(epoch);
                frame.freeze().slice(head..)
            }
            Mode::Plain { tag } => {
                if kind & DATA != PLAIN {
                    return Err(SessionFault::UnknownKind);
                }
                if frame[1..1 + SESSION_TAG] != *tag {
                    return Err(SessionFault::Unauthentic);
                }
                if !window.is_fresh(number) {
                    return Err(SessionFault::Replayed);
                }
                frame.slice(head..)
            }
        };
        window.mark(number);
        Ok(OpenedFrame { lane, number, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const KEYS: ([u8; 32], [u8; 32]) = ([1; 32], [2; 32]);

    fn pair(epoch: u64) -> (Protection, Protection) {
        (Protection::sealed(&KEYS.0, &KEYS.1, epoch), Protection::sealed(&KEYS.1, &KEYS.0, epoch))
    }

    fn frame(from: &mut Protection, lane: Lane, number: u64, body: &[u8]) -> Bytes {
        let mut frame = Vec::new();
        from.begin(lane, number, &mut frame);
        frame.extend_from_slice(body);
        from.finish(lane, number, frame)
    }

    #[test]
    fn the_bytes_of_a_sealed_and_a_plain_frame_are_fixed() {
        let sealed = frame(&mut pair(1 << 20).0, Lane::Bulk, 0x1_0000_0002, b"body");
        let plain = frame(&mut Protection::plain(&[9; 32]), Lane::Control, 3, b"body");
        assert_eq!(plain[..], [0x38, 9, 9, 9, 9, 3, b'b', b'o', b'd', b'y']);
        assert_eq!(sealed[..5], [0x35, 2, 0, 0, 0]);
        let shown: String = sealed[5..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(shown, "d71b86fc399093800dea4ba535a86d7998e73e47");
    }

    #[test]
    fn a_changed_bit_anywhere_is_refused_and_the_true_frame_still_passes() {
        let (mut ana, mut ben) = pair(1 << 20);
        let sealed = frame(&mut ana, Lane::Control, 0, b"body");
        for bit in 0..sealed.len() * 8 {
            let mut forged = sealed.to_vec();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(ben.open(forged.into()).is_err(), "bit {bit}");
        }
        assert_eq!(ben.open(sealed.clone()).unwrap().body, "body");
        assert_eq!(ben.open(sealed).unwrap_err(), SessionFault::Replayed);
    }

    #[test]
    fn frames_across_an_epoch_border_arrive_in_any_order_and_two_epochs_back_is_too_late() {
        let (mut ana, mut ben) = pair(4);
        let mut frames: Vec<_> = (0..13).map(|n| frame(&mut ana, Lane::Bulk, n, &[n as u8])).collect();
        let late = frames.remove(1);
        frames.swap(2, 4);
        for sealed in &frames[..5] {
            ben.open(sealed.clone()).unwrap();
        }
        assert_eq!(ben.open(late).unwrap().number, 1);
        let (mut ana, mut ben) = pair(4);
        let frames: Vec<_> = (0..13).map(|n| frame(&mut ana, Lane::Bulk, n, &[n as u8])).collect();
        for n in [0, 4, 8] {
            ben.open(frames[n].clone()).unwrap();
        }
        assert_eq!(ben.open(frames[3].clone()).unwrap_err(), SessionFault::Unauthentic);
        assert_eq!(ben.open(frames[7].clone()).unwrap().number, 7);
    }

    #[test]
    fn a_number_cut_to_32_bits_means_the_nearest_one() {
        let mut window = ReplayWindow::new();
        let expand = |window: &ReplayWindow, low| window.expand(ShortNumber::Low(low));
        assert_eq!(expand(&window, u32::MAX), u64::from(u32::MAX));
        window.mark((1 << 32) - 1);
        assert_eq!(expand(&window, 5), (1 << 32) + 5);
        window.mark((1 << 32) + 5);
        assert_eq!(expand(&window, u32::MAX - 1), (1 << 32) - 2);
    }

    #[test]
    fn a_number_takes_the_bytes_it_needs_and_means_the_same_at_the_other_end() {
        for (number, bytes) in [(0, 1), (255, 1), (256, 2), (65_535, 2), (65_536, 4), (1 << 33, 4)] {
            let (form, short) = ShortNumber::encode(number);
            assert_eq!(short.len(), bytes);
            let (read, len) = ShortNumber::decode(SEALED | form << NUMBER_SHIFT, &short).unwrap();
            let mut window = ReplayWindow::new();
            if number > 0 {
                window.mark(number - 1);
            }
            assert_eq!((window.expand(read), len), (number, bytes));
        }
        assert_eq!(ShortNumber::decode(SEALED, &[]), Err(SessionFault::Malformed));
        assert_eq!(ShortNumber::decode(PLAIN | 3 << NUMBER_SHIFT, &[0; 4]), Err(SessionFault::UnknownKind));
    }

    proptest! {
        #[test]
        fn each_number_passes_once_and_old_ones_never(numbers in proptest::collection::vec(0u64..20_000, 1..400)) {
            let (mut window, mut seen, mut highest) = (ReplayWindow::new(), BTreeSet::new(), 0);
            for number in numbers {
                let expected = !seen.contains(&number) && number + REPLAY_WINDOW > highest;
                prop_assert_eq!(window.is_fresh(number), expected);
                if expected {
                    window.mark(number);
                    seen.insert(number);
                    highest = highest.max(number);
                }
            }
        }
    }
}
