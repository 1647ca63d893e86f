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
    let backing = SledBacking::open_with(path, &SledOptions::default(), None, Box::new(sync)).unwrap();
    (backing, seen)
}

fn put(backing: &SledBacking, key: u32, len: usize) {
    let value: Vec<u8> = (0..len).map(|at| (at as u32 ^ key) as u8).collect();
    backing.apply(&Changes::from([(key.to_be_bytes().to_vec(), Some(value))])).unwrap();
}

#[test]
fn i1_a_sync_covers_every_file_that_sled_wrote() {
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
        let now = files_below(&dir.0.join(files::SLED));
        let synced = seen.lock().unwrap();
        for (path, state) in &now {
            assert_eq!(synced.get(path), Some(state), "{} in round {round}", path.display());
        }
        blobs = blobs.max(now.keys().filter(|path| path.to_string_lossy().contains("blobs")).count());
    }
    assert!(blobs > 0, "the test reaches sled's blob files");
    assert!(seen.lock().unwrap().keys().any(|path| path.ends_with("db")));
    // And files that appear when the database is opened again.
    drop(backing);
    let (backing, seen) = watched(&dir.0);
    backing.sync().unwrap();
    for (path, state) in files_below(&dir.0.join(files::SLED)) {
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
    let backing = SledBacking::open_with(&dir.0, &SledOptions::default(), None, Box::new(sync)).unwrap();
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
