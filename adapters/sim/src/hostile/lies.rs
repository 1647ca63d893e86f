//! What a liar says: comparisons that are not true, entries that were tampered with, and what others said before.

use anabranch::domain::entry::EntryHash;
use anabranch::domain::identity::Signature;
use anabranch::protocol::wire::{
    Announcement, ChannelRef, Details, Guess, HaveItem, KeyRef, ListItem, LogRef, Message, RunMessage,
    RunRef, ShareTag, TipMark, Version, Why,
};
use anabranch::{LinkId, MessagePort as _, NodeId, Priority, Tip};

use super::Villain;

/// Bytes of the counters in a comparison that nodes accept.
const COUNTERS: usize = anabranch::protocol::gossip::estimate::COUNTER_BYTES;

impl Villain {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.random.next_u64() as u8)
    }

    /// A log that exists, or one that does not.
    fn some_log(&mut self) -> LogRef {
        let at = self.random.below(self.keys.len() as u64 + 1) as usize;
        match self.keys.get(at) {
            Some((_, log)) => log.clone(),
            None if self.random.below(2) == 0 => LogRef::Key(KeyRef(self.bytes())),
            None => LogRef::Short(self.random.next_u64() as u32),
        }
    }

    fn some_key(&mut self) -> KeyRef {
        match self.some_log() {
            LogRef::Key(key) => key,
            _ => KeyRef(self.bytes()),
        }
    }

    /// An entry that is not: now and then of the largest sequence that there is.
    fn some_tip(&mut self) -> Tip {
        let sequence = match self.random.below(4) {
            0 => u64::MAX,
            1 => self.random.next_u64(),
            2 => 0,
            _ => self.random.below(50),
        };
        Tip { sequence, hash: EntryHash::from_bytes(self.bytes()) }
    }

    fn some_marks(&mut self, most: u64) -> Vec<TipMark> {
        (0..self.random.below(most))
            .map(|_| TipMark { sequence: self.some_tip().sequence, mark: self.bytes() })
            .collect()
    }

    fn some_tips(&mut self, most: u64) -> Vec<Tip> {
        (0..self.random.below(most)).map(|_| self.some_tip()).collect()
    }

    /// A request that costs its receiver something to answer.
    pub(super) fn request(&mut self, link: LinkId) {
        let channel = ChannelRef(self.random.below(2) as u32);
        let round = self.random.below(20) as u32;
        let message = match self.random.below(5) {
            0 => Message::ListFrom { channel, round, after: None },
            1 => Message::MoreCells {
                channel,
                round,
                start: self.random.below(100) as u32,
                count: self.random.next_u64() as u32,
            },
            2 => Message::Have {
                channel,
                round,
                logs: (0..self.random.below(20))
                    .map(|_| HaveItem { log: self.some_log(), tips: Vec::new() })
                    .collect(),
                answer: false,
            },
            3 => {
                Message::Locate { channel, key: self.some_key(), locators: self.some_tips(40), answer: false }
            }
            _ => self.false_comparison(channel, round),
        };
        self.say(link, &message);
    }

    fn false_comparison(&mut self, channel: ChannelRef, round: u32) -> Message {
        let len = if self.random.below(8) == 0 { self.random.below(99) as usize } else { COUNTERS };
        Message::Compare {
            channel,
            round,
            fingerprint: self.bytes(),
            logs: [0, 1, 7, 1_000, u32::MAX][self.random.below(5) as usize],
            details: (self.random.below(4) > 0).then(|| Details {
                guess: match self.random.below(2) {
                    0 => Guess::Changed([0, 1, 7, u32::MAX][self.random.below(4) as usize]),
                    _ => Guess::Counters((0..len).map(|_| self.random.next_u64() as u8).collect()),
                },
                yours: self.bytes(),
            }),
        }
    }

    /// Tells somebody something that is not so.
    pub(super) fn lie(&mut self) {
        let Some(link) = self.somebody() else { return };
        let channel = ChannelRef(u32::from(self.random.below(16) == 0));
        let round = self.random.below(12) as u32;
        let what = self.random.below(17);
        let (name, message) = match what {
            0 => ("lie_in_digest", self.false_comparison(channel, round)),
            1 => {
                let logs = (0..1 + self.random.below(5))
                    .map(|_| HaveItem { log: self.some_log(), tips: self.some_marks(4) })
                    .collect();
                let answer = self.random.below(2) == 0;
                ("lie_in_versions", Message::Have { channel, round, logs, answer })
            }
            2..=5 => return self.tamper(link),
            6..=7 => return self.replay_run(link),
            8 => {
                let (key, locators) = (self.some_key(), self.some_tips(300));
                let answer = self.random.below(2) == 0;
                ("lie_in_locators", Message::Locate { channel, key, locators, answer })
            }
            9 => {
                let (control, bulk) = (self.random.next_u64() >> self.random.below(64), self.random.below(9));
                ("lie_in_acknowledgements", Message::Done { control, bulk })
            }
            10 => ("lie_in_parking", Message::Parked { channel, key: self.some_key() }),
            11 => {
                let message = match self.random.below(3) {
                    0 => Message::Paused(self.random.below(2) == 0),
                    1 => Message::ClockAhead(self.random.next_u64()),
                    _ => Message::Unshare(channel),
                };
                ("lie_in_state", message)
            }
            12 => {
                let announced = (0..self.random.below(200))
                    .map(|_| Announcement { tag: ShareTag(self.bytes()), fingerprint: self.bytes() })
                    .collect();
                ("lie_in_shares", Message::Share(announced))
            }
            13 => {
                let items = (0..self.random.below(20))
                    .map(|_| ListItem { key: self.some_key(), version: Version(self.bytes()) })
                    .collect();
                let more = self.random.below(2) == 0;
                ("lie_in_lists", Message::List { channel, round, after: None, items, more })
            }
            14 => {
                let cells = (0..self.random.below(400)).map(|_| self.random.next_u64() as u8).collect();
                ("lie_in_cells", Message::Cells { channel, round, start: 0, cells })
            }
            15 if self.random.below(3) > 0 => {
                let why = [Why::Passing, Why::Calm, Why::Asking][self.random.below(3) as usize];
                ("lie_in_holdings", Message::Holding { channel, sum: self.bytes(), why })
            }
            15 => ("lie_in_reach", Message::Reach { channel, nodes: self.some_nodes() }),
            _ => return self.replay_frames(link),
        };
        self.cx.fault(name);
        self.say(link, &message);
        if matches!(message, Message::Unshare(_)) {
            self.share_again(link);
        }
    }

    /// Nodes that it claims to reach: authors that it heard of, and others.
    fn some_nodes(&mut self) -> Vec<[u8; 8]> {
        let most = [4, 64, 90][self.random.below(3) as usize];
        let authors = self.runs.iter().filter_map(|(_, run)| match &run.log {
            RunRef::Name(_, author) => author.as_bytes().first_chunk::<8>().copied(),
            _ => None,
        });
        let mut nodes: Vec<[u8; 8]> = authors.take(most).collect();
        while nodes.len() < most {
            nodes.push(self.bytes());
        }
        nodes
    }

    fn share_again(&mut self, link: LinkId) {
        let own = self.identity.node();
        let Some(with) = self.talks.get(&link).and_then(|talk| talk.with.as_ref()) else { return };
        let tags = with.channels.iter().map(|id| ShareTag::new(id, &with.binding, &own)).collect();
        self.announce(link, tags);
    }

    /// Announces channels, with fingerprints of nothing.
    pub(super) fn announce(&mut self, link: LinkId, tags: Vec<ShareTag>) {
        let announced = tags.into_iter().map(|tag| Announcement { tag, fingerprint: self.bytes() }).collect();
        self.say(link, &Message::Share(announced));
    }

    /// A run that was heard from one peer, as it was, for another.
    fn replay_run(&mut self, link: LinkId) {
        let at = self.random.below(self.runs.len() as u64) as usize;
        let Some((_, run)) = self.runs.get(at).cloned() else { return };
        self.cx.fault("replayed_run");
        self.say(link, &Message::Run(RunMessage { channel: ChannelRef(0), ..run }));
    }

    /// A run that was heard, changed so that its author never wrote it.
    fn tamper(&mut self, link: LinkId) {
        let at = self.random.below(self.runs.len() as u64) as usize;
        let Some((_, run)) = self.runs.get(at).cloned() else { return };
        let mut run = RunMessage { channel: ChannelRef(0), ..run };
        match self.random.below(8) {
            0 | 1 => {
                let mut body = run.body.to_vec();
                let bit = self.random.below(body.len() as u64 * 8) as usize;
                if let Some(byte) = body.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
                run.body = body.into();
            }
            2 => {
                for (_, signature) in &mut run.heads {
                    *signature = Signature::from_bytes(self.bytes());
                }
            }
            3 => run.first = run.first.wrapping_add(self.random.below(3)).wrapping_sub(1),
            4 => run.previous = (self.random.below(2) == 0).then(|| EntryHash::from_bytes(self.bytes())),
            5 => {
                // The entries of one author under the name of another, or in another stream.
                let other = self.runs.iter().find(|(_, other)| other.log != run.log);
                run.log = match other {
                    Some((_, other)) if self.random.below(2) == 0 => other.log.clone(),
                    _ => RunRef::Name("elsewhere".to_owned(), NodeId::from_bytes(self.bytes())),
                };
            }
            6 => {
                // An end that nobody signed, true or not.
                run.heads.pop();
                if self.random.below(2) == 0 {
                    let mut body = run.body.to_vec();
                    if let Some(last) = body.last_mut() {
                        *last ^= 1;
                    }
                    run.body = body.into();
                }
            }
            _ => {
                let keep = self.random.below(run.body.len() as u64 + 1) as usize;
                run.body = run.body.slice(..keep);
            }
        }
        self.cx.fault("tampered_run");
        self.say(link, &Message::Run(run));
    }

    /// Frames of past sessions, and of this one.
    fn replay_frames(&mut self, link: LinkId) {
        self.cx.fault("replayed_session");
        for _ in 0..self.random.below(6) {
            let at = self.random.below(self.frames.len() as u64) as usize;
            let Some(frame) = self.frames.get(at).cloned() else { return };
            let _ = self.cx.port().try_send(link, frame, Priority::Normal);
        }
    }
}
