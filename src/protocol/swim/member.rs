//! Who is known, and as what.
//!
//! A table with a place per member, found by id or short id, with a running digest of all that are held alive. Judges
//! nothing. Called by the engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::auth::{PairKeys, Received};
use super::metadata::{Metadata, SignedMetadata};
use super::probe::Probe;
use super::rng::mix;
use super::rtt::Rtt;
use super::statement::{Incarnation, Statement};
use super::suspicion::Suspicion;
use super::wire::{BUCKETS, ShortId};
use crate::domain::id::NodeId;
use crate::domain::link::PeerAddr;
pub use crate::domain::peer::Status;
use crate::domain::time::Instant;

/// Place of a member in the table; given to another member once this one is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Index(pub(super) u32);

/// A known node.
pub(super) struct Member {
    pub(super) node: NodeId,
    pub(super) status: Status,
    /// Highest incarnation known, from its own frames or statements.
    pub(super) incarnation: Incarnation,
    /// Its newest signed word.
    pub(super) statement: Option<Statement>,
    pub(super) metadata: Option<(SignedMetadata, Arc<Metadata>)>,
    pub(super) address: Option<PeerAddr>,
    /// It was heard by this node itself, in this life of this node.
    pub(super) verified: bool,
    /// When it was last heard, by this node itself.
    pub(super) heard: Instant,
    /// Since when it has its status.
    pub(super) since: Instant,
    pub(super) rtt: Rtt,
    pub(super) keys: Option<Box<PairKeys>>,
    pub(super) received: Received,
    /// Lowest boot epoch that it takes, if that is above ours.
    pub(super) epoch: u64,
    pub(super) sent: u64,
    /// It answered in this life of ours: it knows our id.
    pub(super) knows_us: bool,
    /// It did not answer the short form.
    pub(super) doubted: bool,
    pub(super) suspicion: Option<Box<Suspicion>>,
    pub(super) probe: Option<Box<Probe>>,
    /// Next attempt at an unreachable member, and the wait after it.
    pub(super) retry: Option<(Instant, Duration)>,
    /// How often it came back lately, and when last.
    pub(super) flaps: u32,
    pub(super) returned: Instant,
    pub(super) in_ring: bool,
    /// It sent a digest before it was known to be fresh.
    pub(super) compares: bool,
    /// The application named it.
    pub(super) introduced: bool,
    /// Turns left out, of one that sleeps.
    pub(super) skipped: u8,
    /// The period in which that was last.
    pub(super) passed_over: Instant,
    /// Accusations of others by this member alone that are open.
    pub(super) accuses: u32,
    /// What it adds to the digest now.
    digest: u32,
}

impl Member {
    pub(super) fn new(node: NodeId, status: Status, now: Instant) -> Self {
        Self {
            node,
            status,
            incarnation: Incarnation::default(),
            statement: None,
            metadata: None,
            address: None,
            verified: false,
            heard: Instant::ZERO,
            since: now,
            rtt: Rtt::default(),
            keys: None,
            received: Received::default(),
            epoch: 0,
            sent: 0,
            knows_us: false,
            doubted: false,
            suspicion: None,
            probe: None,
            retry: None,
            flaps: 0,
            returned: Instant::ZERO,
            in_ring: false,
            compares: false,
            introduced: false,
            skipped: 0,
            passed_over: Instant::ZERO,
            accuses: 0,
            digest: 0,
        }
    }

    pub(super) fn short(&self) -> ShortId {
        ShortId::from(&self.node)
    }

    /// Alive, or only suspect.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.status, Status::Alive | Status::Suspect)
    }

    pub(super) fn metadata_version(&self) -> u64 {
        self.metadata.as_ref().map_or(0, |(signed, _)| signed.version)
    }

    pub(super) fn is_low_power(&self) -> bool {
        self.statement.is_some_and(|statement| statement.low_power)
    }
}

/// What a member adds to its part of the digest. Nothing secret: who makes two states look alike hides news from itself.
pub(super) fn digest(node: &NodeId, incarnation: Incarnation, metadata: u64) -> u32 {
    let id = ShortId::from(node).0;
    mix(id ^ mix(incarnation.0 ^ mix(metadata.wrapping_add(1)))) as u32
}

/// Which part of the state a node belongs to.
pub(super) fn bucket(node: &NodeId) -> usize {
    usize::from(node.as_bytes()[31]) % BUCKETS
}

/// All known nodes but the own one.
#[derive(Default)]
pub(super) struct Table {
    places: Vec<Option<Member>>,
    free: Vec<Index>,
    by_node: BTreeMap<NodeId, Index>,
    by_short: BTreeMap<ShortId, Index>,
    buckets: [u32; BUCKETS],
    counts: [usize; 5],
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.by_node.len()
    }

    pub(super) fn count(&self, status: Status) -> usize {
        self.counts[status as usize]
    }

    /// Members that are alive or suspect.
    pub(super) fn up(&self) -> usize {
        self.count(Status::Alive) + self.count(Status::Suspect)
    }

    pub(super) fn gone(&self) -> usize {
        self.count(Status::Unreachable) + self.count(Status::Left)
    }

    pub(super) fn buckets(&self) -> &[u32; BUCKETS] {
        &self.buckets
    }

    pub(super) fn find(&self, node: &NodeId) -> Option<Index> {
        self.by_node.get(node).copied()
    }

    pub(super) fn find_short(&self, short: ShortId) -> Option<Index> {
        self.by_short.get(&short).copied()
    }

    pub(super) fn get(&self, index: Index) -> Option<&Member> {
        self.places.get(index.0 as usize)?.as_ref()
    }

    /// The member, to be changed in anything but its status, incarnation and metadata.
    pub(super) fn get_mut(&mut self, index: Index) -> Option<&mut Member> {
        self.places.get_mut(index.0 as usize)?.as_mut()
    }

    /// Changes a member; digest and counts follow.
    pub(super) fn update<T>(&mut self, index: Index, change: impl FnOnce(&mut Member) -> T) -> Option<T> {
        let member = self.places.get_mut(index.0 as usize)?.as_mut()?;
        let before = member.status;
        let result = change(member);
        self.counts[before as usize] -= 1;
        self.counts[member.status as usize] += 1;
        let bucket = &mut self.buckets[bucket(&member.node)];
        *bucket ^= member.digest;
        member.digest = match &member.statement {
            Some(said) if member.is_up() => digest(&member.node, said.incarnation, member.metadata_version()),
            _ => 0,
        };
        *bucket ^= member.digest;
        Some(result)
    }

    /// Adds a member. An id whose first eight bytes are those of another is refused: nobody gets one by accident.
    pub(super) fn insert(&mut self, member: Member) -> Option<Index> {
        let short = member.short();
        if self.by_short.contains_key(&short) {
            return None;
        }
        let index = self.free.pop().unwrap_or(Index(u32::try_from(self.places.len()).ok()?));
        self.by_node.insert(member.node, index);
        self.by_short.insert(short, index);
        self.counts[member.status as usize] += 1;
        match self.places.get_mut(index.0 as usize) {
            Some(place) => *place = Some(member),
            None => self.places.push(Some(member)),
        }
        self.update(index, |_| ());
        Some(index)
    }

    pub(super) fn remove(&mut self, index: Index) -> Option<Member> {
        self.update(index, |member| member.statement = None);
        let member = self.places.get_mut(index.0 as usize)?.take()?;
        self.counts[member.status as usize] -= 1;
        self.by_node.remove(&member.node);
        self.by_short.remove(&member.short());
        self.free.push(index);
        Some(member)
    }

    /// By id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Index, &Member)> {
        self.by_node.values().filter_map(|index| Some((*index, self.get(*index)?)))
    }

    /// By place, to be changed like with [`get_mut`](Self::get_mut).
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Index, &mut Member)> {
        let places = self.places.iter_mut().enumerate();
        places.filter_map(|(at, place)| Some((Index(at as u32), place.as_mut()?)))
    }

    /// The first member at or after a random place that is wanted: uniform enough where most are.
    pub(super) fn pick(&self, from: usize, wanted: impl Fn(Index, &Member) -> bool) -> Option<Index> {
        let len = self.places.len();
        (0..len).map(|step| (from + step) % len).find_map(|at| {
            let index = Index(at as u32);
            self.get(index).filter(|member| wanted(index, member)).map(|_| index)
        })
    }

    pub(super) fn places(&self) -> usize {
        self.places.len()
    }
}

/// The order in which members are probed: shuffled, each once per pass (SWIM, section 4.3).
#[derive(Debug, Default)]
pub(super) struct Ring {
    order: Vec<Index>,
    at: usize,
}

impl Ring {
    /// Adds a member at a random place of what is left of this pass.
    pub(super) fn insert(&mut self, index: Index, random: impl FnOnce(usize) -> usize) {
        let place = self.at + random(self.order.len() - self.at + 1);
        self.order.insert(place.min(self.order.len()), index);
    }

    pub(super) fn remove(&mut self, index: Index) {
        if let Some(place) = self.order.iter().position(|other| *other == index) {
            self.order.remove(place);
            self.at -= usize::from(place < self.at);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Whose turn it is. After a pass the order is shuffled anew, so that two probes of a member are less than two passes
    /// apart.
    pub(super) fn next(&mut self, shuffle: impl FnOnce(&mut [Index])) -> Option<Index> {
        if self.at >= self.order.len() {
            shuffle(&mut self.order);
            self.at = 0;
        }
        let index = *self.order.get(self.at)?;
        self.at += 1;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::swim::rng::Dice;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn swim_4_3_each_member_has_one_turn_per_pass_also_in_a_group_of_three() {
        for members in [2u32, 3, 10] {
            let (mut ring, mut dice) = (Ring::default(), Dice::new(4));
            for n in 0..members {
                ring.insert(Index(n), |bound| dice.below(bound));
            }
            for _ in 0..1000 {
                let mut turns: Vec<u32> =
                    (0..members).map(|_| ring.next(|order| dice.shuffle(order)).unwrap().0).collect();
                turns.sort_unstable();
                assert!(turns.into_iter().eq(0..members), "memberlist#350: no turn is skipped");
            }
        }
    }

    #[test]
    fn a_member_that_comes_or_goes_takes_no_turn_from_others() {
        let (mut ring, mut dice) = (Ring::default(), Dice::new(4));
        for n in 0..4 {
            ring.insert(Index(n), |bound| dice.below(bound));
        }
        let first = ring.next(|order| dice.shuffle(order)).unwrap();
        ring.remove(first);
        ring.insert(Index(9), |bound| dice.below(bound));
        let mut rest: Vec<_> = (0..4).map(|_| ring.next(|_| ()).unwrap()).collect();
        rest.push(first);
        rest.sort();
        assert_eq!(rest, [0, 1, 2, 3, 9].map(Index));
    }

    #[test]
    fn the_digest_depends_on_who_is_alive_and_not_on_the_order_of_news() {
        let said = |n: u8| Statement {
            node: node(n),
            incarnation: Incarnation(u64::from(n)),
            left: false,
            low_power: false,
            signature: crate::domain::identity::Signature::from_bytes([0; 64]),
        };
        let table = |order: &[u8]| {
            let mut table = Table::default();
            for n in order {
                let mut member = Member::new(node(*n), Status::Alive, Instant::ZERO);
                member.statement = Some(said(*n));
                table.insert(member).unwrap();
            }
            table
        };
        let (mut a, b) = (table(&[1, 2, 3]), table(&[3, 1, 2]));
        assert_eq!(a.buckets(), b.buckets());
        let two = a.find(&node(2)).unwrap();
        a.update(two, |member| member.status = Status::Unreachable);
        assert_ne!(a.buckets(), b.buckets());
        a.remove(two);
        assert_eq!(a.buckets(), table(&[1, 3]).buckets());
        assert_eq!((a.len(), a.up(), a.gone()), (2, 2, 0));
    }

    #[test]
    fn an_id_that_begins_like_another_is_refused() {
        let mut table = Table::default();
        let mut twin = [7; 32];
        twin[31] = 0;
        assert!(table.insert(Member::new(node(7), Status::Alive, Instant::ZERO)).is_some());
        let twin = Member::new(NodeId::from_bytes(twin), Status::Alive, Instant::ZERO);
        assert!(table.insert(twin).is_none());
    }
}
