//! Runs that once found a bug, each named after what was wrong.
//!
//! A run changes with whatever it runs through, so these go on finding their bugs only for a while; the same bugs
//! are planted for `anabranch-sim mutants`, or have a unit test beside the code that was wrong.

use anabranch_sim::notes::{self, Setting};
use anabranch_sim::{FaultProfile, Seed};

fn run(seed: u64) {
    let setting = Setting::draw(seed, 3..=5, FaultProfile::Swarm);
    if let Err(failure) = notes::run(Seed::new(seed), &setting) {
        panic!("{failure}");
    }
}

#[test]
fn i3_a_line_that_starts_within_a_run_is_not_stored_a_second_time() {
    // Restored unnoticed, a node forks its log at 1; its peers send 1..=2 of the other line to one another.
    // Planted as `LineStoredTwice`.
    run(42);
}

#[test]
fn a_refusal_by_a_full_disk_that_overtakes_a_sync_wakes_nobody_for_ever() {
    // Unit test: `who_waits_for_a_log_is_not_woken_by_a_refusal_that_overtook_a_sync`.
    run(126);
}

#[test]
fn i2_a_second_line_is_not_started_twice_when_a_full_disk_refused_the_first() {
    // Unit test: `i2_a_line_that_fitted_is_kept_when_the_full_disk_refused_another`; planted as `LinesFailTogether`.
    run(454);
}

#[test]
fn i7_a_long_run_on_a_slow_link_is_not_named_by_a_comparison_that_is_over_when_it_arrives() {
    // Such a name is looked up among past comparisons too by now, so that it would be hard to plant.
    run(230);
}

#[test]
fn i9_heads_that_a_full_disk_refused_are_not_forgotten_with_the_next_one_that_is_stored() {
    // A block signed while the disk was full was sent without its head later on, and its author accused.
    // Planted as `HeadsForgotten`.
    run(50_303);
}

#[test]
fn i7_a_change_of_a_channel_that_a_full_disk_refused_does_not_keep_new_logs_out_for_ever() {
    // Unit test: `i7_a_change_of_a_channel_that_did_not_fit_withholds_nothing_and_a_new_channel_does`.
    run(1_012_589);
}
