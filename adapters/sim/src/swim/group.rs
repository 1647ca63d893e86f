//! A group of nodes, the network between them, and what they think of each other.
//!
//! Knows the truth (who runs, who is cut off), and so which verdicts are false. Engines see frames and the time only.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use anabranch::infrastructure::prng::Prng;
use bytes::Bytes;

const SECOND: u64 = 1_000_000_000;

/// What a node thinks of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum View {
    /// Never heard of.
    Unknown,
    /// Alive or suspect.
    Up,
    /// Unreachable.
    Down,
    /// Said goodbye.
    Left,
}

/// What an engine wants done.
#[derive(Debug, Default)]
pub struct Out {
    /// Frames and to whom.
    pub sends: Vec<(usize, Bytes)>,
    /// Of whom it thinks something else now.
    pub changes: Vec<(usize, View)>,
}

/// A liveness engine, as the group drives it.
pub trait Engine {
    /// Node number `node` of `nodes`, in its life number `life`.
    fn new(node: usize, nodes: usize, life: u64, seed: u64, now: u64) -> Self;
    /// A frame came.
    fn frame(&mut self, from: usize, frame: Bytes, now: u64, out: &mut Out);
    /// The deadline passed.
    fn timeout(&mut self, now: u64, out: &mut Out);
    /// When to call [`timeout`](Self::timeout).
    fn deadline(&self) -> Option<u64>;
    /// Join through these nodes.
    fn join(&mut self, seeds: &[usize], now: u64, out: &mut Out);
    /// Say goodbye.
    fn leave(&mut self, now: u64, out: &mut Out);
}

/// What the links do: loss by chance, delay, and cuts.
pub struct Network {
    /// Frames lost, in a million.
    pub loss: u32,
    /// Shortest and longest delay in nanoseconds.
    pub delay: (u64, u64),
    /// Frames that do not pass, by sender, receiver and time.
    pub cut: Box<dyn Fn(usize, usize, u64) -> bool>,
}

impl Network {
    /// Links of 1 to 10 ms that lose this share of all frames.
    pub fn new(loss: f64) -> Self {
        let loss = (loss.clamp(0.0, 1.0) * 1e6) as u32;
        Self { loss, delay: (SECOND / 1000, SECOND / 100), cut: Box::new(|_, _, _| false) }
    }
}

enum Happening {
    Frame { from: usize, to: usize, life: u64, frame: Bytes },
    Deadline { node: usize, life: u64 },
    Resume { node: usize, life: u64 },
}

struct Due {
    at: u64,
    number: u64,
    what: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    /// The earliest is the greatest, for the heap.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

struct Node<E> {
    engine: Option<E>,
    life: u64,
    /// What is in the heap for it.
    armed: Option<u64>,
    /// Until when it does not run, and what came meanwhile.
    paused: Option<u64>,
    held: Vec<(usize, Bytes)>,
    views: Vec<View>,
}

/// A group in virtual time.
pub struct Group<E> {
    nodes: Vec<Node<E>>,
    heap: BinaryHeap<Due>,
    number: u64,
    now: u64,
    prng: Prng,
    seed: u64,
    /// The network.
    pub network: Network,
    /// Frames sent.
    pub frames: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Verdicts against nodes that ran and were not cut off: who, of whom, when.
    pub false_verdicts: Vec<(usize, usize, u64)>,
    /// Changes between up and down, by whom, of whom, when, and whether to down.
    pub flips: Vec<(usize, usize, u64, bool)>,
    /// Nodes whose unreachability is no lie: crashed, paused or cut off.
    pub excused: Vec<bool>,
    out: Out,
}

impl<E: Engine> Group<E> {
    /// `nodes` running nodes that know nobody.
    pub fn new(nodes: usize, seed: u64, network: Network) -> Self {
        let mut group = Self {
            nodes: Vec::new(),
            heap: BinaryHeap::new(),
            number: 0,
            now: SECOND,
            prng: Prng::part(seed, 1),
            seed,
            network,
            frames: 0,
            bytes: 0,
            false_verdicts: Vec::new(),
            flips: Vec::new(),
            excused: vec![false; nodes],
            out: Out::default(),
        };
        for node in 0..nodes {
            group.nodes.push(Node {
                engine: None,
                life: 0,
                armed: None,
                paused: None,
                held: Vec::new(),
                views: vec![View::Unknown; nodes],
            });
            group.start(node);
        }
        group
    }

    /// Nanoseconds since the start of the clock.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Number of nodes, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Starts a node anew, with nothing but its identity and the number of its lives.
    pub fn start(&mut self, node: usize) {
        let (now, count, seed) = (self.now, self.nodes.len().max(self.excused.len()), self.seed);
        let place = &mut self.nodes[node];
        place.life += 1;
        let seed = Prng::part(seed, (node as u64) << 20 | place.life).next_u64();
        place.engine = Some(E::new(node, count, place.life, seed, now));
        place.views = vec![View::Unknown; count];
        (place.armed, place.paused, self.excused[node]) = (None, None, false);
        place.held.clear();
        self.arm(node);
    }

    /// Ends a node without a word.
    pub fn crash(&mut self, node: usize) {
        self.nodes[node].engine = None;
        self.excused[node] = true;
    }

    /// A node does not run for a while.
    pub fn pause(&mut self, node: usize, time: Duration) {
        let until = self.now + time.as_nanos() as u64;
        self.nodes[node].paused = Some(until);
        self.excused[node] = true;
        let life = self.nodes[node].life;
        self.push(until, Happening::Resume { node, life });
    }

    /// A node says goodbye and ends.
    pub fn leave(&mut self, node: usize) {
        self.with(node, |engine, now, out| engine.leave(now, out));
        self.crash(node);
    }

    /// A node joins through others.
    pub fn join(&mut self, node: usize, seeds: &[usize]) {
        self.with(node, |engine, now, out| engine.join(seeds, now, out));
    }

    /// The engine of a node that runs.
    pub fn engine(&self, node: usize) -> Option<&E> {
        self.nodes[node].engine.as_ref()
    }

    /// Has the engine of a node do something.
    pub fn with(&mut self, node: usize, act: impl FnOnce(&mut E, u64, &mut Out)) {
        let now = self.now;
        let mut out = std::mem::take(&mut self.out);
        if let Some(engine) = &mut self.nodes[node].engine {
            act(engine, now, &mut out);
        }
        self.carry_out(node, &mut out);
        self.out = out;
        self.arm(node);
    }

    /// Delivers a frame of an outsider.
    pub fn inject(&mut self, from: usize, to: usize, frame: Bytes) {
        self.with(to, |engine, now, out| engine.frame(from, frame, now, out));
    }

    /// What a node thinks of another.
    pub fn view(&self, node: usize, of: usize) -> View {
        self.nodes[node].views[of]
    }

    /// Pairs of running nodes of which the first does not hold the second up.
    pub fn estranged(&self) -> usize {
        let runs: Vec<usize> =
            (0..self.nodes.len()).filter(|node| self.nodes[*node].engine.is_some()).collect();
        let pairs = runs.iter().flat_map(|a| runs.iter().map(move |b| (*a, *b)));
        pairs.filter(|(a, b)| a != b && self.view(*a, *b) != View::Up).count()
    }

    /// Running nodes that hold `node` up.
    pub fn believers(&self, node: usize) -> usize {
        let others =
            self.nodes.iter().enumerate().filter(|(at, other)| *at != node && other.engine.is_some());
        others.filter(|(_, other)| other.views[node] == View::Up).count()
    }

    /// Runs for a while.
    pub fn run(&mut self, time: Duration) {
        self.run_until(self.now + time.as_nanos() as u64, |_| false);
    }

    /// Runs until something holds, looking ten times a second, for at most a while: how long it took.
    pub fn run_while(&mut self, most: Duration, holds: impl Fn(&Self) -> bool) -> Option<Duration> {
        let (begin, end) = (self.now, self.now + most.as_nanos() as u64);
        while self.now < end {
            if !holds(self) {
                return Some(Duration::from_nanos(self.now - begin));
            }
            self.run(Duration::from_millis(100));
        }
        None
    }

    fn run_until(&mut self, end: u64, stop: impl Fn(&Self) -> bool) {
        while let Some(due) = self.heap.peek() {
            if due.at > end || stop(self) {
                break;
            }
            let Some(due) = self.heap.pop() else { break };
            self.now = due.at;
            self.happen(due.what);
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Frame { from, to, life, frame } => {
                let node = &mut self.nodes[to];
                if node.engine.is_none() || node.life < life {
                    return;
                }
                if node.paused.is_some() {
                    node.held.push((from, frame));
                    return;
                }
                self.with(to, |engine, now, out| engine.frame(from, frame, now, out));
            }
            Happening::Deadline { node, life } => {
                let at = self.now;
                let place = &mut self.nodes[node];
                if place.life != life || place.paused.is_some() || place.armed != Some(at) {
                    return;
                }
                place.armed = None;
                self.with(node, |engine, now, out| engine.timeout(now, out));
            }
            Happening::Resume { node, life } => {
                let place = &mut self.nodes[node];
                if place.life != life || place.paused.is_none_or(|until| until > self.now) {
                    return;
                }
                (place.paused, place.armed) = (None, None);
                for (from, frame) in std::mem::take(&mut place.held) {
                    self.with(node, |engine, now, out| engine.frame(from, frame, now, out));
                }
                self.with(node, |engine, now, out| engine.timeout(now, out));
                self.excused[node] = false;
            }
        }
    }

    fn carry_out(&mut self, node: usize, out: &mut Out) {
        for (to, frame) in out.sends.drain(..) {
            self.frames += 1;
            self.bytes += frame.len() as u64;
            let lost = self.network.loss > 0 && self.prng.below(1_000_000) < u64::from(self.network.loss);
            if lost || to >= self.nodes.len() || (self.network.cut)(node, to, self.now) {
                continue;
            }
            let (least, most) = self.network.delay;
            let at = self.now + least + self.prng.below(most - least + 1);
            let life = self.nodes[to].life;
            self.push(at, Happening::Frame { from: node, to, life, frame });
        }
        for (of, view) in out.changes.drain(..) {
            let before = std::mem::replace(&mut self.nodes[node].views[of], view);
            if view == View::Down && before == View::Up && !self.excused[of] && !self.excused[node] {
                self.false_verdicts.push((node, of, self.now));
            }
            match (before, view) {
                (View::Up, View::Down) => self.flips.push((node, of, self.now, true)),
                (View::Down, View::Up) => self.flips.push((node, of, self.now, false)),
                _ => {}
            }
        }
    }

    fn arm(&mut self, node: usize) {
        let place = &mut self.nodes[node];
        if place.paused.is_some() {
            return;
        }
        let Some(at) = place.engine.as_ref().and_then(Engine::deadline) else { return };
        let at = at.max(self.now);
        if place.armed == Some(at) {
            return;
        }
        place.armed = Some(at);
        let life = place.life;
        self.push(at, Happening::Deadline { node, life });
    }

    fn push(&mut self, at: u64, what: Happening) {
        self.number += 1;
        self.heap.push(Due { at, number: self.number, what });
    }
}
