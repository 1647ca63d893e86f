//! Not a test: how fast messages pass, without a link in between.

use std::time::Duration;

use super::super::*;
use super::pipe::*;
use crate::domain::time::Instant;

#[test]
#[ignore = "measures; run in release with --ignored --nocapture"]
fn throughput() {
    let config = SessionConfig { window: 4 << 20, ..SessionConfig::default() };
    for (name, proven, reliable, max_frame, size) in [
        ("plain reliable 64K frames, 60K messages", true, true, 65_536, 60_000),
        ("plain reliable 64K frames, 1M messages", true, true, 65_536, 1 << 20),
        ("plain reliable 64K frames, 1K messages", true, true, 65_536, 1000),
        ("plain lossy 64K frames, 60K messages", true, false, 65_536, 60_000),
        ("plain lossy 1200 frames, 60K messages", true, false, 1200, 60_000),
        ("sealed reliable 64K frames, 60K messages", false, true, 65_536, 60_000),
        ("sealed lossy 1200 frames, 60K messages", false, false, 1200, 60_000),
    ] {
        let profile = if reliable { lossy(max_frame).reliable() } else { lossy(max_frame) };
        let make = |n: u8, peer: u8| {
            let proven = proven.then(|| node(peer));
            Session::new(config.clone(), identity(n), profile, proven, n == 1, seed(n.into()), Instant::ZERO)
        };
        let (mut ana, mut ben) = (make(1, 2), make(2, 1));
        let message = bytes::Bytes::from(vec![1u8; size]);
        let total = if max_frame < 2000 { 256 << 20 } else { 2u64 << 30 };
        let (mut sent, mut got, mut now, mut events) = (0, 0, Instant::ZERO, Vec::new());
        let (mut ana_time, mut ben_time) = (Duration::ZERO, Duration::ZERO);
        #[allow(clippy::disallowed_methods, reason = "a measurement")]
        let clock = || std::time::Instant::now();
        while got < total {
            let start = clock();
            while sent < total && ana.send(Lane::Bulk, message.clone()).is_ok() {
                sent += size as u64;
            }
            let mut frames = Vec::new();
            while frames.len() < 64
                && let Some((frame, _)) = ana.poll_transmit(now)
            {
                frames.push(frame);
            }
            let mid = clock();
            ana_time += mid - start;
            for frame in frames.drain(..) {
                ben.handle_frame(frame, now, &mut events);
            }
            for event in events.drain(..) {
                if let SessionEvent::Message { message, .. } = event {
                    got += message.len() as u64;
                }
            }
            while let Some((frame, _)) = ben.poll_transmit(now) {
                frames.push(frame);
            }
            let end = clock();
            ben_time += end - mid;
            for frame in frames.drain(..) {
                ana.handle_frame(frame, now, &mut events);
            }
            events.clear();
            ana_time += clock() - end;
            now = now + Duration::from_millis(1);
        }
        let rate = |time: Duration| total as f64 / time.as_secs_f64() / 1e9;
        println!("{name}: send {:.2} GB/s, receive {:.2} GB/s per core", rate(ana_time), rate(ben_time));
    }
}
