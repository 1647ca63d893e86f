//! Known nodes, and the selectors that narrow them down.

use crate::protocol::swim::{MemberView, Status};

/// Known nodes but the own one, by id, as of the call that asked. Selectors narrow them down:
/// `members.with_role("relay").alive()`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members(Vec<MemberView>);

impl Members {
    /// Those for which `wanted` holds.
    #[must_use]
    pub fn matching(self, wanted: impl Fn(&MemberView) -> bool) -> Self {
        Self(self.0.into_iter().filter(|member| wanted(member)).collect())
    }

    /// Those that are held alive.
    #[must_use]
    pub fn alive(self) -> Self {
        self.with_status(Status::Alive)
    }

    /// Those that are held for `status`.
    #[must_use]
    pub fn with_status(self, status: Status) -> Self {
        self.matching(|member| member.status == status)
    }

    /// Those that say that they have this role.
    #[must_use]
    pub fn with_role(self, role: &str) -> Self {
        self.matching(|member| member.metadata.role == role)
    }

    /// Those that say that they are in this region.
    #[must_use]
    pub fn in_region(self, region: &str) -> Self {
        self.matching(|member| member.metadata.region == region)
    }

    /// Those that say that they offer this service.
    #[must_use]
    pub fn with_tag(self, tag: &str) -> Self {
        self.matching(|member| member.metadata.tags.contains(tag))
    }

    /// Those with this value under this key.
    #[must_use]
    pub fn with_pair(self, key: &str, value: &str) -> Self {
        self.matching(|member| member.metadata.pairs.get(key).is_some_and(|found| found == value))
    }

    /// The members themselves.
    pub fn into_vec(self) -> Vec<MemberView> {
        self.0
    }
}

impl std::ops::Deref for Members {
    type Target = [MemberView];
    fn deref(&self) -> &[MemberView] {
        &self.0
    }
}

impl IntoIterator for Members {
    type Item = MemberView;
    type IntoIter = std::vec::IntoIter<MemberView>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Members {
    type Item = &'a MemberView;
    type IntoIter = std::slice::Iter<'a, MemberView>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl FromIterator<MemberView> for Members {
    fn from_iter<I: IntoIterator<Item = MemberView>>(members: I) -> Self {
        Self(members.into_iter().collect())
    }
}
