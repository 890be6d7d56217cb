//! Raw integers and strings from the network become ids here, and nowhere else. Everything is
//! bounded before it is believed.

use std::collections::BTreeSet;

use crate::{
    block::{
        BlockHeader, ENCRYPTION, Flags, MAX_BATCH, MAX_BATCH_BLOCKS, MAX_BLOCK, PartitionTotal,
    },
    ids::{AppId, AttemptId, MapIndex, Owner, PartitionId, ShuffleId, VolumeId},
    v1,
};

/// A field that cannot be what it says, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}: {remedy}")]
pub struct Invalid {
    /// Path of the field, as in `open.map_index`.
    pub field: &'static str,
    /// What was sent, shortened.
    pub value: String,
    /// What would be right.
    pub remedy: String,
}

impl Invalid {
    /// Names the field, the value and the remedy.
    pub fn new(
        field: &'static str,
        value: impl std::fmt::Display,
        remedy: impl Into<String>,
    ) -> Self {
        let mut value = value.to_string();
        if let Some((end, _)) = value.char_indices().nth(160) {
            value.truncate(end);
            value.push('…');
        }
        Self {
            field,
            value,
            remedy: remedy.into(),
        }
    }
}

/// Largest shuffle that is accepted, in maps and in partitions: Spark's own limit on either is
/// below it.
pub const MAX_TASKS: u32 = 1 << 24;
/// Longest app token.
pub const MAX_TOKEN: usize = 4096;

/// `Caller.app`.
pub fn app(field: &'static str, text: &str) -> Result<AppId, Invalid> {
    AppId::try_new(text).ok_or_else(|| {
        Invalid::new(
            field,
            format!("{text:?}"),
            "send 1 to 128 of [A-Za-z0-9._-]",
        )
    })
}

/// 16 bytes of a volume id.
pub fn volume(field: &'static str, bytes: &[u8]) -> Result<VolumeId, Invalid> {
    uuid::Uuid::from_slice(bytes).map(VolumeId).map_err(|_| {
        Invalid::new(
            field,
            format!("{} bytes", bytes.len()),
            "send the 16 bytes of the volume's UUID",
        )
    })
}

/// A count that must be in `1..=MAX_TASKS`.
pub fn count(field: &'static str, value: u32) -> Result<u32, Invalid> {
    if (1..=MAX_TASKS).contains(&value) {
        Ok(value)
    } else {
        Err(Invalid::new(field, value, format!("send 1 to {MAX_TASKS}")))
    }
}

/// An index that must be below `bound`.
pub fn index(field: &'static str, value: u32, bound: u32) -> Result<u32, Invalid> {
    if value < bound {
        Ok(value)
    } else {
        Err(Invalid::new(
            field,
            value,
            format!("send an index below {bound}"),
        ))
    }
}

/// A half-open range that must not be empty.
pub fn range(field: &'static str, start: u32, end: u32) -> Result<std::ops::Range<u32>, Invalid> {
    if start < end {
        Ok(start..end)
    } else {
        Err(Invalid::new(
            field,
            format!("[{start}, {end})"),
            "send a start below the end",
        ))
    }
}

/// `ShuffleId` needs no check: any u32 is one.
pub fn shuffle(value: u32) -> ShuffleId {
    ShuffleId(value)
}

/// A pushed table: columns of equal length, partitions ascending and below `num_partitions`, `seq`
/// going on from `next_seq`, lengths that sum up to `payload_length`.
pub fn pushed_blocks(
    table: &v1::BlockTable,
    payload_length: usize,
    map_index: MapIndex,
    attempt: AttemptId,
    num_partitions: u32,
    next_seq: u32,
) -> Result<Vec<BlockHeader>, Invalid> {
    if !table.map_index.is_empty() || !table.attempt.is_empty() {
        return Err(Invalid::new(
            "batch.table.attempt",
            "present",
            "leave map_index and attempt to open",
        ));
    }
    let blocks = blocks("batch.table", table, payload_length, |_| {
        (map_index, attempt)
    })?;
    for (position, block) in blocks.iter().enumerate() {
        index("batch.table.partition", block.partition.0, num_partitions)?;
        if position > 0 && blocks[position - 1].partition > block.partition {
            return Err(Invalid::new(
                "batch.table.partition",
                block.partition,
                "sort the blocks of a batch by partition",
            ));
        }
        let expected = u64::from(next_seq) + position as u64;
        if u64::from(block.seq) != expected {
            return Err(Invalid::new(
                "batch.table.seq",
                block.seq,
                format!("send {expected}: one more per block"),
            ));
        }
    }
    Ok(blocks)
}

/// A fetched table: columns of equal length, lengths that sum up to `payload_length`.
pub fn fetched_blocks(
    table: &v1::BlockTable,
    payload_length: usize,
) -> Result<Vec<BlockHeader>, Invalid> {
    let count = table.partition.len();
    if table.map_index.len() != count || table.attempt.len() != count {
        return Err(Invalid::new(
            "table.attempt",
            table.attempt.len(),
            format!("send one entry per block: {count}"),
        ));
    }
    blocks("table", table, payload_length, |i| {
        (MapIndex(table.map_index[i]), AttemptId(table.attempt[i]))
    })
}

fn blocks(
    field: &'static str,
    table: &v1::BlockTable,
    payload_length: usize,
    owner: impl Fn(usize) -> Owner,
) -> Result<Vec<BlockHeader>, Invalid> {
    let count = table.partition.len();
    let columns = [
        &table.seq,
        &table.length,
        &table.raw_length,
        &table.records,
        &table.flags,
        &table.checksum,
    ]
    .map(Vec::len);
    if let Some(other) = columns.into_iter().find(|&len| len != count) {
        return Err(Invalid::new(
            field,
            format!("columns of {count} and {other}"),
            "send columns of equal length",
        ));
    }
    if count == 0 || count > MAX_BATCH_BLOCKS {
        return Err(Invalid::new(
            field,
            format!("{count} blocks"),
            format!("send 1 to {MAX_BATCH_BLOCKS} blocks"),
        ));
    }
    let mut total = 0u64;
    let mut blocks = Vec::with_capacity(count);
    for i in 0..count {
        let (length, raw_length) = (table.length[i], table.raw_length[i]);
        if !(1..=MAX_BLOCK).contains(&length) || !(1..=MAX_BLOCK).contains(&raw_length) {
            let value = format!("{length} stored, {raw_length} raw");
            return Err(Invalid::new(
                field,
                value,
                format!("send blocks of 1 to {MAX_BLOCK} bytes"),
            ));
        }
        let flags = Flags::try_from_bits(table.flags[i]).ok_or_else(|| {
            Invalid::new(
                field,
                format!("flags {:#x}", table.flags[i]),
                "use codecs and bits of version 1",
            )
        })?;
        if !flags.fit(length, raw_length) {
            let value = format!("{length} stored, {raw_length} raw, flags {flags:?}");
            return Err(Invalid::new(
                field,
                value,
                format!(
                    "send the raw length of a block without codec, and {ENCRYPTION} bytes more of an encrypted one"
                ),
            ));
        }
        total += u64::from(length);
        let (map_index, attempt) = owner(i);
        blocks.push(BlockHeader {
            partition: PartitionId(table.partition[i]),
            map_index,
            attempt,
            seq: table.seq[i],
            length,
            raw_length,
            records: table.records[i],
            flags,
            checksum: table.checksum[i],
        });
    }
    if total != payload_length as u64 || total > u64::from(MAX_BATCH) {
        let remedy = format!("send the {total} bytes of the table, at most {MAX_BATCH}");
        return Err(Invalid::new(
            "payload",
            format!("{payload_length} bytes"),
            remedy,
        ));
    }
    Ok(blocks)
}

/// Appends a block to a table; `owned` adds the columns that only a fetch has.
pub fn put_block(table: &mut v1::BlockTable, block: &BlockHeader, owned: bool) {
    table.partition.push(block.partition.0);
    table.seq.push(block.seq);
    table.length.push(block.length);
    table.raw_length.push(block.raw_length);
    table.records.push(block.records);
    table.flags.push(block.flags.bits());
    table.checksum.push(block.checksum);
    if owned {
        table.map_index.push(block.map_index.0);
        table.attempt.push(block.attempt.0);
    }
}

/// `Commit.totals`: columns of equal length, partitions ascending and below `num_partitions`, at
/// least one block each.
pub fn totals(
    message: &v1::PartitionTotals,
    num_partitions: u32,
) -> Result<Vec<PartitionTotal>, Invalid> {
    let mut totals = Vec::new();
    more_totals(&mut totals, message, num_partitions)?;
    Ok(totals)
}

/// Appends the [`totals`] of one part of a commit to those of the parts before it.
pub fn more_totals(
    totals: &mut Vec<PartitionTotal>,
    message: &v1::PartitionTotals,
    num_partitions: u32,
) -> Result<(), Invalid> {
    let count = message.partition.len();
    if [
        message.blocks.len(),
        message.bytes.len(),
        message.records.len(),
    ] != [count; 3]
    {
        return Err(Invalid::new(
            "commit.totals",
            format!("columns that differ from {count}"),
            "send columns of equal length",
        ));
    }
    totals.reserve(count);
    for i in 0..count {
        index(
            "commit.totals.partition",
            message.partition[i],
            num_partitions,
        )?;
        let partition = PartitionId(message.partition[i]);
        if totals
            .last()
            .is_some_and(|last| last.partition >= partition)
        {
            return Err(Invalid::new(
                "commit.totals.partition",
                partition,
                "send each partition once, ascending",
            ));
        }
        if message.blocks[i] == 0 {
            return Err(Invalid::new(
                "commit.totals.blocks",
                0,
                "leave out partitions without blocks",
            ));
        }
        totals.push(PartitionTotal {
            partition,
            blocks: message.blocks[i],
            bytes: message.bytes[i],
            records: message.records[i],
        });
    }
    Ok(())
}

/// The message of these totals.
pub fn totals_message<'a>(
    totals: impl IntoIterator<Item = &'a PartitionTotal>,
) -> v1::PartitionTotals {
    let mut message = v1::PartitionTotals::default();
    for total in totals {
        message.partition.push(total.partition.0);
        message.blocks.push(total.blocks);
        message.bytes.push(total.bytes);
        message.records.push(total.records);
    }
    message
}

/// Bytes of the largest fetch request that a server reads: its caller is not known before.
pub const MAX_FETCH: usize = 256 << 10;

/// Most attempts that one fetch may name: as many as fit into [`MAX_FETCH`], whatever their ids,
/// beside some hundred volumes.
pub const MAX_WANTED: usize = 1 << 14;

/// Attempts of one volume: columns of equal length, ascending.
pub fn attempts(field: &'static str, message: &v1::Attempts) -> Result<BTreeSet<Owner>, Invalid> {
    let count = message.map_index.len();
    if message.attempt.len() != count {
        let value = format!("columns of {count} and {}", message.attempt.len());
        return Err(Invalid::new(field, value, "send columns of equal length"));
    }
    let (mut map_index, mut attempt) = (0u32, 0u64);
    let mut attempts = Vec::with_capacity(count);
    for (more, difference) in message.map_index.iter().zip(&message.attempt) {
        map_index = map_index
            .checked_add(*more)
            .ok_or_else(|| Invalid::new(field, "beyond 2^32", "send map indexes as differences"))?;
        attempt = attempt.wrapping_add_signed(*difference);
        let one = (MapIndex(map_index), AttemptId(attempt));
        if attempts.last().is_some_and(|last| *last >= one) {
            let value = format!("map {map_index} attempt {attempt}, out of order");
            return Err(Invalid::new(
                field,
                value,
                "send each attempt once, ascending",
            ));
        }
        attempts.push(one);
    }
    Ok(attempts.into_iter().collect())
}

/// The message of attempts that ascend by map index and then by attempt.
pub fn attempts_message(attempts: impl IntoIterator<Item = Owner>) -> v1::Attempts {
    let mut message = v1::Attempts::default();
    let (mut map_before, mut attempt_before) = (0u32, 0u64);
    for (MapIndex(map_index), AttemptId(attempt)) in attempts {
        debug_assert!(map_index >= map_before, "attempts ascend");
        message.map_index.push(map_index.wrapping_sub(map_before));
        let difference = attempt.wrapping_sub(attempt_before);
        message.attempt.push(difference.cast_signed());
        (map_before, attempt_before) = (map_index, attempt);
    }
    message
}

#[cfg(test)]
mod tests;
