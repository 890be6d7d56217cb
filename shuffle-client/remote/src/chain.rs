//! A volume's generations of a shuffle, as its last manifest tells: which of them count, and their
//! content.
//!
//! A manifest lists the generations that count from then on, and *carries* the content of those
//! missing from its *base*: an earlier manifest that carries everything that counted then, and has
//! no base of its own. So a reader needs the last manifest and at most one more, however long the
//! chain. A writer usually puts at most [`CARRIED`] carried attempts into a manifest, or an eighth
//! of all.
//!
//! A generation's content is in its own manifest too. After the loss of a base those manifests are
//! read; content without a readable manifest is missing, and nothing else ([`Chain::broken`]): its
//! maps run again. A replaced manifest is not read at all.
//!
//! - invariant: whole-attempt-or-none. An attempt is read from one generation, even if two have it:
//!   a volume that forgot a generation may have written its attempts again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use shuffle_proto::ids::VolumeId;

use super::{
    Owner, Place,
    manifest::{Manifest, Part},
};

/// Attempts carried by a manifest, unless eight times as many count.
pub(super) const CARRIED: usize = 256;
const SHARE: usize = 8;

/// See the module.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The shuffle and volume.
    pub place: Place,
    /// Generation of the last manifest.
    pub generation: u32,
    /// Map tasks of the shuffle.
    pub num_maps: u32,
    /// Reduce partitions of the shuffle.
    pub num_partitions: u32,
    /// Generations that count, ascending.
    pub parts: Vec<Arc<Part>>,
    /// Generations with unreadable manifests, with the reason: their content is missing here.
    pub broken: BTreeMap<u32, String>,
    /// Generation to read from, for attempts in more than one.
    doubled: HashMap<Owner, u32>,
    /// Manifest usable as the next one's base; 0 if there is none.
    pub(super) base: u32,
    /// Generations carried by the base.
    pub(super) based: BTreeSet<u32>,
}

impl Chain {
    /// The chain at a manifest, from the generations found; `based`: generations carried by the
    /// base, if known.
    pub(super) fn new(
        last: &Manifest,
        parts: Vec<Arc<Part>>,
        broken: BTreeMap<u32, String>,
        based: Option<BTreeSet<u32>>,
    ) -> Self {
        let (mut seen, mut doubled) = (HashMap::new(), HashMap::new());
        for part in &parts {
            for attempt in &part.attempts {
                // Ascending, so the last one is the latest.
                if seen.insert(attempt.owner, part.generation).is_some() {
                    doubled.insert(attempt.owner, part.generation);
                }
            }
        }
        Self {
            place: last.place.clone(),
            generation: last.generation,
            num_maps: last.num_maps,
            num_partitions: last.num_partitions,
            parts,
            broken,
            doubled,
            base: match (&based, last.base) {
                (None, _) => 0,
                (Some(_), 0) => last.generation,
                (Some(_), base) => base,
            },
            based: based.unwrap_or_default(),
        }
    }

    /// The manifest of the next generation, and the chain with it. `None` as the chain before the
    /// first; the error names a missing generation.
    pub fn next(chain: Option<&Self>, next: Next) -> Result<(Manifest, Self), String> {
        let Next {
            place,
            generation,
            tasks: (num_maps, num_partitions),
            part,
            replaces,
        } = next;
        let known = chain.map_or(&[][..], |chain| &chain.parts);
        let (gone, kept): (Vec<_>, Vec<_>) = known
            .iter()
            .partition(|known| replaces.binary_search(&known.generation).is_ok());
        gone.iter().try_for_each(|gone| part.has_all_of(gone))?;
        let base = chain.map_or(0, |chain| chain.base);
        let is_based =
            |kept: &Part| chain.is_some_and(|chain| chain.based.contains(&kept.generation));
        let all = attempts(kept.iter().copied());
        let carried = attempts(kept.iter().copied().filter(|kept| !is_based(kept)));
        // Without a worthwhile base the manifest carries everything, and is a base.
        let whole = carried == all || carried > CARRIED.max(all / SHARE);
        let carried = kept.iter().filter(|kept| whole || !is_based(kept));
        let carried: Vec<Part> = carried.map(|kept| Part::clone(kept)).collect();
        let part = Arc::new(part);
        let mut parts: Vec<_> = kept.into_iter().cloned().collect();
        parts.push(part.clone());
        let manifest = Manifest {
            place: place.clone(),
            generation,
            num_maps,
            num_partitions,
            objects: part.objects.clone(),
            attempts: part.attempts.clone(),
            live: parts.iter().map(|part| part.generation).collect(),
            base: if whole { 0 } else { base },
            carried,
            replaces,
        };
        let based = match whole {
            true => parts.iter().map(|part| part.generation).collect(),
            false => chain.map(|chain| chain.based.clone()).unwrap_or_default(),
        };
        let mut doubled = chain.map(|chain| chain.doubled.clone()).unwrap_or_default();
        doubled.retain(|owner, from| {
            if part.attempt(*owner).is_some() {
                *from = generation;
            }
            parts.iter().any(|part| part.generation == *from)
        });
        let next = Self {
            place,
            generation,
            num_maps,
            num_partitions,
            parts,
            broken: BTreeMap::new(),
            doubled,
            base: if whole { generation } else { base },
            based,
        };
        Ok((manifest, next))
    }

    /// Content of a generation, if it counts.
    pub fn part(&self, generation: u32) -> Option<&Arc<Part>> {
        let at = self
            .parts
            .binary_search_by_key(&generation, |part| part.generation);
        at.ok().map(|at| &self.parts[at])
    }

    /// Those of the outputs that the chain lacks.
    pub fn missing(&self, owners: impl IntoIterator<Item = Owner>) -> Vec<Owner> {
        let has = |owner: &Owner| self.parts.iter().any(|part| part.attempt(*owner).is_some());
        owners.into_iter().filter(|owner| !has(owner)).collect()
    }

    /// Whether an attempt of a generation is read from there.
    pub(super) fn counts(&self, owner: Owner, generation: u32) -> bool {
        self.doubled.is_empty()
            || self
                .doubled
                .get(&owner)
                .is_none_or(|from| *from == generation)
    }

    /// The shuffle and volume.
    pub fn volume(&self) -> VolumeId {
        self.place.volume
    }

    /// Rough size in memory.
    pub(super) fn bytes(&self) -> usize {
        let parts = self.parts.iter().map(|part| part.bytes());
        256 + parts.sum::<usize>()
    }
}

/// The addition of one round.
#[derive(Debug)]
pub struct Next {
    /// The shuffle and volume.
    pub place: Place,
    /// Higher than any earlier generation.
    pub generation: u32,
    /// Map tasks and reduce partitions of the shuffle.
    pub tasks: (u32, u32),
    /// Objects and attempts of the generation.
    pub part: Part,
    /// Replaced generations, ascending.
    pub replaces: Vec<u32>,
}

impl Part {
    /// The entry of an attempt.
    pub fn attempt(&self, owner: Owner) -> Option<&super::manifest::Attempt> {
        let at = self
            .attempts
            .binary_search_by_key(&owner, |attempt| attempt.owner);
        at.ok().map(|at| &self.attempts[at])
    }

    /// Whether the generation can replace another; the error names a missing attempt.
    fn has_all_of(&self, other: &Part) -> Result<(), String> {
        let mut lacking = other
            .attempts
            .iter()
            .filter(|attempt| self.attempts.binary_search(attempt).is_err());
        match lacking.next() {
            None => Ok(()),
            Some(attempt) => Err(format!(
                "it replaces generation {} and lacks its map {} attempt {}",
                other.generation, attempt.owner.0, attempt.owner.1
            )),
        }
    }

    fn bytes(&self) -> usize {
        size_of::<Part>() + size_of_val(&self.objects[..]) + size_of_val(&self.attempts[..])
    }
}

fn attempts<'a>(parts: impl Iterator<Item = &'a Arc<Part>>) -> usize {
    parts.map(|part| part.attempts.len()).sum()
}
