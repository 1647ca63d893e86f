//! What a frame carries inside: chunks, written and read by hand from borrowed bytes.
//!
//! Reading is total and allocates nothing. Numbers are LEB128 of at most ten bytes.

use std::ops::Range;

use super::Lane;
use super::ranges::RangeSet;

const ACK: u8 = 0x10;
const CREDIT: u8 = 0x20;
const FRAGMENT: u8 = 0x30;
const DATAGRAM: u8 = 0x40;
const CLOSE: u8 = 0x50;
/// The bit that tells the lanes apart in the type of a chunk.
const BULK: u8 = 0x01;

/// Largest size of the head of a fragment in bytes: type, offset, length.
pub(crate) const FRAGMENT_HEAD: usize = 1 + 10 + 3;
/// Largest size of the head of a datagram in bytes: type, length.
pub(crate) const DATAGRAM_HEAD: usize = 1 + 3;
/// An acknowledgement stops naming ranges at this size, in bytes: two of them leave most of a 512-byte frame.
const ACK_BYTES: usize = 100;
/// Longest range description in bytes: two numbers.
const RANGE_BYTES: usize = 20;

/// The bytes are not a sequence of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MalformedChunk;

/// One chunk. Byte ranges are positions in the body that was parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// Frames of a lane that arrived.
    Ack { lane: Lane, ack: Ack },
    /// The sender of this chunk takes stream bytes of the lane below `limit`.
    Credit { lane: Lane, limit: u64 },
    /// Stream bytes of a lane.
    Fragment { lane: Lane, offset: u64, data: Range<usize> },
    /// An unreliable message.
    Datagram { data: Range<usize> },
    /// The sender is gone after this.
    Close { code: u8 },
}

/// Which frames arrived: the highest, how long its acknowledgement waited, and the ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ack {
    /// The highest frame number that arrived.
    pub(crate) largest: u64,
    /// Microseconds between its arrival and this acknowledgement.
    pub(crate) delay_micros: u64,
    count: u64,
    ranges: Range<usize>,
}

impl Ack {
    /// The half-open ranges from the highest down; `body` is what the chunk was parsed from.
    pub(crate) fn ranges(&self, body: &[u8]) -> impl Iterator<Item = (u64, u64)> {
        let mut reader = Reader { body: &body[self.ranges.clone()], at: 0 };
        let (mut left, mut top) = (self.count, self.largest);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let (start, end, next_top) = reader.range(top).ok()?;
            top = next_top;
            Some((start, end))
        })
    }
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, MalformedChunk> {
        let byte = *self.body.get(self.at).ok_or(MalformedChunk)?;
        self.at += 1;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, MalformedChunk> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(MalformedChunk);
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(MalformedChunk)
    }

    fn bytes(&mut self) -> Result<Range<usize>, MalformedChunk> {
        let len = usize::try_from(self.number()?).map_err(|_| MalformedChunk)?;
        let end = self.at.checked_add(len).filter(|&end| end <= self.body.len()).ok_or(MalformedChunk)?;
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    /// A range whose highest number is `top` less what is skipped first; also the `top` of the next range.
    fn range(&mut self, top: u64) -> Result<(u64, u64, u64), MalformedChunk> {
        let (skip, more) = (self.number()?, self.number()?);
        let last = top.checked_sub(skip).ok_or(MalformedChunk)?;
        let first = last.checked_sub(more).ok_or(MalformedChunk)?;
        let end = last.checked_add(1).ok_or(MalformedChunk)?;
        // Two ranges are at least one number apart, else they would be one.
        Ok((first, end, first.saturating_sub(2)))
    }
}

/// Reads the chunk at `at`; `None` at the end of the body. Returns where the next one starts.
pub(crate) fn read(body: &[u8], at: usize) -> Result<Option<(Chunk, usize)>, MalformedChunk> {
    let mut reader = Reader { body, at };
    if at >= body.len() {
        return Ok(None);
    }
    let kind = reader.byte()?;
    let lane = if kind & BULK == 0 { Lane::Control } else { Lane::Bulk };
    let chunk = match kind {
        DATAGRAM => Chunk::Datagram { data: reader.bytes()? },
        CLOSE => Chunk::Close { code: reader.byte()? },
        _ => match kind & !BULK {
            ACK => {
                let (largest, delay_micros, count) = (reader.number()?, reader.number()?, reader.number()?);
                let start = reader.at;
                let mut top = largest;
                for _ in 0..count {
                    top = reader.range(top)?.2;
                }
                Chunk::Ack { lane, ack: Ack { largest, delay_micros, count, ranges: start..reader.at } }
            }
            CREDIT => Chunk::Credit { lane, limit: reader.number()? },
            FRAGMENT => Chunk::Fragment { lane, offset: reader.number()?, data: reader.bytes()? },
            _ => return Err(MalformedChunk),
        },
    };
    Ok(Some((chunk, reader.at)))
}

fn lane_bit(lane: Lane) -> u8 {
    match lane {
        Lane::Control => 0,
        Lane::Bulk => BULK,
    }
}

fn put_number(mut value: u64, frame: &mut Vec<u8>) {
    while value >= 0x80 {
        frame.push(value as u8 | 0x80);
        value >>= 7;
    }
    frame.push(value as u8);
}

/// Appends an acknowledgement of the highest number in `received`, and of the highest `ranges` if these are to be named.
/// Returns the highest number.
pub(crate) fn put_ack(
    lane: Lane,
    received: &RangeSet,
    delay_micros: u64,
    ranges: bool,
    frame: &mut Vec<u8>,
) -> Option<u64> {
    let largest = received.descending().next()?.1 - 1;
    let mut named = Vec::new();
    let (mut top, mut count) = (largest, 0);
    for (start, end) in received.descending().filter(|_| ranges) {
        if named.len() + RANGE_BYTES > ACK_BYTES {
            break;
        }
        put_number(top - (end - 1), &mut named);
        put_number(end - 1 - start, &mut named);
        top = start.saturating_sub(2);
        count += 1;
    }
    frame.push(ACK | lane_bit(lane));
    put_number(largest, frame);
    put_number(delay_micros, frame);
    put_number(count, frame);
    frame.extend_from_slice(&named);
    Some(largest)
}

/// Appends a credit.
pub(crate) fn put_credit(lane: Lane, limit: u64, frame: &mut Vec<u8>) {
    frame.push(CREDIT | lane_bit(lane));
    put_number(limit, frame);
}

/// Appends the head of a fragment; `len` bytes of data follow.
pub(crate) fn put_fragment_head(lane: Lane, offset: u64, len: u64, frame: &mut Vec<u8>) {
    frame.push(FRAGMENT | lane_bit(lane));
    put_number(offset, frame);
    put_number(len, frame);
}

/// Appends a datagram.
pub(crate) fn put_datagram(data: &[u8], frame: &mut Vec<u8>) {
    frame.push(DATAGRAM);
    put_number(data.len() as u64, frame);
    frame.extend_from_slice(data);
}

/// Appends a close.
pub(crate) fn put_close(code: u8, frame: &mut Vec<u8>) {
    frame.extend_from_slice(&[CLOSE, code]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(body: &[u8]) -> Result<Vec<Chunk>, MalformedChunk> {
        let (mut chunks, mut at) = (Vec::new(), 0);
        while let Some((chunk, next)) = read(body, at)? {
            assert!(next > at);
            chunks.push(chunk);
            at = next;
        }
        Ok(chunks)
    }

    #[test]
    fn the_bytes_of_each_chunk_are_fixed() {
        let mut received = RangeSet::default();
        received.insert(3, 6);
        received.insert(9, 10);
        let mut body = Vec::new();
        put_ack(Lane::Bulk, &received, 300, true, &mut body);
        put_credit(Lane::Control, 1 << 20, &mut body);
        put_fragment_head(Lane::Bulk, 128, 2, &mut body);
        body.extend_from_slice(b"hi");
        put_datagram(b"ping", &mut body);
        put_close(2, &mut body);
        let golden = [
            &[0x11, 9, 0xac, 0x02, 2, 0, 0, 2, 2][..],
            &[0x20, 0x80, 0x80, 0x40],
            &[0x31, 0x80, 0x01, 2, b'h', b'i'],
            &[0x40, 4, b'p', b'i', b'n', b'g'],
            &[0x50, 2],
        ]
        .concat();
        assert_eq!(body, golden);
        let chunks = read_all(&body).unwrap();
        assert!(matches!(&chunks[0], Chunk::Ack { lane: Lane::Bulk, ack }
            if ack.delay_micros == 300 && ack.ranges(&body).eq([(9, 10), (3, 6)])));
        assert_eq!(chunks[1], Chunk::Credit { lane: Lane::Control, limit: 1 << 20 });
        assert_eq!(chunks[2], Chunk::Fragment { lane: Lane::Bulk, offset: 128, data: 17..19 });
        assert_eq!(chunks[3], Chunk::Datagram { data: 21..25 });
        assert_eq!(chunks[4], Chunk::Close { code: 2 });
    }

    proptest! {
        #[test]
        fn an_acknowledgement_names_the_highest_ranges_that_fit(
            starts in proptest::collection::btree_set(0u64..5000, 1..80),
        ) {
            let mut received = RangeSet::default();
            starts.iter().for_each(|&start| received.insert(start, start + 1 + start % 3));
            let mut body = Vec::new();
            put_ack(Lane::Control, &received, 0, true, &mut body);
            prop_assert!(body.len() <= ACK_BYTES + 16);
            let Some((Chunk::Ack { ack, .. }, _)) = read(&body, 0).unwrap() else { panic!("no ack") };
            let named: Vec<_> = ack.ranges(&body).collect();
            prop_assert!(!named.is_empty());
            prop_assert_eq!(&named, &received.descending().take(named.len()).collect::<Vec<_>>());
        }

        #[test]
        fn i6_arbitrary_bytes_are_read_or_refused(body: Vec<u8>) {
            if let Ok(chunks) = read_all(&body) {
                prop_assert!(chunks.len() <= body.len());
                for chunk in chunks {
                    if let Chunk::Ack { ack, .. } = chunk {
                        prop_assert!(ack.ranges(&body).count() <= body.len());
                    }
                }
            }
        }
    }
}
