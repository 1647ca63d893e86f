//! Proof that an author forked its log: transferable, checked offline.
//!
//! Made when heads of both lines are known; blames the key, not the intention: restored backups fork, too.

use super::entry::{EntryHash, EntryHeader};
use super::head::Head;
use super::id::{LogKey, NodeId};
use super::identity::SignatureScheme;
use super::run::Run;
use super::version::Tip;

/// One of the two continuations: the headers from the fork to a head that the author signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// Headers of the entries after the fork, up to the head.
    pub headers: Vec<EntryHeader>,
    /// The author's signature over the last of them.
    pub head: Head,
}

impl Branch {
    /// The branch that starts with `run`, which begins right after the fork, up to the first of `heads`.
    pub fn new(run: &Run, heads: &[Head]) -> Option<Self> {
        let head = *heads.iter().find(|head| run.hash_at(head.tip.sequence) == Some(head.tip.hash))?;
        let entries = run.entries(NodeId::from_bytes([0; 32]));
        let headers = entries
            .take_while(|entry| entry.sequence() <= head.tip.sequence)
            .map(|entry| EntryHeader::of(entry.timestamp(), entry.payload()))
            .collect();
        Some(Self { headers, head })
    }
}

/// Two signed heads of one author that cannot both belong to one line, with the headers that tie them to the
/// entry where they part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForkProof {
    /// The forked log.
    pub key: LogKey,
    /// Its author.
    pub author: NodeId,
    /// The last entry that both branches share.
    pub at: Tip,
    /// The two continuations.
    pub branches: [Branch; 2],
}

impl ForkProof {
    /// Whether the proof holds: both branches continue `at`, differ in their first entry, and end in heads
    /// that the author signed for this log. Needs nothing but the proof.
    pub fn verify(&self, scheme: &dyn SignatureScheme) -> bool {
        let [a, b] = &self.branches;
        let (Some(first_a), Some(first_b)) = (self.first_hash(a, scheme), self.first_hash(b, scheme)) else {
            return false;
        };
        first_a != first_b
    }

    /// The hash of the branch's first entry, if its chain ends in its signed head.
    fn first_hash(&self, branch: &Branch, scheme: &dyn SignatureScheme) -> Option<EntryHash> {
        let mut tip = self.at;
        let mut first = None;
        for header in &branch.headers {
            let sequence = tip.sequence.checked_add(1)?;
            tip = Tip { sequence, hash: header.hash(&self.key, sequence, &tip.hash) };
            first = first.or(Some(tip.hash));
        }
        (tip == branch.head.tip && branch.head.verify(&self.key, &self.author, scheme)).then_some(first?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::Identity;
    use crate::domain::run::RunBuilder;
    use crate::domain::time::Timestamp;

    const KEY: LogKey = LogKey::from_bytes([4; 32]);

    fn branch(author: &Identity, at: Tip, payload: &[u8]) -> Branch {
        let mut builder = RunBuilder::new(KEY, at, 0, 0);
        for time in 1..=3 {
            builder.push(Timestamp::new(9, time), payload);
        }
        let run = builder.finish().unwrap();
        Branch::new(&run, &[Head::sign(&KEY, run.tip(), author)]).unwrap()
    }

    #[test]
    fn two_signed_continuations_of_one_entry_prove_a_fork_and_one_does_not() {
        let author = Identity::from_secret([1; 32]);
        let at = Tip { sequence: 7, hash: EntryHash::from_bytes([2; 32]) };
        let (a, b) = (branch(&author, at, b"a"), branch(&author, at, b"b"));
        let proof = ForkProof { key: KEY, author: author.node(), at, branches: [a.clone(), b] };
        let scheme = author.scheme();
        assert!(proof.verify(&*scheme));
        let same = ForkProof { branches: [a.clone(), a.clone()], ..proof.clone() };
        assert!(!same.verify(&*scheme));
        let forged = branch(&Identity::from_secret([2; 32]), at, b"c");
        assert!(!ForkProof { branches: [a.clone(), forged], ..proof.clone() }.verify(&*scheme));
        let elsewhere = ForkProof { at: Tip::START, ..proof };
        assert!(!elsewhere.verify(&*scheme));
    }
}
