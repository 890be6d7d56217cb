//! Buffers that fetches read into, kept for the next ones.

use std::sync::Arc;

use parking_lot::Mutex;

/// Bytes that a part has at most, unless a single block is larger.
pub(crate) const PART: usize = 1 << 20;
/// Buffers that are kept for the next reads.
const POOLED: usize = 64;

/// Recycled buffers of [`PART`] bytes, so that a read neither zeroes memory nor asks the system for
/// it.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Vec<Box<[u8]>>>);

/// A buffer that goes back to its pool.
pub(crate) struct Pooled {
    pub(crate) bytes: Box<[u8]>,
    pub(crate) pool: Arc<Pool>,
}

// === impl Pool ===

impl Pool {
    pub(crate) fn take(self: &Arc<Self>, length: usize) -> Pooled {
        let pooled = if length <= PART {
            self.0.lock().pop()
        } else {
            None
        };
        let bytes = pooled.unwrap_or_else(|| vec![0; length.max(PART)].into());
        Pooled {
            bytes,
            pool: self.clone(),
        }
    }
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if self.bytes.len() == PART {
            let mut free = self.pool.0.lock();
            if free.len() < POOLED {
                free.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}
