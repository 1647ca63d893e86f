//! The run: devices write what the trace demands, leave and come back as planned, meet, and are compared.
//!
//! Knows devices only through [`Device`], so the loop is tested on devices that exist in memory alone. One
//! future per device, all joined; nothing is spawned here. Called by `main`.

use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anabranch::VersionVector;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;
use tokio::sync::watch;

use crate::display::{DeviceOutcome, Display, Outcome, Presence, Status, name};
use crate::plan::{Held, Plan, Script, Stage};
use crate::trace::Trace;

/// A device looks at the world this often even if nothing wakes it. Wake-ups do the work; this only bounds
/// what a missed one costs.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Entries written before a device looks at the plan again: short, so that it leaves and dies on time.
const WRITE_AT_ONCE: usize = 16;

/// What went wrong on a device: the library's error, or ours.
pub(crate) type DeviceFault = Box<dyn Error + Send + Sync>;

/// One author's device, as far as the run needs it.
#[async_trait]
pub(crate) trait Device: Send {
    /// How many entries of each device it holds, itself included.
    async fn held(&self) -> Result<Held, DeviceFault>;

    /// What it holds, exactly.
    async fn version(&self) -> Result<VersionVector, DeviceFault>;

    /// The text that its entries make.
    async fn text(&self) -> Result<String, DeviceFault>;

    /// Writes entries in this order; returns when all are safe.
    async fn write(&mut self, payloads: Vec<Bytes>) -> Result<(), DeviceFault>;

    /// Connects to the others, or leaves them. It keeps working either way.
    async fn set_online(&mut self, online: bool) -> Result<(), DeviceFault>;

    /// Dies without a word, in the middle of writing `unfinished` if that is given, and comes back offline from
    /// what its store holds.
    async fn kill_and_reopen(&mut self, unfinished: Option<Bytes>) -> Result<(), DeviceFault>;

    /// Closes its store in good order and comes back offline from what it holds.
    async fn close_and_reopen(&mut self) -> Result<(), DeviceFault>;

    /// Returns when it may hold something new. Cancel-safe; may return for nothing.
    async fn arrival(&mut self);

    /// Bytes given to the network so far, over all its lives.
    fn bytes_sent(&self) -> u64;

    /// Where it stands with each of the others, in one line: told when a run stalls.
    async fn standing(&self) -> String;
}

/// A run ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayFault {
    #[error("{}: {fault}", name(*device))]
    Device { device: usize, fault: DeviceFault },
    #[error("{} had {safe} entries of its own written and shows {held}", name(*device))]
    Lost { device: usize, safe: u64, held: u64 },
    #[error("nothing new on any device for {} s{}", .0.as_secs_f64(), .1.iter().map(|line| format!("\n  {line}")).collect::<String>())]
    Stalled(Duration, Vec<String>),
}

/// What a run came to, and what ended it early if anything did.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    /// Per device; empty if the run ended early.
    pub(crate) devices: Vec<DeviceOutcome>,
    pub(crate) fault: Option<ReplayFault>,
}

/// Plays `trace` on `devices`, one per author, offline and empty, as `seed` plans it; compares them, closes and
/// reopens all, and compares them again. `patience` is how long nothing new may come.
pub(crate) async fn conduct<D: Device>(
    trace: &Trace,
    payloads: &[Option<Bytes>],
    seed: u64,
    devices: &mut [D],
    display: &Display,
    patience: Duration,
) -> Report {
    let script = Script::new(trace);
    let (entries, plan) = (script.entries(), Plan::new(seed, &script));
    let replay = Replay::new(Stage::new(script, plan), payloads, display);
    let started = now();
    let played = replay.run(devices, patience).await;
    let seconds = started.elapsed().as_secs_f64();
    display.clear();
    let judged = match played {
        Ok(outcomes) => judge(devices, outcomes, entries, &trace.end).await,
        Err(fault) => Err(fault),
    };
    let (verdict, outcomes, fault) = match judged {
        Ok((verdict, outcomes)) => (verdict, outcomes, None),
        Err(fault) => (Verdict::default(), Vec::new(), Some(fault)),
    };
    let outcome = Outcome {
        entries,
        devices: devices.len(),
        converged: verdict.converged,
        text_matches: verdict.text_matches,
        seconds,
        entries_per_second: entries as f64 / seconds.max(f64::EPSILON),
        bytes_sent: devices.iter().map(Device::bytes_sent).sum(),
        bytes_payload: payloads.iter().flatten().map(|payload| payload.len() as u64).sum(),
    };
    Report { outcome, devices: outcomes, fault }
}

/// Compares the devices as they are and once more after each was closed and reopened.
async fn judge<D: Device>(
    devices: &mut [D],
    mut outcomes: Vec<DeviceOutcome>,
    entries: usize,
    text: &str,
) -> Result<(Verdict, Vec<DeviceOutcome>), ReplayFault> {
    let (before, matched_before) = compare(devices, entries, text).await?;
    for (index, device) in devices.iter_mut().enumerate() {
        let reopened = device.close_and_reopen().await;
        reopened.map_err(|fault| ReplayFault::Device { device: index, fault })?;
    }
    let (after, matched_after) = compare(devices, entries, text).await?;
    for (index, outcome) in outcomes.iter_mut().enumerate() {
        outcome.text_matches = matched_before[index] && matched_after[index];
        outcome.bytes_sent = devices[index].bytes_sent();
    }
    let verdict = Verdict {
        converged: before.converged && after.converged,
        text_matches: before.text_matches && after.text_matches,
    };
    Ok((verdict, outcomes))
}

/// How the devices compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Verdict {
    /// All versions are equal and hold everything.
    converged: bool,
    /// All texts are the recorded one.
    text_matches: bool,
}

/// A run in progress.
struct Replay<'a> {
    stage: Mutex<Stage>,
    /// Counts the reports that told something new; each one wakes every device.
    news: watch::Sender<u64>,
    /// Per transaction of the trace.
    payloads: &'a [Option<Bytes>],
    display: &'a Display,
}

/// What a device should do now.
struct Orders {
    kill: bool,
    online: bool,
    write: Vec<Bytes>,
    finished: bool,
}

impl<'a> Replay<'a> {
    /// A run of `stage`, whose script was made from the same trace as `payloads`.
    fn new(stage: Stage, payloads: &'a [Option<Bytes>], display: &'a Display) -> Self {
        Self { stage: Mutex::new(stage), news: watch::Sender::new(0), payloads, display }
    }

    /// Plays everything on `devices`, which are offline and empty, until all hold all or nothing new came
    /// for as long as `patience`.
    async fn run<D: Device>(
        &self,
        devices: &mut [D],
        patience: Duration,
    ) -> Result<Vec<DeviceOutcome>, ReplayFault> {
        let playing = devices.iter_mut().enumerate().map(|(index, device)| self.play(index, device));
        tokio::select! {
            biased;
            outcomes = try_join_all(playing) => return outcomes,
            () = self.wait_for_stall(patience) => {}
        }
        let mut standing = Vec::with_capacity(devices.len());
        for (index, device) in devices.iter().enumerate() {
            standing.push(format!("{}: {}", name(index), device.standing().await));
        }
        Err(ReplayFault::Stalled(patience, standing))
    }

    async fn play<D: Device>(&self, index: usize, device: &mut D) -> Result<DeviceOutcome, ReplayFault> {
        let failed = |fault| ReplayFault::Device { device: index, fault };
        let mut news = self.news.subscribe();
        let mut outcome = DeviceOutcome::default();
        let mut online = false;
        // Own entries that it was told are written: from then on it shows them, and no death takes them away.
        let mut safe = 0;
        loop {
            news.borrow_and_update();
            let held = device.held().await.map_err(failed)?;
            if held[index] < safe {
                return Err(ReplayFault::Lost { device: index, safe, held: held[index] });
            }
            let orders = self.report(index, &held);
            outcome.held = held.iter().sum();
            outcome.written = held[index];
            outcome.bytes_sent = device.bytes_sent();
            let presence = if orders.online { Presence::Online } else { Presence::Offline };
            self.show(index, &outcome, if orders.kill { Presence::Killed } else { presence });
            if orders.kill {
                outcome.killed = true;
                device.kill_and_reopen(orders.write.into_iter().next()).await.map_err(failed)?;
                online = false;
                safe = held[index];
            } else if orders.online != online {
                online = orders.online;
                outcome.times_offline += u64::from(!online);
                // Whoever leaves or comes back looks at the text: what comes later then comes late.
                device.text().await.map_err(failed)?;
                device.set_online(online).await.map_err(failed)?;
            } else if !orders.write.is_empty() {
                let count = orders.write.len() as u64;
                outcome.written_offline += if online { 0 } else { count };
                device.write(orders.write).await.map_err(failed)?;
                safe = held[index] + count;
            } else if orders.finished {
                return Ok(outcome);
            } else {
                tokio::select! {
                    biased;
                    _ = news.changed() => {}
                    () = device.arrival() => {}
                    () = pause(LOOK_AGAIN) => {}
                }
            }
        }
    }

    /// Takes note of what a device holds and says what it should do.
    fn report(&self, index: usize, held: &[u64]) -> Orders {
        let mut stage = self.stage();
        if stage.report(index, held) {
            self.news.send_modify(|news| *news += 1);
        }
        let next = held[index] as usize;
        let write = (next..next + stage.may_write(index, WRITE_AT_ONCE))
            .filter_map(|number| stage.script().transaction(index, number))
            .filter_map(|transaction| self.payloads[transaction].clone())
            .collect();
        Orders {
            kill: stage.take_kill(index),
            online: stage.online(index),
            write,
            finished: stage.all_hold_all(),
        }
    }

    fn show(&self, index: usize, outcome: &DeviceOutcome, presence: Presence) {
        let status = Status { held: outcome.held, presence, bytes_sent: outcome.bytes_sent };
        self.display.update(index, status);
    }

    async fn wait_for_stall(&self, patience: Duration) {
        let mut news = self.news.subscribe();
        loop {
            tokio::select! {
                biased;
                _ = news.changed() => {}
                () = pause(patience) => return,
            }
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compares `devices` with each other and with what was recorded: `entries` in number, ending in `text`. The
/// second value tells for each device whether its text is right.
async fn compare<D: Device>(
    devices: &[D],
    entries: usize,
    text: &str,
) -> Result<(Verdict, Vec<bool>), ReplayFault> {
    let mut versions: Vec<VersionVector> = Vec::with_capacity(devices.len());
    let mut complete = true;
    let mut matches = Vec::with_capacity(devices.len());
    for (index, device) in devices.iter().enumerate() {
        let failed = |fault| ReplayFault::Device { device: index, fault };
        versions.push(device.version().await.map_err(failed)?);
        complete &= device.held().await.map_err(failed)?.iter().sum::<u64>() == entries as u64;
        matches.push(device.text().await.map_err(failed)? == text);
    }
    let equal = versions.windows(2).all(|pair| pair[0] == pair[1]);
    let verdict =
        Verdict { converged: equal && complete, text_matches: matches.iter().all(|matches| *matches) };
    Ok((verdict, matches))
}

#[allow(clippy::disallowed_methods, reason = "a demonstration runs in real time")]
async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

#[allow(clippy::disallowed_methods, reason = "a demonstration runs in real time")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use anabranch::{EntryHash, NodeId, Tip};

    use crate::rng::Rng;
    use crate::text::{self, Document};
    use crate::trace::tests::clownschool;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[derive(Default, Clone)]
    struct Logs {
        /// Per author: payloads, each with the time it was written at.
        by_author: Vec<Vec<(u64, Bytes)>>,
        online: bool,
    }

    struct World {
        devices: Mutex<Vec<Logs>>,
        clock: Mutex<u64>,
    }

    /// A device of variables: what is written is safe at once, whoever is online can be read.
    struct Pretended {
        index: usize,
        world: Arc<World>,
        rng: Rng,
        /// Forgets this many of its own entries when it is killed.
        forgets: usize,
        deaf: bool,
        forgets_on_close: bool,
    }

    impl Pretended {
        fn all(count: usize) -> Vec<Self> {
            let logs = Logs { by_author: vec![Vec::new(); count], online: false };
            let world = Arc::new(World { devices: Mutex::new(vec![logs; count]), clock: Mutex::new(0) });
            (0..count)
                .map(|index| Self {
                    index,
                    world: world.clone(),
                    rng: Rng::new(index as u64),
                    forgets: 0,
                    deaf: false,
                    forgets_on_close: false,
                })
                .collect()
        }
    }

    #[async_trait]
    impl Device for Pretended {
        async fn held(&self) -> Result<Held, DeviceFault> {
            let devices = self.world.devices.lock().unwrap();
            Ok(devices[self.index].by_author.iter().map(|log| log.len() as u64).collect())
        }

        async fn version(&self) -> Result<VersionVector, DeviceFault> {
            let mut version = VersionVector::START;
            for (author, sequence) in self.held().await?.into_iter().enumerate() {
                version
                    .set(NodeId::from_bytes([author as u8; 32]), [Tip { sequence, hash: EntryHash::ZERO }]);
            }
            Ok(version)
        }

        async fn text(&self) -> Result<String, DeviceFault> {
            let mut entries = self.world.devices.lock().unwrap()[self.index].by_author.concat();
            entries.sort_by_key(|(time, _)| *time);
            let mut document = Document::new("");
            for (_, payload) in entries {
                document.apply(&payload)?;
            }
            Ok(document.text())
        }

        async fn write(&mut self, payloads: Vec<Bytes>) -> Result<(), DeviceFault> {
            let mut clock = self.world.clock.lock().unwrap();
            for payload in payloads {
                *clock += 1;
                self.world.devices.lock().unwrap()[self.index].by_author[self.index].push((*clock, payload));
            }
            Ok(())
        }

        async fn set_online(&mut self, online: bool) -> Result<(), DeviceFault> {
            self.world.devices.lock().unwrap()[self.index].online = online;
            Ok(())
        }

        async fn kill_and_reopen(&mut self, unfinished: Option<Bytes>) -> Result<(), DeviceFault> {
            if let Some(payload) = unfinished {
                self.write(vec![payload]).await?;
            }
            self.set_online(false).await?;
            let own = &mut self.world.devices.lock().unwrap()[self.index].by_author[self.index];
            own.truncate(own.len() - self.forgets.min(own.len()));
            Ok(())
        }

        async fn close_and_reopen(&mut self) -> Result<(), DeviceFault> {
            if self.forgets_on_close {
                self.world.devices.lock().unwrap()[self.index].by_author[self.index].pop();
            }
            self.set_online(false).await
        }

        async fn arrival(&mut self) {
            tokio::task::yield_now().await;
            let mut devices = self.world.devices.lock().unwrap();
            let other = self.rng.between(0, devices.len() - 1);
            if self.deaf || !devices[self.index].online || !devices[other].online {
                return;
            }
            let theirs = devices[other].by_author.clone();
            for (mine, theirs) in devices[self.index].by_author.iter_mut().zip(theirs) {
                let new = theirs.into_iter().skip(mine.len()).take(self.rng.between(0, 40));
                mine.extend(new.collect::<Vec<_>>());
            }
        }

        fn bytes_sent(&self) -> u64 {
            0
        }

        async fn standing(&self) -> String {
            if self.deaf { "deaf".to_owned() } else { "listening".to_owned() }
        }
    }

    /// The first part of the recorded session: the run is tested, not the text.
    const TRANSACTIONS: usize = 2_500;

    /// Conducts that part on pretended devices; `end` makes the recorded end content from the true one.
    fn run(
        seed: u64,
        prepare: impl Fn(&mut [Pretended]),
        end: impl Fn(String) -> String,
        patience: Duration,
    ) -> Report {
        let mut trace = clownschool();
        trace.transactions.truncate(TRANSACTIONS);
        let payloads = text::record(&trace).unwrap();
        let mut document = Document::new("");
        payloads.iter().flatten().for_each(|payload| document.apply(payload).unwrap());
        trace.end = end(document.text());
        let display = Display::new(trace.agents, trace.entries(), true);
        let mut devices = Pretended::all(trace.agents);
        prepare(&mut devices);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(conduct(&trace, &payloads, seed, &mut devices, &display, patience))
    }

    #[test]
    fn every_seed_ends_with_equal_devices_and_the_recorded_text() {
        for seed in 0..4 {
            let report = run(seed, |_| {}, |text| text, PATIENCE);
            assert!(report.fault.is_none() && report.outcome.is_good());
            assert_eq!((report.outcome.entries, report.outcome.devices), (TRANSACTIONS, 3));
            assert_eq!(report.devices.iter().filter(|device| device.killed).count(), 1);
            assert!(report.devices.iter().map(|device| device.written_offline).sum::<u64>() > 0);
            assert_eq!(report.devices.iter().map(|device| device.written).sum::<u64>(), TRANSACTIONS as u64);
            assert!(report.devices.iter().all(|device| device.text_matches));
        }
    }

    #[test]
    fn i1_a_device_that_lost_an_entry_when_it_was_killed_is_found_out() {
        let forgetful = |devices: &mut [Pretended]| devices.iter_mut().for_each(|device| device.forgets = 2);
        let report = run(1, forgetful, |text| text, PATIENCE);
        assert!(matches!(report.fault, Some(ReplayFault::Lost { .. })) && !report.outcome.is_good());
    }

    #[test]
    fn a_run_in_which_nothing_moves_ends_with_a_clear_line() {
        let report = run(1, |devices| devices[2].deaf = true, |text| text, Duration::from_millis(300));
        let told = report.fault.unwrap().to_string();
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines[0], "nothing new on any device for 0.3 s");
        assert!(lines.len() == 4 && lines[3].ends_with("deaf"), "{told}");
        assert!(!report.outcome.converged && !report.outcome.text_matches);
    }

    #[test]
    fn a_device_that_forgets_when_it_is_closed_is_found_out() {
        let forgetful = |devices: &mut [Pretended]| devices[0].forgets_on_close = true;
        let report = run(1, forgetful, |text| text, PATIENCE);
        assert!(report.fault.is_none() && !report.outcome.converged && !report.outcome.text_matches);
        let matches: Vec<bool> = report.devices.iter().map(|device| device.text_matches).collect();
        assert_eq!(matches, [false, true, true]);
    }

    #[test]
    fn another_end_content_is_a_mismatch() {
        let report = run(2, |_| {}, |text| text + "!", PATIENCE);
        assert!(report.fault.is_none() && report.outcome.converged && !report.outcome.text_matches);
    }
}
