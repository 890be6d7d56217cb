//! Commit logs: blocks of small commits, as they came, until a run has them. Their bytes are
//! described in `files::format`.
//!
//! One file is open for appending; a group of commits is one write. A file is removed once no
//! attempt needs it, which is what the writer looks after ([`Logs::reap`]); who still reads it has
//! it open.

use std::sync::{Arc, atomic::Ordering};

use shuffle_proto::stored::{ROW, put_row};

use crate::{
    index::{LogId, values::LogPlace},
    staging::{
        error::Error,
        files::{
            format::{HEADER, Header, Subject},
            log_file::{LogFile, log_path},
        },
        state::{
            batch::{Batch, Data, Owner},
            shared::Shared,
            shuffle::Shuffle,
            stats::Stats,
            trash::Waste,
        },
    },
};

/// The logs of a volume, as its writer has them.
#[derive(Default)]
pub(crate) struct Logs {
    current: Option<Arc<LogFile>>,
    all: Vec<Arc<LogFile>>,
}

/// What an attempt brings to a log.
pub(crate) struct Entry<'a> {
    pub(crate) shuffle: &'a Shuffle,
    pub(crate) owner: Owner,
    pub(crate) batches: &'a [Arc<Batch>],
}

// === impl Logs ===

impl Logs {
    /// The logs that a start has found: they are read and never appended to.
    pub(crate) fn recovered(all: Vec<Arc<LogFile>>) -> Self {
        Self { current: None, all }
    }

    /// Appends all entries in one write; answers where they are, in their order. They are counted
    /// as live.
    pub(crate) fn append(
        &mut self,
        shared: &Shared,
        entries: &[Entry<'_>],
    ) -> Result<(Arc<LogFile>, Vec<LogPlace>), Error> {
        let bytes = entries.iter().flat_map(|entry| entry.batches);
        shared.check_reserve(bytes.map(|batch| batch.length()).sum())?;
        let log = self.current(shared)?;
        let begin = log.length();
        let mut heads = Vec::with_capacity(entries.len());
        let mut places = Vec::with_capacity(entries.len());
        let mut offset = begin;
        for entry in entries {
            let blocks: usize = entry
                .batches
                .iter()
                .map(|batch| batch.headers().len())
                .sum();
            let data_length: u64 = entry.batches.iter().map(|batch| batch.length()).sum();
            let mut head = Vec::with_capacity(HEADER + blocks * ROW);
            head.resize(HEADER, 0);
            entry
                .batches
                .iter()
                .flat_map(|batch| batch.headers())
                .for_each(|block| put_row(&mut head, block));
            let header = Header {
                volume: shared.id,
                subject: Subject::Record {
                    app: entry.shuffle.app_no,
                    shuffle: entry.shuffle.id,
                    map_index: entry.owner.0,
                    attempt: entry.owner.1,
                },
                blocks: blocks as u32,
                data_length,
                table_checksum: crc32fast::hash(&head[HEADER..]),
            };
            head[..HEADER].copy_from_slice(&header.encode());
            let length = head.len() as u64 + data_length;
            places.push(LogPlace {
                log: log.id,
                offset,
                length,
            });
            offset += length;
            heads.push(head);
        }
        let mut pieces: Vec<&[u8]> = Vec::with_capacity(entries.len() * 3);
        for (entry, head) in entries.iter().zip(&heads) {
            pieces.push(head);
            for batch in entry.batches {
                if let Data::Memory(bytes) = batch.data() {
                    pieces.push(bytes);
                }
            }
        }
        if let Err(error) = shared.disk.write(&log.file, &log.path, &pieces, begin) {
            // Give back what a full disk took for the half that was written.
            shared.disk.cut(&log.file, &log.path, begin);
            return Err(error);
        }
        entries.iter().for_each(|_| log.enter());
        log.length.store(offset, Ordering::Release);
        shared.used.fetch_add(offset - begin, Ordering::Relaxed);
        Stats::add(&shared.stats.log_bytes, offset - begin);
        if offset >= shared.options.max_log {
            self.current = None;
        }
        Ok((log, places))
    }

    fn current(&mut self, shared: &Shared) -> Result<Arc<LogFile>, Error> {
        if let Some(log) = &self.current {
            return Ok(log.clone());
        }
        let id = LogId(shared.next_id());
        let path = log_path(&shared.dir, id);
        let file = shared.disk.create(&path)?;
        let log = Arc::new(LogFile::new(id, path, file, 0));
        self.all.push(log.clone());
        self.current = Some(log.clone());
        Ok(log)
    }

    /// Removes files that no attempt needs.
    pub(crate) fn reap(&mut self, shared: &Shared) {
        let (gone, kept) = std::mem::take(&mut self.all)
            .into_iter()
            .partition::<Vec<_>, _>(|log| {
                log.live.load(Ordering::Acquire) == 0 && log.length() > 0
            });
        self.all = kept;
        for log in gone {
            if self
                .current
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, &log))
            {
                self.current = None;
            }
            shared.used.fetch_sub(log.length(), Ordering::Relaxed);
            shared.trash.put(Waste::file(log.path.clone()));
        }
    }
}
