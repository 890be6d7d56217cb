//! Ids of the shuffles of an app that were deleted: what comes late to one of them is refused
//! (invariant: delete-by-lease).
//!
//! Kept as ranges. Engines count shuffles up and delete nearly all of them, so those of a stream
//! that runs for months are a handful of ranges, where a tombstone each would be memory that grows
//! and a longer list for the writer to go through at every turn.

use std::collections::BTreeMap;

use shuffle_proto::ids::ShuffleId;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Deleted {
    /// First id of each range to its last; ranges neither touch nor overlap.
    ranges: BTreeMap<u32, u32>,
}

impl Deleted {
    /// False if it was there already.
    pub(crate) fn insert(&mut self, ShuffleId(id): ShuffleId) -> bool {
        let below = self
            .ranges
            .range(..=id)
            .next_back()
            .map(|(&first, &last)| (first, last));
        let mut range = (id, id);
        match below {
            Some((_, last)) if last >= id => return false,
            Some((first, last)) if last + 1 == id => range.0 = first,
            _ => {}
        }
        if let Some(last) = id.checked_add(1).and_then(|next| self.ranges.remove(&next)) {
            range.1 = last;
        }
        self.ranges.insert(range.0, range.1);
        true
    }

    pub(crate) fn contains(&self, ShuffleId(id): ShuffleId) -> bool {
        let below = self.ranges.range(..=id).next_back();
        below.is_some_and(|(_, &last)| last >= id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shuffles_counted_up_are_one_range() {
        let mut deleted = Deleted::default();
        for id in (0..10_000)
            .filter(|id| id % 2 == 0)
            .chain((0..10_000).filter(|id| id % 2 == 1))
        {
            assert!(deleted.insert(ShuffleId(id)));
        }
        assert_eq!(deleted.ranges, BTreeMap::from([(0, 9_999)]));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_all_ids(ids in prop::collection::vec(prop_oneof![0u32..40, u32::MAX - 20..=u32::MAX], 0..200)) {
            let (mut deleted, mut set) = (Deleted::default(), BTreeSet::new());
            for id in ids {
                prop_assert_eq!(deleted.insert(ShuffleId(id)), set.insert(id));
            }
            for id in (0..42).chain(u32::MAX - 22..=u32::MAX) {
                prop_assert_eq!(deleted.contains(ShuffleId(id)), set.contains(&id));
            }
            let touching = deleted.ranges.values().any(|last| last.checked_add(1).is_some_and(|next| deleted.ranges.contains_key(&next)));
            prop_assert!(!touching);
        }
    }
}
