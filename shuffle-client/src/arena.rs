//! Memory that an engine writes records into, outside its heap.
//!
//! An arena is one anonymous mapping, with huge pages if possible: the engine fills it from end to
//! end, so page faults are the cost, and recycled arenas are free of it. The client keeps a few
//! returned arenas for the next task: at most one per core, none longer than a minute.
//!
//! An engine in Rust writes through [`Arena::bytes_mut`]. Others write through plain addresses
//! ([`Arena::address`]), and the client reads the same bytes. That is sound as long as the engine
//! leaves the arena alone during a flush, which cannot be checked. A breach yields wrong records
//! but no access outside the arena: every value read from it is checked against its bounds after
//! the read.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use memmap2::{MmapMut, MmapOptions};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::{
    budget::{Budget, Permit, Share},
    error::{Error, Kind},
};

/// Fewest and most bytes: offsets have 32 bits.
const BYTES: (usize, usize) = (4 << 10, 4 << 30);
/// An account so large that huge pages, of which a little used arena fills few, do not matter.
pub const AMPLE: usize = 512 << 20;
/// How long an arena that nobody uses is kept.
const KEEP: Duration = Duration::from_secs(60);

/// A mapping, with the permits for the part ever filled: its pages stay.
struct Mapping {
    memory: MmapMut,
    permits: Vec<Permit>,
    granted: usize,
}

impl Mapping {
    fn new(bytes: usize, huge: bool) -> Result<Self, Error> {
        // Only the part to be filled is taken, and only once it is.
        let mapped = MmapOptions::new().len(bytes).no_reserve_swap().map_anon();
        let memory = mapped.map_err(|error| {
            let message = format!(
                "no {bytes} bytes of memory for an arena ({error}): give the process more memory (executors of Spark: memoryOverhead) or make the arena smaller"
            );
            Error::new(Kind::Internal, message)
        })?;
        // That the kernel may not have huge pages changes nothing but speed.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(if huge {
            memmap2::Advice::HugePage
        } else {
            memmap2::Advice::NoHugePage
        });
        #[cfg(not(target_os = "linux"))]
        let _ = huge;
        Ok(Self {
            memory,
            permits: Vec::new(),
            granted: 0,
        })
    }
}

/// An arena in use, by [`Client::take_arena`](crate::Client::take_arena). Goes back to the client's
/// others when it is dropped.
pub struct Arena {
    mapping: Option<Mapping>,
    pool: Arc<Pool>,
    budget: Budget,
    handle: Handle,
}

impl Arena {
    /// An arena of exactly this size, recycled if possible.
    pub(crate) fn take(
        pool: &Arc<Pool>,
        bytes: u64,
        budget: &Budget,
        handle: &Handle,
    ) -> Result<Self, Error> {
        let huge = budget.limit().is_none_or(|limit| limit >= AMPLE);
        Ok(Self {
            mapping: Some(pool.mapping(bytes, huge)?),
            pool: pool.clone(),
            budget: budget.clone(),
            handle: handle.clone(),
        })
    }

    /// Whether as much of it may be filled; `must`: whether there is room or not.
    pub fn grow(&mut self, bytes: usize, must: bool) -> bool {
        let Some(mapping) = &mut self.mapping else {
            return false;
        };
        let more = bytes
            .min(mapping.memory.len())
            .saturating_sub(mapping.granted);
        if more == 0 {
            return true;
        }
        // With the memory for its sort.
        let cost = more + more / 4;
        let permit = self.budget.try_take(Share::Arenas, cost).or_else(|| {
            self.pool.idle.lock().clear();
            self.budget.try_take(Share::Arenas, cost)
        });
        let permit = match permit {
            Some(permit) => permit,
            None if must => self.budget.take(Share::Arenas, cost),
            None => return false,
        };
        mapping.granted += more;
        mapping.permits.push(permit);
        true
    }

    /// Where it starts; aligned to a page.
    pub fn address(&self) -> *const u8 {
        self.memory().as_ptr()
    }

    /// Its content, as of now.
    pub fn bytes(&self) -> &[u8] {
        self.memory()
    }

    /// For records at its start, back to back, and entries at its end: [`put`](Self::put) writes
    /// one of each.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let mapping = self.mapping.as_mut();
        &mut mapping.expect("only drop takes the mapping").memory
    }

    /// Writes record number `index`, with `used` bytes of records before it. False without room for
    /// it, and then nothing is written: flush first.
    pub fn put(&mut self, index: usize, used: usize, partition: u32, record: &[u8]) -> bool {
        let (end, entries) = (used + record.len(), 8 * (index + 1));
        if end + entries > self.bytes().len() || !self.grow(end + entries, index == 0) {
            return false;
        }
        let bytes = self.bytes_mut();
        bytes[used..end].copy_from_slice(record);
        let entry = bytes.len() - entries;
        let value = u64::from(partition) << 32 | used as u64;
        bytes[entry..entry + 8].copy_from_slice(&value.to_ne_bytes());
        true
    }

    /// Its last `count` entries of 8 bytes, in memory order.
    pub(crate) fn entries(&self, count: usize) -> Result<&[[u8; 8]], Error> {
        let bytes = self.bytes();
        let start = count
            .checked_mul(8)
            .and_then(|length| bytes.len().checked_sub(length));
        let Some(start) = start else {
            let message = format!(
                "records is {count}: an arena of {} bytes has no room for so many",
                bytes.len()
            );
            return Err(Error::new(Kind::Invalid, message));
        };
        Ok(bytes[start..].as_chunks().0)
    }

    fn memory(&self) -> &MmapMut {
        let mapping = self.mapping.as_ref();
        &mapping.expect("only drop takes the mapping").memory
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(mapping) = self.mapping.take() {
            self.pool.put(mapping, &self.handle);
        }
    }
}

/// Arenas that were given back.
pub(crate) struct Pool {
    most: usize,
    idle: Mutex<Vec<(Instant, Mapping)>>,
    /// A task will look for arenas that were kept too long.
    trimming: AtomicBool,
}

impl Pool {
    /// Keeps at most one arena per core.
    pub(crate) fn new() -> Arc<Self> {
        Self::with(std::thread::available_parallelism().map_or(2, usize::from))
    }

    fn with(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            idle: Mutex::new(Vec::new()),
            trimming: AtomicBool::new(false),
        })
    }

    fn mapping(&self, bytes: u64, huge: bool) -> Result<Mapping, Error> {
        let checked = usize::try_from(bytes)
            .ok()
            .filter(|n| (BYTES.0..=BYTES.1).contains(n) && n % 8 == 0)
            .ok_or_else(|| {
                let (least, most) = BYTES;
                let message =
                    format!("arenaBytes is {bytes}: give a multiple of 8 from {least} to {most}");
                Error::new(Kind::Invalid, message)
            })?;
        self.take(checked)
            .map_or_else(|| Mapping::new(checked, huge), Ok)
    }

    /// The last returned arena of this size: its pages are the warmest.
    fn take(&self, bytes: usize) -> Option<Mapping> {
        let mut idle = self.idle.lock();
        let position = idle
            .iter()
            .rposition(|(_, mapping)| mapping.memory.len() == bytes)?;
        Some(idle.remove(position).1)
    }

    fn put(self: &Arc<Self>, mapping: Mapping, handle: &Handle) {
        let oldest = {
            let mut idle = self.idle.lock();
            idle.push((Instant::now(), mapping));
            (idle.len() > self.most).then(|| idle.remove(0))
        };
        drop(oldest); // unmapping takes a while: not under the lock
        if !self.trimming.swap(true, Ordering::AcqRel) {
            handle.spawn(trim(Arc::downgrade(self)));
        }
    }

    /// What is idle for too long, taken out; `None` once nothing is idle.
    fn too_old(&self) -> Option<Vec<(Instant, Mapping)>> {
        let mut idle = self.idle.lock();
        if idle.is_empty() {
            // Under the lock, so that a `put` either is seen here or starts a new task.
            self.trimming.store(false, Ordering::Release);
            return None;
        }
        let kept = idle
            .iter()
            .take_while(|(since, _)| since.elapsed() >= KEEP)
            .count();
        Some(idle.drain(..kept).collect())
    }
}

/// Frees what is idle for too long, until nothing is idle or the client is gone.
async fn trim(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(KEEP / 2).await;
        match pool.upgrade().map(|pool| pool.too_old()) {
            Some(Some(old)) => drop(old),
            Some(None) | None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena(pool: &Arc<Pool>, bytes: u64) -> Arena {
        Arena::take(pool, bytes, &Budget::new(None, &[]), &Handle::current()).expect("memory")
    }

    #[tokio::test]
    async fn an_arena_is_used_again_for_the_same_size_only() {
        let pool = Pool::with(2);
        let first = arena(&pool, 1 << 20);
        let address = first.address();
        drop(first);
        let other = arena(&pool, 2 << 20);
        assert_ne!(other.address(), address);
        let again = arena(&pool, 1 << 20);
        assert_eq!(again.address(), address);
    }

    #[tokio::test]
    async fn no_more_are_kept_than_agreed() {
        let pool = Pool::with(2);
        for _ in 0..5 {
            pool.put(
                Mapping::new(1 << 16, true).expect("memory"),
                &Handle::current(),
            );
        }
        assert_eq!(pool.idle.lock().len(), 2);
    }

    #[tokio::test]
    async fn what_nobody_uses_is_freed_after_a_while() {
        let pool = Pool::with(2);
        for _ in 0..2 {
            pool.put(
                Mapping::new(1 << 16, true).expect("memory"),
                &Handle::current(),
            );
        }
        let long_ago = Instant::now().checked_sub(KEEP * 2);
        pool.idle.lock()[0].0 = long_ago.expect("the machine is up for long");
        let old = pool.too_old().expect("something is idle");
        assert_eq!((old.len(), pool.idle.lock().len()), (1, 1));
        assert!(pool.trimming.load(Ordering::Acquire), "a task goes on");
        pool.idle.lock().clear();
        assert!(pool.too_old().is_none());
        assert!(
            !pool.trimming.load(Ordering::Acquire),
            "the next put starts another task"
        );
    }

    #[tokio::test]
    async fn a_size_that_cannot_be_is_refused() {
        for bytes in [0, 8, 4097, (4 << 30) + 8, u64::MAX] {
            let error = Pool::with(1)
                .mapping(bytes, true)
                .map(|_| ())
                .expect_err("refused");
            assert_eq!(error.kind, Kind::Invalid);
            assert!(error.message.contains("arenaBytes"), "{error}");
        }
    }

    #[tokio::test]
    async fn entries_are_the_last_longs() {
        let mut arena = arena(&Pool::with(1), 4096);
        assert_eq!(arena.entries(512).expect("fits"), [[0; 8]; 512]);
        assert!(arena.entries(513).is_err());
        assert!(arena.entries(usize::MAX).is_err());
        assert!(arena.entries(0).expect("fits").is_empty());
        assert!(arena.put(0, 0, 7, b"abc") && arena.put(1, 3, 8, b"defg"));
        let entries = arena.entries(2).expect("fits");
        assert_eq!(
            [0, 1].map(|i| u64::from_ne_bytes(entries[i])),
            [8 << 32 | 3, 7 << 32]
        );
        assert_eq!(&arena.bytes()[..7], b"abcdefg");
        assert!(!arena.put(2, 7, 0, &[0; 4096 - 7 - 23]), "no room");
        assert!(arena.put(2, 7, 0, &[0; 4096 - 7 - 24]));
    }
}
