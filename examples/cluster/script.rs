//! What runs without a terminal: kill one, wait until all know, revive it, wait until all know.

use std::io::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::Options;
use crate::nodes::Cluster;

/// Between two looks at what all know.
const LOOK: Duration = Duration::from_millis(100);
/// Seconds for all of it, unless asked otherwise: a busy machine included.
const PATIENCE: u64 = 60;

/// How it went: seconds that each step took.
#[derive(Debug, Default, Serialize)]
struct Report {
    nodes: usize,
    joined_s: Option<f64>,
    killed: usize,
    detected_s: Option<f64>,
    recovered_s: Option<f64>,
    messages_per_node_s: f64,
    ok: bool,
}

/// Runs it; whether all came to know in time.
pub(crate) async fn run(mut cluster: Cluster, options: &Options) -> bool {
    let end = options.seconds.unwrap_or(PATIENCE) as f64;
    let victim = cluster.len() / 2;
    let mut report = Report { nodes: cluster.len(), killed: victim, ..Report::default() };
    let say = |what: &str, took: Option<f64>| {
        if !options.json {
            let took = took.map_or("never".to_owned(), |took| format!("after {took:.1} s"));
            let _nobody_reads = writeln!(std::io::stdout(), "{what}: {took}");
        }
    };
    report.joined_s = until_all_know(&cluster, end).await;
    say("all know each other", report.joined_s);
    if report.joined_s.is_some() {
        report.messages_per_node_s = idle_rate(&cluster).await;
        cluster.kill(victim);
        report.detected_s = until_all_know(&cluster, end).await;
        say(&format!("all know that {victim} was killed"), report.detected_s);
    }
    if report.detected_s.is_some() && cluster.revive(victim).await.is_ok() {
        report.recovered_s = until_all_know(&cluster, end).await;
        say(&format!("all know that {victim} is back"), report.recovered_s);
    }
    report.ok = report.recovered_s.is_some();
    if options.json {
        let report = serde_json::to_string(&report).unwrap_or_default();
        let _nobody_reads = writeln!(std::io::stdout(), "{report}");
    }
    report.ok
}

/// Seconds until all know; `None` if the end came first.
async fn until_all_know(cluster: &Cluster, end: f64) -> Option<f64> {
    let began = cluster.seconds();
    loop {
        if cluster.seconds() >= end {
            return None;
        }
        if cluster.all_know().await {
            return Some(milli(cluster.seconds() - began));
        }
        cluster.sleep(LOOK).await;
    }
}

/// Messages per node and second, over some probes.
async fn idle_rate(cluster: &Cluster) -> f64 {
    let (began, before) = (cluster.seconds(), cluster.messages().await);
    cluster.sleep(Duration::from_secs(3)).await;
    milli((cluster.messages().await - before) as f64 / cluster.len() as f64 / (cluster.seconds() - began))
}

/// As precise as it is worth.
fn milli(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
