//! Blocks of committed attempts that are in no run: in memory or, after a restart, in a commit log.

use std::{ops::Range, sync::Arc};

use shuffle_proto::ids::{AttemptId, MapIndex};

use crate::staging::{
    disk::trouble::passes,
    error::Error,
    read::{
        cursor::LAST,
        part::PartBuilder,
        reader::{Filled, Reader},
    },
    state::{
        batch::{Batch, Data},
        shuffle::Snapshot,
        stats::Stats,
    },
};

impl Reader {
    pub(crate) fn take_memory(
        &mut self,
        snapshot: &Snapshot,
        part: &mut PartBuilder,
        disk: bool,
    ) -> Result<Filled, Error> {
        let first = (MapIndex(self.maps.start), AttemptId(0));
        let (begin, mut seq) = match self.position.memory {
            Some((owner, seq)) if owner >= first => (owner, seq),
            _ => (first, 0),
        };
        for (&owner, held) in snapshot.held.range(begin..) {
            if owner.0.0 >= self.maps.end {
                break;
            }
            if owner != begin {
                seq = 0;
            }
            if !self.commits.contains_key(&owner) || self.excluded.contains(&owner) {
                continue;
            }
            'attempt: for batch in &held.batches {
                if held.lost.get().is_some() {
                    break;
                }
                let mut blocks = batch.select(&self.partitions);
                // The blocks of a batch are in the order of seq.
                blocks.start +=
                    batch.headers()[blocks.clone()].partition_point(|block| block.seq < seq);
                while !blocks.is_empty() {
                    if matches!(batch.data(), Data::Log(..)) {
                        if let Some(left_out) = &mut self.left_out {
                            left_out.attempts.insert(owner);
                            break 'attempt;
                        }
                        if !disk {
                            return Ok(Filled::NeedsDisk);
                        }
                    }
                    let count = fitting(part, batch, blocks.clone());
                    if count == 0 {
                        return Ok(Filled::Full);
                    }
                    let now = blocks.start..blocks.start + count;
                    match self.take_blocks(batch, now.clone(), part) {
                        Ok(()) => {}
                        Err(error) if passes(&error) => return Err(error),
                        Err(error) => {
                            Stats::add(&self.shared.stats.read_failures, 1);
                            self.shared.note_read(&error);
                            held.lose(&self.shuffle, owner, || error.to_string());
                            self.excluded.insert(owner);
                            break 'attempt;
                        }
                    }
                    blocks.start = now.end;
                    self.position.memory = Some((owner, batch.headers()[now.end - 1].seq + 1));
                }
            }
            self.position.memory = Some((owner, u32::MAX));
        }
        self.position.memory = Some((LAST, u32::MAX));
        Ok(Filled::More)
    }

    /// Takes neighbouring blocks of a batch, which fit.
    fn take_blocks(
        &self,
        batch: &Arc<Batch>,
        blocks: Range<usize>,
        part: &mut PartBuilder,
    ) -> Result<(), Error> {
        let span = batch.span(blocks.clone());
        match batch.data() {
            Data::Memory(bytes) => {
                Stats::add(&self.shared.stats.read_memory_bytes, span.len() as u64);
                part.memory(bytes.slice(span));
            }
            Data::Log(log, offset) => {
                let length = span.len();
                let no_room = || Error::Internal(format!("{length} bytes do not fit into a part"));
                let room = part.room(length).ok_or_else(no_room)?;
                self.shared
                    .disk
                    .read(&log.file, &log.path, room, offset + span.start as u64)?;
                part.keep(0..length);
                part.advance(length);
                Stats::add(&self.shared.stats.read_disk_bytes, length as u64);
            }
        }
        batch.headers()[blocks]
            .iter()
            .for_each(|header| part.header(*header));
        Ok(())
    }
}

/// How many of these blocks the part takes.
fn fitting(part: &PartBuilder, batch: &Batch, blocks: Range<usize>) -> usize {
    let from_log = matches!(batch.data(), Data::Log(..));
    let mut bytes = 0;
    let total = blocks.len();
    for (count, header) in batch.headers()[blocks].iter().enumerate() {
        let alone = part.is_empty() && count == 0;
        let room = !from_log || bytes + header.length as usize <= part.capacity();
        if !alone && (!part.takes_more(count, bytes, header.length) || !room) {
            return count;
        }
        bytes += header.length as usize;
    }
    total
}
