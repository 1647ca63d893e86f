//! A page that shows a run: nodes as lanes coloured by their state, with the entries that they hold; frames as lines
//! between them; faults as spans; virtual time to the right. One file, nothing fetched. Called by `replay`.

mod story;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use anabranch_sim::{Failure, Kind, RunReport, TraceEvent};

use crate::json;
use story::Story;

/// Events drawn at most: the last ones, which lead to the failure. A page of some ten megabytes.
const MOST_EVENTS: usize = 60_000;
/// The page around the data.
const PAGE: &str = include_str!("page.html");
/// Where in the page they go.
const DATA: &str = "/*DATA*/null";

/// The page of a run with so many nodes that mean well.
pub(crate) fn page(seed: u64, honest: usize, report: &RunReport, failure: Option<&Failure>) -> String {
    let story = Story::of(report, honest);
    let drawn = |event: &TraceEvent| !matches!(event.kind, Kind::Timer);
    let newest = report.trace.iter().enumerate().rev().filter(|(_, event)| drawn(event)).nth(MOST_EVENTS);
    let first = newest.map_or(0, |(at, _)| at + 1);
    let trace = &report.trace[first..];
    let since = if first == 0 { 0 } else { trace.first().map_or(0, |event| event.at) };

    let of_lanes = |event: &&TraceEvent| match event.kind {
        Kind::Timer | Kind::Frame => false,
        // The others are frames.
        Kind::Sent => !event.text.is_empty(),
        // These are spans, if they last or harm.
        Kind::Fault => !story.faults.iter().any(|fault| fault.from == event.at && fault.detail == event.text),
        _ => true,
    };
    let shown: Vec<&TraceEvent> = trace.iter().filter(of_lanes).collect();
    let events = rows(shown.iter().map(|event| {
        let kind = if event.kind == Kind::Sent { "Refused".to_owned() } else { format!("{:?}", event.kind) };
        let node = event.node.map_or("null".to_owned(), |node| node.to_string());
        format!("{},{node},\"{kind}\",{}", seconds(event.at), json::text(&detail(event)))
    }));
    let states = story.states.iter().filter(|state| state.to >= since).map(|state| {
        format!("{},{},{},\"{}\"", state.node, seconds(state.from), seconds(state.to), state.what)
    });
    let held = story.held.iter().enumerate().filter(|(at, (node, time, _))| {
        // What a node held when the window begins belongs to it.
        let next = || story.held[at + 1..].iter().find(|(other, _, _)| other == node);
        *time >= since || next().is_none_or(|(_, next, _)| *next > since)
    });
    let held = held.map(|(_, (node, time, count))| format!("{node},{},{count}", seconds(*time)));
    let flights = story.flights.iter().filter(|flight| flight.arrived.unwrap_or(flight.sent) >= since);
    let flights = flights.map(|flight| {
        let arrived = flight.arrived.map_or("null".to_owned(), seconds);
        let (sent, note) = (seconds(flight.sent), json::text(flight.note));
        format!("{sent},{},{arrived},{},{},{note}", flight.from, flight.to, flight.len)
    });
    let faults = story.faults.iter().filter(|fault| fault.to >= since).map(|fault| {
        let nodes: Vec<&str> = fault.nodes.iter().map(|node| report.nodes[*node].as_str()).collect();
        let label = json::text(&format!("{} {}", fault.name, nodes.join("–")));
        let nodes = format!("{:?}", fault.nodes);
        let (from, to, detail) = (seconds(fault.from), seconds(fault.to), json::text(&fault.detail));
        format!("{from},{to},{nodes},{label},{detail}")
    });
    let failure = failure.map_or("null".to_owned(), |failure| {
        let violation = &failure.violation;
        // The last thing that happened to a node before the rule was seen broken.
        let event = shown.iter().rposition(|event| event.at <= violation.at && event.node.is_some());
        json::object([
            ("at", seconds(violation.at)),
            ("rule", json::text(&violation.rule)),
            ("what", json::text(&violation.what)),
            ("event", event.map_or("null".to_owned(), |event| event.to_string())),
        ])
    });
    let names: Vec<String> = report.nodes.iter().map(|name| json::text(name)).collect();
    let data = json::object([
        ("seed", seed.to_string()),
        ("total", report.events.to_string()),
        ("left_out", first.to_string()),
        ("since", seconds(since)),
        ("end", seconds(report.virtual_nanos)),
        ("failure", failure),
        ("nodes", format!("[{}]", names.join(","))),
        ("states", rows(states)),
        ("held", rows(held)),
        ("faults", rows(faults)),
        ("frames", rows(flights)),
        ("events", events),
    ]);
    PAGE.replacen(DATA, &data, 1)
}

/// What is told of an event besides its kind.
fn detail(event: &TraceEvent) -> String {
    let mut text = event.text.clone();
    match (event.kind, event.holds) {
        (Kind::Crash, _) if text.is_empty() => text.push_str("the node's tasks ended"),
        (Kind::Written, _) if text.is_empty() => text.push_str("an empty batch"),
        (Kind::Synced, _) if text.is_empty() => text.push_str("nothing new"),
        _ => {}
    }
    if let Some(holds) = event.holds {
        let _ = write!(text, "; holds {holds} entries");
    }
    text
}

/// Nanoseconds as the page counts them.
fn seconds(nanos: u64) -> String {
    format!("{:.6}", nanos as f64 / 1e9)
}

fn rows(rows: impl Iterator<Item = String>) -> String {
    let rows: Vec<String> = rows.map(|row| format!("[{row}]")).collect();
    format!("[{}]", rows.join(",\n"))
}
