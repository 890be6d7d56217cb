//! A read of partitions and maps from objects: blocks and a summary, as from a volume.
//!
//! Objects are sorted by partition, so wanted sections lie together: neighbouring sections are read
//! with one ranged GET of up to [`READ`] bytes. The summary adds up the footers of all overlapping
//! objects, including objects before the cursor.
//!
//! Damage costs the attempts it hits, which the summary reports as lost: the attempt of a block
//! that fails its checksum, the attempts of a section whose table does, and all attempts of a
//! generation with an unreadable footer or an object missing or cut short (removed by a lifecycle
//! rule, or by a person).

mod broken;
mod cursor;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::future;
use shuffle_proto::{
    block::BlockHeader,
    summary::{AttemptTotals, LostAttempt, Summary},
};

use super::{
    Chain, Error, Owner, Remote, keys,
    object::{Entry, Footer, Section},
    overlap,
};
use broken::{broken, owners_of};
pub use cursor::Cursor;

/// Bytes of one ranged read, unless a single section is longer.
const READ: u64 = 4 << 20;
/// Gap between two wanted sections that is read along: a second request costs more.
const GAP: u64 = 256 << 10;
/// Bytes and blocks of a part: about one message.
const PART: usize = 1 << 20;
const PART_BLOCKS: usize = 16 << 10;
/// Footers requested together.
const FOOTERS_AT_ONCE: usize = 8;

/// The attempts to read; `None` for all.
pub type Only = Option<Arc<BTreeSet<Owner>>>;

/// Some blocks.
#[derive(Debug)]
pub struct Part {
    /// In the order of the bytes.
    pub blocks: Vec<BlockHeader>,
    /// The bytes of each.
    pub data: Vec<Bytes>,
    /// Position after these blocks.
    pub cursor: Cursor,
}

/// See the module.
pub struct Fetch {
    remote: Arc<Remote>,
    chain: Arc<Chain>,
    partitions: Range<u32>,
    maps: Range<u32>,
    only: Only,
    position: Cursor,
    /// Objects that overlap the partitions, in order; each with its footer once read.
    objects: Vec<(u32, Entry, Option<Arc<Footer>>)>,
    /// The object being read.
    current: usize,
    /// Sections of the object before this one are done.
    section: u32,
    /// The next request, once planned.
    planned: Option<Planned>,
    /// Blocks read and not yet taken.
    ready: VecDeque<(Cursor, BlockHeader, Bytes)>,
    /// Attempts of which something is broken.
    lost: BTreeMap<Owner, String>,
}

/// Sections of the current object for one request.
struct Planned {
    key: String,
    sections: Vec<(u32, Section)>,
    range: Range<u64>,
}

// === impl Fetch ===

impl Fetch {
    pub(crate) fn new(
        remote: Arc<Remote>,
        chain: Arc<Chain>,
        partitions: Range<u32>,
        maps: Range<u32>,
        only: Only,
        cursor: Option<Cursor>,
    ) -> Result<Self, Error> {
        let known = chain.num_partitions;
        if partitions.end > known {
            return Err(Error::Invalid(format!(
                "fetch.partition_end is {}: the shuffle has {known} partitions",
                partitions.end
            )));
        }
        let now = Cursor {
            length: chain.generation,
            ..Cursor::default()
        };
        let position = cursor.unwrap_or(now);
        // Generations without a wanted attempt are skipped.
        let wanted = chain.parts.iter().filter(|part| {
            let mut named = only.iter().flat_map(|only| only.iter());
            only.is_none() || named.any(|owner| part.attempt(*owner).is_some())
        });
        let objects = wanted.flat_map(|part| {
            let generation = part.generation;
            let objects = part.objects.iter();
            objects.map(move |entry| (generation, *entry, None))
        });
        let objects = objects
            .filter(|(_, entry, _)| {
                let held = entry.first_partition..entry.last_partition.saturating_add(1);
                overlap(&held, &partitions)
            })
            .collect();
        Ok(Self {
            objects,
            remote,
            chain,
            partitions,
            maps,
            only,
            position,
            current: 0,
            section: 0,
            planned: None,
            ready: VecDeque::new(),
            lost: BTreeMap::new(),
        })
    }

    /// The next blocks, about one message; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Part>, Error> {
        while self.ready.is_empty() {
            if !self.read().await? {
                return Ok(None);
            }
        }
        Ok(Some(self.take(PART, PART_BLOCKS)))
    }

    /// Bytes of the next request. The whole buffer lives as long as any block of it, so a caller
    /// that accounts for memory asks before [`next_read`](Self::next_read). `None` after the last.
    pub async fn ahead(&mut self) -> Result<Option<u64>, Error> {
        while self.planned.is_none() {
            if self.current == self.objects.len() {
                return Ok(None);
            }
            self.planned = self.plan_request().await?;
            if self.planned.is_none() {
                self.current += 1;
                self.section = 0;
            }
        }
        let range = self.planned.as_ref().map(|planned| &planned.range);
        Ok(range.map(|range| range.end - range.start))
    }

    /// All blocks of the next request, which may be none; `None` after the last.
    pub async fn next_read(&mut self) -> Result<Option<Part>, Error> {
        if self.ready.is_empty() && !self.read().await? {
            return Ok(None);
        }
        Ok(Some(self.take(usize::MAX, usize::MAX)))
    }

    /// Present position.
    #[cfg(test)]
    pub(crate) fn position(&self) -> Cursor {
        self.position
    }

    fn take(&mut self, most: usize, most_blocks: usize) -> Part {
        let (mut blocks, mut data, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((_, header, _)) = self.ready.front() {
            let length = header.length as usize;
            if !blocks.is_empty() && (bytes + length > most || blocks.len() == most_blocks) {
                break;
            }
            bytes += length;
            if let Some((cursor, header, block)) = self.ready.pop_front() {
                self.position = cursor;
                blocks.push(header);
                data.push(block);
            }
        }
        Part {
            blocks,
            data,
            cursor: self.position,
        }
    }

    /// Plans the next request of the current object; `None` at its end.
    async fn plan_request(&mut self) -> Result<Option<Planned>, Error> {
        let (generation, entry, _) = self.objects[self.current];
        let at = (generation, entry.number);
        if at < (self.position.generation, self.position.number) {
            return Ok(None);
        }
        if at > (self.position.generation, self.position.number) {
            self.position = Cursor {
                length: self.position.length,
                generation,
                number: entry.number,
                section: 0,
                block: 0,
            };
        }
        let Some(footer) = self.footer(self.current).await? else {
            return Ok(None);
        };
        let sections = self.plan(&footer);
        let (Some((_, first)), Some((_, last))) = (sections.first(), sections.last()) else {
            return Ok(None);
        };
        let key = keys::object(&self.chain.place, generation, entry.number, entry.nonce);
        let end = last.end().ok_or_else(|| Error::Corrupt {
            key: self.remote.store.path(&key).to_string(),
            reason: format!("section at {}: it ends nowhere", last.offset),
        })?;
        let range = first.offset..end;
        Ok(Some(Planned {
            key,
            sections,
            range,
        }))
    }

    /// Makes one request; false at the end.
    async fn read(&mut self) -> Result<bool, Error> {
        if self.ahead().await?.is_none() {
            return Ok(false);
        }
        let footer = self.objects[self.current].2.clone();
        let (Some(planned), Some(footer)) = (&self.planned, &footer) else {
            return Ok(false);
        };
        let Planned {
            key,
            sections,
            range,
        } = planned;
        let store = &self.remote.store;
        let generation = self.position.generation;
        let mut bytes = match store.get_range(key, range.clone()).await {
            Ok(bytes) => bytes,
            Err(error @ (Error::NotFound { .. } | Error::Corrupt { .. })) => {
                self.lose(generation, &error);
                self.section = u32::MAX;
                self.planned = None;
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        let mut again = true;
        let mut ready = VecDeque::new();
        for (index, section) in sections {
            let start = (section.offset - range.start) as usize;
            // A planned section has an end.
            let end = (section.end().unwrap_or(range.end) - range.start) as usize;
            // A checksum costs a thirtieth of the request, and here the object can be named.
            let mut blocks = section.each_block(&bytes.slice(start..end));
            if let Some(reason) = broken(&blocks)
                && std::mem::take(&mut again)
            {
                // The object was compared when it was written: the damage may be on the way only.
                tracing::warn!(%key, %reason, "a part of an object is read again");
                bytes = store.get_range(key, range.clone()).await?;
                blocks = section.each_block(&bytes.slice(start..end));
            }
            if let Some(reason) = broken(&blocks) {
                let key = store.path(key);
                tracing::warn!(%key, %reason, "a part of an object is broken: the attempts that it is of are lost");
                let reason = format!("object {key}: section at {}: {reason}", section.offset);
                for owner in owners_of(&blocks, section, footer) {
                    self.lost.insert(owner, reason.clone());
                }
            }
            let blocks = blocks.unwrap_or_default();
            let skip = if *index == self.position.section {
                self.position.block as usize
            } else {
                0
            };
            for (ordinal, (header, block)) in blocks.into_iter().enumerate().skip(skip) {
                let Ok(block) = block else {
                    continue;
                };
                let owner = (header.map_index, header.attempt);
                if self.maps.contains(&header.map_index.0)
                    && self.only.as_ref().is_none_or(|only| only.contains(&owner))
                    && self.chain.counts(owner, generation)
                    // invariant: in-order-or-not-at-all
                    && !self.lost.contains_key(&owner)
                {
                    let after = Cursor {
                        section: *index,
                        block: ordinal as u32 + 1,
                        ..self.position
                    };
                    ready.push_back((after, header, block));
                }
            }
        }
        self.section = sections.last().map_or(0, |(index, _)| index + 1);
        self.planned = None;
        self.ready = ready;
        Ok(true)
    }

    /// The next sections for one request.
    fn plan(&self, footer: &Footer) -> Vec<(u32, Section)> {
        // The last block taken may have been the last of its section.
        let from = self.position.section.max(self.section) as usize;
        let done = |index: usize, section: &Section| {
            index == self.position.section as usize && self.position.block >= section.blocks
        };
        let sections = footer.sections.iter().enumerate().skip(from);
        let wanted = sections.filter(|(index, section)| {
            self.partitions.contains(&section.partition)
                && overlap(
                    &(section.first_map..section.last_map.saturating_add(1)),
                    &self.maps,
                )
                && !done(*index, section)
        });
        let mut planned: Vec<(u32, Section)> = Vec::new();
        for (index, section) in wanted {
            if let (Some((_, first)), Some((_, last))) = (planned.first(), planned.last()) {
                let (Some(end), Some(begin)) = (section.end(), last.end()) else {
                    break;
                };
                if section.offset - begin > GAP || end - first.offset > READ {
                    break;
                }
            }
            planned.push((index as u32, *section));
        }
        planned
    }

    /// An object's footer; `None` if unreadable, and then the generation's attempts are lost.
    async fn footer(&mut self, at: usize) -> Result<Option<Arc<Footer>>, Error> {
        let (generation, entry, known) = &self.objects[at];
        if let Some(footer) = known {
            return Ok(Some(footer.clone()));
        }
        let (generation, entry) = (*generation, *entry);
        // The summary needs the next footers too, and a store answers many requests as fast as one.
        let unread = self.objects[at..]
            .iter()
            .enumerate()
            .filter(|(_, (_, _, known))| known.is_none());
        let ahead: Vec<_> = unread
            .take(FOOTERS_AT_ONCE)
            .map(|(index, (generation, entry, _))| (at + index, *generation, *entry))
            .collect();
        let (remote, place) = (&self.remote, &self.chain.place);
        let reading = ahead.into_iter().skip(1);
        let reading = reading.map(|(index, generation, entry)| async move {
            (index, remote.footer(place, generation, &entry).await)
        });
        let (footer, others) = tokio::join!(
            remote.footer(place, generation, &entry),
            future::join_all(reading),
        );
        for (index, other) in others {
            // A footer that failed here is requested again in its turn, and is an error then.
            self.objects[index].2 = other.ok();
        }
        match footer {
            Ok(footer) => {
                self.objects[at].2 = Some(footer.clone());
                Ok(Some(footer))
            }
            Err(error @ (Error::NotFound { .. } | Error::Corrupt { .. })) => {
                self.lose(generation, &error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Notes a missing or damaged object: the attempts of its generation are lost.
    fn lose(&mut self, generation: u32, error: &Error) {
        if let Error::NotFound { .. } = error {
            // The shuffle may have been deleted since, and written anew.
            let place = &self.chain.place;
            self.remote.forget(&place.app, Some(place.shuffle));
        }
        tracing::warn!(%error, "an object is gone or broken: the attempts of its generation are lost");
        let part = self.chain.part(generation).into_iter();
        for attempt in part.flat_map(|part| &part.attempts) {
            if self.chain.counts(attempt.owner, generation) {
                self.lost.insert(attempt.owner, error.to_string());
            }
        }
    }

    /// Totals of the wanted attempts in the partitions, as their commits said.
    pub async fn summary(&mut self) -> Result<Summary, Error> {
        let chain = self.chain.clone();
        let mut covered: BTreeMap<Owner, AttemptTotals> = BTreeMap::new();
        for part in &chain.parts {
            for attempt in &part.attempts {
                let (map_index, number) = attempt.owner;
                let asked = self
                    .only
                    .as_ref()
                    .is_none_or(|only| only.contains(&attempt.owner));
                if asked && self.maps.contains(&map_index.0) {
                    let totals = AttemptTotals {
                        map_index,
                        attempt: number,
                        blocks: 0,
                        bytes: 0,
                        records: 0,
                    };
                    covered.insert(attempt.owner, totals);
                }
            }
        }
        for at in 0..self.objects.len() {
            let Some(footer) = self.footer(at).await? else {
                continue;
            };
            let generation = self.objects[at].0;
            for (owner, totals) in footer.all_totals() {
                if let Some(sum) = covered.get_mut(owner)
                    && chain.counts(*owner, generation)
                {
                    let part = totals.sum(&self.partitions);
                    let blocks = u32::try_from(part.blocks).unwrap_or(u32::MAX);
                    sum.blocks = sum.blocks.saturating_add(blocks);
                    sum.bytes = sum.bytes.saturating_add(part.bytes);
                    sum.records = sum.records.saturating_add(part.records);
                }
            }
        }
        let (mut whole, mut lost) = (Vec::new(), Vec::new());
        for (owner, totals) in covered {
            match self.lost.get(&owner) {
                None => whole.push(totals),
                Some(reason) => lost.push(LostAttempt {
                    map_index: owner.0,
                    attempt: owner.1,
                    reason: reason.clone(),
                }),
            }
        }
        Ok(Summary {
            covered: whole,
            lost,
        })
    }
}
