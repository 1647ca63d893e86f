//! [`Cut`] as text, for replay lines: `n=2 f=0-4,9 w=0-100 s=12000000000 c=3`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::seed::Cut;

/// Numbers that one part of a cut may leave out. A run with more acts takes half a minute and more, so that nobody
/// makes it smaller; each number takes memory.
const MOST_NUMBERS: u64 = 1_000_000;

/// A text that is not a [`Cut`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a cut: {0:?}; expected parts like n=2 f=0-4,9 w=0-100 s=12000000000 c=3, each once, with at most \
     {MOST_NUMBERS} numbers"
)]
pub struct BadCut(String);

fn write_set(f: &mut fmt::Formatter<'_>, set: impl Iterator<Item = u64>) -> fmt::Result {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in set {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    for (at, (first, last)) in ranges.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
    }
    Ok(())
}

/// The numbers that a part names; `None` if it names none, too many, or one that `T` does not have.
fn read_set<T: Ord + TryFrom<u64>>(text: &str) -> Option<BTreeSet<T>> {
    let mut set = BTreeSet::new();
    let mut left = MOST_NUMBERS;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let more = last.checked_sub(first)?;
        left = left.checked_sub(more)?.checked_sub(1)?;
        let numbers: Option<BTreeSet<T>> = (first..=last).map(|number| T::try_from(number).ok()).collect();
        set.append(&mut numbers?);
    }
    Some(set)
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        if !self.nodes.is_empty() {
            f.write_str("n=")?;
            write_set(f, self.nodes.iter().map(|node| *node as u64))?;
            space = " ";
        }
        if !self.faults.is_empty() {
            write!(f, "{space}f=")?;
            write_set(f, self.faults.iter().map(|fault| u64::from(*fault)))?;
            space = " ";
        }
        if !self.work.is_empty() {
            write!(f, "{space}w=")?;
            write_set(f, self.work.iter().copied())?;
            space = " ";
        }
        if let Some(stop) = self.stop {
            write!(f, "{space}s={stop}")?;
            space = " ";
        }
        if self.chance != 0 {
            write!(f, "{space}c={}", self.chance)?;
        }
        Ok(())
    }
}

impl FromStr for Cut {
    type Err = BadCut;

    fn from_str(text: &str) -> Result<Self, BadCut> {
        let bad = || BadCut(text.to_owned());
        let mut cut = Self::default();
        let mut seen = BTreeSet::new();
        for part in text.split_whitespace() {
            let (what, value) = part.split_once('=').ok_or_else(bad)?;
            if !seen.insert(what) {
                return Err(bad());
            }
            match what {
                "n" => cut.nodes = read_set(value).ok_or_else(bad)?,
                "f" => cut.faults = read_set(value).ok_or_else(bad)?,
                "w" => cut.work = read_set(value).ok_or_else(bad)?,
                "s" => cut.stop = Some(value.parse().map_err(|_| bad())?),
                "c" => cut.chance = value.parse().map_err(|_| bad())?,
                _ => return Err(bad()),
            }
        }
        Ok(cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_reads_back_as_it_was_written() {
        let cut = Cut {
            nodes: [2].into(),
            faults: [0, 1, 2, 9].into(),
            work: (0..100).chain([200]).collect(),
            stop: Some(12_000_000_000),
            chance: 3,
        };
        assert_eq!(cut.to_string(), "n=2 f=0-2,9 w=0-99,200 s=12000000000 c=3");
        assert_eq!(cut.to_string().parse(), Ok(cut));
        assert_eq!("".parse(), Ok(Cut::default()));
    }

    #[test]
    fn what_means_nothing_or_too_much_is_no_cut() {
        for text in [
            "x=1",
            "f=a",
            "w=",
            "w=5-3",
            "w=1-2-3",
            "n=1 n=2",
            "f=4294967296",
            "w=0-18446744073709551615",
            "w=0-999999,0",
        ] {
            assert_eq!(text.parse::<Cut>(), Err(BadCut(text.to_owned())));
        }
        assert_eq!("w=0-999999".parse::<Cut>().map(|cut| cut.work.len()), Ok(1_000_000));
        assert_eq!(
            "w=18446744073709551615".parse::<Cut>().map(|cut| cut.to_string()),
            Ok("w=18446744073709551615".into())
        );
    }
}
