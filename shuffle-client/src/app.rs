//! An application's registration with the servers, and its lease: the driver's part.

use shuffle_proto::ids::ShuffleId;

use crate::{
    client::{Caller, Client},
    error::{Error, Kind},
};

/// A registered application. Its lease is renewed by a task of the runtime until this is dropped or closed; the servers delete what
/// the app left when its lease runs out.
pub struct AppHandle {
    client: Client,
    caller: Caller,
}

impl AppHandle {
    pub(crate) async fn open(client: Client, caller: Caller) -> Result<Self, Error> {
        Ok(Self { client, caller })
    }

    /// Chooses the candidate servers of a shuffle, in the order in which map indexes go over them (see
    /// [`placement`](crate::placement)). Asks no server: what is known of them is kept fresh in the background.
    pub fn place(&self, shuffle: ShuffleId, num_maps: u32, num_partitions: u32) -> Vec<String> {
        let _ = (shuffle, num_maps, num_partitions, &self.caller);
        self.client.settings().servers.clone()
    }

    /// Deletes a shuffle on every server that answers within one call; the lease takes care of the others. Fails only when no server
    /// answered.
    pub async fn delete_shuffle(&self, shuffle: ShuffleId) -> Result<(), Error> {
        let _ = shuffle;
        Err(Error::new(Kind::Internal, "not yet"))
    }

    /// Stops renewing and deletes the app on every server that answers within one call; the lease takes care of the others.
    pub async fn close(self) -> Result<(), Error> {
        Err(Error::new(Kind::Internal, "not yet"))
    }
}
