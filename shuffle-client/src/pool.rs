//! Recycled byte buffers. A freed megabyte goes back to the kernel and is faulted in again page by
//! page, which in a process with endless shuffles costs more than the copy into it.

use std::sync::Arc;

use parking_lot::Mutex;

/// Hands out buffers and takes them back, up to a number of bytes.
#[derive(Debug)]
pub(crate) struct BufferPool {
    kept: Mutex<Kept>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Kept {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

/// A buffer of the pool. Its whole length is initialised, with bytes of the last use.
#[derive(Debug)]
pub(crate) struct Pooled {
    bytes: Vec<u8>,
    len: usize,
    pool: Arc<BufferPool>,
}

impl BufferPool {
    /// Keeps at most `limit` unused bytes.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            kept: Mutex::default(),
            limit,
        })
    }

    /// A buffer that is `len` long, or seems so.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Pooled {
        let mut bytes = {
            let mut kept = self.kept.lock();
            let buffer = kept.buffers.pop().unwrap_or_default();
            kept.bytes -= buffer.capacity();
            buffer
        };
        if bytes.len() < len {
            bytes.resize(len, 0);
        }
        Pooled {
            bytes,
            len,
            pool: self.clone(),
        }
    }
}

impl Pooled {
    /// Bytes of memory in the pool.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Sets the visible length.
    pub(crate) fn set_len(&mut self, len: usize) {
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
        self.len = len;
    }
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsMut<[u8]> for Pooled {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let mut kept = self.pool.kept.lock();
        let size = self.bytes.capacity();
        if size > 0 && kept.bytes + size <= self.pool.limit {
            kept.bytes += size;
            kept.buffers.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_and_is_used_again() {
        let pool = BufferPool::new(1 << 20);
        let mut first = pool.take(100);
        first.as_mut()[99] = 7;
        let address = first.as_ref().as_ptr();
        drop(first);
        let second = pool.take(50);
        assert_eq!(second.as_ref().as_ptr(), address);
        assert_eq!(second.as_ref().len(), 50);
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        let pool = BufferPool::new(150);
        let both = (pool.take(100), pool.take(100));
        drop(both);
        assert_eq!(pool.kept.lock().buffers.len(), 1);
        assert!(pool.kept.lock().bytes <= 150);
    }
}
