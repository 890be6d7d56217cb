//! The index in RocksDB: the only file that names it.
//!
//! There is one record per run and per attempt, none per block, so that the whole index is a few thousand rows per terabyte. Its
//! settings follow from that: no compression (values are packed already), small buffers and caches, the log always on. A log write
//! goes to the kernel with every batch, so the index survives the process; `sync` adds the device.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use parking_lot::Mutex;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, ErrorKind, IteratorMode, Options, ReadOptions,
    WriteBatch, WriteOptions,
};

use super::{Batch, Error, SegmentIndex, Step, mend, parity};

/// Bytes of batches after which is looked whether there are new tables.
const NEW_TABLES: u64 = 8 << 20;

/// The index of a volume, in its directory `index/`.
pub struct RocksIndex {
    db: Arc<DB>,
    path: String,
    /// Something of it was lost before it was opened.
    damaged: bool,
    /// Bytes of batches since new tables were looked for.
    written: AtomicU64,
    /// Who looks for them.
    protecting: Mutex<Option<JoinHandle<()>>>,
}

// === impl RocksIndex ===

impl RocksIndex {
    /// Opens it, or makes it if it is not there.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut options = options();
        options.create_if_missing(true);
        let name = path.display().to_string();
        let mut damaged = put_right(path);
        let db = match DB::open(&options, path) {
            Err(error) if error.kind() == ErrorKind::Corruption => {
                damaged = true;
                repair(&options, path, &error).map_err(|error| store(&name, "repair", &error))?;
                DB::open(&options, path)
            }
            opened => opened,
        };
        let db = db.map_err(|error| store(&name, "open", &error))?;
        protect(&db, path);
        Ok(Self {
            db: Arc::new(db),
            path: name,
            damaged,
            written: AtomicU64::new(0),
            protecting: Mutex::default(),
        })
    }

    /// Opens what is there for reading, and changes nothing of it; writes are refused.
    pub fn open_read_only(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let db = DB::open_for_read_only(&options(), path, false);
        let db = db.map_err(|error| store(&name, "open for reading", &error))?;
        Ok(Self {
            db: Arc::new(db),
            path: name,
            damaged: false,
            written: AtomicU64::new(0),
            protecting: Mutex::default(),
        })
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
    }
}

/// Before it is opened; true if something of it could not be put right.
fn put_right(path: &Path) -> bool {
    if !path.exists() {
        return false;
    }
    let mended = parity::check(path).and_then(|_| mend::mend(path));
    match mended {
        Ok(gone) => !gone.is_empty(),
        // What is the matter with the disk, the index will say.
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the index's files could not be looked through");
            false
        }
    }
}

/// Takes what can be read of an index that RocksDB does not open. Records that are gone lose their attempts; one that comes back because
/// what deleted it is gone names files that are gone.
fn repair(options: &Options, path: &Path, why: &rocksdb::Error) -> Result<(), rocksdb::Error> {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_file()
            && let Err(error) = mend::keep_lost(&entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "a file of a damaged index cannot be kept");
        }
    }
    tracing::error!(path = %path.display(), %why, "the index is damaged: what can be read of it is kept; its files as they were are in `lost`");
    DB::repair(options, path)
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
    fn write(&self, batch: &Batch, sync: bool) -> Result<(), Error> {
        let mut steps = WriteBatch::default();
        let bytes = batch.steps.iter().map(Step::bytes).sum::<usize>() as u64;
        for step in &batch.steps {
            match step {
                Step::Put(key, value) => steps.put(key, value),
                Step::Delete(key) => steps.delete(key),
                Step::DeleteRange(from, to) => steps.delete_range(from, to),
            }
        }
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
        self.damaged
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
            let (key, value) = row.map_err(|error| store(&self.path, "scan", &error))?;
            visit(&key, &value);
        }
        Ok(())
    }
}

fn store(path: &str, operation: &'static str, error: &rocksdb::Error) -> Error {
    Error::Store {
        path: path.into(),
        operation,
        message: error.to_string(),
    }
}
