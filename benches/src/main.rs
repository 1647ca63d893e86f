//! Our own figures about synchronisation: work done by two whole nodes, measured in CPU time of both.
//!
//! `cargo run --release -p anabranch-bench -- <catchup|difference|live> [--json] [--entries N] [--authors N]
//! [--streams N] [--changed N] [--port memory|tcp] [--store memory|sled] [--rounds N]`

mod measure;
mod nodes;
mod options;
mod work;

use std::process::ExitCode;

fn main() -> ExitCode {
    let options = match options::Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::from(2);
        }
    };
    match runtime.block_on(work::run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
