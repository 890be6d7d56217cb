//! How a stream of an attempt begins: as a new one, or with the receipt of the one that is
//! committed already.

use std::sync::Arc;

use parking_lot::Mutex;
use shuffle_proto::block::PartitionTotal;
use tokio::sync::oneshot;

use crate::staging::{
    error::Error,
    files::layout::shuffle_dir,
    state::{
        queue::{Request, Task},
        shared::Shared,
        shuffle::{OpenAttempt, Shuffle, State, fenced, lost_reason},
    },
    words::{AttemptKey, Durability, Receipt},
    write::{attempt::AttemptWriter, forget},
};

/// Answer to [`Volume::open_attempt`](crate::staging::Volume::open_attempt).
#[derive(Debug)]
pub enum Opened {
    /// Takes the attempt's blocks.
    New(AttemptWriter),
    /// Committed already: [`confirm`] compares totals and answers the receipt.
    Committed(Receipt),
}

/// Begins an attempt, taking over from an older stream of the same one. Does not block.
///
/// `Busy` while the older stream's commit is being written: a moment later it is committed, or
/// failed.
pub(crate) fn open_attempt(
    shared: &Arc<Shared>,
    key: AttemptKey,
    num_maps: u32,
    num_partitions: u32,
) -> Result<Opened, Error> {
    if key.map_index.0 >= num_maps {
        return Err(Error::Invalid(format!(
            "open.map_index of {key}: send an index below {num_maps}"
        )));
    }
    let shuffle = shuffle(shared, &key, num_maps, num_partitions)?;
    let owner = (key.map_index, key.attempt);
    let mut state = shuffle.state.lock();
    if state.deleted {
        return Err(shuffle.fenced());
    }
    // What is lost is not committed any more: whoever has it may bring it again.
    if let Some(committed) = state.commits.get(&owner)
        && lost_reason(&state.snapshot(), owner).is_none()
    {
        return Ok(Opened::Committed(committed.receipt(shared.id)));
    }
    shared.check_health()?;
    if let Some(older) = state.open.get(&owner)
        && !older.fence(|| format!("another stream has taken over {key}"))
    {
        return Err(Error::Busy(format!("the commit of {key} is being written")));
    }
    let attempt = Arc::new(OpenAttempt {
        key,
        shuffle: shuffle.clone(),
        state: Mutex::default(),
    });
    state.open.insert(owner, attempt.clone());
    Ok(Opened::New(AttemptWriter::new(shared.clone(), attempt)))
}

/// The shuffle of an attempt, made if it is new.
fn shuffle(
    shared: &Arc<Shared>,
    key: &AttemptKey,
    num_maps: u32,
    num_partitions: u32,
) -> Result<Arc<Shuffle>, Error> {
    let unknown = || {
        Error::Fenced(format!(
            "app {} is not known to volume {}: its data are deleted",
            key.app, shared.id
        ))
    };
    let shuffle = match shared.shuffle(&key.app, key.shuffle) {
        Some(shuffle) => shuffle,
        None => {
            let mut names = shared.names.write();
            let app = names.apps.get(&key.app).ok_or_else(unknown)?;
            if app.deleted.contains(key.shuffle) {
                return Err(fenced(&key.app, key.shuffle));
            }
            let no = app.no;
            let make = || {
                let dir = shuffle_dir(&shared.dir, &key.app, no, key.shuffle);
                let tasks = (num_maps, num_partitions);
                Arc::new(Shuffle::new(
                    key.app.clone(),
                    no,
                    key.shuffle,
                    tasks,
                    dir,
                    State::default(),
                ))
            };
            forget::sweep(&mut names);
            names
                .shuffles
                .entry((no, key.shuffle))
                .or_insert_with(make)
                .clone()
        }
    };
    let known = (shuffle.num_maps, shuffle.num_partitions);
    if known != (num_maps, num_partitions) && !shuffle.state.lock().deleted {
        return Err(Error::Invalid(format!(
            "open of {key} says {num_maps} maps and {num_partitions} partitions, the shuffle has {} and {}",
            known.0, known.1
        )));
    }
    Ok(shuffle)
}

/// The receipt of an attempt, if it is committed and not lost.
pub(crate) fn committed(shared: &Arc<Shared>, key: &AttemptKey) -> Option<Receipt> {
    let shuffle = shared.shuffle(&key.app, key.shuffle)?;
    let state = shuffle.state.lock();
    let owner = (key.map_index, key.attempt);
    let committed = state.commits.get(&owner)?;
    let lost = lost_reason(&state.snapshot(), owner).is_some();
    (!lost).then(|| committed.receipt(shared.id))
}

/// Answers the commit of an attempt that is committed already: compares totals, raises the level if
/// a higher one is asked for.
pub(crate) async fn confirm(
    shared: &Arc<Shared>,
    key: &AttemptKey,
    totals: &[PartitionTotal],
    durability: Durability,
) -> Result<Receipt, Error> {
    let lost = || Error::Lost(format!("{key} is not committed on volume {}", shared.id));
    let shuffle = shared.shuffle(&key.app, key.shuffle).ok_or_else(lost)?;
    let owner = (key.map_index, key.attempt);
    let committed = {
        let state = shuffle.state.lock();
        let committed = state.commits.get(&owner).cloned().ok_or_else(lost)?;
        if let Some(reason) = lost_reason(&state.snapshot(), owner) {
            // Whoever comes again is asked for the output.
            let reason = format!("{key} was committed here and is lost: {reason}; push it again");
            let volume = shared.id;
            return Err(Error::Unavailable { volume, reason });
        }
        committed
    };
    if let Some(difference) = committed.totals.difference(totals) {
        return Err(Error::Invalid(format!(
            "commit.totals of {key}, which is committed already: {difference}"
        )));
    }
    if committed.durability >= durability {
        return Ok(committed.receipt(shared.id));
    }
    shared.check_health()?;
    let (reply, receiver) = oneshot::channel();
    let task = Task::Raise { shuffle, owner };
    shared.ask(Request {
        task,
        durability,
        asked: shared.clock.now(),
        reply,
    });
    shared.patiently(receiver).await?
}
