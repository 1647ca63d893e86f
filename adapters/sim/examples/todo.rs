//! A shared to-do list, with a bug that no test on one device finds: it believes that entries arrive in order.
//!
//! `cargo run --release -p anabranch-sim --example todo` lets the simulator find it and make it small, and then runs
//! the list without the bug under the same faults. The guide `docs/simulation.md` walks through it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anabranch::{Arrival, ChannelSpec, Coordinator, Cursor, EventStream, LogEntry, PeerAddr, Query};
use anabranch_sim::{BootError, Cut, Failure, FaultProfile, NodeCx, Seed, Shrunk, World, attempt, shrink};

/// What people put on the list.
const THINGS: [&str; 4] = ["milk", "bread", "tea", "string"];
/// Seeds to look through.
const SEEDS: u64 = 100;
/// Real time for making the failing run small. A second is enough, but for a debug build on a busy machine.
const SHRINK_TIME: Duration = Duration::from_secs(120);

/// How the list is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// The bug: each entry is applied when it comes, late or not.
    AsTheyCome,
    /// A late entry makes the list anew, from all entries in their order.
    InOrder,
}

/// The application on one device.
struct Todo {
    _node: Coordinator,
    entries: EventStream,
    /// Each thing, and whether it is done.
    list: Rc<RefCell<BTreeMap<String, bool>>>,
    handled: Rc<Cell<u64>>,
    cx: NodeCx,
}

/// `+milk` puts something on the list, `-milk` ticks it off.
fn apply(list: &mut BTreeMap<String, bool>, entry: &LogEntry) {
    let text = String::from_utf8_lossy(entry.payload());
    if let Some(thing) = text.strip_prefix('+') {
        list.insert(thing.to_owned(), false);
    } else if let Some(thing) = text.strip_prefix('-') {
        list.insert(thing.to_owned(), true);
    }
}

impl Todo {
    async fn open(cx: NodeCx, kept: Kept) -> Result<Self, BootError> {
        let builder = Coordinator::builder(cx.store()).port(cx.port()).timer(cx.timer());
        let (node, driver) = builder.seed(cx.seed()).build().await?;
        cx.spawn(driver);
        cx.watch(&node);
        let channel = node.channel(ChannelSpec::secret("household", b"of ours")?).await?;
        channel.open_to_all().await?;
        let entries = channel.stream("todo").await?;
        for peer in cx.peers() {
            cx.spawn(meet(cx.clone(), node.clone(), peer.clone()));
        }
        let (list, handled) = (Rc::default(), Rc::default());
        cx.spawn(keep(kept, entries.clone(), Rc::clone(&list), Rc::clone(&handled)));
        Ok(Self { _node: node, entries, list, handled, cx })
    }

    /// The list, once everything that is held is in it.
    async fn list(&self) -> BTreeMap<String, bool> {
        while self.handled.get() < self.entries.len() {
            self.cx.timer().sleep(Duration::from_millis(50)).await;
        }
        self.list.borrow().clone()
    }
}

async fn meet(cx: NodeCx, node: Coordinator, peer: PeerAddr) {
    while node.meet(peer.clone()).await.is_err() {
        cx.timer().sleep(Duration::from_millis(500)).await;
    }
}

async fn keep(
    kept: Kept,
    entries: EventStream,
    list: Rc<RefCell<BTreeMap<String, bool>>>,
    handled: Rc<Cell<u64>>,
) {
    let mut feed = entries.subscribe(Cursor::START);
    while let Some(Ok(arrival)) = feed.next().await {
        let Arrival::Entry { entry, late } = arrival else { continue };
        if late && kept == Kept::InOrder {
            let Ok(all) = entries.entries(Query::all()).collect().await else { return };
            let mut anew = BTreeMap::new();
            all.iter().for_each(|entry| apply(&mut anew, entry));
            *list.borrow_mut() = anew;
        } else {
            apply(&mut list.borrow_mut(), &entry);
        }
        handled.set(handled.get() + 1);
    }
}

/// One run: three devices, people who put things on the list and tick them off, whatever may go wrong.
fn household(seed: Seed, kept: Kept, faults: &FaultProfile) -> Result<(), Failure> {
    let mut world = World::<Todo>::new(seed);
    world.faults(faults.clone());
    for name in ["kitchen", "phone", "office"] {
        world.node(name, move |cx| Todo::open(cx, kept));
    }
    world.every(Duration::from_millis(700), |mut tick, todo| async move {
        let thing = THINGS[tick.random.below(THINGS.len() as u64) as usize];
        let act = if tick.random.below(2) == 0 { '+' } else { '-' };
        todo.entries.append(format!("{act}{thing}")).await
    });
    world.run_for(Duration::from_secs(10))?;
    world.heal_and_converge(Duration::from_secs(300))?;
    world.all_equal(|todo| async move { todo.list().await })
}

/// The first seed that fails, made small.
fn find(kept: Kept, faults: &FaultProfile, seeds: u64) -> Option<Shrunk> {
    let run = |seed: Seed| household(seed, kept, faults);
    let failure = (0..seeds).find_map(|seed| attempt(Seed::new(seed), &run).0.err())?;
    println!("{failure}");
    Some(shrink(&failure, &Cut::default(), &run, SHRINK_TIME))
}

fn main() {
    println!("the list as entries come:");
    match find(Kept::AsTheyCome, &FaultProfile::Swarm, SEEDS) {
        Some(shrunk) => println!(
            "made smaller in {} runs to {} devices, {} faults, {} acts:\n{}\n",
            shrunk.runs, shrunk.nodes, shrunk.faults, shrunk.work, shrunk.failure
        ),
        None => println!("{SEEDS} seeds found nothing\n"),
    }
    println!("the list in order:");
    match find(Kept::InOrder, &FaultProfile::Swarm, SEEDS) {
        Some(shrunk) => println!("{}", shrunk.failure),
        None => println!("{SEEDS} seeds found nothing"),
    }
}

#[cfg(test)]
mod tests {
    use anabranch_sim::FaultKind;

    use super::*;

    /// Devices that are out of reach for a while: enough for this bug.
    fn offline() -> FaultProfile {
        FaultProfile::Only(vec![FaultKind::Partition, FaultKind::Crash])
    }

    #[test]
    fn the_bug_is_found_and_made_small() {
        let Some(shrunk) = find(Kept::AsTheyCome, &offline(), 20) else { panic!("the bug was not found") };
        assert_eq!(shrunk.failure.violation.rule, "all_equal");
        assert!(shrunk.nodes <= 3 && shrunk.faults + shrunk.work <= 20, "{:?}", shrunk.cut);
    }

    #[test]
    fn the_list_in_order_is_the_same_everywhere() {
        assert!(find(Kept::InOrder, &offline(), 10).is_none());
    }
}
