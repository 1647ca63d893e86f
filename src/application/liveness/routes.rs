//! On which link a frame goes.
//!
//! Keeps the links that are up, who was heard on which, and to which address each was dialled. Sends nothing, knows no
//! time. Called by the driver.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::application::ports::LinkId;
use crate::domain::id::NodeId;
use crate::domain::link::PeerAddr;

/// Frames that wait for one address to be dialled. Enough for a greeting and what follows it; the oldest go first, as what
/// they asked has been asked again.
const MAX_WAITING: usize = 4;

/// One link in so many is for those who have not proven themselves yet: newcomers always get in, and a flood of them
/// takes no more.
const STRANGERS: usize = 4;

/// A link that is up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Link {
    /// Where it was dialled to, if it was dialled here.
    address: Option<PeerAddr>,
    /// Whose authentic frames came on it.
    node: Option<NodeId>,
    /// When it was used last, in turns.
    used: u64,
}

/// The links of a port.
#[derive(Debug, Default)]
pub(super) struct Routes {
    links: BTreeMap<LinkId, Link>,
    by_address: BTreeMap<PeerAddr, LinkId>,
    by_node: BTreeMap<NodeId, LinkId>,
    /// Frames for addresses that are being dialled.
    waiting: BTreeMap<PeerAddr, VecDeque<Bytes>>,
    turn: u64,
}

impl Routes {
    /// A link is up, dialled to `address` if that is known.
    pub(super) fn up(&mut self, link: LinkId, address: Option<PeerAddr>) {
        self.turn += 1;
        let entry = self.links.entry(link).or_default();
        entry.used = self.turn;
        if let Some(address) = address {
            entry.address = Some(address.clone());
            self.by_address.insert(address, link);
        }
    }

    /// A link is gone.
    pub(super) fn down(&mut self, link: LinkId) {
        let Some(gone) = self.links.remove(&link) else { return };
        if let Some(address) = gone.address.filter(|address| self.by_address.get(address) == Some(&link)) {
            self.by_address.remove(&address);
        }
        if let Some(node) = gone.node.filter(|node| self.by_node.get(node) == Some(&link)) {
            self.by_node.remove(&node);
        }
    }

    /// An authentic frame of `node` came on a link: it is there, whatever it was reached by before. One of unknown age may
    /// have been kept and repeated by somebody else: it takes the node from no other link.
    pub(super) fn heard(&mut self, link: LinkId, node: NodeId, fresh: bool) {
        self.turn += 1;
        if !fresh && self.by_node.contains_key(&node) {
            return;
        }
        let Some(entry) = self.links.get_mut(&link) else { return };
        (entry.used, entry.node) = (self.turn, Some(node));
        self.by_node.insert(node, link);
    }

    /// The link to a node, else the one that was dialled to its address.
    pub(super) fn find(&mut self, node: Option<&NodeId>, address: Option<&PeerAddr>) -> Option<LinkId> {
        let by_node = node.and_then(|node| self.by_node.get(node));
        let link = by_node.or_else(|| address.and_then(|address| self.by_address.get(address))).copied()?;
        self.turn += 1;
        self.links.get_mut(&link)?.used = self.turn;
        Some(link)
    }

    /// The link on which a node was heard.
    pub(super) fn of_node(&self, node: &NodeId) -> Option<LinkId> {
        self.by_node.get(node).copied()
    }

    /// Where a link was dialled to.
    pub(super) fn address(&self, link: LinkId) -> Option<PeerAddr> {
        self.links.get(&link)?.address.clone()
    }

    /// The link to give up when there are more than `most`: the one unused for longest of those on which nobody proved
    /// itself if these have more than their share, else of the others.
    pub(super) fn superfluous(&self, most: usize) -> Option<LinkId> {
        if self.links.len() <= most {
            return None;
        }
        let strangers = self.links.values().filter(|link| link.node.is_none()).count();
        let too_many = strangers > (most / STRANGERS).max(1);
        let first = |(_, link): &(&LinkId, &Link)| (link.node.is_none() != too_many, link.used);
        self.links.iter().min_by_key(first).map(|(link, _)| *link)
    }

    /// How many addresses are being dialled.
    pub(super) fn dialling(&self) -> usize {
        self.waiting.len()
    }

    /// A frame waits for an address to be dialled. Whether dialling has to begin, and how many frames had to go.
    pub(super) fn wait(&mut self, address: &PeerAddr, frame: Bytes) -> (bool, u64) {
        let begin = !self.waiting.contains_key(address);
        let frames = self.waiting.entry(address.clone()).or_default();
        frames.push_back(frame);
        let lost = frames.len().saturating_sub(MAX_WAITING);
        frames.drain(..lost);
        (begin, lost as u64)
    }

    /// Dialling an address ended: what waited for it.
    pub(super) fn dialled(&mut self, address: &PeerAddr) -> VecDeque<Bytes> {
        self.waiting.remove(address).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn frames_go_where_a_node_was_heard_last_and_else_where_its_address_was_dialled() {
        let mut routes = Routes::default();
        let address = PeerAddr::new("ben");
        routes.up(LinkId(1), Some(address.clone()));
        routes.up(LinkId(2), None);
        assert_eq!(routes.find(Some(&node(1)), Some(&address)), Some(LinkId(1)));
        routes.heard(LinkId(2), node(1), true);
        assert_eq!(routes.find(Some(&node(1)), Some(&address)), Some(LinkId(2)));
        routes.down(LinkId(2));
        assert_eq!(routes.find(Some(&node(1)), Some(&address)), Some(LinkId(1)));
        routes.down(LinkId(1));
        assert_eq!(routes.find(Some(&node(1)), Some(&address)), None);
    }

    #[test]
    fn a_repeated_old_frame_takes_no_node_from_the_link_on_which_it_answers() {
        let mut routes = Routes::default();
        (1..=3).for_each(|n| routes.up(LinkId(n), None));
        routes.heard(LinkId(1), node(1), false);
        assert_eq!(routes.find(Some(&node(1)), None), Some(LinkId(1)), "better than none");
        routes.heard(LinkId(2), node(1), false);
        assert_eq!(routes.find(Some(&node(1)), None), Some(LinkId(1)));
        routes.heard(LinkId(3), node(1), true);
        assert_eq!(routes.find(Some(&node(1)), None), Some(LinkId(3)));
    }

    #[test]
    fn i6_strangers_get_one_link_in_four_and_the_longest_unused_one_goes() {
        let mut routes = Routes::default();
        (0..6).for_each(|n| routes.up(LinkId(n), None));
        (0..4).for_each(|n| routes.heard(LinkId(n), node(n as u8), true));
        assert_eq!(routes.superfluous(6), None);
        assert_eq!(routes.superfluous(5), Some(LinkId(4)), "two strangers are more than a quarter of five");
        routes.down(LinkId(4));
        assert_eq!(routes.find(Some(&node(0)), None), Some(LinkId(0)));
        assert_eq!(routes.superfluous(4), Some(LinkId(1)), "a newcomer gets in");
    }

    #[test]
    fn i6_an_address_that_takes_long_to_dial_holds_the_newest_frames_only() {
        let mut routes = Routes::default();
        let address = PeerAddr::new("slow");
        let lost: u64 = (0..10u8).map(|n| routes.wait(&address, vec![n].into()).1).sum();
        assert_eq!((lost, routes.dialling()), (6, 1));
        let kept: Vec<u8> = routes.dialled(&address).iter().map(|frame| frame[0]).collect();
        assert_eq!(kept, [6, 7, 8, 9]);
    }
}
