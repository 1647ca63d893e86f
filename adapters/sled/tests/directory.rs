//! What becomes of the directory that somebody names: opened, made, shared, copied or refused.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anabranch::application::ports::{
    NodeRecord, NodeRepository as _, Residence, Store as _, StoreError, WriteBatch, WriteOp,
};
use anabranch_sled::SledStore;
use futures::executor::block_on;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("anabranch-dir-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: impl AsRef<Path>) -> Result<SledStore, StoreError> {
    block_on(SledStore::open(path))
}

fn contents(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut contents(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn a_store_can_be_reopened_the_moment_it_is_closed_or_dropped_and_keeps_its_identity() {
    let dir = Dir::new("reopen");
    let path = dir.at("store");
    let node = open(&path).unwrap().identity().node();
    for round in 1..=40 {
        let store = open(&path).unwrap();
        assert_eq!((store.identity().node(), store.residence()), (node, Residence::Same));
        assert_eq!(block_on(store.node()).unwrap().incarnation, round - 1);
        let put = WriteBatch::new([WriteOp::PutNode(NodeRecord { incarnation: round })]);
        block_on(store.submit(put).durable()).unwrap();
        if round % 2 == 0 {
            block_on(store.close()).unwrap();
            assert!(open(&path).is_ok(), "closed, though the handle lives");
        }
    }
}

#[test]
fn a_second_open_is_an_error_also_through_a_link() {
    let dir = Dir::new("second");
    let path = dir.at("store");
    let store = open(&path).unwrap();
    assert!(matches!(open(&path), Err(StoreError::InUse(_))));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&path, dir.at("link")).unwrap();
        assert!(matches!(open(dir.at("link")), Err(StoreError::InUse(_))));
    }
    block_on(store.submit(WriteBatch::new([WriteOp::PutNode(NodeRecord { incarnation: 1 })])).durable())
        .unwrap();
}

#[test]
fn a_second_open_from_another_process_is_an_error() {
    const ROLE: &str = "ANABRANCH_SECOND_OPEN";
    if let Some(path) = std::env::var_os(ROLE) {
        let outcome = open(PathBuf::from(path));
        assert!(matches!(outcome, Err(StoreError::InUse(_))), "{outcome:?}");
        return;
    }
    let dir = Dir::new("process");
    let _store = open(dir.at("store")).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["a_second_open_from_another_process_is_an_error", "--exact"])
        .env(ROLE, dir.at("store"))
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
}

#[test]
fn a_place_where_no_store_can_be_is_refused_and_nothing_is_touched() {
    let dir = Dir::new("places");
    fs::write(dir.at("file"), "mine").unwrap();
    fs::create_dir(dir.at("photos")).unwrap();
    fs::write(dir.at("photos").join("cat.jpg"), "meow").unwrap();
    fs::create_dir(dir.at("marked")).unwrap();
    fs::write(dir.at("marked").join("anabranch"), "a letter").unwrap();
    let foreign = sled::open(dir.at("foreign")).unwrap();
    foreign.insert("key", "value").unwrap();
    drop(foreign);
    let before = contents(&dir.0);
    for place in ["file", "photos", "marked", "foreign", "missing/store", "file/store"] {
        let refused = open(dir.at(place));
        assert!(matches!(refused, Err(StoreError::Location(_))), "{place}: {refused:?}");
    }
    assert_eq!(contents(&dir.0), before);
    assert!(!dir.at("missing").exists());
}

#[test]
fn a_store_of_a_newer_format_is_refused_and_not_touched() {
    let dir = Dir::new("newer");
    drop(open(dir.at("store")).unwrap());
    fs::write(dir.at("store").join("anabranch"), "anabranch sled store, format 7\n").unwrap();
    let before = contents(&dir.0);
    let refused = open(dir.at("store"));
    assert!(matches!(refused, Err(StoreError::NewerFormat { found: 7, supported: 1 })), "{refused:?}");
    assert_eq!(contents(&dir.0), before);
}

#[test]
fn a_copy_says_that_it_moved_and_a_renamed_store_does_not() {
    let dir = Dir::new("moved");
    let node = open(dir.at("store")).unwrap().identity().node();
    fs::rename(dir.at("store"), dir.at("renamed")).unwrap();
    assert_eq!(open(dir.at("renamed")).unwrap().residence(), Residence::Same);
    let copied = Command::new("cp").arg("-a").arg(dir.at("renamed")).arg(dir.at("copy")).status().unwrap();
    assert!(copied.success());
    let copy = open(dir.at("copy")).unwrap();
    assert_eq!((copy.residence(), copy.identity().node()), (Residence::Moved, node));
    assert_eq!(open(dir.at("renamed")).unwrap().residence(), Residence::Same);
    drop(copy);
    assert_eq!(open(dir.at("copy")).unwrap().residence(), Residence::Same, "said once");
}

#[test]
fn a_creation_cut_short_by_a_crash_is_finished_by_the_next_open() {
    let dir = Dir::new("cut");
    let path = dir.at("store");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("lock"), "").unwrap();
    fs::write(path.join("anabranch.new"), "anabr").unwrap();
    drop(open(&path).unwrap());
    drop(open(&path).unwrap());
}
