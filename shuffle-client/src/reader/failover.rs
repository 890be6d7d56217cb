//! Where a group of outputs is fetched after a failed try: pure decisions on the end of the try and
//! the state of the group. `stream/elsewhere.rs` carries them out.
//!
//! What is tried before a part is given up:
//!
//! | answer | then |
//! |---|---|
//! | broken stream, `Unavailable` | the same server from the last verified message, with pauses, until `retry_deadline` passed without a new block; meanwhile once, and again at the end, the volumes are looked for elsewhere. A server that somebody of this process has waited for in vain is not waited for again |
//! | `Unavailable` that the server itself answers | if there are several volumes, each by itself after the second time: a disk that does not answer costs what is on it |
//! | `Busy` | the same, for much longer: the server is there, and nothing is lost. What ends it is a failure of the task that names no output |
//! | `Lost` | each volume by itself: if it is found elsewhere, there; if this server has it, once more; else it is lost |
//! | a checksum fails | the server is told (`report.rs`), then once more from the last verified message: the bits may have flipped on the way, and if not, the server serves it from elsewhere now, or says that it is lost |
//! | `Corrupt` | once more from the last verified message |
//! | an attempt is missing, or counts differ | once more from the start |
//! | anything else | at once |
//! | the object store itself fails, or does not have all | the volume's own server, as it was asked before, when what is to be had elsewhere has been had: what the store does not have is then all that is lost |
//!
//! Outputs of level `mirror` have another copy, which comes first: for good after a loss or damage
//! of this one, and to and fro, within the same `retry_deadline`, between silent servers.
//!
//! *Elsewhere* is another server with the volume or, if there is none, any server with the object
//! store, which serves written-back outputs of any volume. Without such a server it is the object
//! store itself (`direct.rs`), if the client may. If that is not enough, the way leads back to the
//! volume's own server, which may be starting again.

use shuffle_proto::ids::VolumeId;

use crate::{error::Kind, types::Description};

/// Failures in a row after which the volumes are looked for elsewhere.
const SEARCH_AFTER: u32 = 4;

/// The state of a group after a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Situation {
    /// Volumes in the group.
    pub(super) volumes: usize,
    /// Failures in a row with a wait.
    pub(super) tries: u32,
    /// The server was asked once more already, with no new block since.
    pub(super) asked_again: bool,
    /// The objects are read from here, and no server is asked.
    pub(super) direct: bool,
    /// The server stands in for the volume's own.
    pub(super) stands_in: bool,
    /// Another copy can be turned to, of what the trouble is about.
    pub(super) mirrored: bool,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The answer is unbelievable.
    Wrong {
        /// Something is missing, rather than spoilt.
        missing: bool,
        /// The server was told of the fault, and looks after it.
        told: bool,
        /// The repair takes the whole answer.
        from_start: bool,
    },
    /// The call or the stream failed.
    Failed {
        kind: Kind,
        /// The server itself answered.
        answered: bool,
    },
}

/// The next action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// Ask the same server once more, from the last verified message or from the start.
    Again { from_start: bool },
    /// Wait for the server, see [`wait`].
    Wait,
    /// Ask for each volume by itself, to find the bad one.
    Split,
    /// Turn to the other copies for good.
    Mirrors,
    /// Go back to the volume's own server at once.
    Home,
    /// Go back to the volume's own server, after what else is left to do.
    HomeLater,
    /// Ask the server which volumes it serves, see [`missing`].
    Describe,
    /// Report the loss, or the refusal.
    GiveUp,
}

/// What to do at a server without the requested data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Look at the other servers for the volumes missing here.
    Search,
    /// As [`Move::Split`].
    Split,
    /// Ask the same server once more, from the start.
    Again,
    /// Report the loss.
    GiveUp,
}

/// The next move after a try that ended so.
pub(super) fn next(end: End, at: Situation) -> Move {
    match end {
        End::Wrong {
            told, from_start, ..
        } if told || !at.asked_again => Move::Again { from_start },
        // What was committed last may not have been written back.
        End::Wrong { missing: true, .. } if at.stands_in => Move::HomeLater,
        End::Wrong { .. } if at.mirrored => Move::Mirrors,
        End::Wrong { .. } => Move::GiveUp,
        End::Failed { kind, answered } => match kind {
            // What is written back later, and a store that answers again, are found when the server
            // has not come back.
            Kind::Busy | Kind::Unavailable | Kind::Lost if at.direct => Move::HomeLater,
            Kind::Unavailable if answered && at.tries > 0 && at.volumes > 1 => Move::Split,
            Kind::Busy | Kind::Unavailable => Move::Wait,
            Kind::Lost if at.stands_in => Move::Home,
            Kind::Lost if at.mirrored && at.volumes > 1 => Move::Split,
            Kind::Lost if at.mirrored => Move::Mirrors,
            Kind::Lost => Move::Describe,
            Kind::Corrupt if !at.asked_again => Move::Again { from_start: false },
            Kind::Corrupt if at.mirrored => Move::Mirrors,
            Kind::Corrupt | Kind::Invalid | Kind::Fenced | Kind::Internal | Kind::Denied => {
                Move::GiveUp
            }
        },
    }
}

/// What comes next at a server without the requested data, which does not serve `gone` of the
/// group's volumes.
pub(super) fn missing(gone: usize, at: Situation) -> Missing {
    match (gone, at.volumes) {
        (1.., _) => Missing::Search,
        (0, 2..) => Missing::Split,
        _ if !at.asked_again => Missing::Again,
        _ => Missing::GiveUp,
    }
}

/// A failure of a server that may be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waited {
    /// Failures in a row, including the present one.
    pub(super) tries: u32,
    /// The server answered busy.
    pub(super) busy: bool,
    /// The server did not go on.
    pub(super) silent: bool,
    /// The time for which servers are waited for is not over.
    pub(super) in_time: bool,
    /// This process has waited for the server in vain.
    pub(super) in_vain: bool,
    /// Another copy can be turned to.
    pub(super) mirrored: bool,
}

/// Measures beside the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// The volumes are looked for elsewhere, once.
    pub(super) search: bool,
    /// After a pause the server is asked again; what is left is given up otherwise.
    pub(super) pause: bool,
    /// After the pause the other copies have their turn, where there are any.
    pub(super) mirrors: bool,
}

/// How a server is waited for.
pub(super) fn wait(at: Waited) -> Wait {
    // One more free try: the connection may have been an old one.
    let enough = !at.busy && at.in_vain && (at.silent || at.tries > 1);
    let pause = at.in_time && !enough;
    // The other copies come first.
    let search_at = SEARCH_AFTER * (1 + u32::from(at.mirrored));
    Wait {
        search: at.tries == search_at || !pause,
        pause,
        mirrors: pause && at.tries >= SEARCH_AFTER,
    }
}

/// Sources for a volume missing from its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Servers with the volume.
    Owners,
    /// Also a server with the object store, or the store itself.
    StandIns,
}

/// Where a volume is fetched from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The server with the volume.
    Server(String),
    /// A server with the volume's written-back outputs.
    StandIn(String),
    /// The object store, read from here.
    Store,
}

/// Other possible sources of a volume.
pub(super) struct Others<'a> {
    /// The answering servers.
    pub(super) servers: &'a [Description],
    /// The sources to ask.
    pub(super) scope: Scope,
    /// The object store can be read from here.
    pub(super) store: bool,
}

impl Others<'_> {
    /// The place of each volume now; volumes without a place are left out. `pick` chooses among
    /// several stand-ins, by their number.
    pub(super) fn places(
        &self,
        volumes: &[VolumeId],
        mut pick: impl FnMut(usize) -> usize,
    ) -> Vec<(VolumeId, Place)> {
        let with_store: Vec<_> = self.servers.iter().filter(|it| it.remote).collect();
        let mut place = |volume: &VolumeId| {
            let has = |server: &&Description| server.volumes.iter().any(|it| it.id == *volume);
            if let Some(server) = self.servers.iter().find(has) {
                return Some(Place::Server(server.address.clone()));
            }
            match (self.scope, with_store.as_slice()) {
                (Scope::Owners, _) => None,
                (Scope::StandIns, []) => self.store.then_some(Place::Store),
                // Many readers that lose a server at the same moment do not all go to the same one.
                (Scope::StandIns, some) => {
                    Some(Place::StandIn(some[pick(some.len())].address.clone()))
                }
            }
        };
        let placed = volumes.iter();
        placed
            .filter_map(|volume| Some((*volume, place(volume)?)))
            .collect()
    }
}

#[cfg(test)]
mod tests;
