//! The index in memory: for tests, and for volumes that need not survive their process.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;

use super::{Changes, Error, SegmentIndex, Step};

/// A sorted map. Clones are the same index, which is how a test keeps it over a restart.
#[derive(Clone, Debug, Default)]
pub struct MemoryIndex(Arc<RwLock<BTreeMap<Vec<u8>, Vec<u8>>>>);

impl SegmentIndex for MemoryIndex {
    fn write(&self, batch: &Changes, _sync: bool) -> Result<(), Error> {
        let mut map = self.0.write();
        for step in &batch.steps {
            match step {
                Step::Put(key, value) => {
                    map.insert(key.clone(), value.clone());
                }
                Step::Delete(key) => {
                    map.remove(key);
                }
                Step::DeleteRange(from, to) => {
                    let gone: Vec<_> = map
                        .range(from.clone()..to.clone())
                        .map(|(key, _)| key.clone())
                        .collect();
                    gone.iter().for_each(|key| drop(map.remove(key)));
                }
            }
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.read().get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), Error> {
        self.0
            .read()
            .range(from.to_vec()..to.to_vec())
            .for_each(|(key, value)| visit(key, value));
        Ok(())
    }
}
