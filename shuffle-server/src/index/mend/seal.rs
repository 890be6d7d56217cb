//! A second checksum of what is written to the index's log: over all changes of a batch, deletions
//! too.
//!
//! A byte that is put right by the log's own checksum may have been guessed: damage of many bytes
//! looks like that of one now and then, the more often the longer the record. Values have a
//! checksum of their own, deletions have none. So each batch ends with bytes that RocksDB carries
//! along in its log and nowhere else, and a record that was put right counts only if they fit.
//!
//! | bytes of a record | field |
//! |---|---|
//! | 0..8 | sequence number of the first change u64 |
//! | 8..12 | changes u32 |
//! | then, per change | kind u8 (0 deletion, 1 value, 15 deletion of a range); key; value, or end of the range; each with its length before it |
//! | now and then | kind 3, and bytes with their length: a seal |
//!
//! | bytes of a seal | field |
//! |---|---|
//! | 0..4 | magic `FBWS` |
//! | 4..8 | CRC-32 of all that is between it and the seal before it, or the record's head |
//!
//! RocksDB may write several batches as one record, which then has several seals.

use shuffle_proto::stored::Reader;

const MAGIC: [u8; 4] = *b"FBWS";
const HEAD: usize = 12;
const DELETION: u8 = 0;
const VALUE: u8 = 1;
const SEAL: u8 = 3;
const DELETION_OF_RANGE: u8 = 15;

/// What a batch ends with.
pub(in crate::index) fn seal(batch: &[u8]) -> Vec<u8> {
    let changes = batch.get(HEAD..).unwrap_or_default();
    [MAGIC, crc32fast::hash(changes).to_le_bytes()].concat()
}

/// The sequence numbers of a record that is what was written; `None` if that cannot be said.
pub(super) fn sequence(record: &[u8]) -> Option<std::ops::Range<u64>> {
    let mut reader = Reader(record);
    let (first, count) = (reader.u64()?, reader.u32()?);
    let (mut begun, mut changes) = (HEAD, 0);
    while !reader.0.is_empty() {
        let at = record.len() - reader.0.len();
        match reader.u8()? {
            DELETION => {
                text(&mut reader)?;
            }
            VALUE | DELETION_OF_RANGE => {
                text(&mut reader)?;
                text(&mut reader)?;
            }
            SEAL => {
                let (magic, stored) = text(&mut reader)?.split_first_chunk()?;
                let computed = crc32fast::hash(&record[begun..at]).to_le_bytes();
                if *magic != MAGIC || *stored != computed {
                    return None;
                }
                begun = record.len() - reader.0.len();
                continue;
            }
            _ => return None,
        }
        changes += 1;
    }
    let sealed = begun == record.len() && changes == count;
    sealed.then(|| first..first.saturating_add(u64::from(count)))
}

fn text<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let length = usize::try_from(reader.varint()?).ok()?;
    reader.take(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{Changes, Step, record_of};

    fn batch() -> Vec<u8> {
        let steps = vec![
            Step::Put(b"a key".into(), vec![7; 300]),
            Step::Delete(b"another".into()),
            Step::DeleteRange(b"from".into(), b"to".into()),
        ];
        record_of(&Changes { steps })
    }

    #[test]
    fn whatever_changes_behind_the_head_is_seen() {
        let good = batch();
        assert_eq!(sequence(&good), Some(0..3));
        for at in HEAD..good.len() {
            for bits in [1, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= bits;
                assert_eq!(sequence(&bytes), None, "{at}");
            }
        }
        for end in HEAD + 1..good.len() {
            assert_eq!(sequence(&good[..end]), None, "{end}");
        }
        assert_eq!(sequence(&good[..5]), None);
    }

    #[test]
    fn batches_that_are_written_as_one_record_have_a_seal_each() {
        let mut both = batch();
        both.extend(&batch()[HEAD..]);
        both[8] = 6;
        assert_eq!(sequence(&both), Some(0..6));
        let last = both.len() - 1;
        both[last] ^= 1;
        assert_eq!(sequence(&both), None);
    }
}
