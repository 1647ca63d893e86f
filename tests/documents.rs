//! The documents tell the truth, as far as a test can see: links lead somewhere, tests that they name exist, decisions are
//! indexed.

#![allow(clippy::unwrap_used, reason = "a test that cannot read the documents has nothing to say")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files of this extension below `dir`, but for what tools leave behind.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn every_relative_link_of_a_document_leads_to_a_file() {
    let mut broken = Vec::new();
    for path in files(&root(), "md") {
        let text = fs::read_to_string(&path).unwrap();
        for target in
            text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
        {
            let file = target.split('#').next().unwrap_or_default();
            let elsewhere = file.is_empty() || file.contains("://") || file.contains(char::is_whitespace);
            if !elsewhere && !path.parent().unwrap().join(file).exists() {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_tests_that_the_architecture_names_exist_and_every_invariant_has_one() {
    let sources: String = files(&root(), "rs").iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, table) = architecture.split_once("Tests that show each").unwrap();
    let named: Vec<&str> =
        table.split('`').filter(|name| name.starts_with('i') && name.contains('_')).collect();
    let missing: Vec<&&str> = named.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "no such test: {missing:#?}");
    for invariant in 1..=9 {
        let prefix = format!("i{invariant}_");
        assert!(named.iter().any(|name| name.starts_with(&prefix)), "no test shows I{invariant}");
    }
}

#[test]
fn every_decision_is_indexed_under_a_number_of_its_own() {
    let dir = root().join("docs/adr");
    let index = fs::read_to_string(dir.join("README.md")).unwrap();
    let mut numbers = BTreeSet::new();
    for path in files(&dir, "md") {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name != "README.md" {
            assert_eq!(index.matches(&format!("]({name})")).count(), 1, "{name} in the index");
            assert!(numbers.insert(name[..4].to_owned()), "two decisions have the number {}", &name[..4]);
        }
    }
}
