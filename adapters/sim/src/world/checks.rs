//! Looking at nodes: what they hold back, what they read, whether they agree.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use anabranch::{Coordinator, NodeId, Query};
use futures::{FutureExt as _, StreamExt as _};

use super::{CENSUS, Failure, Role, World};
use crate::core::{Core, Due, Inbox, Seen};

/// Virtual time that a look at one node may take.
const LOOK: Duration = Duration::from_secs(120);

impl<A: 'static> World<A> {
    pub(super) fn census(&mut self) {
        let shared = self.shared.clone();
        let mut core = shared.lock();
        // Whoever means harm may hold back what it likes.
        for node in (0..self.bodies.len()).filter(|at| self.bodies[*at].role != Role::Hostile) {
            let inbox = &core.devices[node].port.inbox;
            let unread_bytes = inbox
                .iter()
                .map(|item| match item {
                    Inbox::Frame { frame, .. } => frame.len(),
                    Inbox::Event(_) => 0,
                })
                .sum();
            let unwritten_bytes = self.bodies[node].store.as_ref().map_or(0, |store| store.unwritten_bytes());
            core.see(&Seen::Census { node, unread_bytes, unwritten_bytes });
        }
        let gone = self.gone(&core);
        for (node, watched) in self.watched.borrow().iter().enumerate() {
            if let Some(watched) = watched {
                let frames_taken = core.facts.nodes[node].frames_taken;
                core.see(&Seen::Counters { node, metrics: &watched.node.metrics(), frames_taken });
                core.see(&Seen::News { node, updates: watched.node.resource_usage().liveness_updates });
                core.see(&Seen::Peers { node, peers: &watched.node.peers(), gone: &gone });
            }
        }
        drop(core);
        self.hear();
        let mut core = self.shared.lock();
        let at = core.now + CENSUS;
        core.schedule(at, Due::Census);
    }

    /// For how long nodes of which no device runs have not run.
    fn gone(&mut self, core: &Core) -> BTreeMap<NodeId, Duration> {
        let ids = core.facts.nodes.iter().map(|facts| facts.id).enumerate();
        let devices = ids.filter_map(|(at, id)| Some((id?, core.devices[at].up)));
        let mut running: BTreeMap<NodeId, bool> = BTreeMap::new();
        for (id, up) in devices {
            *running.entry(id).or_default() |= up;
        }
        self.ended.retain(|id, _| running.get(id) == Some(&false));
        for (id, _) in running.iter().filter(|(_, up)| !**up) {
            self.ended.entry(*id).or_insert(core.now);
        }
        self.ended.iter().map(|(id, since)| (*id, Duration::from_nanos(core.now - since))).collect()
    }

    /// Takes what nodes reported since the last time.
    fn hear(&self) {
        let mut core = self.shared.lock();
        let hostile = self.bodies.iter().any(|body| body.role == Role::Hostile);
        let harm = hostile || core.facts.nodes.iter().any(|facts| facts.damaged);
        for (node, watched) in self.watched.borrow_mut().iter_mut().enumerate() {
            let Some(watched) = watched else { continue };
            while let Some(Some(fault)) = watched.faults.next().now_or_never() {
                core.see(&Seen::Reported { node, fault: &fault, harm });
            }
        }
    }

    /// Nodes that are up and expected to work: added by hand, not left out, their disks undamaged.
    pub fn sound(&self) -> Vec<usize> {
        let core = self.shared.lock();
        (0..self.bodies.len())
            .filter(|at| self.bodies[*at].role == Role::Node && !self.bodies[*at].broken)
            .filter(|at| core.devices[*at].up && !core.facts.nodes[*at].damaged)
            .collect()
    }

    /// Reads every stream of every watched node through the library and shows it to the invariants.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn read_all(&mut self) -> Result<(), Failure> {
        for node in self.sound() {
            let watched = self.watched.borrow()[node].as_ref().map(|watched| watched.node.clone());
            if let Some(watched) = watched {
                self.read_node(node, &watched)?;
            }
        }
        Ok(())
    }

    fn read_node(&mut self, node: usize, watched: &Coordinator) -> Result<(), Failure> {
        for channel in watched.channels() {
            for stream in channel.streams() {
                let entries = stream.entries(Query::all());
                let version = entries.version().clone();
                let read = self.run(LOOK, entries.collect())?;
                let entries = match read {
                    Ok(entries) => entries,
                    Err(error) => {
                        let what = format!("node {node} cannot read {:?}: {error}", stream.id());
                        return Err(self.fail("read", what));
                    }
                };
                let seen = Seen::Read {
                    node,
                    channel: channel.id(),
                    stream: stream.id(),
                    version: &version,
                    entries: &entries,
                };
                self.shared.lock().see(&seen);
            }
        }
        self.settle()
    }

    /// Asks all sound nodes the same question: the answers must be equal.
    ///
    /// # Errors
    /// [`Failure`]: they differ, or an invariant was broken meanwhile.
    pub fn all_equal<T, F>(&mut self, ask: impl Fn(Rc<A>) -> F) -> Result<(), Failure>
    where
        T: PartialEq + fmt::Debug + 'static,
        F: Future<Output = T> + 'static,
    {
        let mut first: Option<(usize, T)> = None;
        for (node, app) in self.asked("all_equal")? {
            let answer = self.ask("all_equal", node, ask(app))?;
            match &first {
                None => first = Some((node, answer)),
                Some((other, expected)) if *expected != answer => {
                    let what = format!("node {other} says {expected:?}, node {node} says {answer:?}");
                    return Err(self.fail("all_equal", shorten(what)));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Asks all sound nodes whether all is well with them.
    ///
    /// # Errors
    /// [`Failure`]: one says what is wrong, or an invariant was broken meanwhile.
    pub fn each<F>(&mut self, ask: impl Fn(usize, Rc<A>) -> F) -> Result<(), Failure>
    where
        F: Future<Output = Result<(), String>> + 'static,
    {
        for (node, app) in self.asked("each")? {
            if let Err(what) = self.ask("each", node, ask(node, app))? {
                return Err(self.fail("each", format!("node {node}: {what}")));
            }
        }
        Ok(())
    }

    /// Who is asked: sound nodes that have started. A world without nodes fails, for it would answer anything.
    fn asked(&mut self, rule: &str) -> Result<Vec<(usize, Rc<A>)>, Failure> {
        self.start();
        self.settle()?;
        if self.nodes().is_empty() {
            return Err(self.fail(rule, "there is no node to ask".to_owned()));
        }
        let started = |node| Some((node, self.app(node)?));
        let asked: Vec<(usize, Rc<A>)> = self.sound().into_iter().filter_map(started).collect();
        self.sometimes_if("a node was asked", !asked.is_empty());
        Ok(asked)
    }

    fn ask<T: 'static>(
        &mut self,
        rule: &str,
        node: usize,
        answer: impl Future<Output = T> + 'static,
    ) -> Result<T, Failure> {
        let answer = self.answer(LOOK, answer)?;
        answer.ok_or_else(|| self.fail(rule, format!("node {node} gave no answer within {LOOK:?}")))
    }

    /// Fails the run if `holds` is false.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn check(&mut self, rule: &str, holds: bool, what: impl FnOnce() -> String) -> Result<(), Failure> {
        if holds { Ok(()) } else { Err(self.fail(rule, what())) }
    }
}

/// Cuts long answers: their differences matter, not their bulk.
fn shorten(text: String) -> String {
    const MOST: usize = 4_000;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{} ... ({} bytes)", &text[..at], text.len()),
        None => text,
    }
}
