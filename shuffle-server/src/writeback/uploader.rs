//! Objects of one round: blocks of sealed attempts, fetched from the volume, sorted, checked, and
//! written.
//!
//! The shuffle is walked in *cells*: ranges of partitions (and, in a large partition, of map
//! indexes) that fit into memory together. Each cell is fetched as by a reader, sorted, and
//! appended to the current object. The commits' totals are compared with the written blocks; an
//! attempt that cannot be read whole is reported to the caller, who leaves it out.
//!
//! Every object is read back and compared before a manifest may name it: [`Uploaded`] holds only
//! such objects.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use shuffle_proto::block::{self, BlockHeader};
use shuffle_remote::{
    Error as RemoteError, Owner, Place, Remote, Upload, keys,
    object::{Builder, Entry},
};

use super::{
    Throttle,
    cells::{Cell, cells},
};
use crate::staging::{self, FetchPart, Sealed};

/// Bytes after which an object is ended, at the next border of a cell.
const OBJECT: u64 = 128 << 20;
/// Bytes read back per request, and requests at the same time.
const READ_BACK: u64 = 4 << 20;
const READS: usize = 4;

/// Sealed attempts with all their objects in the store: the input of a manifest.
pub(super) struct Uploaded {
    pub(super) sealed: Sealed,
    pub(super) objects: Vec<Entry>,
}

/// Why a round ends without a manifest.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}")]
    Store(#[from] RemoteError),
    #[error("{0}")]
    Staging(#[from] staging::Error),
    /// Some attempts cannot be read: a round without them may succeed.
    #[error("{} attempts cannot be written back, map {} attempt {}: {reason}", owners.len(), owners[0].0, owners[0].1)]
    Attempts { owners: Vec<Owner>, reason: String },
    #[error("the shuffle was deleted")]
    Deleted,
    /// Objects of an earlier app of this name are in the way.
    #[error("what was deleted under this name is still being removed")]
    Before,
    /// The round was a pure merge, and unwritten attempts wait.
    #[error("something new is to be written back first")]
    InTheWay,
}

/// Where the current object goes.
struct Target<'a> {
    remote: &'a Remote,
    throttle: &'a Throttle,
    place: &'a Place,
    generation: u32,
    /// Nonce of this round: a late PUT of another round hits a different key.
    nonce: u64,
    builder: Builder,
    upload: Option<Upload<'a>>,
    objects: Vec<Entry>,
}

/// Blocks, bytes and records of one attempt in the objects.
type Counted = BTreeMap<Owner, (u64, u64, u64)>;

/// Writes the objects of a generation.
pub(super) async fn upload(
    remote: &Remote,
    throttle: &Throttle,
    place: &Place,
    sealed: Sealed,
) -> Result<Uploaded, (Sealed, Error)> {
    let (generation, nonce) = (sealed.generation(), uuid::Uuid::new_v4().as_u64_pair().0);
    let mut target = Target {
        remote,
        throttle,
        place,
        generation,
        nonce,
        builder: Builder::new(place.clone(), generation, 0, nonce),
        upload: None,
        objects: Vec::new(),
    };
    let result = write_all(&mut target, &sealed).await;
    if let Some(upload) = target.upload.take() {
        upload.abort().await;
    }
    match result {
        Ok(()) => Ok(Uploaded {
            sealed,
            objects: target.objects,
        }),
        Err(error) => Err((sealed, error)),
    }
}

async fn write_all(target: &mut Target<'_>, sealed: &Sealed) -> Result<(), Error> {
    let mut counted = Counted::new();
    for cell in cells(sealed) {
        if !sealed.is_live() {
            return Err(Error::Deleted);
        }
        if sealed.is_in_the_way() {
            return Err(Error::InTheWay);
        }
        if target.builder.length() >= OBJECT {
            target.end().await?;
        }
        write_cell(target, sealed, &cell, &mut counted).await?;
    }
    target.end().await?;
    for (owner, totals) in sealed.totals() {
        let sum = totals.sum(&(0..u32::MAX));
        let expected = (sum.blocks, sum.bytes, sum.records);
        let written = counted.get(&owner).copied().unwrap_or_default();
        if written != expected {
            let reason = format!(
                "its commit says (blocks, bytes, records) {expected:?}, its volume gave {written:?}"
            );
            return Err(broken(owner, reason));
        }
    }
    Ok(())
}

fn broken(owner: Owner, reason: String) -> Error {
    let owners = vec![owner];
    Error::Attempts { owners, reason }
}

async fn write_cell(
    target: &mut Target<'_>,
    sealed: &Sealed,
    cell: &Cell,
    counted: &mut Counted,
) -> Result<(), Error> {
    let mut fetch = sealed.fetch(cell.partitions.clone(), cell.maps.clone())?;
    let mut blocks = Vec::new();
    while let Some(part) = fetch.next().await? {
        take(sealed, part, &mut blocks, counted)?;
        if cell.streams {
            // One map's part of one partition comes in the order of seq: too large for memory, and
            // sorted already.
            target.add(&blocks).await?;
            blocks.clear();
        }
    }
    let mut lost = fetch.summary().lost;
    lost.retain(|lost| sealed.contains((lost.map_index, lost.attempt)));
    if let Some(reason) = lost.first().map(|lost| lost.reason.clone()) {
        let owners = lost.iter().map(|lost| (lost.map_index, lost.attempt));
        let owners = owners.collect();
        return Err(Error::Attempts { owners, reason });
    }
    blocks.sort_by_key(|(header, _): &(BlockHeader, Bytes)| {
        (
            header.partition,
            header.map_index,
            header.attempt,
            header.seq,
        )
    });
    target.add(&blocks).await
}

/// Cuts a part into blocks and keeps the blocks of sealed attempts.
fn take(
    sealed: &Sealed,
    part: FetchPart,
    blocks: &mut Vec<(BlockHeader, Bytes)>,
    counted: &mut Counted,
) -> Result<(), Error> {
    for (header, bytes) in block::cut(part.blocks, part.data) {
        let owner = (header.map_index, header.attempt);
        if !sealed.contains(owner) {
            continue;
        }
        // A broken block must not become the copy that outlives the others.
        if !header.verify([&bytes[..]]) {
            let reason = format!(
                "block {} of partition {} fails its checksum",
                header.seq, header.partition
            );
            return Err(broken(owner, reason));
        }
        let count = counted.entry(owner).or_default();
        count.0 += 1;
        count.1 += u64::from(header.length);
        count.2 += u64::from(header.records);
        blocks.push((header, bytes));
    }
    Ok(())
}

impl Target<'_> {
    async fn add(&mut self, blocks: &[(BlockHeader, Bytes)]) -> Result<(), Error> {
        self.builder.add(blocks);
        let bytes = self.builder.take();
        self.send(&bytes).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.throttle.take(bytes.len() as u64).await;
        let (remote, number) = (self.remote, self.objects.len() as u32);
        let key = || keys::object(self.place, self.generation, number, self.nonce);
        let upload = self
            .upload
            .get_or_insert_with(|| remote.store.upload(key()));
        Ok(upload.write(bytes).await?)
    }

    /// Ends the current object, unless empty, and begins the next.
    async fn end(&mut self) -> Result<(), Error> {
        if self.builder.is_empty() {
            return Ok(());
        }
        let number = self.objects.len() as u32;
        let next = Builder::new(self.place.clone(), self.generation, number + 1, self.nonce);
        let (rest, entry) = std::mem::replace(&mut self.builder, next).finish();
        self.send(&rest).await?;
        if let Some(upload) = self.upload.take() {
            upload.finish().await?;
        }
        verify(self.remote, self.place, self.generation, &entry).await?;
        self.objects.push(entry);
        Ok(())
    }
}

/// Reads an object back and compares it with the bytes sent.
pub(super) async fn verify(
    remote: &Remote,
    place: &Place,
    generation: u32,
    entry: &Entry,
) -> Result<(), RemoteError> {
    let key = keys::object(place, generation, entry.number, entry.nonce);
    let corrupt = |reason: String| RemoteError::Corrupt {
        key: remote.store.path(&key).to_string(),
        reason,
    };
    let length = remote.store.size(&key).await?;
    if length != entry.length {
        return Err(corrupt(format!(
            "it has {length} bytes, {} were sent",
            entry.length
        )));
    }
    let ranges = (0..length.div_ceil(READ_BACK))
        .map(|number| number * READ_BACK..length.min((number + 1) * READ_BACK));
    let mut read = stream::iter(ranges)
        .map(|range| remote.store.get_range(&key, range))
        .buffered(READS);
    let mut checksum = crc32fast::Hasher::new();
    while let Some(bytes) = read.next().await {
        checksum.update(&bytes?);
    }
    let checksum = checksum.finalize();
    if checksum != entry.checksum {
        return Err(corrupt(format!(
            "its checksum is {checksum:08x}, of what was sent {:08x}",
            entry.checksum
        )));
    }
    Ok(())
}
