//! How fresh entries reach large groups: along a tree, fast, and around what breaks.

#![allow(clippy::unwrap_used, reason = "a run either goes as planned or the test has nothing to say")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anabranch::infrastructure::link_profile::{Chance, Delay, LinkProfile};
use anabranch::{Arrival, ChannelSpec, Config, Coordinator, Cursor, EventStream, TimerPort as _};
use anabranch_sim::{Action, BootError, FaultProfile, NodeCx, World};

/// Peers that each node dials: about twice as many sessions come of it.
const DIALS: usize = 4;

struct App {
    node: Coordinator,
    stream: EventStream,
    /// When each payload arrived.
    arrived: Rc<RefCell<BTreeMap<Vec<u8>, Duration>>>,
}

impl App {
    async fn open(cx: NodeCx, nodes: usize) -> Result<Self, BootError> {
        let mut config = Config::default();
        // What the tree does not bring comes late, and would show.
        (config.gossip_interval, config.gossip_interval_max) =
            (Duration::from_secs(5), Duration::from_secs(5));
        let builder = Coordinator::builder(cx.store()).port(cx.port()).timer(cx.timer());
        let (node, driver) = builder.seed(cx.seed()).config(config).build().await?;
        cx.spawn(driver);
        cx.watch(&node);
        let channel = node.channel(ChannelSpec::secret("group", b"simulated")?).await?;
        channel.open_to_all().await?;
        let stream = channel.stream("talk").await?;
        // A ring, so that all are connected, and chords at distances that differ from node to node.
        let at = cx.index();
        for dial in 0..DIALS {
            let distance = if dial == 0 { 1 } else { (7 * at + 13 * dial * dial) % (nodes - 3) + 2 };
            let other = (at + distance) % nodes;
            let (node, peer) = (node.clone(), cx.peers()[other - usize::from(other > at)].clone());
            let timer = cx.timer();
            cx.spawn(async move {
                while node.meet(peer.clone()).await.is_err() {
                    timer.sleep(Duration::from_millis(500)).await;
                }
            });
        }
        let arrived: Rc<RefCell<BTreeMap<Vec<u8>, Duration>>> = Rc::default();
        let (mut feed, log, timer) = (stream.subscribe(Cursor::START), Rc::clone(&arrived), cx.timer());
        cx.spawn(async move {
            while let Some(Ok(arrival)) = feed.next().await {
                if let Arrival::Entry { entry, .. } = arrival {
                    let now = timer.now().since(anabranch::Instant::ZERO);
                    log.borrow_mut().insert(entry.payload().to_vec(), now);
                }
            }
        });
        Ok(Self { node, stream, arrived })
    }
}

fn links(loss: f64) -> LinkProfile {
    let delay = Delay::Uniform { min: Duration::from_millis(10), max: Duration::from_millis(50) };
    LinkProfile { loss: Chance::new(loss), delay, ..LinkProfile::perfect() }
}

fn world(seed: u64, nodes: usize, links: LinkProfile) -> World<App> {
    let mut world = World::<App>::new(seed);
    world.faults(FaultProfile::Calm).network(links).invariants(Vec::new());
    for at in 0..nodes {
        world.node(&format!("n{at}"), move |cx| App::open(cx, nodes));
    }
    world
}

/// One node writes; how long until all have it, and how often it was sent on average to each.
fn write(world: &mut World<App>, author: usize, text: &str, limit: Duration) -> (Duration, f64) {
    let apps: Vec<Rc<App>> = world.nodes().into_iter().filter_map(|node| world.app(node)).collect();
    let runs = |apps: &[Rc<App>]| -> u64 {
        let runs = |app: &Rc<App>| app.node.metrics().runs_duplicate + app.node.metrics().entries_merged;
        apps.iter().map(runs).sum()
    };
    let (before, start) = (runs(&apps), world.now());
    let (stream, payload) = (apps[author].stream.clone(), text.as_bytes().to_vec());
    world.run(Duration::from_secs(1), async move { stream.append(payload).await }).unwrap().unwrap();
    let has = |app: &Rc<App>| app.arrived.borrow().contains_key(text.as_bytes());
    let all = apps.clone();
    world.run_until(limit, move |_| all.iter().all(has)).unwrap();
    let taken = world.now() - start;
    // What is still under way counts, too.
    world.run_for(Duration::from_secs(1)).unwrap();
    (taken, (runs(&apps) - before) as f64 / (apps.len() - 1) as f64)
}

#[test]
fn in_a_large_group_entries_come_along_a_tree_within_the_time_of_a_few_links() {
    const NODES: usize = 40;
    let mut world = world(1, NODES, links(0.0));
    world.run_for(Duration::from_secs(10)).unwrap();
    for author in [0, 11, 23, 31] {
        write(&mut world, author, &format!("first of {author}"), Duration::from_secs(10));
    }
    let (mut slowest, mut sent) = (Duration::ZERO, 0.0);
    for round in 0..8 {
        let (taken, times) =
            write(&mut world, 7 * round % NODES, &format!("{round}"), Duration::from_secs(10));
        slowest = slowest.max(taken);
        sent += times / 8.0;
    }
    println!("{NODES} nodes: {slowest:?} at most, {sent:.3} transmissions a node");
    assert!(slowest < Duration::from_millis(400), "{slowest:?}");
    // The author's own pushes to its few peers come on top of the tree: 8 of 39.
    assert!(sent <= 1.25, "{sent}");
}

#[test]
fn i7_a_tree_that_lost_nodes_and_frames_still_brings_everything() {
    const NODES: usize = 16;
    let mut world = world(2, NODES, links(0.1));
    world.run_for(Duration::from_secs(10)).unwrap();
    for author in [0, 5, 9] {
        write(&mut world, author, &format!("first of {author}"), Duration::from_secs(10));
    }
    for gone in [3, 7, 12] {
        world.fault(&Action::Crash { node: gone, silent: true });
        let (taken, _) = write(&mut world, 0, &format!("without {gone}"), Duration::from_secs(30));
        println!("without {gone}: {taken:?}");
        // Notes mend the tree long before the next comparison, and before anybody notices that a node is gone.
        assert!(taken < Duration::from_secs(4), "{taken:?}");
    }
}

/// Parts the first half from the second, or joins them again.
fn divide(world: &mut World<App>, nodes: usize, action: impl Fn(usize, usize) -> Action) {
    for (a, b) in (0..nodes / 2).flat_map(|a| (nodes / 2..nodes).map(move |b| (a, b))) {
        world.fault(&action(a, b));
    }
}

#[test]
fn i7_after_a_split_with_losses_a_group_learns_what_it_missed_once_and_has_one_tree_again() {
    const NODES: usize = 40;
    let mut world = world(3, NODES, links(0.1));
    world.run_for(Duration::from_secs(10)).unwrap();
    for author in [0, 11, 23, 31] {
        write(&mut world, author, &format!("first of {author}"), Duration::from_secs(10));
    }
    let apps: Vec<Rc<App>> = world.nodes().into_iter().filter_map(|node| world.app(node)).collect();
    let sent = |apps: &[Rc<App>]| apps.iter().map(|app| app.node.metrics().run_bytes_sent).sum::<u64>();
    let before = sent(&apps);
    write(&mut world, 17, "a measure", Duration::from_secs(10));
    let least = (sent(&apps) - before).min(39 * 40);
    divide(&mut world, NODES, Action::Partition);
    world.run_for(Duration::from_secs(40)).unwrap();
    let stream = apps[5].stream.clone();
    world
        .run(Duration::from_secs(1), async move { stream.append(b"in parts".to_vec()).await })
        .unwrap()
        .unwrap();
    world.run_for(Duration::from_secs(20)).unwrap();
    let before = sent(&apps);
    divide(&mut world, NODES, Action::Heal);
    let all = apps.clone();
    let has = |app: &Rc<App>| app.arrived.borrow().contains_key(&b"in parts"[..]);
    world.run_until(Duration::from_secs(30), move |_| all.iter().all(has)).unwrap();
    let healing = (sent(&apps) - before) as f64 / least as f64;
    let mut copies = Vec::new();
    for round in 0..6 {
        copies.push(write(&mut world, 7 * round + 1, &format!("{round}"), Duration::from_secs(10)).1);
    }
    let mean = copies.iter().sum::<f64>() / copies.len() as f64;
    println!("healing {healing:.2} of an entry for all, then {mean:.2} transmissions a node: {copies:.2?}");
    assert!(healing < 0.6, "{healing}");
    // The author's own pushes to its few peers come on top of the tree: 8 of 39.
    assert!(mean < 1.4, "{mean}");
}
