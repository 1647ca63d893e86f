//! Frames in a byte stream, in both directions. Sans-IO: the link's task moves the bytes.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Bytes of the length before each frame.
pub(crate) const HEADER_BYTES: usize = 4;
/// First read of a burst, in bytes: what an idle or slow link costs.
const SMALLEST_READ: usize = 4 << 10;
/// Largest read, in bytes. Measured on loopback: beyond it the system call no longer dominates.
const LARGEST_READ: usize = 256 << 10;
/// Received frames below this are copied out, in bytes, so that a queued acknowledgement does not keep a whole read alive.
const COPY_BELOW: usize = 4 << 10;
/// Frames below this are gathered in one buffer before they are written, in bytes; larger ones are written where they are.
const GATHER_BELOW: usize = 4 << 10;
/// Pieces handed to one write. Linux takes up to 1,024; beyond a few dozen nothing is gained.
pub(crate) const MAX_SLICES: usize = 64;

/// The other side announced a frame above the limit: its fault. Nothing was allocated for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer announced a frame of {announced} bytes, the limit is {limit}")]
pub(crate) struct TooLong {
    announced: u32,
    limit: usize,
}

/// Cuts what arrives into frames.
#[derive(Debug)]
pub(crate) struct Decoder {
    buffer: BytesMut,
    max_frame: usize,
    read_size: usize,
}

impl Decoder {
    pub(crate) fn new(max_frame: usize) -> Self {
        Self { buffer: BytesMut::new(), max_frame, read_size: SMALLEST_READ }
    }

    /// Where the next read goes. Memory follows what arrived: each full read doubles the next one.
    pub(crate) fn space(&mut self) -> &mut BytesMut {
        if self.buffer.capacity() - self.buffer.len() < self.read_size / 2 {
            self.buffer.reserve(self.read_size);
        }
        &mut self.buffer
    }

    /// Notes how many bytes a read brought.
    pub(crate) fn filled(&mut self, bytes: usize) {
        if bytes >= self.read_size / 2 {
            self.read_size = (self.read_size * 2).min(LARGEST_READ);
        } else if bytes < self.read_size / 8 {
            self.read_size = (self.read_size / 2).max(SMALLEST_READ);
        }
    }

    /// Gives memory back while nothing arrives.
    pub(crate) fn idle(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// Whether a frame has begun and not ended.
    pub(crate) fn is_mid_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next complete frame.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let announced = u32::from_le_bytes(*header);
        let len = announced as usize;
        if len > self.max_frame {
            return Err(TooLong { announced, limit: self.max_frame });
        }
        if self.buffer.len() < HEADER_BYTES + len {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        if len >= COPY_BELOW {
            return Ok(Some(self.buffer.split_to(len).freeze()));
        }
        let frame = Bytes::copy_from_slice(&self.buffer[..len]);
        self.buffer.advance(len);
        Ok(Some(frame))
    }
}

/// Frames on their way out, as few and as large pieces as possible.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    gathered: BytesMut,
    pieces: VecDeque<Bytes>,
    /// Bytes not yet written.
    len: usize,
}

impl Batch {
    /// Appends a frame with its length. The length fits: frames are at most as long as the limit, which does.
    pub(crate) fn push(&mut self, frame: Bytes) {
        self.gathered.put_u32_le(frame.len() as u32);
        self.len += HEADER_BYTES + frame.len();
        if frame.len() < GATHER_BELOW {
            self.gathered.extend_from_slice(&frame);
        } else {
            self.seal();
            self.pieces.push_back(frame);
        }
    }

    /// Ends the batch: what was gathered becomes a piece.
    pub(crate) fn seal(&mut self) {
        if !self.gathered.is_empty() {
            self.pieces.push_back(self.gathered.split().freeze());
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether one write takes no further pieces.
    pub(crate) fn is_full(&self) -> bool {
        self.pieces.len() + 2 >= MAX_SLICES
    }

    /// What to write next.
    pub(crate) fn slices<'a>(&'a self, slices: &'a mut [IoSlice<'a>; MAX_SLICES]) -> &'a [IoSlice<'a>] {
        let mut count = 0;
        for (slot, piece) in slices.iter_mut().zip(&self.pieces) {
            *slot = IoSlice::new(piece);
            count += 1;
        }
        &slices[..count]
    }

    /// Removes what was written.
    pub(crate) fn written(&mut self, mut bytes: usize) {
        self.len -= bytes.min(self.len);
        while let Some(piece) = self.pieces.front_mut() {
            if bytes < piece.len() {
                return piece.advance(bytes);
            }
            bytes -= piece.len();
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 64 << 10;

    fn decode(bytes: &[u8], chunk: usize) -> Result<Vec<Bytes>, TooLong> {
        let (mut decoder, mut frames) = (Decoder::new(MAX), Vec::new());
        for chunk in bytes.chunks(chunk) {
            decoder.space().extend_from_slice(chunk);
            decoder.filled(chunk.len());
            while let Some(frame) = decoder.next()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn frames_survive_any_cut_of_the_stream() {
        let frames: Vec<Bytes> =
            [0, 1, 5, 4_095, 4_096, MAX, 3, 0].iter().map(|len| vec![*len as u8; *len].into()).collect();
        let mut batch = Batch::default();
        frames.iter().cloned().for_each(|frame| batch.push(frame));
        batch.seal();
        let mut stream = Vec::new();
        // Written in odd portions, as a socket takes them.
        while !batch.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let joined: Vec<u8> = batch.slices(&mut slices).iter().flat_map(|slice| slice.to_vec()).collect();
            let taken = joined.len().min(1_237);
            stream.extend_from_slice(&joined[..taken]);
            batch.written(taken);
        }
        for chunk in [1, 7, 4_096, stream.len()] {
            assert!(decode(&stream, chunk) == Ok(frames.clone()), "cut every {chunk} bytes");
        }
    }

    #[test]
    fn i6_a_hostile_length_is_refused_before_anything_is_allocated() {
        for announced in [MAX as u32 + 1, u32::MAX] {
            let mut decoder = Decoder::new(MAX);
            decoder.space().extend_from_slice(&announced.to_le_bytes());
            assert_eq!(decoder.next(), Err(TooLong { announced, limit: MAX }));
            assert!(decoder.buffer.capacity() <= 2 * SMALLEST_READ);
        }
    }

    #[test]
    fn i6_memory_follows_what_arrived_not_what_was_announced() {
        let mut decoder = Decoder::new(16 << 20);
        decoder.space().extend_from_slice(&(16u32 << 20).to_le_bytes());
        for _ in 0..100 {
            decoder.space().put_u8(0);
            decoder.filled(1);
            assert_eq!(decoder.next(), Ok(None));
        }
        assert!(decoder.buffer.capacity() <= 4 * SMALLEST_READ, "{}", decoder.buffer.capacity());
        assert!(decoder.is_mid_frame());
    }

    #[test]
    fn an_idle_link_holds_no_buffer() {
        let mut decoder = Decoder::new(MAX);
        decoder.space().extend_from_slice(&[1, 0, 0, 0, 9]);
        assert_eq!(decoder.next(), Ok(Some(Bytes::from_static(&[9]))));
        decoder.idle();
        assert_eq!(decoder.buffer.capacity(), 0);
    }
}
