//! Blocks of runs: from memory while it has them, else from the segment, in reads of up to a MiB.

use std::{ops::Range, sync::Arc};

use shuffle_proto::{
    block::BlockHeader,
    stored::{ROW, row},
};

use crate::staging::{
    error::Error,
    files::format::HEADER,
    read::{
        part::PartBuilder,
        reader::{Filled, Reader},
        table::Table,
    },
    state::{
        pool::PART,
        run::{Cached, Run},
        shuffle::Snapshot,
        stats::Stats,
    },
};

/// Rows that are read at once.
const ROWS: u32 = 16 << 10;
/// Bytes between two wanted blocks that are read along rather than left out: a second read costs
/// more.
const GAP: u64 = 64 << 10;

/// Neighbouring bytes that are read together.
struct Extent {
    /// Range in the run's data.
    bytes: Range<u64>,
    /// What of them is wanted.
    wanted: Vec<Range<u64>>,
}

impl Reader {
    /// Takes blocks that memory still has.
    pub(crate) fn take_cached(
        &mut self,
        snapshot: &Snapshot,
        run: &Run,
        cached: &Arc<Cached>,
        ordinals: Range<u32>,
        part: &mut PartBuilder,
    ) -> Filled {
        let all_committed = self.all_committed(run);
        let mut served = 0;
        let mut next = ordinals.start;
        let mut filled = Filled::More;
        while next < ordinals.end {
            if !self.wants(snapshot, run, all_committed, cached.header(next)) {
                next += 1;
                continue;
            }
            if !part.takes(cached.header(next).length) {
                filled = Filled::Full;
                break;
            }
            // As many as lie together in memory, are wanted and still fit leave as one piece.
            let begin = next;
            while next < ordinals.end
                && part.takes(cached.header(next).length)
                && (next == begin || cached.follows(next))
                && self.wants(snapshot, run, all_committed, cached.header(next))
            {
                part.header(*cached.header(next));
                next += 1;
            }
            let bytes = cached.bytes(begin..next);
            served += bytes.len() as u64;
            part.memory(bytes);
        }
        self.position.ordinal = next;
        Stats::add(&self.shared.stats.read_memory_bytes, served);
        filled
    }

    /// Takes blocks from the segment.
    pub(crate) fn take_file(
        &mut self,
        snapshot: &Snapshot,
        run: &Run,
        ordinals: Range<u32>,
        part: &mut PartBuilder,
    ) -> Result<Filled, Error> {
        let all_committed = self.all_committed(run);
        let mut next = ordinals.start;
        while next < ordinals.end {
            let mut table = match self.table.take() {
                Some(table) if table.run == run.id.0 && table.next == next && table.has(next) => {
                    table
                }
                Some(table) if table.run == run.id.0 && table.next == next => {
                    self.read_table(run, next, table.offset, ordinals.end)?
                }
                _ => self.seek(run, next, ordinals.end)?,
            };
            let mut extents: Vec<Extent> = Vec::new();
            let mut headers: Vec<BlockHeader> = Vec::new();
            let (mut bytes, mut room) = (0, part.capacity() as u64);
            let mut full = false;
            while next < ordinals.end && table.has(next) {
                let block = *table.row(next);
                let range = table.offset..table.offset + u64::from(block.length);
                if self.wants(snapshot, run, all_committed, &block) {
                    let alone = part.is_empty() && headers.is_empty();
                    let cost = match extents.last() {
                        Some(last) if range.start - last.bytes.end <= GAP => {
                            range.end - last.bytes.end
                        }
                        _ => range.end - range.start,
                    };
                    if !alone
                        && (!part.takes_more(headers.len(), bytes, block.length) || cost > room)
                    {
                        full = true;
                        break;
                    }
                    room = room.saturating_sub(cost);
                    bytes += block.length as usize;
                    headers.push(block);
                    add(&mut extents, range.clone());
                }
                next += 1;
                table.next = next;
                table.offset = range.end;
            }
            self.read_extents(run, &headers, &extents, part)?;
            self.position.ordinal = next;
            self.table = Some(table);
            if full {
                return Ok(Filled::Full);
            }
        }
        Ok(Filled::More)
    }

    /// Reads extents into the part.
    fn read_extents(
        &self,
        run: &Run,
        headers: &[BlockHeader],
        extents: &[Extent],
        part: &mut PartBuilder,
    ) -> Result<(), Error> {
        if headers.is_empty() {
            return Ok(());
        }
        let file = run.segment.reader(&self.shared.disk)?;
        let total: u64 = extents
            .iter()
            .map(|extent| extent.bytes.end - extent.bytes.start)
            .sum();
        // All extents are read before the part changes, so that a failed read leaves the part as it
        // was.
        let corrupt = || Error::Internal(format!("{total} bytes do not fit into a part of {PART}"));
        let room = part.room(total as usize).ok_or_else(corrupt)?;
        let mut filled = 0;
        for extent in extents {
            let length = (extent.bytes.end - extent.bytes.start) as usize;
            let at = run.data_offset() + extent.bytes.start;
            self.shared.disk.read(
                file,
                &run.segment.path,
                &mut room[filled..filled + length],
                at,
            )?;
            filled += length;
        }
        let mut base = 0;
        for extent in extents {
            for wanted in &extent.wanted {
                let (start, end) = (
                    wanted.start - extent.bytes.start,
                    wanted.end - extent.bytes.start,
                );
                part.keep(base + start as usize..base + end as usize);
            }
            base += (extent.bytes.end - extent.bytes.start) as usize;
        }
        part.advance(filled);
        headers.iter().for_each(|header| part.header(*header));
        Stats::add(&self.shared.stats.read_disk_bytes, total);
        Ok(())
    }

    /// The table from a block whose bytes begin nobody knows where: from the beginning of its
    /// partition, where the directory knows.
    fn seek(&self, run: &Run, ordinal: u32, end: u32) -> Result<Table, Error> {
        let entry = run.entry_of(ordinal).map(|at| run.directory[at]);
        let (mut next, mut offset) =
            entry.map_or((0, 0), |entry| (entry.first_block, entry.offset));
        loop {
            let mut table = self.read_table(run, next, offset, end)?;
            while table.next < ordinal && table.has(table.next) {
                table.offset += u64::from(table.row(table.next).length);
                table.next += 1;
            }
            if table.next == ordinal {
                return Ok(table);
            }
            (next, offset) = (table.next, table.offset);
        }
    }

    /// Reads rows and holds them against the directory, once more if a changed byte is put right.
    fn read_table(&self, run: &Run, first: u32, offset: u64, end: u32) -> Result<Table, Error> {
        match self.try_read_table(run, first, offset, end) {
            Err(Error::Corrupt { .. }) if run.mend(&self.shared.disk)? => {
                self.try_read_table(run, first, offset, end)
            }
            read => read,
        }
    }

    fn try_read_table(&self, run: &Run, first: u32, offset: u64, end: u32) -> Result<Table, Error> {
        let count = (end - first).min(ROWS);
        let mut bytes = vec![0; count as usize * ROW];
        let path = &run.segment.path;
        run.read_rows(&self.shared.disk, &mut bytes, first)?;
        let corrupt = |ordinal: u32, what: &str| {
            let at = run.offset + HEADER as u64 + u64::from(ordinal) * ROW as u64;
            Error::Corrupt {
                path: path.clone(),
                offset: at,
                reason: format!("block {ordinal} of run {}: {what}", run.id),
            }
        };
        let mut rows = Vec::with_capacity(count as usize);
        let mut entry = run.entry_of(first).unwrap_or(0);
        let mut position = offset;
        for (ordinal, bytes) in (first..).zip(bytes.chunks(ROW)) {
            let block = row(bytes).ok_or_else(|| corrupt(ordinal, "not a block"))?;
            if run
                .directory
                .get(entry + 1)
                .is_some_and(|next| next.first_block == ordinal)
            {
                entry += 1;
            }
            let directory = run.directory[entry];
            if directory.partition != block.partition.0
                || (directory.first_block == ordinal && directory.offset != position)
            {
                return Err(corrupt(ordinal, "table and directory differ"));
            }
            position += u64::from(block.length);
            rows.push(block);
        }
        let after = first + count;
        let expected = match run.directory.get(entry + 1) {
            Some(next) if next.first_block == after => next.offset,
            None if after == run.blocks => run.data_length,
            _ => position,
        };
        if position != expected {
            return Err(corrupt(after, "lengths do not sum up to the directory's"));
        }
        Ok(Table {
            run: run.id.0,
            rows,
            first,
            next: first,
            offset,
        })
    }
}

/// Adds a wanted range, to the last extent if it is near.
fn add(extents: &mut Vec<Extent>, range: Range<u64>) {
    match extents.last_mut() {
        Some(last) if range.start - last.bytes.end <= GAP => {
            last.bytes.end = range.end;
            match last.wanted.last_mut() {
                Some(wanted) if wanted.end == range.start => wanted.end = range.end,
                _ => last.wanted.push(range),
            }
        }
        _ => extents.push(Extent {
            bytes: range.clone(),
            wanted: vec![range],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_are_read_together_and_far_ones_apart() {
        let mut extents = Vec::new();
        for range in [0..10, 10..20, 30..40, 40 + GAP + 1..50 + GAP + 1] {
            add(&mut extents, range);
        }
        let seen: Vec<_> = extents
            .iter()
            .map(|extent| (extent.bytes.clone(), extent.wanted.clone()))
            .collect();
        let far = 41 + GAP..51 + GAP;
        assert_eq!(
            seen,
            [(0..40, vec![0..20, 30..40]), (far.clone(), vec![far])]
        );
    }
}
