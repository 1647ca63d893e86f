//! What a node says about itself, signed: in which incarnation it lives, or that it left.
//!
//! Only the subject can make one, whoever relays it: nobody else raises an incarnation, sends a node away, or brings it
//! back. Pure values. Made and checked by the engine.

use crate::domain::id::NodeId;
use crate::domain::identity::{Identity, Signature};

const CONTEXT: &[u8] = b"anabranch 1 liveness statement\0";

/// Counts the lives and denials of a node. Raised by the node itself only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The next one; the last one stays.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A signed word of a node about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// Who says so, about itself.
    pub node: NodeId,
    /// The incarnation.
    pub incarnation: Incarnation,
    /// It left for good in this incarnation.
    pub left: bool,
    /// It sleeps between wakes: probe it rarely.
    pub low_power: bool,
    /// Over all of it and the group.
    pub signature: Signature,
}

impl Statement {
    /// Makes the statement of `identity`.
    pub fn sign(
        identity: &Identity,
        group: &[u8; 32],
        incarnation: Incarnation,
        left: bool,
        low_power: bool,
    ) -> Self {
        let node = identity.node();
        let signature = identity.sign(&message(group, &node, incarnation, flags(left, low_power)));
        Self { node, incarnation, left, low_power, signature }
    }

    /// Whether its node made it, for this group.
    pub fn holds(&self, identity: &Identity, group: &[u8; 32]) -> bool {
        let message = message(group, &self.node, self.incarnation, self.flags());
        identity.verify(&self.node, &message, &self.signature)
    }

    /// Later incarnations win; within one, leaving is the last word.
    pub fn rank(&self) -> (Incarnation, bool) {
        (self.incarnation, self.left)
    }

    pub(super) fn flags(&self) -> u8 {
        flags(self.left, self.low_power)
    }
}

fn flags(left: bool, low_power: bool) -> u8 {
    u8::from(left) | u8::from(low_power) << 1
}

fn message(group: &[u8; 32], node: &NodeId, incarnation: Incarnation, flags: u8) -> Vec<u8> {
    let mut message = Vec::with_capacity(CONTEXT.len() + 73);
    message.extend_from_slice(CONTEXT);
    message.extend_from_slice(group);
    message.extend_from_slice(node.as_bytes());
    message.extend_from_slice(&incarnation.0.to_le_bytes());
    message.push(flags);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_holds_for_its_node_group_and_content_only() {
        let [ana, ben] = [1, 2].map(|n| Identity::from_secret([n; 32]));
        let group = [7; 32];
        let said = Statement::sign(&ana, &group, Incarnation(3), false, false);
        assert!(said.holds(&ben, &group));
        assert!(!said.holds(&ben, &[8; 32]));
        assert!(!Statement { incarnation: Incarnation(u64::MAX), ..said }.holds(&ben, &group));
        assert!(!Statement { left: true, ..said }.holds(&ben, &group));
        assert!(!Statement { node: ben.node(), ..said }.holds(&ben, &group));
    }
}
