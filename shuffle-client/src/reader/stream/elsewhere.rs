//! Carries out what `failover.rs` decides when a try has ended early: waits, asks again, looks for
//! volumes at other servers, turns to other copies and back.

use bytes::Bytes;
use futures_util::future::join_all;
use rand::RngExt as _;
use shuffle_proto::ids::{AttemptId, VolumeId};

use super::{Fetch, Trouble};
use crate::{
    backoff::Backoff,
    error::{Error, Kind},
    reader::{
        failover::{self, End, Missing, Move, Others, Place, Scope, Situation, Waited},
        plan::{Group, Looked},
        spec::Turn,
    },
};

/// How often a volume is followed from server to server.
const MAX_MOVES: u32 = 4;

impl Fetch<'_, '_> {
    /// Acts on a trouble; groups to be fetched separately go into `more`.
    pub(super) async fn turn(
        &mut self,
        trouble: Trouble,
        more: &mut Vec<Group>,
    ) -> Result<(), Error> {
        let only = match &trouble {
            Trouble::Wrong { fault, .. } => fault.attempt,
            _ => None,
        };
        let end = match &trouble {
            Trouble::Wrong { fault, from_start } => End::Wrong {
                missing: fault.missing,
                told: self.report(fault).await,
                from_start: *from_start,
            },
            Trouble::Failed(failure) | Trouble::Silent(failure) => End::Failed {
                kind: failure.kind,
                answered: failure.answered,
            },
            Trouble::Still(length) => {
                // Room for a moment is enough, and returned at once.
                drop(self.permit(*length).await);
                return Ok(());
            }
        };
        match failover::next(end, self.situation(only)) {
            Move::Again { from_start } => {
                tracing::debug!(
                    read = self.shared.name(),
                    server = self.group.address,
                    error = trouble.message(),
                    "answer is wrong, asking once more"
                );
                self.asked_again = true;
                if from_start {
                    self.cursor = Bytes::new();
                }
            }
            Move::Wait => self.wait(&trouble, more).await?,
            Move::Split => more.extend(self.split()),
            Move::Mirrors => {
                if let (&[volume], Some(Kind::Lost)) = (&self.group.volumes[..], trouble.kind()) {
                    // An output without any copy is told with all its places: the engine forgets a
                    // pair of volumes when both are named.
                    self.shared.losses.found(volume);
                }
                self.turn_to_mirrors(Turn::ForGood, only, more);
            }
            Move::Home => self.go_home().await,
            Move::HomeLater => {
                if let Trouble::Wrong { fault, .. } = trouble {
                    self.group.looked = Some(Looked {
                        kind: Kind::Lost,
                        message: fault.message,
                        missing: fault.lost,
                    });
                }
                self.go_home().await;
                more.extend(self.group.postpone());
            }
            Move::Describe => self.look(trouble.message(), more).await?,
            Move::GiveUp => return Err(self.refused(&trouble)),
        }
        Ok(())
    }

    /// The group's situation, in a trouble of all of it or `only` of this attempt.
    fn situation(&self, only: Option<AttemptId>) -> Situation {
        Situation {
            volumes: self.group.volumes.len(),
            tries: self.backoff.tries(),
            asked_again: self.asked_again,
            direct: self.group.direct,
            stands_in: self.group.home.is_some(),
            mirrored: self.group.is_mirrored(only),
        }
    }

    /// Waits for a server that fails, and meanwhile looks elsewhere.
    async fn wait(&mut self, trouble: &Trouble, more: &mut Vec<Group>) -> Result<(), Error> {
        let (Trouble::Failed(failure) | Trouble::Silent(failure)) = trouble else {
            return Ok(());
        };
        let (busy, address) = (failure.kind == Kind::Busy, self.group.address.clone());
        let pause = self.backoff.failed(busy, failure.retry_after);
        let connections = self.shared.client.connections();
        if !busy {
            let suspect = self.backoff.is_nearly_over().then(|| self.suspect());
            self.doubt.suspect(suspect);
        }
        let wait = failover::wait(Waited {
            tries: self.backoff.tries(),
            busy,
            silent: matches!(trouble, Trouble::Silent(_)),
            in_time: pause.is_some(),
            in_vain: connections.was_waited_for(&address),
            mirrored: self.group.is_mirrored(None),
        });
        if wait.search {
            let volumes = self.group.volumes.clone();
            more.extend(self.search(&volumes, Scope::StandIns).await);
        }
        let Some(pause) = pause.filter(|_| wait.pause) else {
            if self.group.volumes.is_empty() {
                return Ok(());
            }
            if busy {
                return Err(self.overloaded(failure));
            }
            if !failure.answered {
                connections.gave_up(&address);
                self.shared.losses.give_up(&address);
            }
            return Err(self.unavailable(failure));
        };
        tracing::debug!(
            read = self.shared.name(),
            server = self.group.address,
            error = failure.message,
            "fetch broke; next try in {pause:?}"
        );
        tokio::time::sleep(pause).await;
        if wait.mirrors {
            self.turn_to_mirrors(Turn::ForNow, None, more);
        }
        Ok(())
    }

    /// The server lacks one of the volumes, or the shuffle on them. Volumes are then asked for one
    /// by one.
    async fn look(&mut self, said: &str, more: &mut Vec<Group>) -> Result<(), Error> {
        let address = self.group.address.clone();
        self.cursor = Bytes::new();
        let volumes = self.group.volumes.clone();
        let (gone, scope) = match self.shared.client.try_describe(&address).await {
            Ok(server) => {
                let has = |volume: &VolumeId| server.volumes.iter().any(|it| it.id == *volume);
                let gone: Vec<_> = volumes.into_iter().filter(|it| !has(it)).collect();
                // A server with an object store has looked there before it said so.
                let scope = match server.remote {
                    true => Scope::Owners,
                    false => Scope::StandIns,
                };
                (gone, scope)
            }
            // It went away in between: the next try will tell.
            Err(_) => (Vec::new(), Scope::StandIns),
        };
        match failover::missing(gone.len(), self.situation(None)) {
            Missing::Search => {
                more.extend(self.search(&gone, scope).await);
                let volumes = self.group.volumes.iter().copied();
                let gone: Vec<_> = volumes.filter(|it| gone.contains(it)).collect();
                match gone.first().copied() {
                    Some(first) => Err(self.not_served(first, gone)),
                    None => Ok(()),
                }
            }
            Missing::Split => {
                more.extend(self.split());
                Ok(())
            }
            Missing::Again => {
                self.asked_again = true;
                Ok(())
            }
            Missing::GiveUp => Err(self.has_lost(said)),
        }
    }

    /// Looks for volumes at all servers of the settings, and moves found ones into groups of their
    /// own.
    async fn search(&mut self, volumes: &[VolumeId], scope: Scope) -> Vec<Group> {
        if self.group.moves >= MAX_MOVES {
            return Vec::new();
        }
        let client = &self.shared.client;
        let addresses = client.addresses().await;
        let others = addresses
            .iter()
            .filter(|address| **address != self.group.address);
        let limit = client.settings().call_timeout;
        let answers = join_all(
            others.map(|address| tokio::time::timeout(limit, client.try_describe(address))),
        )
        .await;
        let servers: Vec<_> = answers
            .into_iter()
            .filter_map(|answer| answer.ok()?.ok())
            .collect();
        let store = client.store();
        let others = Others {
            servers: &servers,
            scope,
            store: store.is_some(),
        };
        let mut more = Vec::new();
        for (volume, place) in others.places(volumes, |count| rand::rng().random_range(..count)) {
            let from = &self.group.address;
            match (place, store) {
                (Place::Server(to), _) => {
                    tracing::info!(read = self.shared.name(), %volume, from, to, "volume has moved");
                    more.push(self.group.split_off(volume, to));
                }
                (Place::StandIn(to), _) => {
                    tracing::debug!(%volume, from, to, "asking for what was written back");
                    more.push(self.group.stand_in(volume, to));
                }
                (Place::Store, Some(store)) => {
                    if store.is_news() {
                        tracing::warn!(read = self.shared.name(), %volume, from, store = store.name(), "no server is left that could serve a volume: reading what it has written back from the object store itself, here and from now on");
                    }
                    more.push(self.group.direct(volume, store.name()));
                }
                (Place::Store, None) => unreachable!("there was a store a moment ago"),
            }
        }
        more
    }

    /// Each volume of the group by itself.
    fn split(&mut self) -> Vec<Group> {
        let address = self.group.address.clone();
        let volumes = self.group.volumes.clone().into_iter();
        volumes
            .map(|volume| self.group.split_off(volume, address.clone()))
            .collect()
    }

    /// Leaves outputs with another copy, or the output of this attempt, to the other server. The
    /// rest is asked for anew.
    fn turn_to_mirrors(&mut self, turn: Turn, only: Option<AttemptId>, more: &mut Vec<Group>) {
        let moved = self.group.split_mirrored(turn, only, &self.backoff);
        for group in &moved {
            tracing::debug!(
                read = self.shared.name(),
                from = self.group.address,
                to = group.address,
                "turning to the other copies"
            );
        }
        if !moved.is_empty() {
            more.extend(moved);
            self.cursor = Bytes::new();
            self.asked_again = false;
        }
    }

    /// Back from a server that stands in to the volume's own, after a pause.
    async fn go_home(&mut self) {
        let Some(home) = self.group.home.take() else {
            return;
        };
        self.group.address = home;
        self.group.direct = false;
        self.group.moves += 1;
        self.cursor = Bytes::new();
        self.asked_again = false;
        if let Some(pause) = self.backoff.failed(false, None) {
            tokio::time::sleep(pause).await;
        }
        self.backoff = Backoff::new(self.shared.client.settings());
    }
}
