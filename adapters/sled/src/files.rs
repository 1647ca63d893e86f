//! The directory of a store: whose it is, who has it open, and how what is in it gets onto the disk.
//!
//! ```text
//! notes.db/
//!   anabranch     marker: "anabranch sled store, format 1"
//!   lock          locked while the store is open
//!   journal       small changes on their way into sled (journal.rs)
//!   sled/         sled's own files: conf, db, snap.*, blobs/
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anabranch::application::ports::StoreError;
use anabranch::infrastructure::packed;

const MARKER: &str = "anabranch";
const MARKER_TEXT: &str = "anabranch sled store, format ";
/// The marker while it is being written.
const DRAFT: &str = "anabranch.new";
const LOCK: &str = "lock";
pub(crate) const SLED: &str = "sled";
/// How often and how long apart the lock is tried: a process that starts another one lends it its locks for
/// the moment between fork and exec.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

pub(crate) fn io_error(what: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::Io(format!("{what} {}: {error}", path.display()).into())
}

fn shown(path: &Path) -> Arc<str> {
    path.display().to_string().into()
}

#[allow(clippy::disallowed_methods, reason = "waits for another process, on a thread of the store")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Takes possession of the directory `path`, making it if need be. The store is ours while the file is open.
pub(crate) fn claim(path: &Path) -> Result<File, StoreError> {
    let location = |why: &str| StoreError::Location(format!("{}: {why}", path.display()).into());
    match fs::metadata(path) {
        Ok(found) if !found.is_dir() => return Err(location("it is not a directory")),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match fs::create_dir(path).map_err(|error| (error.kind(), error)) {
                Ok(()) => {}
                // Somebody else made it in this moment.
                Err((io::ErrorKind::AlreadyExists, _)) if path.is_dir() => {}
                Err((io::ErrorKind::AlreadyExists, _)) => return Err(location("it is a link to nowhere")),
                Err((io::ErrorKind::NotFound, _)) => {
                    return Err(location("the parent directory does not exist"));
                }
                Err((_, error)) => return Err(io_error("cannot create", path, &error)),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(location("the parent is not a directory"));
        }
        Err(error) => return Err(io_error("cannot look at", path, &error)),
    }
    let known = marker(path)?;
    if !known {
        let entries = fs::read_dir(path).map_err(|error| io_error("cannot list", path, &error))?;
        for entry in entries {
            let entry = entry.map_err(|error| io_error("cannot list", path, &error))?;
            // What a crash before the marker was written leaves.
            let is_ours = entry.file_name() == DRAFT || entry.file_name() == LOCK;
            // Or somebody else makes the store in this moment: then the marker came before the rest.
            if !is_ours && !marker(path)? {
                return Err(location("the directory holds something else"));
            }
        }
    }
    let at = path.join(LOCK);
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    let lock = options.open(&at).map_err(|error| io_error("cannot open", &at, &error))?;
    for tries_left in (0..LOCK_TRIES).rev() {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if tries_left > 0 => pause(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(shown(path))),
            Err(TryLockError::Error(error)) => return Err(io_error("cannot lock", &at, &error)),
        }
    }
    if !marker(path)? {
        let draft = path.join(DRAFT);
        write_marker(path, &draft).map_err(|error| io_error("cannot write", &draft, &error))?;
    }
    Ok(lock)
}

fn write_marker(path: &Path, draft: &Path) -> io::Result<()> {
    let mut file = File::create(draft)?;
    writeln!(file, "{MARKER_TEXT}{}", packed::FORMAT)?;
    file.sync_all()?;
    fs::rename(draft, path.join(MARKER))?;
    sync_directory(path)?;
    // The entry of the directory itself; its parent may not be ours to open.
    let parent = path.canonicalize()?;
    parent.parent().map_or(Ok(()), |parent| sync_directory(parent).or(Ok(())))
}

/// Whether `path` holds a store of a format that we know.
fn marker(path: &Path) -> Result<bool, StoreError> {
    let at = path.join(MARKER);
    let text = match fs::read_to_string(&at) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_error("cannot read", &at, &error)),
    };
    let found = text.strip_prefix(MARKER_TEXT).and_then(|rest| rest.trim_end().parse().ok());
    match found {
        Some(found) if found > packed::FORMAT => {
            Err(StoreError::NewerFormat { found, supported: packed::FORMAT })
        }
        Some(_) => Ok(true),
        None => Err(StoreError::Location(
            format!("{}: the file {MARKER:?} in it is not ours", path.display()).into(),
        )),
    }
}

#[cfg(unix)]
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "other systems cannot sync a directory")]
pub(crate) fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

/// How one file is synced; tests look on.
pub(crate) type SyncFile = dyn Fn(&Path, &File) -> io::Result<()> + Send + Sync;

/// sled's files, and which of them are on the disk as they are.
///
/// sled writes `db` all the time; `blobs/*` once each, for nodes too large for a segment, and without ever
/// syncing them; `snap.*` and `conf` when it is opened.
pub(crate) struct Files {
    directory: PathBuf,
    blobs: PathBuf,
    db: File,
    /// The other files, with length and modification time when they were synced.
    synced: BTreeMap<PathBuf, (u64, SystemTime)>,
    sync: Arc<SyncFile>,
}

impl Files {
    /// The files of the sled database in `directory`, which is open already.
    pub(crate) fn new(directory: &Path, sync: Arc<SyncFile>) -> Result<Self, StoreError> {
        let at = directory.join("db");
        let db = File::open(&at).or_else(|_| OpenOptions::new().write(true).open(&at));
        let db = db.map_err(|error| io_error("cannot open", &at, &error))?;
        let blobs = directory.join("blobs");
        Ok(Self { directory: directory.to_owned(), blobs, db, synced: BTreeMap::new(), sync })
    }

    /// Puts onto the disk whatever sled wrote so far, and returns the bytes that its files have.
    pub(crate) fn sync(&mut self) -> Result<u64, StoreError> {
        let at = self.directory.clone();
        self.sync_others().map_err(|error| io_error("cannot sync", &at, &error))
    }

    fn sync_others(&mut self) -> io::Result<u64> {
        let (mut found, mut bytes) = (BTreeMap::new(), 0);
        for directory in [&self.blobs, &self.directory] {
            let mut news = false;
            for entry in fs::read_dir(directory)? {
                let path = entry?.path();
                let is_db = *directory == self.directory && path.file_name().is_some_and(|name| name == "db");
                // sled's threads remove blobs meanwhile.
                let Some(now) = present(fs::metadata(&path))?.filter(fs::Metadata::is_file) else { continue };
                bytes += now.len();
                if is_db {
                    continue;
                }
                let state = (now.len(), now.modified()?);
                if self.synced.get(&path) != Some(&state) {
                    let Some(file) = present(File::open(&path))? else { continue };
                    (self.sync)(&path, &file)?;
                    news = true;
                }
                found.insert(path, state);
            }
            if news {
                sync_directory(directory)?;
            }
        }
        self.synced = found;
        (self.sync)(&self.directory.join("db"), &self.db)?;
        Ok(bytes)
    }

    /// Describes the place of the store: differs for every copy.
    pub(crate) fn residence(&self, store: &Path) -> io::Result<String> {
        let machine = ["/etc/machine-id", "/var/lib/dbus/machine-id"].iter().find_map(|path| {
            fs::read_to_string(path).ok().map(|id| id.trim().to_owned()).filter(|id| !id.is_empty())
        });
        let (directory, db) = (place(&fs::metadata(store)?), place(&self.db.metadata()?));
        Ok(format!("machine {}; directory {directory}; db {db}", machine.unwrap_or_default()))
    }
}

fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn place(of: &fs::Metadata) -> String {
    // Not every file system knows when a file was born.
    let born = of.created().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let born = born.map_or(0, |since| since.as_nanos());
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        format!("{}:{}:{born}", of.dev(), of.ino())
    }
    #[cfg(not(unix))]
    {
        format!("{born}")
    }
}
