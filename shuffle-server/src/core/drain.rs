//! The end of the server: who asked for it, how far it has got, when it is over. [`crate::server`]
//! goes the steps; everything else asks for them and looks at them here.
//!
//! A drain is write-back first: it is urgent from the first moment, beside the pushes that run.
//! They get a part of the time ([`Drain::fence`]), and are then told to go to another server,
//! because what only their clients have is saved by that and what lies here is not.

use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use shuffle_proto::kind::Kind;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{core::Core, error::Refusal};

/// What is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// Nobody has asked for the end.
    #[default]
    Serving,
    /// Pushes that run commit, give up, or are sent elsewhere; write-back runs beside them.
    Pushes,
    /// What is live and not in the object store goes there.
    WriteBack,
    /// Calls that run end.
    Calls,
    /// What only memory holds is put on disk.
    Volumes,
    /// Nothing: the process ends.
    Ended,
}

/// How far it has got, for people and tools.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) struct Progress {
    pub(crate) draining: bool,
    pub(crate) step: Step,
    /// The person, signal or file that asked for the end.
    pub(crate) why: Option<String>,
    pub(crate) pushes: i64,
    pub(crate) fetches: i64,
    /// Committed bytes that are to be in the object store and are not; `None` without one.
    pub(crate) bytes_left: Option<u64>,
    /// Committed map outputs that were to be in the object store and cannot be read any more.
    pub(crate) outputs_lost: u64,
    /// What write-back has sent to the object store since the drain began.
    pub(crate) bytes_sent: Option<u64>,
    /// How long write-back still takes at the rate so far; `None` while nothing can be said.
    pub(crate) needs_ms: Option<u64>,
    /// Time until calls that still run are ended.
    pub(crate) time_left_ms: Option<u64>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Drain {
    state: Mutex<State>,
    asked: CancellationToken,
    fenced: CancellationToken,
    over: CancellationToken,
}

#[derive(Default)]
struct State {
    step: Step,
    why: Option<String>,
    deadline: Option<Instant>,
    /// Bytes that write-back could not do in time; `None` while that is not known.
    left: Option<u64>,
}

// === impl Drain ===

impl Drain {
    /// Returns once somebody has asked.
    pub(crate) async fn asked(&self) {
        self.asked.cancelled().await;
    }

    /// Returns once nothing is left to be waited for.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Time until calls that still run are ended.
    pub(crate) fn ends_at(&self, deadline: Instant) {
        self.state.lock().deadline = Some(deadline);
    }

    /// Running pushes have had their time.
    pub(crate) fn fence(&self) {
        self.fenced.cancel();
    }

    /// Returns once they have.
    pub(crate) async fn fenced(&self) {
        self.fenced.cancelled().await;
    }

    pub(crate) fn go(&self, step: Step) {
        self.state.lock().step = step;
        if step == Step::Ended {
            self.over.cancel();
        }
    }

    /// What write-back left behind.
    pub(crate) fn leaves(&self, bytes: u64) {
        self.state.lock().left = Some(bytes);
    }
}

impl Core {
    /// Asks for the end; from now on new attempts are refused. The first who asks is remembered,
    /// asking again changes nothing.
    pub(crate) fn drain(&self, why: impl Into<String>) {
        {
            let mut state = self.drain.state.lock();
            if state.why.is_some() {
                return;
            }
            state.why = Some(why.into());
            state.step = Step::Pushes;
        }
        self.drain.asked.cancel();
        self.pushes.close();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.asked.is_cancelled()
    }

    /// How far the end has got at this moment.
    pub(crate) fn progress(&self) -> Progress {
        let (step, why, deadline, known) = {
            let state = self.drain.state.lock();
            (state.step, state.why.clone(), state.deadline, state.left)
        };
        let tier = self.remote.as_ref();
        let bytes_left = tier.map(|tier| known.unwrap_or_else(|| tier.writeback.left()));
        let pace = tier.and_then(|tier| tier.writeback.pace());
        let time_left_ms =
            deadline.map(|deadline| millis(deadline.saturating_duration_since(Instant::now())));
        Progress {
            draining: self.is_draining(),
            step,
            why,
            pushes: self.metrics.streams("push"),
            fetches: self.metrics.streams("fetch"),
            bytes_left,
            outputs_lost: tier.map_or(0, |tier| tier.writeback.given_up()),
            bytes_sent: pace.map(|pace| pace.sent),
            needs_ms: bytes_left.and_then(|left| pace?.needs(left)).map(millis),
            time_left_ms,
        }
    }
}

/// The answer to a push that is not let in any more, or has had its time: the client has all of it,
/// and sends it to another server.
pub(crate) fn draining() -> Refusal {
    Refusal::new(
        Kind::Unavailable,
        "this server is draining: push to another one",
    )
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
