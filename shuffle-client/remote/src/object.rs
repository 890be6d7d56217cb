//! Bytes of an object: blocks of one volume's part of a shuffle, sorted by (partition, map index),
//! and an index behind them. All numbers are little-endian.
//!
//! | bytes of an object | field |
//! |---|---|
//! | 0..64 | header, below |
//! | 64.. | sections one after the other: rows ([`shuffle_proto::stored`], 40 bytes per block), then the blocks' bytes in the same order |
//! | after them | the footer: directory (36 bytes per section), then totals |
//! | the last 64 | trailer, below |
//!
//! A *section* holds blocks of one partition, ascending by map index and, within an attempt, by
//! seq; sections end at about 4 MiB. Rows lie directly before their bytes, so neighbouring
//! partitions cost one ranged read.
//!
//! | bytes of header | of trailer | field |
//! |---|---|---|
//! | 0..4 | 0..4 | magic `FBOB` · `FBOF` |
//! | 4..8 | 4..8 | format version u32, 1 |
//! | 8..12 | 8..12 | shuffle u32 |
//! | 12..16 | 12..16 | generation u32 |
//! | 16..20 | 16..20 | number u32 |
//! | | 20..24 | sections u32 |
//! | | 24..28 | attempts u32 |
//! | | 28..36 | offset of the footer u64 |
//! | | 36..40 | CRC-32 of the footer |
//! | 44..60 | 44..60 | volume id, 16 bytes |
//! | 60..64 | 60..64 | CRC-32 of bytes 0..60 |
//!
//! | bytes of a directory entry | field |
//! |---|---|
//! | 0..4 | partition u32 |
//! | 4..12 | first and last map index u32, both in it |
//! | 12..16 | blocks u32 |
//! | 16..24 | offset in the object u64 |
//! | 24..32 | bytes of the blocks u64 |
//! | 32..36 | CRC-32 of the rows |
//!
//! Totals of an attempt, ascending by (map index, attempt): map index u32, attempt u64, length u32,
//! then per partition the object's share, coded by [`shuffle_proto::stored::totals`].

use std::collections::BTreeMap;

use bytes::Bytes;
use shuffle_proto::{
    block::BlockHeader,
    ids::{AttemptId, MapIndex, ShuffleId, VolumeId},
    stored::{
        ROW, Reader, put_row, row,
        totals::{Accumulator, Totals},
    },
};

use super::{Owner, Place};

const VERSION: u32 = 1;
const MAGIC: [u8; 4] = *b"FBOB";
const TRAILER_MAGIC: [u8; 4] = *b"FBOF";
/// Bytes of the header, and of the trailer.
pub const HEADER: usize = 64;
const ENTRY: usize = 36;
/// Bytes of blocks after which a section is closed.
const SECTION: u64 = 4 << 20;

/// A directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Number of blocks.
    pub partition: u32,
    /// Lowest map index.
    pub first_map: u32,
    /// Highest map index.
    pub last_map: u32,
    /// Rows.
    pub blocks: u32,
    /// Offset of the rows in the object.
    pub offset: u64,
    /// Bytes of the blocks.
    pub data: u64,
    /// CRC-32 of the rows.
    pub checksum: u32,
}

/// A block with its bytes, or the reason why they are bad.
pub(crate) type Checked = (BlockHeader, Result<Bytes, String>);

/// A manifest's entry of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number in the generation, from 0 without gaps.
    pub number: u32,
    /// Nonce of the round: keeps keys of different rounds apart.
    pub nonce: u64,
    /// Length of the object.
    pub length: u64,
    /// CRC-32 of the object.
    pub checksum: u32,
    /// Offset of the footer.
    pub footer: u64,
    /// Lowest partition.
    pub first_partition: u32,
    /// Highest partition.
    pub last_partition: u32,
}

/// Content of header and trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The shuffle and volume.
    pub shuffle: ShuffleId,
    /// Generation of the manifest.
    pub generation: u32,
    /// Number in the generation.
    pub number: u32,
    /// The volume.
    pub volume: VolumeId,
}

/// The last bytes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// As in the header.
    pub head: Head,
    /// Entries of the directory.
    pub sections: u32,
    /// Attempts with totals.
    pub attempts: u32,
    /// Where the footer begins.
    pub footer: u64,
    /// CRC-32 of the footer.
    pub checksum: u32,
}

/// The index of an object, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Footer {
    /// In the order of the bytes: by partition and map index.
    pub sections: Vec<Section>,
    /// Ascending by owner.
    totals: Vec<(Owner, Totals)>,
    bytes: usize,
}

/// Builds one object.
pub struct Builder {
    place: Place,
    generation: u32,
    number: u32,
    nonce: u64,
    sections: Vec<Section>,
    totals: BTreeMap<Owner, Accumulator>,
    length: u64,
    checksum: crc32fast::Hasher,
    out: Vec<u8>,
}

// === impl Builder ===

impl Builder {
    /// An object without blocks.
    pub fn new(place: Place, generation: u32, number: u32, nonce: u64) -> Self {
        let mut builder = Self {
            generation,
            number,
            nonce,
            sections: Vec::new(),
            totals: BTreeMap::new(),
            length: 0,
            checksum: crc32fast::Hasher::new(),
            out: Vec::new(),
            place,
        };
        let header = builder.head(MAGIC, |_| ());
        builder.put(&header);
        builder
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether the object has no blocks.
    pub fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    /// Adds the next blocks, in the order of the object.
    pub fn add(&mut self, blocks: &[(BlockHeader, Bytes)]) {
        let mut rest = blocks;
        while let Some((first, _)) = rest.first() {
            let mut bytes = 0;
            let count = rest
                .iter()
                .take_while(|(header, _)| {
                    let fits = header.partition == first.partition && bytes < SECTION;
                    bytes += u64::from(header.length);
                    fits
                })
                .count();
            let (section, later) = rest.split_at(count);
            self.section(section);
            rest = later;
        }
    }

    fn section(&mut self, blocks: &[(BlockHeader, Bytes)]) {
        let mut rows = Vec::with_capacity(blocks.len() * ROW);
        blocks
            .iter()
            .for_each(|(header, _)| put_row(&mut rows, header));
        let maps = || blocks.iter().map(|(header, _)| header.map_index.0);
        self.sections.push(Section {
            partition: blocks[0].0.partition.0,
            first_map: maps().min().unwrap_or(0),
            last_map: maps().max().unwrap_or(0),
            blocks: blocks.len() as u32,
            offset: self.length,
            data: blocks.iter().map(|(_, bytes)| bytes.len() as u64).sum(),
            checksum: crc32fast::hash(&rows),
        });
        self.put(&rows);
        blocks.iter().for_each(|(_, bytes)| self.put(bytes));
        let owner = |header: &BlockHeader| (header.map_index, header.attempt);
        for of_one in blocks.chunk_by(|(a, _), (b, _)| owner(a) == owner(b)) {
            let headers: Vec<_> = of_one.iter().map(|(header, _)| *header).collect();
            self.totals
                .entry(owner(&headers[0]))
                .or_default()
                .add(&headers);
        }
    }

    /// Takes the bytes ready to be sent; only their length and checksum are remembered.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// The last bytes, with footer and trailer, and the manifest's entry.
    pub fn finish(mut self) -> (Vec<u8>, Entry) {
        let offset = self.length;
        let mut footer = Vec::with_capacity(self.sections.len() * ENTRY);
        for section in &self.sections {
            for number in [
                section.partition,
                section.first_map,
                section.last_map,
                section.blocks,
            ] {
                footer.extend(number.to_le_bytes());
            }
            footer.extend(section.offset.to_le_bytes());
            footer.extend(section.data.to_le_bytes());
            footer.extend(section.checksum.to_le_bytes());
        }
        for ((map_index, attempt), totals) in &mut self.totals {
            let totals = Totals::new(totals.totals());
            footer.extend(map_index.0.to_le_bytes());
            footer.extend(attempt.0.to_le_bytes());
            footer.extend((totals.encoded().len() as u32).to_le_bytes());
            footer.extend(totals.encoded());
        }
        let trailer = self.head(TRAILER_MAGIC, |bytes| {
            bytes[20..24].copy_from_slice(&(self.sections.len() as u32).to_le_bytes());
            bytes[24..28].copy_from_slice(&(self.totals.len() as u32).to_le_bytes());
            bytes[28..36].copy_from_slice(&offset.to_le_bytes());
            bytes[36..40].copy_from_slice(&crc32fast::hash(&footer).to_le_bytes());
        });
        self.put(&footer);
        self.put(&trailer);
        let partition = |section: Option<&Section>| section.map_or(0, |section| section.partition);
        let entry = Entry {
            number: self.number,
            nonce: self.nonce,
            length: self.length,
            checksum: self.checksum.finalize(),
            footer: offset,
            first_partition: partition(self.sections.first()),
            last_partition: partition(self.sections.last()),
        };
        (self.out, entry)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.checksum.update(bytes);
        self.length += bytes.len() as u64;
        self.out.extend_from_slice(bytes);
    }

    fn head(&self, magic: [u8; 4], fill: impl FnOnce(&mut [u8; HEADER])) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..4].copy_from_slice(&magic);
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.place.shuffle.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.number.to_le_bytes());
        bytes[44..60].copy_from_slice(self.place.volume.0.as_bytes());
        fill(&mut bytes);
        let checksum = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

// === impl Head, Trailer ===

impl Head {
    /// Decodes an object's header; the error names the mismatch.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self, String> {
        Self::read(bytes, MAGIC, "header")
    }

    fn read(bytes: &[u8; HEADER], expected: [u8; 4], name: &str) -> Result<Self, String> {
        let (stored, computed) = (word(bytes, 60), crc32fast::hash(&bytes[..60]));
        if stored != computed {
            return Err(format!(
                "{name} checksum is {stored:08x}, computed {computed:08x}"
            ));
        }
        if bytes[..4] != expected {
            return Err(format!("magic is {:02x?}", &bytes[..4]));
        }
        if word(bytes, 4) != VERSION {
            return Err(format!(
                "format version is {}, this version of Forebay reads {VERSION}",
                word(bytes, 4)
            ));
        }
        let mut volume = [0; 16];
        volume.copy_from_slice(&bytes[44..60]);
        Ok(Self {
            shuffle: ShuffleId(word(bytes, 8)),
            generation: word(bytes, 12),
            number: word(bytes, 16),
            volume: VolumeId(uuid::Uuid::from_bytes(volume)),
        })
    }
}

impl Trailer {
    /// Decodes an object's trailer; the error names the mismatch.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self, String> {
        let head = Head::read(bytes, TRAILER_MAGIC, "trailer")?;
        Ok(Self {
            head,
            sections: word(bytes, 20),
            attempts: word(bytes, 24),
            footer: u64::from(word(bytes, 28)) | u64::from(word(bytes, 32)) << 32,
            checksum: word(bytes, 36),
        })
    }
}

fn word(bytes: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

// === impl Footer ===

impl Footer {
    /// Decodes footer and trailer of this object; the error names the mismatch.
    pub fn decode(
        bytes: &[u8],
        place: &Place,
        generation: u32,
        entry: &Entry,
    ) -> Result<Self, String> {
        let Some((footer, trailer)) = bytes.split_last_chunk::<HEADER>() else {
            return Err(format!("footer of {} bytes", bytes.len()));
        };
        let trailer = Trailer::decode(trailer)?;
        let expected = Head {
            shuffle: place.shuffle,
            generation,
            number: entry.number,
            volume: place.volume,
        };
        if trailer.head != expected {
            return Err("it is another object than its key and manifest say".into());
        }
        Self::read(footer, &trailer, entry.footer)
    }

    /// Decodes the footer of any object, from its trailer; the footer begins at `offset`. The error
    /// names the mismatch.
    pub fn read(footer: &[u8], trailer: &Trailer, offset: u64) -> Result<Self, String> {
        let checksum = crc32fast::hash(footer);
        if trailer.checksum != checksum {
            return Err(format!(
                "footer checksum is {:08x}, computed {checksum:08x}",
                trailer.checksum
            ));
        }
        let mut reader = Reader(footer);
        Self::fields(&mut reader, trailer.sections, trailer.attempts, offset)
            .filter(|_| reader.0.is_empty())
            .ok_or_else(|| "footer contradicts itself".into())
    }

    fn fields(r: &mut Reader<'_>, sections: u32, attempts: u32, offset: u64) -> Option<Self> {
        let bytes = r.0.len();
        let mut found = Vec::with_capacity((sections as usize).min(bytes / ENTRY));
        let mut end = HEADER as u64;
        for _ in 0..sections {
            let section = Section {
                partition: r.u32()?,
                first_map: r.u32()?,
                last_map: r.u32()?,
                blocks: r.u32()?,
                offset: r.u64()?,
                data: r.u64()?,
                checksum: r.u32()?,
            };
            if section.offset != end {
                return None;
            }
            end = section.end()?;
            found.push(section);
        }
        let mut totals = Vec::new();
        for _ in 0..attempts {
            let owner = (MapIndex(r.u32()?), AttemptId(r.u64()?));
            let length = r.u32()? as usize;
            totals.push((owner, Totals::decode(r.take(length)?.to_vec())?));
        }
        (end == offset && totals.is_sorted_by_key(|(owner, _)| *owner)).then_some(Self {
            sections: found,
            totals,
            bytes,
        })
    }

    /// The object's share of an attempt.
    pub fn totals(&self, owner: Owner) -> Option<&Totals> {
        let at = self
            .totals
            .binary_search_by_key(&owner, |(owner, _)| *owner);
        at.ok().map(|at| &self.totals[at].1)
    }

    /// The object's shares of all attempts, ascending.
    pub fn all_totals(&self) -> &[(Owner, Totals)] {
        &self.totals
    }

    /// Rough size in memory.
    pub fn bytes(&self) -> usize {
        2 * self.bytes
    }
}

// === impl Section ===

impl Section {
    /// Offset of the section's end in the object.
    pub fn end(&self) -> Option<u64> {
        let rows = u64::from(self.blocks) * ROW as u64;
        self.offset.checked_add(rows)?.checked_add(self.data)
    }

    /// Decodes a section; an error if any block is bad.
    pub fn blocks(&self, bytes: &Bytes) -> Result<Vec<(BlockHeader, Bytes)>, String> {
        let each = self.each_block(bytes)?.into_iter();
        each.map(|(header, block)| Ok((header, block?))).collect()
    }

    /// Decodes a section block by block: a bad block costs itself only.
    pub(crate) fn each_block(&self, bytes: &Bytes) -> Result<Vec<Checked>, String> {
        let rows = self.blocks as usize * ROW;
        let table = bytes.get(..rows).ok_or("the section ends in its rows")?;
        let checksum = crc32fast::hash(table);
        if checksum != self.checksum {
            return Err(format!(
                "checksum of rows is {checksum:08x}, the directory says {:08x}",
                self.checksum
            ));
        }
        let mut at = rows;
        let mut blocks = Vec::with_capacity(self.blocks as usize);
        for bytes_of_row in table.chunks(ROW) {
            let header = row(bytes_of_row)
                .filter(|header| header.partition.0 == self.partition)
                .ok_or("a row is no block of the section's partition")?;
            let end = at + header.length as usize;
            if end > bytes.len() {
                return Err("the section ends in its blocks".into());
            }
            let block = bytes.slice(at..end);
            // invariant: verified-before-released
            let block = match header.verify([&block[..]]) {
                true => Ok(block),
                false => Err(format!(
                    "block {} of map {} attempt {} partition {} fails its checksum",
                    header.seq, header.map_index, header.attempt, header.partition
                )),
            };
            at = end;
            blocks.push((header, block));
        }
        Ok(blocks)
    }
}
