//! Runs: from the store to the peer, and from the peer to the store.
//!
//! What a peer lacks is kept as *lines on their way* (`Outgoing`), never as queued entries. [`GossipEngine::pump`]
//! reads a run of one of them, in turn, whenever the window has room: what was sent and is not yet done with at
//! the other end is bounded in bytes. The window is what bounds the receiver's memory, and its
//! acknowledgements (`Done`) are what tells the sender that entries are durable over there.

use std::time::Duration;

use bytes::Bytes;

use super::conversation::{Conversation, Naming, Outgoing, Sent, lane_index};
use super::engine::{
    Arrival, Count, Effect, GossipEngine, MergeOutcome, Pending, Sealing, SessionId, Ticket,
};
use super::share::MAX_PARKED;
use super::spread::Push;
use crate::domain::entry::EntryHash;
use crate::domain::event::{Fault, Refusal};
use crate::domain::head::Head;
use crate::domain::id::{ChannelId, LogKey, StreamId};
use crate::domain::log::{Line, LineNo, LogName};
use crate::domain::run::{ChainedRun, Run, RunFault, UnverifiedRun, VerifiedRun};
use crate::domain::version::Tip;
use crate::protocol::session::Lane;
use crate::protocol::wire::{HaveItem, KeyRef, LogRef, Message, MessageVersion, RunMessage, RunRef};

/// Body bytes of one run in bulk transfer: four frames of a stream transport, and small enough that several
/// lines share the window.
const RUN_BYTES: usize = 256 * 1024;
/// Body bytes of a run that arrives before the next comparison on any link in use, if nothing else is under way: a
/// few frames.
const BRIEF_BYTES: usize = 1024;
/// Large reads under way for one peer: enough to overlap reading and sending.
const MAX_READS: usize = 4;
/// Reads of any size: many short lines are read in one turn and leave in one frame, so that the other end checks their
/// signatures together.
const MAX_SHORT_READS: usize = 64;
/// What surrounds a payload in a body, at most.
const ENTRY_ROOM: usize = 18;
/// Most bytes that a peer may send before we are done with them: four times the default window, besides one
/// message of the largest size. A peer that sends more does not keep to the protocol.
pub const MAX_INCOMING: usize = 16 << 20;
/// Logs that are asked for again at once, between two comparisons.
const MAX_PULLED: usize = 4096;
/// Least time between two acknowledgements to a peer: what comes meanwhile keeps them company.
const DONE_DELAY: Duration = Duration::from_millis(5);
/// Bytes after which an acknowledgement does not wait.
const DONE_BYTES: usize = 256 * 1024;

impl GossipEngine {
    /// Reads and sends as much of what the peer lacks as the window allows.
    pub(super) fn pump(&mut self, session: SessionId) {
        loop {
            let Some(conversation) = self.conversations.get_mut(&session) else { return };
            let window = conversation.pace.window();
            let max_bytes = run_bytes(window);
            let reading = conversation.reading_bytes;
            if conversation.reads >= MAX_SHORT_READS
                || reading >= MAX_READS * max_bytes
                || conversation.sent_bytes + reading >= window
            {
                return;
            }
            let Some(turn) = next_turn(conversation) else { return };
            conversation.turn = Some(turn);
            let (channel, key, line_no) = turn;
            let held = self.channels.get(&channel).and_then(|held| held.logs.get(&key));
            let line = held.and_then(|held| held.log.line(line_no));
            let after = conversation.outgoing.get(&turn).map_or(0, |outgoing| outgoing.after);
            if line.is_none_or(|line| line.tip.sequence <= after) {
                conversation.outgoing.remove(&turn);
                continue;
            }
            let Some(heads) = self.seal(&channel, &key, line_no) else {
                // The search for its block ends calls again.
                if let Some(outgoing) = self.outgoing_mut(session, &turn) {
                    outgoing.reading = true;
                }
                continue;
            };
            let Some(held) = self.channels.get(&channel).and_then(|held| held.logs.get(&key)) else { return };
            let (Some(line), log) = (held.log.line(line_no).cloned(), held.no) else { return };
            let bytes = reckon(&line, after, max_bytes);
            let ticket = self.ticket(Pending::Read { session, channel, key, line: line_no, bytes });
            self.effects.push(Effect::Read { ticket, log, line, after, heads, max_bytes });
            if let Some(conversation) = self.conversations.get_mut(&session) {
                conversation.reads += 1;
                conversation.reading_bytes += bytes;
                if let Some(outgoing) = conversation.outgoing.get_mut(&turn) {
                    outgoing.reading = true;
                }
            }
        }
    }

    /// Signs what an own line lacks heads for. The heads that may not be stored yet, or `None` if the block
    /// ends have to be looked for first.
    pub(super) fn seal(&mut self, channel: &ChannelId, key: &LogKey, line_no: LineNo) -> Option<Vec<Head>> {
        let own = self.identity.node();
        let held = self.channels.get_mut(channel)?.logs.get_mut(key)?;
        // Other lines of the own log came from peers, and with them their heads.
        if held.name.author != own || line_no != LineNo(0) {
            return Some(Vec::new());
        }
        let mut line = held.log.line(line_no)?.clone();
        if let Some(sealing) = &mut held.sealing
            && sealing.unknown
        {
            if !sealing.searching {
                sealing.searching = true;
                let no = held.no;
                let ticket = self.ticket(Pending::Ends { channel: *channel, key: *key });
                self.effects.push(Effect::FindEnds(ticket, no, line));
            }
            return None;
        }
        let ends = held.sealing.as_mut().map(|sealing| std::mem::take(&mut sealing.ends)).unwrap_or_default();
        let tip_signed = line.head().is_some_and(|head| head.tip == line.tip);
        if !ends.is_empty() || !tip_signed {
            let identity = &self.identity;
            let blocks: Vec<Head> = ends.into_iter().map(|tip| Head::sign(key, tip, identity)).collect();
            let tip = blocks.iter().copied().find(|head| head.tip == line.tip);
            let tip = tip.or(line.head().filter(|_| tip_signed));
            let tip = tip.unwrap_or_else(|| Head::sign(key, line.tip, identity));
            line.set_head(tip);
            held.log.put(line.clone());
            // Every batch counts, those of a tip alone too: each is told when it is stored. One that the store
            // refused is not, and its heads stay here for as long as the node runs.
            let sealing = held.sealing.get_or_insert_default();
            sealing.unstored.extend(&blocks);
            sealing.storing += u32::from(!mutant!(HeadsForgotten) || !blocks.is_empty());
            let log = held.no;
            self.effects.push(Effect::StoreHeads { log, key: *key, line, blocks });
        }
        let held = self.channels.get(channel)?.logs.get(key)?;
        Some(held.sealing.as_ref().map(|sealing| sealing.unstored.clone()).unwrap_or_default())
    }

    pub(super) fn heads_stored(&mut self, key: &LogKey) {
        for channel in self.channels.values_mut() {
            let Some(held) = channel.logs.get_mut(key) else { continue };
            let Some(sealing) = &mut held.sealing else { continue };
            sealing.storing = sealing.storing.saturating_sub(1);
            if sealing.storing == 0 {
                sealing.unstored.clear();
                if sealing.is_settled() {
                    held.sealing = None;
                }
            }
        }
    }

    pub(super) fn ends_found(&mut self, ticket: Ticket, ends: Option<Vec<Tip>>) {
        let Some(Pending::Ends { channel, key }) = self.tickets.remove(&ticket) else { return };
        if let Some(held) = self.channels.get_mut(&channel).and_then(|held| held.logs.get_mut(&key)) {
            let sealing: &mut Sealing = held.sealing.get_or_insert_default();
            sealing.searching = false;
            let Some(ends) = ends else {
                // What waits for them is found lacking again by the next comparison.
                return self.give_up(&channel, &key);
            };
            sealing.unknown = false;
            // What became durable while we looked is in both.
            let mut all = ends;
            all.append(&mut sealing.ends);
            all.sort_unstable();
            all.dedup();
            sealing.ends = all;
        }
        let sessions: Vec<SessionId> = self.conversations.keys().copied().collect();
        for session in sessions {
            if let Some(conversation) = self.conversations.get_mut(&session) {
                for ((of, log, _), outgoing) in &mut conversation.outgoing {
                    if *of == channel && *log == key {
                        outgoing.reading = false;
                    }
                }
            }
            self.pump(session);
        }
    }

    /// Sends nothing of a log for now.
    fn give_up(&mut self, channel: &ChannelId, key: &LogKey) {
        for conversation in self.conversations.values_mut() {
            conversation.outgoing.retain(|(of, log, _), _| !(of == channel && log == key));
        }
    }

    pub(super) fn read_done(&mut self, ticket: Ticket, found: Option<(Run, Vec<Head>)>) {
        let Some(Pending::Read { session, channel, key, line, bytes }) = self.tickets.remove(&ticket) else {
            return;
        };
        let turn = (channel, key, line);
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        conversation.reads -= 1;
        conversation.reading_bytes -= bytes;
        let Some(outgoing) = conversation.outgoing.get_mut(&turn) else { return self.pump(session) };
        outgoing.reading = false;
        match found {
            None => {
                // The next comparison tries again.
                conversation.outgoing.remove(&turn);
            }
            Some((run, _))
                if outgoing.check.is_some_and(|tip| tip != conversation.marker.mark(&run.before())) =>
            {
                conversation.outgoing.remove(&turn);
                self.locate(session, channel, key, false);
            }
            Some((run, _))
                if !fits(conversation.sent_bytes, run.body().len(), conversation.pace.window()) =>
            {
                // Much larger than was reckoned with: it is read again once the peer is done with something.
                outgoing.reading = true;
                conversation.waiting.push(turn);
            }
            Some((run, heads)) => {
                let (naming, known) = (outgoing.naming, outgoing.check.is_some());
                // A peer that did not know the log may not have stored the first run when the next one comes.
                let next = if naming == Naming::Name { Naming::Name } else { Naming::Key };
                *outgoing = Outgoing { after: run.tip().sequence, check: None, naming: next, reading: false };
                let held = self.channels.get(&channel).and_then(|held| held.logs.get(&key));
                if let Some(name) = held.map(|held| held.name.clone()) {
                    self.send_run(session, Lane::Bulk, &name, naming, known, &run, &heads);
                }
            }
        }
        self.pump(session);
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one message")]
    pub(super) fn send_run(
        &mut self,
        session: SessionId,
        lane: Lane,
        name: &LogName,
        naming: Naming,
        known: bool,
        run: &Run,
        heads: &[Head],
    ) {
        let (channel, key) = (name.channel, name.key);
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        let Some(ours) = conversation.shares.get(&channel).and_then(|share| share.ours) else { return };
        // A short name is good for as long as its comparison: what takes longer to arrive would be dropped, and sent
        // again, and dropped again (I7).
        let is_brief = run.body().len() <= BRIEF_BYTES && conversation.sent_bytes == 0;
        let naming = match naming {
            Naming::Asked(..) | Naming::Answered(..) if !is_brief && run.first() == 1 => Naming::Name,
            Naming::Asked(..) | Naming::Answered(..) if !is_brief => Naming::Key,
            naming => naming,
        };
        let log = match naming {
            Naming::Name => RunRef::Name(name.stream.as_str().to_owned(), name.author),
            Naming::Key => RunRef::Key(KeyRef::of(&key)),
            Naming::Asked(round, short) => RunRef::Asked(round, short),
            Naming::Answered(round, short) => RunRef::Answered(round, short),
        };
        let packs = self.config.compress && conversation.packs;
        let packed = if packs { self.packer.pack(&mut conversation.packing, run.body()) } else { None };
        let bytes = run.body().len();
        let saved = packed.as_ref().map_or(0, |packed| bytes - packed.len());
        let body = packed.unwrap_or_else(|| run.body().clone());
        let message = RunMessage {
            channel: ours,
            log,
            first: run.first(),
            previous: (!known && run.first() > 1).then(|| run.previous()),
            heads: heads.iter().map(|head| (head.tip.sequence, head.signature)).collect(),
            body,
        };
        let message = match (saved, u32::try_from(bytes)) {
            (1.., Ok(bytes)) => Message::PackedRun(message, bytes),
            _ => Message::Run(message),
        };
        let message = message.encode(conversation.version);
        // What the peer could not take plainly is too large for it in any form.
        if message.len() + saved > conversation.max_message {
            let (peer, author) = (conversation.peer, name.author);
            self.leave_out(session, &channel, &key);
            let fault = Fault::TooLargeForPeer { peer, channel, author };
            self.effects.push(Effect::Fault("too large for the peer", peer, fault));
            return;
        }
        conversation.sent_bytes += bytes;
        if lane == Lane::Control {
            conversation.pushed_bytes += bytes;
        }
        conversation.sent.push_back(Sent { channel, key, lane, bytes, at: self.now });
        self.effects.push(Effect::Count(Count::RunSent(bytes)));
        if saved > 0 {
            self.effects.push(Effect::Count(Count::RunPacked(saved)));
        }
        self.effects.push(Effect::Send(session, lane, message));
    }

    pub(super) fn tip_of(&self, name: &LogName, line: LineNo) -> Option<Tip> {
        Some(self.channels.get(&name.channel)?.logs.get(&name.key)?.log.line(line)?.tip)
    }

    /// The heads of an own line within `run`, the last of which is the line's tip.
    pub(super) fn heads_within(&self, name: &LogName, line: LineNo, run: &Run, blocks: &[Head]) -> Vec<Head> {
        let mut heads: Vec<Head> = blocks
            .iter()
            .filter(|head| run.hash_at(head.tip.sequence) == Some(head.tip.hash))
            .copied()
            .collect();
        heads.retain(|head| head.tip.sequence >= run.first());
        let held = self.channels.get(&name.channel).and_then(|held| held.logs.get(&name.key));
        heads.extend(held.and_then(|held| held.log.line(line)).and_then(|line| line.head()));
        heads.sort_unstable_by_key(|head| head.tip.sequence);
        heads.dedup_by_key(|head| head.tip.sequence);
        heads
    }

    fn outgoing_mut(
        &mut self,
        session: SessionId,
        turn: &(ChannelId, LogKey, LineNo),
    ) -> Option<&mut Outgoing> {
        self.conversations.get_mut(&session)?.outgoing.get_mut(turn)
    }

    pub(super) fn on_done(&mut self, session: SessionId, control: u64, bulk: u64) {
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        for (lane, told) in [(Lane::Control, control), (Lane::Bulk, bulk)] {
            let known = &mut conversation.acknowledged[lane_index(lane)];
            while *known < told {
                let Some(at) = conversation.sent.iter().position(|sent| sent.lane == lane) else {
                    return self.bad(session, "more runs acknowledged than sent");
                };
                let sent = conversation.sent.remove(at).expect("the position was just found");
                if !mutant!(WindowNeverReleased) {
                    conversation.sent_bytes -= sent.bytes;
                    conversation.pushed_bytes -= if lane == Lane::Control { sent.bytes } else { 0 };
                }
                let took = self.now.since(sent.at);
                conversation.pace.done(self.now, sent.bytes, took, conversation.sent_bytes + sent.bytes);
                *known += 1;
            }
        }
        for turn in std::mem::take(&mut conversation.waiting) {
            if let Some(outgoing) = conversation.outgoing.get_mut(&turn) {
                outgoing.reading = false;
            }
        }
        self.pump(session);
    }

    pub(super) fn on_run(&mut self, session: SessionId, lane: Lane, message: RunMessage) {
        let own = self.identity.node();
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        let bytes = message.body.len();
        let received = &mut conversation.received[lane_index(lane)];
        let index = received.count;
        received.count += 1;
        conversation.incoming_bytes += bytes;
        if conversation.incoming_bytes > MAX_INCOMING + 2 * self.config.max_payload {
            self.effects.push(Effect::Drop(session, "sent more than the window allows"));
            return;
        }
        self.effects.push(Effect::Count(Count::RunReceived(bytes)));
        if self.paused {
            self.effects.push(Effect::Count(Count::Paused));
            return self.finish_run(session, lane, index, bytes);
        }
        let Some((channel, share)) = self.resolve(session, message.channel) else {
            return self.finish_run(session, lane, index, bytes);
        };
        let Some(ours) = share.ours else { return self.finish_run(session, lane, index, bytes) };
        if let RunRef::Asked(round, _) = message.log {
            self.index_answered(session, &channel, round);
        }
        let name = match self.named(session, &channel, &message.log) {
            Ok(name) => name,
            Err(Unnamed::Unknown(key)) => {
                // The peer thinks that we know the log: ask for all of it, by the name we were given.
                let logs = vec![HaveItem { log: LogRef::Key(key), tips: Vec::new() }];
                self.effects.push(Effect::Count(Count::Gap));
                self.control(session, &Message::Have { channel: ours, round: 0, logs, answer: false });
                return self.finish_run(session, lane, index, bytes);
            }
            Err(Unnamed::Stale) => {
                self.effects.push(Effect::Count(Count::Gap));
                return self.finish_run(session, lane, index, bytes);
            }
            Err(Unnamed::Impossible) => {
                self.bad(session, "a run of an impossible log");
                return self.finish_run(session, lane, index, bytes);
            }
        };
        if let Err(reason) = self.admit(&channel, &name, own) {
            self.refuse(session, &channel, &name, reason);
            return self.finish_run(session, lane, index, bytes);
        }
        let RunMessage { first, previous, heads, body, .. } = message;
        let Some(previous) = previous.or_else(|| self.one_tip_at(&name, first.checked_sub(1)?)) else {
            // It went on since we said where we stand.
            self.effects.push(Effect::Count(Count::Gap));
            self.pull(session, channel, name.key);
            return self.finish_run(session, lane, index, bytes);
        };
        // The run's memory is the frame's until it is stored, and the store keeps it: give it its own.
        let body = Bytes::copy_from_slice(&body);
        let unverified = UnverifiedRun { first, previous, body, heads };
        match unverified.chain(&name.key, &name.author, self.config.max_payload) {
            Ok(run) => {
                let held = self.channels.get_mut(&channel);
                let is_first = held
                    .is_some_and(|held| !held.logs.contains_key(&name.key) && held.arriving.insert(name.key));
                self.unchecked.push((Arrival { session, lane, index, bytes, name, is_first }, run));
            }
            Err(fault @ RunFault::PayloadTooLarge) => {
                self.refuse(session, &channel, &name, Refusal::Invalid(fault));
                self.finish_run(session, lane, index, bytes);
            }
            Err(fault) => {
                self.disbelieve(session, &name, fault);
                self.finish_run(session, lane, index, bytes);
            }
        }
    }

    /// Checks the signatures of all runs that came at once, and passes on what is signed.
    pub(super) fn check_runs(&mut self) {
        if self.unchecked.is_empty() {
            return;
        }
        let (arrivals, runs): (Vec<Arrival>, Vec<ChainedRun>) = self.unchecked.drain(..).unzip();
        let checked = ChainedRun::verify_all(runs, &*self.identity.scheme());
        for (arrival, checked) in arrivals.into_iter().zip(checked) {
            match checked {
                Ok(run) => self.believe(arrival, run),
                Err(fault) => {
                    let Arrival { session, lane, index, bytes, name, is_first } = arrival;
                    if let Some(held) = self.channels.get_mut(&name.channel).filter(|_| is_first) {
                        held.arriving.remove(&name.key);
                    }
                    self.disbelieve(session, &name, fault);
                    self.finish_run(session, lane, index, bytes);
                }
            }
        }
    }

    /// A run is its author's: it may be merged.
    fn believe(&mut self, arrival: Arrival, run: VerifiedRun) {
        let Arrival { session, lane, index, bytes, name, .. } = arrival;
        if let Some(held) = self.channels.get_mut(&name.channel) {
            if !held.logs.contains_key(&name.key) {
                held.arriving.insert(name.key);
            }
            if lane == Lane::Control {
                held.pushed.insert(name.key, (session, run.run().tip().sequence));
            }
        }
        let push = (lane == Lane::Control)
            .then(|| Push { run: run.clone(), tree: self.came_by_tree(session, &name) });
        let of = Box::new((name.clone(), push));
        let ticket = self.ticket(Pending::Merge { session, of, lane, index, bytes });
        self.effects.push(Effect::Merge { ticket, session, name, run });
    }

    /// What came is not what its author wrote.
    fn disbelieve(&mut self, session: SessionId, name: &LogName, fault: RunFault) {
        let Some(peer) = self.conversations.get(&session).map(|conversation| conversation.peer) else {
            return;
        };
        let reason = Refusal::Invalid(fault);
        self.effects.push(Effect::Count(Count::Refused));
        let fault = Fault::RunRefused { peer, channel: name.channel, author: name.author, reason };
        self.effects.push(Effect::Fault("run", peer, fault));
    }

    /// The log that a run is of, known or not.
    fn named(&self, session: SessionId, channel: &ChannelId, log: &RunRef) -> Result<LogName, Unnamed> {
        let logs = self.channels.get(channel).map(|held| &held.logs);
        let name = |key: LogKey| Some(logs?.get(&key)?.name.clone());
        let short = |naming| self.find_short(session, channel, naming).and_then(name).ok_or(Unnamed::Stale);
        match log {
            RunRef::Key(reference) => {
                let found = self.channels.get(channel).and_then(|held| held.by_ref(reference));
                found.map(|(_, held)| held.name.clone()).ok_or(Unnamed::Unknown(*reference))
            }
            RunRef::Name(stream, author) => {
                let stream = StreamId::new(stream).map_err(|_| Unnamed::Impossible)?;
                Ok(LogName::new(*channel, stream, *author))
            }
            // What the peer asked for, we answered, and the other way round.
            RunRef::Asked(round, of) => short(Naming::Answered(*round, *of)),
            RunRef::Answered(round, of) => short(Naming::Asked(*round, *of)),
        }
    }

    /// The hash of the only tip of a log, if it is at this sequence.
    fn one_tip_at(&self, name: &LogName, sequence: u64) -> Option<EntryHash> {
        if sequence == 0 {
            return Some(EntryHash::ZERO);
        }
        let held = self.channels.get(&name.channel)?.logs.get(&name.key)?;
        match held.log.lines() {
            [line] if line.tip.sequence == sequence => Some(line.tip.hash),
            _ => None,
        }
    }

    /// Whether entries of this log are taken at all.
    fn admit(
        &self,
        channel: &ChannelId,
        name: &LogName,
        own: crate::domain::id::NodeId,
    ) -> Result<(), Refusal> {
        let Some(held) = self.channels.get(channel) else { return Err(Refusal::UnknownStream) };
        if name.author != own && !held.admission.admits(&name.author) && !mutant!(AdmissionSkipped) {
            return Err(Refusal::NotAdmitted);
        }
        let known = held.logs.contains_key(&name.key) || held.arriving.contains(&name.key);
        if !known && held.logs.len() + held.arriving.len() >= self.config.max_logs {
            return Err(Refusal::TooManyLogs);
        }
        if !held.takes(&name.stream) {
            return Err(Refusal::UnknownStream);
        }
        Ok(())
    }

    /// Leaves the log out between us and the peer from now on, and says why.
    fn refuse(&mut self, session: SessionId, channel: &ChannelId, name: &LogName, reason: Refusal) {
        self.effects.push(Effect::Count(Count::Refused));
        let Some(conversation) = self.conversations.get(&session) else { return };
        let peer = conversation.peer;
        self.leave_out(session, channel, &name.key);
        let cause = match reason {
            Refusal::NotAdmitted => "author not admitted",
            Refusal::TooManyLines => "too many lines",
            Refusal::TooManyLogs => "too many logs",
            Refusal::UnknownStream => "unknown stream",
            Refusal::Stamps => "stamps",
            Refusal::UnsignedBlock => "unsigned block",
            // Our own decision and no fault of the peer: it is enough that the two stop comparing the log (I8).
            Refusal::BelowFloor => return,
            Refusal::Invalid(_) => "invalid",
        };
        let fault = Fault::RunRefused { peer, channel: *channel, author: name.author, reason };
        self.effects.push(Effect::Fault(cause, peer, fault));
    }

    /// Leaves the log out between us and the peer from now on, and tells it.
    fn leave_out(&mut self, session: SessionId, channel: &ChannelId, key: &LogKey) {
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        conversation.outgoing.retain(|(of, log, _), _| !(of == channel && log == key));
        let Some(share) = conversation.shares.get_mut(channel) else { return };
        let Some(ours) = share.ours else { return };
        if share.parked.len() >= MAX_PARKED && !share.parked.contains(key) {
            self.effects.push(Effect::Drop(session, "more logs refused than can be left out"));
        } else if share.parked.insert(*key) && !mutant!(ParkedNotTold) {
            self.control(session, &Message::Parked { channel: ours, key: KeyRef::of(key) });
        }
    }

    pub(super) fn merged(&mut self, ticket: Ticket, outcome: MergeOutcome) {
        let Some(Pending::Merge { session, of, lane, index, bytes }) = self.tickets.remove(&ticket) else {
            return;
        };
        let (name, push) = *of;
        let (channel, key) = (name.channel, name.key);
        if let Some(held) = self.channels.get_mut(&channel) {
            held.arriving.remove(&key);
            let settled = outcome != MergeOutcome::Stored;
            if settled && held.pushed.get(&key).is_some_and(|(from, _)| *from == session) {
                held.pushed.remove(&key);
            }
        }
        match outcome {
            MergeOutcome::Stored => {
                if let Some(push) = push {
                    self.pushed(session, &name, &push, true);
                }
            }
            MergeOutcome::Failed => {}
            MergeOutcome::Duplicate => {
                self.effects.push(Effect::Count(Count::Duplicate));
                if let Some(push) = push {
                    self.pushed(session, &name, &push, false);
                }
            }
            MergeOutcome::Gap => {
                self.effects.push(Effect::Count(Count::Gap));
                self.pull(session, channel, key);
            }
            MergeOutcome::Refused(reason) => self.refuse(session, &channel, &name, reason),
        }
        if let Some(conversation) = self.conversations.get_mut(&session) {
            conversation.done_of.insert(channel);
        }
        self.finish_run(session, lane, index, bytes);
    }

    /// Asks for what is missing before a run that came too early; once until something of the log comes.
    fn pull(&mut self, session: SessionId, channel: ChannelId, key: LogKey) {
        let Some(marker) = self.marker(session) else { return };
        let tips = marker.marks(&self.tips(&channel, &key));
        let Some(share) = self.share_mut(session, &channel) else { return };
        let Some(ours) = share.ours else { return };
        // More than that, a comparison finds.
        if share.pulled.len() < MAX_PULLED && share.pulled.insert(key) {
            let logs = vec![HaveItem { log: LogRef::Key(KeyRef::of(&key)), tips }];
            self.control(session, &Message::Have { channel: ours, round: 0, logs, answer: false });
        }
    }

    /// We are done with a run, whatever became of it.
    fn finish_run(&mut self, session: SessionId, lane: Lane, index: u64, bytes: usize) {
        let now = self.now;
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        // At the end of this turn, unless one went a moment ago.
        let due = now.max(conversation.done_told + DONE_DELAY);
        conversation.incoming_bytes -= bytes;
        conversation.done_bytes += bytes;
        conversation.received[lane_index(lane)].finish(index);
        conversation.done_due.get_or_insert(due);
        if conversation.done_bytes >= DONE_BYTES {
            self.flush_done(session);
        }
    }

    /// Tells the peer what we are done with, if that is due.
    pub(super) fn flush_done(&mut self, session: SessionId) {
        let Some(conversation) = self.conversations.get_mut(&session) else { return };
        let due = conversation.done_due.is_some_and(|due| due <= self.now);
        if !(due || conversation.done_bytes >= DONE_BYTES) {
            return;
        }
        conversation.done_due = None;
        conversation.done_bytes = 0;
        conversation.done_told = self.now;
        let of = std::mem::take(&mut conversation.done_of);
        let [control, bulk] = &mut conversation.received;
        if (control.done == control.reported && bulk.done == bulk.reported) || mutant!(DoneNotSent) {
            return;
        }
        (control.reported, bulk.reported) = (control.done, bulk.done);
        let (control, bulk, version) = (control.done, bulk.done, conversation.version);
        if version < MessageVersion::V2 {
            self.control(session, &Message::Done { control, bulk });
            for channel in of {
                self.say_holding(session, &channel);
            }
            return;
        }
        let holdings = of.iter().filter_map(|channel| self.untold_holding(session, channel)).collect();
        self.control(session, &Message::DoneHolding { control, bulk, holdings });
    }
}

/// Why the log of a run cannot be told.
enum Unnamed {
    /// It is not held.
    Unknown(KeyRef),
    /// The comparison that it is named after is over.
    Stale,
    /// No log is named like that.
    Impossible,
}

/// Whether a run may be sent while so many bytes are under way: always if nothing is, and otherwise within the
/// window, which reads of the usual size may overstep by two.
fn fits(under_way: usize, run: usize, window: usize) -> bool {
    under_way == 0 || under_way + run <= window + 2 * run_bytes(window)
}

/// Body bytes of one run: several share the window.
fn run_bytes(window: usize) -> usize {
    (window / 4).min(RUN_BYTES)
}

/// Body bytes that a read after an entry may find: known where all that follows lies in the open block.
fn reckon(line: &Line, after: u64, max_bytes: usize) -> usize {
    let open = line.phase.open_entries().map_or(0, |open| u64::from(open.get()));
    if line.tip.sequence - after > open {
        return max_bytes;
    }
    let bytes = line.phase.open_bytes() as usize + (line.tip.sequence - after) as usize * ENTRY_ROOM;
    bytes.min(max_bytes)
}

/// The next line to read for: round robin over those that no read is under way for.
fn next_turn(conversation: &Conversation) -> Option<(ChannelId, LogKey, LineNo)> {
    let ready =
        |(turn, outgoing): (&(ChannelId, LogKey, LineNo), &Outgoing)| (!outgoing.reading).then_some(*turn);
    let later = conversation.turn.and_then(|turn| {
        let after = (std::ops::Bound::Excluded(turn), std::ops::Bound::Unbounded);
        conversation.outgoing.range(after).find_map(ready)
    });
    later.or_else(|| conversation.outgoing.iter().find_map(ready))
}
