//! Direct and indirect probes, and helping others with theirs (SWIM, section 3.1; Lifeguard, section 4.1).

use std::time::Duration;

use super::config::FrameAuth;
use super::engine::{SwimEngine, Timer};
use super::member::{Index, Status};
use super::probe::{Probe, Purpose};
use super::statement::Incarnation;
use super::wire::{Body, Nonce, Proof, ShortId, Update};
use crate::domain::id::NodeId;
use crate::domain::time::Instant;

/// Relayed pings under way for others at most.
const MAX_RELAYS: usize = 256;
/// Periods in which nothing happened before probes come apart.
const CALM_PERIODS: u32 = 8;
/// Turns that a member that sleeps between wakes is left out.
const LOW_POWER_SKIPS: u8 = 9;
/// Silence after which a member that sleeps between wakes is asked: it calls every 20 s.
const LOW_POWER_SILENCE: Duration = Duration::from_secs(30);
/// Loss in thousandths above which one failed probe is not evidence enough.
const LOSSY: u32 = 50;
/// First wait between two attempts at an unreachable member, in intervals.
const FIRST_RETRY: u32 = 2;
/// With many unreachable members, each waits at least this long times their number.
const RETRY_SHARE: Duration = Duration::from_secs(2);
/// A member that came back makes the others worth a try, within this time and once per pause.
const WAVE_WITHIN: Duration = Duration::from_millis(1500);
const WAVE_PAUSE: Duration = Duration::from_secs(10);

/// A ping relayed for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Relay {
    origin: NodeId,
    subject: ShortId,
    nonce: Nonce,
    due: Instant,
}

impl SwimEngine {
    /// Starts the next protocol period: whose turn it is is probed.
    pub(super) fn next_period(&mut self) {
        let quiet = self.queue.len() == 0
            && self.probes == 0
            && self.table.count(Status::Suspect) == 0
            && self.table.count(Status::Joining) == 0;
        self.calm = if quiet { self.calm.saturating_add(1) } else { 0 };
        let interval = self.config.probe_interval * self.stretch() * (1 + self.health);
        let next = self.period + interval;
        self.period = if next > self.now { next } else { self.now + interval };
        self.arm(self.period, Timer::Period);
        self.turn = 1 - self.turn;
        for ring in [self.turn, 1 - self.turn] {
            if self.probe_next(ring) {
                return;
            }
        }
    }

    /// By how much probes are further apart than usual: twice for each period in which nothing happened, after the first
    /// few, up to the longest.
    pub(super) fn stretch(&self) -> u32 {
        let interval = self.config.probe_interval.max(Duration::from_millis(1));
        let most = self.config.idle_interval_max.as_millis() / interval.as_millis().max(1);
        let most = u32::try_from(most).unwrap_or(u32::MAX).max(1);
        let doublings = self.calm.saturating_sub(CALM_PERIODS);
        1u32.checked_shl(doublings).unwrap_or(u32::MAX).clamp(1, most)
    }

    /// Something goes on besides liveness: the next probe comes at the usual pace.
    pub(super) fn quicken(&mut self) {
        self.calm = 0;
        let soon = self.now + self.config.probe_interval;
        if soon < self.period {
            self.disarm(self.period, Timer::Period);
            self.period = soon;
            self.arm(soon, Timer::Period);
        }
    }

    fn probe_next(&mut self, ring: usize) -> bool {
        // Over sessions much is heard besides answers: whoever was heard within this period has shown already what a ping
        // would ask.
        let period = self.config.probe_interval * self.stretch();
        let since = if self.config.auth == FrameAuth::Caller { period * 3 / 4 } else { Duration::ZERO };
        // Twice, for those of a pass that moved to the other ring or sleep.
        for _ in 0..self.rings[ring].len() * 2 {
            let dice = &mut self.dice;
            let Some(index) = self.rings[ring].next(|order| dice.shuffle(order)) else { return false };
            let Some(member) = self.table.get_mut(index) else { continue };
            let mut since = since;
            if member.is_low_power() {
                // It is left to call by itself, when it wakes.
                since = since.max(LOW_POWER_SILENCE);
                if member.passed_over == self.period {
                    continue;
                }
                if member.skipped < LOW_POWER_SKIPS {
                    (member.skipped, member.passed_over) = (member.skipped + 1, self.period);
                    continue;
                }
            }
            member.skipped = 0;
            let heard = member.status == Status::Alive
                && member.heard > Instant::ZERO
                && self.now.since(member.heard) < since;
            if member.is_up() && member.probe.is_none() && !heard {
                self.begin_probe(index, Purpose::Round);
                return true;
            }
        }
        false
    }

    /// How long an answer of a member may take: RFC 6298 within bounds, a quarter of an interval while nothing is known,
    /// stretched while this node doubts itself.
    fn timeout(&self, index: Index) -> Duration {
        let base = self.config.base_interval();
        let known = self.table.get(index).and_then(|member| member.rtt.timeout());
        let timeout = known.unwrap_or(base / 4).clamp(self.config.probe_timeout_min, base * 4);
        timeout * (1 + self.health)
    }

    /// How long a look on hearsay takes.
    pub(super) fn look_takes(&self, index: Index) -> Duration {
        self.timeout(index) * 7
    }

    /// Own failed probes that a verdict takes: one where hardly a frame is lost, two elsewhere.
    pub(super) fn looks_needed(&self) -> u32 {
        if self.loss > LOSSY { 2 } else { 1 }
    }

    pub(super) fn begin_probe(&mut self, index: Index, purpose: Purpose) {
        let timeout = self.timeout(index);
        let now = self.now;
        let Some(member) = self.table.get_mut(index) else { return };
        if member.probe.is_some() {
            return;
        }
        member.probe = Some(Box::new(Probe {
            purpose,
            step: 0,
            due: now,
            timeout,
            nonces: smallvec::SmallVec::new(),
            indirect: None,
            asked: 0,
            nacks: 0,
        }));
        self.probes += 1;
        self.run_step(index);
    }

    /// A step's time is over.
    pub(super) fn next_step(&mut self, index: Index) {
        if let Some(probe) = self.table.get_mut(index).and_then(|member| member.probe.as_mut()) {
            probe.step += 1;
            self.run_step(index);
        }
    }

    fn run_step(&mut self, index: Index) {
        let is_helper = |other: Index, member: &super::member::Member| {
            other != index && member.status == Status::Alive && member.verified
        };
        let Some(probe) = self.table.get(index).and_then(|member| member.probe.as_deref()) else { return };
        let (purpose, step, timeout) = (probe.purpose, probe.step, probe.timeout);
        let wants_helpers = matches!(purpose, Purpose::Round | Purpose::Look) && step >= 2;
        let helpers = if wants_helpers { self.helpers(is_helper) } else { Vec::new() };
        let Some(todo) = Probe::step(purpose, step, timeout, !helpers.is_empty()) else {
            return self.probe_failed(index);
        };
        let (ping, relayed) = (self.nonce(), self.nonce());
        let due = self.now + todo.wait;
        let now = self.now;
        let Some(member) = self.table.get_mut(index) else { return };
        let (held, subject) = (held(member.status, member.incarnation), member.short());
        if step > 0 {
            // Perhaps it restarted and does not know the short form any more.
            (member.knows_us, member.doubted) = (false, true);
        }
        let Some(probe) = member.probe.as_deref_mut() else { return };
        probe.due = due;
        if todo.ping {
            probe.nonces.push((ping, now));
        }
        let indirect = *probe.indirect.get_or_insert(relayed);
        if todo.helpers {
            probe.asked += helpers.len() as u32;
        }
        self.arm(due, Timer::Probe(index));
        if todo.ping {
            let news = self.introduction(index);
            self.send(index, Body::Ping { nonce: ping, held }, &news);
        }
        if todo.helpers {
            for helper in helpers {
                self.send(helper, Body::PingReq { nonce: indirect, subject }, &[]);
            }
        }
    }

    fn helpers(&mut self, wanted: impl Fn(Index, &super::member::Member) -> bool) -> Vec<Index> {
        let mut helpers = Vec::new();
        for _ in 0..self.config.indirect_probes {
            let from = self.dice.below(self.table.places());
            if let Some(helper) = self.table.pick(from, |index, member| wanted(index, member))
                && !helpers.contains(&helper)
            {
                helpers.push(helper);
            }
        }
        helpers
    }

    /// The own statement, for a member that may not have it.
    pub(super) fn introduction(&self, index: Index) -> Vec<Update> {
        if self.introduces(index) { vec![self.own_update()] } else { Vec::new() }
    }

    /// Ends a probe without a verdict.
    pub(super) fn abandon_probe(&mut self, index: Index) -> Option<Box<Probe>> {
        let probe = self.table.get_mut(index)?.probe.take()?;
        self.probes -= 1;
        self.disarm(probe.due, Timer::Probe(index));
        Some(probe)
    }

    /// An answer to one of the pings of a probe, with its round-trip time.
    pub(super) fn is_answer(&mut self, index: Index, nonce: Nonce) -> bool {
        let now = self.now;
        let Some(member) = self.table.get_mut(index) else { return false };
        let Some(probe) = &member.probe else { return false };
        let Some((place, (_, sent))) =
            probe.nonces.iter().copied().enumerate().find(|(_, (other, _))| *other == nonce)
        else {
            return false;
        };
        member.rtt.sample(now.since(sent));
        if matches!(probe.purpose, Purpose::Round | Purpose::Look) {
            // A weight of 1/16 per sample.
            let sample = if place == 0 { 0 } else { 1000 };
            self.loss = (self.loss * 15 + sample) / 16;
        }
        true
    }

    /// The target of a probe showed a sign of life.
    pub(super) fn probe_answered(&mut self, index: Index) {
        let Some(probe) = self.abandon_probe(index) else { return };
        if probe.purpose == Purpose::Round {
            self.stats.probes_answered += 1;
            self.health = self.health.saturating_sub(1);
        }
        if matches!(probe.purpose, Purpose::Round | Purpose::Look) && probe.step >= 2 {
            self.loss = (self.loss * 15 + 1000) / 16;
        }
    }

    fn probe_failed(&mut self, index: Index) {
        let Some(probe) = self.abandon_probe(index) else { return };
        match probe.purpose {
            Purpose::Round => {
                self.stats.probes_failed += 1;
                // Lifeguard, section 4.1: helpers that are there, and say so, clear this node of blame.
                if probe.asked == 0 || probe.nacks < probe.asked {
                    self.health = (self.health + 1).min(self.config.health_max);
                }
                let suspected = self.table.get(index).is_some_and(|member| member.suspicion.is_some());
                if self.looks_needed() > 1 && !suspected {
                    // Where frames get lost, a second look comes before the accusation.
                    self.begin_probe(index, Purpose::Look);
                } else {
                    self.look_failed(index, true);
                }
            }
            Purpose::Look => self.look_failed(index, true),
            Purpose::Hearsay => self.look_failed(index, false),
            Purpose::Knock => self.schedule_knock(index),
        }
    }

    // --- Unreachable members ---

    /// Tries a member that is not up, if the pace allows.
    pub(super) fn knock(&mut self, index: Index) {
        let busy = self.table.get(index).is_none_or(|member| member.probe.is_some());
        if !busy && self.allowances.knocks.take(self.now) {
            self.begin_probe(index, Purpose::Knock);
        }
    }

    pub(super) fn knock_again(&mut self, index: Index) {
        let Some(member) = self.table.get_mut(index) else { return };
        member.retry = member.retry.map(|(_, wait)| (Instant::ZERO, wait));
        if member.is_up() || member.status == Status::Left {
            return;
        }
        self.knock(index);
        if self.table.get(index).is_some_and(|member| member.probe.is_none()) {
            let later = self.now + self.dice.jittered(self.config.base_interval());
            self.retry_at(index, later);
        }
    }

    /// Plans the next attempt at a member that is not up: each wait is twice the one before, up to a longest that grows with
    /// the number of such members.
    pub(super) fn schedule_knock(&mut self, index: Index) {
        let first = self.config.base_interval() * FIRST_RETRY;
        let share = RETRY_SHARE * u32::try_from(self.table.count(Status::Unreachable)).unwrap_or(u32::MAX);
        let longest = self.config.unreachable_interval_max.max(share).max(first);
        let Some(member) = self.table.get_mut(index) else { return };
        if member.is_up() || member.status == Status::Left {
            return;
        }
        let wait = member.retry.map_or(first, |(_, wait)| (wait * 2).min(longest));
        let at = self.now + self.dice.jittered(wait);
        self.retry_at(index, at);
        if let Some(member) = self.table.get_mut(index) {
            member.retry = Some((at, wait));
        }
    }

    fn retry_at(&mut self, index: Index, at: Instant) {
        let first = self.config.base_interval() * FIRST_RETRY;
        let Some(member) = self.table.get_mut(index) else { return };
        let (before, wait) = member.retry.unwrap_or((Instant::ZERO, first));
        member.retry = Some((at, wait));
        self.disarm(before, Timer::Retry(index));
        self.arm(at, Timer::Retry(index));
    }

    pub(super) fn stop_knocking(&mut self, index: Index) {
        let Some(member) = self.table.get_mut(index) else { return };
        if let Some((at, _)) = member.retry.take() {
            self.disarm(at, Timer::Retry(index));
        }
    }

    /// One came back, so the network may have: the others are tried soon.
    pub(super) fn wave(&mut self) {
        if self.now >= self.wave && self.table.count(Status::Unreachable) > 0 {
            self.wave = self.now + WAVE_PAUSE;
            self.knock_at_all();
        }
    }

    pub(super) fn knock_at_all(&mut self) {
        let gone: Vec<Index> = self
            .table
            .iter()
            .filter(|(_, member)| matches!(member.status, Status::Unreachable | Status::Joining))
            .map(|(index, _)| index)
            .collect();
        for index in gone {
            let at = self.now + self.dice.within(WAVE_WITHIN);
            self.retry_at(index, at);
        }
    }

    // --- Helping ---

    pub(super) fn asked_to_relay(&mut self, origin: Index, nonce: Nonce, subject: ShortId) {
        let Some(origin) = self.table.get(origin).map(|member| member.node) else { return };
        let Some(index) = self.table.find_short(subject) else { return };
        if self.relays.len() >= MAX_RELAYS || !self.allowances.relays.take(self.now) {
            return;
        }
        let id = self.next_relay;
        self.next_relay += 1;
        // Lifeguard, section 4.1: a nack comes before the origin's own timeout (80 % of it there).
        let due = self.now + (self.timeout(index) * 3).min(self.config.base_interval() / 3);
        self.relays.insert(id, Relay { origin, subject, nonce, due });
        self.arm(due, Timer::Relay(id));
        self.send(index, Body::RelayPing { nonce, origin }, &[]);
    }

    /// The subject answered: whoever asked is told, with the subject's proof.
    pub(super) fn relay_answered(
        &mut self,
        subject: Index,
        incarnation: Incarnation,
        nonce: Nonce,
        origin: ShortId,
        proof: Proof,
    ) {
        let Some(subject) = self.table.get(subject).map(super::member::Member::short) else { return };
        let found = self.relays.iter().find(|(_, relay)| {
            relay.subject == subject && relay.nonce == nonce && ShortId::from(&relay.origin) == origin
        });
        let Some((id, relay)) = found.map(|(id, relay)| (*id, *relay)) else { return };
        self.relays.remove(&id);
        self.disarm(relay.due, Timer::Relay(id));
        if let Some(origin) = self.table.find(&relay.origin) {
            self.send(origin, Body::IndirectAck { nonce, subject, incarnation, proof }, &[]);
        }
    }

    pub(super) fn relay_failed(&mut self, id: u64) {
        let Some(relay) = self.relays.remove(&id) else { return };
        if let Some(origin) = self.table.find(&relay.origin) {
            self.send(origin, Body::Nack { nonce: relay.nonce }, &[]);
        }
    }

    /// A helper says that the subject answered: the subject's own proof decides.
    pub(super) fn indirect_answer(
        &mut self,
        nonce: Nonce,
        subject: ShortId,
        incarnation: Incarnation,
        proof: Proof,
    ) {
        let Some(index) = self.table.find_short(subject) else { return };
        if self.ensure_keys(index).is_none() {
            return;
        }
        let Some(member) = self.table.get(index) else { return };
        let asked = member.probe.as_ref().is_some_and(|probe| probe.indirect == Some(nonce));
        if !asked {
            return;
        }
        if member.keys.as_ref().is_some_and(|keys| keys.proves(nonce, incarnation, &proof)) {
            self.heard(index, incarnation);
        } else {
            self.stats.forged += 1;
        }
    }

    pub(super) fn nacked(&mut self, nonce: Nonce) {
        // Rare enough for a search: only while probes fail.
        let found = self
            .table
            .iter()
            .find(|(_, member)| member.probe.as_ref().is_some_and(|probe| probe.indirect == Some(nonce)))
            .map(|(index, _)| index);
        if let Some(probe) = found.and_then(|index| self.table.get_mut(index)?.probe.as_mut()) {
            probe.nacks += 1;
        }
    }
}

/// What a member is told that it is held for, if it is not alive.
pub(super) fn held(status: Status, incarnation: Incarnation) -> Option<Incarnation> {
    match status {
        Status::Suspect | Status::Unreachable | Status::Left => Some(incarnation),
        Status::Joining | Status::Alive => None,
    }
}
