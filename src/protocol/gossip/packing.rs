//! Compression of runs on their way from one node to the next.
//!
//! What is signed, hashed and stored is the run as its author packed it; nothing but its way changes, so the next node may
//! send it on plainly. A node with [`Config::compress`](crate::Config) says `Packs` when a session stands and packs runs for
//! peers that said it too. zstd at its fastest level, one run at a time: no dictionary outlives a run, so runs of different
//! authors or channels tell nothing about each other by their lengths.
//!
//! Bounded (I6): a run that is packed states its length, which may be [`MAX_EXPANSION`] times its bytes and must fit what the
//! peer may still send; nothing longer is unpacked, and a run that does not unpack to exactly that ends the session.
//!
//! Needs the feature `compression`; without it [`Packer`] packs nothing and such a configuration is refused. Called by the
//! engine.

use bytes::Bytes;

use super::engine::{Effect, GossipEngine, SessionId};
use super::transfer::MAX_INCOMING;
use crate::protocol::session::Lane;
use crate::protocol::wire::RunMessage;

/// What `Packs` calls the only algorithm there is.
pub(super) const ZSTD: u8 = 1;
/// Whether this build can pack.
pub const AVAILABLE: bool = cfg!(feature = "compression");
/// zstd's fastest level but the negative ones: a node should not wait for its compressor.
#[cfg(feature = "compression")]
const LEVEL: i32 = 1;
/// Bodies below this many bytes travel plainly: a frame header and a fresh table would eat the gain.
const LEAST_BYTES: usize = 256;
/// A body is packed if that saves at least one byte in so many.
const LEAST_GAIN: usize = 8;
/// Most bytes that one received byte may become: far above what entries with stamps of their own reach.
const MAX_EXPANSION: usize = 256;
/// Most bodies that travel plainly after one that did not become smaller, so that photographs and ciphertext are seldom tried
/// and text that follows them is still noticed.
const MAX_SKIPPED: u32 = 64;

/// Whether packing pays at present, for what one peer is sent.
#[derive(Debug, Default)]
pub(super) struct Habit {
    skip: u32,
    /// Bodies to skip after the next one that does not pay.
    penalty: u32,
}

impl Habit {
    fn is_worth_a_try(&mut self) -> bool {
        self.skip = self.skip.saturating_sub(1);
        self.skip == 0
    }

    fn learn(&mut self, paid: bool) {
        self.penalty = if paid { 0 } else { (self.penalty * 2).clamp(1, MAX_SKIPPED) };
        self.skip = self.penalty;
    }
}

/// Packs and unpacks; keeps zstd's working memory between runs, once it was used.
#[derive(Default)]
pub(super) struct Packer {
    #[cfg(feature = "compression")]
    compressor: Option<zstd::bulk::Compressor<'static>>,
    #[cfg(feature = "compression")]
    decompressor: Option<zstd::bulk::Decompressor<'static>>,
}

impl Packer {
    /// `body` in fewer bytes, if that is worth it.
    pub(super) fn pack(&mut self, habit: &mut Habit, body: &[u8]) -> Option<Bytes> {
        if body.len() < LEAST_BYTES || !habit.is_worth_a_try() {
            return None;
        }
        let most = body.len() - body.len() / LEAST_GAIN;
        let packed = self.compress(body).filter(|packed| packed.len() <= most);
        habit.learn(packed.is_some());
        packed.filter(|packed| body.len() <= packed.len() * MAX_EXPANSION).map(Bytes::from)
    }

    /// The `bytes` bytes that were packed; `None` if it is anything else.
    fn unpack(&mut self, packed: &[u8], bytes: usize) -> Option<Bytes> {
        if bytes > packed.len() * MAX_EXPANSION {
            return None;
        }
        self.decompress(packed, bytes).filter(|body| body.len() == bytes).map(Bytes::from)
    }

    #[cfg(feature = "compression")]
    fn compress(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        if self.compressor.is_none() {
            self.compressor = zstd::bulk::Compressor::new(LEVEL).ok();
        }
        self.compressor.as_mut()?.compress(body).ok()
    }

    #[cfg(feature = "compression")]
    fn decompress(&mut self, packed: &[u8], bytes: usize) -> Option<Vec<u8>> {
        if self.decompressor.is_none() {
            self.decompressor = zstd::bulk::Decompressor::new().ok();
        }
        self.decompressor.as_mut()?.decompress(packed, bytes).ok()
    }

    #[cfg(not(feature = "compression"))]
    fn compress(&mut self, _body: &[u8]) -> Option<Vec<u8>> {
        None
    }

    #[cfg(not(feature = "compression"))]
    fn decompress(&mut self, _packed: &[u8], _bytes: usize) -> Option<Vec<u8>> {
        None
    }
}

impl GossipEngine {
    pub(super) fn on_packs(&mut self, session: SessionId, algorithm: u8) {
        if let Some(conversation) = self.conversations.get_mut(&session) {
            conversation.packs = algorithm == ZSTD;
        }
    }

    /// Unpacks a run and takes it like any other. Who sends what is none, or unasked, breaks the protocol.
    pub(super) fn on_packed_run(&mut self, session: SessionId, lane: Lane, run: RunMessage, bytes: u32) {
        let Some(conversation) = self.conversations.get(&session) else { return };
        let bytes = bytes as usize;
        let room = (MAX_INCOMING + 2 * self.config.max_payload).saturating_sub(conversation.incoming_bytes);
        let body =
            if self.config.compress && bytes <= room { self.packer.unpack(&run.body, bytes) } else { None };
        match body {
            Some(body) => self.on_run(session, lane, RunMessage { body, ..run }),
            None => self.effects.push(Effect::Drop(session, "a packed run that cannot be unpacked")),
        }
    }
}

#[cfg(test)]
#[cfg(feature = "compression")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(bytes: usize) -> Vec<u8> {
        let words = ["river ", "branch ", "stream ", "meets ", "again ", "further ", "down "];
        let mut text = Vec::new();
        for at in 0_u32.. {
            text.extend(words[(at.wrapping_mul(2_654_435_761) >> 16) as usize % words.len()].as_bytes());
            if text.len() >= bytes {
                break;
            }
        }
        text
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        noise
    }

    #[test]
    fn text_halves_and_reads_back() {
        let (mut packer, body) = (Packer::default(), text(60_000));
        let packed = packer.pack(&mut Habit::default(), &body).unwrap();
        assert!(packed.len() < body.len() / 2);
        assert_eq!(packer.unpack(&packed, body.len()).unwrap(), body);
    }

    #[test]
    fn noise_travels_plainly_and_is_soon_not_tried_any_more() {
        let (mut packer, mut habit, noise) = (Packer::default(), Habit::default(), noise(4096));
        for _ in 0..20 {
            assert_eq!(packer.pack(&mut habit, &noise), None);
        }
        // Eight doublings at most: then every 65th is tried, and text is noticed.
        assert!(habit.skip > 4);
        assert!((0..=MAX_SKIPPED).any(|_| packer.pack(&mut habit, &text(4096)).is_some()));
        assert!(packer.pack(&mut habit, &text(4096)).is_some());
    }

    #[test]
    fn i6_a_bomb_is_refused_before_memory_is_taken_for_it() {
        let mut packer = Packer::default();
        let zeros = vec![0; 64 << 20];
        let bomb = packer.compress(&zeros).unwrap();
        assert!(bomb.len() * MAX_EXPANSION < zeros.len());
        assert_eq!(packer.unpack(&bomb, zeros.len()), None);
        // One that lies about its length is not unpacked beyond what it said.
        assert_eq!(packer.unpack(&bomb, bomb.len()), None);
        assert_eq!(packer.pack(&mut Habit::default(), &zeros), None, "nor is one sent");
    }

    proptest! {
        #[test]
        fn i6_arbitrary_bytes_unpack_to_nothing_or_what_they_said(packed: Vec<u8>, bytes in 0_usize..100_000) {
            if let Some(body) = Packer::default().unpack(&packed, bytes) {
                prop_assert_eq!(body.len(), bytes);
            }
        }
    }
}
