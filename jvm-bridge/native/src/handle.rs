//! Tables of what Java has opened: an id is looked up, never cast.
//!
//! | bits of an id | |
//! |---|---|
//! | 56..63 | table, so that a writer's id is no reader's |
//! | 24..56 | generation of the slot, from 1 |
//! | 0..24 | slot |
//!
//! An id is never handed out twice: a slot's generation grows when the slot is emptied, and a slot
//! out of generations is not used again. So a closed, foreign or invented id is refused
//! (invariant: ids-never-addresses). A look-up hands out an `Arc`: `close` from another thread
//! takes the entry out of the table, and the memory goes with the return of the call inside.

use std::sync::Arc;

use parking_lot::Mutex;
pub(crate) use shuffle_client::blocking::exclusive;
use shuffle_client::{Error, Kind};

use crate::error::invalid;

const SLOT_BITS: u32 = 24;
const GENERATION_BITS: u32 = 32;

/// Entries of one kind.
pub(crate) struct Table<T> {
    tag: u8,
    name: &'static str,
    slots: Mutex<Slots<T>>,
}

struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
}

struct Slot<T> {
    generation: u32,
    entry: Option<Arc<T>>,
}

/// An id that was taken apart.
struct Position {
    slot: usize,
    generation: u32,
}

impl<T> Table<T> {
    /// `tag` must differ between tables and lie in `1..128`; `name` is for messages.
    pub(crate) const fn new(tag: u8, name: &'static str) -> Self {
        assert!(tag > 0 && tag < 128);
        Self {
            tag,
            name,
            slots: Mutex::new(Slots {
                slots: Vec::new(),
                free: Vec::new(),
            }),
        }
    }

    /// Takes the entry in and answers its id, which is positive.
    pub(crate) fn insert(&self, entry: T) -> Result<i64, Error> {
        let entry = Some(Arc::new(entry));
        let mut table = self.slots.lock();
        let slot = match table.free.pop() {
            Some(slot) => {
                table.slots[slot].entry = entry;
                slot
            }
            None if table.slots.len() < 1 << SLOT_BITS => {
                table.slots.push(Slot {
                    generation: 1,
                    entry,
                });
                table.slots.len() - 1
            }
            None => {
                let message = format!(
                    "{} {}s are open: close those that are no longer used",
                    table.slots.len(),
                    self.name
                );
                return Err(Error::new(Kind::Internal, message));
            }
        };
        let generation = i64::from(table.slots[slot].generation);
        let slot = i64::try_from(slot).expect("a slot has 24 bits");
        Ok(i64::from(self.tag) << (SLOT_BITS + GENERATION_BITS) | generation << SLOT_BITS | slot)
    }

    /// The entry of an open id.
    pub(crate) fn get(&self, id: i64) -> Result<Arc<T>, Error> {
        let position = self.position(id)?;
        let table = self.slots.lock();
        let slot = table
            .slots
            .get(position.slot)
            .ok_or_else(|| self.unknown(id))?;
        match &slot.entry {
            Some(entry) if slot.generation == position.generation => Ok(entry.clone()),
            _ if position.generation <= slot.generation => Err(invalid(format!(
                "{} {id:#x} is closed: do not use it after close",
                self.name
            ))),
            _ => Err(self.unknown(id)),
        }
    }

    /// Takes the entry of an id out of the table; `None` if that was done before.
    pub(crate) fn remove(&self, id: i64) -> Result<Option<Arc<T>>, Error> {
        let position = self.position(id)?;
        let mut table = self.slots.lock();
        let table = &mut *table;
        let slot = table
            .slots
            .get_mut(position.slot)
            .ok_or_else(|| self.unknown(id))?;
        if position.generation > slot.generation {
            return Err(self.unknown(id));
        }
        if position.generation < slot.generation {
            return Ok(None);
        }
        let entry = slot.entry.take();
        if entry.is_some() && slot.generation < u32::MAX {
            slot.generation += 1;
            table.free.push(position.slot);
        }
        Ok(entry)
    }

    /// How many are open.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.slots
            .lock()
            .slots
            .iter()
            .filter(|slot| slot.entry.is_some())
            .count()
    }

    fn position(&self, id: i64) -> Result<Position, Error> {
        if id >> (SLOT_BITS + GENERATION_BITS) != i64::from(self.tag) {
            return Err(self.unknown(id));
        }
        let slot = usize::try_from(id & ((1 << SLOT_BITS) - 1)).map_err(|_| self.unknown(id))?;
        let generation =
            u32::try_from(id >> SLOT_BITS & i64::from(u32::MAX)).map_err(|_| self.unknown(id))?;
        if generation == 0 {
            Err(self.unknown(id))
        } else {
            Ok(Position { slot, generation })
        }
    }

    fn unknown(&self, id: i64) -> Error {
        invalid(format!(
            "{id:#x} is no {}: pass an id that was opened as one",
            self.name
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_closed_id_is_refused_also_when_its_slot_is_used_again() {
        let table = Table::new(1, "thing");
        let first = table.insert("a").expect("room");
        assert_eq!(*table.remove(first).expect("known").expect("open"), "a");
        let second = table.insert("b").expect("room");
        assert_ne!(first, second);
        assert!(
            table
                .get(first)
                .expect_err("closed")
                .message
                .contains("is closed")
        );
        assert_eq!(*table.get(second).expect("open"), "b");
    }

    #[test]
    fn closing_twice_does_nothing() {
        let table = Table::new(1, "thing");
        let id = table.insert(()).expect("room");
        assert!(table.remove(id).expect("known").is_some());
        assert!(table.remove(id).expect("known").is_none());
    }

    #[test]
    fn an_id_of_another_table_is_refused() {
        let writers: Table<()> = Table::new(1, "writer");
        let readers: Table<()> = Table::new(2, "reader");
        let id = writers.insert(()).expect("room");
        readers.insert(()).expect("room");
        assert_eq!(readers.get(id).expect_err("foreign").kind, Kind::Invalid);
        assert_eq!(readers.remove(id).expect_err("foreign").kind, Kind::Invalid);
        assert_eq!(writers.len(), 1);
    }

    #[test]
    fn an_entry_that_is_closed_lives_until_the_call_inside_returns() {
        let table = Table::new(1, "thing");
        let id = table.insert(String::from("kept")).expect("room");
        let inside = table.get(id).expect("open");
        std::thread::scope(|scope| {
            scope.spawn(|| drop(table.remove(id)));
        });
        assert!(table.get(id).is_err());
        assert_eq!(*inside, "kept");
    }

    #[test]
    fn a_slot_whose_generations_are_used_up_is_not_used_again() {
        let table = Table::new(1, "thing");
        let id = table.insert(0).expect("room");
        table.slots.lock().slots[0].generation = u32::MAX;
        let last = id | i64::from(u32::MAX) << SLOT_BITS;
        assert!(table.remove(last).expect("known").is_some());
        assert_ne!(table.insert(1).expect("room") & ((1 << SLOT_BITS) - 1), 0);
        assert!(table.remove(last).expect("known").is_none());
        assert!(table.get(last).is_err());
    }

    #[test]
    fn many_threads_never_see_each_others_entries() {
        let table = Table::new(3, "thing");
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let table = &table;
                scope.spawn(move || {
                    for i in 0..5_000u64 {
                        let value = thread << 32 | i;
                        let id = table.insert(value).expect("room");
                        assert_eq!(*table.get(id).expect("open"), value);
                        assert_eq!(*table.remove(id).expect("known").expect("open"), value);
                        assert!(table.get(id).is_err());
                    }
                });
            }
        });
        assert_eq!(table.len(), 0);
    }

    proptest! {
        #[test]
        fn behaves_as_a_map_that_never_reuses_a_key(steps in prop::collection::vec((0u8..3, 0usize..40), 1..200)) {
            let table = Table::new(2, "thing");
            let (mut open, mut issued) = (HashMap::new(), Vec::new());
            for (step, pick) in steps {
                match step {
                    0 => {
                        let id = table.insert(pick).expect("room");
                        prop_assert!(id > 0 && !issued.contains(&id));
                        issued.push(id);
                        open.insert(id, pick);
                    }
                    1 if !issued.is_empty() => {
                        let id = issued[pick % issued.len()];
                        prop_assert_eq!(table.remove(id).expect("known").map(|value| *value), open.remove(&id));
                    }
                    _ if !issued.is_empty() => {
                        let id = issued[pick % issued.len()];
                        prop_assert_eq!(table.get(id).ok().map(|value| *value), open.get(&id).copied());
                    }
                    _ => {}
                }
            }
        }

        #[test]
        fn no_number_is_worse_than_an_error(id in any::<i64>()) {
            let table = Table::new(2, "thing");
            table.insert(()).expect("room");
            let known = id == 2 << 56 | 1 << 24;
            prop_assert_eq!(table.get(id).is_ok(), known);
            prop_assert_eq!(table.remove(id).is_ok_and(|entry| entry.is_some()), known);
        }
    }
}
