//! Who is offline when, who is killed, and who may write next.
//!
//! [`Script`] is what the trace demands: an author writes an entry only when its device holds everything the
//! author had seen then. [`Plan`] is what the seed adds: outages, and one kill. [`Stage`] applies both while
//! the devices run; it is told what each device holds and answers what a device should do. All three are
//! synchronous and pure, without clock, network or chance of their own. Called by the devices' loop.
//!
//! Progress is counted in entries, never in seconds, so a plan fits any trace on any computer. There are two
//! kinds of being offline, because people in a recorded session see each other's keystrokes within a second:
//! - [`Outage`]: a device is away while the others go on. It writes as long as it holds what its next entry
//!   needs, in practice a few keystrokes, and comes back with much to catch up.
//! - [`Alone`]: the trace has stretches in which an author wrote without anything new from the others. A
//!   device may live such a stretch offline and bring hundreds of entries home at once.
//!
//! # It cannot get stuck
//! Take the earliest entry of the trace that is not written yet. All that it needs has been written. If its
//! author holds all of it, the author writes it, offline or not. If not, then the author, and everybody whose
//! entries it lacks, come home: an outage ends early, and being alone does not keep a device offline that has
//! nothing it may write. They meet, the author gets what it lacks and writes. A device that is alone and may
//! write does so without anybody's help until the stretch ends. So the earliest entry is always written in
//! the end, and with it all.

use crate::rng::Rng;
use crate::trace::Trace;

/// Entries between two outages of a device, in hundredths of the trace. A guess that gives each device about
/// seven outages.
const ONLINE_PERCENT: (usize, usize) = (3, 12);
/// Length of an outage, in hundredths of the trace: from hundreds to thousands of keystrokes in a session of
/// 20,000. A guess.
const OFFLINE_PERCENT: (usize, usize) = (2, 9);
/// Entries in a row that make it worth being alone: leaving and coming back costs about as much as they do. A guess.
const ALONE_ENTRIES: usize = 40;
/// Share of the stretches in which a device is alone.
const ALONE_SHARE: f64 = 0.6;
/// When the kill falls, in hundredths of the trace: in the middle.
const KILL_PERCENT: (usize, usize) = (40, 60);

/// How many entries of each device a device holds, itself included.
pub(crate) type Held = Vec<u64>;

/// The order that the trace imposes on entries.
#[derive(Debug)]
pub(crate) struct Script {
    entries: Vec<Entry>,
    /// Per device: its entries, in the order it writes them.
    by_device: Vec<Vec<usize>>,
}

#[derive(Debug)]
struct Entry {
    device: usize,
    /// Index of its transaction in the trace.
    transaction: usize,
    /// (device, number of entries): what must be held in addition to what the device's entry before needed.
    needs: Vec<(usize, u64)>,
}

impl Script {
    /// The script of `trace`. Transactions that change nothing are no entries; what their author had seen then
    /// counts for its next entry.
    pub(crate) fn new(trace: &Trace) -> Self {
        let mut entries: Vec<Entry> = Vec::with_capacity(trace.transactions.len());
        let mut by_device = vec![Vec::new(); trace.agents];
        // Entries that a transaction's author had written once it was made.
        let mut written: Vec<u64> = Vec::with_capacity(trace.transactions.len());
        let mut pending: Vec<Vec<(usize, u64)>> = vec![Vec::new(); trace.agents];
        for (transaction, made) in trace.transactions.iter().enumerate() {
            let device = made.agent;
            for seen in &made.merged {
                raise(&mut pending[device], trace.transactions[*seen].agent, written[*seen]);
            }
            if !made.patches.is_empty() {
                by_device[device].push(entries.len());
                entries.push(Entry { device, transaction, needs: std::mem::take(&mut pending[device]) });
            }
            written.push(by_device[device].len() as u64);
        }
        Self { entries, by_device }
    }

    /// How many entries there are.
    pub(crate) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// The transaction that entry `number` of `device`, counted from 0, stands for.
    pub(crate) fn transaction(&self, device: usize, number: usize) -> Option<usize> {
        self.by_device[device].get(number).map(|entry| self.entries[*entry].transaction)
    }

    fn devices(&self) -> usize {
        self.by_device.len()
    }

    /// The entries of `device`, cut before each that needs something new from others.
    fn stretches(&self, device: usize) -> impl Iterator<Item = Alone> {
        let mut from = 0;
        self.by_device[device].chunk_by(|_, next| self.entries[*next].needs.is_empty()).map(move |stretch| {
            let alone = Alone { from, until: from + stretch.len() };
            from = alone.until;
            alone
        })
    }
}

fn raise(needs: &mut Vec<(usize, u64)>, device: usize, count: u64) {
    match needs.iter_mut().find(|(known, _)| *known == device) {
        Some((_, known)) => *known = (*known).max(count),
        None if count > 0 => needs.push((device, count)),
        None => {}
    }
}

/// What the seed adds to the script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Per device: when it wants to be offline, ascending, apart.
    pub(crate) outages: Vec<Vec<Outage>>,
    /// Per device: the stretches that it lives offline, ascending.
    pub(crate) alone: Vec<Vec<Alone>>,
    /// Who is killed, and after how many entries of all devices.
    pub(crate) kill: Kill,
}

/// Offline from this many entries of all devices on, until that many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outage {
    pub(crate) from: usize,
    pub(crate) until: usize,
}

/// Offline while writing its own entries number `from` up to but without `until`, counted from 0. Only the
/// first of them needs anything from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alone {
    pub(crate) from: usize,
    pub(crate) until: usize,
}

/// One device ends without a word and comes back from its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kill {
    pub(crate) device: usize,
    pub(crate) at: usize,
}

impl Plan {
    /// The plan of `seed` for `script`, which has at least one device.
    pub(crate) fn new(seed: u64, script: &Script) -> Self {
        let (devices, entries) = (script.devices(), script.entries());
        let alone = (0..devices)
            .map(|device| {
                let mut rng = Rng::part(seed, u64::MAX - 1 - device as u64);
                let long = script.stretches(device).filter(|alone| alone.until - alone.from >= ALONE_ENTRIES);
                long.filter(|_| rng.happens(ALONE_SHARE)).collect()
            })
            .collect();
        let outages = (0..devices)
            .map(|device| {
                let mut rng = Rng::part(seed, device as u64);
                let mut outages = Vec::new();
                let mut at = 0;
                loop {
                    let from = at + span(&mut rng, ONLINE_PERCENT, entries);
                    let until = from + span(&mut rng, OFFLINE_PERCENT, entries);
                    if until >= entries {
                        break outages;
                    }
                    outages.push(Outage { from, until });
                    at = until;
                }
            })
            .collect();
        let mut rng = Rng::part(seed, u64::MAX);
        let device = rng.between(0, devices - 1);
        Self { outages, alone, kill: Kill { device, at: span(&mut rng, KILL_PERCENT, entries) } }
    }
}

/// A draw from `percent` of `entries`, at least 1.
fn span(rng: &mut Rng, (low, high): (usize, usize), entries: usize) -> usize {
    rng.between(entries * low / 100, entries * high / 100).max(1)
}

/// How far everybody is. Told by the devices, asked by the devices.
#[derive(Debug)]
pub(crate) struct Stage {
    script: Script,
    plan: Plan,
    /// What each device holds, as far as it said.
    held: Vec<Held>,
    /// Entries written by all devices.
    written: usize,
    /// The earliest entry that is not written yet.
    frontier: usize,
    killed: bool,
}

impl Stage {
    /// Before the first entry.
    pub(crate) fn new(script: Script, plan: Plan) -> Self {
        let devices = script.devices();
        Self { script, plan, held: vec![vec![0; devices]; devices], written: 0, frontier: 0, killed: false }
    }

    /// What is played.
    pub(crate) fn script(&self) -> &Script {
        &self.script
    }

    /// Takes note of what `device` holds now, its own entries included, and says whether that is more than
    /// before. What a device holds never gets less.
    pub(crate) fn report(&mut self, device: usize, held: &[u64]) -> bool {
        let mut more = false;
        for (known, now) in self.held[device].iter_mut().zip(held) {
            more |= *now > *known;
            *known = (*known).max(*now);
        }
        self.written = (0..self.script.devices()).map(|device| self.held[device][device] as usize).sum();
        while let Some(entry) = self.script.entries.get(self.frontier)
            && self.script.by_device[entry.device]
                .get(self.held[entry.device][entry.device] as usize)
                .is_none_or(|next| *next > self.frontier)
        {
            self.frontier += 1;
        }
        self.call_home();
        more
    }

    /// Whether `device` should be connected now.
    pub(crate) fn online(&self, device: usize) -> bool {
        let offline = |outage: &Outage| (outage.from..outage.until).contains(&self.written);
        let own = self.held[device][device] as usize;
        let alone = |alone: &Alone| (alone.from..alone.until).contains(&own) && self.may_write(device, 1) > 0;
        self.is_written()
            || !(self.plan.outages[device].iter().any(offline) || self.plan.alone[device].iter().any(alone))
    }

    /// How many of its next entries `device` may write with what it holds, at most `limit`.
    pub(crate) fn may_write(&self, device: usize, limit: usize) -> usize {
        let held = &self.held[device];
        self.script.by_device[device]
            .iter()
            .skip(held[device] as usize)
            .take(limit)
            .take_while(|entry| {
                self.script.entries[**entry].needs.iter().all(|(author, count)| held[*author] >= *count)
            })
            .count()
    }

    /// Whether `device` must be killed now. True once.
    pub(crate) fn take_kill(&mut self, device: usize) -> bool {
        let due = !self.killed && self.plan.kill.device == device && self.written >= self.plan.kill.at;
        self.killed |= due;
        due
    }

    /// Whether all entries are written.
    pub(crate) fn is_written(&self) -> bool {
        self.written == self.script.entries()
    }

    /// Whether `device` holds all entries of all devices.
    pub(crate) fn holds_all(&self, device: usize) -> bool {
        self.held[device].iter().map(|count| *count as usize).sum::<usize>() == self.script.entries()
    }

    /// Whether every device holds all entries of all devices.
    pub(crate) fn all_hold_all(&self) -> bool {
        (0..self.script.devices()).all(|device| self.holds_all(device))
    }

    /// See "It cannot get stuck".
    fn call_home(&mut self) {
        let Some(entry) = self.script.entries.get(self.frontier) else { return };
        let held = &self.held[entry.device];
        let lacking = entry.needs.iter().filter(|(author, count)| held[*author] < *count);
        let mut called: Vec<usize> = lacking.map(|(author, _)| *author).collect();
        if !called.is_empty() {
            called.push(entry.device);
        }
        for device in called {
            for outage in &mut self.plan.outages[device] {
                if (outage.from..outage.until).contains(&self.written) {
                    outage.until = self.written;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::tests::{clownschool, parse};

    /// What a run of the stage came to.
    struct Played {
        written_offline: usize,
        went_offline: usize,
        kills: usize,
        order: Vec<(usize, u64)>,
    }

    /// Plays a trace on devices that exchange a few entries at a time, in an order drawn from `seed`.
    fn play(trace: &Trace, seed: u64) -> Played {
        let script = Script::new(trace);
        let (devices, entries) = (trace.agents, script.entries());
        let plan = Plan::new(seed, &script);
        let mut stage = Stage::new(script, plan);
        let mut rng = Rng::part(seed, 1 << 40);
        let mut held = vec![vec![0u64; devices]; devices];
        let mut played = Played { written_offline: 0, went_offline: 0, kills: 0, order: Vec::new() };
        let mut was_online = vec![true; devices];
        for step in 0.. {
            assert!(step < 1_000 + entries * 100 * devices, "stuck at {} of {entries}", stage.written);
            let device = rng.between(0, devices - 1);
            if stage.all_hold_all() {
                break;
            }
            played.kills += usize::from(stage.take_kill(device));
            let online = stage.online(device);
            played.went_offline += usize::from(was_online[device] && !online);
            was_online[device] = online;
            for _ in 0..stage.may_write(device, rng.between(1, 4)) {
                let number = held[device][device];
                let transaction = stage.script().transaction(device, number as usize).unwrap();
                assert_eq!(trace.transactions[transaction].agent, device);
                held[device][device] += 1;
                played.written_offline += usize::from(!online);
                played.order.push((device, number));
            }
            stage.report(device, &held[device]);
            let other = rng.between(0, devices - 1);
            if other != device && stage.online(device) && stage.online(other) {
                let theirs = held[other].clone();
                for (mine, theirs) in held[device].iter_mut().zip(theirs) {
                    *mine += theirs.saturating_sub(*mine).min(rng.between(0, 300) as u64);
                }
                stage.report(device, &held[device]);
            }
        }
        played
    }

    #[test]
    fn the_plan_is_a_function_of_the_seed_and_outages_are_apart_and_end_before_the_trace() {
        let script = Script::new(&clownschool());
        let plan = Plan::new(7, &script);
        assert_eq!(plan, Plan::new(7, &script));
        assert_ne!(plan, Plan::new(8, &script));
        for outages in &plan.outages {
            assert!(outages.len() >= 4, "{outages:?}");
            assert!(outages.iter().all(|outage| outage.from < outage.until && outage.until < 23_136));
            assert!(outages.windows(2).all(|pair| pair[0].until < pair[1].from));
        }
        assert!((9_254..=13_882).contains(&plan.kill.at));
    }

    #[test]
    fn only_the_first_entry_of_a_stretch_alone_needs_anything() {
        let script = Script::new(&clownschool());
        let plan = Plan::new(7, &script);
        for (device, alone) in plan.alone.iter().enumerate() {
            for Alone { from, until } in alone {
                assert!(until - from >= ALONE_ENTRIES);
                let inside = &script.by_device[device][from + 1..*until];
                assert!(inside.iter().all(|entry| script.entries[*entry].needs.is_empty()));
            }
        }
        let alone: usize = plan.alone.iter().flatten().map(|alone| alone.until - alone.from).sum();
        assert!(alone > 1_000, "{alone}");
    }

    #[test]
    fn tiny_traces_have_plans_too_and_end() {
        for transactions in 0..20 {
            let txns: Vec<String> = (0..transactions)
                .map(|at: usize| {
                    let parents = at.checked_sub(1).map(|before| before.to_string()).unwrap_or_default();
                    format!(r#"{{"parents":[{parents}],"agent":{},"patches":[[0,0,"x"]]}}"#, at % 2)
                })
                .collect();
            let text = format!(r#"{{"endContent":"","numAgents":3,"txns":[{}]}}"#, txns.join(","));
            assert_eq!(play(&parse(&text).unwrap(), transactions as u64).order.len(), transactions);
        }
    }

    #[test]
    fn every_seed_ends_with_all_entries_everywhere_one_kill_and_much_written_offline() {
        let trace = clownschool();
        for seed in 0..12 {
            let played = play(&trace, seed);
            assert_eq!((played.order.len(), played.kills), (23_136, 1));
            assert!(played.went_offline >= 6, "seed {seed}: {} outages", played.went_offline);
            assert!(
                played.written_offline > 1_000,
                "seed {seed}: {} written offline",
                played.written_offline
            );
        }
    }

    #[test]
    fn no_entry_is_written_before_what_its_author_had_seen() {
        let trace = clownschool();
        let played = play(&trace, 3);
        let mut by_agent = vec![Vec::new(); trace.agents];
        for (at, transaction) in trace.transactions.iter().enumerate() {
            by_agent[transaction.agent].push(at);
        }
        let mut written = vec![false; trace.transactions.len()];
        for (device, number) in played.order {
            let at = by_agent[device][number as usize];
            assert!(trace.transactions[at].merged.iter().all(|seen| written[*seen]));
            written[at] = true;
        }
    }

    #[test]
    fn what_was_seen_at_a_transaction_without_patches_counts_for_the_next_entry() {
        let trace = parse(
            r#"{"endContent":"","numAgents":2,"txns":[
                {"parents":[],"agent":0,"patches":[[0,0,"a"]]},{"parents":[0],"agent":1,"patches":[]},
                {"parents":[1],"agent":1,"patches":[[1,0,"b"]]},{"parents":[2],"agent":0,"patches":[]}]}"#,
        )
        .unwrap();
        let script = Script::new(&trace);
        assert_eq!((script.entries(), script.transaction(1, 0)), (2, Some(2)));
        let mut stage = {
            let plan = Plan::new(0, &script);
            Stage::new(script, plan)
        };
        assert_eq!((stage.may_write(0, 9), stage.may_write(1, 9)), (1, 0));
        stage.report(0, &[1, 0]);
        stage.report(1, &[1, 0]);
        assert_eq!(stage.may_write(1, 9), 1);
        stage.report(1, &[1, 1]);
        assert!(stage.is_written() && stage.holds_all(1) && !stage.holds_all(0));
    }
}
