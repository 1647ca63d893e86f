//! What the rounds came to: medians and spread, as a table or as JSON. Called by `main`.

use crate::Options;
use crate::stage::{LIVE, Measure};
use crate::systems::{Outcome, Spec};

/// One system on one work, all rounds.
pub(crate) struct Series {
    work: String,
    rate: Option<usize>,
    system: String,
    version: String,
    rounds: Vec<Measure>,
}

/// Puts in what a process printed.
pub(crate) fn take(all: &mut Vec<Series>, spec: &Spec, printed: &str) -> Outcome<()> {
    for line in printed.lines() {
        let measure = Measure::parse(line).ok_or_else(|| format!("{} printed {line}", spec.name))?;
        let system = if measure.variant.is_empty() {
            spec.name.to_owned()
        } else {
            format!("{} ({})", spec.name, measure.variant)
        };
        let (work, rate) = (measure.work.clone(), measure.rate);
        let same =
            |series: &&mut Series| series.work == work && series.rate == rate && series.system == system;
        match all.iter_mut().find(same) {
            Some(series) => series.rounds.push(measure),
            None => all.push(Series { work, rate, system, version: spec.version(), rounds: vec![measure] }),
        }
    }
    Ok(())
}

pub(crate) fn print(options: &Options, all: &[Series], chosen: &[&Spec]) {
    let mut works: Vec<(String, Option<usize>)> = Vec::new();
    for series in all {
        let work = (series.work.clone(), series.rate);
        if !works.contains(&work) {
            works.push(work);
        }
    }
    if options.json {
        all.iter().for_each(json);
        return;
    }
    for (work, rate) in &works {
        let of_work: Vec<&Series> =
            all.iter().filter(|series| series.work == *work && series.rate == *rate).collect();
        match rate {
            Some(rate) => live(*rate, &of_work),
            None => table(work, &of_work),
        }
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("\nLoad of the machine at the end: {}", load.split(' ').take(2).collect::<Vec<_>>().join(", "));
    println!("\nWhat each does, and what it does not, on this work:");
    for spec in chosen {
        println!("  {} {}: {}", spec.name, spec.version(), spec.omits);
    }
}

impl Series {
    /// All figures of one kind, sorted.
    fn figures(&self, of: impl Fn(&Measure) -> Option<f64>) -> Vec<f64> {
        let mut figures: Vec<f64> = self.rounds.iter().filter_map(of).collect();
        figures.sort_by(f64::total_cmp);
        figures
    }

    fn median(&self, of: impl Fn(&Measure) -> Option<f64>) -> Option<f64> {
        let figures = self.figures(of);
        figures.get(figures.len() / 2).copied()
    }

    fn cpu(&self) -> f64 {
        self.median(|measure| measure.cpu).unwrap_or(0.0)
    }

    fn bytes(&self) -> Option<f64> {
        self.median(|measure| measure.bytes.map(|bytes| bytes as f64))
    }

    fn entries(&self) -> u64 {
        self.rounds.first().map_or(0, |measure| measure.entries)
    }

    fn runs(&self) -> usize {
        self.figures(|measure| measure.cpu).len()
    }

    fn speed(&self) -> Option<f64> {
        (self.cpu() > 0.0 && self.entries() > 0).then(|| self.entries() as f64 / self.cpu())
    }

    fn spread(&self, of: impl Fn(&Measure) -> Option<f64>) -> (f64, f64) {
        let figures = self.figures(of);
        (figures.first().copied().unwrap_or(0.0), figures.last().copied().unwrap_or(0.0))
    }
}

fn json(series: &Series) {
    let number =
        |value: Option<f64>, digits: usize| value.map_or("null".into(), |value| format!("{value:.digits$}"));
    let (least, most) = series.spread(|measure| measure.cpu);
    println!(
        "{{\"work\":\"{}\",\"system\":\"{}\",\"version\":\"{}\",\"entries\":{},\"cpu_seconds\":{:.6},\"bytes\":{},\
         \"rounds\":{},\"peak_mb\":{},\"entries_per_cpu_second\":{},\"cpu_seconds_least\":{least:.6},\
         \"cpu_seconds_most\":{most:.6},\"grown_mb\":{},\"p50_us\":{},\"p99_us\":{},\"rate\":{},\"runs\":{}}}",
        series.work,
        series.system,
        series.version,
        series.entries(),
        series.cpu(),
        number(series.bytes(), 0),
        number(series.median(|measure| measure.trips), 1),
        number(series.median(|measure| measure.peak_mb), 2),
        number(series.speed(), 0),
        number(series.median(|measure| measure.grown_mb), 2),
        number(series.median(|measure| measure.p50_us), 1),
        number(series.median(|measure| measure.p99_us), 1),
        series.rate.map_or("null".into(), |rate| rate.to_string()),
        series.runs()
    );
}

/// Prints cells as a table that Markdown understands, too.
fn lines(head: &[&str], rows: &[Vec<String>]) {
    let widths: Vec<usize> = (0..head.len())
        .map(|at| {
            rows.iter()
                .map(|row| row[at].chars().count())
                .chain([head[at].chars().count()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |cells: &[String]| {
        let cells: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("| {} |", cells.join(" | "));
    };
    line(&head.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    println!("|{}|", widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("|"));
    rows.iter().for_each(|row| line(row));
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".into(), |value| format!("{value:.digits$}"))
}

fn ours<'a>(all: &[&'a Series]) -> Option<&'a Series> {
    all.iter().find(|series| series.system == "anabranch").copied()
}

fn table(work: &str, all: &[&Series]) {
    let entries = all.first().map_or(0, |series| series.entries());
    println!(
        "\n{work}: {entries} entries, {} rounds\n",
        all.iter().map(|series| series.runs()).max().unwrap_or(0)
    );
    let ours = ours(all);
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|series| {
            let (least, most) = series.spread(|measure| measure.cpu);
            let per_entry = series.bytes().map(|bytes| bytes / entries.max(1) as f64);
            let ratio = |mine: Option<f64>, theirs: Option<f64>| {
                number(
                    mine.zip(theirs).filter(|(_, theirs)| *theirs > 0.0).map(|(mine, theirs)| mine / theirs),
                    2,
                )
            };
            vec![
                format!("{} {}", series.system, series.version),
                format!("{:.2}", series.cpu() * 1e3),
                format!("{:.2} to {:.2}", least * 1e3, most * 1e3),
                number(series.speed(), 0),
                ratio(Some(series.cpu()), ours.map(Series::cpu)),
                number(series.bytes(), 0),
                number(per_entry.filter(|_| entries > 0), 1),
                ratio(series.bytes(), ours.and_then(Series::bytes)),
                number(series.median(|measure| measure.trips), 1),
                number(series.median(|measure| measure.peak_mb), 1),
                number(series.median(|measure| measure.grown_mb), 1),
            ]
        })
        .collect();
    let head = [
        "system",
        "CPU ms",
        "spread",
        "entries per CPU s",
        "CPU, to ours",
        "bytes",
        "per entry",
        "bytes, to ours",
        "round trips",
        "peak MB",
        "of it grown",
    ];
    lines(&head, &rows);
}

fn live(rate: usize, all: &[&Series]) {
    println!("\n{LIVE}: {rate} per second, {} entries\n", all.first().map_or(0, |series| series.entries()));
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|series| {
            let (least, most) = series.spread(|measure| measure.p50_us);
            vec![
                format!("{} {}", series.system, series.version),
                number(series.median(|measure| measure.p50_us), 0),
                format!("{least:.0} to {most:.0}"),
                number(series.median(|measure| measure.p99_us), 0),
                number(Some(series.cpu() * 1e6 / series.entries().max(1) as f64), 0),
                number(series.bytes().map(|bytes| bytes / series.entries().max(1) as f64), 0),
                number(series.median(|measure| measure.peak_mb), 1),
            ]
        })
        .collect();
    lines(&["system", "p50 µs", "spread", "p99 µs", "CPU µs per entry", "bytes per entry", "peak MB"], &rows);
}
