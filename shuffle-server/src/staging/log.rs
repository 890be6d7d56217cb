//! Commit logs: blocks of small commits, as they came, until a run has them. Their bytes are described in [`super::format`].
//!
//! One file is open for appending; a group of commits is one write. A file is removed once no attempt needs it, which is what the
//! writer looks after ([`Logs::reap`]); who still reads it has it open.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use shuffle_proto::{
    block::BlockHeader,
    stored::{ROW, mend::IEEE, put_row, row},
};

use super::{
    Error,
    batch::{Batch, Data, Owner, sorted_pieces},
    disk::Disk,
    format::{HEADER, Header, Subject},
    shared::Shared,
    shuffle::Shuffle,
    stats::Stats,
    trash::Waste,
};
use crate::index::{LogId, values::LogPlace};

/// A commit log.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) id: LogId,
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Attempts whose blocks are here and in no run.
    live: AtomicU64,
    length: AtomicU64,
    synced: AtomicU64,
    named: AtomicBool,
}

/// The logs of a volume, as its writer has them.
#[derive(Default)]
pub(super) struct Logs {
    current: Option<Arc<LogFile>>,
    all: Vec<Arc<LogFile>>,
}

/// What an attempt brings to a log.
pub(super) struct Entry<'a> {
    pub(super) shuffle: &'a Shuffle,
    pub(super) owner: Owner,
    pub(super) batches: &'a [Arc<Batch>],
}

// === impl LogFile ===

impl LogFile {
    pub(super) fn new(id: LogId, path: PathBuf, file: File, length: u64) -> Self {
        Self {
            id,
            path,
            file,
            live: AtomicU64::new(0),
            length: AtomicU64::new(length),
            synced: AtomicU64::new(0),
            named: AtomicBool::new(false),
        }
    }

    pub(super) fn enter(&self) {
        self.live.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn leave(&self) {
        self.live.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// Puts its bytes and its name on the device.
    pub(super) fn sync(&self, disk: &Disk) -> Result<bool, Error> {
        let length = self.length();
        if self.synced.load(Ordering::Acquire) >= length {
            return Ok(false);
        }
        disk.sync(&self.file, &self.path)?;
        if !self.named.load(Ordering::Acquire) {
            if let Some(dir) = self.path.parent() {
                disk.sync_dir(dir)?;
            }
            self.named.store(true, Ordering::Release);
        }
        self.synced.fetch_max(length, Ordering::AcqRel);
        Ok(true)
    }

    /// Reads the table of a record, as batches whose bytes stay here; the error says what does not fit.
    pub(super) fn read_record(
        self: &Arc<Self>,
        disk: &Disk,
        place: LogPlace,
        shuffle: &Shuffle,
        owner: Owner,
    ) -> Result<Vec<Arc<Batch>>, String> {
        let at =
            |reason: String| format!("log {} at {}: {reason}", self.path.display(), place.offset);
        let mut header = [0; HEADER];
        disk.read(&self.file, &self.path, &mut header, place.offset)
            .map_err(|error| error.to_string())?;
        let header = Header::decode_mended(&header).map_err(at)?;
        let subject = Subject::Record {
            app: shuffle.app_no,
            shuffle: shuffle.id,
            map_index: owner.0,
            attempt: owner.1,
        };
        let table_length = header.blocks as usize * ROW;
        let length = (HEADER + table_length) as u64 + header.data_length;
        if header.subject != subject || length != place.length {
            return Err(at("record is of something else".into()));
        }
        if self.length() < place.offset + place.length {
            return Err(at(format!(
                "record ends at {}, the file at {}",
                place.offset + place.length,
                self.length()
            )));
        }
        let mut table = vec![0; table_length];
        disk.read(
            &self.file,
            &self.path,
            &mut table,
            place.offset + HEADER as u64,
        )
        .map_err(|error| error.to_string())?;
        if crc32fast::hash(&table) != header.table_checksum
            && !IEEE.mend(&mut table, header.table_checksum)
        {
            return Err(at("table does not fit its checksum".into()));
        }
        let rows: Option<Vec<BlockHeader>> = table.chunks(ROW).map(row).collect();
        let mut offset = place.offset + (HEADER + table_length) as u64;
        let mut batches = Vec::new();
        for piece in
            sorted_pieces(rows.ok_or_else(|| at("table has a row that is no block".into()))?)
        {
            let batch = Batch::in_log(piece, self.clone(), offset)
                .ok_or_else(|| at("blocks are too long".into()))?;
            offset += batch.length();
            batches.push(Arc::new(batch));
        }
        if offset != place.offset + place.length {
            return Err(at("blocks do not fill the record".into()));
        }
        Ok(batches)
    }
}

// === impl Logs ===

impl Logs {
    /// After a restart: these are read and never appended to.
    pub(super) fn recovered(all: Vec<Arc<LogFile>>) -> Self {
        Self { current: None, all }
    }

    /// Appends all entries in one write; answers where they are, in their order. They are counted as live.
    pub(super) fn append(
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
    pub(super) fn reap(&mut self, shared: &Shared) {
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

/// Name of a log's file.
pub(super) fn log_path(dir: &Path, id: LogId) -> PathBuf {
    dir.join("log").join(format!("{id}.log"))
}
