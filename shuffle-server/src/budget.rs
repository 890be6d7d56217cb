//! Memory for pushed bytes: an account that is exact, because the permit lives in the buffer that it pays for.
//!
//! Whoever reads bytes off the network takes a [`Permit`] *before* it reads them, copies them once into a [`Staged`] buffer, and
//! from then on the buffer carries the permit: through staging, through fetches that serve from memory, until its last reader
//! drops it. Nothing is ever clamped or forgotten, so the account is zero when the server holds nothing.
//!
//! When more than the high mark is used, or somebody waits, those who hold flushable bytes are told ([`Budget::on_pressure`]).
//! Waiters are served in the order in which they came, so that a large request is not starved by small ones.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

/// Memory that a block takes beside its bytes: header and position in its batch.
pub const BLOCK_OVERHEAD: usize = 44;

/// An account of bytes with a limit. Clones are the same account.
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

/// A share of a budget, given back when dropped.
pub struct Permit {
    budget: Arc<Inner>,
    bytes: u64,
}

/// One received batch while it is being received.
pub struct StagedBuilder {
    bytes: Vec<u8>,
    permit: Permit,
}

/// What a batch's `Bytes` own.
struct Staged {
    bytes: Vec<u8>,
    permit: Permit,
}

/// Capacity of the buffers that are used again: a batch of the usual size (1 MiB and what its last block runs over).
///
/// Taken from the allocator one by one, in sizes that all differ a little, they cost a page fault per 4 KiB and leave holes: the
/// process grew by a half over seven rounds of the same load. The last one given back is the next one taken, still in cache.
const SLAB: usize = (1 << 20) + (128 << 10);
/// A smaller batch gets a buffer of its own size, so that less than a quarter of a slab is unused and unpaid.
const SMALLEST_IN_SLAB: usize = SLAB / 4 * 3;
/// Slabs that wait for a batch take at most this part of the limit.
const SPARE_SHARE: u64 = 8;

struct Inner {
    limit: u64,
    high: u64,
    low: u64,
    /// A copy of the account's `used` for those who only look.
    used: AtomicU64,
    waiting: AtomicU64,
    account: Mutex<Account>,
    /// Empty slabs.
    spare: Mutex<Vec<Vec<u8>>>,
    listeners: RwLock<Vec<Listener>>,
}

type Listener = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Account {
    used: u64,
    waiters: VecDeque<(u64, oneshot::Sender<Permit>)>,
}

/// What a batch costs: its payload, and the server's table of its blocks.
pub fn batch_cost(payload: usize, blocks: usize) -> usize {
    payload + blocks * BLOCK_OVERHEAD
}

// === impl Budget ===

impl Budget {
    /// An account of this many bytes. Pressure begins at three quarters of it and ends at five eighths.
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Inner {
            limit,
            high: limit / 4 * 3,
            low: limit / 8 * 5,
            used: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            account: Mutex::default(),
            spare: Mutex::default(),
            listeners: RwLock::default(),
        }))
    }

    /// Waits for its turn and for the bytes. A request over the whole limit is granted once nothing else is used.
    pub async fn acquire(&self, bytes: usize) -> Permit {
        let bytes = bytes as u64;
        loop {
            let turn = {
                let mut account = self.0.account.lock();
                if account.waiters.is_empty() && self.0.fits(&account, bytes) {
                    Ok(self.0.grant(&mut account, bytes))
                } else {
                    let (sender, receiver) = oneshot::channel();
                    account.waiters.push_back((bytes, sender));
                    self.0
                        .waiting
                        .store(account.waiters.len() as u64, Ordering::Relaxed);
                    Err(receiver)
                }
            };
            self.tell_if_pressed();
            match turn {
                Ok(permit) => return permit,
                Err(receiver) => {
                    // A waiter that is dropped leaves its sender in the queue; what is sent to it comes back at once.
                    if let Ok(permit) = receiver.await {
                        return permit;
                    }
                }
            }
        }
    }

    /// The bytes, if they are free and nobody waits.
    pub fn try_acquire(&self, bytes: usize) -> Option<Permit> {
        let bytes = bytes as u64;
        let permit = {
            let mut account = self.0.account.lock();
            (account.waiters.is_empty() && self.0.fits(&account, bytes))
                .then(|| self.0.grant(&mut account, bytes))
        };
        self.tell_if_pressed();
        permit
    }

    /// Bytes that permits stand for.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Bytes of the account.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// Requests that wait.
    pub fn waiting(&self) -> u64 {
        self.0.waiting.load(Ordering::Relaxed)
    }

    /// Whether bytes should be freed: the high mark is passed, or somebody waits.
    pub fn pressed(&self) -> bool {
        self.used() > self.0.high || self.waiting() > 0
    }

    /// Whether enough has been freed.
    pub fn relieved(&self) -> bool {
        self.used() <= self.0.low && self.waiting() == 0
    }

    /// Calls `listener` whenever a request finds or leaves the account pressed. It must not block.
    pub fn on_pressure(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.0.listeners.write().push(Box::new(listener));
    }

    fn tell_if_pressed(&self) {
        if self.pressed() {
            self.0
                .listeners
                .read()
                .iter()
                .for_each(|listener| listener());
        }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Budget({} of {} bytes, {} waiting)",
            self.used(),
            self.limit(),
            self.waiting()
        )
    }
}

impl Inner {
    fn fits(&self, account: &Account, bytes: u64) -> bool {
        account.used == 0
            || account
                .used
                .checked_add(bytes)
                .is_some_and(|used| used <= self.limit)
    }

    fn grant(self: &Arc<Self>, account: &mut Account, bytes: u64) -> Permit {
        account.used += bytes;
        self.used.store(account.used, Ordering::Relaxed);
        Permit {
            budget: self.clone(),
            bytes,
        }
    }

    fn give_back(self: &Arc<Self>, bytes: u64) {
        // Permits leave the lock before they are sent: one that nobody waits for any more drops, and comes back here.
        let mut granted = Vec::new();
        {
            let mut account = self.account.lock();
            account.used -= bytes;
            self.used.store(account.used, Ordering::Relaxed);
            while let Some((wanted, sender)) = account.waiters.pop_front() {
                if sender.is_closed() {
                    continue;
                }
                if !self.fits(&account, wanted) {
                    account.waiters.push_front((wanted, sender));
                    break;
                }
                let permit = self.grant(&mut account, wanted);
                granted.push((sender, permit));
            }
            self.waiting
                .store(account.waiters.len() as u64, Ordering::Relaxed);
        }
        for (sender, permit) in granted {
            drop(sender.send(permit));
        }
    }
}

// === impl Permit ===

impl Permit {
    /// Bytes that it stands for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({})", self.bytes)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.give_back(self.bytes);
        }
    }
}

// === impl StagedBuilder ===

impl StagedBuilder {
    /// A buffer of `length` bytes, paid for by `permit`.
    pub fn with_capacity(permit: Permit, length: usize) -> Self {
        debug_assert!(
            permit.bytes() >= length as u64,
            "a permit of {} for {length} bytes",
            permit.bytes()
        );
        let bytes = if (SMALLEST_IN_SLAB..=SLAB).contains(&length) {
            let spare = permit.budget.spare.lock().pop();
            spare.unwrap_or_else(|| Vec::with_capacity(SLAB))
        } else {
            Vec::with_capacity(length)
        };
        Self { bytes, permit }
    }

    /// Appends a piece as it arrived.
    pub fn extend(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing has arrived.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The batch. The permit goes when the last slice of it does.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(Staged {
            bytes: self.bytes,
            permit: self.permit,
        })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.bytes.capacity() == SLAB {
            let budget = &self.permit.budget;
            let mut spare = budget.spare.lock();
            if (spare.len() as u64 + 1) * SLAB as u64 <= budget.limit / SPARE_SHARE {
                let mut bytes = std::mem::take(&mut self.bytes);
                bytes.clear();
                spare.push(bytes);
            }
        }
    }
}

impl AsRef<[u8]> for Staged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_waiter_gets_its_bytes_when_others_give_theirs_back_in_order() {
        let budget = Budget::new(100);
        let first = budget.acquire(60).await;
        let large = tokio::spawn({
            let budget = budget.clone();
            async move { budget.acquire(80).await }
        });
        while budget.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(
            budget.try_acquire(10).is_none(),
            "nobody overtakes a waiter"
        );
        drop(first);
        let large = large.await.expect("granted");
        assert_eq!((budget.used(), budget.waiting()), (80, 0));
        drop(large);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_leaves_nothing_behind() {
        let budget = Budget::new(100);
        let first = budget.acquire(100).await;
        let waiting = tokio::time::timeout(Duration::from_millis(10), budget.acquire(50)).await;
        assert!(waiting.is_err());
        drop(first);
        assert_eq!((budget.used(), budget.waiting()), (0, 0));
        assert_eq!(budget.acquire(100).await.bytes(), 100);
    }

    #[tokio::test]
    async fn a_buffer_of_the_usual_size_is_used_again_and_holds_only_what_came() {
        let budget = Budget::new(64 << 20);
        let batch = |permit, byte: u8, length: usize| {
            let mut batch = StagedBuilder::with_capacity(permit, length);
            batch.extend(&vec![byte; length]);
            batch.freeze()
        };
        let first = batch(budget.acquire(1 << 20).await, 1, 1 << 20);
        let address = first.as_ptr();
        let slice = first.slice(10..20);
        drop(first);
        let other = batch(budget.acquire(1 << 20).await, 2, 1 << 20);
        assert_ne!(other.as_ptr(), address, "a slice of it is still read");
        assert_eq!(&slice[..], [1; 10]);
        drop(slice);
        let again = batch(budget.acquire(900 << 10).await, 3, 900 << 10);
        assert_eq!(again.as_ptr(), address);
        assert!(again.len() == 900 << 10 && again.iter().all(|&byte| byte == 3));
        drop((other, again));
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_request_over_the_limit_is_granted_alone() {
        let budget = Budget::new(10);
        let large = budget.acquire(50).await;
        assert!(budget.try_acquire(1).is_none());
        drop(large);
        assert!(budget.try_acquire(1).is_some());
    }

    #[tokio::test]
    async fn pressure_is_told_at_the_high_mark_and_when_somebody_waits() {
        let budget = Budget::new(100);
        let told = Arc::new(AtomicUsize::new(0));
        budget.on_pressure({
            let told = told.clone();
            move || {
                told.fetch_add(1, Ordering::Relaxed);
            }
        });
        let low = budget.acquire(75).await;
        assert_eq!((told.load(Ordering::Relaxed), budget.pressed()), (0, false));
        let high = budget.acquire(1).await;
        assert_eq!((told.load(Ordering::Relaxed), budget.pressed()), (1, true));
        drop((low, high));
        assert!(budget.relieved());
    }

    #[tokio::test]
    async fn a_batch_pays_until_its_last_slice_is_gone() {
        let budget = Budget::new(100);
        let mut builder = StagedBuilder::with_capacity(budget.acquire(6).await, 6);
        builder.extend(b"abc");
        builder.extend(b"def");
        let batch = builder.freeze();
        let slice = batch.slice(4..);
        drop(batch);
        assert_eq!((&slice[..], budget.used()), (&b"ef"[..], 6));
        drop(slice);
        assert_eq!(budget.used(), 0);
    }
}
