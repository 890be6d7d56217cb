//! Memory for pushed bytes: an account that is exact, because the permit lives in the buffer that
//! it pays for.
//!
//! Whoever reads bytes off the network takes a [`Permit`] *before* it reads them, copies them once
//! into a [`Staged`] buffer, and from then on the buffer carries the permit: through staging,
//! through fetches that serve from memory, until its last reader drops it. Nothing is ever clamped
//! or forgotten, so the account is zero when the server holds nothing.
//!
//! When more than the high mark is used, or somebody waits, those who hold flushable bytes are told
//! ([`Budget::on_pressure`]). Waiters are served in the order in which they came, so that a large
//! request is not starved by small ones.

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

/// A batch while it is being received.
pub struct StagedBuilder {
    bytes: Vec<u8>,
    permit: Permit,
}

/// What a batch's `Bytes` own.
struct Staged {
    bytes: Vec<u8>,
    permit: Permit,
}

/// Capacity of the buffers that are used again: a batch of the usual size (1 MiB and what its last
/// block runs over).
///
/// Taken from the allocator one by one, in sizes that all differ a little, they cost a page fault
/// per 4 KiB and leave holes: the process grew by a half over seven rounds of the same load. The
/// last one given back is the next one taken, still in cache.
///
/// The limit is memory that the server was given, so empty slabs are kept within it, and go slowly
/// ([`Budget::trim`]): with an eighth of it kept, clearing new pages was two thirds of the CPU of a
/// push (10.0 of 15.2 % of all samples).
const SLAB: usize = (1 << 20) + (128 << 10);
/// A smaller batch gets a buffer of its own size, so that less than a quarter of a slab is unused
/// and unpaid.
const SMALLEST_IN_SLAB: usize = SLAB / 4 * 3;

struct Inner {
    limit: u64,
    high: u64,
    low: u64,
    /// A copy of the account's `used` for those who only look.
    used: AtomicU64,
    waiting: AtomicU64,
    account: Mutex<Account>,
    spare: Mutex<Spare>,
    listeners: RwLock<Vec<Listener>>,
}

type Listener = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Account {
    used: u64,
    waiters: VecDeque<(u64, oneshot::Sender<Permit>)>,
}

/// Empty slabs.
#[derive(Default)]
struct Spare {
    slabs: Vec<Vec<u8>>,
    /// The fewest there were since the last trim: so many nobody needed.
    fewest: usize,
}

/// What a batch costs: its payload, and the server's table of its blocks.
pub fn batch_cost(payload: usize, blocks: usize) -> usize {
    payload + blocks * BLOCK_OVERHEAD
}

// === impl Budget ===

impl Budget {
    /// An account of this many bytes. Pressure begins at three quarters of it and ends at five
    /// eighths.
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

    /// Waits for its turn and for the bytes. A request over the whole limit is granted once nothing
    /// else is used.
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
                    // A waiter that is dropped leaves its sender in the queue; what is sent to it
                    // comes back at once.
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

    /// Frees half of the empty slabs that were not needed since the last call. Called periodically:
    /// an idle server gives its memory back within a few calls, a busy one keeps it.
    pub fn trim(&self) {
        let freed: Vec<_> = {
            let mut spare = self.0.spare.lock();
            let unneeded = spare.fewest.div_ceil(2);
            // The front has waited the longest.
            let freed = spare.slabs.drain(..unneeded).collect();
            spare.fewest = spare.slabs.len();
            freed
        };
        drop::<Vec<Vec<u8>>>(freed);
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

    fn take_slab(&self) -> Vec<u8> {
        let spare = self.spare.lock().take();
        spare.unwrap_or_else(|| Vec::with_capacity(SLAB))
    }

    /// What is used and what is kept stay within the limit; `paid` of what is used stands for this
    /// slab.
    fn keep_slab(&self, mut slab: Vec<u8>, paid: u64) {
        let mut spare = self.spare.lock();
        if self.held(spare.slabs.len() + 1) <= self.limit.saturating_add(paid) {
            slab.clear();
            spare.slabs.push(slab);
        }
    }

    /// Frees empty slabs in favour of a buffer that is not one.
    fn make_room(&self) {
        let mut freed = Vec::new();
        let mut spare = self.spare.lock();
        while self.held(spare.slabs.len()) > self.limit
            && let Some(slab) = spare.take()
        {
            freed.push(slab);
        }
        drop(spare);
    }

    fn held(&self, slabs: usize) -> u64 {
        self.used.load(Ordering::Relaxed) + (slabs * SLAB) as u64
    }

    fn give_back(self: &Arc<Self>, bytes: u64) {
        // Permits leave the lock before they are sent: one that nobody waits for any more drops,
        // and comes back here.
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

// === impl Spare ===

impl Spare {
    fn take(&mut self) -> Option<Vec<u8>> {
        let slab = self.slabs.pop()?;
        self.fewest = self.fewest.min(self.slabs.len());
        Some(slab)
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
            permit.budget.take_slab()
        } else {
            permit.budget.make_room();
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
            self.permit
                .budget
                .keep_slab(std::mem::take(&mut self.bytes), self.permit.bytes);
        }
    }
}

impl AsRef<[u8]> for Staged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests;
