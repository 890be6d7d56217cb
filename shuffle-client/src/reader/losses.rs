//! From the first loss to the failure of the reader: a moment in which the other streams may find
//! out what else is gone.
//!
//! A reader's failure names one output, and the engine forgets the content of that output's volume.
//! Twelve dead disks would so take twelve tries, and after four the job is dead. So the first
//! stream with a loss waits for streams in doubt (without an answer yet, or with trouble since),
//! and the failure names every dead volume.
//!
//! Single outputs likewise: flipped bits in six of them, on one server or on several, would take
//! six tries. A server names lost outputs at the end of its part. So after a first loss of a single
//! output the unfinished streams are waited for too, for the same moment.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use parking_lot::Mutex;
use shuffle_proto::ids::VolumeId;
use tokio::sync::watch;

use crate::{
    error::{Error, Kind, LostOutput},
    settings::Settings,
};

/// Least and most time for the others: what is lost together is found out within the time of a few
/// tries.
const MOMENT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Common knowledge of a reader's streams.
pub(super) struct Losses {
    gone: Mutex<BTreeSet<VolumeId>>,
    /// Single lost outputs.
    lost: Mutex<Vec<LostOutput>>,
    /// Doubts of streams that have failed for most of the waiting time.
    suspects: Mutex<Vec<(u64, Suspect)>>,
    /// Servers given up by this reader.
    given_up: Mutex<HashSet<String>>,
    /// Streams in doubt.
    doubts: watch::Sender<usize>,
    /// Unfinished streams.
    running: watch::Sender<usize>,
    /// Whether a stream has lost something, and waits.
    settling: Mutex<bool>,
    next: Mutex<u64>,
}

/// Probable losses, if asked for now.
#[derive(Clone, Default)]
pub(super) struct Suspect {
    pub(super) volumes: Vec<VolumeId>,
    pub(super) lost: Vec<LostOutput>,
}

/// A stream with a possible loss.
pub(super) struct Doubt<'a> {
    losses: &'a Losses,
    number: u64,
    raised: bool,
}

impl Default for Losses {
    fn default() -> Self {
        Self {
            gone: Mutex::default(),
            lost: Mutex::default(),
            suspects: Mutex::default(),
            given_up: Mutex::default(),
            doubts: watch::Sender::new(0),
            running: watch::Sender::new(0),
            settling: Mutex::new(false),
            next: Mutex::new(0),
        }
    }
}

/// How long others may take to find out.
pub(super) fn moment(settings: &Settings) -> Duration {
    (settings.retry_deadline / 4).clamp(MOMENT.0, MOMENT.1)
}

/// Whether something is lost, so that more may be. Where a server is busy, nothing is.
pub(super) fn is_loss(error: &Error) -> bool {
    match error.kind {
        Kind::Lost | Kind::Unavailable | Kind::Corrupt => error.output.is_some(),
        Kind::Invalid | Kind::Fenced | Kind::Busy | Kind::Internal | Kind::Denied => false,
    }
}

impl Losses {
    /// Puts all beginning streams into doubt until their first answers, including queued ones.
    pub(super) fn begin(&self, streams: usize) {
        self.doubts.send_modify(|doubts| *doubts += streams);
        self.running.send_modify(|running| *running += streams);
    }

    /// Notes the end of a stream, or its failure.
    pub(super) fn ended(&self) {
        self.running.send_modify(|running| *running -= 1);
    }

    /// The doubt of a new stream.
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

    /// Makes of a stream's failure the reader's, once the others have had their moment; `None` if
    /// another stream does that.
    pub(super) async fn settle(&self, error: Error, settings: &Settings) -> Option<Error> {
        if !is_loss(&error) {
            return Some(error);
        }
        self.gone.lock().extend(error.gone.iter().copied());
        self.lost.lock().extend(error.lost.iter().copied());
        if std::mem::replace(&mut *self.settling.lock(), true) {
            return None;
        }
        let (mut doubts, mut running) = (self.doubts.subscribe(), self.running.subscribe());
        let single = !error.lost.is_empty();
        let settled = async {
            let _ = doubts.wait_for(|doubts| *doubts == 0).await;
            if single {
                let _ = running.wait_for(|running| *running == 0).await;
            }
        };
        let _ = tokio::time::timeout(moment(settings), settled).await;
        let gone = self.gone.lock().clone();
        let lost = self.lost.lock().clone();
        let mut error = error.with_gone(gone).with_lost(lost);
        for (_, suspect) in self.suspects.lock().iter().cloned() {
            error = error.with_gone(suspect.volumes).with_lost(suspect.lost);
        }
        if error.gone.len() > 1 {
            error.message += &format!(" (with it {} other volumes are gone)", error.gone.len() - 1);
        }
        if error.lost.len() > 1 {
            error.message += &format!(
                " (with it {} other map outputs are lost)",
                error.lost.len() - 1
            );
        }
        Some(error)
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
            self.suspect(None);
            self.losses.doubts.send_modify(|doubts| *doubts -= 1);
        }
    }

    /// Its probable losses.
    pub(super) fn suspect(&mut self, suspect: Option<Suspect>) {
        let mut suspects = self.losses.suspects.lock();
        suspects.retain(|(number, _)| *number != self.number);
        suspects.extend(suspect.map(|suspect| (self.number, suspect)));
    }
}

/// An ended stream is in no doubt, whatever its result.
impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        self.lift();
    }
}
