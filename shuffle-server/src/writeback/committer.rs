//! From objects that are in the store to the volume's knowledge that they are: the manifest, then the index.

use bytes::Bytes;
use shuffle_remote::{
    Error as RemoteError, Place, Remote, keys,
    manifest::{Attempt, Manifest},
};

use super::uploader::{Error, Uploaded};
use crate::staging::{self, Made, Sealed};

/// What the store has of the generation that is next.
pub(super) enum Generation {
    /// Nothing.
    Free(Box<Sealed>),
    /// A manifest that this volume made and did not live to record; it has now. Bytes that were in no other.
    Adopted(u64),
}

/// Looks whether the generation is there already: its objects must not be overwritten then.
pub(super) async fn adopt(
    remote: &Remote,
    place: &Place,
    sealed: Sealed,
) -> Result<Generation, Error> {
    let generation = sealed.generation();
    let manifest = match remote.manifest(place, generation).await {
        Ok(manifest) => manifest,
        Err(RemoteError::NotFound { .. }) => return Ok(Generation::Free(Box::new(sealed))),
        Err(error) => return Err(error.into()),
    };
    for (owner, bytes, records) in sealed.attempts() {
        let theirs = manifest
            .attempts
            .iter()
            .find(|attempt| attempt.owner == owner);
        if let Some(theirs) =
            theirs.filter(|theirs| (theirs.bytes, theirs.records) != (bytes, records))
        {
            let key = keys::manifest(place, generation);
            let reason = format!(
                "it has {} bytes of attempt {}, the volume {bytes}: another server writes as this volume",
                theirs.bytes, owner.1
            );
            return Err(RemoteError::Corrupt { key, reason }.into());
        }
    }
    Ok(Generation::Adopted(record(sealed, &manifest).await?))
}

/// Makes the manifest and records it; answers the bytes that were in no other.
pub(super) async fn commit(
    remote: &Remote,
    place: &Place,
    uploaded: Uploaded,
) -> Result<u64, Error> {
    let manifest = put_manifest(remote, place, &uploaded).await?;
    record(uploaded.sealed, &manifest).await
}

/// Makes the manifest: from here on any server serves what it names.
pub(super) async fn put_manifest(
    remote: &Remote,
    place: &Place,
    uploaded: &Uploaded,
) -> Result<Manifest, Error> {
    let sealed = &uploaded.sealed;
    let (num_maps, num_partitions) = sealed.tasks();
    let attempts = sealed.attempts().map(|(owner, bytes, records)| Attempt {
        owner,
        bytes,
        records,
    });
    let manifest = Manifest {
        place: place.clone(),
        generation: sealed.generation(),
        num_maps,
        num_partitions,
        objects: uploaded.objects.clone(),
        attempts: attempts.collect(),
        replaces: sealed.replaces().to_vec(),
    };
    let key = keys::manifest(place, manifest.generation);
    let bytes = Bytes::from(manifest.encode());
    match remote.store.put(&key, bytes.clone(), true).await {
        Ok(()) => Ok(manifest),
        // The put before this one succeeded and its answer was lost, or somebody else writes as this volume.
        Err(RemoteError::Exists { .. }) if remote.store.get(&key).await? == bytes => Ok(manifest),
        Err(error) => Err(error.into()),
    }
}

async fn record(sealed: Sealed, manifest: &Manifest) -> Result<u64, Error> {
    let attempts = manifest.attempts.iter().map(|attempt| attempt.owner);
    let made = Made {
        generation: manifest.generation,
        objects: manifest.objects.len() as u32,
        attempts: attempts.collect(),
        replaces: manifest.replaces.clone(),
    };
    match sealed.recorded(made).await {
        Err(staging::Error::Fenced(_)) => Err(Error::Deleted),
        result => Ok(result?),
    }
}
