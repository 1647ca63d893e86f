//! From append on one node to the event on another.

use std::time::{Duration, Instant};

use anabranch::infrastructure::link_profile::{Chance, Delay, LinkProfile};
use anabranch::{Arrival, EventStream, Subscription};

use crate::measure::{Clocks, load, quantile};
use crate::nodes::{Apart, Device, Outcome, PAYLOAD, World, until};
use crate::options::{Appender, Options};
use crate::row::{Measures, Row};
use crate::simulated;

/// How early the pacing thread stops sleeping: the resolution of the system's sleep.
const SPIN: Duration = Duration::from_micros(60);
/// One way, on the simulated link.
const DELAY: Duration = Duration::from_millis(20);

pub(crate) async fn run(options: &Options) -> Outcome<()> {
    for entries in &options.entries {
        for rate in &options.rates {
            once(options, *entries, *rate).await?;
        }
    }
    Ok(())
}

async fn once(options: &Options, entries: usize, rate: usize) -> Outcome<()> {
    let pair = Pair::new(World::new(options)?, options).await?;
    let feed = pair.meet("s").await?;
    let sent = pair.bytes_sent();
    let clocks = Clocks::now();
    let mut latencies = pair.latencies("s", feed, entries, rate).await?;
    let (wall, cpu) = clocks.elapsed();
    let bytes = pair.bytes_sent() - sent;
    let measures = Measures { entries: entries as u64, cpu_seconds: cpu, bytes, rounds: 0.5, peak_mb: 0.0 };
    row(options, &measures, rate, &mut latencies)
        .count("runtimes", if options.apart { 2 } else { 1 })
        .text("append", options.appender.name())
        .figure("wall_seconds", wall.as_secs_f64(), 2)
        .figure("load", load(), 1)
        .print(options.json);
    pair.close().await
}

fn row(options: &Options, measures: &Measures, rate: usize, latencies: &mut [f64]) -> Row {
    Row::new("live")
        .measures(measures)
        .figure("p50_us", quantile(latencies, 0.5), 1)
        .figure("p99_us", quantile(latencies, 0.99), 1)
        .figure("max_us", quantile(latencies, 1.0), 1)
        .count("rate", rate as u64)
        .text("port", options.port.name())
        .text("store", options.store.name())
        .count("threads", options.threads as u64)
}

/// Two devices, one of which appends what the other one reads.
pub(crate) struct Pair {
    pub(crate) writer: Device,
    pub(crate) reader: Device,
    /// Where they are made and run, if each has a runtime of its own.
    runtimes: Option<(Apart, Apart)>,
    appender: Appender,
    pub(crate) world: World,
}

impl Pair {
    pub(crate) async fn new(world: World, options: &Options) -> Outcome<Self> {
        let runtimes =
            if options.apart { Some((Apart::start("writer")?, Apart::start("reader")?)) } else { None };
        let (at_writer, at_reader) = apart(&runtimes);
        let made = async |at, mut world: World| -> Outcome<_> {
            on(at, async move { (world.device().await, world) }).await
        };
        let (writer, world) = made(at_writer, world).await?;
        let (reader, world) = made(at_reader, world).await?;
        Ok(Self { writer: writer?, reader: reader?, runtimes, appender: options.appender, world })
    }

    /// Lets the two meet, and subscribes at the reader to what the writer appends from now on.
    pub(crate) async fn meet(&self, stream: &str) -> Outcome<Subscription> {
        let here = self.reader.stream(stream).await?;
        self.writer.node.meet(self.reader.address.clone()).await?;
        let before = here.len();
        self.writer.stream(stream).await?.append("first").await?;
        until("the first entry", || here.len() > before).await?;
        // Late comparisons would otherwise fall into the measured time.
        crate::nodes::pause(Duration::from_millis(600)).await;
        Ok(here.subscribe(here.version()))
    }

    /// Appends at a steady pace; how long each entry took to come out of `feed` in a task of the reader's runtime, in
    /// microseconds.
    pub(crate) async fn latencies(
        &self,
        stream: &str,
        feed: Subscription,
        entries: usize,
        rate: usize,
    ) -> Outcome<Vec<f64>> {
        let (stream, pace) = (self.writer.stream(stream).await?, Pace::starting_now(rate));
        let (at_writer, at_reader) = apart(&self.runtimes);
        let reading = on(at_reader, read(feed, entries, pace));
        let appending = async {
            match self.appender {
                Appender::Task => on(at_writer, append_in_task(stream, entries, pace)).await?,
                Appender::Thread => {
                    let thread = move || futures::executor::block_on(append_in_thread(stream, entries, pace));
                    tokio::task::spawn_blocking(thread).await?
                }
            }
        };
        let (latencies, appended) = futures::future::join(reading, appending).await;
        appended?;
        latencies?
    }

    pub(crate) fn bytes_sent(&self) -> u64 {
        self.writer.bytes_sent() + self.reader.bytes_sent()
    }

    pub(crate) async fn close(self) -> Outcome<()> {
        self.writer.node.close().await?;
        Ok(self.reader.node.close().await?)
    }
}

fn apart(runtimes: &Option<(Apart, Apart)>) -> (Option<&Apart>, Option<&Apart>) {
    runtimes.as_ref().map_or((None, None), |(writer, reader)| (Some(writer), Some(reader)))
}

/// Runs something in a task, at a device that has a runtime of its own or in the program's.
#[expect(clippy::disallowed_methods, reason = "a benchmark is an application")]
async fn on<T: Send + 'static>(
    place: Option<&Apart>,
    work: impl Future<Output = T> + Send + 'static,
) -> Outcome<T> {
    match place {
        Some(apart) => apart.run(work).await,
        None => Ok(tokio::spawn(work).await?),
    }
}

/// When what is appended is due. A payload says when it really was, in nanoseconds since the start.
#[derive(Clone, Copy)]
struct Pace {
    start: Instant,
    rate: usize,
}

impl Pace {
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
    fn starting_now(rate: usize) -> Self {
        Self { start: Instant::now(), rate }
    }

    fn due(self, entry: usize) -> Duration {
        Duration::from_secs_f64(entry as f64 / self.rate as f64)
    }

    fn payload(self) -> Vec<u8> {
        let mut payload = vec![0; PAYLOAD];
        payload[..8].copy_from_slice(&(self.start.elapsed().as_nanos() as u64).to_le_bytes());
        payload
    }

    /// How long ago the payload was made, in microseconds.
    fn age(self, payload: &[u8]) -> Option<f64> {
        let sent = Duration::from_nanos(u64::from_le_bytes(*payload.first_chunk()?));
        Some(self.start.elapsed().saturating_sub(sent).as_secs_f64() * 1e6)
    }
}

/// Appends when timers of the runtime fire, so every millisecond what is due by then.
async fn append_in_task(stream: EventStream, entries: usize, pace: Pace) -> Outcome<()> {
    for entry in 0..entries {
        while let Some(early) = pace.due(entry).checked_sub(pace.start.elapsed()).filter(|by| !by.is_zero()) {
            crate::nodes::pause(early).await;
        }
        stream.append(pace.payload()).await?;
    }
    Ok(())
}

/// Appends to the microsecond. The thread does nothing else, and spins just before each entry.
#[expect(clippy::disallowed_methods, reason = "a benchmark paces itself in real time")]
async fn append_in_thread(stream: EventStream, entries: usize, pace: Pace) -> Outcome<()> {
    for entry in 0..entries {
        let due = pace.due(entry);
        if let Some(sleep) = due.checked_sub(pace.start.elapsed() + SPIN) {
            std::thread::sleep(sleep);
        }
        while pace.start.elapsed() < due {
            std::hint::spin_loop();
        }
        stream.append(pace.payload()).await?;
    }
    Ok(())
}

async fn read(mut feed: Subscription, entries: usize, pace: Pace) -> Outcome<Vec<f64>> {
    let mut latencies = Vec::with_capacity(entries);
    while latencies.len() < entries {
        match feed.next().await {
            Some(Ok(Arrival::Entry { entry, .. })) => latencies.extend(pace.age(entry.payload())),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err("the subscription ended".into()),
        }
    }
    Ok(latencies)
}

/// The same in virtual time over a link that loses frames.
pub(crate) fn lossy(options: &Options) -> Outcome<()> {
    let loss = options.loss.unwrap_or_default();
    for entries in &options.entries {
        for rate in &options.rates {
            let profile = LinkProfile {
                loss: Chance::new(loss),
                delay: Delay::fixed(DELAY),
                max_frame: 1_200,
                ..LinkProfile::perfect()
            };
            let period = Duration::from_secs_f64(1.0 / *rate as f64);
            let clocks = Clocks::now();
            let outcome = simulated::live(profile, *entries, period, 0)?;
            let (_, cpu) = clocks.elapsed();
            let mut latencies = outcome.latencies;
            let trips = 2.0 * DELAY.as_secs_f64() * 1e6;
            let late = latencies.iter().filter(|latency| **latency > 3.0 * trips).count();
            // The first acknowledgement that passes over the lost frame is that of the next one, and frames may overtake each
            // other by an eighth of a round trip; where the next entry is later than that, the probe timeout notices.
            let noticeable = trips * 9.0 / 8.0 + (period.as_secs_f64() * 1e6).min(trips / 8.0);
            let too_late = latencies.iter().filter(|latency| **latency > noticeable + 2.0 * trips).count();
            let measures = Measures {
                entries: *entries as u64,
                cpu_seconds: cpu,
                bytes: outcome.bytes,
                rounds: quantile(&mut latencies, 1.0) / trips,
                peak_mb: 0.0,
            };
            row(options, &measures, *rate, &mut latencies)
                .figure("loss", loss, 3)
                .figure("round_trip_us", trips, 0)
                .figure("p999_us", quantile(&mut latencies, 0.999), 1)
                .count("above_three_round_trips", late as u64)
                .figure("noticeable_us", noticeable, 0)
                .figure("p50_rounds", quantile(&mut latencies, 0.5) / trips, 2)
                .figure("p99_rounds", quantile(&mut latencies, 0.99) / trips, 2)
                .figure("p999_rounds", quantile(&mut latencies, 0.999) / trips, 2)
                .count("two_round_trips_after_noticeable", too_late as u64)
                .print(options.json);
        }
    }
    Ok(())
}
