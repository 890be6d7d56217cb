//! The index in RocksDB: the only file that names it.
//!
//! There is one record per run and per attempt, none per block, so that the whole index is a few
//! thousand rows per terabyte. Its settings follow from that: no compression (values are packed
//! already), small buffers and caches, the log always on. A log write goes to the kernel with every
//! batch, so the index survives the process; `sync` adds the device.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use parking_lot::Mutex;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, ErrorKind, IteratorMode, Options, ReadOptions,
    WriteBatch, WriteOptions,
};

use super::{
    Changes, Error, SegmentIndex, Step,
    damage::{self, Overlay},
    mend::seal,
    parity,
};

/// Bytes of batches after which is looked whether there are new tables.
const NEW_TABLES: u64 = 8 << 20;

/// The index of a volume, in its directory `index/`.
pub struct RocksIndex {
    db: Arc<DB>,
    path: String,
    /// Something of it was lost before it was opened.
    damaged: AtomicBool,
    /// Where it is read from, if its own files cannot be put right.
    overlay: Option<Overlay>,
    /// Bytes of batches since new tables were looked for.
    written: AtomicU64,
    /// The thread that makes parities of new tables.
    protecting: Mutex<Option<JoinHandle<()>>>,
}

// === impl RocksIndex ===

impl RocksIndex {
    /// Opens it, or makes it if it is not there.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut options = options();
        options.create_if_missing(true);
        let name = path.display().to_string();
        damage::put_right(path).map_err(|error| store(&name, "put right", &error))?;
        let db = match DB::open(&options, path) {
            Err(error) if error.kind() == ErrorKind::Corruption => {
                tracing::error!(path = name, %error, "the index cannot be opened: it is made anew from what can be read of it");
                let repaired = damage::repair(path, |copy| {
                    DB::repair(&options, copy).map_err(|error| error.to_string())
                });
                repaired.map_err(|error| store(&name, "repair", &error))?;
                DB::open(&options, path)
            }
            opened => opened,
        };
        let db = db.map_err(|error| store(&name, "open", &error))?;
        protect(&db, path);
        Ok(Self {
            db: Arc::new(db),
            path: name,
            damaged: AtomicBool::new(damage::is_noted(path)),
            overlay: None,
            written: AtomicU64::new(0),
            protecting: Mutex::default(),
        })
    }

    /// Makes an index anew of the rows that can be read of one that opens, and has tables that
    /// cannot be read whole.
    pub fn salvage(path: &Path) -> Result<(), Error> {
        let name = path.display().to_string();
        let mut options = options();
        options.create_if_missing(true);
        let salvaged = damage::repair(path, |copy| {
            let text = |error: rocksdb::Error| error.to_string();
            let from = DB::open_for_read_only(&options, path, false).map_err(text)?;
            std::fs::remove_dir_all(copy).map_err(|error| error.to_string())?;
            let to = DB::open(&options, copy).map_err(text)?;
            let rows = copy_readable(&from, &to).map_err(text)?;
            tracing::error!(
                path = name,
                rows,
                "tables of the index cannot be read whole: it is made anew from the rest"
            );
            Ok(())
        });
        salvaged.map_err(|error| store(&name, "salvage", &error))
    }

    /// Opens what is there for reading, and changes nothing of it; writes are refused. What has
    /// changed is read as it was all the same.
    pub fn open_read_only(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let overlay = Overlay::of(path).map_err(|error| store(&name, "look through", &error))?;
        let (overlay, loses) = overlay.map_or((None, false), |(one, loses)| (Some(one), loses));
        let from = overlay.as_ref().map_or(path, Overlay::path);
        let db = DB::open_for_read_only(&options(), from, false);
        let db = db.map_err(|error| store(&name, "open for reading", &error))?;
        Ok(Self {
            db: Arc::new(db),
            path: name,
            damaged: AtomicBool::new(loses || damage::is_noted(path)),
            overlay,
            written: AtomicU64::new(0),
            protecting: Mutex::default(),
        })
    }

    /// Where it is read from, if that is not where it is.
    #[cfg(test)]
    pub(super) fn overlay(&self) -> Option<&Path> {
        self.overlay.as_ref().map(Overlay::path)
    }

    /// Sees to it that new tables are protected, on a thread of its own.
    fn look_for_tables(&self) {
        let mut protecting = self.protecting.lock();
        if protecting
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            return;
        }
        self.written.store(0, Ordering::Relaxed);
        let (db, path) = (self.db.clone(), PathBuf::from(&self.path));
        let thread = std::thread::Builder::new().name("forebay-parity".into());
        *protecting = thread.spawn(move || protect(&db, &path)).ok();
    }
}

impl Drop for RocksIndex {
    fn drop(&mut self) {
        if let Some(thread) = self.protecting.lock().take() {
            let _ = thread.join();
        }
        // What RocksDB has open stays readable.
        drop(self.overlay.take());
    }
}

/// Makes what puts damaged tables together again.
fn protect(db: &DB, path: &Path) {
    let Ok(files) = db.live_files() else {
        return;
    };
    let name = |file: rocksdb::LiveFile| file.name.trim_start_matches('/').to_owned();
    let tables: BTreeSet<String> = files.into_iter().map(name).collect();
    if let Err(error) = parity::protect(path, &tables) {
        tracing::warn!(path = %path.display(), %error, "tables of the index have no second chance");
    }
}

/// A batch as RocksDB takes it, with its second checksum.
fn sealed(batch: &Changes) -> WriteBatch {
    let mut steps = WriteBatch::default();
    for step in &batch.steps {
        match step {
            Step::Put(key, value) => steps.put(key, value),
            Step::Delete(key) => steps.delete(key),
            Step::DeleteRange(from, to) => steps.delete_range(from, to),
        }
    }
    steps.put_log_data(seal::seal(steps.data()));
    steps
}

/// The record of the log that a batch becomes, but for its sequence number.
#[cfg(test)]
pub(super) fn record_of(batch: &Changes) -> Vec<u8> {
    sealed(batch).data().to_vec()
}

/// Copies all readable rows of an index that is open for reading: from the first row to the damage,
/// and from the last row back to it. Rows inside the damage are unknown.
fn copy_readable(from: &DB, to: &DB) -> Result<u64, rocksdb::Error> {
    let mut unsynced = WriteOptions::default();
    unsynced.disable_wal(true);
    let mut copied = 0;
    for mode in [IteratorMode::Start, IteratorMode::End] {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let mut whole = true;
        for row in from.iterator_opt(mode, options) {
            let Ok((key, value)) = row else {
                whole = false;
                break;
            };
            to.put_opt(key, value, &unsynced)?;
            copied += 1;
        }
        if whole {
            break;
        }
    }
    to.flush()?;
    Ok(copied)
}

/// How it is kept, however it is opened.
fn options() -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(8 << 20));
    table.set_bloom_filter(10.0, false);
    table.set_format_version(6);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(16 << 20);
    options.set_max_write_buffer_number(3);
    options.set_max_background_jobs(2);
    options.set_max_open_files(64);
    options.set_max_total_wal_size(64 << 20);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options
}

impl SegmentIndex for RocksIndex {
    fn write(&self, batch: &Changes, sync: bool) -> Result<(), Error> {
        let steps = sealed(batch);
        let bytes = batch.steps.iter().map(Step::bytes).sum::<usize>() as u64;
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db
            .write_opt(steps, &options)
            .map_err(|error| store(&self.path, "write", &error))?;
        if self.written.fetch_add(bytes, Ordering::Relaxed) + bytes >= NEW_TABLES {
            self.look_for_tables();
        }
        Ok(())
    }

    fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    fn settle_damage(&self) -> Result<(), Error> {
        if !self.is_damaged() {
            return Ok(());
        }
        // Before the note goes the index itself has to have what followed from it.
        let flushed = self.db.flush_wal(true);
        flushed.map_err(|error| store(&self.path, "sync", &error))?;
        damage::forget(Path::new(&self.path))
            .map_err(|error| store(&self.path, "put right", &error))?;
        self.damaged.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.db
            .get(key)
            .map_err(|error| store(&self.path, "get", &error))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), Error> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(to);
        options.fill_cache(false);
        for row in self.db.iterator_opt(IteratorMode::Start, options) {
            let (key, value) = row.map_err(|error| match error.kind() {
                ErrorKind::Corruption => Error::Unreadable {
                    path: self.path.clone(),
                    message: error.to_string(),
                },
                _ => store(&self.path, "scan", &error),
            })?;
            visit(&key, &value);
        }
        Ok(())
    }
}

fn store(path: &str, operation: &'static str, error: &impl ToString) -> Error {
    Error::Store {
        path: path.into(),
        operation,
        message: error.to_string(),
    }
}
