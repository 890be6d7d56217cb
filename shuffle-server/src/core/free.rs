//! What a person frees by name: an app, or one shuffle of it, here and in the object store. No
//! token is asked for; the admin port decides who gets here.
//!
//! As deep as a deletion by the driver, and idempotent: what is not there is freed already. Other
//! servers keep what they have on their disks until they are asked too, or the lease is over
//! (invariant: delete-by-lease, whose owner a person overrules by name here).

use serde::Serialize;
use shuffle_proto::{
    ids::{AppId, ShuffleId},
    kind::Kind,
};

use crate::{core::Core, error::Refusal};

/// What went.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) struct Freed {
    /// Bytes that were freed on the disks and in the memory of this server.
    pub(crate) bytes: u64,
    /// Objects that were removed from the store, whichever server wrote them; `None` without a
    /// store.
    pub(crate) objects: Option<u64>,
}

impl Core {
    /// Frees an app, or one shuffle of it.
    pub(crate) async fn free(
        &self,
        app: &AppId,
        shuffle: Option<ShuffleId>,
    ) -> Result<Freed, Refusal> {
        let bytes = match shuffle {
            None => self.registry.free(app).await?,
            Some(shuffle) => {
                let (volumes, id) = (self.volumes.clone(), app.clone());
                let freeing =
                    tokio::task::spawn_blocking(move || volumes.delete_shuffle(&id, shuffle));
                freeing.await.map_err(|panic| {
                    Refusal::new(Kind::Internal, format!("the storage panicked: {panic}"))
                })??
            }
        };
        let objects = match &self.remote {
            None => None,
            Some(tier) => Some(tier.writeback.free(app, shuffle).await.map_err(|error| {
                let message = format!(
                    "{bytes} bytes were freed here, but {error}: this server tries again; ask again to see that it is done"
                );
                Refusal::new(error.kind(), message)
            })?),
        };
        Ok(Freed { bytes, objects })
    }
}
