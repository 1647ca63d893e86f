//! The command line.

use std::ops::{Range, RangeInclusive};

use anabranch_sim::FaultProfile;

use crate::Usage;

/// Options that take no value.
const SWITCHES: [&str; 5] = ["json", "hashes", "events", "shrink", "no-build"];

/// Nodes of a run at most: in `run` each dials all others, and nobody waits for more.
const MOST_NODES: usize = 256;

/// Options by name.
pub(crate) struct Arguments {
    pairs: Vec<(String, String)>,
}

impl Arguments {
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Self, Usage> {
        let mut words = words;
        let mut pairs = Vec::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or_else(|| Usage(format!("not an option: {word:?}")))?;
            let value = if SWITCHES.contains(&name) {
                String::new()
            } else {
                words.next().ok_or_else(|| Usage(format!("--{name} needs a value")))?
            };
            pairs.push((name.to_owned(), value));
        }
        Ok(Self { pairs })
    }

    /// The options as words, to hand them on.
    #[cfg_attr(
        anabranch_mutants,
        expect(dead_code, reason = "the program with planted bugs hands over to nobody")
    )]
    pub(crate) fn words(&self) -> impl Iterator<Item = String> + '_ {
        self.pairs.iter().flat_map(|(name, value)| {
            let value = Some(value.clone()).filter(|_| !SWITCHES.contains(&name.as_str()));
            [format!("--{name}")].into_iter().chain(value)
        })
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn switch(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    pub(crate) fn number(&self, name: &str, default: u64) -> Result<u64, Usage> {
        match self.text(name) {
            Some(text) => text.parse().map_err(|_| Usage(format!("--{name}: not a number: {text:?}"))),
            None => Ok(default),
        }
    }

    /// A number of which none would mean nothing.
    pub(crate) fn count(&self, name: &str, default: u64) -> Result<u64, Usage> {
        match self.number(name, default)? {
            0 => Err(Usage(format!("--{name}: at least 1"))),
            count => Ok(count),
        }
    }

    /// The seeds from `--start`, so many as `--seeds` says.
    pub(crate) fn seeds(&self, default: u64) -> Result<Range<u64>, Usage> {
        let (start, count) = (self.number("start", 0)?, self.count("seeds", default)?);
        let end = start.checked_add(count);
        let end = end.ok_or_else(|| {
            Usage(format!("--start {start} --seeds {count}: no such seeds, the last is {}", u64::MAX - 1))
        })?;
        Ok(start..end)
    }

    /// Refuses options that the command does not have.
    pub(crate) fn only(&self, command: &str, known: &str) -> Result<(), Usage> {
        let stranger = self.pairs.iter().find(|(name, _)| !known.split(' ').any(|known| known == name));
        stranger.map_or(Ok(()), |(name, _)| Err(Usage(format!("{command} has no option --{name}"))))
    }

    pub(crate) fn nodes(&self) -> Result<RangeInclusive<usize>, Usage> {
        self.nodes_up_to(MOST_NODES)
    }

    pub(crate) fn nodes_up_to(&self, limit: usize) -> Result<RangeInclusive<usize>, Usage> {
        let text = self.text("nodes").unwrap_or("3..5");
        let bad = || Usage(format!("--nodes: not a number or range: {text:?}"));
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let (least, most) = (least.parse().map_err(|_| bad())?, most.parse().map_err(|_| bad())?);
        if least == 0 || least > most {
            return Err(bad());
        }
        if most > limit { Err(Usage(format!("--nodes {text}: at most {limit}"))) } else { Ok(least..=most) }
    }

    pub(crate) fn profile_name(&self) -> &str {
        self.text("profile").unwrap_or("swarm")
    }

    pub(crate) fn profile(&self) -> Result<FaultProfile, Usage> {
        let name = self.profile_name();
        FaultProfile::named(name).ok_or_else(|| Usage(format!("no such profile: {name:?}")))
    }
}
