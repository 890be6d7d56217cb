//! The index in RocksDB: the only file that names it.
//!
//! There is one record per run and per attempt, none per block, so that the whole index is a few thousand rows per terabyte. Its
//! settings follow from that: no compression (values are packed already), small buffers and caches, the log always on. A log write
//! goes to the kernel with every batch, so the index survives the process; `sync` adds the device.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, IteratorMode, Options, ReadOptions,
    WriteBatch, WriteOptions,
};

use super::{Batch, Error, SegmentIndex, Step};

/// The index of a volume, in its directory `index/`.
pub struct RocksIndex {
    db: DB,
    path: String,
}

// === impl RocksIndex ===

impl RocksIndex {
    /// Opens it, or makes it if it is not there.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut options = options();
        options.create_if_missing(true);
        let name = path.display().to_string();
        let db = DB::open(&options, path).map_err(|error| store(&name, "open", &error))?;
        Ok(Self { db, path: name })
    }

    /// Opens what is there for reading, and changes nothing of it; writes are refused.
    pub fn open_read_only(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let db = DB::open_for_read_only(&options(), path, false);
        let db = db.map_err(|error| store(&name, "open for reading", &error))?;
        Ok(Self { db, path: name })
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
            .map_err(|error| store(&self.path, "write", &error))
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
