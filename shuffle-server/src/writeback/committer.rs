//! From uploaded objects to the volume's record of them: the manifest, then the index.
//!
//! Before a round, the store's chain is compared with the volume's records. A generation without a
//! record is *adopted*: the process died before the record was written, or the record is broken,
//! and the same attempts must not be written twice under different names. A generation missing from
//! the store is forgotten, and its attempts are written again from the local copy.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use shuffle_remote::{
    Chain, Error as RemoteError, Next, Place, Remote, keys,
    manifest::{Attempt, Part},
};

use super::uploader::{Error, Uploaded};
use crate::staging::{self, Made, Sealed};

/// How the store and the volume compare.
pub(super) enum Found {
    /// Both agree: a round may follow.
    Same(Box<Sealed>, Option<Arc<Chain>>),
    /// They differed, and the volume's records are corrected. Bytes of adopted attempts.
    Adopted(u64),
}

/// Compares the store's chain with the volume's records.
pub(super) async fn adopt(remote: &Remote, place: &Place, sealed: Sealed) -> Result<Found, Error> {
    let chain = remote.written(place).await?;
    let known = sealed.known();
    let counts: BTreeSet<u32> = match &chain {
        Some(chain) => chain.parts.iter().map(|part| part.generation).collect(),
        None => BTreeSet::new(),
    };
    let unknown: Vec<u32> = counts.difference(&known).copied().collect();
    let gone: Vec<u32> = known.difference(&counts).copied().collect();
    let last = chain.as_ref().map_or(0, |chain| chain.generation);
    if unknown.is_empty() && gone.is_empty() {
        return Ok(Found::Same(Box::new(sealed.after(last)), chain));
    }
    let sealed = Arc::new(sealed);
    let mut added = 0;
    for generation in unknown {
        let part = chain.as_ref().and_then(|chain| chain.part(generation));
        if let Some(part) = part {
            check(place, &sealed, part)?;
            added += record(&sealed, part, vec![]).await?;
        }
    }
    // Generations replaced by an adopted one do not count: their attempts are in the adopted one.
    let gone_for_good = sealed.patiently(move |sealed| sealed.write_again(&gone));
    staged(gone_for_good.await)?;
    Ok(Found::Adopted(added))
}

/// Whether a manifest without a record can be of this volume.
fn check(place: &Place, sealed: &Sealed, part: &Part) -> Result<(), Error> {
    for (owner, bytes, records) in sealed.attempts() {
        let theirs = part.attempt(owner);
        if let Some(theirs) =
            theirs.filter(|theirs| (theirs.bytes, theirs.records) != (bytes, records))
        {
            let key = keys::manifest(place, part.generation);
            let reason = format!(
                "it has {} bytes of attempt {}, the volume {bytes}: another server writes as this volume",
                theirs.bytes, owner.1
            );
            return Err(RemoteError::Corrupt { key, reason }.into());
        }
    }
    Ok(())
}

/// Puts the manifest and records the generation; returns the bytes new to the store.
pub(super) async fn commit(
    remote: &Remote,
    place: &Place,
    chain: Option<&Chain>,
    uploaded: Uploaded,
) -> Result<u64, Error> {
    let next = put_manifest(remote, place, chain, &uploaded).await?;
    let sealed = Arc::new(uploaded.sealed);
    let replaces = sealed.replaces().to_vec();
    let added = match next.part(next.generation) {
        Some(part) => record(&sealed, part, replaces).await?,
        None => 0,
    };
    remote.made(next);
    Ok(added)
}

/// Puts the manifest: from here on any server serves the generation. Returns the chain with it.
pub(super) async fn put_manifest(
    remote: &Remote,
    place: &Place,
    chain: Option<&Chain>,
    uploaded: &Uploaded,
) -> Result<Chain, Error> {
    let sealed = &uploaded.sealed;
    let attempts = sealed.attempts().map(|(owner, bytes, records)| Attempt {
        owner,
        bytes,
        records,
    });
    let next = Next {
        place: place.clone(),
        generation: sealed.generation(),
        tasks: sealed.tasks(),
        part: Part {
            generation: sealed.generation(),
            objects: uploaded.objects.clone(),
            attempts: attempts.collect(),
        },
        replaces: sealed.replaces().to_vec(),
    };
    let key = keys::manifest(place, sealed.generation());
    let (manifest, next) = Chain::next(chain, next).map_err(|reason| RemoteError::Corrupt {
        key: key.clone(),
        reason,
    })?;
    let bytes = Bytes::from(manifest.encode());
    match remote.store.put(&key, bytes.clone(), true).await {
        Ok(()) => Ok(next),
        // An earlier put succeeded without an answer, or another process writes as this volume.
        Err(RemoteError::Exists { .. }) if remote.store.get(&key).await? == bytes => Ok(next),
        Err(error) => Err(error.into()),
    }
}

async fn record(sealed: &Arc<Sealed>, part: &Part, replaces: Vec<u32>) -> Result<u64, Error> {
    let made = Made {
        generation: part.generation,
        objects: part.objects.len() as u32,
        attempts: part.attempts.iter().map(|attempt| attempt.owner).collect(),
        replaces,
    };
    staged(sealed.patiently(move |sealed| sealed.record(made)).await)
}

fn staged<T>(result: Result<T, staging::Error>) -> Result<T, Error> {
    match result {
        Err(staging::Error::Fenced(_)) => Err(Error::Deleted),
        result => Ok(result?),
    }
}
