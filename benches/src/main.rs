//! Our own figures about synchronisation: work done by whole nodes, measured in CPU time of all of them, in bytes
//! that their ports sent, and in round trips.
//!
//! `cargo run --release -p anabranch-bench -- <catchup|difference|streams|live|spread|slowpeer|ble|late> [--json]
//! [--store memory|sled|packed] [--port memory|tcp] …`; without arguments it lists all options. What the fields of a row
//! mean is said in `docs/performance.md`.

mod measure;
mod nodes;
mod options;
mod port;
mod row;
mod simulated;
mod work;

use std::process::ExitCode;

use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

fn main() -> ExitCode {
    let options = match options::Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    let workers = options.threads;
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("no runtime: {error}");
                return ExitCode::from(2);
            }
        };
    match work::run(&options, &runtime) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
