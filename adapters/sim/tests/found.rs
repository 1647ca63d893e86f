//! Runs that once found a bug, as small as they were made, each named after what was wrong.

use anabranch_sim::notes::{self, Setting};
use anabranch_sim::{Cut, FaultProfile, Seed};

fn run(seed: u64, cut: &str) {
    let cut: Cut = cut.parse().unwrap();
    let setting = Setting::draw(seed, 3..=5, FaultProfile::Swarm);
    if let Err(failure) = notes::run(Seed::new(seed).cut(cut), &setting) {
        panic!("{failure}");
    }
}

#[test]
fn i3_a_line_that_starts_within_a_run_is_not_stored_a_second_time() {
    // Restored unnoticed, node 0 forks its log at 1; its peers send 1..=2 of the other line to one another.
    run(41, "n=3-4 f=0-56,63-77,79 w=0-122,124-232,234-286,288-317,319-817 s=22968750000");
}
