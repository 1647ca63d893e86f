use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use super::*;

type Seen = Arc<Mutex<BTreeMap<PathBuf, (u64, SystemTime)>>>;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("anabranch-sled-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// All files below `path`, with length and time of the last change.
fn files_below(path: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut files_below(&path));
        } else {
            let now = fs::metadata(&path).unwrap();
            found.insert(path, (now.len(), now.modified().unwrap()));
        }
    }
    found
}

/// Opens without sled's background thread, so that files change only in our calls, noting what is synced.
fn watched(path: &Path) -> (SledBacking, Seen) {
    let seen = Seen::default();
    let note = Arc::clone(&seen);
    let sync = move |path: &Path, file: &fs::File| {
        let now = file.metadata()?;
        note.lock().unwrap().insert(path.to_owned(), (now.len(), now.modified()?));
        file.sync_data()
    };
    let backing = SledBacking::open_with(path, &SledOptions::default(), None, Arc::new(sync)).unwrap();
    (backing, seen)
}

fn put(backing: &SledBacking, key: u32, len: usize) {
    let value: Vec<u8> = (0..len).map(|at| (at as u32 ^ key) as u8).collect();
    backing.apply(&Changes::from([(key.to_be_bytes().to_vec(), Some(value))])).unwrap();
}

/// The files that a store writes while it is open.
fn written_files(store: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut files = files_below(store);
    files.retain(|path, _| !path.ends_with("anabranch") && !path.ends_with("lock"));
    files
}

#[test]
fn i1_a_sync_covers_every_file_that_the_store_wrote() {
    let dir = Dir::new("covers");
    let (backing, seen) = watched(&dir.0);
    let mut blobs = 0;
    for round in 0..40u32 {
        for key in 0..20 {
            // Some values are far larger than the store ever writes, so that sled uses its blob files too.
            put(&backing, round * 100 + key, if round % 8 == 7 { 2_000_000 } else { 3000 });
            if round % 8 == 7 {
                break;
            }
        }
        backing.sync().unwrap();
        let now = written_files(&dir.0);
        let synced = seen.lock().unwrap();
        for (path, state) in &now {
            assert_eq!(synced.get(path), Some(state), "{} in round {round}", path.display());
        }
        blobs = blobs.max(now.keys().filter(|path| path.to_string_lossy().contains("blobs")).count());
    }
    assert!(blobs > 0, "the test reaches sled's blob files");
    for name in ["db", "journal"] {
        assert!(seen.lock().unwrap().keys().any(|path| path.ends_with(name)));
    }
    // And files that appear when the database is opened again.
    drop(backing);
    let (backing, seen) = watched(&dir.0);
    backing.sync().unwrap();
    for (path, state) in written_files(&dir.0) {
        assert_eq!(seen.lock().unwrap().get(&path), Some(&state), "{}", path.display());
    }
}

#[test]
fn values_of_the_size_that_the_store_writes_never_leave_the_log_file() {
    let dir = Dir::new("inline");
    let (backing, _) = watched(&dir.0);
    for key in 0..400 {
        put(&backing, key % 100, VALUE_BYTES);
        if key % 10 == 0 {
            backing.sync().unwrap();
            assert_eq!(fs::read_dir(dir.0.join("sled/blobs")).unwrap().count(), 0);
        }
    }
}

#[test]
fn a_failed_sync_of_a_file_is_reported() {
    let dir = Dir::new("fails");
    let broken = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&broken);
    let sync = move |_: &Path, _: &fs::File| match fails.load(Ordering::Relaxed) {
        true => Err(std::io::Error::other("bad sector")),
        false => Ok(()),
    };
    let backing = SledBacking::open_with(&dir.0, &SledOptions::default(), None, Arc::new(sync)).unwrap();
    put(&backing, 1, 10);
    broken.store(true, Ordering::Relaxed);
    assert!(matches!(backing.sync(), Err(StoreError::Io(why)) if why.contains("bad sector")));
}

#[test]
fn a_full_device_is_noticed_before_sled_is_harmed() {
    let dir = Dir::new("full");
    let (mut backing, _) = watched(&dir.0);
    put(&backing, 1, 1000);
    backing.free_space = Box::new(|_| Ok(RESERVE_BYTES + 4096));
    let large = Changes::from([(vec![2], Some(vec![0; 100_000]))]);
    assert!(matches!(backing.apply(&large), Err(StoreError::Full)));
    assert_eq!(backing.get(&[2]).unwrap(), None);
    put(&backing, 3, 100);
    backing.sync().unwrap();
    backing.free_space = Box::new(|_| Ok(u64::MAX));
    backing.apply(&large).unwrap();
    backing.sync().unwrap();
}

/// What a crash of the process, or one of the machine right after a sync, leaves behind.
fn image(dir: &Dir, name: &str) -> Dir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
            if from.is_dir() {
                copy(&from, &to);
            } else {
                fs::copy(&from, &to).unwrap();
            }
        }
    }
    let image = Dir::new(name);
    copy(&dir.0, &image.0);
    image
}

fn value_of(key: u8, version: u32, len: usize) -> Vec<u8> {
    (0..len).map(|at| at as u8 ^ key ^ version as u8).collect()
}

/// All pairs, forward; checks that backward gives the same.
fn contents(backing: &SledBacking) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let read = |backward| {
        let mut pairs = Vec::new();
        let all = &[][..]..&[0xff][..];
        let visited = backing.scan(all, backward, &mut |key, value| {
            pairs.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        });
        visited.unwrap();
        pairs
    };
    let (forward, mut backward) = (read(false), read(true));
    backward.reverse();
    assert_eq!(forward, backward);
    assert!(forward.is_sorted_by(|a, b| a.0 < b.0));
    forward.into_iter().collect()
}

#[test]
fn i1_i4_what_was_synced_and_nothing_older_is_there_after_a_crash_at_any_sync() {
    let dir = Dir::new("crash");
    let (mut backing, _) = watched(&dir.0);
    let mut expected = BTreeMap::new();
    let mut random = 7u32;
    let mut next = |below: u32| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 8) % below
    };
    let (mut laid, mut taken) = (0, 0);
    for round in 0..160 {
        for _ in 0..=next(4) {
            let mut changes = Changes::new();
            for _ in 0..=next(5) {
                let key = next(40) as u8;
                // Now and then larger than the journal takes, and often enough to fill it several times.
                let len = if next(20) == 0 { SMALL_BYTES + 1 } else { next(20_000) as usize };
                let value = (next(4) > 0).then(|| value_of(key, round, len));
                match &value {
                    Some(value) => expected.insert(vec![key], value.clone()),
                    None => expected.remove(&vec![key]),
                };
                changes.insert(vec![key], value);
            }
            backing.apply(&changes).unwrap();
        }
        assert_eq!(contents(&backing), expected);
        let key = next(40) as u8;
        assert_eq!(backing.get(&[key]).unwrap().map(Vec::from), expected.get(&vec![key]).cloned());
        if backing.pen().taking {
            taken += 1
        } else {
            laid += 1
        }
        backing.sync().unwrap();
        if round % 8 == 7 {
            let crashed = image(&dir, "crash-image");
            assert_eq!(contents(&watched(&crashed.0).0), expected, "round {round}");
        }
        if round % 40 == 39 {
            drop(backing);
            backing = watched(&dir.0).0;
            assert_eq!(contents(&backing), expected, "reopened after round {round}");
        }
    }
    assert!(laid > 20 && taken > 20, "{laid} syncs of the journal, {taken} of sled");
}

/// Overwrites a byte of the journal.
fn damage(dir: &Dir, at: usize) {
    let path = dir.0.join("journal");
    let mut content = fs::read(&path).unwrap();
    content[at] ^= 1;
    fs::write(&path, content).unwrap();
}

#[test]
fn a_record_that_was_torn_is_as_if_it_had_never_been_and_a_damaged_one_is_reported() {
    let dir = Dir::new("torn");
    let (backing, _) = watched(&dir.0);
    for key in 0..3 {
        put(&backing, key, 700);
        backing.sync().unwrap();
    }
    drop(backing);
    let torn = image(&dir, "torn-image");
    // The third record lies in the fifth and sixth slot.
    damage(&torn, 5 * 512 + 30);
    let (backing, _) = watched(&torn.0);
    assert_eq!(contents(&backing).len(), 2);
    put(&backing, 9, 10);
    backing.sync().unwrap();
    drop(backing);
    assert_eq!(contents(&watched(&torn.0).0).len(), 3);
    damage(&dir, 512 + 30);
    let opened = SledBacking::open(&dir.0, &SledOptions::default());
    assert!(matches!(opened, Err(StoreError::Corrupt(why)) if why.contains("unreadable")));
}

#[test]
fn a_journal_that_is_gone_is_reported() {
    let dir = Dir::new("gone");
    drop(watched(&dir.0));
    fs::remove_file(dir.0.join("journal")).unwrap();
    let opened = SledBacking::open(&dir.0, &SledOptions::default());
    assert!(matches!(opened, Err(StoreError::Corrupt(why)) if why.contains("gone")));
}

#[test]
fn a_payload_that_looks_like_a_record_is_not_taken_for_one() {
    let dir = Dir::new("forged");
    let (backing, _) = watched(&dir.0);
    put(&backing, 1, 100);
    backing.sync().unwrap();
    let record = fs::read(dir.0.join("journal")).unwrap()[..512].to_vec();
    // The same bytes again and again, at every offset that a slot may begin at, as the next generation's first.
    let mut forged = record;
    forged[16..24].copy_from_slice(&2u64.to_be_bytes());
    backing.apply(&Changes::from([(vec![8], Some(vec![0; SMALL_BYTES + 1]))])).unwrap();
    backing.sync().unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(dir.0.join("journal")).unwrap();
    std::io::Write::write_all(&mut file, &forged).unwrap();
    drop(backing);
    assert_eq!(contents(&watched(&dir.0).0).len(), 2);
}

#[test]
fn a_full_device_leaves_small_changes_readable_and_the_store_openable() {
    let dir = Dir::new("full-journal");
    let (mut backing, _) = watched(&dir.0);
    backing.free_space = Box::new(|_| Ok(0));
    let mut written = 0;
    let full = loop {
        match backing.apply(&Changes::from([(vec![written], Some(vec![written; 20_000]))])) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        backing.sync().unwrap();
    };
    assert!(matches!(full, StoreError::Full));
    assert!(written > 20);
    drop(backing);
    let (mut backing, _) = watched(&dir.0);
    assert_eq!(contents(&backing).len(), usize::from(written));
    backing.free_space = Box::new(|_| Ok(u64::MAX));
    put(&backing, 1000, 20_000);
    backing.sync().unwrap();
    assert_eq!(contents(&watched(&image(&dir, "full-image").0).0).len(), usize::from(written) + 1);
}
