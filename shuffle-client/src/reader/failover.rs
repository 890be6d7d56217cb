//! Where a group of outputs is fetched when its server does not have it, or does not answer.
//!
//! *Elsewhere* is another server that has the volume or, if none has, any server that has the
//! object store: it serves what the volume has written back. If there is no such server either, and
//! the client may, it is the object store itself (`direct.rs`). Where that is not enough the way
//! leads back to the volume's own server, which may be starting again.

use bytes::Bytes;
use futures_util::future::join_all;
use rand::seq::IndexedRandom as _;
use shuffle_proto::ids::{AttemptId, VolumeId};

use super::{plan::Group, stream::Fetch};
use crate::{
    backoff::Backoff,
    channel::Failure,
    error::{Error, Kind},
};

/// How often a volume is followed from server to server.
const MAX_MOVES: u32 = 4;

impl Fetch<'_, '_> {
    /// The server does not have one of the volumes, or not the shuffle on them. What can be had is
    /// asked for volume by volume.
    pub(super) async fn lost(&mut self, failure: Failure) -> Result<Vec<Group>, Error> {
        if self.go_home().await {
            return Ok(Vec::new());
        }
        let address = self.group.address.clone();
        self.cursor = Bytes::new();
        // A server with an object store has looked there before it said so.
        let mut looked = false;
        let served: Vec<VolumeId> = match self.shared.client.try_describe(&address).await {
            Ok(description) => {
                looked = description.remote;
                let volumes = description.volumes.into_iter();
                volumes.map(|volume| volume.id).collect()
            }
            Err(_) => self.group.volumes.clone(), // it went away in between: the next try will tell
        };
        let gone: Vec<_> = self
            .group
            .volumes
            .iter()
            .copied()
            .filter(|volume| !served.contains(volume))
            .collect();
        let mut more = Vec::new();
        if !gone.is_empty() {
            more = self.move_volumes(gone.clone(), !looked).await;
            if let Some(volume) = self
                .group
                .volumes
                .iter()
                .find(|volume| gone.contains(volume))
            {
                let message = format!(
                    "volume {volume} is not served at {address} any more, nor by any of the servers {} that answer: its disk or \
                     server is gone with what it held of {}",
                    self.shared.client.settings().servers.join(", "),
                    self.shared.name(),
                );
                let error = self.name_one(Error::new(Kind::Lost, message), Some(*volume));
                let volumes = self.group.volumes.iter().copied();
                let gone = volumes.filter(|volume| gone.contains(volume));
                return Err(self.with_losses(self.with_look(error), gone.collect()));
            }
        } else if self.group.volumes.len() > 1 {
            // Which of them it is shows when each is asked for by itself.
            for volume in self.group.volumes.clone() {
                more.push(self.group.split_off(volume, address.clone()));
            }
        } else if std::mem::replace(&mut self.asked_again, true) {
            let message = format!(
                "{address} has lost its part of {}: {}",
                self.shared.name(),
                failure.message
            );
            // All that the volume had of this shuffle: the app's lease ran out there, say. The
            // engine need not find that out volume by volume.
            let error = self.name_one(Error::new(Kind::Lost, message), None);
            return Err(error.with_gone(self.group.volumes.iter().copied()));
        }
        Ok(more)
    }

    /// Looks for volumes at all servers of the settings, and moves those that another server serves
    /// into groups of their own. With `stand_ins`, a volume that no server has is asked of a server
    /// with the object store or, if there is none, read from the store.
    pub(super) async fn move_volumes(
        &mut self,
        volumes: Vec<VolumeId>,
        stand_ins: bool,
    ) -> Vec<Group> {
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
        let answers: Vec<_> = answers
            .into_iter()
            .filter_map(|answer| answer.ok()?.ok())
            .collect();
        let mut more = Vec::new();
        for description in &answers {
            for found in &description.volumes {
                if volumes.contains(&found.id) && self.group.volumes.contains(&found.id) {
                    tracing::info!(read = self.shared.name(), volume = %found.id, from = self.group.address, to = description.address, "volume has moved");
                    more.push(self.group.split_off(found.id, description.address.clone()));
                }
            }
        }
        let with_store: Vec<_> = answers.iter().filter(|server| server.remote).collect();
        let store = client.store();
        if stand_ins && (store.is_some() || !with_store.is_empty()) {
            for volume in volumes {
                if !self.group.volumes.contains(&volume) {
                    continue;
                }
                // Any of them: many readers that lose a server at the same moment do not all go to
                // the same one.
                if let Some(server) = with_store.choose(&mut rand::rng()) {
                    tracing::debug!(%volume, from = self.group.address, to = server.address, "asking for what was written back");
                    more.push(self.group.stand_in(volume, server.address.clone()));
                } else if let Some(store) = store {
                    if store.is_news() {
                        tracing::warn!(read = self.shared.name(), %volume, from = self.group.address, store = store.name(), "no server is left that could serve a volume: reading what it has written back from the object store itself, here and from now on");
                    }
                    more.push(self.group.direct(volume, store.name()));
                }
            }
        }
        more
    }

    /// Its own server has nothing of a volume's part, or not the volume, and the other copies may
    /// have it; false if there are none.
    pub(super) fn leave_to_mirrors(&mut self, more: &mut Vec<Group>) -> bool {
        if self.group.home.is_some() || !self.group.is_mirrored() {
            return false;
        }
        if let [volume] = self.group.volumes[..] {
            // What no copy has is told with all places that have lost it: the engine forgets a pair
            // of volumes when both are named.
            self.shared.losses.found(volume);
            return self.turn_to_mirrors(true, None, more);
        }
        // Which of them it is shows when each is asked for by itself.
        for volume in self.group.volumes.clone() {
            more.push(self.group.split_off(volume, self.group.address.clone()));
        }
        true
    }

    /// Leaves to the other copies' servers what has one, or the output of this attempt; false if
    /// nothing has. The rest is asked for anew.
    pub(super) fn turn_to_mirrors(
        &mut self,
        for_good: bool,
        only: Option<AttemptId>,
        more: &mut Vec<Group>,
    ) -> bool {
        let moved = self.group.split_mirrored(for_good, only, &self.backoff);
        for group in &moved {
            tracing::debug!(
                read = self.shared.name(),
                from = self.group.address,
                to = group.address,
                "turning to the other copies"
            );
        }
        if moved.is_empty() {
            return false;
        }
        more.extend(moved);
        self.cursor = Bytes::new();
        self.asked_again = false;
        true
    }

    /// Back from a server that stands in to the volume's own, after a pause; false if this one
    /// stands in for nobody.
    pub(super) async fn go_home(&mut self) -> bool {
        let Some(home) = self.group.home.take() else {
            return false;
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
        true
    }
}
