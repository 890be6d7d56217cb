//! From the first loss to the failure of the reader: a moment in which the other streams may find out what else is gone.
//!
//! A reader's failure names one output, and the engine forgets what that output's volume held. Twelve disks that are gone together
//! would so take twelve tries, and after four the job is dead. So the first stream that has lost something waits for those that are
//! in doubt (they have had no answer yet, or trouble since), and the failure names every volume that is gone.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use parking_lot::Mutex;
use shuffle_proto::ids::VolumeId;
use tokio::sync::watch;

use crate::{
    error::{Error, Kind},
    settings::Settings,
};

/// Least and most time for the others: what is lost together is found out within the time of a few tries.
const MOMENT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// What the streams of a reader know together.
pub(super) struct Losses {
    gone: Mutex<BTreeSet<VolumeId>>,
    /// Volumes of streams that have failed for most of the time that servers are waited for.
    suspects: Mutex<Vec<(u64, Vec<VolumeId>)>>,
    /// Servers that this reader has given up.
    given_up: Mutex<HashSet<String>>,
    /// Streams in doubt.
    doubts: watch::Sender<usize>,
    /// One stream has lost something, and waits.
    settling: Mutex<bool>,
    next: Mutex<u64>,
}

/// A stream that may or may not find out that something is gone.
pub(super) struct Doubt<'a> {
    losses: &'a Losses,
    number: u64,
    raised: bool,
}

impl Default for Losses {
    fn default() -> Self {
        Self {
            gone: Mutex::default(),
            suspects: Mutex::default(),
            given_up: Mutex::default(),
            doubts: watch::Sender::new(0),
            settling: Mutex::new(false),
            next: Mutex::new(0),
        }
    }
}

/// How long others may take to find out.
pub(super) fn moment(settings: &Settings) -> Duration {
    (settings.retry_deadline / 4).clamp(MOMENT.0, MOMENT.1)
}

/// Whether what held an output is gone. Where one attempt is bad no volume is; and where a server is busy, nothing.
pub(super) fn is_loss(error: &Error) -> bool {
    match error.kind {
        Kind::Lost | Kind::Unavailable => error.output.is_some(),
        Kind::Corrupt
        | Kind::Invalid
        | Kind::Fenced
        | Kind::Busy
        | Kind::Internal
        | Kind::Denied => false,
    }
}

impl Losses {
    /// So many streams begin: all are in doubt until they have an answer, also those whose turn has not come.
    pub(super) fn begin(&self, streams: usize) {
        self.doubts.send_modify(|doubts| *doubts += streams);
    }

    /// The doubt of one of them.
    pub(super) fn doubt(&self) -> Doubt<'_> {
        let mut next = self.next.lock();
        *next += 1;
        Doubt {
            losses: self,
            number: *next,
            raised: true,
        }
    }

    pub(super) fn give_up(&self, address: &str) {
        self.given_up.lock().insert(address.to_owned());
    }

    pub(super) fn has_given_up(&self, address: &str) -> bool {
        self.given_up.lock().contains(address)
    }

    /// A volume that is gone, or has nothing of the shuffle any more.
    pub(super) fn found(&self, volume: VolumeId) {
        self.gone.lock().insert(volume);
    }

    /// Makes of a stream's failure the reader's, once the others have had their moment; `None` if another stream does that.
    pub(super) async fn settle(&self, error: Error, settings: &Settings) -> Option<Error> {
        if !is_loss(&error) {
            return Some(error);
        }
        self.gone.lock().extend(error.gone.iter().copied());
        if std::mem::replace(&mut *self.settling.lock(), true) {
            return None;
        }
        let mut doubts = self.doubts.subscribe();
        let settled = doubts.wait_for(|doubts| *doubts == 0);
        let _ = tokio::time::timeout(moment(settings), settled).await;
        let suspects = self.suspects.lock().clone();
        let suspects = suspects.into_iter().flat_map(|(_, volumes)| volumes);
        let gone: Vec<_> = self.gone.lock().iter().copied().chain(suspects).collect();
        let error = error.with_gone(gone);
        Some(match error.gone.len() {
            0 | 1 => error,
            count => Error {
                message: format!(
                    "{} (with it {} other volumes are gone)",
                    error.message,
                    count - 1
                ),
                ..error
            },
        })
    }
}

impl Doubt<'_> {
    /// The stream has failed, or has not begun.
    pub(super) fn raise(&mut self) {
        if !std::mem::replace(&mut self.raised, true) {
            self.losses.doubts.send_modify(|doubts| *doubts += 1);
        }
    }

    /// The stream has had an answer.
    pub(super) fn lift(&mut self) {
        if std::mem::replace(&mut self.raised, false) {
            self.suspect(false, Vec::new());
            self.losses.doubts.send_modify(|doubts| *doubts -= 1);
        }
    }

    /// Whether these are probably gone, should it be asked now.
    pub(super) fn suspect(&mut self, probably: bool, volumes: Vec<VolumeId>) {
        let mut suspects = self.losses.suspects.lock();
        suspects.retain(|(number, _)| *number != self.number);
        if probably {
            suspects.push((self.number, volumes));
        }
    }
}

/// A stream that has ended is in no doubt, whatever came of it.
impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        self.lift();
    }
}
