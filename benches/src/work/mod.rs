//! The figures, one module each.

mod ble;
mod catchup;
mod curves;
mod difference;
mod late;
mod limits;
mod live;
mod slowpeer;
mod spread;
mod streams;

use tokio::runtime::Runtime;

use crate::nodes::Outcome;
use crate::options::{Options, Work};

/// Measures what was asked for.
pub(crate) fn run(options: &Options, runtime: &Runtime) -> Outcome<()> {
    for _ in 0..options.rounds {
        match options.work {
            Work::Catchup => runtime.block_on(catchup::run(options))?,
            Work::Difference => runtime.block_on(difference::run(options))?,
            Work::Streams => runtime.block_on(streams::run(options))?,
            Work::Live if options.loss.is_some() => live::lossy(options)?,
            Work::Live => runtime.block_on(live::run(options))?,
            Work::Spread => spread::run(options)?,
            Work::SlowPeer => {
                runtime.block_on(slowpeer::run(options))?;
                slowpeer::fairness(options)?;
            }
            Work::Ble => ble::run(options)?,
            Work::Late => late::run(options)?,
            Work::Limits => limits::run(options)?,
            Work::Curves => curves::run(options)?,
        }
    }
    Ok(())
}
