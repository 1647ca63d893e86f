//! A map whose values have deadlines, and which knows the earliest of them.
//!
//! Whoever takes a value mutably has *touched* it: its deadline is asked for again before the next question about
//! deadlines, and no other value's is. So a turn costs in proportion to what it touched, however much is held. It
//! reads no clock. The driver keeps links in one, the gossip engine its conversations and their shares.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use crate::domain::time::Instant;

/// A value that wants to be looked at some time.
pub(crate) trait HasDeadline {
    /// When; `None` while there is nothing to wait for.
    fn next_deadline(&mut self) -> Option<Instant>;
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Agenda<K, V> {
    slots: BTreeMap<K, Slot<V>>,
    /// The deadline of every value that was not touched since it was asked.
    alarms: BTreeSet<(Instant, K)>,
    /// In the order in which they were touched; some may be gone.
    touched: Vec<K>,
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    alarm: Option<Instant>,
    touched: bool,
}

impl<K: Ord + Copy, V: HasDeadline> Agenda<K, V> {
    pub(crate) fn new() -> Self {
        Self { slots: BTreeMap::new(), alarms: BTreeSet::new(), touched: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.slots.get(key).map(|slot| &slot.value)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let slot = self.slots.get_mut(key)?;
        slot.touch(*key, &mut self.touched);
        Some(&mut slot.value)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.remove(&key);
        self.touched.push(key);
        self.slots.insert(key, Slot { value, alarm: None, touched: true });
    }

    pub(crate) fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let slot = match self.slots.entry(key) {
            Entry::Occupied(slot) => slot.into_mut(),
            Entry::Vacant(slot) => slot.insert(Slot { value: make(), alarm: None, touched: false }),
        };
        slot.touch(key, &mut self.touched);
        &mut slot.value
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let slot = self.slots.remove(key)?;
        if let Some(alarm) = slot.alarm {
            self.alarms.remove(&(alarm, *key));
        }
        Some(slot.value)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.slots.keys()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.values().map(|slot| &slot.value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots.iter().map(|(key, slot)| (key, &slot.value))
    }

    /// Touches all of them.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        let touched = &mut self.touched;
        self.slots.iter_mut().map(|(key, slot)| {
            slot.touch(*key, touched);
            (key, &mut slot.value)
        })
    }

    /// Touches all of them.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.iter_mut().map(|(_, value)| value)
    }

    /// Those touched since deadlines were last asked for, in the order in which they were.
    pub(crate) fn touched(&self) -> impl Iterator<Item = K> + '_ {
        self.touched.iter().filter(|key| self.slots.contains_key(key)).copied()
    }

    /// The earliest deadline of all.
    pub(crate) fn earliest(&mut self) -> Option<Instant> {
        self.settle();
        self.alarms.first().map(|(at, _)| *at)
    }

    /// Those whose deadline had come when it was last asked for, the longest overdue first. Asks nobody: what was touched since
    /// may have another deadline by now, or none, and shows it the next time.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<K> {
        self.alarms.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| *key).collect()
    }

    /// Those whose deadline has come, the longest overdue first.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<K> {
        self.settle();
        self.overdue(now)
    }

    fn settle(&mut self) {
        for key in self.touched.drain(..) {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            slot.touched = false;
            let alarm = slot.value.next_deadline();
            if alarm == slot.alarm {
                continue;
            }
            if let Some(before) = std::mem::replace(&mut slot.alarm, alarm) {
                self.alarms.remove(&(before, key));
            }
            if let Some(alarm) = alarm {
                self.alarms.insert((alarm, key));
            }
        }
    }
}

impl<V> Slot<V> {
    fn touch<K>(&mut self, key: K, touched: &mut Vec<K>) {
        if !std::mem::replace(&mut self.touched, true) {
            touched.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Item {
        due: Option<Instant>,
        asked: u32,
    }

    impl HasDeadline for Item {
        fn next_deadline(&mut self) -> Option<Instant> {
            self.asked += 1;
            self.due
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + std::time::Duration::from_secs(seconds)
    }

    fn agenda(deadlines: &[Option<u64>]) -> Agenda<usize, Item> {
        let mut agenda = Agenda::new();
        for (key, due) in deadlines.iter().enumerate() {
            agenda.insert(key, Item { due: due.map(at), asked: 0 });
        }
        agenda
    }

    #[test]
    fn the_earliest_deadline_is_found_whatever_changes() {
        let mut agenda = agenda(&[Some(5), None, Some(3)]);
        assert_eq!(agenda.earliest(), Some(at(3)));
        agenda.get_mut(&1).unwrap().due = Some(at(1));
        assert_eq!(agenda.earliest(), Some(at(1)));
        agenda.get_mut(&1).unwrap().due = Some(at(9));
        agenda.remove(&2);
        assert_eq!(agenda.earliest(), Some(at(5)));
        agenda.insert(0, Item::default());
        assert_eq!(agenda.earliest(), Some(at(9)));
        agenda.values_mut().for_each(|item| item.due = None);
        assert_eq!(agenda.earliest(), None);
    }

    #[test]
    fn what_is_due_comes_in_the_order_of_its_deadlines() {
        let mut agenda = agenda(&[Some(5), Some(7), Some(3), Some(3), None]);
        assert_eq!(agenda.due(at(2)), []);
        assert_eq!(agenda.due(at(5)), [2, 3, 0]);
    }

    #[test]
    fn what_was_overdue_when_last_asked_is_told_without_asking() {
        let mut agenda = agenda(&[Some(5), Some(7), Some(3)]);
        assert_eq!(agenda.overdue(at(9)), [], "nobody was asked yet");
        agenda.earliest();
        agenda.get_mut(&1).unwrap().due = Some(at(1));
        assert_eq!(agenda.overdue(at(5)), [2, 0]);
        assert_eq!(agenda.touched().collect::<Vec<_>>(), [1]);
        assert_eq!(agenda.due(at(5)), [1, 2, 0]);
    }

    #[test]
    fn only_what_was_touched_is_asked_again() {
        let mut agenda = agenda(&[Some(5), Some(7), Some(3)]);
        agenda.earliest();
        agenda.get_mut(&1);
        agenda.get_mut(&1);
        agenda.get_or_insert_with(0, Item::default);
        assert_eq!(agenda.touched().collect::<Vec<_>>(), [1, 0]);
        agenda.earliest();
        assert_eq!(agenda.touched().next(), None);
        let asked: Vec<u32> = agenda.values().map(|item| item.asked).collect();
        assert_eq!(asked, [2, 2, 1]);
    }
}
