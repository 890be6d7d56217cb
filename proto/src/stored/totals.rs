//! Totals of an attempt per partition: counted while blocks arrive, compared at commit, kept packed
//! for summaries.
//!
//! A shuffle of 10 000 maps and 1 000 partitions has ten million of them, so they are kept as they
//! are stored: four varints per partition, about 7 bytes. Per entry, ascending by partition:
//!
//! | varint | field |
//! |---|---|
//! | 1 | partition, minus (the one before, plus 1) |
//! | 2 | blocks |
//! | 3 | stored bytes |
//! | 4 | records |

use std::ops::Range;

use super::{Reader, put_varint};
use crate::{
    block::{BlockHeader, PartitionTotal},
    ids::PartitionId,
};

/// Entries between two marks: what a lookup decodes at most before it is where it wants to be.
const MARK_EVERY: usize = 64;

/// Totals of one attempt, packed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    encoded: Box<[u8]>,
    marks: Box<[Mark]>,
}

/// A place where decoding can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// No entry from here on has a smaller partition.
    base: u32,
    offset: u32,
}

/// A sum over partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Blocks.
    pub blocks: u64,
    /// Stored bytes.
    pub bytes: u64,
    /// Records.
    pub records: u64,
}

/// Counts the blocks of one attempt as they arrive.
#[derive(Debug, Default)]
pub struct Accumulator {
    folded: Vec<PartitionTotal>,
    /// One entry per partition and batch since the last fold.
    pending: Vec<PartitionTotal>,
}

// === impl Totals ===

impl Totals {
    /// Packs totals that ascend by partition.
    pub fn new(totals: &[PartitionTotal]) -> Self {
        let mut encoded = Vec::with_capacity(totals.len() * 8);
        let mut marks = Vec::with_capacity(totals.len() / MARK_EVERY + 1);
        let mut base = 0;
        for (position, total) in totals.iter().enumerate() {
            if position % MARK_EVERY == 0 {
                marks.push(Mark {
                    base,
                    offset: encoded.len() as u32,
                });
            }
            put_varint(&mut encoded, u64::from(total.partition.0 - base));
            put_varint(&mut encoded, u64::from(total.blocks));
            put_varint(&mut encoded, total.bytes);
            put_varint(&mut encoded, total.records);
            base = total.partition.0 + 1;
        }
        Self {
            encoded: encoded.into(),
            marks: marks.into(),
        }
    }

    /// Reads stored ones; `None` if they are none.
    pub fn decode(encoded: Vec<u8>) -> Option<Self> {
        let mut marks = Vec::new();
        let mut entries = Entries {
            reader: Reader(&encoded),
            base: 0,
        };
        let (mut count, mut sum) = (0usize, Sum::default());
        loop {
            if entries.reader.0.is_empty() {
                break;
            }
            if count.is_multiple_of(MARK_EVERY) {
                let offset = u32::try_from(encoded.len() - entries.reader.0.len()).ok()?;
                marks.push(Mark {
                    base: entries.base,
                    offset,
                });
            }
            // What does not add up was not counted by anybody, and would overflow in every sum over
            // it.
            sum.add(&entries.next()?)?;
            count += 1;
        }
        Some(Self {
            marks: marks.into(),
            encoded: encoded.into(),
        })
    }

    /// The totals' bytes in files.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Ascending by partition, from the first that is not below `start`.
    pub fn entries_from(&self, start: u32) -> impl Iterator<Item = PartitionTotal> {
        let mark = self
            .marks
            .partition_point(|mark| mark.base <= start)
            .checked_sub(1)
            .map(|at| self.marks[at]);
        let (base, offset) = mark.map_or((0, self.encoded.len()), |mark| {
            (mark.base, mark.offset as usize)
        });
        Entries {
            reader: Reader(&self.encoded[offset..]),
            base,
        }
        .skip_while(move |total| total.partition.0 < start)
    }

    /// Over the partitions of a range.
    pub fn sum(&self, partitions: &Range<u32>) -> Sum {
        let mut sum = Sum::default();
        for total in self
            .entries_from(partitions.start)
            .take_while(|total| total.partition.0 < partitions.end)
        {
            sum.blocks += u64::from(total.blocks);
            sum.bytes += total.bytes;
            sum.records += total.records;
        }
        sum
    }

    /// Where these differ from `others`, in words; `None` if they do not.
    pub fn difference(&self, others: &[PartitionTotal]) -> Option<String> {
        difference(self.entries_from(0), others.iter().copied())
    }
}

/// Where what is held differs from what was sent.
fn difference(
    held: impl IntoIterator<Item = PartitionTotal>,
    sent: impl IntoIterator<Item = PartitionTotal>,
) -> Option<String> {
    let (mut held, mut sent) = (held.into_iter(), sent.into_iter());
    let words = |total: PartitionTotal| {
        format!(
            "{} blocks, {} bytes, {} records",
            total.blocks, total.bytes, total.records
        )
    };
    loop {
        let (ours, theirs) = (held.next(), sent.next());
        if ours == theirs {
            ours?;
            continue;
        }
        let partition = ours
            .iter()
            .chain(&theirs)
            .map(|total| total.partition)
            .min()?;
        let of = |total: Option<PartitionTotal>| {
            total
                .filter(|total| total.partition == partition)
                .map_or_else(|| "nothing".to_owned(), words)
        };
        return Some(format!(
            "partition {partition}: the commit says {}, the server holds {}",
            of(theirs),
            of(ours)
        ));
    }
}

/// Decodes entry by entry; ends early where the bytes are no entry.
struct Entries<'a> {
    reader: Reader<'a>,
    base: u32,
}

impl Iterator for Entries<'_> {
    type Item = PartitionTotal;

    fn next(&mut self) -> Option<PartitionTotal> {
        let partition =
            u32::try_from(u64::from(self.base).checked_add(self.reader.varint()?)?).ok()?;
        let blocks = u32::try_from(self.reader.varint()?).ok()?;
        let (bytes, records) = (self.reader.varint()?, self.reader.varint()?);
        self.base = partition.checked_add(1)?;
        Some(PartitionTotal {
            partition: PartitionId(partition),
            blocks,
            bytes,
            records,
        })
    }
}

// === impl Sum ===

impl Sum {
    /// Adds an entry; `None` where a number would be too large.
    fn add(&mut self, total: &PartitionTotal) -> Option<()> {
        self.blocks = self.blocks.checked_add(u64::from(total.blocks))?;
        self.bytes = self.bytes.checked_add(total.bytes)?;
        self.records = self.records.checked_add(total.records)?;
        Some(())
    }
}

// === impl Accumulator ===

impl Accumulator {
    /// Adds blocks that are sorted by partition.
    pub fn add(&mut self, headers: &[BlockHeader]) {
        let begin = self.pending.len();
        for header in headers {
            let (bytes, records) = (u64::from(header.length), u64::from(header.records));
            match self.pending[begin..].last_mut() {
                Some(last) if last.partition == header.partition => {
                    last.blocks += 1;
                    last.bytes += bytes;
                    last.records += records;
                }
                _ => self.pending.push(PartitionTotal {
                    partition: header.partition,
                    blocks: 1,
                    bytes,
                    records,
                }),
            }
        }
        // Folding when the pending are as many as the folded costs a constant number of moves per
        // entry over all batches.
        if self.pending.len() > self.folded.len() + 4096 {
            self.fold();
        }
    }

    /// What was added, ascending by partition.
    pub fn totals(&mut self) -> &[PartitionTotal] {
        self.fold();
        &self.folded
    }

    fn fold(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        self.folded.append(&mut self.pending);
        // Several sorted sequences one after the other, which is what the stable sort is fast at.
        self.folded.sort_by_key(|total| total.partition);
        self.folded.dedup_by(|next, total| {
            let same = next.partition == total.partition;
            if same {
                total.blocks += next.blocks;
                total.bytes += next.bytes;
                total.records += next.records;
            }
            same
        });
    }
}

/// Where what `held` counted differs from what a commit says, in words.
pub fn compare(held: &[PartitionTotal], sent: &[PartitionTotal]) -> Option<String> {
    if held == sent {
        None
    } else {
        difference(held.iter().copied(), sent.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        block::{Codec, Flags, MAX_BLOCK},
        ids::{AttemptId, MapIndex},
    };
    use proptest::prelude::*;

    fn total(partition: u32, blocks: u32) -> PartitionTotal {
        PartitionTotal {
            partition: PartitionId(partition),
            blocks,
            bytes: u64::from(blocks) * 100,
            records: 7,
        }
    }

    fn header(partition: u32) -> BlockHeader {
        BlockHeader {
            partition: PartitionId(partition),
            map_index: MapIndex(0),
            attempt: AttemptId(1),
            seq: 0,
            length: MAX_BLOCK,
            raw_length: 1,
            records: u32::MAX,
            flags: Flags::new(Codec::Lz4, false, false),
            checksum: 0,
        }
    }

    #[test]
    fn a_difference_names_its_partition_and_both_sides() {
        let held = [total(1, 2), total(3, 4)];
        assert_eq!(compare(&held, &held), None);
        let text = compare(&held, &[total(1, 2), total(2, 1), total(3, 4)]).expect("differs");
        assert_eq!(
            text,
            "partition 2: the commit says 1 blocks, 100 bytes, 7 records, the server holds nothing"
        );
        let text = compare(&held, &held[..1]).expect("differs");
        assert_eq!(
            text,
            "partition 3: the commit says nothing, the server holds 4 blocks, 400 bytes, 7 records"
        );
        let text = compare(&held, &[total(1, 2), total(3, 5)]).expect("differs");
        assert!(
            text.starts_with("partition 3: the commit says 5 blocks"),
            "{text}"
        );
        assert_eq!(compare(&[], &[]), None);
    }

    #[test]
    fn sums_go_beyond_32_bits() {
        let header = header(9);
        let mut counted = Accumulator::default();
        (0..1100).for_each(|_| counted.add(&[header, header]));
        let expected = PartitionTotal {
            partition: PartitionId(9),
            blocks: 2200,
            bytes: 2200 * u64::from(header.length),
            records: 2200 * u64::from(u32::MAX),
        };
        assert!(expected.bytes > u64::from(u32::MAX));
        assert_eq!(counted.totals(), [expected]);
        let packed =
            Totals::decode(Totals::new(&[expected]).encoded().to_vec()).expect("as packed");
        let sum = packed.sum(&(0..10));
        assert_eq!((sum.bytes, sum.records), (expected.bytes, expected.records));
    }

    /// Such a footer passes its checksum; every sum over it would overflow.
    #[test]
    fn totals_that_do_not_add_up_are_refused() {
        let large = |partition, bytes, records| PartitionTotal {
            partition: PartitionId(partition),
            blocks: 1,
            bytes,
            records,
        };
        let decode = |totals: &[PartitionTotal]| {
            Totals::decode(Totals::new(totals).encoded().to_vec()).map(|totals| totals.sum(&(0..9)))
        };
        assert!(decode(&[large(0, u64::MAX, u64::MAX)]).is_some());
        assert!(decode(&[large(0, u64::MAX, 0), large(1, 0, u64::MAX)]).is_some());
        assert_eq!(decode(&[large(0, u64::MAX, 0), large(1, 1, 0)]), None);
        assert_eq!(decode(&[large(0, 0, 1), large(7, 0, u64::MAX)]), None);
    }

    fn totals() -> impl Strategy<Value = Vec<PartitionTotal>> {
        prop::collection::btree_map(0u32..3000, (1u32..1000, any::<u32>(), any::<u32>()), 0..400)
            .prop_map(|map| {
                let entry = |(partition, (blocks, bytes, records))| PartitionTotal {
                    partition: PartitionId(partition),
                    blocks,
                    bytes: u64::from(bytes) << 8,
                    records: u64::from(records),
                };
                map.into_iter().map(entry).collect()
            })
    }

    proptest! {
        #[test]
        fn packed_totals_are_what_was_packed(totals in totals(), start in 0u32..3100, length in 0u32..500) {
            let packed = Totals::new(&totals);
            prop_assert_eq!(packed.entries_from(0).collect::<Vec<_>>(), totals.clone());
            prop_assert_eq!(Totals::decode(packed.encoded().to_vec()), Some(packed.clone()));
            prop_assert_eq!(packed.difference(&totals), None);
            let range = start..start + length;
            let mut expected = Sum::default();
            for total in totals.iter().filter(|total| range.contains(&total.partition.0)) {
                expected.blocks += u64::from(total.blocks);
                expected.bytes += total.bytes;
                expected.records += total.records;
            }
            prop_assert_eq!(packed.sum(&range), expected);
        }

        #[test]
        fn any_bytes_are_totals_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Totals::decode(bytes);
        }

        #[test]
        fn counting_in_batches_counts_every_block(batches in prop::collection::vec(prop::collection::vec(0u32..50, 0..200), 0..60)) {
            let mut accumulator = Accumulator::default();
            let mut expected = BTreeMap::<u32, u32>::new();
            for mut partitions in batches {
                partitions.sort_unstable();
                let headers: Vec<_> = partitions.iter().map(|&p| header(p)).collect();
                accumulator.add(&headers);
                partitions.into_iter().for_each(|p| *expected.entry(p).or_default() += 1);
            }
            let counted: Vec<_> = accumulator.totals().iter().map(|total| (total.partition.0, total.blocks)).collect();
            prop_assert_eq!(counted, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
