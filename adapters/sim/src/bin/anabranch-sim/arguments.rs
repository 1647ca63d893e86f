//! The command line.

use std::ops::RangeInclusive;

use anabranch_sim::FaultProfile;

use crate::Usage;

/// Options that take no value.
const SWITCHES: [&str; 6] = ["json", "hashes", "events", "shrink", "no-build", "help"];

/// Nodes of a run at most: in `run` each dials all others, and nobody waits for more.
const MOST_NODES: usize = 256;

/// Options by name.
pub(crate) struct Arguments {
    pairs: Vec<(String, String)>,
}

impl Arguments {
    /// Reads `--name value`, `--name=value` and switches, each at most once.
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Self, Usage> {
        let mut words = words.peekable();
        let mut pairs: Vec<(String, String)> = Vec::new();
        while let Some(word) = words.next() {
            let option = if word == "-h" { Some("help") } else { word.strip_prefix("--") };
            let option =
                option.ok_or_else(|| Usage(format!("not an option: {word:?}; options begin with --")))?;
            let (name, given) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (option, None),
            };
            let switch = SWITCHES.contains(&name);
            let value = match given {
                Some(_) if switch => return Err(Usage(format!("--{name} takes no value"))),
                None if switch => String::new(),
                Some(value) => value,
                None => {
                    let value = words.next_if(|word| !word.starts_with("--"));
                    value.ok_or_else(|| Usage(format!("--{name} needs a value")))?
                }
            };
            if pairs.iter().any(|(other, _)| other == name) {
                return Err(Usage(format!("--{name} was given twice; give it once")));
            }
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
        self.pairs.iter().map(|(name, value)| match SWITCHES.contains(&name.as_str()) {
            true => format!("--{name}"),
            false => format!("--{name}={value}"),
        })
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn switch(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    pub(crate) fn number(&self, name: &str, default: u64) -> Result<u64, Usage> {
        match self.text(name) {
            Some(text) => text
                .parse()
                .map_err(|_| Usage(format!("--{name}: not a number from 0 to 2^64 - 1: {text:?}"))),
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
    pub(crate) fn seeds(&self, default: u64) -> Result<RangeInclusive<u64>, Usage> {
        let (start, count) = (self.number("start", 0)?, self.count("seeds", default)?);
        let last = start.checked_add(count - 1);
        let last = last.ok_or_else(|| {
            Usage(format!("--start {start} --seeds {count}: no such seeds, the last is {}", u64::MAX))
        })?;
        Ok(start..=last)
    }

    /// Refuses options that the command does not have.
    pub(crate) fn only(&self, command: &str, known: &str) -> Result<(), Usage> {
        let stranger = self.pairs.iter().find(|(name, _)| !known.split(' ').any(|known| known == name));
        stranger.map_or(Ok(()), |(name, _)| {
            let has = known.replace(' ', ", --");
            Err(Usage(format!("{command} has no option --{name}; it has --{has}")))
        })
    }

    pub(crate) fn nodes(&self) -> Result<RangeInclusive<usize>, Usage> {
        self.nodes_up_to(MOST_NODES)
    }

    pub(crate) fn nodes_up_to(&self, limit: usize) -> Result<RangeInclusive<usize>, Usage> {
        let text = self.text("nodes").unwrap_or("3..5");
        let bad = || Usage(format!("--nodes: not a number from 1 or a range like 3..5: {text:?}"));
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
        FaultProfile::named(name)
            .ok_or_else(|| Usage(format!("no such profile: {name:?}; anabranch-sim help names them")))
    }
}
