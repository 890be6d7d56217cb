//! Looking at an attempt again because a reader says that it is not what was written.
//!
//! Every block of it is read and checked, and what is there is compared with what its commit says.
//! What is bad is lost as a whole, for every reader from then on and after a restart too: the
//! index's record of it names no place any more. If the object store has the attempt, that is where
//! it is read from now; if not, it is named as lost, and its map runs again.
//!
//! A disk that has changed one bit has changed others, and whoever reads other partitions finds
//! them later, when the first map has run again: so all attempts that lie beside a bad one are
//! looked at too, in the order in which they lie.
//!
//! Called by `service`, which sees to it that not too many of these run at a time.

use std::{collections::BTreeSet, sync::Arc};

use shuffle_proto::{
    block,
    ids::{AppId, ShuffleId},
};

use crate::{
    index::{Changes, keys::Key},
    staging::{
        error::Error,
        read::{cursor::Position, fetch::Fetch, part::FetchPart},
        state::{
            batch::Owner,
            run::find_run,
            shared::Shared,
            shuffle::{Committed, Shuffle, lost_reason},
        },
        words::{AttemptKey, Durability},
    },
};

/// Readings that must find the same: a bit may flip on the way from the disk too.
const READINGS: usize = 2;

/// Blocks, bytes and records.
type Counted = (u64, u64, u64);

/// Reads all of a committed attempt; answers why it cannot be served from here, `None` if it is
/// whole. `Lost` if it is not known, `Unavailable` if the disk does not answer. Goes on to its end
/// only as long as the caller waits.
pub(crate) async fn verify(
    shared: &Arc<Shared>,
    key: &AttemptKey,
) -> Result<Option<String>, Error> {
    let lost = || Error::Lost(format!("{key} is not committed on volume {}", shared.id));
    let shuffle = shared.shuffle(&key.app, key.shuffle).ok_or_else(lost)?;
    let owner = (key.map_index, key.attempt);
    let mut found = String::new();
    for _ in 0..READINGS {
        let snapshot = shuffle.snapshot()?;
        let committed = snapshot.commits.get(&owner).ok_or_else(lost)?.clone();
        if let Some(reason) = lost_reason(&snapshot, owner) {
            return Ok(Some(reason));
        }
        if snapshot.reclaimed.contains(&owner) {
            return Ok(Some("it is in the object store only".into()));
        }
        let runs = committed.runs.iter();
        let runs: Vec<_> = runs
            .filter_map(|id| find_run(&snapshot.runs, *id).cloned())
            .collect();
        drop(snapshot);
        match read_again(shared, &shuffle, owner, &committed).await? {
            Some(reason) => found = reason,
            None => return Ok(None),
        }
        // It may be a table that has changed, which can be put right.
        let disk = shared.disk.clone();
        let mend = move || runs.iter().try_for_each(|run| run.mend(&disk).map(drop));
        let mended = tokio::task::spawn_blocking(mend).await;
        mended.map_err(|error| Error::Internal(format!("look at tables: {error}")))??;
    }
    tracing::error!(volume = %shared.id, app = %key.app, shuffle = %key.shuffle, map = %key.map_index, attempt = %key.attempt,
        reason = found, "an attempt is not what was written: it is lost here");
    let (shared, reason) = (shared.clone(), found.clone());
    let lose = tokio::task::spawn_blocking(move || lose_attempt(&shared, &shuffle, owner, &reason));
    let lost = lose.await;
    lost.map_err(|error| Error::Internal(format!("lose an attempt: {error}")))??;
    Ok(Some(found))
}

/// Reads all that is committed of a shuffle, and has what is bad lost; answers how many attempts
/// that were. Ends early when `stop` says so, or when the disk does not answer.
pub(crate) async fn verify_all(
    shared: &Arc<Shared>,
    app: &AppId,
    shuffle: ShuffleId,
    stop: impl Fn() -> bool,
) -> Result<usize, Error> {
    let lost = || Error::Lost(format!("shuffle {shuffle} is not on volume {}", shared.id));
    let known = shared.shuffle(app, shuffle).ok_or_else(lost)?;
    let (partitions, start) = (0..known.num_partitions, Position::default());
    let fetch = Fetch::new(shared.clone(), known, partitions, 0..u32::MAX, start)?;
    let mut fetch = fetch.not_counted();
    let mut bad = BTreeSet::new();
    while let Some(part) = fetch.next().await? {
        let checked = tokio::task::spawn_blocking(move || suspects(part)).await;
        let found = checked.map_err(|error| Error::Internal(format!("check blocks: {error}")))?;
        for (map_index, attempt) in found {
            let key = AttemptKey {
                app: app.clone(),
                shuffle,
                map_index,
                attempt,
            };
            if bad.insert((map_index, attempt)) && verify(shared, &key).await?.is_none() {
                bad.remove(&(map_index, attempt));
            }
        }
        if stop() {
            break;
        }
    }
    Ok(bad.len())
}

/// The attempts whose blocks are bad in a part.
fn suspects(part: FetchPart) -> BTreeSet<Owner> {
    let blocks = block::cut(part.blocks, part.data);
    let bad = blocks.filter(|(header, bytes)| !header.verify([&bytes[..]]));
    bad.map(|(header, _)| (header.map_index, header.attempt))
        .collect()
}

/// What is wrong with an attempt.
async fn read_again(
    shared: &Arc<Shared>,
    shuffle: &Arc<Shuffle>,
    owner: Owner,
    committed: &Committed,
) -> Result<Option<String>, Error> {
    let (partitions, maps) = (
        0..shuffle.num_partitions,
        owner.0.0..owner.0.0.saturating_add(1),
    );
    let start = Position::default();
    let fetch = Fetch::new(shared.clone(), shuffle.clone(), partitions, maps, start)?;
    let only = Arc::new(BTreeSet::from([owner]));
    let mut fetch = fetch.only(Some(only)).not_counted();
    let mut counted = Counted::default();
    while let Some(part) = fetch.next().await? {
        // Off the threads of connections, as all that is long.
        let checked = tokio::task::spawn_blocking(move || check(part)).await;
        match checked.map_err(|error| Error::Internal(format!("check blocks: {error}")))? {
            Ok((blocks, bytes, records)) => {
                counted = (counted.0 + blocks, counted.1 + bytes, counted.2 + records);
            }
            Err(reason) => return Ok(Some(reason)),
        }
    }
    if let Some(unanswered) = fetch.unanswered() {
        return Err(unanswered.error);
    }
    if let Some(lost) = fetch.summary().lost.pop() {
        return Ok(Some(lost.reason));
    }
    let sum = committed.totals.sum(&(0..u32::MAX));
    let expected = (sum.blocks, sum.bytes, sum.records);
    Ok((counted != expected).then(|| {
        format!("its commit says (blocks, bytes, records) {expected:?}, there are {counted:?}")
    }))
}

/// The blocks of a part, if all of them are good.
fn check(part: FetchPart) -> Result<Counted, String> {
    let mut counted = Counted::default();
    for (header, bytes) in block::cut(part.blocks, part.data) {
        if !header.verify([&bytes[..]]) {
            return Err(format!(
                "block {} of partition {} ({} bytes) fails its checksum",
                header.seq, header.partition, header.length
            ));
        }
        counted.0 += 1;
        counted.1 += u64::from(header.length);
        counted.2 += u64::from(header.records);
    }
    Ok(counted)
}

/// Takes the local copy of an attempt away from all readers, for good. Blocking.
fn lose_attempt(
    shared: &Shared,
    shuffle: &Arc<Shuffle>,
    owner: Owner,
    reason: &str,
) -> Result<(), Error> {
    let _gate = shared.gate.lock();
    let mut changes = Changes::default();
    {
        let mut state = shuffle.state.lock();
        let Some(known) = state.commits.get(&owner).filter(|one| one.lost.is_none()) else {
            return Ok(()); // by somebody else
        };
        if state.deleted {
            return Ok(());
        }
        let mut committed = Committed::clone(known);
        let in_store = state.written.contains(&owner);
        for run in std::mem::take(&mut committed.runs) {
            if let Some(run) = find_run(&state.runs, run) {
                run.unsettle();
            }
        }
        committed.lost = (!in_store).then(|| reason.to_owned());
        if committed.durability > Durability::Memory {
            // A record that names no place is of an attempt that is lost, or only in the store: see
            // `recover`.
            let key = Key::Attempt(shuffle.app_no, shuffle.id, owner.0, owner.1);
            changes.put(key, &committed.record(None));
        }
        let bytes = committed.bytes;
        state.release(shuffle, owner);
        Arc::make_mut(&mut state.commits).insert(owner, Arc::new(committed));
        if in_store {
            Arc::make_mut(&mut state.reclaimed).insert(owner);
            state.fix(owner);
        } else if state.unwritable.insert(owner) {
            state.unwritten = state.unwritten.saturating_sub(1);
            state.unwritten_bytes = state.unwritten_bytes.saturating_sub(bytes);
        }
    }
    shuffle.damage();
    if changes.is_empty() {
        return Ok(());
    }
    // Readers know already; if this fails, the next one after a restart finds it again.
    shared
        .index
        .write(&changes, true)
        .map_err(Error::Index)
        .inspect_err(|error| shared.note(error))
}
