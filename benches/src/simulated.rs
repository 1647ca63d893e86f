//! Whole nodes in virtual time, on the simulator's network: for figures that are times on links which this machine does
//! not have. The nodes are the real ones; their signatures are real too, where the payload's share of a link is asked.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anabranch::infrastructure::link_profile::LinkProfile;
use anabranch::{Arrival, Coordinator, Cursor, EventStream, PeerAddr};
use anabranch_sim::{FaultProfile, NodeCx, World};

use crate::nodes::{CHANNEL, Outcome, PAYLOAD};

/// Virtual time in which groups find each other and come to rest.
const SETTLE: Duration = Duration::from_secs(20);

/// A node of a simulated world.
pub(crate) struct Member {
    pub(crate) node: Coordinator,
    pub(crate) stream: EventStream,
    pub(crate) other: EventStream,
    pub(crate) cx: NodeCx,
}

type Booted = Result<Member, Box<dyn std::error::Error>>;

impl Member {
    async fn open(cx: NodeCx, dial: Vec<PeerAddr>, after: Duration) -> Booted {
        let builder = Coordinator::builder(cx.store()).port(cx.port()).timer(cx.timer()).seed(cx.seed());
        let (node, driver) = builder.build().await?;
        cx.spawn(driver);
        let channel = node.channel(CHANNEL).await?;
        channel.open_to_all().await?;
        let (stream, other) = (channel.stream("s").await?, channel.stream("other").await?);
        for peer in dial {
            let (node, timer) = (node.clone(), cx.timer());
            cx.spawn(async move {
                timer.sleep(after).await;
                while node.meet(peer.clone()).await.is_err() {
                    timer.sleep(Duration::from_secs(1)).await;
                }
            });
        }
        Ok(Self { node, stream, other, cx })
    }

    /// Appends what identifies the moment.
    pub(crate) async fn note(self: Rc<Self>, at: u64) -> bool {
        let mut payload = vec![0; PAYLOAD];
        payload[..8].copy_from_slice(&at.to_le_bytes());
        self.stream.append(payload).await.is_ok()
    }
}

/// A world without faults other than those of its links.
pub(crate) fn world(seed: u64, profile: LinkProfile, proven: bool, real: bool) -> World<Member> {
    let mut world = World::new(seed);
    world.faults(FaultProfile::Calm).network(profile);
    world.proven_links(proven).real_signatures(real).invariants(Vec::new());
    world
}

/// Adds a node that dials these others, after some time.
pub(crate) fn add(world: &mut World<Member>, name: &str, dial: Vec<PeerAddr>, after: Duration) -> usize {
    world.node(name, move |cx| Member::open(cx, dial.clone(), after))
}

/// Runs until the world is at rest.
pub(crate) fn settle(world: &mut World<Member>) -> Outcome<()> {
    Ok(world.run_for(SETTLE)?)
}

/// The nodes that are up.
pub(crate) fn members(world: &World<Member>) -> Vec<Rc<Member>> {
    world.nodes().into_iter().filter_map(|at| world.app(at)).collect()
}

/// Bytes of frames that all nodes sent so far.
pub(crate) fn bytes_sent(members: &[Rc<Member>]) -> u64 {
    members.iter().map(|member| member.node.metrics().bytes_sent).sum()
}

/// What became of appends at a steady pace.
pub(crate) struct Live {
    /// From append to event, in microseconds of virtual time.
    pub(crate) latencies: Vec<f64>,
    pub(crate) bytes: u64,
}

/// Appends on one node, events on another; `bulk` entries of another stream are on their way all the while.
pub(crate) fn live(profile: LinkProfile, entries: usize, period: Duration, bulk: usize) -> Outcome<Live> {
    let mut world = world(1, profile, true, false);
    let writer = add(&mut world, "writer", Vec::new(), Duration::ZERO);
    let reader = add(&mut world, "reader", vec!["writer".into()], Duration::ZERO);
    settle(&mut world)?;
    let (Some(writer), Some(reader)) = (world.app(writer), world.app(reader)) else {
        return Err("a simulated node did not start".into());
    };
    let nodes = [Rc::clone(&writer), Rc::clone(&reader)];
    let sent = bytes_sent(&nodes);
    let latencies: Rc<RefCell<Vec<f64>>> = Rc::default();
    let (taken, timer) = (Rc::clone(&latencies), reader.cx.timer());
    let mut feed = reader.stream.subscribe(Cursor::START);
    reader.cx.spawn(async move {
        use anabranch::TimerPort as _;
        while let Some(Ok(arrival)) = feed.next().await {
            let Arrival::Entry { entry, .. } = arrival else { continue };
            let Ok(at) = <[u8; 8]>::try_from(&entry.payload()[..8]) else { continue };
            let passed = timer.now().as_nanos().saturating_sub(u64::from_le_bytes(at));
            taken.borrow_mut().push(passed as f64 / 1e3);
        }
    });
    let (node, timer) = (Rc::clone(&writer), writer.cx.timer());
    writer.cx.spawn(async move {
        use anabranch::TimerPort as _;
        if bulk > 0 {
            let batch = (0..bulk).map(|n| vec![n as u8; PAYLOAD]);
            if node.other.append_batch(batch).await.is_err() {
                return;
            }
        }
        for _ in 0..entries {
            if !Rc::clone(&node).note(timer.now().as_nanos()).await {
                return;
            }
            timer.sleep(period).await;
        }
    });
    let limit = Duration::from_secs(3600) + period * entries as u32;
    world.run_until(limit, |_| latencies.borrow().len() >= entries)?;
    let bytes = bytes_sent(&nodes) - sent;
    let latencies = latencies.borrow().clone();
    Ok(Live { latencies, bytes })
}
