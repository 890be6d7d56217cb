//! Bytes of a manifest: one round's addition to a place. All numbers are little-endian.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | magic `FBMF` |
//! | 4..8 | format version u32, 4 |
//! | 8..12 | CRC-32 of all that follows |
//! | 12..16 | shuffle u32 |
//! | 16..20 | generation u32 |
//! | 20..36 | volume id, 16 bytes |
//! | 36..44 | map tasks u32, reduce partitions u32 |
//! | 44..56 | objects u32, attempts u32, replaced generations u32 |
//! | 56..68 | generations that count u32, the base's generation u32 or 0, generations that are carried u32 |
//! | 68.. | per object: number u32, nonce of its key u64, length u64, CRC-32 u32, offset of the footer u64, first and last partition u32 |
//! | then | per attempt, ascending: map index u32, attempt u64, bytes u64, records u64 |
//! | then | per replaced generation, ascending: its number u32 |
//! | then | per generation that counts from this one on, ascending: its number u32; the last is this one |
//! | then | per generation that is carried, ascending: its number u32, objects u32, attempts u32, then these as above |
//! | the rest | the app's id |
//!
//! A manifest is made once, by a conditional put, and never changed. The next round makes the next
//! generation. A generation that *replaces* others has all of their attempts in fewer objects, and
//! the replaced ones stop counting. Replaced objects stay until the shuffle is removed, for reads
//! in progress. The last manifest and its base tell the generations that count, see
//! [`super::chain`].

use shuffle_proto::{
    ids::{AppId, AttemptId, MapIndex, ShuffleId, VolumeId},
    stored::Reader,
};

use super::{Owner, Place, object::Entry};

const MAGIC: [u8; 4] = *b"FBMF";
const VERSION: u32 = 4;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The shuffle and volume.
    pub place: Place,
    /// From 1.
    pub generation: u32,
    /// Map tasks of the shuffle.
    pub num_maps: u32,
    /// Reduce partitions of the shuffle.
    pub num_partitions: u32,
    /// Ascending by number, none without blocks.
    pub objects: Vec<Entry>,
    /// Committed attempts, whole in the objects: ascending, with their commits' totals.
    pub attempts: Vec<Attempt>,
    /// Replaced generations, ascending.
    pub replaces: Vec<u32>,
    /// Generations that count from here on: ascending, this one last.
    pub live: Vec<u32>,
    /// The base: the earlier manifest with the rest of the content; 0 if there is none.
    pub base: u32,
    /// Carried generations, ascending.
    pub carried: Vec<Part>,
}

/// Content of one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The generation's number.
    pub generation: u32,
    /// Ascending by number, none without blocks.
    pub objects: Vec<Entry>,
    /// Committed attempts, whole in the objects: ascending.
    pub attempts: Vec<Attempt>,
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
    /// Content of the manifest's own generation.
    pub fn own(&self) -> Part {
        Part {
            generation: self.generation,
            objects: self.objects.clone(),
            attempts: self.attempts.clone(),
        }
    }

    /// The manifest's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let carried = self.carried.iter();
        let carried = carried.map(|part| 12 + bytes_of(&part.objects, &part.attempts));
        let mut out = Vec::with_capacity(
            68 + bytes_of(&self.objects, &self.attempts)
                + 4 * (self.replaces.len() + self.live.len())
                + carried.sum::<usize>()
                + self.place.app.as_str().len(),
        );
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
            self.live.len() as u32,
            self.base,
            self.carried.len() as u32,
        ] {
            out.extend(number.to_le_bytes());
        }
        put(&mut out, &self.objects, &self.attempts);
        for generation in self.replaces.iter().chain(&self.live) {
            out.extend(generation.to_le_bytes());
        }
        for part in &self.carried {
            out.extend(part.generation.to_le_bytes());
            out.extend((part.objects.len() as u32).to_le_bytes());
            out.extend((part.attempts.len() as u32).to_le_bytes());
            put(&mut out, &part.objects, &part.attempts);
        }
        out.extend(self.place.app.as_str().as_bytes());
        let checksum = crc32fast::hash(&out[12..]);
        out[8..12].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Decodes the manifest of this place and generation; the error names the mismatch.
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

    /// Decodes any manifest; the error names the mismatch.
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
        let (counting, base, carrying) = (r.u32()?, r.u32()?, r.u32()?);
        let (objects, attempts) = take(r, objects, attempts)?;
        let replaces = numbers(r, replaced)?;
        let live = numbers(r, counting)?;
        let mut carried: Vec<Part> = Vec::new();
        for _ in 0..carrying {
            let (generation, objects, attempts) = (r.u32()?, r.u32()?, r.u32()?);
            let (objects, attempts) = take(r, objects, attempts)?;
            carried.push(Part {
                generation,
                objects,
                attempts,
            });
        }
        let app = AppId::try_new(std::str::from_utf8(r.rest()).ok()?)?;
        let counts = |number: &u32| live.binary_search(number).is_ok();
        let whole = live.last() == Some(&generation)
            && replaces.last().is_none_or(|last| *last < generation)
            && !replaces.iter().any(counts)
            && base < generation
            && carried.is_sorted_by(|a, b| a.generation < b.generation)
            && carried.iter().all(|part| counts(&part.generation))
            && carried
                .last()
                .is_none_or(|last| last.generation < generation);
        whole.then_some(Self {
            place: Place {
                app,
                shuffle,
                volume,
            },
            generation,
            num_maps,
            num_partitions,
            objects,
            attempts,
            replaces,
            live,
            base,
            carried,
        })
    }
}

fn bytes_of(objects: &[Entry], attempts: &[Attempt]) -> usize {
    objects.len() * 40 + attempts.len() * 28
}

fn put(out: &mut Vec<u8>, objects: &[Entry], attempts: &[Attempt]) {
    for object in objects {
        out.extend(object.number.to_le_bytes());
        out.extend(object.nonce.to_le_bytes());
        out.extend(object.length.to_le_bytes());
        out.extend(object.checksum.to_le_bytes());
        out.extend(object.footer.to_le_bytes());
        out.extend(object.first_partition.to_le_bytes());
        out.extend(object.last_partition.to_le_bytes());
    }
    for attempt in attempts {
        out.extend(attempt.owner.0.0.to_le_bytes());
        out.extend(attempt.owner.1.0.to_le_bytes());
        out.extend(attempt.bytes.to_le_bytes());
        out.extend(attempt.records.to_le_bytes());
    }
}

fn take(r: &mut Reader<'_>, objects: u32, attempts: u32) -> Option<(Vec<Entry>, Vec<Attempt>)> {
    let (mut entries, mut committed) = (Vec::new(), Vec::new());
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
    let whole = entries.iter().all(|object| {
        object.footer <= object.length && object.first_partition <= object.last_partition
    }) && committed.is_sorted_by(|a, b| a.owner < b.owner);
    whole.then_some((entries, committed))
}

/// Ascending.
fn numbers(r: &mut Reader<'_>, count: u32) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        numbers.push(r.u32()?);
    }
    numbers.is_sorted_by(|a, b| a < b).then_some(numbers)
}
