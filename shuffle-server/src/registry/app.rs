//! One app's entry. Fields that every call touches are atomics; lasting steps (write down, delete,
//! revive) go one by one through `lifecycle`.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use shuffle_proto::ids::AppId;

use super::{Policy, Standing};

/// Deadline of an app that is gone. All other deadlines are milliseconds of the clock.
const GONE: u64 = u64::MAX;
/// The longest lease of an app before its first commit: an app that only registers holds a place
/// for minutes, not for a day.
pub(super) const FRESH: Duration = Duration::from_secs(600);
const POLICIES: [Policy; 3] = [Policy::Lazy, Policy::Eager, Policy::Off];

/// Why an app is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The app asked for its deletion.
    Deleted,
    /// Nobody renewed the app's lease.
    Expired,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            End::Deleted => "deletion was asked for",
            End::Expired => "lease ran out",
        })
    }
}

/// The pool's word on the token that this server holds for an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bond {
    /// Nothing yet: the object store could not be asked.
    Provisional,
    /// The token is the pool's, or there is no pool.
    Bound,
    /// The pool has another token.
    Refused,
}

/// See the module.
pub struct App {
    /// The app's name.
    pub id: AppId,
    pub(super) token: [u8; 32],
    /// Address of the caller that registered the app.
    pub(super) peer: Option<IpAddr>,
    bond: AtomicU8,
    /// Time of the pool's last confirmation of the token.
    pub(super) asked_at: AtomicU64,
    /// Whether the app has committed something, in this process or before.
    committed: AtomicBool,
    /// The lease asked for, within the bounds; shorter before the first commit.
    asked: AtomicU64,
    /// Rises with every call.
    calls: AtomicU64,
    lease: AtomicU64,
    deadline: AtomicU64,
    gone_since: AtomicU64,
    expired: AtomicBool,
    /// Whether volumes may have data of the app.
    pub(super) dirty: AtomicBool,
    /// Whether the volumes know the app and its present lease.
    pub(super) written: AtomicBool,
    /// Whether the app has left the table: callers look again.
    pub(super) forgotten: AtomicBool,
    pub(super) lifecycle: tokio::sync::Mutex<()>,
    /// Whether the app has called since the start of the server.
    heard: AtomicBool,
    /// Write-back policy of the app: 0 if unsaid, else an index into [`POLICIES`] from 1.
    policy: AtomicU8,
    streams: AtomicUsize,
    /// Until when the driver has proven itself here, in seconds since 1970.
    pub(super) vouched: AtomicU64,
    pub(super) refusals: LogLimit,
}

impl App {
    pub(super) fn new(id: AppId, token: [u8; 32], lease: Duration, now: u64) -> Self {
        Self {
            id,
            token,
            peer: None,
            bond: AtomicU8::new(Bond::Bound as u8),
            asked_at: AtomicU64::new(0),
            committed: AtomicBool::new(true),
            asked: AtomicU64::new(millis(lease)),
            calls: AtomicU64::new(0),
            lease: AtomicU64::new(millis(lease)),
            deadline: AtomicU64::new(now + millis(lease)),
            gone_since: AtomicU64::new(0),
            expired: AtomicBool::new(false),
            dirty: AtomicBool::new(true),
            written: AtomicBool::new(false),
            forgotten: AtomicBool::new(false),
            lifecycle: tokio::sync::Mutex::new(()),
            heard: AtomicBool::new(false),
            policy: AtomicU8::new(0),
            streams: AtomicUsize::new(0),
            vouched: AtomicU64::new(0),
            refusals: LogLimit::default(),
        }
    }

    /// How long the app's data outlive the last call.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease.load(Ordering::Relaxed))
    }

    /// Entry of an app that has just come, without a commit.
    pub(super) fn fresh(mut self, peer: Option<IpAddr>, now: u64) -> Self {
        let lease = self.lease().min(FRESH);
        self.peer = peer;
        *self.committed.get_mut() = false;
        *self.lease.get_mut() = millis(lease);
        *self.deadline.get_mut() = now + millis(lease);
        self
    }

    pub(super) fn bond(&self) -> Bond {
        match self.bond.load(Ordering::Acquire) {
            bond if bond == Bond::Bound as u8 => Bond::Bound,
            bond if bond == Bond::Refused as u8 => Bond::Refused,
            _ => Bond::Provisional,
        }
    }

    pub(super) fn set_bond(&self, bond: Bond) {
        self.bond.store(bond as u8, Ordering::Release);
    }

    /// Notes a commit: from now on the app has the lease asked for.
    pub fn committed(&self) {
        if !self.committed.swap(true, Ordering::AcqRel) {
            self.set_lease(Duration::from_millis(self.asked.load(Ordering::Acquire)));
        }
    }

    /// Whether the app may be forgotten without loss: it would only have to register again.
    pub(super) fn is_fresh(&self) -> bool {
        !self.committed.load(Ordering::Acquire) && self.streams.load(Ordering::Acquire) == 0
    }

    /// Notes the lease asked for, which is within the bounds.
    pub(super) fn ask(&self, lease: Duration) {
        self.asked.store(millis(lease), Ordering::Release);
        match self.committed.load(Ordering::Acquire) {
            true => self.set_lease(lease),
            false => self.set_lease(lease.min(FRESH)),
        }
    }

    fn set_lease(&self, lease: Duration) {
        if self.lease.swap(millis(lease), Ordering::AcqRel) != millis(lease) {
            self.written.store(false, Ordering::Release);
        }
    }

    /// Notes that the volumes know the app with `lease`, unless the lease has changed meanwhile.
    pub(super) fn written_down(&self, lease: Duration) {
        self.written.store(true, Ordering::Release);
        if self.lease() != lease {
            self.written.store(false, Ordering::Release);
        }
    }

    /// Notes the app's write-back policy, if the call names one.
    pub(super) fn wants(&self, policy: Option<Policy>) {
        self.heard.store(true, Ordering::Release);
        if let Some(at) = policy.and_then(|it| POLICIES.iter().position(|one| *one == it)) {
            self.policy.store(at as u8 + 1, Ordering::Release);
        }
    }

    /// Whether the app has called since the start of the server.
    pub(super) fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Acquire)
    }

    /// Standing of a live app, for write-back.
    pub(super) fn standing(&self) -> Standing {
        let policy = usize::from(self.policy.load(Ordering::Acquire));
        Standing::Live {
            policy: policy.checked_sub(1).map(|at| POLICIES[at]),
            heard: self.heard.load(Ordering::Acquire),
            token: self.token,
            lease: self.lease(),
            calls: self.calls.load(Ordering::Acquire),
        }
    }

    /// Gives a live app back the time for which this server stood still and nobody could renew
    /// anything. After a standstill of a good part of the lease the app gets half a lease more,
    /// because its driver may have to connect again.
    pub(super) fn stood_still(&self, now: u64, for_: u64) {
        let lease = self.lease.load(Ordering::Relaxed);
        let least = if for_ >= lease / 4 {
            now + lease / 2
        } else {
            0
        };
        let _ = self
            .deadline
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
                (old != GONE).then(|| old.saturating_add(for_).min(GONE - 1).max(least))
            });
    }

    /// Renews the lease; false if the app is gone.
    pub(super) fn touch(&self, now: u64) -> bool {
        self.calls.fetch_add(1, Ordering::AcqRel);
        let deadline = now + self.lease.load(Ordering::Relaxed);
        self.deadline
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
                (old != GONE).then_some(deadline)
            })
            .is_ok()
    }

    /// Ends the app for the janitor, if the deadline is over at this very moment.
    pub(super) fn expire(&self, now: u64) -> bool {
        let old = self.deadline.load(Ordering::Acquire);
        // A renewal between the two lines changes the deadline, and the exchange fails.
        let over = old != GONE
            && old <= now
            && self
                .deadline
                .compare_exchange(old, GONE, Ordering::AcqRel, Ordering::Acquire)
                .is_ok();
        if over {
            self.note_end(End::Expired, now);
        }
        over
    }

    pub(super) fn end(&self, why: End, now: u64) {
        if self.deadline.swap(GONE, Ordering::AcqRel) != GONE {
            self.note_end(why, now);
        } else if why == End::Deleted {
            // The lease ran out before, and no token asked for that.
            self.expired.store(false, Ordering::Release);
        }
    }

    fn note_end(&self, why: End, now: u64) {
        self.expired.store(why == End::Expired, Ordering::Release);
        self.gone_since.store(now, Ordering::Release);
        self.written.store(false, Ordering::Release);
    }

    pub(super) fn revive(&self, now: u64) {
        self.dirty.store(true, Ordering::Release);
        self.deadline
            .store(now + self.lease.load(Ordering::Relaxed), Ordering::Release);
    }

    pub(super) fn cleaned(&self, now: u64) {
        self.gone_since.store(now, Ordering::Release);
        self.written.store(false, Ordering::Release);
        self.dirty.store(false, Ordering::Release);
    }

    /// Whether the app's data are deleted or about to be.
    pub fn is_gone(&self) -> bool {
        self.deadline.load(Ordering::Acquire) == GONE
    }

    pub(super) fn why_gone(&self) -> End {
        if self.expired.load(Ordering::Acquire) {
            End::Expired
        } else {
            End::Deleted
        }
    }

    /// Time of the last call.
    pub(super) fn last_call(&self) -> u64 {
        let deadline = self.deadline.load(Ordering::Acquire);
        deadline.saturating_sub(self.lease.load(Ordering::Relaxed))
    }

    pub(super) fn gone_since(&self) -> u64 {
        self.gone_since.load(Ordering::Acquire)
    }

    /// Takes a useless entry out of use, for the owner of the table; true if the entry may be
    /// dropped.
    pub(super) fn try_forget(&self) -> bool {
        if !self.is_gone() || self.dirty.load(Ordering::Acquire) {
            return false;
        }
        let Ok(_alone) = self.lifecycle.try_lock() else {
            return false;
        };
        let useless = self.is_gone() && !self.dirty.load(Ordering::Acquire);
        self.forgotten.store(useless, Ordering::Release);
        useless
    }
}

/// A running push or fetch of an app.
pub struct StreamPermit {
    app: Arc<App>,
}

impl StreamPermit {
    pub(super) fn try_take(app: &Arc<App>, limit: usize) -> Option<Self> {
        let one_more = |running: usize| (running < limit).then_some(running + 1);
        app.streams
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more)
            .ok()?;
        Some(Self { app: app.clone() })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.app.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

/// At most a few lines of log in ten seconds.
#[derive(Debug, Default)]
pub(super) struct LogLimit {
    window: AtomicU64,
    lines: AtomicU32,
}

impl LogLimit {
    const WINDOW: u64 = 10_000;
    const LINES: u32 = 10;

    /// Whether one more line may be logged now.
    pub(super) fn allow(&self, now: u64) -> bool {
        let window = now / Self::WINDOW + 1;
        if self.window.swap(window, Ordering::AcqRel) != window {
            self.lines.store(0, Ordering::Release);
        }
        self.lines.fetch_add(1, Ordering::AcqRel) < Self::LINES
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 4)
}
