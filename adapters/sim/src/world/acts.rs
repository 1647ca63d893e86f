//! Faults as they happen.

use std::time::Duration;

use super::{Role, World, nanos};
use crate::core::{Due, Kind, Seen, endpoint};
use crate::faults::Action;

impl<A: 'static> World<A> {
    /// Lets a planned fault happen.
    pub(super) fn act(&mut self, at: usize) {
        let action = self.plan[at].action.clone();
        self.fault(&action);
    }

    /// Lets a fault happen now. One that names a node that is not there fails the run.
    pub fn fault(&mut self, action: &Action) {
        {
            let mut core = self.shared.lock();
            let there = core.devices.len();
            if let Some(missing) = action.nodes().find(|node| *node >= there) {
                let what = format!("{action:?} names node {missing}, and there are {there}");
                return core.violate("script", what);
            }
            if let Action::Restore { node, .. } = action
                && self.bodies[*node].backups.is_empty()
            {
                let what =
                    format!("{action:?} has no backup left: each takes one that Action::Backup made before");
                return core.violate("script", what);
            }
            let text = format!("{action:?}");
            core.event(None, Kind::Fault, text.as_bytes(), || text.clone());
            if let Some(name) = action.name() {
                core.fault(name, 1);
            }
            if matches!(action, Action::Link { profile, .. } if profile.bandwidth.is_some()) {
                core.fault("bandwidth", 1);
            }
        }
        match *action {
            Action::Link { a, b, profile } => {
                let mut core = self.shared.lock();
                let now = core.time();
                core.model.set_profile(now, endpoint(a), endpoint(b), profile);
                core.model.set_profile(now, endpoint(b), endpoint(a), profile);
            }
            Action::Partition(a, b) => {
                let mut core = self.shared.lock();
                let now = core.time();
                core.model.partition(now, endpoint(a), endpoint(b));
            }
            Action::OneWay(from, to) => {
                let mut core = self.shared.lock();
                let now = core.time();
                core.model.block(now, endpoint(from), endpoint(to));
            }
            Action::FlipFlop { a, b, open, closed } => {
                let mut core = self.shared.lock();
                let now = core.time();
                core.model.flip_flop(now, endpoint(a), endpoint(b), open, closed);
            }
            Action::Heal(a, b) => {
                let mut core = self.shared.lock();
                let now = core.time();
                core.model.heal(now, endpoint(a), endpoint(b));
            }
            Action::Cut(a, b) => {
                let mut core = self.shared.lock();
                let now = core.time();
                core.model.cut(now, endpoint(a), endpoint(b));
            }
            Action::Crash { node, silent } => self.stop(node, silent),
            Action::Boot(node) => self.boot_again(node),
            Action::Pause(node, time) => self.hold(node, time),
            Action::Slow(node, step) => self.shared.lock().devices[node].step_cost = nanos(step),
            Action::ClockJump(node, seconds) => self.shared.lock().devices[node].clock.jump(seconds),
            Action::ClockFreeze(node, freeze) => {
                let mut core = self.shared.lock();
                let now = core.now;
                core.devices[node].clock.freeze(now, freeze);
            }
            Action::ClockDrift(node, ppm) => {
                let mut core = self.shared.lock();
                let now = core.now;
                core.devices[node].clock.set_drift(now, ppm);
            }
            Action::DiskFull(node, room) => {
                let core = self.shared.lock();
                let disk = &core.devices[node].disk;
                disk.set_capacity(room.map(|room| disk.used().saturating_add(room)));
            }
            Action::DiskSlow(node, delay) => self.shared.lock().devices[node].disk_delay = nanos(delay),
            Action::SyncFails(node) => {
                self.bodies[node].sync_broken = true;
                self.shared.lock().devices[node].disk.set_sync_fails(true);
            }
            Action::WriteFails(node) => {
                self.bodies[node].sync_broken = true;
                self.shared.lock().devices[node].disk.set_write_fails(true);
            }
            Action::BitRot(node) | Action::Misdirect(node) => self.damage(node, action),
            Action::Backup(node) => {
                let image = self.shared.lock().devices[node].disk.image();
                self.bodies[node].backups.push(image);
            }
            Action::Restore { node, noticed } => self.restore(node, noticed),
            Action::Clone { node, noticed } => self.copy(node, noticed),
            Action::Install(node, version) => {
                self.stop(node, false);
                self.shared.lock().devices[node].version = version;
                self.boot_again(node);
            }
        }
    }

    pub(super) fn boot_again(&mut self, node: usize) {
        if self.started && !self.seed.cut.nodes.contains(&node) && !self.bodies[node].broken {
            self.boot(node);
        }
    }

    fn hold(&mut self, node: usize, time: Duration) {
        let mut core = self.shared.lock();
        let until = core.now.saturating_add(nanos(time));
        let device = &mut core.devices[node];
        if device.held_until.is_none_or(|held| held < until) {
            device.held_until = Some(until);
            core.schedule(until, Due::Release(node));
        }
    }

    fn damage(&mut self, node: usize, action: &Action) {
        let mut core = self.shared.lock();
        let disk = core.devices[node].disk.clone();
        let done = match action {
            Action::BitRot(_) => disk.rot(&mut core.prng),
            _ => disk.misdirect(&mut core.prng),
        };
        if done {
            core.see(&Seen::Damaged { node });
        }
    }

    fn restore(&mut self, node: usize, noticed: bool) {
        let Some(image) = self.bodies[node].backups.pop() else { return };
        self.stop(node, true);
        let mut core = self.shared.lock();
        core.see(&Seen::Replaced { node });
        let device = &mut core.devices[node];
        device.disk.restore(image);
        device.place += if noticed { 1 << 32 } else { 0 };
        self.bodies[node].broken = false;
    }

    /// Starts a further device with a copy of a disk.
    fn copy(&mut self, node: usize, noticed: bool) {
        if self.seed.cut.nodes.contains(&node) {
            return;
        }
        let boot = self.bodies[node].boot.clone();
        let (image, name, place, damaged) = {
            let core = self.shared.lock();
            let device = &core.devices[node];
            let name = format!("{}-copy-{}", device.name, self.bodies.len());
            (device.disk.image(), name, device.place, core.facts.nodes[node].damaged)
        };
        let device = self.device(&name, boot, Role::Clone);
        {
            let mut core = self.shared.lock();
            core.devices[device].disk.restore(image);
            core.devices[device].place = if noticed { place + (1 << 33) } else { place };
            core.facts.nodes[device].damaged = damaged;
            if let Some(id) = core.facts.nodes[node].id {
                core.facts.authors.entry(id).or_default().tampered = true;
            }
        }
        self.boot(device);
    }
}
