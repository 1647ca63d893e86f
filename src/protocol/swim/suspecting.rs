//! From a failed probe to a verdict (SWIM, section 4.2; Lifeguard, section 4.2).
//!
//! A verdict takes three things: a suspicion that ran out, own looks that failed since it began, and no sign of life. What
//! others say starts and shortens suspicions, never more.

use std::time::Duration;

use super::dissemination::Topic;
use super::engine::{SwimEngine, Timer};
use super::member::{Index, Status};
use super::probe::Purpose;
use super::suspicion::{Suspicion, timeout};
use super::wire::{AGE_GIVEN_UP, Accusation, ShortId, Update};
use crate::domain::time::Instant;

/// About this many observers look at once when they hear an accusation; the others wait until it nearly ran out.
const EARLY_LOOKS: usize = 8;
/// Returns within this time count as flapping.
const FLAP_MEMORY: Duration = Duration::from_secs(600);
/// Doublings of the hold against a flapping member.
const MAX_FLAP_DOUBLINGS: u32 = 3;
/// Open accusations that one accuser may have alone, or a quarter of the group.
const ACCUSATIONS_PER_ACCUSER: usize = 8;

impl SwimEngine {
    fn own_short(&self) -> ShortId {
        ShortId::from(&self.own)
    }

    /// An own look failed: the own accusation, if `full`, or if it confirms that of others.
    pub(super) fn look_failed(&mut self, index: Index, full: bool) {
        let Some(member) = self.table.get_mut(index) else { return };
        match (&mut member.suspicion, member.status) {
            (Some(suspicion), _) => {
                suspicion.failed_looks += 1;
                suspicion.look_at = self.now + self.config.base_interval() / 2;
                let enough = suspicion.failed_looks >= self.looks_needed();
                if full || enough {
                    self.suspect(index, self.own_short(), Duration::ZERO, false);
                }
                self.weigh(index);
            }
            (None, Status::Alive | Status::Suspect) if !full => {}
            (None, Status::Alive | Status::Suspect) => {
                if member.verified {
                    self.suspect(index, self.own_short(), Duration::ZERO, false);
                    if let Some(suspicion) =
                        self.table.get_mut(index).and_then(|member| member.suspicion.as_mut())
                    {
                        suspicion.failed_looks += 1;
                        suspicion.look_at = self.now + self.config.base_interval() / 2;
                    }
                    self.weigh(index);
                } else {
                    // Known by hearsay only: not worth an accusation.
                    self.give_up(index, false);
                }
            }
            _ => self.schedule_knock(index),
        }
    }

    /// Somebody accuses a member, this node or another.
    fn suspect(&mut self, index: Index, accuser: ShortId, age: Duration, given_up: bool) {
        let now = self.now;
        let most = self.config.suspicion_confirmations + 1;
        let is_own = accuser == self.own_short();
        let early = self.dice.below(self.table.up().max(1)) < EARLY_LOOKS;
        let bounds = self.config.suspicion(self.table.up() + 1);
        let soon = self.dice.within(bounds.0 / 4);
        let began = Instant::from_nanos(
            now.as_nanos().saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)),
        );
        let Some(member) = self.table.get_mut(index) else { return };
        let (subject, incarnation) = (member.short(), member.incarnation);
        let begins = member.suspicion.is_none();
        let suspicion = member.suspicion.get_or_insert_with(|| {
            Box::new(Suspicion {
                since: began,
                accusers: smallvec::SmallVec::new(),
                failed_looks: 0,
                wake: Instant::ZERO,
                // Everybody else looks when the verdict is near.
                look_at: if early || is_own { now + soon } else { now + bounds.1 },
                given_up: false,
            })
        });
        suspicion.since = suspicion.since.min(began);
        let verdict = given_up && !suspicion.given_up;
        suspicion.given_up |= given_up;
        let is_new = !suspicion.accusers.contains(&accuser) && suspicion.accusers.len() < most;
        if is_new {
            suspicion.accusers.push(accuser);
        }
        if begins {
            self.stats.suspicions += 1;
            self.set_status(index, Status::Suspect);
            if let Some(accuser) = self.table.find_short(accuser).and_then(|index| self.table.get_mut(index))
            {
                accuser.accuses += 1;
            }
        }
        if is_new || verdict {
            let tenths = u8::try_from(age.as_millis() / 100).unwrap_or(AGE_GIVEN_UP).min(AGE_GIVEN_UP - 1);
            let age = if given_up { AGE_GIVEN_UP } else { tenths };
            let update = Update::Accusation(Accusation { subject, incarnation, accuser, age });
            self.spread(Topic::Accusation(index, accuser), &update);
        }
    }

    /// When a suspicion runs out.
    fn runs_out(&self, index: Index) -> Option<Instant> {
        let member = self.table.get(index)?;
        let suspicion = member.suspicion.as_deref()?;
        let up = self.table.up();
        let expected = self.config.suspicion_confirmations.min(up.saturating_sub(2));
        let bounds = self.config.suspicion(up + 1);
        let lasts = timeout(bounds, suspicion.accusers.len().saturating_sub(1), expected);
        let end = if suspicion.given_up { suspicion.since } else { suspicion.since + lasts };
        Some(end.max(self.held_until(member)))
    }

    /// Until when a member that comes and goes keeps the benefit of the doubt.
    fn held_until(&self, member: &super::member::Member) -> Instant {
        match member.flaps {
            0 => Instant::ZERO,
            flaps => member.returned + self.config.flap_hold * (1 << (flaps - 1).min(MAX_FLAP_DOUBLINGS)),
        }
    }

    /// Looks at a suspicion: time for a verdict, for an own look, or to wait.
    pub(super) fn weigh(&mut self, index: Index) {
        let Some(end) = self.runs_out(index) else { return };
        let needed = self.looks_needed();
        let lead = self.look_takes(index) * needed;
        let own = self.own_short();
        let now = self.now;
        let Some(member) = self.table.get_mut(index) else { return };
        let busy = member.probe.is_some();
        let Some(suspicion) = &mut member.suspicion else { return };
        let (before, enough) = (suspicion.wake, suspicion.failed_looks >= needed);
        if now >= end && enough {
            return self.give_up(index, true);
        }
        let latest = Instant::from_nanos(
            end.as_nanos().saturating_sub(u64::try_from(lead.as_nanos()).unwrap_or(u64::MAX)),
        );
        if !enough {
            suspicion.look_at = suspicion.look_at.min(latest);
        }
        let look_at = suspicion.look_at;
        self.disarm(before, Timer::Suspicion(index));
        if busy {
            // The end of the probe weighs again.
            return;
        }
        let is_own = self.is_accuser(index, own);
        // Who accuses looks on and on, as long as there is time for it; others until they have seen enough.
        let looks = if is_own { !enough || now + lead + lead < end } else { !enough };
        let mut wake = if looks { look_at } else { end };
        if looks && now >= look_at {
            if is_own || self.allowances.looks.take(now) {
                return self.begin_probe(index, if is_own { Purpose::Look } else { Purpose::Hearsay });
            }
            wake = now + self.config.base_interval();
        }
        let wake = wake.max(now + Duration::from_millis(1));
        if let Some(suspicion) = self.table.get_mut(index).and_then(|member| member.suspicion.as_mut()) {
            suspicion.wake = wake;
            self.arm(wake, Timer::Suspicion(index));
        }
    }

    fn is_accuser(&self, index: Index, accuser: ShortId) -> bool {
        let suspicion = self.table.get(index).and_then(|member| member.suspicion.as_deref());
        suspicion.is_some_and(|suspicion| suspicion.accusers.contains(&accuser))
    }

    /// The verdict.
    fn give_up(&mut self, index: Index, tell: bool) {
        let suspicion = self.table.get(index).and_then(|member| member.suspicion.as_deref());
        // The first verdict is news; that others come to the same is not.
        let tell = tell && suspicion.is_some_and(|suspicion| !suspicion.given_up);
        self.end_suspicion(index);
        self.abandon_probe(index);
        self.stats.unreachable += 1;
        self.set_status(index, Status::Unreachable);
        if tell && let Some(member) = self.table.get(index) {
            let (subject, incarnation, accuser) = (member.short(), member.incarnation, self.own_short());
            let update = Accusation { subject, incarnation, accuser, age: AGE_GIVEN_UP };
            self.spread(Topic::Accusation(index, accuser), &Update::Accusation(update));
        }
        if let Some(member) = self.table.get_mut(index) {
            member.retry = None;
        }
        self.schedule_knock(index);
        self.bury_beyond_limit();
        if self.table.up() == 0 {
            self.join_soon();
        }
    }

    /// Drops a suspicion with its timer.
    pub(super) fn end_suspicion(&mut self, index: Index) {
        let Some(suspicion) = self.table.get_mut(index).and_then(|member| member.suspicion.take()) else {
            return;
        };
        self.disarm(suspicion.wake, Timer::Suspicion(index));
        if let Some(first) = suspicion.accusers.first().copied()
            && let Some(accuser) = self.table.find_short(first).and_then(|index| self.table.get_mut(index))
        {
            accuser.accuses = accuser.accuses.saturating_sub(1);
        }
    }

    /// An accusation by somebody.
    pub(super) fn accused(&mut self, accusation: Accusation) {
        let Accusation { subject, incarnation, accuser, age } = accusation;
        if subject == self.own_short() {
            return self.deny(incarnation);
        }
        if !self.may_accuse(subject, incarnation, accuser, age) {
            self.stats.accusations_ignored += 1;
            return;
        }
        if let Some(index) = self.table.find_short(subject) {
            let (given_up, began) = (age == AGE_GIVEN_UP, Duration::from_millis(u64::from(age) * 100));
            self.suspect(index, accuser, began, given_up);
            self.weigh(index);
        }
    }

    fn may_accuse(
        &self,
        subject: ShortId,
        incarnation: super::statement::Incarnation,
        accuser: ShortId,
        age: u8,
    ) -> bool {
        let known = self.table.find_short(accuser).and_then(|index| self.table.get(index));
        let Some((accuser, subject)) =
            known.zip(self.table.find_short(subject).and_then(|at| self.table.get(at)))
        else {
            return false;
        };
        if accuser.node == subject.node || !subject.is_up() || incarnation < subject.incarnation {
            return false;
        }
        // What was heard here since is better evidence.
        let age = Duration::from_millis(u64::from(if age == AGE_GIVEN_UP { 10 } else { age }) * 100);
        if subject.heard > Instant::ZERO && self.now.since(subject.heard) < age {
            return false;
        }
        let most = ACCUSATIONS_PER_ACCUSER.max(self.table.up() / 4);
        subject.suspicion.is_some() || (accuser.accuses as usize) < most
    }

    /// Remembers that a member came back.
    pub(super) fn returned(&mut self, index: Index) {
        let now = self.now;
        let Some(member) = self.table.get_mut(index) else { return };
        if now.since(member.returned) > FLAP_MEMORY {
            member.flaps = 0;
        }
        (member.flaps, member.returned) = (member.flaps + 1, now);
    }
}
