//! Faults: what can go wrong, how often, and a plan of it drawn from a seed.
//!
//! Each kind draws from a generator of its own, so that leaving one fault out moves no other. What belongs
//! together (a crash and the restart after it) is one group, and is left out together.

use std::time::Duration;

use anabranch::MessageVersion;
use anabranch::infrastructure::link_profile::{Chance, Delay, LinkProfile};
use anabranch::infrastructure::prng::Prng;

use crate::seed::ODD;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;
/// Nanoseconds in a minute.
const MINUTE: u64 = 60 * SECOND;
/// First part of the seed that plans draw from; one for each kind of fault follows.
const FIRST_PART: u64 = 1_000;
/// Ten years, in seconds.
const TEN_YEARS: i64 = 315_576_000;

/// The names of all faults that are counted: network, process, disk, clock, identity.
pub const FAULTS: [&str; 60] = [
    "loss",
    "delay",
    "duplicate",
    "reorder",
    "corrupt",
    "truncate",
    "full_link",
    "bad_link",
    "bandwidth",
    "frame_size_limit",
    "partition",
    "one_way",
    "flip_flop",
    "blocked",
    "cut_links",
    "crash",
    "power_failure",
    "pause",
    "slow_node",
    "unsynced_lost",
    "unsynced_kept",
    "torn_write",
    "bit_rot",
    "misdirected_write",
    "disk_full",
    "refused_by_full_disk",
    "slow_disk",
    "sync_failure",
    "failed_sync",
    "write_failure",
    "failed_write",
    "clock_skew",
    "clock_drift",
    "clock_jump",
    "clock_freeze",
    "restore",
    "unnoticed_restore",
    "clone",
    "equivocation",
    "lie_in_digest",
    "lie_in_versions",
    "lie_in_locators",
    "lie_in_acknowledgements",
    "lie_in_parking",
    "lie_in_state",
    "lie_in_shares",
    "lie_in_lists",
    "lie_in_cells",
    "lie_in_holdings",
    "lie_in_reach",
    "withheld_entries",
    "tampered_run",
    "replayed_run",
    "replayed_session",
    "never_reads",
    "flood",
    "other_wire_version",
    "old_version",
    "upgrade",
    "downgrade",
];

/// One thing that happens to the world. Scripts name these too ([`World::at`](crate::World::at)).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// The links between two nodes behave like this from now on.
    Link {
        /// One node.
        a: usize,
        /// The other.
        b: usize,
        /// How, in both directions.
        profile: LinkProfile,
    },
    /// Nothing passes between two nodes.
    Partition(usize, usize),
    /// Nothing passes from the first to the second.
    OneWay(usize, usize),
    /// Frames pass for a while, then not, and so on.
    FlipFlop {
        /// One node.
        a: usize,
        /// The other.
        b: usize,
        /// How long they pass.
        open: Duration,
        /// How long not.
        closed: Duration,
    },
    /// Everything passes between two nodes again.
    Heal(usize, usize),
    /// The links between two nodes go down; they may connect again.
    Cut(usize, usize),
    /// The machine stops: what was not synced may be lost.
    Crash {
        /// Which node.
        node: usize,
        /// Its peers are not told, as when the power fails.
        silent: bool,
    },
    /// The node starts, if it is down.
    Boot(usize),
    /// The process does not run for a while, and its clocks go on: a laptop's lid.
    Pause(usize, Duration),
    /// Each step of the node's code takes this long.
    Slow(usize, Duration),
    /// The wall clock jumps by so many seconds.
    ClockJump(usize, i64),
    /// The wall clock stands still, or goes on.
    ClockFreeze(usize, bool),
    /// Both clocks are fast by so many millionths, at most 100,000 either way.
    ClockDrift(usize, i64),
    /// The disk takes so many bytes more and then no others; `None`: as many as come.
    DiskFull(usize, Option<u64>),
    /// Each write and each sync takes this much longer.
    DiskSlow(usize, Duration),
    /// Syncs fail from now on, until the node starts anew.
    SyncFails(usize),
    /// Writes fail from now on, until the node starts anew.
    WriteFails(usize),
    /// One bit on the disk flips.
    BitRot(usize),
    /// One value on the disk is overwritten by another.
    Misdirect(usize),
    /// A backup of the disk is made.
    Backup(usize),
    /// The machine stops, and its disk is replaced by the last backup.
    Restore {
        /// Which node.
        node: usize,
        /// The store can tell: device, inode or machine changed.
        noticed: bool,
    },
    /// Another device starts with a copy of the disk as it is.
    Clone {
        /// Which node.
        node: usize,
        /// The copy can tell that it is one.
        noticed: bool,
    },
    /// The node stops, and starts with a build that speaks messages up to this version, if its code asks for
    /// [`NodeCx::message_version`](crate::NodeCx::message_version).
    Install(usize, MessageVersion),
}

impl Action {
    /// The nodes that it names.
    pub fn nodes(&self) -> impl Iterator<Item = usize> {
        let (one, other) = match *self {
            Self::Link { a, b, .. }
            | Self::Partition(a, b)
            | Self::OneWay(a, b)
            | Self::FlipFlop { a, b, .. }
            | Self::Heal(a, b)
            | Self::Cut(a, b) => (a, Some(b)),
            Self::Crash { node, .. }
            | Self::Boot(node)
            | Self::Pause(node, _)
            | Self::Slow(node, _)
            | Self::ClockJump(node, _)
            | Self::ClockFreeze(node, _)
            | Self::ClockDrift(node, _)
            | Self::DiskFull(node, _)
            | Self::DiskSlow(node, _)
            | Self::SyncFails(node)
            | Self::WriteFails(node)
            | Self::BitRot(node)
            | Self::Misdirect(node)
            | Self::Backup(node)
            | Self::Install(node, _)
            | Self::Restore { node, .. }
            | Self::Clone { node, .. } => (node, None),
        };
        std::iter::once(one).chain(other)
    }

    /// Its name in reports; `None` for what only ends a fault.
    pub fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Link { .. } => "bad_link",
            Self::Partition(..) => "partition",
            Self::OneWay(..) => "one_way",
            Self::FlipFlop { .. } => "flip_flop",
            Self::Cut(..) => "cut_links",
            Self::Crash { silent: false, .. } => "crash",
            Self::Crash { silent: true, .. } => "power_failure",
            Self::Pause(..) => "pause",
            Self::Slow(_, Duration::ZERO) => return None,
            Self::Slow(..) => "slow_node",
            Self::ClockJump(..) => "clock_jump",
            Self::ClockFreeze(_, true) => "clock_freeze",
            Self::ClockDrift(_, 0) => return None,
            Self::ClockDrift(..) => "clock_drift",
            Self::DiskFull(_, Some(_)) => "disk_full",
            Self::DiskSlow(_, Duration::ZERO) => return None,
            Self::DiskSlow(..) => "slow_disk",
            Self::SyncFails(_) => "sync_failure",
            Self::WriteFails(_) => "write_failure",
            Self::BitRot(_) => "bit_rot",
            Self::Misdirect(_) => "misdirected_write",
            Self::Restore { noticed: true, .. } => "restore",
            Self::Restore { noticed: false, .. } => "unnoticed_restore",
            Self::Clone { .. } => "clone",
            Self::Install(_, version) if *version == MessageVersion::NEWEST => "upgrade",
            Self::Install(..) => "downgrade",
            Self::Heal(..) | Self::Boot(_) | Self::ClockFreeze(..) | Self::DiskFull(..) | Self::Backup(_) => {
                return None;
            }
        })
    }
}

/// Something that a plan says will happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// True time, in nanoseconds.
    pub at: u64,
    /// What belongs together has the same number.
    pub group: u32,
    /// What.
    pub action: Action,
}

/// Which faults a plan draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum FaultKind {
    /// Loss, delay, duplicates, reordering, damage, little bandwidth.
    Weather,
    /// Full partitions between two nodes.
    Partition,
    /// One node cut off from all.
    Isolation,
    /// One direction blocked.
    OneWay,
    /// Partitions that come and go.
    FlipFlop,
    /// Links that go down.
    CutLinks,
    /// Crashes.
    Crash,
    /// Pauses.
    Pause,
    /// Slow nodes.
    Slow,
    /// Wall clocks that jump by up to ten years.
    ClockJump,
    /// Wall clocks that stand still.
    ClockFreeze,
    /// Fast and slow clocks.
    ClockDrift,
    /// Wall clocks that are wrong from the start.
    ClockSkew,
    /// Full disks.
    DiskFull,
    /// Slow disks.
    DiskSlow,
    /// Failing syncs.
    SyncFails,
    /// Failing writes.
    WriteFails,
    /// Flipped bits on the disk.
    BitRot,
    /// Writes in the wrong place.
    Misdirect,
    /// Restored backups.
    Restore,
    /// Cloned devices.
    Clone,
    /// An author that writes two histories.
    Equivocation,
    /// A member that sends nonsense, lies and replays.
    Liar,
    /// A peer that never reads.
    NeverReads,
    /// A flood of frames.
    Flood,
    /// A node that speaks no version of the wire that others know.
    OtherVersion,
    /// Devices with the previous version, and with the present one, and updates from one to the other and back.
    OldVersion,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 27] = [
        Self::Weather,
        Self::Partition,
        Self::Isolation,
        Self::OneWay,
        Self::FlipFlop,
        Self::CutLinks,
        Self::Crash,
        Self::Pause,
        Self::Slow,
        Self::ClockJump,
        Self::ClockFreeze,
        Self::ClockDrift,
        Self::ClockSkew,
        Self::DiskFull,
        Self::DiskSlow,
        Self::SyncFails,
        Self::WriteFails,
        Self::BitRot,
        Self::Misdirect,
        Self::Restore,
        Self::Clone,
        Self::Equivocation,
        Self::Liar,
        Self::NeverReads,
        Self::Flood,
        Self::OtherVersion,
        Self::OldVersion,
    ];
}

/// Which faults are on, and how strong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultProfile {
    /// None, and links that lose nothing unless others were chosen.
    Calm,
    /// These, as often as usual.
    Only(Vec<FaultKind>),
    /// Each seed draws for itself: some have none, some one, some all, most a handful, each at a strength of
    /// its own (Groce et al., "Swarm Testing", 2012).
    Swarm,
}

impl FaultProfile {
    /// The profile of this name: `calm`, `swarm`, `network`, `process`, `disk`, `clock`, `identity`,
    /// `hostile`, `all`.
    pub fn named(name: &str) -> Option<Self> {
        use FaultKind as K;
        Some(match name {
            "calm" => Self::Calm,
            "swarm" => Self::Swarm,
            "all" => Self::Only(K::ALL.to_vec()),
            "network" => {
                Self::Only(vec![K::Weather, K::Partition, K::Isolation, K::OneWay, K::FlipFlop, K::CutLinks])
            }
            "process" => Self::Only(vec![K::Crash, K::Pause, K::Slow, K::OldVersion]),
            "disk" => Self::Only(vec![
                K::Crash,
                K::DiskFull,
                K::DiskSlow,
                K::SyncFails,
                K::WriteFails,
                K::BitRot,
                K::Misdirect,
            ]),
            "clock" => Self::Only(vec![K::ClockJump, K::ClockFreeze, K::ClockDrift, K::ClockSkew]),
            "identity" => Self::Only(vec![K::Restore, K::Clone, K::Equivocation, K::Liar]),
            "hostile" => Self::Only(vec![K::Equivocation, K::Liar, K::NeverReads, K::Flood, K::OtherVersion]),
            _ => return None,
        })
    }

    /// The faults of this seed, with the strength of each in percent of the usual.
    pub(crate) fn draw(&self, seed: u64) -> Vec<(FaultKind, u64)> {
        let mut prng = Prng::part(seed, FIRST_PART);
        match self {
            Self::Calm => Vec::new(),
            Self::Only(kinds) => kinds.iter().map(|kind| (*kind, 100)).collect(),
            Self::Swarm => {
                let share = match prng.below(10) {
                    0 => return Vec::new(),
                    1 => {
                        let at = prng.below(FaultKind::ALL.len() as u64);
                        return vec![(FaultKind::ALL[at as usize], 100)];
                    }
                    2 => 100,
                    _ => 10 + prng.below(50),
                };
                let mut kinds = Vec::new();
                for kind in FaultKind::ALL {
                    let (on, strength) = (prng.below(100) < share, 30 + prng.below(270));
                    if on {
                        kinds.push((kind, strength));
                    }
                }
                kinds
            }
        }
    }
}

/// Draws what happens to `nodes` nodes from `from` to `to`.
pub(crate) struct Planner {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) base: LinkProfile,
    /// Damaged frames may arrive: links do not authenticate by themselves.
    pub(crate) damage: bool,
    pub(crate) next_group: u32,
    pub(crate) plan: Vec<Planned>,
}

impl Planner {
    fn push(&mut self, group: u32, at: u64, action: Action) {
        self.plan.push(Planned { at, group, action });
    }

    fn group(&mut self) -> u32 {
        let group = self.next_group;
        self.next_group += 1;
        group
    }

    /// Plans faults of one kind.
    pub(crate) fn add(&mut self, kind: FaultKind, strength: u64) {
        // Another phase has other faults.
        let mut prng = Prng::part(self.seed ^ self.from.wrapping_mul(ODD), FIRST_PART + 1 + kind as u64);
        let span = self.to.saturating_sub(self.from);
        // Per minute and node, at usual strength: once for what passes by itself, less for what leaves scars.
        let per_minute = match kind {
            FaultKind::Weather => 200,
            FaultKind::Crash | FaultKind::CutLinks => 100,
            FaultKind::Restore => 60,
            FaultKind::BitRot | FaultKind::Misdirect | FaultKind::Clone => 20,
            FaultKind::SyncFails | FaultKind::WriteFails => 30,
            _ => 50,
        };
        // In hundredths of a fault, and these in parts of a minute: phases may be short.
        let one = u128::from(100 * MINUTE);
        let expected = u128::from(per_minute * strength / 100 * self.nodes as u64) * u128::from(span);
        let count =
            u64::try_from((expected + u128::from(prng.below(100 * MINUTE))) / one).unwrap_or(u64::MAX);
        for _ in 0..count.min(400) {
            let at = self.from + prng.below(span.max(1));
            self.one(kind, at, &mut prng);
        }
    }

    fn one(&mut self, kind: FaultKind, at: u64, prng: &mut Prng) {
        let node = prng.below(self.nodes as u64) as usize;
        let other =
            (node + 1 + prng.below((self.nodes as u64).saturating_sub(1)) as usize) % self.nodes.max(1);
        let lasts = SECOND / 10 + prng.below(20 * SECOND);
        let until = at + lasts;
        let some = |prng: &mut Prng| Duration::from_nanos(SECOND / 20 + prng.below(4 * SECOND));
        if node == other && matches!(kind, FaultKind::Weather | FaultKind::Partition | FaultKind::OneWay) {
            return;
        }
        let group = self.group();
        match kind {
            FaultKind::Weather => {
                let profile = self.weather(prng);
                let base = self.base;
                self.push(group, at, Action::Link { a: node, b: other, profile });
                self.push(group, until, Action::Link { a: node, b: other, profile: base });
            }
            FaultKind::Partition => {
                self.push(group, at, Action::Partition(node, other));
                self.push(group, until, Action::Heal(node, other));
            }
            FaultKind::Isolation => {
                for other in (0..self.nodes).filter(|other| *other != node) {
                    self.push(group, at, Action::Partition(node, other));
                    self.push(group, until, Action::Heal(node, other));
                }
            }
            FaultKind::OneWay => {
                self.push(group, at, Action::OneWay(node, other));
                self.push(group, until, Action::Heal(node, other));
            }
            FaultKind::FlipFlop if node != other => {
                let (open, closed) = (some(prng), some(prng));
                self.push(group, at, Action::FlipFlop { a: node, b: other, open, closed });
                self.push(group, until, Action::Heal(node, other));
            }
            FaultKind::CutLinks => self.push(group, at, Action::Cut(node, other)),
            FaultKind::Crash => {
                let silent = prng.below(2) == 0;
                self.push(group, at, Action::Crash { node, silent });
                self.push(group, at + prng.below(10 * SECOND), Action::Boot(node));
            }
            FaultKind::Pause => {
                let time = if prng.below(8) == 0 { 7 * 86_400 * SECOND } else { prng.below(30 * SECOND) };
                self.push(group, at, Action::Pause(node, Duration::from_nanos(time.min(60 * SECOND))));
            }
            FaultKind::Slow => {
                let step = Duration::from_nanos(10_000 + prng.below(5_000_000));
                self.push(group, at, Action::Slow(node, step));
                self.push(group, until, Action::Slow(node, Duration::ZERO));
            }
            FaultKind::ClockJump => {
                let span = [60, 7_200, TEN_YEARS][prng.below(3) as usize];
                let seconds = prng.below(2 * span as u64 + 1) as i64 - span;
                self.push(group, at, Action::ClockJump(node, seconds));
            }
            FaultKind::ClockFreeze => {
                self.push(group, at, Action::ClockFreeze(node, true));
                self.push(group, until, Action::ClockFreeze(node, false));
            }
            FaultKind::ClockDrift => {
                let ppm = prng.below(100_001) as i64 - 50_000;
                self.push(group, at, Action::ClockDrift(node, ppm));
                self.push(group, until, Action::ClockDrift(node, 0));
            }
            FaultKind::DiskFull => {
                self.push(group, at, Action::DiskFull(node, Some(prng.below(4_096))));
                self.push(group, until, Action::DiskFull(node, None));
            }
            FaultKind::DiskSlow => {
                let delay = if prng.below(8) == 0 { 60 * SECOND } else { prng.below(2 * SECOND) };
                self.push(group, at, Action::DiskSlow(node, Duration::from_nanos(delay)));
                self.push(group, until, Action::DiskSlow(node, Duration::ZERO));
            }
            FaultKind::SyncFails | FaultKind::WriteFails => {
                let fails = if kind == FaultKind::SyncFails {
                    Action::SyncFails(node)
                } else {
                    Action::WriteFails(node)
                };
                self.push(group, at, fails);
                self.push(group, until, Action::Crash { node, silent: false });
                self.push(group, until + prng.below(5 * SECOND), Action::Boot(node));
            }
            FaultKind::BitRot | FaultKind::Misdirect => {
                let damage =
                    if kind == FaultKind::BitRot { Action::BitRot(node) } else { Action::Misdirect(node) };
                self.push(group, at, damage);
                if prng.below(2) == 0 {
                    self.push(group, until, Action::Crash { node, silent: false });
                    self.push(group, until + prng.below(5 * SECOND), Action::Boot(node));
                }
            }
            FaultKind::Restore => {
                let noticed = prng.below(2) == 0;
                self.push(group, at, Action::Backup(node));
                self.push(group, until, Action::Restore { node, noticed });
                self.push(group, until + prng.below(5 * SECOND), Action::Boot(node));
            }
            FaultKind::Clone => {
                let noticed = prng.below(2) == 0;
                self.push(group, at, Action::Clone { node, noticed });
            }
            FaultKind::OldVersion => {
                let back = prng.below(4) == 0;
                let version = if back { MessageVersion::V1 } else { MessageVersion::NEWEST };
                self.push(group, at, Action::Install(node, version));
            }
            // Drawn when the world is made: wrong clocks from the start, and peers that mean harm.
            FaultKind::FlipFlop
            | FaultKind::ClockSkew
            | FaultKind::Equivocation
            | FaultKind::Liar
            | FaultKind::NeverReads
            | FaultKind::Flood
            | FaultKind::OtherVersion => {}
        }
    }

    fn weather(&self, prng: &mut Prng) -> LinkProfile {
        let mut chance = |on: u64, most: u32| {
            let drawn = Chance::per_million(prng.below(u64::from(most)) as u32);
            if prng.below(100) < on { drawn } else { Chance::NEVER }
        };
        let (loss, duplicate, reorder) = (chance(60, 600_000), chance(40, 300_000), chance(40, 300_000));
        let (corrupt, truncate) = (chance(60, 300_000), chance(60, 300_000));
        let none = Chance::NEVER;
        let (corrupt, truncate) = if self.damage { (corrupt, truncate) } else { (none, none) };
        let millis = [50, 2_000][prng.below(2) as usize];
        let most = Duration::from_nanos(prng.below(millis * SECOND / 1_000));
        let min = most / (1 + prng.below(20) as u32);
        let delay = if prng.below(2) == 0 {
            Delay::Uniform { min, max: most }
        } else {
            Delay::LongTail { min, max: most }
        };
        let bandwidth = (prng.below(4) == 0).then(|| 2_000 + prng.below(100_000));
        let reorder_by = Duration::from_nanos(prng.below(SECOND / 4));
        LinkProfile { loss, duplicate, corrupt, truncate, reorder, reorder_by, delay, bandwidth, ..self.base }
    }
}
