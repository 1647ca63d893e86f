//! L4 news bounded: what a node has to say about others stays below its limit, whatever happens around it.

use super::Invariant;
use crate::core::{Facts, Seen};

/// Updates that may wait at most: four per node of the largest worlds, far below the limit of the engine. A flood shows
/// here before it is cut.
const UPDATES: usize = 1_000;

/// L4. See the module.
#[derive(Debug)]
pub struct NewsBounded;

impl Invariant for NewsBounded {
    fn name(&self) -> &'static str {
        "L4 news bounded"
    }

    fn see(&mut self, _: &Facts, seen: &Seen<'_>) -> Result<(), String> {
        let Seen::News { node, updates } = seen else { return Ok(()) };
        if *updates > UPDATES {
            return Err(format!("node {node} has {updates} updates about its peers under way"));
        }
        Ok(())
    }
}
