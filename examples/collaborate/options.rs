//! What the command line asks for, checked as far as it can be before anything is written.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use tempfile::TempDir;

/// The session that comes with the project.
const DEFAULT_TRACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/collaborate/data/clownschool.json.gz");

/// Replays a recorded collaboration on devices that go offline, come back and meet, over TCP on loopback.
///
/// Each author of the trace is a device with its own identity and its own store. Exit code 0 if at the end every
/// device has every entry and the recorded text, 1 if not, 2 if the input cannot be used.
#[derive(Debug, Parser)]
#[command(name = "collaborate")]
pub(crate) struct Options {
    /// The recorded session: a file in the format of josephg/editing-traces, plain or gzipped
    #[arg(long, value_name = "FILE", default_value = DEFAULT_TRACE, hide_default_value = true)]
    pub(crate) trace: PathBuf,
    /// Where each device keeps its entries
    #[arg(long, value_enum, default_value_t = StoreKind::Sled)]
    pub(crate) store: StoreKind,
    /// Directory for the stores, new or empty, kept afterwards [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Decides who is offline when, who is killed, and which frames are lost
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Share of frames to lose, from 0 to below 1
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = share)]
    pub(crate) loss: f64,
    /// Print nothing but one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreKind {
    /// In memory: nothing is written to disk
    Memory,
    /// On disk
    Sled,
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..1.0).contains(&share) { Ok(share) } else { Err("not from 0 to below 1".to_owned()) }
}

/// Where the stores go.
#[derive(Debug)]
pub(crate) enum DataDir {
    /// Chosen by the user, kept.
    Given(PathBuf),
    /// Removed when dropped.
    Temporary(TempDir),
}

/// A data directory cannot be used. Nothing in it was touched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    #[error("the data directory {0} is not empty: nothing was written")]
    Occupied(PathBuf),
    #[error("cannot use the data directory {0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

impl DataDir {
    /// Takes the directory `given`, which must be new or empty, or makes a temporary one.
    pub(crate) fn claim(given: Option<&Path>) -> Result<Self, DataDirError> {
        let Some(path) = given else {
            let made = tempfile::Builder::new().prefix("anabranch-collaborate-").tempdir();
            return made.map(Self::Temporary).map_err(|fault| DataDirError::Io(std::env::temp_dir(), fault));
        };
        let fault = |fault| DataDirError::Io(path.to_owned(), fault);
        match path.read_dir().map(|mut content| content.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Err(DataDirError::Occupied(path.to_owned())),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(path).map_err(fault)?;
            }
            Err(other) => return Err(fault(other)),
        }
        Ok(Self::Given(path.to_owned()))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(made) => made.path(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_command_line_is_well_formed_and_refuses_a_loss_of_everything() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
        assert!(Options::try_parse_from(["collaborate", "--loss", "0.3", "--store", "memory"]).is_ok());
        for bad in ["1", "-0.1", "NaN", "x"] {
            assert!(Options::try_parse_from(["collaborate", "--loss", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_occupied_data_directory_and_a_file_are_refused_untouched() {
        let place = TempDir::new().unwrap();
        let file = place.path().join("precious");
        fs::write(&file, "data").unwrap();
        assert!(matches!(DataDir::claim(Some(place.path())), Err(DataDirError::Occupied(_))));
        assert!(matches!(DataDir::claim(Some(&file)), Err(DataDirError::Io(..))));
        assert_eq!(fs::read(&file).unwrap(), b"data");
        assert_eq!(place.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_new_or_empty_directory_is_taken_and_kept_and_a_temporary_one_is_removed() {
        let place = TempDir::new().unwrap();
        let new = place.path().join("a/b");
        for _ in 0..2 {
            drop(DataDir::claim(Some(&new)).unwrap());
            assert!(new.is_dir());
        }
        let temporary = DataDir::claim(None).unwrap();
        let path = temporary.path().to_owned();
        assert!(path.is_dir());
        drop(temporary);
        assert!(!path.exists());
    }
}
