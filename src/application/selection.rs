//! Known nodes, and the selectors that narrow them down: the same for a node's peers and for the members that
//! [`Liveness`](crate::Liveness) alone knows.

use crate::protocol::swim::{MemberView, Metadata, Status};

use super::peers::Peer;

/// Known peers, as of the call that asked, by id: `node.peers().with_role("relay").alive()`.
pub type Peers = Selection<Peer>;
/// Known nodes but the own one, as of the call that asked, by id: `members.with_role("relay").alive()`.
pub type Members = Selection<MemberView>;

/// What can be selected by liveness and metadata.
pub trait Selectable {
    /// What it is held for.
    fn status(&self) -> Status;
    /// What it tells about itself.
    fn metadata(&self) -> &Metadata;
}

impl Selectable for Peer {
    fn status(&self) -> Status {
        self.status
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Selectable for MemberView {
    fn status(&self) -> Status {
        self.status
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// Known nodes as of the call that asked, by id. Selectors narrow them down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection<T>(Vec<T>);

impl<T: Selectable> Selection<T> {
    /// Those for which `wanted` holds.
    #[must_use]
    pub fn matching(self, wanted: impl Fn(&T) -> bool) -> Self {
        Self(self.0.into_iter().filter(|node| wanted(node)).collect())
    }

    /// Those that are held alive.
    #[must_use]
    pub fn alive(self) -> Self {
        self.with_status(Status::Alive)
    }

    /// Those that are held for `status`.
    #[must_use]
    pub fn with_status(self, status: Status) -> Self {
        self.matching(|node| node.status() == status)
    }

    /// Those that say that they have this role.
    #[must_use]
    pub fn with_role(self, role: &str) -> Self {
        self.matching(|node| node.metadata().role == role)
    }

    /// Those that say that they are in this region.
    #[must_use]
    pub fn in_region(self, region: &str) -> Self {
        self.matching(|node| node.metadata().region == region)
    }

    /// Those that say that they offer this service.
    #[must_use]
    pub fn with_tag(self, tag: &str) -> Self {
        self.matching(|node| node.metadata().tags.contains(tag))
    }

    /// Those with this value under this key.
    #[must_use]
    pub fn with_pair(self, key: &str, value: &str) -> Self {
        self.matching(|node| node.metadata().pairs.get(key).is_some_and(|found| found == value))
    }

    /// The nodes themselves.
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T> Default for Selection<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> std::ops::Deref for Selection<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> IntoIterator for Selection<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Selection<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T> FromIterator<T> for Selection<T> {
    fn from_iter<I: IntoIterator<Item = T>>(nodes: I) -> Self {
        Self(nodes.into_iter().collect())
    }
}
