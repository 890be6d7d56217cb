//! Bytes of segments and commit logs. All numbers are little-endian.
//!
//! A **segment** is runs one after the other, each beginning at a multiple of 4096 so that it can
//! be written past the page cache:
//!
//! | bytes of a run | field |
//! |---|---|
//! | 0..64 | header, below |
//! | 64.. | table: a row ([`shuffle_proto::stored`], 40 bytes) per block, ascending by (partition, map index, attempt, seq) |
//! | after it | data: the blocks' bytes back to back in the same order |
//!
//! A **commit log** is records one after the other, each the blocks of one attempt in the order of
//! their seq:
//!
//! | bytes of a record | field |
//! |---|---|
//! | 0..64 | header, below |
//! | 64.. | table: a row per block, in the order of seq |
//! | after it | data: the blocks' bytes back to back in the same order |
//!
//! | bytes of a header | field |
//! |---|---|
//! | 0..4 | magic: `FBRN` run, `FBLG` log record |
//! | 4..8 | format version u32, 1 |
//! | 8..16 | run: run id u64 · record: app number u32, shuffle u32 |
//! | 16..20 | run: attempts u32 · record: map index u32 |
//! | 20..28 | run: 0 · record: attempt u64 |
//! | 28..32 | blocks u32 |
//! | 32..40 | bytes of data u64 |
//! | 40..44 | CRC-32 of the table |
//! | 44..60 | volume id, 16 bytes |
//! | 60..64 | CRC-32 of bytes 0..60 |
//!
//! What holds a file together is the index: a run or record that the index does not name does not
//! exist, whatever its bytes say. The header is for finding mistakes (another file under this name)
//! and for people with a hex editor.

use shuffle_proto::{
    ids::{AttemptId, MapIndex, ShuffleId, VolumeId},
    stored::{ROW, mend},
};

use crate::index::{AppNo, RunId};

/// Where runs begin is a multiple of this, and so is what is written past the page cache.
pub(crate) const ALIGNMENT: u64 = 4096;
pub(crate) const HEADER: usize = 64;
const VERSION: u32 = 1;
const RUN_MAGIC: [u8; 4] = *b"FBRN";
const LOG_MAGIC: [u8; 4] = *b"FBLG";

/// What a header says beside its kind's own fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) volume: VolumeId,
    pub(crate) subject: Subject,
    pub(crate) blocks: u32,
    pub(crate) data_length: u64,
    pub(crate) table_checksum: u32,
}

/// What a header is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Run {
        id: RunId,
        attempts: u32,
    },
    Record {
        app: AppNo,
        shuffle: ShuffleId,
        map_index: MapIndex,
        attempt: AttemptId,
    },
}

// === impl Header ===

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        match self.subject {
            Subject::Run { id, attempts } => {
                bytes[0..4].copy_from_slice(&RUN_MAGIC);
                bytes[8..16].copy_from_slice(&id.0.to_le_bytes());
                bytes[16..20].copy_from_slice(&attempts.to_le_bytes());
            }
            Subject::Record {
                app,
                shuffle,
                map_index,
                attempt,
            } => {
                bytes[0..4].copy_from_slice(&LOG_MAGIC);
                bytes[8..12].copy_from_slice(&app.0.to_le_bytes());
                bytes[12..16].copy_from_slice(&shuffle.0.to_le_bytes());
                bytes[16..20].copy_from_slice(&map_index.0.to_le_bytes());
                bytes[20..28].copy_from_slice(&attempt.0.to_le_bytes());
            }
        }
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.blocks.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.data_length.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.table_checksum.to_le_bytes());
        bytes[44..60].copy_from_slice(self.volume.0.as_bytes());
        let checksum = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Decodes a header in which one byte may have changed.
    pub(crate) fn decode_mended(bytes: &[u8; HEADER]) -> Result<Self, String> {
        Self::decode(bytes).or_else(|reason| {
            let mut mended = *bytes;
            let stored = u32_at(bytes, 60);
            let computed = crc32fast::hash(&bytes[..60]);
            if mend::nearly(stored, computed) {
                mended[60..].copy_from_slice(&computed.to_le_bytes());
            } else if !mend::IEEE.mend(&mut mended[..60], stored) {
                return Err(reason);
            }
            Self::decode(&mended)
        })
    }

    /// Reads one; the error says what does not fit.
    pub(crate) fn decode(bytes: &[u8; HEADER]) -> Result<Self, String> {
        let checksum = crc32fast::hash(&bytes[..60]);
        if u32_at(bytes, 60) != checksum {
            return Err(format!(
                "header checksum is {:08x}, computed {checksum:08x}",
                u32_at(bytes, 60)
            ));
        }
        if u32_at(bytes, 4) != VERSION {
            return Err(format!(
                "format version is {}, this server reads {VERSION}",
                u32_at(bytes, 4)
            ));
        }
        let subject = if bytes[0..4] == RUN_MAGIC {
            Subject::Run {
                id: RunId(u64_at(bytes, 8)),
                attempts: u32_at(bytes, 16),
            }
        } else if bytes[0..4] == LOG_MAGIC {
            Subject::Record {
                app: AppNo(u32_at(bytes, 8)),
                shuffle: ShuffleId(u32_at(bytes, 12)),
                map_index: MapIndex(u32_at(bytes, 16)),
                attempt: AttemptId(u64_at(bytes, 20)),
            }
        } else {
            return Err(format!("magic is {:02x?}", &bytes[0..4]));
        };
        let mut volume = [0; 16];
        volume.copy_from_slice(&bytes[44..60]);
        Ok(Self {
            volume: VolumeId(uuid::Uuid::from_bytes(volume)),
            subject,
            blocks: u32_at(bytes, 28),
            data_length: u64_at(bytes, 32),
            table_checksum: u32_at(bytes, 40),
        })
    }
}

/// Bytes of header and table.
pub(crate) fn head_length(blocks: u32) -> u64 {
    HEADER as u64 + u64::from(blocks) * ROW as u64
}

/// Rounded up to [`ALIGNMENT`].
pub(crate) fn align(length: u64) -> u64 {
    length.next_multiple_of(ALIGNMENT)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use shuffle_proto::{
        block::{BlockHeader, Codec, Flags},
        ids::PartitionId,
        stored::put_row,
    };

    use super::*;

    fn headers() -> [Header; 2] {
        let volume = VolumeId(uuid::Uuid::from_u128(0x0102030405060708090a0b0c0d0e0f10));
        let run = Subject::Run {
            id: RunId(7),
            attempts: 2,
        };
        let record = Subject::Record {
            app: AppNo(1),
            shuffle: ShuffleId(2),
            map_index: MapIndex(3),
            attempt: AttemptId(4),
        };
        [run, record].map(|subject| Header {
            volume,
            subject,
            blocks: 5,
            data_length: 6,
            table_checksum: 8,
        })
    }

    fn block() -> BlockHeader {
        BlockHeader {
            partition: PartitionId(1),
            map_index: MapIndex(2),
            attempt: AttemptId(3),
            seq: 4,
            length: 5,
            raw_length: 6,
            records: 7,
            flags: Flags::new(Codec::Lz4, true, false),
            checksum: 9,
        }
    }

    #[test]
    fn stored_bytes_stay_what_they_are() {
        let hex = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let mut text: String = headers()
            .iter()
            .map(|header| hex(&header.encode()) + "\n")
            .collect();
        let mut bytes = Vec::new();
        put_row(&mut bytes, &block());
        text += &(hex(&bytes) + "\n");
        assert_eq!(
            text,
            include_str!("format.golden"),
            "a changed format needs a new version"
        );
    }

    #[test]
    fn headers_decode_to_themselves() {
        for header in headers() {
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
    }

    #[test]
    fn a_flipped_bit_in_a_header_is_found() {
        for header in headers() {
            for bit in 0..HEADER * 8 {
                let mut bytes = header.encode();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(Header::decode(&bytes).is_err(), "bit {bit}");
                assert_eq!(Header::decode_mended(&bytes), Ok(header), "bit {bit}");
            }
        }
    }
}
