//! Frames that wait for others of their partition.

use shuffle_proto::ids::PartitionId;

use super::Boundaries;
use crate::{
    budget::{Budget, Permit, Share},
    client::Client,
    error::{Error, Kind},
    types::MAX_LONG,
    writer::MapWriter,
};

/// Held batches where there is room for them: the more, the fuller the blocks of many partitions.
const BATCHES: usize = 8;
/// Bytes in front of a frame with kept boundaries: its length, then its records, little-endian.
pub(super) const PREFIX: usize = 8;

/// Frames of one map attempt that are not in blocks yet.
pub(crate) struct Packer {
    boundaries: Boundaries,
    block_bytes: usize,
    batch_bytes: usize,
    data: Vec<u8>,
    frames: Vec<Held>,
    /// Pushed at so many bytes; known with the first frame.
    limit: usize,
    budget: Budget,
    permit: Option<Permit>,
}

/// A frame's place in `data`.
struct Held {
    partition: PartitionId,
    start: usize,
    length: usize,
    records: u32,
}

impl Packer {
    pub(crate) fn new(client: &Client, boundaries: Boundaries) -> Self {
        let settings = client.settings();
        Self {
            boundaries,
            block_bytes: settings.block_bytes,
            batch_bytes: settings.batch_bytes,
            data: Vec::new(),
            frames: Vec::new(),
            limit: 0,
            budget: client.budget().clone(),
            permit: None,
        }
    }

    /// Appends a frame, filled in by `copy`; after its failure nothing was added.
    pub(crate) fn add<E: From<Error>>(
        &mut self,
        partition: PartitionId,
        length: usize,
        records: u32,
        copy: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let prefix = match self.boundaries {
            Boundaries::Kept => PREFIX,
            Boundaries::Own if length == 0 && records == 0 => return Ok(()),
            Boundaries::Own if length == 0 => {
                let message = format!(
                    "a frame of 0 bytes counts as {records} records: keep its boundaries, or let records be in a frame with bytes"
                );
                return Err(Error::new(Kind::Invalid, message).into());
            }
            Boundaries::Own => 0,
        };
        let most = MAX_LONG - prefix;
        let known = u32::try_from(length).ok().filter(|_| length <= most);
        let Some(known) = known else {
            let message =
                format!("a frame of {length} bytes: send at most {most}, and more of them");
            return Err(Error::new(Kind::Invalid, message).into());
        };
        if self.permit.is_none() {
            let wanted = BATCHES * self.batch_bytes;
            let (permit, limit) = match self.budget.try_take(Share::Arenas, wanted) {
                Some(permit) => (permit, wanted),
                None => (
                    self.budget.take(Share::Arenas, self.batch_bytes),
                    self.batch_bytes,
                ),
            };
            self.permit = Some(permit);
            self.limit = limit;
        }
        let start = self.data.len();
        if prefix > 0 {
            self.data.extend(known.to_le_bytes());
            self.data.extend(records.to_le_bytes());
        }
        let frame = self.data.len();
        self.data.resize(frame + length, 0);
        if let Err(error) = copy(&mut self.data[frame..]) {
            self.data.truncate(start);
            return Err(error);
        }
        self.frames.push(Held {
            partition,
            start,
            length: prefix + length,
            records,
        });
        Ok(())
    }

    /// Whether it is time to push.
    pub(crate) fn is_full(&self) -> bool {
        !self.frames.is_empty() && self.data.len() >= self.limit
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.data.len()
    }

    /// Makes blocks of everything held, in the order of partitions, then of adding; their bytes.
    pub(crate) fn push(&mut self, writer: &mut MapWriter) -> Result<usize, Error> {
        self.frames.sort_by_key(|frame| frame.partition);
        let mut pieces: Vec<&[u8]> = Vec::new();
        let mut frames = self.frames.iter().peekable();
        let (mut bytes, mut records) = (0, 0u32);
        while let Some(frame) = frames.next() {
            pieces.push(&self.data[frame.start..frame.start + frame.length]);
            bytes += frame.length;
            records += frame.records;
            let more = frames.peek().is_some_and(|next| {
                next.partition == frame.partition
                    && bytes + next.length <= self.block_bytes
                    && records.checked_add(next.records).is_some()
            });
            if !more {
                add(
                    writer,
                    self.batch_bytes,
                    frame.partition,
                    &pieces,
                    bytes,
                    records,
                )?;
                pieces.clear();
                (bytes, records) = (0, 0);
            }
        }
        let pushed = self.data.len();
        self.frames.clear();
        self.data.clear();
        // A giant is not kept.
        self.data.shrink_to(2 * self.limit);
        Ok(pushed)
    }
}

/// One block, or several that the reader joins again.
pub(crate) fn add(
    writer: &mut MapWriter,
    batch_bytes: usize,
    partition: PartitionId,
    pieces: &[&[u8]],
    bytes: usize,
    records: u32,
) -> Result<(), Error> {
    // Up to a batch, one large block is cheaper for everybody than parts to be joined.
    if bytes <= batch_bytes.min(writer.longest_block()) {
        writer.add_block(partition, pieces, records)
    } else if let [piece] = pieces {
        writer.add_long(partition, piece, records)
    } else {
        // Only a single record is longer than a block's target, and a record is one piece.
        writer.add_long(partition, &pieces.concat(), records)
    }
}
