//! Runs as they come from a peer, and what a node does with them: verify, then write with line and block heads.

use std::sync::Arc;

use anabranch::application::ports::{WriteBatch, WriteOp};
use anabranch::domain::block::BlockPhase;
use anabranch::domain::head::Head;
use anabranch::domain::identity::{Identity, SignatureScheme};
use anabranch::domain::log::{Line, LineNo, LogName, LogNo};
use anabranch::domain::run::{RunBuilder, UnverifiedRun};
use anabranch::domain::time::Timestamp;
use anabranch::domain::version::Tip;

/// Entries of one run: a frame of some hundred KB, as stream transports carry them.
const RUN: u64 = 2_048;
/// Entries of a block, each of which brings its signed head.
const BLOCK: u64 = 256;
const PAYLOAD: [u8; 100] = [0x5a; 100];

/// A log of somebody else, in runs.
pub(crate) struct Received {
    name: LogName,
    log: LogNo,
    author: Identity,
    scheme: Arc<dyn SignatureScheme>,
    runs: Vec<UnverifiedRun>,
}

impl Received {
    /// The log `name` of `author` with about `entries` entries.
    pub(crate) fn new(name: LogName, log: LogNo, author: Identity, entries: u64) -> Self {
        let (mut tip, mut runs) = (Tip::START, Vec::new());
        while tip.sequence < entries {
            let bytes = RUN as usize * PAYLOAD.len();
            let mut builder = RunBuilder::new(name.key, tip, RUN as usize, bytes);
            for n in 1..=RUN {
                builder.push(Timestamp::new(0, (tip.sequence + n) << 20), &PAYLOAD);
            }
            let run = builder.finish().expect("at least one entry");
            let signed = (1..=RUN / BLOCK).map(|block| {
                let sequence = tip.sequence + block * BLOCK;
                let hash = run.hash_at(sequence).expect("within the run");
                (sequence, Head::sign(&name.key, Tip { sequence, hash }, &author).signature)
            });
            let heads = signed.collect();
            let (first, previous, body) = (run.first(), run.previous(), run.body().clone());
            tip = run.tip();
            runs.push(UnverifiedRun { first, previous, body, heads });
        }
        let scheme = author.scheme();
        Self { name, log, author, scheme, runs }
    }

    /// Entries in all runs.
    pub(crate) fn entries(&self) -> u64 {
        self.runs.len() as u64 * RUN
    }

    /// Verifies run after run, and hands `write` what a merge writes.
    pub(crate) fn merge(&self, mut write: impl FnMut(WriteBatch)) {
        let mut line = Line::empty(LineNo(0), Tip::START, Timestamp::ZERO, BlockPhase::START);
        for run in &self.runs {
            let verified =
                run.clone().verify(&self.name.key, &self.author.node(), &*self.scheme, PAYLOAD.len());
            let verified = verified.expect("signed by its author");
            line = line.extended(verified.run()).expect("the run continues the line").0;
            let (run, heads) = verified.into_parts();
            line.set_head(*heads.last().expect("a verified run ends at a head"));
            let append = WriteOp::Append { log: self.log, line: line.clone(), run };
            let heads = heads.iter().map(|head| WriteOp::PutBlockHead(self.log, line.no, *head));
            write(WriteBatch::new(std::iter::once(append).chain(heads)));
        }
    }
}
