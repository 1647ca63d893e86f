//! What a person sees, and what a program reads.
//!
//! A person sees a bar per device while it runs (on standard error, and only if that is a terminal), then a
//! table and one sentence. With `--json` there is one JSON object on standard output and nothing else.

use std::fmt::Write as _;

use indicatif::{HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Redraws of the bars per second: smooth to the eye and no load.
const REDRAWS_PER_SECOND: u8 = 10;

/// The bars of a run.
pub(crate) struct Display {
    bars: Vec<ProgressBar>,
}

/// Where a device stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Status {
    /// Entries held, of all devices.
    pub(crate) held: u64,
    /// Connected or meant to be.
    pub(crate) presence: Presence,
    /// Bytes sent so far.
    pub(crate) bytes_sent: u64,
}

/// Whether a device can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Online,
    Offline,
    Killed,
}

impl Presence {
    fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Killed => "killed",
        }
    }
}

impl Display {
    /// A bar for each of `devices`, to fill up to `entries`; no bars if `quiet`.
    pub(crate) fn new(devices: usize, entries: usize, quiet: bool) -> Self {
        let target = if quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND)
        };
        let all = MultiProgress::with_draw_target(target);
        let style =
            ProgressStyle::with_template("{prefix:10} [{bar:40}] {human_pos:>7}/{human_len} entries  {msg}")
                .expect("the template is a constant")
                .progress_chars("=> ");
        let bars = (0..devices)
            .map(|device| {
                let bar = ProgressBar::new(entries as u64).with_style(style.clone());
                all.add(bar.with_prefix(name(device)))
            })
            .collect();
        Self { bars }
    }

    /// Shows where `device` stands.
    pub(crate) fn update(&self, device: usize, status: Status) {
        let bar = &self.bars[device];
        bar.set_position(status.held);
        bar.set_message(format!("{:7}  {} sent", status.presence.word(), HumanBytes(status.bytes_sent)));
    }

    /// Removes the bars: the table says it all.
    pub(crate) fn clear(&self) {
        for bar in &self.bars {
            bar.finish_and_clear();
        }
    }
}

/// What a device is called.
pub(crate) fn name(device: usize) -> String {
    format!("device {}", device + 1)
}

/// What a run came to, as `--json` prints it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    /// Transactions of the trace that carry patches.
    pub(crate) entries: usize,
    /// Authors, each with a device.
    pub(crate) devices: usize,
    /// All devices have the same version, and it holds all entries, before and after their stores were reopened.
    pub(crate) converged: bool,
    /// Each device's text equals the recorded one, before and after its store was reopened.
    pub(crate) text_matches: bool,
    /// From the first start to the moment when all were equal.
    pub(crate) seconds: f64,
    /// Entries per second of that time.
    pub(crate) entries_per_second: f64,
    /// Bytes that all devices sent, with everything around the payloads.
    pub(crate) bytes_sent: u64,
    /// Bytes of all payloads, once each.
    pub(crate) bytes_payload: u64,
}

/// What became of one device.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeviceOutcome {
    pub(crate) held: u64,
    pub(crate) written: u64,
    pub(crate) written_offline: u64,
    pub(crate) times_offline: u64,
    pub(crate) killed: bool,
    pub(crate) bytes_sent: u64,
    pub(crate) text_matches: bool,
}

impl Outcome {
    /// Whether everything is as it must be.
    pub(crate) fn is_good(&self) -> bool {
        self.converged && self.text_matches
    }

    /// The one line for programs.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and booleans serialize")
    }

    /// A table and one sentence.
    pub(crate) fn table(&self, devices: &[DeviceOutcome]) -> String {
        let mut table = format!(
            "{:10} {:>9} {:>9} {:>12} {:>9} {:>7} {:>12}  text\n",
            "", "entries", "written", "of it alone", "offline", "killed", "sent"
        );
        for (device, outcome) in devices.iter().enumerate() {
            let _ = writeln!(
                table,
                "{:10} {:>9} {:>9} {:>12} {:>9} {:>7} {:>12}  {}",
                name(device),
                HumanCount(outcome.held).to_string(),
                HumanCount(outcome.written).to_string(),
                HumanCount(outcome.written_offline).to_string(),
                format!("{} x", outcome.times_offline),
                if outcome.killed { "once" } else { "" },
                HumanBytes(outcome.bytes_sent).to_string(),
                if outcome.text_matches { "matches" } else { "DIFFERS" },
            );
        }
        let _ = writeln!(table, "\n{}", self.sentence());
        table
    }

    fn sentence(&self) -> String {
        let entries = HumanCount(self.entries as u64);
        let devices =
            if self.devices == 1 { "1 device".to_owned() } else { format!("{} devices", self.devices) };
        match (self.converged, self.text_matches) {
            (true, true) => format!(
                "{entries} entries by {devices} met in {:.1} s ({} entries/s): every device has the same entries and \
                 the recorded text, and still has after its store was closed and reopened.",
                self.seconds,
                HumanCount(self.entries_per_second as u64),
            ),
            (false, _) => {
                format!(
                    "After {:.1} s the {devices} do not all have the same {entries} entries.",
                    self.seconds
                )
            }
            (true, false) => {
                format!("All {entries} entries are on the {devices}, but not every text is the recorded one.")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            entries: 23_136,
            devices: 3,
            converged: true,
            text_matches: true,
            seconds: 2.0,
            entries_per_second: 11_568.0,
            bytes_sent: 4,
            bytes_payload: 2,
        }
    }

    #[test]
    fn the_json_line_has_the_promised_fields_in_order() {
        assert_eq!(
            outcome().json(),
            r#"{"entries":23136,"devices":3,"converged":true,"text_matches":true,"seconds":2.0,"entries_per_second":11568.0,"bytes_sent":4,"bytes_payload":2}"#
        );
    }

    #[test]
    fn the_sentence_tells_a_good_run_from_a_bad_one() {
        let good = outcome();
        assert!(good.is_good() && good.table(&[]).contains("23,136 entries by 3 devices"));
        let apart = Outcome { converged: false, ..outcome() };
        assert!(!apart.is_good() && apart.table(&[]).contains("do not all have the same"));
        let wrong = Outcome { text_matches: false, ..outcome() };
        let table = wrong.table(&[DeviceOutcome::default()]);
        assert!(!wrong.is_good() && table.contains("DIFFERS") && table.contains("not every text"));
    }

    #[test]
    fn a_quiet_display_takes_updates_and_shows_nothing() {
        let display = Display::new(2, 10, true);
        display.update(1, Status { held: 3, presence: Presence::Offline, bytes_sent: 7 });
        assert!(display.bars.iter().all(ProgressBar::is_hidden));
        display.clear();
    }
}
