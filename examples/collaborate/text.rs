//! The document: what an edit becomes on its way through the log, and how entries become text again.
//!
//! **Crate**: `yrs`, the Rust port of Yjs: maintained, in production in many editors, and its updates are
//! small (about twenty bytes for a keystroke). It counts in bytes of UTF-8, traces count code points, so each
//! writing agent keeps a rope beside its document that converts between them.
//!
//! **Payloads**: [`record`] gives each agent a document of its own, which at each transaction holds exactly what
//! the agent had seen: a fork at the parents' version that is carried forward instead of being made anew.
//! An update depends on the trace only, so all are made before anything is started; a trace whose positions
//! lie outside the document is found then, before anything is written.
//!
//! **Folding**: the state is the CRDT document itself, a value: a clone is a deep copy, never an alias. Entries
//! arrive in the stream's order, which respects causality, so every update finds what it builds on. yrs would
//! take updates in any order and keep early ones aside, but that is slow when much is early; so the fold does
//! not claim to be commutative, and a late entry is folded again from a checkpoint. The order among concurrent
//! entries does not matter to the text, and a test says so.
//!
//! Never talks to the network or a disk. Called by `main` and, as a materializer, by the library.

use std::fmt;

use bytes::Bytes;
use ropey::Rope;
use yrs::updates::decoder::Decode as _;
use yrs::{
    ClientID, Doc, GetString as _, Options, ReadTxn as _, StateVector, Text as _, TextRef, Transact as _,
    Update,
};

use crate::trace::{Patch, Trace};

/// Name of the text inside the yrs document.
const TEXT: &str = "text";
/// The yrs client that wrote the start content; agents follow.
const START_CLIENT: u64 = 0;

/// An edit lies outside the document that it refers to: the trace is broken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("transaction {at} edits {deleted} code points at {position}, but its document has {length}")]
pub(crate) struct OutsideDocument {
    at: usize,
    position: u64,
    deleted: u64,
    length: usize,
}

/// An entry's payload is not an update of a document.
#[derive(Debug, thiserror::Error)]
#[error("not an update of a text document: {0}")]
pub(crate) struct BadUpdate(String);

/// The document as it is after some entries.
pub(crate) struct Document {
    doc: Doc,
    text: TextRef,
}

impl Document {
    /// A document that holds `start`. Documents with the same start can take the same updates.
    pub(crate) fn new(start: &str) -> Self {
        let origin = Self::empty(START_CLIENT);
        origin.text.insert(&mut origin.doc.transact_mut(), 0, start);
        origin
    }

    /// Merges an update. Taking one twice changes nothing.
    pub(crate) fn apply(&mut self, update: &[u8]) -> Result<(), BadUpdate> {
        let update = Update::decode_v1(update).map_err(|fault| BadUpdate(fault.to_string()))?;
        self.doc.transact_mut().apply_update(update).map_err(|fault| BadUpdate(fault.to_string()))
    }

    /// The text.
    pub(crate) fn text(&self) -> String {
        self.text.get_string(&self.doc.transact())
    }

    /// The whole document as one update.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.doc.transact().encode_state_as_update_v1(&StateVector::default())
    }

    /// The document that [`encode`](Self::encode) gave.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadUpdate> {
        let mut document = Self::empty(START_CLIENT);
        document.apply(bytes)?;
        Ok(document)
    }

    fn empty(client: u64) -> Self {
        let doc = Doc::with_options(Options::with_client_id(ClientID::new(client)));
        let text = doc.get_or_insert_text(TEXT);
        Self { doc, text }
    }
}

impl Clone for Document {
    fn clone(&self) -> Self {
        Self::decode(&self.encode()).expect("a document reads back what it wrote")
    }
}

impl fmt::Debug for Document {
    /// Without the text: it may be private.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("bytes", &self.text.len(&self.doc.transact())).finish()
    }
}

/// The payload of each transaction of `trace`; `None` for one that changes nothing.
pub(crate) fn record(trace: &Trace) -> Result<Vec<Option<Bytes>>, OutsideDocument> {
    let start = Document::new(&trace.start).encode();
    let mut writers: Vec<Writer> = (0..trace.agents).map(|agent| Writer::new(agent, &start)).collect();
    let mut payloads: Vec<Option<Bytes>> = Vec::with_capacity(trace.transactions.len());
    for (at, transaction) in trace.transactions.iter().enumerate() {
        let writer = &mut writers[transaction.agent];
        writer.merge(transaction.merged.iter().filter_map(|index| payloads[*index].as_ref()));
        payloads.push(match &*transaction.patches {
            [] => None,
            patches => Some(writer.write(at, patches)?),
        });
    }
    Ok(payloads)
}

/// One agent's document, with what the agent has seen and nothing else.
struct Writer {
    document: Document,
    /// The same text, to turn code points into bytes.
    rope: Rope,
}

impl Writer {
    fn new(agent: usize, start: &[u8]) -> Self {
        let mut document = Document::empty(START_CLIENT + 1 + agent as u64);
        document.apply(start).expect("a document reads back what it wrote");
        let rope = Rope::from_str(&document.text());
        Self { document, rope }
    }

    fn merge<'a>(&mut self, updates: impl Iterator<Item = &'a Bytes>) {
        let mut merged = false;
        for update in updates {
            self.document.apply(update).expect("an update that was just written reads back");
            merged = true;
        }
        if merged {
            self.rope = Rope::from_str(&self.document.text());
        }
    }

    fn write(&mut self, at: usize, patches: &[Patch]) -> Result<Bytes, OutsideDocument> {
        let Document { doc, text } = &self.document;
        let mut writing = doc.transact_mut();
        for Patch { position, deleted, inserted } in patches {
            let length = self.rope.len_chars();
            let outside = OutsideDocument { at, position: *position, deleted: *deleted, length };
            let end = position.checked_add(*deleted).and_then(|end| usize::try_from(end).ok());
            let Some(end) = end.filter(|end| *end <= length) else { return Err(outside) };
            let chars = end - *deleted as usize..end;
            let bytes = self.rope.char_to_byte(chars.start)..self.rope.char_to_byte(chars.end);
            if !bytes.is_empty() {
                text.remove_range(&mut writing, bytes.start as u32, bytes.len() as u32);
                self.rope.remove(chars.clone());
            }
            if !inserted.is_empty() {
                text.insert(&mut writing, bytes.start as u32, inserted);
                self.rope.insert(chars.start, inserted);
            }
        }
        Ok(writing.encode_update_v1().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::tests::{clownschool, parse};

    #[test]
    fn the_recorded_session_ends_at_its_end_content_whatever_the_order_of_concurrent_entries() {
        let trace = clownschool();
        let payloads = record(&trace).unwrap();
        let mut in_order = Document::new(&trace.start);
        for payload in payloads.iter().flatten() {
            in_order.apply(payload).unwrap();
        }
        assert_eq!(in_order.text(), trace.end);

        // Agent by agent as far as causality allows: as different from the recorded order as can be.
        let mut by_agent: Vec<Vec<usize>> = vec![Vec::new(); trace.agents];
        for (at, transaction) in trace.transactions.iter().enumerate() {
            by_agent[transaction.agent].push(at);
        }
        let mut done = vec![false; payloads.len()];
        let mut next = vec![0; trace.agents];
        let mut other_order = Document::new(&trace.start);
        while done.iter().any(|done| !done) {
            for agent in (0..trace.agents).rev() {
                while let Some(at) = by_agent[agent].get(next[agent])
                    && trace.transactions[*at].merged.iter().all(|seen| done[*seen])
                {
                    other_order.apply(payloads[*at].as_ref().unwrap()).unwrap();
                    done[*at] = true;
                    next[agent] += 1;
                }
            }
        }
        assert_eq!(other_order.text(), trace.end);
        let bytes: usize = payloads.iter().flatten().map(Bytes::len).sum();
        assert!(bytes / payloads.len() < 40, "updates stay small: {bytes} bytes in all");
    }

    #[test]
    fn a_clone_is_a_value_of_its_own() {
        let mut document = Document::new("a");
        let before = document.clone();
        let mut writer = Writer::new(0, &before.encode());
        document
            .apply(&writer.write(0, &[Patch { position: 1, deleted: 0, inserted: "b".into() }]).unwrap())
            .unwrap();
        assert_eq!((before.text().as_str(), document.text().as_str()), ("a", "ab"));
        assert_eq!(document.clone().text(), "ab");
    }

    #[test]
    fn positions_count_code_points() {
        let trace = parse(
            r#"{"startContent":"ä€𝄞","endContent":"ä𝄞xé","txns":[{"patches":[[3,0,"xyé"],[1,1,""]]},{"patches":[[3,1,""]]}]}"#,
        )
        .unwrap();
        let mut document = Document::new(&trace.start);
        for payload in record(&trace).unwrap().iter().flatten() {
            document.apply(payload).unwrap();
        }
        assert_eq!(document.text(), trace.end);
    }

    #[test]
    fn an_edit_outside_the_document_is_one_clear_line() {
        for (patch, want) in [
            ("[4,0,\"x\"]", "edits 0 code points at 4, but its document has 3"),
            ("[2,2,\"\"]", "edits 2 code points at 2, but its document has 3"),
            ("[18446744073709551615,1,\"\"]", "but its document has 3"),
        ] {
            let text =
                format!(r#"{{"startContent":"abc","endContent":"","txns":[{{"patches":[{patch}]}}]}}"#);
            let line = record(&parse(&text).unwrap()).unwrap_err().to_string();
            assert!(line.starts_with("transaction 0") && line.contains(want), "{line}");
        }
    }

    #[test]
    fn bytes_that_are_no_update_are_refused_and_change_nothing() {
        let mut document = Document::new("abc");
        assert!(document.apply(b"\xff\xff\xff\xffnot an update").is_err());
        assert_eq!(document.text(), "abc");
    }
}
