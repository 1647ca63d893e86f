//! One result: printed as a JSON object on a line of its own, or as words.

use std::fmt::Write as _;

/// A result that is being put together. Fields keep their order.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    fields: Vec<(&'static str, String)>,
}

impl Row {
    /// A row of ours about `work`, with what every row has. Figures that the work does not have are zero.
    pub(crate) fn new(work: &'static str) -> Self {
        let row = Self { fields: Vec::new() }.text("work", work).text("system", "anabranch");
        row.text("version", env!("CARGO_PKG_VERSION"))
    }

    /// The measures that all systems share.
    pub(crate) fn measures(self, measures: &Measures) -> Self {
        let Measures { entries, cpu_seconds, bytes, rounds, peak_mb } = *measures;
        self.count("entries", entries)
            .figure("cpu_seconds", cpu_seconds, 6)
            .count("bytes", bytes)
            .figure("rounds", rounds, 1)
            .figure("peak_mb", peak_mb, 2)
            .figure(
                "entries_per_cpu_second",
                if cpu_seconds > 0.0 { entries as f64 / cpu_seconds } else { 0.0 },
                0,
            )
    }

    pub(crate) fn text(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, format!("\"{value}\"")));
        self
    }

    pub(crate) fn flag(mut self, name: &'static str, value: bool) -> Self {
        self.fields.push((name, value.to_string()));
        self
    }

    pub(crate) fn count(mut self, name: &'static str, value: u64) -> Self {
        self.fields.push((name, value.to_string()));
        self
    }

    pub(crate) fn figure(mut self, name: &'static str, value: f64, digits: usize) -> Self {
        self.fields.push((name, format!("{value:.digits$}")));
        self
    }

    /// Prints it.
    pub(crate) fn print(&self, json: bool) {
        let mut line = String::new();
        for (name, value) in &self.fields {
            let written = if json {
                write!(line, "{}\"{name}\":{value}", if line.is_empty() { "{" } else { "," })
            } else if matches!(*name, "system" | "version") {
                Ok(())
            } else if *name == "work" {
                write!(line, "{}:", value.trim_matches('"'))
            } else {
                write!(line, " {name} {}", value.trim_matches('"'))
            };
            written.expect("writing to a string never fails");
        }
        println!("{line}{}", if json { "}" } else { "" });
    }
}

/// What is measured of any work.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Measures {
    pub(crate) entries: u64,
    /// Of all nodes together.
    pub(crate) cpu_seconds: f64,
    /// In frames, as handed to the ports of all nodes.
    pub(crate) bytes: u64,
    /// Round trips.
    pub(crate) rounds: f64,
    /// Memory beyond what was held before and what the stores came to hold.
    pub(crate) peak_mb: f64,
}

/// Bytes in MB.
pub(crate) fn mb(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
