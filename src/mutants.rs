//! Planted bugs, by which the simulator proves that it would find real ones.
//!
//! Compiled in with `--cfg anabranch_mutants` only, and one at a time is chosen at run time; in every other
//! build `mutant!` is `false` and nothing of this is there but the list of their names. Each place that has one asks
//! `mutant!(Name)`. Called by `anabranch-sim mutants`, never by an application.

/// Whether this planted bug was chosen: always `false` without `--cfg anabranch_mutants`.
#[cfg(not(anabranch_mutants))]
macro_rules! mutant {
    ($name:ident) => {
        false
    };
}

/// Whether this planted bug was chosen: always `false` without `--cfg anabranch_mutants`.
#[cfg(anabranch_mutants)]
macro_rules! mutant {
    ($name:ident) => {
        $crate::mutants::is_chosen($crate::mutants::Mutant::$name)
    };
}

macro_rules! mutants {
    ($($name:ident: $what:literal,)*) => {
        /// A planted bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant {
            $(#[doc = $what] $name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What it is called.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// What is wrong.
            pub fn what(self) -> &'static str {
                match self {
                    $(Self::$name => $what,)*
                }
            }
        }
    };
}

mutants! {
    StampsRepeat: "the next stamp may equal the last",
    DriftIgnored: "stamps follow an absurd clock for ever",
    ExtendsAnyLine: "a run extends whichever line is as long, not the one it continues",
    SignatureSkippedOnPull: "signatures of runs that continue a log are not checked",
    UnsignedTailTaken: "a run need not end at a signed head",
    VersionOffByOne: "a position in a stream is one entry ahead of itself",
    OrderByArrival: "lines are read one after the other",
    TailForgotten: "the tail of the own log is forgotten at a restart: sequences are used again",
    ClockMarkForgotten: "the largest stamp is forgotten at a restart",
    SeenNotRaised: "stamps of merged entries do not raise the own clock",
    AcknowledgedBeforeDurable: "an append returns before its sync",
    PublishedBeforeDurable: "entries are sent before their sync",
    ForkIgnored: "entries of another line of a log are taken for duplicates",
    LineStoredTwice: "a line that starts within a run is stored a second time",
    LogNotRegistered: "a log is not entered in the store before its entries",
    BlockHeadsDropped: "heads of block ends of others are not kept",
    HeadsForgotten: "heads that a full disk refused are forgotten with the next one that is stored",
    OneLineMatched: "of a forked log only the first line is offered",
    BlockEndsNotSought: "block ends from before a restart are never signed",
    AmnesiaWaitLost: "the deadline of the wait after a moved store is lost",
    RedialLost: "a lost peer is not dialled again",
    FingerprintStale: "the fingerprint keeps what a log was before",
    CountDecides: "equal numbers of logs are taken for equal contents",
    ListEntryLost: "the first log that only one side of a list holds is left out",
    OfferForgotten: "a log that the peer does not know at all is not offered",
    WindowNeverReleased: "what was acknowledged keeps its place in the window",
    VersionOfPeerIgnored: "peers are written to in the newest version, whatever they read",
    DoneNotSent: "peers are not told what is durable here",
    ParkedNotTold: "a log is left out without telling the peer",
    AdmissionSkipped: "entries are taken whoever wrote them",
    PauseForever: "a peer that paused is never sent anything again",
    ResumeNotTold: "peers are not told that a pause is over",
    LinesFailTogether: "a line that fitted is dropped with one that the full disk refused",
    RetransmitLost: "what was lost is not sent again",
    FragmentsReordered: "fragments are put together in the order in which they arrive",
    DedupLost: "a fragment that overlaps what came before is taken again",
    MergeLosesEntries: "merging small chunks drops the newest of them",
    ChunkMisplaced: "a chunk is stored one entry further on",
    LineRecordStale: "the record of a second line is not written with its entries",
    WithheldForgotten: "batches that build on a refused one are let through",
    CheckpointKept: "a late entry leaves the checkpoints after it",
    LateFlagLost: "late entries are not marked",
    CursorNotMoved: "a subscriber does not move on",
    WakeLost: "subscribers are not woken",
}

#[cfg(anabranch_mutants)]
mod planted {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Mutant;

    /// One above the place of the chosen one; 0 if there is none.
    static CHOSEN: AtomicUsize = AtomicUsize::new(0);

    /// Lets one planted bug loose in this process, or none.
    pub fn choose(mutant: Option<Mutant>) {
        CHOSEN.store(mutant.map_or(0, |mutant| mutant as usize + 1), Ordering::Relaxed);
    }

    pub(crate) fn is_chosen(mutant: Mutant) -> bool {
        CHOSEN.load(Ordering::Relaxed) == mutant as usize + 1
    }
}

#[cfg(anabranch_mutants)]
pub use planted::choose;
#[cfg(anabranch_mutants)]
pub(crate) use planted::is_chosen;
