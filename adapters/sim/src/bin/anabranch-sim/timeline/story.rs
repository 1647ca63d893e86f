//! What a trace says happened, in shapes with a beginning and an end: states of nodes, what they held, frames on
//! their way, faults while they lasted. Reads only; called by the page that draws it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem::discriminant;

use anabranch_sim::{Action, Kind, RunReport, TraceEvent};

/// How a node was for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) node: usize,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// `up`, `paused`, `cut off` or `down`.
    pub(crate) what: &'static str,
}

/// A frame between two nodes.
#[derive(Debug, Clone)]
pub(crate) struct Flight {
    pub(crate) sent: u64,
    pub(crate) from: usize,
    /// `None`: it never did.
    pub(crate) arrived: Option<u64>,
    pub(crate) to: usize,
    pub(crate) len: usize,
    pub(crate) note: &'static str,
}

/// A fault while it lasted; what is over at once ends when it began.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) nodes: Vec<usize>,
    pub(crate) name: &'static str,
    pub(crate) detail: String,
    action: Action,
    group: u32,
    open: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) states: Vec<State>,
    /// Node, since when, how many entries.
    pub(crate) held: Vec<(usize, u64, u64)>,
    pub(crate) flights: Vec<Flight>,
    pub(crate) faults: Vec<Span>,
}

impl Story {
    /// Of a recorded run with so many nodes that mean well.
    pub(crate) fn of(report: &RunReport, honest: usize) -> Self {
        let mut telling = Telling::new(report.nodes.len(), honest);
        let mut planned: BTreeMap<(u64, String), VecDeque<(&Action, u32)>> = BTreeMap::new();
        for plan in &report.plan {
            let key = (plan.at, format!("{:?}", plan.action));
            planned.entry(key).or_default().push_back((&plan.action, plan.group));
        }
        let mut healed = report.healed.iter().copied().peekable();
        for event in &report.trace {
            while let Some(at) = healed.next_if(|at| *at < event.at) {
                telling.heal(at);
            }
            telling.pauses_end(event.at);
            if let (Some(node), Some(holds)) = (event.node, event.holds) {
                telling.holds(event.at, node, holds);
            }
            match (event.kind, event.node) {
                (Kind::Boot, Some(node)) => telling.boot(event.at, node),
                (Kind::Crash, Some(node)) => telling.crash(event.at, node),
                (Kind::Fault, _) => {
                    let found = planned.get_mut(&(event.at, event.text.clone()));
                    if let Some((action, group)) = found.and_then(VecDeque::pop_front) {
                        telling.fault(event, action, group);
                    }
                }
                _ => continue,
            }
            telling.look(event.at);
        }
        let end = report.virtual_nanos;
        healed.for_each(|at| telling.heal(at));
        telling.pauses_end(end);
        let mut story = telling.end(end);
        story.flights = flights(&report.trace);
        story
    }
}

/// A story as far as it has been told.
struct Telling {
    story: Story,
    honest: usize,
    up: Vec<bool>,
    held_until: Vec<Option<u64>>,
    holding: Vec<Option<u64>>,
    /// Since when each node is as it is.
    now: Vec<(u64, &'static str)>,
}

impl Telling {
    fn new(nodes: usize, honest: usize) -> Self {
        Self {
            story: Story::default(),
            honest: honest.min(nodes),
            up: vec![false; nodes],
            held_until: vec![None; nodes],
            holding: vec![None; nodes],
            now: vec![(0, "down"); nodes],
        }
    }

    fn holds(&mut self, at: u64, node: usize, entries: u64) {
        if self.holding[node].replace(entries) != Some(entries) {
            self.story.held.push((node, at, entries));
        }
    }

    fn boot(&mut self, at: u64, node: usize) {
        (self.up[node], self.held_until[node]) = (true, None);
        self.close(at, |span| {
            let over = matches!(
                span.action,
                Action::Crash { .. }
                    | Action::Restore { .. }
                    | Action::Pause(..)
                    | Action::Slow(..)
                    | Action::SyncFails(_)
                    | Action::WriteFails(_)
            );
            over && span.nodes == [node]
        });
    }

    fn crash(&mut self, at: u64, node: usize) {
        self.up[node] = false;
        self.close(at, |span| matches!(span.action, Action::Pause(..)) && span.nodes == [node]);
        // The fault that did it lasts until the node starts again.
        let culprit = self.story.faults.iter_mut().rev().find(|span| span.from == at && span.nodes == [node]);
        if let Some(span) = culprit {
            span.open |= matches!(span.action, Action::Crash { .. } | Action::Restore { .. });
        }
    }

    fn fault(&mut self, event: &TraceEvent, action: &Action, group: u32) {
        let at = event.at;
        let Some((nodes, lasts)) = concerned(action) else { return };
        if let Action::Heal(..) = action {
            let gates = |span: &Span| {
                matches!(span.action, Action::Partition(..) | Action::OneWay(..) | Action::FlipFlop { .. })
            };
            return self.close(at, |span| gates(span) && same(&span.nodes, &nodes));
        }
        let again = |span: &Span| {
            let alike = discriminant(&span.action) == discriminant(action) && span.nodes == nodes;
            alike
                && (action.name().is_none() || (matches!(action, Action::Link { .. }) && span.group == group))
        };
        let before = self.story.faults.iter().filter(|span| span.open).count();
        self.close(at, again);
        let ended = self.story.faults.iter().filter(|span| span.open).count() < before;
        let Some(name) = action.name().filter(|_| !ended) else { return };
        let to = match action {
            Action::Pause(node, time) => {
                let until = at.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
                self.held_until[*node] = self.held_until[*node].max(Some(until));
                until
            }
            _ => at,
        };
        let (action, detail) = (action.clone(), event.text.clone());
        self.story.faults.push(Span { from: at, to, nodes, name, detail, action, group, open: lasts });
    }

    /// All faults end.
    fn heal(&mut self, at: u64) {
        self.pauses_end(at);
        self.held_until.fill(None);
        self.close(at, |span| !matches!(span.action, Action::Crash { .. } | Action::Restore { .. }));
        self.look(at);
    }

    fn pauses_end(&mut self, by: u64) {
        while let Some(at) = self.held_until.iter().flatten().copied().min().filter(|at| *at <= by) {
            self.held_until.iter_mut().filter(|until| **until == Some(at)).for_each(|until| *until = None);
            self.close(at, |span| matches!(span.action, Action::Pause(..)) && span.to <= at);
            self.look(at);
        }
    }

    fn close(&mut self, at: u64, over: impl Fn(&Span) -> bool) {
        for span in self.story.faults.iter_mut().filter(|span| span.open && over(span)) {
            (span.open, span.to) = (false, at);
        }
    }

    /// Enters which nodes are no longer as they were.
    fn look(&mut self, at: u64) {
        for node in 0..self.now.len() {
            let (since, was) = self.now[node];
            let is = self.state(node);
            if is != was {
                if since < at {
                    self.story.states.push(State { node, from: since, to: at, what: was });
                }
                self.now[node] = (at, is);
            }
        }
    }

    fn state(&self, node: usize) -> &'static str {
        let apart = self.story.faults.iter().filter(|span| {
            span.open && matches!(span.action, Action::Partition(..)) && span.nodes.contains(&node)
        });
        let others: BTreeSet<usize> =
            apart.flat_map(|span| span.nodes.iter().copied()).filter(|other| *other != node).collect();
        match () {
            () if !self.up[node] => "down",
            () if self.held_until[node].is_some() => "paused",
            () if node < self.honest && self.honest > 1 && others.len() + 1 == self.honest => "cut off",
            () => "up",
        }
    }

    fn end(mut self, at: u64) -> Story {
        self.close(at, |_| true);
        for (node, (from, what)) in self.now.iter().copied().enumerate() {
            self.story.states.push(State { node, from, to: at, what });
        }
        self.story
    }
}

/// The nodes that a fault is about, and whether it lasts; `None`: it is drawn as what comes of it.
fn concerned(action: &Action) -> Option<(Vec<usize>, bool)> {
    Some(match action {
        Action::Link { a, b, .. } | Action::FlipFlop { a, b, .. } => (vec![*a, *b], true),
        Action::Partition(a, b) | Action::OneWay(a, b) | Action::Heal(a, b) => (vec![*a, *b], true),
        Action::Cut(a, b) => (vec![*a, *b], false),
        Action::Pause(node, _)
        | Action::Slow(node, _)
        | Action::ClockFreeze(node, _)
        | Action::ClockDrift(node, _)
        | Action::DiskFull(node, _)
        | Action::DiskSlow(node, _)
        | Action::SyncFails(node)
        | Action::WriteFails(node) => (vec![*node], true),
        Action::Crash { node, .. } | Action::Restore { node, .. } | Action::Clone { node, .. } => {
            (vec![*node], false)
        }
        Action::ClockJump(node, _) | Action::BitRot(node) | Action::Misdirect(node) => (vec![*node], false),
        _ => return None,
    })
}

fn same(a: &[usize], b: &[usize]) -> bool {
    a.len() == b.len() && a.iter().all(|node| b.contains(node))
}

/// Every frame that was sent, with what became of it: found again by its link and its sum.
fn flights(trace: &[TraceEvent]) -> Vec<Flight> {
    let mut flights: Vec<Flight> = Vec::new();
    let mut under_way: BTreeMap<(usize, usize, u64), VecDeque<usize>> = BTreeMap::new();
    let mut copies: BTreeMap<(usize, usize, u64), u64> = BTreeMap::new();
    let mut strays = Vec::new();
    for event in trace {
        let (Some(node), Some(other), at, len) = (event.node, event.other, event.at, event.len) else {
            continue;
        };
        match event.kind {
            Kind::Sent if event.text.is_empty() => {
                under_way.entry((node, other, event.sum)).or_default().push_back(flights.len());
                let note = "did not arrive";
                flights.push(Flight { sent: at, from: node, arrived: None, to: other, len, note });
            }
            Kind::Frame => {
                let key = (other, node, event.sum);
                if let Some(first) = under_way.get_mut(&key).and_then(VecDeque::pop_front) {
                    copies.insert(key, flights[first].sent);
                    (flights[first].arrived, flights[first].note) = (Some(at), "");
                } else if let Some(sent) = copies.get(&key).copied() {
                    let note = "a copy of what arrived before";
                    flights.push(Flight { sent, from: other, arrived: Some(at), to: node, len, note });
                } else {
                    strays.push((at, other, node, len));
                }
            }
            _ => {}
        }
    }
    for (at, from, to, len) in strays {
        let alike = |flight: &&mut Flight| {
            let route = (flight.from, flight.to) == (from, to) && flight.sent <= at && flight.len >= len;
            route && flight.arrived.is_none()
        };
        match flights.iter_mut().rev().find(alike) {
            Some(flight) => (flight.arrived, flight.note) = (Some(at), "damaged on its way"),
            None => {
                let note = "a damaged copy, of which frame is not known";
                flights.push(Flight { sent: at, from, arrived: Some(at), to, len, note });
            }
        }
    }
    flights.sort_by_key(|flight| flight.sent);
    flights
}
