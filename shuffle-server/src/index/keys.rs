//! Keys of the index: fixed sizes, big-endian, so that one shuffle's records lie together and are
//! deleted as one range.
//!
//! | kind | key | bytes |
//! |---|---|---|
//! | 0 meta | kind u8 | 1 |
//! | 1 app | kind u8, app number u32 | 5 |
//! | 2 shuffle | kind u8, app number u32, shuffle u32 | 9 |
//! | 3 segment | kind u8, app number u32, shuffle u32, segment u64 | 17 |
//! | 4 run | kind u8, app number u32, shuffle u32, run u64 | 17 |
//! | 5 attempt | kind u8, app number u32, shuffle u32, map index u32, attempt u64 | 21 |
//! | 6 written | kind u8, app number u32, shuffle u32, generation u32 | 13 |
//! | 7 life | kind u8, app number u32 | 5 |
//! | 8 ended | kind u8, app number u32 | 5 |

use shuffle_proto::ids::{AttemptId, MapIndex, ShuffleId};

use super::{AppNo, RunId, SegmentId};

/// Kind of [`Key::Meta`].
pub const META: u8 = 0;
/// Kind of [`Key::App`].
pub const APP: u8 = 1;
/// Kind of [`Key::Shuffle`].
pub const SHUFFLE: u8 = 2;
/// Kind of [`Key::Segment`].
pub const SEGMENT: u8 = 3;
/// Kind of [`Key::Run`].
pub const RUN: u8 = 4;
/// Kind of [`Key::Attempt`].
pub const ATTEMPT: u8 = 5;
/// Kind of [`Key::Written`].
pub const WRITTEN: u8 = 6;
/// Kind of [`Key::Life`].
pub const LIFE: u8 = 7;
/// Kind of [`Key::Ended`].
pub const ENDED: u8 = 8;

/// Kinds that go when a shuffle is deleted.
pub(crate) const SHUFFLE_DATA: [u8; 4] = [SEGMENT, RUN, ATTEMPT, WRITTEN];

const APP_BYTES: usize = size_of::<u8>() + size_of::<u32>();
const SHUFFLE_BYTES: usize = APP_BYTES + size_of::<u32>();
const FILE_BYTES: usize = SHUFFLE_BYTES + size_of::<u64>();
const ATTEMPT_BYTES: usize = SHUFFLE_BYTES + size_of::<u32>() + size_of::<u64>();
const WRITTEN_BYTES: usize = SHUFFLE_BYTES + size_of::<u32>();
const _: () = assert!(APP_BYTES == 5 && SHUFFLE_BYTES == 9 && FILE_BYTES == 17);
const _: () = assert!(ATTEMPT_BYTES == 21 && WRITTEN_BYTES == 13);

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The index itself.
    Meta,
    /// An app.
    App(AppNo),
    /// A shuffle, deleted or not.
    Shuffle(AppNo, ShuffleId),
    /// A segment file.
    Segment(AppNo, ShuffleId, SegmentId),
    /// A run.
    Run(AppNo, ShuffleId, RunId),
    /// A committed attempt.
    Attempt(AppNo, ShuffleId, MapIndex, AttemptId),
    /// What one generation of write-back put into the object store.
    Written(AppNo, ShuffleId, u32),
    /// Which life of its name an app is.
    Life(AppNo),
    /// The same of one that was deleted.
    Ended(AppNo),
}

// === impl Key ===

impl Key {
    /// The key's bytes in the index.
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ATTEMPT_BYTES);
        let mut head = |kind: u8, app: AppNo| {
            bytes.push(kind);
            bytes.extend(app.0.to_be_bytes());
        };
        match self {
            Key::Meta => bytes.push(META),
            Key::App(app) => head(APP, app),
            Key::Shuffle(app, shuffle) => {
                head(SHUFFLE, app);
                bytes.extend(shuffle.0.to_be_bytes());
            }
            Key::Segment(app, shuffle, segment) => {
                head(SEGMENT, app);
                bytes.extend(shuffle.0.to_be_bytes());
                bytes.extend(segment.0.to_be_bytes());
            }
            Key::Run(app, shuffle, run) => {
                head(RUN, app);
                bytes.extend(shuffle.0.to_be_bytes());
                bytes.extend(run.0.to_be_bytes());
            }
            Key::Attempt(app, shuffle, map_index, attempt) => {
                head(ATTEMPT, app);
                bytes.extend(shuffle.0.to_be_bytes());
                bytes.extend(map_index.0.to_be_bytes());
                bytes.extend(attempt.0.to_be_bytes());
            }
            Key::Written(app, shuffle, generation) => {
                head(WRITTEN, app);
                bytes.extend(shuffle.0.to_be_bytes());
                bytes.extend(generation.to_be_bytes());
            }
            Key::Life(app) => head(LIFE, app),
            Key::Ended(app) => head(ENDED, app),
        }
        bytes
    }

    /// Reads a stored key; `None` if it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&kind, mut rest) = bytes.split_first()?;
        let rest = &mut rest;
        let key = match kind {
            META => Key::Meta,
            APP => Key::App(AppNo(take_u32(rest)?)),
            SHUFFLE => Key::Shuffle(AppNo(take_u32(rest)?), ShuffleId(take_u32(rest)?)),
            SEGMENT => Key::Segment(
                AppNo(take_u32(rest)?),
                ShuffleId(take_u32(rest)?),
                SegmentId(take_u64(rest)?),
            ),
            RUN => Key::Run(
                AppNo(take_u32(rest)?),
                ShuffleId(take_u32(rest)?),
                RunId(take_u64(rest)?),
            ),
            ATTEMPT => Key::Attempt(
                AppNo(take_u32(rest)?),
                ShuffleId(take_u32(rest)?),
                MapIndex(take_u32(rest)?),
                AttemptId(take_u64(rest)?),
            ),
            WRITTEN => Key::Written(
                AppNo(take_u32(rest)?),
                ShuffleId(take_u32(rest)?),
                take_u32(rest)?,
            ),
            LIFE => Key::Life(AppNo(take_u32(rest)?)),
            ENDED => Key::Ended(AppNo(take_u32(rest)?)),
            _ => return None,
        };
        rest.is_empty().then_some(key)
    }
}

/// `[from, to)` of one kind's records of a shuffle.
pub(crate) fn shuffle_range(kind: u8, app: AppNo, shuffle: ShuffleId) -> (Vec<u8>, Vec<u8>) {
    range(
        kind,
        u64::from(app.0) << 32 | u64::from(shuffle.0),
        size_of::<u64>(),
    )
}

/// `[from, to)` of one kind's records of an app.
pub(crate) fn app_range(kind: u8, app: AppNo) -> (Vec<u8>, Vec<u8>) {
    range(kind, u64::from(app.0), size_of::<u32>())
}

/// Range of the keys that begin with `kind` and the lowest `width` bytes of `prefix`.
fn range(kind: u8, prefix: u64, width: usize) -> (Vec<u8>, Vec<u8>) {
    let bytes = |value: u64| {
        let mut bytes = vec![kind];
        bytes.extend(&value.to_be_bytes()[size_of::<u64>() - width..]);
        bytes
    };
    let largest = if width == size_of::<u64>() {
        u64::MAX
    } else {
        (1 << (8 * width)) - 1
    };
    let to = if prefix == largest {
        vec![kind + 1]
    } else {
        bytes(prefix + 1)
    };
    (bytes(prefix), to)
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_be_bytes(*head))
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_be_bytes(*head))
}
