//! `mutants`: would the simulator find a bug? Plants one at a time and counts the seeds until a run fails.
//!
//! The planted bugs are in the library, behind `--cfg anabranch_mutants`. A program without them builds the one that
//! has them, in a target directory of its own, and hands over to it. What was found out is kept in a file after each
//! step, so that the check may be stopped at any time and goes on where it was.

#[cfg(not(anabranch_mutants))]
use crate::checkout;
use crate::{Usage, arguments::Arguments};
use anabranch::mutants::Mutant;

/// Real time for one planted bug, unless the command line says otherwise.
const SECONDS: u64 = 600;

/// The planted bugs that `--only` names; all without it.
fn wanted(arguments: &Arguments) -> Result<Vec<Mutant>, Usage> {
    let Some(names) = arguments.text("only") else { return Ok(Mutant::ALL.to_vec()) };
    names.split(',').map(named).collect()
}

fn named(name: &str) -> Result<Mutant, Usage> {
    let found = Mutant::ALL.iter().find(|mutant| mutant.name() == name);
    found.copied().ok_or_else(|| Usage(format!("no such planted bug: {name:?}")))
}

/// Real time for one planted bug: as `--seconds` says.
fn limit(arguments: &Arguments) -> Result<u64, Usage> {
    arguments.count("seconds", SECONDS)
}

#[cfg(not(anabranch_mutants))]
pub(crate) fn command(arguments: &Arguments) -> Result<bool, Usage> {
    // Before minutes go into building what would refuse.
    wanted(arguments)?;
    limit(arguments)?;
    arguments.nodes()?;
    arguments.profile()?;
    arguments.number("start", 0)?;
    checkout::needed("mutants", "")?;
    let own = std::env::current_exe().map_err(|error| Usage(error.to_string()))?;
    let target = own.ancestors().nth(2).map_or_else(|| "target".into(), |target| target.join("mutants"));
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let mut cargo = std::process::Command::new("cargo");
    cargo.args([
        "run",
        "--quiet",
        "--release",
        "-p",
        "anabranch-sim",
        "--bin",
        "anabranch-sim",
        "--",
        "mutants",
    ]);
    cargo.args(arguments.words());
    cargo.env("RUSTFLAGS", format!("{flags} --cfg anabranch_mutants")).env("CARGO_TARGET_DIR", &target);
    eprintln!("building the program with the planted bugs: this takes minutes if it is not there yet");
    let status = cargo.status().map_err(|error| {
        Usage(format!(
            "cannot run cargo: {error}\nby hand: RUSTFLAGS='--cfg anabranch_mutants' CARGO_TARGET_DIR={} \
             cargo run --release -p anabranch-sim --bin anabranch-sim -- mutants",
            target.display()
        ))
    })?;
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => Err(Usage(format!("the program with the planted bugs ended with {status}"))),
    }
}

/// Lets the planted bug loose that `--mutant` names, if any.
#[cfg(not(anabranch_mutants))]
pub(crate) fn plant(arguments: &Arguments) -> Result<(), Usage> {
    match arguments.text("mutant") {
        Some(_) => Err(Usage("--mutant needs a program built with --cfg anabranch_mutants".to_owned())),
        None => Ok(()),
    }
}

#[cfg(anabranch_mutants)]
pub(crate) use planted::{command, plant};

#[cfg(anabranch_mutants)]
mod planted {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use anabranch::mutants::{Mutant, choose};
    use anabranch_sim::notes::{self, Setting};
    use anabranch_sim::{Failure, Seed, attempt};

    use super::{limit, named, wanted};
    use crate::arguments::Arguments;
    use crate::run::now;
    use crate::{Usage, json};

    /// How many may stay hidden.
    const MAY_HIDE: usize = 1;
    /// A run that takes longer than this in real time does not end: that counts as found.
    const HANGS: Duration = Duration::from_secs(120);
    /// Real time between two notes in the file while a bug hides.
    const SAVE_EVERY: f64 = 10.0;

    /// How far the search for one bug has got.
    #[derive(Debug, Clone, Default)]
    struct Search {
        seeds: u64,
        seconds: f64,
        /// Which rule was broken, by which seed.
        found: Option<(u64, String)>,
    }

    /// All searches, and the file that they are kept in.
    struct Book {
        path: PathBuf,
        searches: BTreeMap<String, Search>,
    }

    impl Book {
        fn load(path: &Path) -> Self {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let mut searches = BTreeMap::new();
            for line in text.lines() {
                let mut words = line.splitn(5, '\t');
                let mut word = || words.next().unwrap_or_default();
                let (name, seeds, seconds) = (word(), word().parse(), word().parse());
                let (seed, rule) = (word().parse().ok(), word());
                if let (Ok(seeds), Ok(seconds)) = (seeds, seconds) {
                    let found = seed.map(|seed| (seed, rule.to_owned()));
                    searches.insert(name.to_owned(), Search { seeds, seconds, found });
                }
            }
            Self { path: path.to_owned(), searches }
        }

        fn save(&self) {
            let lines = self.searches.iter().map(|(name, search)| {
                let (seed, rule) = match &search.found {
                    Some((seed, rule)) => (seed.to_string(), rule.as_str()),
                    None => ("-".to_owned(), "-"),
                };
                format!("{name}\t{}\t{:.1}\t{seed}\t{rule}\n", search.seeds, search.seconds)
            });
            if let Err(error) = std::fs::write(&self.path, lines.collect::<String>()) {
                eprintln!("cannot keep what was found out: {error}");
            }
        }
    }

    pub(crate) fn command(arguments: &Arguments) -> Result<bool, Usage> {
        let (nodes, profile) = (arguments.nodes()?, arguments.profile()?);
        let (start, limit) = (arguments.number("start", 0)?, limit(arguments)? as f64);
        let wanted = wanted(arguments)?;
        let default = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("mutants.txt")));
        let path = arguments.text("state").map(PathBuf::from).or(default);
        let path = path.ok_or_else(|| Usage("--state FILE is needed".to_owned()))?;
        let book = Mutex::new(Book::load(&path));
        // Planted bugs panic, and say so in the report.
        std::panic::set_hook(Box::new(|_| {}));
        let run = |seed: Seed| -> Result<(), Failure> {
            let setting = Setting::draw(seed.number(), nodes.clone(), profile.clone());
            notes::run(seed, &setting)
        };
        for mutant in &wanted {
            let mut search = take(&book, mutant.name());
            let mut saved = search.seconds;
            while search.found.is_none() && search.seconds < limit {
                let seed = start + search.seeds;
                let began = now();
                let watched = watch(&book, *mutant, &search, seed);
                choose(Some(*mutant));
                let (result, _) = attempt(Seed::new(seed), &run);
                choose(None);
                watched.store(u64::MAX, Ordering::Relaxed);
                search.seeds += 1;
                if let Err(failure) = result {
                    // What fails without it was not found by it.
                    if attempt(Seed::new(seed), &run).0.is_ok() {
                        search.found = Some((seed, failure.violation.rule));
                    }
                }
                search.seconds += began.elapsed().as_secs_f64();
                if search.seconds - saved > SAVE_EVERY {
                    saved = search.seconds;
                    put(&book, mutant.name(), &search);
                }
            }
            put(&book, mutant.name(), &search);
            say!("{}", describe(*mutant, &search));
        }
        Ok(report(arguments, &book, &wanted))
    }

    /// Lets the planted bug loose that `--mutant` names, if any.
    pub(crate) fn plant(arguments: &Arguments) -> Result<(), Usage> {
        let Some(name) = arguments.text("mutant") else { return Ok(()) };
        choose(Some(named(name)?));
        Ok(())
    }

    fn take(book: &Mutex<Book>, name: &str) -> Search {
        let book = book.lock().unwrap_or_else(PoisonError::into_inner);
        book.searches.get(name).cloned().unwrap_or_default()
    }

    fn put(book: &Mutex<Book>, name: &str, search: &Search) {
        let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
        book.searches.insert(name.to_owned(), search.clone());
        book.save();
    }

    /// Ends the process if the run does not end: called again, it goes on with the next bug.
    #[allow(clippy::disallowed_methods, reason = "what a run may take is a matter of real time")]
    fn watch(book: &Mutex<Book>, mutant: Mutant, search: &Search, seed: u64) -> std::sync::Arc<AtomicU64> {
        let running = std::sync::Arc::new(AtomicU64::new(seed));
        let (watched, mut search) = (std::sync::Arc::clone(&running), search.clone());
        let path = book.lock().unwrap_or_else(PoisonError::into_inner).path.clone();
        std::thread::spawn(move || {
            let until = now() + HANGS;
            while now() < until {
                std::thread::sleep(Duration::from_millis(200));
                if watched.load(Ordering::Relaxed) == u64::MAX {
                    return;
                }
            }
            search.seeds += 1;
            search.seconds += HANGS.as_secs_f64();
            search.found = Some((seed, "the run does not end".to_owned()));
            let mut book = Book::load(&path);
            book.searches.insert(mutant.name().to_owned(), search.clone());
            book.save();
            say!("{}\ncall again to go on", describe(mutant, &search));
            std::process::exit(3);
        });
        running
    }

    fn describe(mutant: Mutant, search: &Search) -> String {
        let (name, what) = (mutant.name(), mutant.what());
        let Search { seeds, seconds, found } = search;
        match found {
            Some((seed, rule)) => {
                format!("{name:<26} {seeds:>7} seeds {seconds:>7.1} s  seed {seed} broke {rule:?}: {what}")
            }
            None => format!("{name:<26} {seeds:>7} seeds {seconds:>7.1} s  HIDDEN: {what}"),
        }
    }

    fn report(arguments: &Arguments, book: &Mutex<Book>, wanted: &[Mutant]) -> bool {
        let book = book.lock().unwrap_or_else(PoisonError::into_inner);
        let searches =
            || wanted.iter().filter_map(|mutant| Some((mutant, book.searches.get(mutant.name())?)));
        let found = searches().filter(|(_, search)| search.found.is_some()).count();
        say!("{found} of {} planted bugs found", wanted.len());
        if arguments.switch("json") {
            let each = searches().map(|(mutant, search)| {
                let rule = search.found.as_ref().map_or("null".to_owned(), |(_, rule)| json::text(rule));
                let seed = search.found.as_ref().map_or("null".to_owned(), |(seed, _)| seed.to_string());
                let value = json::object([
                    ("seeds", search.seeds.to_string()),
                    ("seconds", json::number(search.seconds)),
                    ("seed", seed),
                    ("rule", rule),
                ]);
                (mutant.name(), value)
            });
            let each = json::object(each);
            say!(
                "{}",
                json::object([
                    ("planted", wanted.len().to_string()),
                    ("found", found.to_string()),
                    ("mutants", each)
                ])
            );
        }
        found + MAY_HIDE >= wanted.len()
    }
}
