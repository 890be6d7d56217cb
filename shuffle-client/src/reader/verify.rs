//! What has been seen of an output: every block is checked before it is released, and the sum is
//! compared with the commit.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use shuffle_proto::{
    block::{self, BlockHeader},
    ids::AttemptId,
    v1,
};

use super::Output;

/// An expected output, and how much of it was received.
pub(super) struct Progress {
    pub(super) output: Output,
    /// Per partition of `output.partitions`: seq of the last block, plus one.
    seen: Vec<u32>,
    blocks: u32,
    bytes: u64,
    records: u64,
}

/// Why a message or a whole answer cannot be believed.
#[derive(Debug)]
pub(super) struct Fault {
    /// The faulty output, if known.
    pub(super) attempt: Option<AttemptId>,
    /// The attempt is not there, as opposed to wrong.
    pub(super) missing: bool,
    /// Attempts missing from the server.
    pub(super) lost: Vec<AttemptId>,
    pub(super) message: String,
}

impl Fault {
    /// Wrong bytes or counts, in this attempt if known.
    pub(super) fn wrong(attempt: Option<AttemptId>, message: impl Into<String>) -> Self {
        Self {
            attempt,
            missing: false,
            lost: Vec::new(),
            message: message.into(),
        }
    }
}

/// Unwanted attempts tolerated in a summary.
const NAMED_BESIDE: usize = 1 << 17;

impl Progress {
    /// Counted bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn new(output: Output) -> Self {
        Self {
            seen: vec![0; output.partitions.len()],
            output,
            blocks: 0,
            bytes: 0,
            records: 0,
        }
    }

    /// Where in `seen` a block counts, if it may.
    fn position(&self, block: &BlockHeader) -> Result<usize, Fault> {
        let fault = |message: String| Fault::wrong(Some(block.attempt), message);
        if block.map_index != self.output.map_index {
            let message = format!(
                "attempt {} is of map {}, not of {}",
                block.attempt, block.map_index, self.output.map_index
            );
            return Err(fault(message));
        }
        self.output
            .partitions
            .binary_search(&block.partition.0)
            .map_err(|_| {
                fault(format!(
                    "attempt {} has bytes for partition {}, where the engine knows of none",
                    block.attempt, block.partition
                ))
            })
    }

    /// Counts a verified block; false if it was counted before.
    fn count(&mut self, position: usize, block: &BlockHeader) -> bool {
        // The blocks of one attempt and partition come in the order of their seq, also when a
        // server starts over.
        if block.seq < self.seen[position] {
            return false;
        }
        self.seen[position] = block.seq.saturating_add(1);
        self.blocks += 1;
        self.bytes += u64::from(block.length);
        self.records += u64::from(block.records);
        true
    }
}

/// Cuts the payload into blocks and checks those of expected attempts. Nothing is released unless
/// all of them are good (invariant: verified-before-released).
///
/// Blocks of other attempts are dropped unread. A losing attempt (speculation, a map run again
/// because of this very block) must not fail the read of its winner; and an expected block turned
/// into another attempt's by a flipped bit shows in the counts.
pub(super) fn cut(
    expected: &HashMap<AttemptId, Progress>,
    headers: Vec<BlockHeader>,
    pieces: Vec<Bytes>,
) -> Result<Vec<(BlockHeader, Bytes)>, Fault> {
    let blocks = block::cut(headers, pieces);
    check(blocks.filter(|(header, _)| expected.contains_key(&header.attempt)))
}

/// Checks blocks one by one.
pub(super) fn check(
    found: impl IntoIterator<Item = (BlockHeader, Bytes)>,
) -> Result<Vec<(BlockHeader, Bytes)>, Fault> {
    let found = found.into_iter();
    let mut blocks = Vec::with_capacity(found.size_hint().0);
    for (header, bytes) in found {
        if !header.verify([&bytes[..]]) {
            let message = format!(
                "block {} of attempt {} (map {}, partition {}, {} bytes) fails its checksum",
                header.seq, header.attempt, header.map_index, header.partition, header.length
            );
            return Err(Fault::wrong(Some(header.attempt), message));
        }
        blocks.push((header, bytes));
    }
    Ok(blocks)
}

/// Adds one of several messages of a summary, which may name the `wanted` attempts and few others.
pub(super) fn join(
    summary: &mut v1::Summary,
    more: v1::Summary,
    wanted: usize,
) -> Result<(), Fault> {
    let columns = [
        summary.attempt.len() + more.attempt.len(),
        summary.lost.len() + more.lost.len(),
        summary.map_index.len() + more.map_index.len(),
        summary.blocks.len() + more.blocks.len(),
        summary.bytes.len() + more.bytes.len(),
        summary.records.len() + more.records.len(),
    ];
    if let Some(count) = columns
        .into_iter()
        .find(|count| *count > 4 * wanted + NAMED_BESIDE)
    {
        let message = format!("summary names {count} attempts, {wanted} were asked for");
        return Err(Fault::wrong(None, message));
    }
    summary.map_index.extend(more.map_index);
    summary.attempt.extend(more.attempt);
    summary.blocks.extend(more.blocks);
    summary.bytes.extend(more.bytes);
    summary.records.extend(more.records);
    summary.lost.extend(more.lost);
    summary.more = more.more;
    Ok(())
}

/// Keeps the blocks of expected attempts that were not seen before, and counts them: all of a
/// message, or none.
pub(super) fn admit(
    expected: &mut HashMap<AttemptId, Progress>,
    blocks: Vec<(BlockHeader, Bytes)>,
) -> Result<VecDeque<(BlockHeader, Bytes)>, Fault> {
    let mut positions = Vec::with_capacity(blocks.len());
    for (header, _) in &blocks {
        positions.push(
            expected
                .get(&header.attempt)
                .map(|progress| progress.position(header))
                .transpose()?,
        );
    }
    // From here on nothing fails: a block that is counted is released.
    let mut admitted = VecDeque::with_capacity(blocks.len());
    for ((header, bytes), position) in blocks.into_iter().zip(positions) {
        if let Some(position) = position
            && let Some(progress) = expected.get_mut(&header.attempt)
            && progress.count(position, &header)
        {
            admitted.push_back((header, bytes));
        }
    }
    Ok(admitted)
}

/// Compares the received blocks with the server's summary and with the engine's sizes. Wrong
/// outputs are told before missing ones: the server looks at a wrong output, and may find it
/// missing too.
pub(super) fn compare(
    expected: &HashMap<AttemptId, Progress>,
    summary: &v1::Summary,
) -> Result<(), Fault> {
    let count = summary.attempt.len();
    if [
        summary.map_index.len(),
        summary.blocks.len(),
        summary.bytes.len(),
        summary.records.len(),
    ] != [count; 4]
    {
        return Err(Fault::wrong(
            None,
            "summary has columns of different length",
        ));
    }
    let rows: HashMap<u64, usize> = summary
        .attempt
        .iter()
        .enumerate()
        .map(|(row, attempt)| (*attempt, row))
        .collect();
    let lost: HashMap<u64, &v1::LostAttempt> = summary
        .lost
        .iter()
        .map(|lost| (lost.attempt, lost))
        .collect();
    let (mut wrong, mut missing) = (None, Vec::new());
    for (attempt, progress) in expected {
        let mut fault = |message| {
            wrong.get_or_insert_with(|| Fault::wrong(Some(*attempt), message));
        };
        let Some(&row) = rows.get(&attempt.0) else {
            missing.push((progress.output.map_index, *attempt));
            continue;
        };
        let committed = (
            summary.map_index[row],
            summary.blocks[row],
            summary.bytes[row],
            summary.records[row],
        );
        let received = (
            progress.output.map_index.0,
            progress.blocks,
            progress.bytes,
            progress.records,
        );
        if committed != received {
            let message = format!(
                "attempt {attempt} was committed with (map, blocks, bytes, records) {committed:?}, received were {received:?}"
            );
            fault(message);
            continue;
        }
        if let Some(position) = progress.seen.iter().position(|next| *next == 0) {
            let partition = progress.output.partitions[position];
            let message = format!(
                "attempt {attempt} has no bytes for partition {partition}, where the engine knows of some"
            );
            fault(message);
        }
    }
    missing.sort_unstable();
    let all = || missing.iter().map(|(_, attempt)| *attempt).collect();
    match (wrong, missing.first()) {
        (None, None) => Ok(()),
        (Some(wrong), _) => Err(Fault {
            lost: all(),
            ..wrong
        }),
        (None, Some(&(map_index, attempt))) => {
            let why = lost.get(&attempt.0).map_or_else(
                || "the server does not know it".to_string(),
                |of| shuffle_proto::summary::reason(&summary.lost, of).to_owned(),
            );
            Err(Fault {
                attempt: Some(attempt),
                missing: true,
                lost: all(),
                message: format!("attempt {attempt} of map {map_index} is missing: {why}"),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use shuffle_proto::{
        block::{Codec, Flags, MAX_BLOCK},
        ids::{MapIndex, PartitionId, VolumeId},
    };

    use super::*;

    const ATTEMPT: AttemptId = AttemptId(1 << 40);
    const BLOCKS: u32 = 1100;

    /// One counted output: more bytes and rows than 32 bits hold.
    fn received() -> HashMap<AttemptId, Progress> {
        let mut progress = Progress::new(Output {
            volume: VolumeId::random(),
            address: String::new(),
            mirror: None,
            map_index: MapIndex(3),
            attempt: ATTEMPT,
            partitions: vec![5],
        });
        for seq in 0..BLOCKS {
            let block = BlockHeader {
                partition: PartitionId(5),
                map_index: MapIndex(3),
                attempt: ATTEMPT,
                seq,
                length: MAX_BLOCK,
                raw_length: MAX_BLOCK,
                records: u32::MAX,
                flags: Flags::new(Codec::Lz4, false, false),
                checksum: 0,
            };
            assert!(progress.count(0, &block));
        }
        HashMap::from([(ATTEMPT, progress)])
    }

    fn committed(bytes: u64, records: u64) -> v1::Summary {
        v1::Summary {
            map_index: vec![3],
            attempt: vec![ATTEMPT.0],
            blocks: vec![BLOCKS],
            bytes: vec![bytes],
            records: vec![records],
            ..Default::default()
        }
    }

    #[test]
    fn sums_beyond_32_bits_are_compared_whole() {
        let bytes = u64::from(BLOCKS) * u64::from(MAX_BLOCK);
        let records = u64::from(BLOCKS) * u64::from(u32::MAX);
        assert!(compare(&received(), &committed(bytes, records)).is_ok());
        // What a 32-bit counter would take for the same.
        assert!(compare(&received(), &committed(bytes, records % (1 << 32))).is_err());
        assert!(compare(&received(), &committed(bytes % (1 << 32), records)).is_err());
    }
}
