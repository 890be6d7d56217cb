//! Values of the index. All numbers are little-endian; `varint` is LEB128.
//!
//! | bytes | field |
//! |---|---|
//! | 0 | version of the value's format, 1 |
//! | 1..5 | CRC-32 of the key and of what follows |
//! | 5.. | fields of the kind, below |
//!
//! | kind | fields |
//! |---|---|
//! | meta | index format u32, times the volume was opened u64 |
//! | app | lease in ms u64, token hash 32 bytes, app id |
//! | shuffle | maps u32, partitions u32, deleted u8 |
//! | segment | length u64, tier u8 (0 open, 1 sealed) |
//! | run | segment u64, offset u64, attempts u32, blocks u32, data length u64, then the directory: per partition that has blocks partition u32, first block u32, offset in the data u64 |
//! | attempt | synced u8, bytes u64, records u64, runs varint, each run's id u64, log u8 (1: log id u64, offset u64, length u64), then the totals, see `shuffle_proto::stored::totals` |
//! | written | objects u32, bytes u64, then per attempt map index u32, attempt u64 |
//! | life, ended | UUID 16 bytes |
//!
//! A directory entry ends where the next one begins, the last one at `blocks` and `data length`: 16
//! bytes per partition.

use std::time::Duration;

use shuffle_proto::{
    ids::{AppId, AttemptId, MapIndex, Owner},
    stored::{Reader, put_varint},
};
use uuid::Uuid;

use super::{Error, LogId, RunId, SegmentId, keys::Key};

/// Version of the whole index, in [`Meta`].
pub const FORMAT: u32 = 1;
const VALUE_VERSION: u8 = 1;
const HEAD: usize = 5;

/// A value of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The index itself.
    Meta(Meta),
    /// An app.
    App(App),
    /// A shuffle.
    Shuffle(Shuffle),
    /// A segment.
    Segment(Segment),
    /// A run.
    Run(Run),
    /// A committed attempt.
    Attempt(Attempt),
    /// A generation of write-back.
    Written(Written),
    /// One life of an app's name.
    Life(Uuid),
}

/// The index itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// [`FORMAT`] of who wrote it.
    pub format: u32,
    /// Times the volume was opened: the upper bits of ids, so that no id is used twice.
    pub opened: u64,
}

/// An app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// The app's id.
    pub id: AppId,
    /// SHA-256 of its token.
    pub token_hash: [u8; 32],
    /// How long its data outlive its last call.
    pub lease: Duration,
}

/// A shuffle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shuffle {
    /// Map tasks.
    pub num_maps: u32,
    /// Reduce partitions.
    pub num_partitions: u32,
    /// A tombstone: late pushes and reads are refused by name.
    pub deleted: bool,
}

/// Where a segment is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// On local disk, taking runs.
    Open,
    /// On local disk, complete.
    Sealed,
}

/// A segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// End of its last run.
    pub length: u64,
    /// Whether the segment takes runs.
    pub tier: Tier,
}

/// Where the blocks of one partition begin in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The partition.
    pub partition: u32,
    /// Ordinal of its first block in the run's table.
    pub first_block: u32,
    /// Offset of its bytes in the run's data.
    pub offset: u64,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The file.
    pub segment: SegmentId,
    /// Where its header begins in the file.
    pub offset: u64,
    /// Attempts that have blocks in it, committed or not.
    pub attempts: u32,
    /// Rows of its table.
    pub blocks: u32,
    /// Bytes of its blocks.
    pub data_length: u64,
    /// Ascending by partition.
    pub directory: Vec<DirectoryEntry>,
}

/// A place in a commit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPlace {
    /// The log.
    pub log: LogId,
    /// Where the record begins.
    pub offset: u64,
    /// Length of the segment.
    pub length: u64,
}

/// A committed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Whether everything that this names was synced to the device before it was written.
    pub synced: bool,
    /// Stored bytes of all partitions.
    pub bytes: u64,
    /// Records of all partitions.
    pub records: u64,
    /// Runs that have blocks of it, ascending.
    pub runs: Vec<RunId>,
    /// Place of the attempt's blocks that are in no run.
    pub log: Option<LogPlace>,
    /// Totals per partition, as [`shuffle_proto::stored::totals`] codes them.
    pub totals: Vec<u8>,
}

/// What one generation of write-back put into the object store. Its manifest is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Objects that the manifest names.
    pub objects: u32,
    /// Bytes of their blocks.
    pub bytes: u64,
    /// Attempts that are in them, whole: ascending.
    pub attempts: Vec<Owner>,
}

// === impl Record ===

impl Record {
    /// The record's bytes under `key`.
    pub fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut out = vec![0; HEAD];
        match self {
            Record::Meta(meta) => {
                out.extend(meta.format.to_le_bytes());
                out.extend(meta.opened.to_le_bytes());
            }
            Record::App(app) => {
                out.extend(
                    u64::try_from(app.lease.as_millis())
                        .unwrap_or(u64::MAX)
                        .to_le_bytes(),
                );
                out.extend(app.token_hash);
                out.extend(app.id.as_str().as_bytes());
            }
            Record::Shuffle(shuffle) => {
                out.extend(shuffle.num_maps.to_le_bytes());
                out.extend(shuffle.num_partitions.to_le_bytes());
                out.push(shuffle.deleted.into());
            }
            Record::Segment(segment) => {
                out.extend(segment.length.to_le_bytes());
                out.push(match segment.tier {
                    Tier::Open => 0,
                    Tier::Sealed => 1,
                });
            }
            Record::Run(run) => {
                out.reserve(32 + run.directory.len() * 16);
                out.extend(run.segment.0.to_le_bytes());
                out.extend(run.offset.to_le_bytes());
                out.extend(run.attempts.to_le_bytes());
                out.extend(run.blocks.to_le_bytes());
                out.extend(run.data_length.to_le_bytes());
                for entry in &run.directory {
                    out.extend(entry.partition.to_le_bytes());
                    out.extend(entry.first_block.to_le_bytes());
                    out.extend(entry.offset.to_le_bytes());
                }
            }
            Record::Attempt(attempt) => {
                out.reserve(64 + attempt.runs.len() * 8 + attempt.totals.len());
                out.push(attempt.synced.into());
                out.extend(attempt.bytes.to_le_bytes());
                out.extend(attempt.records.to_le_bytes());
                put_varint(&mut out, attempt.runs.len() as u64);
                for run in &attempt.runs {
                    out.extend(run.0.to_le_bytes());
                }
                out.push(attempt.log.is_some().into());
                if let Some(place) = &attempt.log {
                    out.extend(place.log.0.to_le_bytes());
                    out.extend(place.offset.to_le_bytes());
                    out.extend(place.length.to_le_bytes());
                }
                out.extend(&attempt.totals);
            }
            Record::Written(written) => {
                out.reserve(12 + written.attempts.len() * 12);
                out.extend(written.objects.to_le_bytes());
                out.extend(written.bytes.to_le_bytes());
                for (map_index, attempt) in &written.attempts {
                    out.extend(map_index.0.to_le_bytes());
                    out.extend(attempt.0.to_le_bytes());
                }
            }
            Record::Life(life) => out.extend(life.as_bytes()),
        }
        out[0] = VALUE_VERSION;
        let checksum = checksum(key, &out[HEAD..]);
        out[1..HEAD].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads a stored key and value.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<(Key, Self), Error> {
        let corrupt = |reason: String| Error::Corrupt {
            key: format!("{key:02x?}"),
            reason,
        };
        let kind = Key::decode(key).ok_or_else(|| corrupt("not a key of this version".into()))?;
        if value.len() < HEAD {
            return Err(corrupt(format!("value of {} bytes", value.len())));
        }
        if value[0] != VALUE_VERSION {
            return Err(corrupt(format!(
                "value of version {}, this server reads version {VALUE_VERSION}",
                value[0]
            )));
        }
        let stored = u32::from_le_bytes([value[1], value[2], value[3], value[4]]);
        let fields = &value[HEAD..];
        let computed = checksum(key, fields);
        if stored != computed {
            return Err(corrupt(format!(
                "checksum {stored:08x}, computed {computed:08x}"
            )));
        }
        let record = decode_fields(kind, fields)
            .ok_or_else(|| corrupt("fields do not fit their kind".into()))?;
        Ok((kind, record))
    }
}

fn decode_fields(key: Key, bytes: &[u8]) -> Option<Record> {
    let mut reader = Reader(bytes);
    let r = &mut reader;
    let record = match key {
        Key::Meta => Record::Meta(Meta {
            format: r.u32()?,
            opened: r.u64()?,
        }),
        Key::App(_) => {
            let lease = Duration::from_millis(r.u64()?);
            let token_hash = *r.take(32)?.first_chunk()?;
            let id = AppId::try_new(std::str::from_utf8(r.rest()).ok()?)?;
            Record::App(App {
                id,
                token_hash,
                lease,
            })
        }
        Key::Shuffle(..) => Record::Shuffle(Shuffle {
            num_maps: r.u32()?,
            num_partitions: r.u32()?,
            deleted: r.u8()? != 0,
        }),
        Key::Segment(..) => {
            let length = r.u64()?;
            let tier = match r.u8()? {
                0 => Tier::Open,
                1 => Tier::Sealed,
                _ => return None,
            };
            Record::Segment(Segment { length, tier })
        }
        Key::Run(..) => {
            let (segment, offset) = (SegmentId(r.u64()?), r.u64()?);
            let (attempts, blocks, data_length) = (r.u32()?, r.u32()?, r.u64()?);
            let mut directory: Vec<DirectoryEntry> = Vec::with_capacity(r.0.len() / 16);
            while !r.0.is_empty() {
                let entry = DirectoryEntry {
                    partition: r.u32()?,
                    first_block: r.u32()?,
                    offset: r.u64()?,
                };
                let ascends = directory.last().is_none_or(|last| {
                    last.partition < entry.partition
                        && last.first_block < entry.first_block
                        && last.offset < entry.offset
                });
                if !ascends || entry.first_block >= blocks || entry.offset >= data_length {
                    return None;
                }
                directory.push(entry);
            }
            Record::Run(Run {
                segment,
                offset,
                attempts,
                blocks,
                data_length,
                directory,
            })
        }
        Key::Attempt(..) => {
            let (synced, bytes, records) = (r.u8()? != 0, r.u64()?, r.u64()?);
            let count = usize::try_from(r.varint()?)
                .ok()
                .filter(|&count| count <= r.0.len() / 8)?;
            let runs = (0..count)
                .map(|_| r.u64().map(RunId))
                .collect::<Option<Vec<_>>>()?;
            let log = match r.u8()? {
                0 => None,
                _ => Some(LogPlace {
                    log: LogId(r.u64()?),
                    offset: r.u64()?,
                    length: r.u64()?,
                }),
            };
            Record::Attempt(Attempt {
                synced,
                bytes,
                records,
                runs,
                log,
                totals: r.rest().to_vec(),
            })
        }
        Key::Written(..) => {
            let (objects, bytes) = (r.u32()?, r.u64()?);
            let mut attempts = Vec::with_capacity(r.0.len() / 12);
            while !r.0.is_empty() {
                attempts.push((MapIndex(r.u32()?), AttemptId(r.u64()?)));
            }
            Record::Written(Written {
                objects,
                bytes,
                attempts,
            })
        }
        Key::Life(_) | Key::Ended(_) => Record::Life(Uuid::from_bytes(*r.take(16)?.first_chunk()?)),
    };
    r.0.is_empty().then_some(record)
}

fn checksum(key: &[u8], fields: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(fields);
    hasher.finalize()
}
