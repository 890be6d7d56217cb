//! Native memory that Java writes records into.
//!
//! An arena is one anonymous mapping, with huge pages if possible: Java fills the arena from end to
//! end, so page faults are the cost, and recycled arenas are free of it. The library keeps a few
//! returned arenas for the next task of the executor: at most one per core, none longer than a
//! minute.
//!
//! Java writes through plain addresses, and Rust reads the same bytes. That is sound as long as
//! Java leaves the arena alone while `writerFlush` has not returned true: the contract of
//! `io.forebay.core.Native`, which cannot be checked. A breach yields wrong records but no access
//! outside the arena: every value read from the arena is checked against its bounds after the read.

use std::{
    ptr::{self, NonNull},
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::mm::{self, Advice, MapFlags, ProtFlags};
use shuffle_client::{
    Error, Kind,
    budget::{Budget, Permit, Share},
};

use crate::{error::invalid, runtime};

/// Fewest and most bytes: offsets have 32 bits.
const BYTES: (usize, usize) = (4 << 10, 4 << 30);
/// An account so large that huge pages, of which a little used arena fills few, do not matter.
pub(crate) const AMPLE: usize = 512 << 20;
/// How long an arena that nobody uses is kept.
const KEEP: Duration = Duration::from_secs(60);

/// A mapping, owned.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    /// Memory for the part ever filled: its pages stay.
    permits: Vec<Permit>,
    granted: usize,
}

// SAFETY: the mapping belongs to this value alone, and no thread is special to it.
unsafe impl Send for Mapping {}
// SAFETY: through a shared reference it is only read, apart from Java's writes, which the module's
// contract orders.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(bytes: usize, huge: bool) -> Result<Self, Error> {
        // SAFETY: a new private anonymous mapping overlaps nothing.
        let start = unsafe {
            mm::mmap_anonymous(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        let start = start.ok().and_then(|start| NonNull::new(start.cast::<u8>())).ok_or_else(|| {
            let message =
                format!("no {bytes} bytes of memory for an arena: raise the executor's memoryOverhead or make it smaller");
            Error::new(Kind::Internal, message)
        })?;
        // Under memory pressure, only the part to be filled is taken.
        let advice = if huge {
            Advice::LinuxHugepage
        } else {
            Advice::LinuxNoHugepage
        };
        // SAFETY: the range is the mapping just made. That the kernel may not have huge pages
        // changes nothing but speed.
        let _ = unsafe { mm::madvise(start.as_ptr().cast(), bytes, advice) };
        Ok(Self {
            start,
            bytes,
            permits: Vec::new(),
            granted: 0,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping owned by this value; no borrow is left at its drop.
        let unmapped = unsafe { mm::munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "unmapping what was mapped: {unmapped:?}");
    }
}

/// An arena in use. Goes back to the pool when it is dropped.
pub(crate) struct Arena {
    mapping: Option<Mapping>,
    pool: &'static Pool,
}

impl Arena {
    /// An arena of exactly this size, recycled if possible. The content is undefined.
    pub(crate) fn take(bytes: u64, budget: &Budget) -> Result<Self, Error> {
        static POOL: LazyLock<Pool> = LazyLock::new(|| {
            Pool::new(std::thread::available_parallelism().map_or(2, usize::from))
        });
        let huge = budget.limit().is_none_or(|limit| limit >= AMPLE);
        Self::take_from(&POOL, bytes, huge)
    }

    /// Whether as much of it may be filled; `must`: whether there is room or not.
    pub(crate) fn grow(&mut self, bytes: usize, must: bool, budget: &Budget) -> bool {
        let pool = self.pool;
        let Some(mapping) = &mut self.mapping else {
            return false;
        };
        let more = bytes.min(mapping.bytes).saturating_sub(mapping.granted);
        if more == 0 {
            return true;
        }
        // With the memory for its sort.
        let cost = more + more / 4;
        let permit = budget.try_take(Share::Arenas, cost).or_else(|| {
            pool.idle.lock().clear();
            budget.try_take(Share::Arenas, cost)
        });
        let permit = match permit {
            Some(permit) => permit,
            None if must => budget.take(Share::Arenas, cost),
            None => return false,
        };
        mapping.granted += more;
        mapping.permits.push(permit);
        true
    }

    fn take_from(pool: &'static Pool, bytes: u64, huge: bool) -> Result<Self, Error> {
        let checked = usize::try_from(bytes)
            .ok()
            .filter(|n| (BYTES.0..=BYTES.1).contains(n) && n % 8 == 0)
            .ok_or_else(|| {
                let (least, most) = BYTES;
                invalid(format!(
                    "arenaBytes is {bytes}: give a multiple of 8 from {least} to {most}"
                ))
            })?;
        let mapping = pool
            .take(checked)
            .map_or_else(|| Mapping::new(checked, huge), Ok)?;
        Ok(Self {
            mapping: Some(mapping),
            pool,
        })
    }

    /// Where it starts; aligned to a page.
    pub(crate) fn address(&self) -> *const u8 {
        self.mapping().start.as_ptr()
    }

    /// Its content, as of now.
    pub(crate) fn bytes(&self) -> &[u8] {
        let mapping = self.mapping();
        // SAFETY: the mapping is readable over its length (fresh pages are zero, so all of it is
        // initialised) and lives as long as the borrow of self. Java does not write meanwhile: the
        // module's contract.
        unsafe { std::slice::from_raw_parts(mapping.start.as_ptr(), mapping.bytes) }
    }

    /// Its last `8 * count` bytes as longs, in memory order.
    pub(crate) fn entries(&self, count: usize) -> Result<&[u64], Error> {
        let bytes = self.bytes();
        let start = count
            .checked_mul(8)
            .and_then(|length| bytes.len().checked_sub(length));
        let Some(start) = start else {
            return Err(invalid(format!(
                "records is {count}: an arena of {} bytes has no room for so many",
                bytes.len()
            )));
        };
        // SAFETY: the range lies in `bytes`, every bit pattern is a u64, and start and end are
        // multiples of 8 of a page's start.
        Ok(unsafe { std::slice::from_raw_parts(bytes[start..].as_ptr().cast(), count) })
    }

    fn mapping(&self) -> &Mapping {
        self.mapping.as_ref().expect("only drop takes the mapping")
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(mapping) = self.mapping.take() {
            self.pool.put(mapping);
        }
    }
}

/// Arenas that were given back.
struct Pool {
    most: usize,
    idle: Mutex<Vec<(Instant, Mapping)>>,
    /// A task will look for arenas that were kept too long.
    trimming: AtomicBool,
}

impl Pool {
    fn new(most: usize) -> Self {
        Self {
            most,
            idle: Mutex::new(Vec::new()),
            trimming: AtomicBool::new(false),
        }
    }

    /// The last returned arena of this size: its pages are the warmest.
    fn take(&self, bytes: usize) -> Option<Mapping> {
        let mut idle = self.idle.lock();
        let position = idle
            .iter()
            .rposition(|(_, mapping)| mapping.bytes == bytes)?;
        Some(idle.remove(position).1)
    }

    fn put(&'static self, mapping: Mapping) {
        let oldest = {
            let mut idle = self.idle.lock();
            idle.push((Instant::now(), mapping));
            (idle.len() > self.most).then(|| idle.remove(0))
        };
        drop(oldest); // unmapping takes a while: not under the lock
        if !self.trimming.swap(true, Ordering::AcqRel) {
            match runtime::get() {
                Ok(runtime) => drop(runtime.spawn(self.trim())),
                Err(_) => self.idle.lock().clear(),
            }
        }
    }

    /// Frees what is idle for too long, until nothing is idle.
    async fn trim(&self) {
        loop {
            tokio::time::sleep(KEEP / 2).await;
            let mut old: Vec<_> = {
                let mut idle = self.idle.lock();
                let kept = idle
                    .iter()
                    .take_while(|(since, _)| since.elapsed() >= KEEP)
                    .count();
                let old = idle.drain(..kept).collect();
                if idle.is_empty() {
                    // Under the lock, so that a `put` either is seen here or starts a new task.
                    self.trimming.store(false, Ordering::Release);
                    drop(idle);
                    return drop::<Vec<_>>(old);
                }
                old
            };
            old.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(most: usize) -> &'static Pool {
        Box::leak(Box::new(Pool::new(most)))
    }

    #[test]
    fn an_arena_is_used_again_for_the_same_size_only() {
        let pool = pool(2);
        let first = Arena::take_from(pool, 1 << 20, true).expect("memory");
        let address = first.address();
        drop(first);
        let other = Arena::take_from(pool, 2 << 20, true).expect("memory");
        assert_ne!(other.address(), address);
        let again = Arena::take_from(pool, 1 << 20, true).expect("memory");
        assert_eq!(again.address(), address);
    }

    #[test]
    fn no_more_are_kept_than_agreed() {
        let pool = pool(2);
        let arenas: Vec<_> = (0..5)
            .map(|_| Arena::take_from(pool, 1 << 16, true).expect("memory"))
            .collect();
        drop(arenas);
        assert_eq!(pool.idle.lock().len(), 2);
    }

    #[test]
    fn a_size_that_cannot_be_is_refused() {
        for bytes in [0, 8, 4097, (4 << 30) + 8, u64::MAX] {
            let error = Arena::take_from(pool(1), bytes, true)
                .map(|_| ())
                .expect_err("refused");
            assert_eq!(error.kind, Kind::Invalid);
            assert!(error.message.contains("arenaBytes"), "{error}");
        }
    }

    #[test]
    fn entries_are_the_last_longs() {
        let arena = Arena::take_from(pool(1), 4096, true).expect("memory");
        assert_eq!(arena.entries(512).expect("fits"), [0; 512]);
        assert!(arena.entries(513).is_err());
        assert!(arena.entries(usize::MAX).is_err());
        assert!(arena.entries(0).expect("fits").is_empty());
    }
}
