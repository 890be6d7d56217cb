//! A full arena becomes blocks: which records, in which order. Pure; knows no connection.
//!
//! A stable counting sort by partition: two passes over the entries, 8 bytes per record beside the
//! arena, no comparison. Neighbouring records of one partition become one piece, so sorted input
//! costs next to nothing to gather.

use std::ops::Range;

use shuffle_proto::ids::PartitionId;

use super::invalid;
use crate::error::Error;

/// A record's place in the arena.
#[derive(Clone, Copy, Default)]
struct Span {
    offset: u32,
    length: u32,
}

/// The records of an arena, sorted by partition, then in the order of writing. The buffers are
/// reused for the next arena.
#[derive(Default)]
pub(crate) struct Sorted {
    spans: Vec<Span>,
    /// Per partition, where in `spans` its records end.
    ends: Vec<u32>,
}

/// How far blocks were taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    partition: usize,
    next: usize,
}

/// One block: `records` records of `partition`, in the pieces filled in by [`Sorted::next_block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) partition: PartitionId,
    pub(crate) records: u32,
    pub(crate) bytes: usize,
}

impl Sorted {
    /// Sorts anew. `entries` in memory order: the entry of record `i` is `entries[n - 1 - i]`.
    ///
    /// Checks everything: partitions in range, records back to back from 0, none empty,
    /// all below `data_bytes`, which in turn ends before the entries. A concurrent change of an
    /// entry can make the result wrong, but no span leaves the data.
    pub(crate) fn sort(
        &mut self,
        entries: &[[u8; 8]],
        arena_bytes: usize,
        data_bytes: u64,
        num_partitions: u32,
    ) -> Result<(), Error> {
        let count = u32::try_from(entries.len())
            .map_err(|_| invalid(format!("records is {}: too many", entries.len())))?;
        let room = arena_bytes - entries.len() * 8;
        let data_bytes = u32::try_from(data_bytes).ok().filter(|&n| n as usize <= room).ok_or_else(|| {
            invalid(format!("dataBytes is {data_bytes}: records may use the {room} bytes below their {count} entries"))
        })?;
        self.ends.clear();
        self.ends.resize(num_partitions as usize, 0);
        // First pass, last record first, because where a record ends is where the next one begins.
        let mut end = data_bytes;
        for (i, entry) in entries.iter().enumerate() {
            let (partition, offset) = (partition_of(entry), offset_of(entry));
            let record = entries.len() - 1 - i;
            if offset >= end {
                let remedy = "write records back to back, none of them empty";
                return Err(invalid(format!(
                    "record {record} starts at {offset} and ends at {end}: {remedy}"
                )));
            }
            end = offset;
            match self.ends.get_mut(partition) {
                Some(records) => *records += 1,
                None => {
                    return Err(invalid(format!(
                        "record {record} has partition {partition}: the shuffle has {num_partitions}"
                    )));
                }
            }
        }
        if !entries.is_empty() && end != 0 {
            return Err(invalid(format!(
                "record 0 starts at {end}: write records from the start of the arena"
            )));
        }
        // Per partition, first the number of records, then the start of the records. Placing a
        // record moves the start on, which ends as their end.
        let mut start = 0;
        for end in &mut self.ends {
            start += std::mem::replace(end, start);
        }
        self.spans.clear();
        self.spans.resize(entries.len(), Span::default());
        let mut end = 0;
        for i in (0..entries.len()).rev() {
            let offset = end;
            end = if i == 0 {
                data_bytes
            } else {
                offset_of(&entries[i - 1])
            };
            // These can only fail if the arena was written to since the first pass.
            let length = end
                .checked_sub(offset)
                .filter(|_| end <= data_bytes)
                .ok_or_else(changed)?;
            let slot = self
                .ends
                .get_mut(partition_of(&entries[i]))
                .ok_or_else(changed)?;
            *self.spans.get_mut(*slot as usize).ok_or_else(changed)? = Span { offset, length };
            *slot += 1;
        }
        Ok(())
    }

    /// The next block: whole records of one partition, up to `target` bytes or one record; a rest
    /// of the partition below a quarter of `target` goes along. `None` at the end.
    pub(crate) fn next_block(
        &self,
        cursor: &mut Cursor,
        target: usize,
        pieces: &mut Vec<Range<usize>>,
    ) -> Option<Block> {
        pieces.clear();
        if cursor.at_end(self) {
            return None;
        }
        while self.ends[cursor.partition] as usize == cursor.next {
            cursor.partition += 1;
        }
        let rest = &self.spans[cursor.next..self.ends[cursor.partition] as usize];
        let mut taken = fill(rest, target);
        let tail = &rest[taken..];
        if !tail.is_empty() && fits(tail, target / 4) {
            taken = rest.len();
        }
        let mut bytes = 0;
        for span in &rest[..taken] {
            let range = span.offset as usize..span.offset as usize + span.length as usize;
            bytes += range.len();
            match pieces.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => pieces.push(range),
            }
        }
        cursor.next += taken;
        let partition =
            PartitionId(u32::try_from(cursor.partition).expect("an index below num_partitions"));
        Some(Block {
            partition,
            records: u32::try_from(taken).expect("no more than all records"),
            bytes,
        })
    }
}

impl Cursor {
    /// Whether all blocks were taken.
    pub(crate) fn at_end(&self, sorted: &Sorted) -> bool {
        self.next == sorted.spans.len()
    }
}

fn partition_of(entry: &[u8; 8]) -> usize {
    usize::try_from(u64::from_ne_bytes(*entry) >> 32).expect("a 64-bit platform")
}

fn offset_of(entry: &[u8; 8]) -> u32 {
    (u64::from_ne_bytes(*entry) & u64::from(u32::MAX)) as u32
}

/// How many spans make a block: at least one.
fn fill(spans: &[Span], target: usize) -> usize {
    let mut bytes = 0;
    let more = spans.iter().position(|span| {
        bytes += span.length as usize;
        bytes > target
    });
    more.map_or(spans.len(), |position| position.max(1))
}

/// Whether the total is less than `limit`; stops counting at the limit.
fn fits(spans: &[Span], limit: usize) -> bool {
    let mut bytes = 0;
    spans.iter().all(|span| {
        bytes += span.length as usize;
        bytes < limit
    })
}

fn changed() -> Error {
    invalid("the arena was written to while it was flushed: leave it alone until the flush is done")
}

#[cfg(test)]
mod tests;
