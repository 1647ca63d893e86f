//! The life of a channel: made, changed, removed, made again.
//!
//! What one thread does to a channel and what another does next reach the store in that order: whoever makes or removes
//! one submits it under the registry's lock, whoever changes one under that of its state. In that order it is also told of,
//! with no lock held: who is woken may ask for channels at once. A channel is seen by others only once the store confirmed it
//! (I1). Part of the replica.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::{ChannelCell, ChannelState, Removal, Replica, SOUND, StreamCell};
use crate::application::marks::Marks;
use crate::application::news::News;
use crate::application::ports::{Receipt, StoreError, WriteBatch, WriteOp};
use crate::domain::channel::{Admission, ChannelRecord};
use crate::domain::event::Event;
use crate::domain::id::{ChannelId, StreamId};
use crate::domain::time::Timestamp;

impl Replica {
    /// The channel, created with admission for the own node only if it does not exist.
    pub(crate) async fn open_channel(
        &self,
        id: ChannelId,
        label: &str,
    ) -> Result<Arc<ChannelCell>, StoreError> {
        if let Some(cell) = self.channel(&id) {
            return Ok(cell);
        }
        let kept = Marks::of(&*self.store, id).await?;
        let (cell, receipt) = {
            let mut registry = self.registry.write().expect(SOUND);
            if let Some(cell) = registry.channels.get(&id) {
                return Ok(Arc::clone(cell));
            }
            if self.is_closed() {
                return Err(StoreError::Closed);
            }
            let creation = registry.creations.get(&id);
            match creation.filter(|(_, receipt)| !matches!(receipt.settled(), Some(Err(_)))) {
                Some(under_way) => under_way.clone(),
                // Of one that was refused whoever waits for it hears; it is tried again.
                None => {
                    let (admission, label) = (Admission::only(self.node()), label.to_owned());
                    let record = ChannelRecord { id, label, admission, seen: Timestamp::ZERO };
                    let mut ops: SmallVec<[WriteOp; 1]> = SmallVec::new();
                    let marks = match registry.removed.get(&id) {
                        Some(Removal { marks, receipt, .. }) => {
                            // Nothing of the old channel may come back as a part of the new one.
                            if !matches!(receipt.settled(), Some(Ok(()))) {
                                ops.extend(removal_ops(id, marks));
                            }
                            marks.clone()
                        }
                        None => kept,
                    };
                    let until = self.timer.now() + self.config.amnesia_wait;
                    let cell = Arc::new(ChannelCell::new(record, marks, until));
                    ops.push(WriteOp::PutChannel(cell.record()));
                    let receipt = self.store.submit(WriteBatch::new(ops));
                    registry.creations.insert(id, (Arc::clone(&cell), receipt.clone()));
                    (cell, receipt)
                }
            }
        };
        let created = receipt.durable().await;
        let is_ours = |(other, _): &(Arc<ChannelCell>, Receipt)| Arc::ptr_eq(other, &cell);
        let is_first = {
            let mut registry = self.registry.write().expect(SOUND);
            // Of those who wait one is the first; it may have been removed meanwhile.
            let is_first = registry.creations.get(&id).is_some_and(is_ours);
            if is_first {
                registry.creations.remove(&id);
                if created.is_ok() {
                    // An earlier one is gone by now, whoever waits for that.
                    self.tell_of_removal(registry.removed.get_mut(&id), id);
                    registry.channels.insert(id, Arc::clone(&cell));
                    self.news.put(News::ChannelCreated(id));
                    self.notices.put(Event::ChannelCreated(id));
                }
            }
            is_first
        };
        if is_first {
            self.news.wake();
            self.notices.tell();
        }
        created.map(|()| cell)
    }

    /// Applies `change` to the channel and keeps it; `false` if the channel is gone. What the store does not take is
    /// undone, unless a further change was submitted meanwhile, which includes it.
    pub(crate) async fn change_channel(
        &self,
        id: &ChannelId,
        change: impl FnOnce(&mut ChannelState),
    ) -> Result<bool, StoreError> {
        let Some(cell) = self.channel(id) else { return Ok(false) };
        let (receipt, number) = {
            let mut state = cell.state.write().expect(SOUND);
            if cell.is_removed() {
                return Ok(false);
            }
            if self.is_closed() {
                return Err(StoreError::Closed);
            }
            change(&mut state);
            let number = cell.changes.lock().expect(SOUND).submit(state.clone());
            let ChannelState { label, admission } = state.clone();
            let seen = *cell.seen.lock().expect(SOUND);
            let record = ChannelRecord { id: *id, label, admission, seen };
            let receipt = self.store.submit(WriteBatch::new([WriteOp::PutChannel(record)]));
            self.news.put(News::ChannelChanged(*id));
            (receipt, number)
        };
        // Told at once: whoever drops the future changes nothing about what is under way.
        self.news.wake();
        let written = receipt.durable().await;
        let undone = {
            let mut state = cell.state.write().expect(SOUND);
            let mut changes = cell.changes.lock().expect(SOUND);
            let before = match &written {
                Ok(()) => {
                    changes.written(number);
                    None
                }
                Err(_) => changes.refused(number),
            };
            before.map(|before| *state = before)
        };
        if undone.is_some() {
            self.tell(News::ChannelChanged(*id));
        }
        written.map(|()| true)
    }

    /// Removes the channel with all its contents, but for how far own logs were handed out; `false` if it does
    /// not exist. What the store refused to remove is gone here all the same, and removed when this is called again, or
    /// the channel is made again.
    pub(crate) async fn remove_channel(&self, id: &ChannelId) -> Result<bool, StoreError> {
        let (receipt, streams) = {
            // Held until the removal is submitted: a channel of this id that is made again comes after it.
            let mut registry = self.registry.write().expect(SOUND);
            if self.is_closed() {
                return Err(StoreError::Closed);
            }
            let created = registry.channels.remove(id);
            let before = registry.removed.get(id);
            let is_untold = created.is_some() || before.is_some_and(|removal| removal.is_untold);
            let is_refused = |removal: &&Removal| matches!(removal.receipt.settled(), Some(Err(_)));
            let refused = before.filter(is_refused).map(|removal| removal.marks.clone());
            let cell = created.or_else(|| registry.creations.remove(id).map(|(cell, _)| cell));
            let (marks, streams) = match (cell, refused) {
                (Some(cell), _) => self.empty(&cell),
                (None, Some(marks)) => (marks, BTreeMap::new()),
                (None, None) => return Ok(false),
            };
            let receipt = self.store.submit(WriteBatch::new(removal_ops(*id, &marks)));
            registry.removed.insert(*id, Removal { marks, receipt: receipt.clone(), is_untold });
            self.news.put(News::ChannelRemoved(*id));
            (receipt, streams)
        };
        self.news.wake();
        streams.values().for_each(|stream| stream.changed.bump());
        receipt.durable().await?;
        {
            let mut registry = self.registry.write().expect(SOUND);
            let removal = registry.removed.get_mut(id);
            // Unless it was made again meanwhile, and removed again.
            let is_over = |removal: &&mut Removal| matches!(removal.receipt.settled(), Some(Ok(())));
            self.tell_of_removal(removal.filter(is_over), *id);
        }
        self.notices.tell();
        Ok(true)
    }

    /// Puts down that a channel was removed, for those who have yet to hear of it.
    fn tell_of_removal(&self, removal: Option<&mut Removal>, id: ChannelId) {
        if removal.is_some_and(|removal| std::mem::take(&mut removal.is_untold)) {
            self.notices.put(Event::ChannelRemoved(id));
        }
    }

    /// Takes everything out of a channel that is being removed: how far its own logs were handed out, and its streams, whose
    /// readers are to be woken.
    fn empty(&self, cell: &ChannelCell) -> (Marks, BTreeMap<StreamId, Arc<StreamCell>>) {
        {
            let _state = cell.state.write().expect(SOUND);
            cell.removed.store(true, Ordering::Release);
        }
        let streams = std::mem::take(&mut *cell.streams.write().expect(SOUND));
        let mut marks = cell.marks.clone();
        for stream in streams.values() {
            for log in stream.logs() {
                let mut state = log.lock();
                // What was submitted before comes before the removal; nothing is submitted after it.
                state.removed = true;
                if log.name.author == self.node() {
                    marks.raise(&stream.id, &state);
                }
                self.totals.entries.fetch_sub(state.visible_entries(), Ordering::Relaxed);
                self.totals.logs.fetch_sub(1, Ordering::Relaxed);
            }
            self.totals.streams.fetch_sub(1, Ordering::Relaxed);
        }
        (marks, streams)
    }
}

/// What removes a channel from the store, but for its marks.
fn removal_ops(id: ChannelId, marks: &Marks) -> impl Iterator<Item = WriteOp> {
    [WriteOp::RemoveChannel(id)].into_iter().chain(marks.write(id))
}
