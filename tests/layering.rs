//! The layers keep their direction: read from the sources, so that no review has to.
#![allow(clippy::unwrap_used, reason = "a test that cannot read the sources has nothing to say")]

use std::fs;
use std::path::{Path, PathBuf};

/// A source file of the library without comments and without its unit tests.
struct Source {
    path: String,
    lines: Vec<(usize, String)>,
}

fn sources(layer: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root.join(layer), &mut files);
    files.sort();
    let sources: Vec<Source> = files.iter().filter(|path| !is_test(path)).map(|path| read(path)).collect();
    assert!(!sources.is_empty(), "no sources of the layer {layer}: did it move?");
    sources
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Unit tests in files of their own may use what they like.
fn is_test(path: &Path) -> bool {
    let named = |part: &str| part == "tests" || part == "tests.rs" || part.ends_with("_tests.rs");
    path.components().any(|part| part.as_os_str().to_str().is_some_and(named))
}

fn read(path: &Path) -> Source {
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0].trim() == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    });
    let code = lines[..tests.unwrap_or(lines.len())].iter().enumerate();
    let code = code.filter(|(_, line)| !line.trim_start().starts_with("//"));
    Source {
        path: path.display().to_string(),
        lines: code.map(|(at, line)| (at + 1, (*line).to_owned())).collect(),
    }
}

/// Fails with every place at which one of `words` occurs in `layer`, but for files that end in `except`.
fn forbid(layer: &str, words: &[&str], except: &[&str], why: &str) {
    let mut found = Vec::new();
    for source in sources(layer) {
        if except.iter().any(|name| source.path.ends_with(name)) {
            continue;
        }
        for (number, line) in &source.lines {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

#[test]
fn the_domain_names_no_other_layer() {
    let others =
        ["crate::protocol", "crate::application", "crate::facade", "crate::infrastructure", "crate::testing"];
    forbid("domain", &others, &[], "the domain stands alone");
}

#[test]
fn the_protocol_names_only_the_domain() {
    let others = ["crate::application", "crate::facade", "crate::infrastructure", "crate::testing"];
    forbid("protocol", &others, &[], "engines know values, not use cases");
}

#[test]
fn domain_and_protocol_are_synchronous_and_know_no_runtime() {
    let words = ["tokio", "futures::", "async ", "async_trait", ".await"];
    for layer in ["domain", "protocol"] {
        forbid(layer, &words, &[], "what decides is synchronous, so that it can be stepped and replayed");
    }
}

#[test]
fn domain_and_protocol_touch_no_clock_no_randomness_and_no_system() {
    let words = ["std::time::Instant", "SystemTime", "getrandom::", "std::fs", "std::net", "std::thread"];
    for layer in ["domain", "protocol"] {
        forbid(layer, &words, &[], "what decides is a function of its inputs");
    }
}

#[test]
fn the_application_names_neither_facade_nor_adapters() {
    let others = ["crate::facade", "crate::infrastructure", "crate::testing"];
    forbid("application", &others, &[], "use cases know ports, not who stands behind them");
    let runtime = ["tokio::spawn", "tokio::time", "tokio::runtime", "tokio::task", "tokio::net", "tokio::fs"];
    forbid("application", &runtime, &[], "of tokio only what needs no runtime: its channels");
}

#[test]
fn only_the_builder_of_the_facade_names_adapters() {
    forbid(
        "facade",
        &["crate::infrastructure", "crate::testing"],
        &["builder.rs"],
        "the builder puts together",
    );
}

#[test]
fn adapters_in_the_process_name_neither_engines_nor_facade() {
    let others = ["crate::facade", "crate::protocol"];
    forbid("infrastructure", &others, &[], "adapters stand behind ports");
    let use_cases = ["config", "driver", "log_cell", "notices", "peers", "reader", "replica", "store_work"];
    for use_case in use_cases {
        let name = format!("crate::application::{use_case}");
        forbid("infrastructure", &[&name], &[], "adapters stand behind ports");
    }
}

#[test]
fn adapter_crates_know_the_library_and_not_each_other() {
    let adapters = Path::new(env!("CARGO_MANIFEST_DIR")).join("adapters");
    let mut seen = 0;
    for entry in fs::read_dir(adapters).unwrap() {
        let manifest = entry.unwrap().path().join("Cargo.toml");
        let Ok(text) = fs::read_to_string(&manifest) else { continue };
        seen += 1;
        let sections = text.split("\n[").filter(|section| section.starts_with("dependencies]"));
        let used: Vec<&str> = sections
            .flat_map(str::lines)
            .filter(|line| line.starts_with("anabranch"))
            .filter(|line| !line.starts_with("anabranch.") && !line.starts_with("anabranch "))
            .collect();
        assert!(used.is_empty(), "{} depends on another adapter: {used:?}", manifest.display());
    }
    assert!(seen >= 2, "the adapters moved");
}
