//! Updates on their way: each a bounded number of times, the newest first, as many as fit.
//!
//! SWIM, section 4.1 (infection-style dissemination) and 4.3 (those sent least go first). Holds encoded bytes only; what
//! an update means is the engine's business, which is the only caller.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bytes::Bytes;

use super::member::Index;
use super::wire::ShortId;

/// What an update is about: a newer one about the same replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    /// The own word of a member, or of this node.
    Statement(Option<Index>),
    /// An accusation of a member by somebody.
    Accusation(Index, ShortId),
    /// Metadata of a member, or of this node.
    Metadata(Option<Index>),
}

/// Sent least first, then the newest.
type Place = (u32, Reverse<u64>);

#[derive(Debug, Default)]
pub(super) struct Queue {
    updates: BTreeMap<Place, (Topic, Bytes)>,
    places: BTreeMap<Topic, Place>,
    next: u64,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.updates.len()
    }

    /// Adds an update, in place of the one on the same topic. Of more than `most`, the one sent most often goes.
    pub(super) fn put(&mut self, topic: Topic, bytes: Bytes, most: usize) {
        self.remove(topic);
        while self.updates.len() >= most.max(1) {
            let Some((_, (topic, _))) = self.updates.pop_last() else { break };
            self.places.remove(&topic);
        }
        let place = (0, Reverse(self.next));
        self.next += 1;
        self.updates.insert(place, (topic, bytes));
        self.places.insert(topic, place);
    }

    pub(super) fn remove(&mut self, topic: Topic) {
        if let Some(place) = self.places.remove(&topic) {
            self.updates.remove(&place);
        }
    }

    /// Forgets accusations of a member: it denied them, or they are void.
    pub(super) fn acquit(&mut self, member: Index) {
        let range = Topic::Accusation(member, ShortId(0))..=Topic::Accusation(member, ShortId(u64::MAX));
        let topics: Vec<Topic> = self.places.range(range).map(|(topic, _)| *topic).collect();
        for topic in topics {
            self.remove(topic);
        }
    }

    /// Forgets everything about a member.
    pub(super) fn forget(&mut self, member: Index) {
        self.acquit(member);
        self.remove(Topic::Statement(Some(member)));
        self.remove(Topic::Metadata(Some(member)));
    }

    /// Appends the updates that fit up to `limit` bytes of `out`, not the member's own to itself; each goes out at most
    /// `transmissions` times.
    pub(super) fn fill(&mut self, out: &mut Vec<u8>, limit: usize, transmissions: u32, to: Option<Index>) {
        if self.updates.is_empty() {
            return;
        }
        let mut sent = Vec::new();
        for (place, (topic, bytes)) in &self.updates {
            // The shortest update is an accusation of 19 bytes.
            if out.len() + 19 > limit {
                break;
            }
            let own =
                matches!(topic, Topic::Statement(Some(of)) | Topic::Metadata(Some(of)) if Some(*of) == to);
            if own {
                // It knows; counted all the same, or in a group of two the update would wait for ever.
                sent.push(*place);
            } else if out.len() + bytes.len() <= limit {
                out.extend_from_slice(bytes);
                sent.push(*place);
            }
        }
        for place in sent {
            let Some((topic, bytes)) = self.updates.remove(&place) else { continue };
            if place.0 + 1 >= transmissions {
                self.places.remove(&topic);
            } else {
                let place = (place.0 + 1, place.1);
                self.updates.insert(place, (topic, bytes));
                self.places.insert(topic, place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(n: u32) -> Topic {
        Topic::Statement(Some(Index(n)))
    }

    fn filled(queue: &mut Queue, limit: usize, times: u32) -> Vec<u8> {
        let mut out = Vec::new();
        queue.fill(&mut out, limit, times, None);
        out
    }

    #[test]
    fn swim_4_1_each_update_goes_out_a_bounded_number_of_times() {
        let mut queue = Queue::default();
        queue.put(topic(1), Bytes::from_static(&[7; 20]), 8);
        let sent = (0..10).filter(|_| !filled(&mut queue, 100, 3).is_empty()).count();
        assert_eq!((sent, queue.len(), queue.places.len()), (3, 0, 0));
    }

    #[test]
    fn swim_4_3_what_was_sent_least_goes_first_and_of_those_the_newest() {
        let mut queue = Queue::default();
        for n in 1..=3 {
            queue.put(topic(n), Bytes::copy_from_slice(&[n as u8; 20]), 8);
        }
        assert_eq!(filled(&mut queue, 40, 9), [[3; 20], [2; 20]].concat());
        assert_eq!(filled(&mut queue, 40, 9), [[1; 20], [3; 20]].concat());
    }

    #[test]
    fn the_queue_is_bounded_and_a_newer_update_replaces_the_older() {
        let mut queue = Queue::default();
        for n in 0..100 {
            queue.put(topic(n % 20), Bytes::from_static(&[1; 20]), 8);
        }
        assert_eq!((queue.len(), queue.places.len()), (8, 8));
        queue.put(topic(19), Bytes::from_static(&[2; 20]), 8);
        assert_eq!(filled(&mut queue, 20, 9), [2; 20]);
    }

    #[test]
    fn foca_19_a_backlog_drains() {
        let mut queue = Queue::default();
        for n in 0..5000 {
            queue.put(topic(n), Bytes::from_static(&[1; 100]), 8192);
        }
        let frames = (0..).take_while(|_| !filled(&mut queue, 1100, 16).is_empty()).count();
        assert_eq!(frames, 5000 * 16 / 11 + 1);
    }

    #[test]
    fn an_update_larger_than_the_room_waits_and_holds_nothing_up() {
        let mut queue = Queue::default();
        queue.put(topic(1), Bytes::from_static(&[1; 20]), 8);
        queue.put(topic(2), Bytes::from_static(&[2; 90]), 8);
        assert_eq!(filled(&mut queue, 50, 9), [1; 20]);
        assert_eq!(filled(&mut queue, 95, 9), [2; 90]);
    }
}
