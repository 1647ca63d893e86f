//! Merging the lines of a forked log, in whatever pieces and order they come.

use std::collections::{BTreeSet, VecDeque};

use futures::executor::block_on;
use proptest::prelude::*;

use super::*;
use crate::application::reader::{OrderedReader, Snapshot};
use crate::domain::entry::LogEntry;
use crate::domain::run::UnverifiedRun;
use crate::domain::version::VersionVector;
use crate::infrastructure::memory_store::MemoryStore;
use crate::infrastructure::packed::{MapBacking, PackedStore};
use crate::infrastructure::threaded_store::ThreadedStore;
use crate::testing::ManualTimer;

/// A log with forks: the trunk, and lines that part from one of those before them.
#[derive(Debug, Clone)]
struct Tree {
    trunk: usize,
    /// Which line each parts from, after which of its entries, and how long it goes on.
    forks: Vec<(prop::sample::Index, prop::sample::Index, usize)>,
}

/// How one device gets the log: the seed of the order, and how long the runs are.
#[derive(Debug, Clone)]
struct Delivery {
    seed: u64,
    longest: u64,
}

fn some_tree() -> impl Strategy<Value = Tree> {
    // Up to more than one block, which is what has to be signed on the way.
    let trunk = prop_oneof![4 => 1..40usize, 1 => 250..300usize];
    let fork = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..30usize);
    (trunk, prop::collection::vec(fork, 0..3)).prop_map(|(trunk, forks)| Tree { trunk, forks })
}

fn some_delivery() -> impl Strategy<Value = Delivery> {
    (any::<u64>(), 1..60u64).prop_map(|(seed, longest)| Delivery { seed, longest })
}

fn author() -> Identity {
    Identity::from_secret([7; 32])
}

fn name() -> LogName {
    let channel = ChannelId::well_known("forked").unwrap();
    LogName::new(channel, StreamId::new("log").unwrap(), author().node())
}

impl Tree {
    /// Every line from the first entry of the log to its tip.
    fn paths(&self) -> Vec<Run> {
        let mut lines = vec![vec![0; self.trunk]];
        for (number, (parent, at, len)) in self.forks.iter().enumerate() {
            let parent = &lines[parent.index(lines.len())];
            let mut line = parent[..at.index(parent.len())].to_vec();
            line.extend(vec![number as u64 + 1; *len]);
            lines.push(line);
        }
        let path = |line: &Vec<u64>| {
            let mut builder = RunBuilder::new(name().key, Tip::START, 0, 0);
            for (at, of) in line.iter().enumerate() {
                builder.push(Timestamp::new(0, 10 * at as u64 + of + 1), format!("{of}:{at}").as_bytes());
            }
            builder.finish().unwrap()
        };
        lines.iter().map(path).collect()
    }
}

/// The part `first..=last` of a line as its author proves it: signed at the end and at every block end.
fn proven(path: &Run, first: u64, last: u64) -> VerifiedRun {
    let (name, author) = (name(), author());
    let mut ends = BTreeSet::from([last]);
    path.walk_blocks(BlockPhase::START, |end| {
        ends.insert(end);
    });
    let part = path.slice(first, last).unwrap();
    let head = |end: u64| {
        let tip = Tip { sequence: end, hash: part.hash_at(end).unwrap() };
        (end, Head::sign(&name.key, tip, &author).signature)
    };
    let run = UnverifiedRun {
        first,
        previous: part.previous(),
        body: part.body().clone(),
        heads: ends.range(first..=last).map(|end| head(*end)).collect(),
    };
    run.verify(&name.key, &author.node(), &*author.scheme(), 1 << 20).unwrap()
}

impl Delivery {
    /// All lines cut into runs, some of them twice, in an order of its own.
    fn runs(&self, paths: &[Run]) -> VecDeque<VerifiedRun> {
        let mut state = self.seed;
        // SplitMix64.
        let mut random = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        let mut runs = Vec::new();
        for path in paths {
            let mut first = 1;
            while first <= path.last() {
                let last = path.last().min(first + random() % self.longest);
                runs.push(proven(path, first, last));
                // Some runs repeat the end of the one before.
                let back = if random() % 3 == 0 { random() % 4 } else { 0 };
                first = if last == path.last() {
                    last + 1
                } else {
                    (last + 1).saturating_sub(back).max(first + 1)
                };
            }
        }
        let repeats: Vec<VerifiedRun> = runs.iter().filter(|_| random() % 3 == 0).cloned().collect();
        runs.extend(repeats);
        for at in (1..runs.len()).rev() {
            runs.swap(at, (random() % (at as u64 + 1)) as usize);
        }
        runs.into()
    }
}

async fn replica_on(store: Arc<dyn Store>) -> Arc<Replica> {
    let timer = Arc::new(ManualTimer::new());
    Replica::load(store, timer, Config::default(), true).await.unwrap().0
}

/// Merges all runs, those that come too early again later, as they are asked for again.
async fn merge_all(replica: &Replica, mut runs: VecDeque<VerifiedRun>) {
    let name = name();
    let channel = replica.open_channel(name.channel, "").await.unwrap();
    let (mut too_early, origin) = (0, Origin::Session(1));
    while let Some(run) = runs.pop_front() {
        let (_, log, _) = replica.open_log(&channel, &name.stream, &name.author).unwrap();
        let merged = match replica.merge(&channel, &log, run.clone(), origin) {
            Merge::Within => {
                replica.merge_within(Arc::clone(&channel), Arc::clone(&log), run.clone(), origin).await
            }
            merged => merged,
        };
        too_early = if matches!(merged, Merge::Gap) { too_early + 1 } else { 0 };
        match merged {
            Merge::Queued(receipt) => {
                receipt.durable().await.unwrap();
                replica.settle(&log);
            }
            Merge::Duplicate => {}
            Merge::Gap => runs.push_back(run),
            other => panic!("{other:?}"),
        }
        assert!(too_early <= runs.len(), "no run that is left fits");
    }
}

/// Version, entries in order, and lines by their tips.
async fn held(replica: &Replica) -> (VersionVector, Vec<LogEntry>, BTreeSet<Tip>) {
    let name = name();
    let stream = replica.channel(&name.channel).unwrap().stream(&name.stream).unwrap();
    let snapshot = Snapshot::of(&stream);
    let mut reader = OrderedReader::new(Arc::clone(&replica.store), snapshot.spans(), false);
    let mut entries = Vec::new();
    while let Some((entry, _)) = reader.next().await.unwrap() {
        entries.push(entry);
    }
    let lines: Vec<Tip> = snapshot.logs.iter().flat_map(|(_, lines)| lines).map(|line| line.tip).collect();
    let tips = BTreeSet::from_iter(lines.iter().copied());
    assert_eq!(tips.len(), lines.len(), "a line is kept twice");
    (snapshot.version(), entries, tips)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn i2_i3_a_forked_log_that_comes_in_any_pieces_and_order_ends_as_the_same_lines(
        tree in some_tree(),
        deliveries in (some_delivery(), some_delivery()),
    ) {
        let paths = tree.paths();
        // What everybody has to end with, worked out without merging anything.
        let entries: BTreeSet<LogEntry> =
            paths.iter().flat_map(|path| path.entries(author().node())).collect();
        let entries = Vec::from_iter(entries);
        let tips: BTreeSet<Tip> = paths.iter().map(Run::tip).collect();
        let mut version = VersionVector::START;
        version.set(author().node(), tips.iter().copied());
        let expected = (version, entries, tips);

        block_on(async {
            let memory = MemoryStore::ephemeral().unwrap();
            let disk = MapBacking::new(4096);
            let packed = ThreadedStore::open("forked", {
                let disk = disk.clone();
                move || PackedStore::open(disk, [1; 32], &Bytes::from_static(b"here"))
            });
            let ana = replica_on(Arc::new(memory.clone())).await;
            let ben = replica_on(Arc::new(packed.await.unwrap())).await;
            merge_all(&ana, deliveries.0.runs(&paths)).await;
            merge_all(&ben, deliveries.1.runs(&paths)).await;
            prop_assert_eq!(&held(&ana).await, &expected);
            prop_assert_eq!(&held(&ben).await, &expected);
            // Whatever is delivered once more changes nothing.
            merge_all(&ana, deliveries.1.runs(&paths)).await;
            prop_assert_eq!(&held(&ana).await, &expected);
            // The same comes back from the stores, one closed and one cut off.
            memory.close().await.unwrap();
            let ana = replica_on(Arc::new(memory.reopen().unwrap())).await;
            prop_assert_eq!(&held(&ana).await, &expected);
            let crashed = disk.crashed();
            let opened = ThreadedStore::open("forked", move || {
                PackedStore::open(crashed, [1; 32], &Bytes::from_static(b"here"))
            });
            let ben = replica_on(Arc::new(opened.await.unwrap())).await;
            prop_assert_eq!(&held(&ben).await, &expected);
            Ok(())
        })?;
    }
}

#[test]
fn a_stream_for_which_no_log_number_is_left_is_refused_for_that_and_not_for_its_channel() {
    block_on(async {
        let replica = replica_on(Arc::new(MemoryStore::ephemeral().unwrap())).await;
        let channel = replica.open_channel(name().channel, "").await.unwrap();
        replica.registry.write().unwrap().next_log = u32::MAX;
        let refused = replica.open_stream(&channel, &name().stream).await.unwrap().map(drop);
        assert!(matches!(refused, Err(NoLog::TooMany)), "{refused:?}");
    });
}
