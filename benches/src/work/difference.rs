//! Two nodes that hold nearly the same: many logs, of which a few got one more entry on one side.
//!
//! Bytes and CPU count from the moment at which the reader's network is turned on (or at which it first meets the
//! library) until it holds everything and a comparison found both equal, so what starts a session is in them
//! (`session_bytes`, what proves who is there), and so is the comparison that confirms (`compare_bytes`, all else but the entries). Round trips are counted in a second pass over a link with delay.

use std::time::Duration;

use anabranch::domain::id::LogKey;
use anabranch::domain::run::RunBuilder;
use anabranch::{SystemTimer, TimerPort as _, Timestamp, Tip};

use crate::measure::{Clocks, peak, reset_peak};
use crate::nodes::{Device, Outcome, PAYLOAD, World, deliver, library, stream_name, until};
use crate::options::{Options, Port};
use crate::row::{Measures, Row, mb};

/// One way, in the pass that counts round trips.
const DELAY: Duration = Duration::from_millis(250);
/// Bytes of a signature.
const SIGNATURE: u64 = 64;

struct Stage {
    world: World,
    library: Device,
    /// Holds what the library holds, so that readers can be filled that never met it.
    mirror: Device,
    authors: Vec<Device>,
    streams: usize,
}

/// What one exchange came to.
struct Exchange {
    cpu: f64,
    /// Bytes from the reader and from the library.
    sent: (u64, u64),
    /// Of them, until the reader held everything.
    until_held: u64,
    /// Of them, those that opened the session.
    opening: u64,
    wall: Duration,
    peak: usize,
    /// Packed entries that the library sent, and runs that repeated what the reader held or came too early.
    runs: (u64, u64, u64),
}

pub(crate) async fn run(options: &Options) -> Outcome<()> {
    for entries in &options.entries {
        for streams in &options.streams {
            let mut stage = Stage::new(options, *entries, *streams).await?;
            for changed in &options.changed {
                for scattered in &options.scattered {
                    stage.case(options, (*changed).min(options.authors * streams), *scattered).await?;
                }
            }
        }
    }
    Ok(())
}

impl Stage {
    async fn new(options: &Options, entries: usize, streams: usize) -> Outcome<Self> {
        let mut world = World::new(options)?;
        let per_log = (entries / (options.authors * streams)).max(1);
        let (library, authors) = library(&mut world, options.authors, streams, per_log).await?;
        let mirror = world.helper().await?;
        deliver(&library, &mirror, library.merged()).await?;
        library.node.start().await?;
        mirror.node.stop().await?;
        Ok(Self { world, library, mirror, authors, streams })
    }

    /// Appends an entry to each of so many logs, and waits until the library has them.
    async fn change(&self, changed: usize, scattered: bool) -> Outcome<()> {
        let logs = self.authors.len() * self.streams;
        let step = if scattered { (logs / changed.max(1)).max(1) } else { 1 };
        for (at, author) in self.authors.iter().enumerate() {
            let own: Vec<usize> =
                (0..changed).map(|n| n * step).filter(|log| log / self.streams == at).collect();
            for log in &own {
                author.append(&stream_name(log % self.streams), 1).await?;
            }
            if !own.is_empty() {
                deliver(author, &self.library, own.len() as u64).await?;
            }
        }
        Ok(())
    }

    /// A node that holds what the library holds, and never met it.
    async fn reader(&mut self) -> Outcome<Device> {
        let reader = self.world.device().await?;
        deliver(&self.mirror, &reader, self.library.merged()).await?;
        reader.node.remove_peer(&self.mirror.node.node()).await?;
        Ok(reader)
    }

    async fn case(&mut self, options: &Options, changed: usize, scattered: bool) -> Outcome<()> {
        let delayed = options.port == Port::Memory;
        for first_contact in &options.first_contact {
            let reader = self.reader().await?;
            let other = if delayed { Some(self.reader().await?) } else { None };
            for reader in std::iter::once(&reader).chain(&other).filter(|_| !first_contact) {
                self.meet(reader).await?;
                reader.node.stop().await?;
            }
            self.change(changed, scattered).await?;
            let exchange = self.exchange(&reader, *first_contact).await?;
            let idle = self.idle(&reader).await?;
            // Its comparisons are not to be taken for those of the other one.
            reader.node.stop().await?;
            let rounds = match &other {
                Some(other) => self.rounds(other, *first_contact).await?,
                None => (0.0, 0.0),
            };
            let entry_bytes = changed as u64 * (encoded_entry() + SIGNATURE);
            let others = (exchange.sent.0 + exchange.sent.1).saturating_sub(entry_bytes);
            let measures = Measures {
                entries: self.library.merged(),
                cpu_seconds: exchange.cpu,
                bytes: exchange.sent.0 + exchange.sent.1,
                rounds: rounds.0,
                peak_mb: mb(exchange.peak),
            };
            Row::new("difference")
                .measures(&measures)
                .count("changed", changed as u64)
                .count("entry_bytes", entry_bytes)
                .text("pattern", if scattered { "scattered" } else { "clustered" })
                .flag("first_contact", *first_contact)
                .text("port", options.port.name())
                .text("store", options.store.name())
                .count("logs", (self.authors.len() * self.streams) as u64)
                .count("bytes_from_reader", exchange.sent.0)
                .count("bytes_from_library", exchange.sent.1)
                .count("bytes_until_held", exchange.until_held)
                .count("other_bytes", others)
                .count("session_bytes", exchange.opening)
                .count("compare_bytes", others.saturating_sub(exchange.opening))
                .count("allowed_bytes", 256 + 96 * changed as u64)
                .figure("rounds_from_link", rounds.1, 1)
                .count("idle_bytes_there", idle.0)
                .count("idle_bytes_back", idle.1)
                .count("run_bytes", exchange.runs.0)
                .count("runs_duplicate", exchange.runs.1)
                .count("runs_gap", exchange.runs.2)
                .figure("wall_seconds", exchange.wall.as_secs_f64(), 3)
                .print(options.json);
            for reader in std::iter::once(reader).chain(other) {
                reader.node.close().await?;
                self.library.node.remove_peer(&reader.node.node()).await?;
            }
            // The mirror follows, so that the next readers start equal.
            if changed > 0 {
                self.mirror.node.start().await?;
                let _met_already = self.mirror.node.meet(self.library.near.clone()).await;
                until("the mirror", || self.mirror.merged() >= self.library.merged()).await?;
                self.mirror.node.stop().await?;
            }
        }
        Ok(())
    }

    /// A first meeting without anything to send.
    async fn meet(&self, reader: &Device) -> Outcome<()> {
        let equal = self.equal(reader);
        reader.node.meet(self.library.address.clone()).await?;
        until("first meeting", || self.equal(reader) > equal + 1).await
    }

    fn equal(&self, reader: &Device) -> u64 {
        reader.node.metrics().comparisons_equal + self.library.node.metrics().comparisons_equal
    }

    async fn exchange(&self, reader: &Device, first_contact: bool) -> Outcome<Exchange> {
        let total = self.library.merged();
        let (sent, equal) = ((reader.bytes_sent(), self.library.bytes_sent()), self.equal(reader));
        // What both announce tells both that nothing differs, and both announcements count.
        let agree = if reader.merged() == total { 2 } else { 1 };
        let opening = || reader.opening_sent() + self.library.opening_sent();
        let opened = opening();
        let runs = || {
            let reader = reader.node.metrics();
            (self.library.node.metrics().run_bytes_sent, reader.runs_duplicate, reader.runs_gap)
        };
        let before = runs();
        let held = reset_peak();
        let clocks = Clocks::now();
        if first_contact {
            reader.node.meet(self.library.address.clone()).await?;
        } else {
            reader.node.start().await?;
        }
        until("the difference", || reader.merged() >= total).await?;
        let both = || (reader.bytes_sent() - sent.0, self.library.bytes_sent() - sent.1);
        let (wall, _) = clocks.elapsed();
        let (a, b) = both();
        until("agreement", || self.equal(reader) >= equal + agree).await?;
        let (_, cpu) = clocks.elapsed();
        let after = runs();
        Ok(Exchange {
            runs: (after.0 - before.0, after.1 - before.1, after.2 - before.2),
            cpu,
            sent: both(),
            until_held: a + b,
            opening: opening() - opened,
            wall,
            peak: peak().saturating_sub(held),
        })
    }

    /// Bytes there and back of one comparison of equal nodes.
    async fn idle(&self, reader: &Device) -> Outcome<(u64, u64)> {
        let equal = self.equal(reader);
        // What confirms the exchange on the other side may be under way still.
        until("agreement", || self.equal(reader) > equal).await?;
        let (equal, sent) = (self.equal(reader), (reader.bytes_sent(), self.library.bytes_sent()));
        until("a comparison", || self.equal(reader) > equal).await?;
        let (a, b) = (reader.bytes_sent() - sent.0, self.library.bytes_sent() - sent.1);
        let comparisons = self.equal(reader) - equal;
        Ok((a.max(b) / comparisons, a.min(b) / comparisons))
    }

    /// Round trips until the reader holds everything: since the first comparison was sent, and since the link came up. Where
    /// nothing differs, until it knows that.
    async fn rounds(&self, reader: &Device, first_contact: bool) -> Outcome<(f64, f64)> {
        let compared = || reader.node.metrics().comparisons + self.library.node.metrics().comparisons;
        let (total, equal) = (self.library.merged(), self.equal(reader));
        let nothing = reader.merged() == total;
        self.world.delay(reader, &self.library, DELAY)?;
        let before = compared();
        let clocks = Clocks::now();
        if first_contact {
            reader.node.meet(self.library.address.clone()).await?;
        } else {
            reader.node.start().await?;
        }
        let (session, wall) = if nothing {
            // Nobody compares: what both announce tells.
            until("agreement", || self.equal(reader) > equal).await?;
            let (wall, _) = clocks.elapsed();
            (wall, wall)
        } else {
            until("the first comparison", || compared() > before).await?;
            let (session, _) = clocks.elapsed();
            until("the difference", || reader.merged() >= total).await?;
            (session, clocks.elapsed().0)
        };
        let trips = |time: Duration| time.as_secs_f64() / (2.0 * DELAY.as_secs_f64());
        Ok((trips(wall - session), trips(wall)))
    }
}

/// Bytes of one entry as encoded: its stamp in full, as it comes alone.
fn encoded_entry() -> u64 {
    let seconds = SystemTimer::new().wall().to_unix().as_secs();
    let mut run = RunBuilder::new(LogKey::from_bytes([0; 32]), Tip::START, 1, PAYLOAD);
    run.push(Timestamp::new(0, seconds << 32), &[0; PAYLOAD]);
    run.finish().map_or(0, |run| run.body().len() as u64)
}
