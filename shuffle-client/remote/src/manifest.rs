//! Bytes of a manifest: what one round of write-back added to a place. All numbers are little-endian.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | magic `FBMF` |
//! | 4..8 | format version u32, 3 |
//! | 8..12 | CRC-32 of all that follows |
//! | 12..16 | shuffle u32 |
//! | 16..20 | generation u32 |
//! | 20..36 | volume id, 16 bytes |
//! | 36..44 | map tasks u32, reduce partitions u32 |
//! | 44..56 | objects u32, attempts u32, replaced generations u32 |
//! | 56.. | per object: number u32, nonce of its key u64, length u64, CRC-32 u32, offset of the footer u64, first and last partition u32 |
//! | then | per attempt, ascending: map index u32, attempt u64, bytes u64, records u64 |
//! | then | per replaced generation, ascending: its number u32 |
//! | the rest | the app's id |
//!
//! A manifest is made once, by a conditional put, and never changed. The next round makes the next generation; all of them together,
//! from 1 on and without gaps, are what a volume has written of a shuffle. One that *replaces* others has all of their attempts, in
//! fewer objects: a reader leaves out what is replaced, which stays where it is until the shuffle goes, so that who began to read it
//! goes on.

use shuffle_proto::{
    ids::{AppId, AttemptId, MapIndex, ShuffleId, VolumeId},
    stored::Reader,
};

use super::{Owner, Place, object::Entry};

const MAGIC: [u8; 4] = *b"FBMF";
const VERSION: u32 = 3;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Whose.
    pub place: Place,
    /// From 1.
    pub generation: u32,
    /// Map tasks of the shuffle.
    pub num_maps: u32,
    /// Reduce partitions of the shuffle.
    pub num_partitions: u32,
    /// Ascending by number, none without blocks.
    pub objects: Vec<Entry>,
    /// Committed attempts that are in the objects, whole: ascending, with what their commits say.
    pub attempts: Vec<Attempt>,
    /// Earlier generations whose attempts are all in this one too: ascending.
    pub replaces: Vec<u32>,
}

/// A committed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt {
    /// Map index and attempt.
    pub owner: Owner,
    /// Stored bytes of all partitions.
    pub bytes: u64,
    /// Records of all partitions.
    pub records: u64,
}

impl Manifest {
    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.objects.len() * 40 + self.attempts.len() * 28);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend([0; 4]);
        out.extend(self.place.shuffle.0.to_le_bytes());
        out.extend(self.generation.to_le_bytes());
        out.extend(self.place.volume.0.as_bytes());
        for number in [
            self.num_maps,
            self.num_partitions,
            self.objects.len() as u32,
            self.attempts.len() as u32,
            self.replaces.len() as u32,
        ] {
            out.extend(number.to_le_bytes());
        }
        for object in &self.objects {
            out.extend(object.number.to_le_bytes());
            out.extend(object.nonce.to_le_bytes());
            out.extend(object.length.to_le_bytes());
            out.extend(object.checksum.to_le_bytes());
            out.extend(object.footer.to_le_bytes());
            out.extend(object.first_partition.to_le_bytes());
            out.extend(object.last_partition.to_le_bytes());
        }
        for attempt in &self.attempts {
            out.extend(attempt.owner.0.0.to_le_bytes());
            out.extend(attempt.owner.1.0.to_le_bytes());
            out.extend(attempt.bytes.to_le_bytes());
            out.extend(attempt.records.to_le_bytes());
        }
        for generation in &self.replaces {
            out.extend(generation.to_le_bytes());
        }
        out.extend(self.place.app.as_str().as_bytes());
        let checksum = crc32fast::hash(&out[12..]);
        out[8..12].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads the one that is said to be this; the error says what does not fit.
    pub fn decode(bytes: &[u8], place: &Place, generation: u32) -> Result<Self, String> {
        let manifest = Self::read(bytes)?;
        if (&manifest.place, manifest.generation) != (place, generation) {
            return Err(format!(
                "it is generation {} of {}",
                manifest.generation, manifest.place
            ));
        }
        Ok(manifest)
    }

    /// Reads whichever it is; the error says what does not fit.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader(bytes);
        let r = &mut reader;
        let short = || format!("manifest of {} bytes", bytes.len());
        let magic = r.take(4).ok_or_else(short)?;
        if magic != MAGIC {
            return Err(format!("magic is {magic:02x?}"));
        }
        let version = r.u32().ok_or_else(short)?;
        if version != VERSION {
            return Err(format!(
                "format version is {version}, this version of Forebay reads {VERSION}"
            ));
        }
        let stored = r.u32().ok_or_else(short)?;
        let computed = crc32fast::hash(r.0);
        if stored != computed {
            return Err(format!("checksum is {stored:08x}, computed {computed:08x}"));
        }
        Self::fields(r).ok_or_else(|| "manifest contradicts itself".into())
    }

    fn fields(r: &mut Reader<'_>) -> Option<Self> {
        let (shuffle, generation) = (ShuffleId(r.u32()?), r.u32()?);
        let volume = VolumeId(uuid::Uuid::from_slice(r.take(16)?).ok()?);
        let (num_maps, num_partitions) = (r.u32()?, r.u32()?);
        let (objects, attempts, replaced) = (r.u32()?, r.u32()?, r.u32()?);
        let (mut entries, mut committed, mut replaces) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..objects {
            entries.push(Entry {
                number: r.u32()?,
                nonce: r.u64()?,
                length: r.u64()?,
                checksum: r.u32()?,
                footer: r.u64()?,
                first_partition: r.u32()?,
                last_partition: r.u32()?,
            });
        }
        for _ in 0..attempts {
            committed.push(Attempt {
                owner: (MapIndex(r.u32()?), AttemptId(r.u64()?)),
                bytes: r.u64()?,
                records: r.u64()?,
            });
        }
        for _ in 0..replaced {
            replaces.push(r.u32()?);
        }
        let app = AppId::try_new(std::str::from_utf8(r.rest()).ok()?)?;
        let whole = entries.iter().all(|object| {
            object.footer <= object.length && object.first_partition <= object.last_partition
        }) && committed.is_sorted_by(|a, b| a.owner < b.owner)
            && replaces.is_sorted_by(|a, b| a < b)
            && replaces.last().is_none_or(|last| *last < generation);
        whole.then_some(Self {
            place: Place {
                app,
                shuffle,
                volume,
            },
            generation,
            num_maps,
            num_partitions,
            objects: entries,
            attempts: committed,
            replaces,
        })
    }
}
