//! Our engine in the group.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use anabranch::domain::identity::Identity;
use anabranch::protocol::swim::{Effect, Incarnation, Input, Status, SwimConfig, SwimEngine};
use anabranch::{Instant, NodeId, PeerAddr};
use bytes::Bytes;

use super::group::{Engine, Out, View};
use crate::scheme::KeyedScheme;

/// Who is who: the same for all groups of a thread.
struct Directory {
    identities: Vec<Identity>,
    numbers: BTreeMap<NodeId, usize>,
    addresses: Vec<PeerAddr>,
}

thread_local! {
    static DIRECTORY: RefCell<Rc<Directory>> = RefCell::new(Rc::new(Directory::of(0)));
}

impl Directory {
    fn of(nodes: usize) -> Self {
        let scheme = Arc::new(KeyedScheme::new(0));
        let identity = |node: usize| {
            let secret = blake3::derive_key("anabranch-sim 1 swim node", &(node as u64).to_le_bytes());
            Identity::with_scheme(secret, scheme.clone())
        };
        let identities: Vec<Identity> = (0..nodes).map(identity).collect();
        let numbers = identities.iter().enumerate().map(|(at, identity)| (identity.node(), at)).collect();
        Self {
            identities,
            numbers,
            addresses: (0..nodes).map(|node| PeerAddr::new(node.to_string())).collect(),
        }
    }

    fn at_least(nodes: usize) -> Rc<Self> {
        DIRECTORY.with(|directory| {
            let mut directory = directory.borrow_mut();
            if directory.identities.len() < nodes {
                *directory = Rc::new(Self::of(nodes));
            }
            Rc::clone(&directory)
        })
    }
}

/// Our engine, with frames that prove themselves.
pub struct Ours {
    /// The engine itself.
    pub engine: SwimEngine,
    directory: Rc<Directory>,
    node: usize,
}

impl Ours {
    /// The identity of a node.
    pub fn identity(node: usize) -> Identity {
        Directory::at_least(node + 1).identities[node].clone()
    }

    /// Address of a node.
    pub fn address(node: usize) -> PeerAddr {
        Directory::at_least(node + 1).addresses[node].clone()
    }

    /// Starts the engine over with another configuration, in a next life.
    pub fn configure(&mut self, config: SwimConfig, incarnation: u64, seed: u64, now: u64) {
        let identity = self.directory.identities[self.node].clone();
        let now = Instant::from_nanos(now);
        self.engine = SwimEngine::new(config, identity, Incarnation(incarnation), seed, now);
    }

    /// Hands the engine any input.
    pub fn input(&mut self, input: Input, now: u64, out: &mut Out) {
        for effect in self.engine.handle(input, Instant::from_nanos(now)) {
            match effect {
                Effect::Send { address: Some(address), frame, .. } | Effect::Greet(address, frame) => {
                    if let Ok(to) = address.as_str().parse() {
                        out.sends.push((to, frame));
                    }
                }
                Effect::Changed { node, new, .. } => {
                    let Some(number) = self.directory.numbers.get(&node).copied() else { continue };
                    let view = match new {
                        None | Some(Status::Joining) => View::Unknown,
                        Some(Status::Alive | Status::Suspect) => View::Up,
                        Some(Status::Unreachable) => View::Down,
                        Some(Status::Left) => View::Left,
                    };
                    out.changes.push((number, view));
                }
                _ => {}
            }
        }
    }
}

impl Engine for Ours {
    fn new(node: usize, nodes: usize, life: u64, seed: u64, now: u64) -> Self {
        let directory = Directory::at_least(nodes.max(node + 1));
        let identity = directory.identities[node].clone();
        let (config, now) = (SwimConfig::default(), Instant::from_nanos(now));
        // Lives may deny accusations a thousand times before they would meet.
        let engine = SwimEngine::new(config, identity, Incarnation(life * 1000), seed, now);
        Self { engine, directory, node }
    }

    fn frame(&mut self, from: usize, frame: Bytes, now: u64, out: &mut Out) {
        let address = self.directory.addresses.get(from).cloned();
        let address = address.unwrap_or_else(|| PeerAddr::new(from.to_string()));
        self.input(Input::Frame(frame, Some(address)), now, out);
    }

    fn timeout(&mut self, now: u64, out: &mut Out) {
        self.input(Input::Timeout, now, out);
    }

    fn deadline(&self) -> Option<u64> {
        self.engine.next_deadline().map(Instant::as_nanos)
    }

    fn join(&mut self, seeds: &[usize], now: u64, out: &mut Out) {
        let seeds = seeds.iter().map(|seed| self.directory.addresses[*seed].clone()).collect();
        self.input(Input::Join(seeds), now, out);
    }

    fn leave(&mut self, now: u64, out: &mut Out) {
        self.input(Input::Leave, now, out);
    }
}
