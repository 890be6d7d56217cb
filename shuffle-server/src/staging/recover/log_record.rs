//! A record of the commit log, as a start finds it.

use std::sync::Arc;

use shuffle_proto::{
    block::BlockHeader,
    stored::{ROW, mend::IEEE, row},
};

use crate::{
    index::values::LogPlace,
    staging::{
        disk::Disk,
        files::{
            format::{HEADER, Header, Subject},
            log_file::LogFile,
        },
        state::{
            batch::{Batch, Owner, sorted_pieces},
            shuffle::Shuffle,
        },
    },
};

/// Reads the table of a record, as batches whose bytes stay here; the error says what does not fit.
pub(super) fn read_record(
    log: &Arc<LogFile>,
    disk: &Disk,
    place: LogPlace,
    shuffle: &Shuffle,
    owner: Owner,
) -> Result<Vec<Arc<Batch>>, String> {
    let at = |reason: String| format!("log {} at {}: {reason}", log.path.display(), place.offset);
    let mut header = [0; HEADER];
    disk.read(&log.file, &log.path, &mut header, place.offset)
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
    if log.length() < place.offset + place.length {
        return Err(at(format!(
            "record ends at {}, the file at {}",
            place.offset + place.length,
            log.length()
        )));
    }
    let mut table = vec![0; table_length];
    disk.read(
        &log.file,
        &log.path,
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
    for piece in sorted_pieces(rows.ok_or_else(|| at("table has a row that is no block".into()))?) {
        let batch = Batch::in_log(piece, log.clone(), offset)
            .ok_or_else(|| at("blocks are too long".into()))?;
        offset += batch.length();
        batches.push(Arc::new(batch));
    }
    if offset != place.offset + place.length {
        return Err(at("blocks do not fill the record".into()));
    }
    Ok(batches)
}
