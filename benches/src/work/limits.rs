//! What the machine itself can do: the bounds that figures are to be held against, measured in the same run.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use anabranch::domain::head::Head;
use anabranch::domain::id::LogKey;
use anabranch::{Identity, Tip};

use crate::measure::{Clocks, load};
use crate::nodes::{Outcome, PAYLOAD};
use crate::options::Options;
use crate::row::Row;

/// Bytes moved per figure.
const BYTES: usize = 256 << 20;
/// Bytes per call: one large frame.
const PIECE: usize = 64 << 10;
/// Small operations per figure.
const SMALL: usize = 200_000;
/// Signatures per figure.
const SIGNATURES: usize = 2_000;

pub(crate) fn run(options: &Options) -> Outcome<()> {
    let piece = vec![0x5a_u8; PIECE];
    let mut target = vec![0_u8; BYTES];
    let report = |what: &str, clocks: Clocks, units: usize, unit: &'static str| {
        let (wall, cpu) = clocks.elapsed();
        Row::new("limits")
            .text("what", what)
            .text("unit", unit)
            .figure("per_cpu_second", units as f64 / cpu, 0)
            .figure("per_second", units as f64 / wall.as_secs_f64(), 0)
            .figure("cpu_ns_per_unit", cpu * 1e9 / units as f64, 3)
            .figure("load", load(), 1)
            .print(options.json);
    };
    // Once without the clock: pages are given out on first touch.
    for _ in 0..2 {
        let clocks = Clocks::now();
        target.chunks_mut(PIECE).for_each(|chunk| chunk.copy_from_slice(&piece));
        if std::hint::black_box(&target)[1] == 0x5a {
            report("memcpy to memory", clocks, BYTES, "byte");
        }
    }
    let clocks = Clocks::now();
    std::hint::black_box(blake3::hash(&target));
    report("blake3 of a long text", clocks, BYTES, "byte");
    let clocks = Clocks::now();
    for n in 0..SMALL {
        let at = n * PAYLOAD % (BYTES - PAYLOAD);
        std::hint::black_box(blake3::keyed_hash(&[7; 32], &target[at..at + PAYLOAD]));
    }
    report("blake3 of 100 bytes", clocks, SMALL, "hash");
    let (identity, key) = (Identity::from_secret([1; 32]), LogKey::from_bytes([1; 32]));
    let clocks = Clocks::now();
    let heads: Vec<Head> = (1..=SIGNATURES as u64)
        .map(|sequence| Head::sign(&key, Tip { sequence, ..Tip::START }, &identity))
        .collect();
    report("sign a head", clocks, SIGNATURES, "signature");
    let clocks = Clocks::now();
    let scheme = identity.scheme();
    let right = heads.iter().filter(|head| head.verify(&key, &identity.node(), &*scheme)).count();
    report("verify a head", clocks, right, "signature");
    for together in [4, 64, 512] {
        let (clocks, node) = (Clocks::now(), identity.node());
        let right = heads
            .chunks(together)
            .filter(|heads| Head::verify_all(heads.iter().map(|head| (&key, &node, head)), &*scheme));
        let right = right.map(<[Head]>::len).sum();
        report(&format!("verify a head, {together} together"), clocks, right, "signature");
    }
    loopback(&piece, report)?;
    let mut file = tempfile::tempfile()?;
    let clocks = Clocks::now();
    for _ in 0..BYTES / PIECE {
        file.write_all(&piece)?;
    }
    file.sync_data()?;
    report("sequential write, one sync", clocks, BYTES, "byte");
    let clocks = Clocks::now();
    for _ in 0..100 {
        file.write_all(&piece[..PAYLOAD])?;
        file.sync_data()?;
    }
    report("write of 100 bytes, synced", clocks, 100, "write");
    Ok(())
}

fn loopback(piece: &[u8], report: impl Fn(&str, Clocks, usize, &'static str)) -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let piece = piece.to_vec();
    let sending = std::thread::spawn(move || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        for _ in 0..BYTES / PIECE {
            stream.write_all(&piece)?;
        }
        Ok(())
    });
    let (mut stream, _) = listener.accept()?;
    let (mut buffer, mut taken) = (vec![0; PIECE], 0);
    let clocks = Clocks::now();
    while taken < BYTES {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        taken += read;
    }
    report("TCP on loopback, both ends", clocks, taken, "byte");
    sending.join().map_err(|_| "the sending thread panicked")??;
    Ok(())
}
