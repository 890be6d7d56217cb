//! What a volume has written of a shuffle, as its last manifest tells it: which generations count,
//! and what each of them has.
//!
//! A manifest says which generations count from it on, and *carries* what those have that are not
//! in its *base*: an earlier manifest that carries all that counted then, and has no base itself.
//! So whatever has been written, a reader needs the last manifest and one more, and a writer puts
//! no more into a manifest than [`CARRIED`] attempts of others, or an eighth of them all, but now
//! and then.
//!
//! What a generation has is in its own manifest too. If a base cannot be read, those are read; and
//! if they cannot be read either, what they have is missing and nothing else ([`Chain::broken`]):
//! its maps run again. A manifest that is replaced is not read at all.
//!
//! - invariant: whole-attempt-or-none. An attempt is read from one generation, also if two of them
//!   have it: a volume that had forgotten that it had written one may have written it again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use shuffle_proto::ids::VolumeId;

use super::{
    Owner, Place,
    manifest::{Manifest, Part},
};

/// Attempts of other generations that a manifest carries, unless all that count have eight times as
/// many.
pub(super) const CARRIED: usize = 256;
const SHARE: usize = 8;

/// See the module.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Whose.
    pub place: Place,
    /// Of its last manifest.
    pub generation: u32,
    /// Map tasks of the shuffle.
    pub num_maps: u32,
    /// Reduce partitions of the shuffle.
    pub num_partitions: u32,
    /// What counts: ascending by generation.
    pub parts: Vec<Arc<Part>>,
    /// Generations whose manifests cannot be read, with the reason: what only they have is not
    /// here.
    pub broken: BTreeMap<u32, String>,
    /// Where attempts are read from that more than one part has.
    doubled: HashMap<Owner, u32>,
    /// The manifest that the next one may have as its base; 0 if there is none.
    pub(super) base: u32,
    /// Generations that it carries.
    pub(super) based: BTreeSet<u32>,
}

impl Chain {
    /// What counts after a manifest, of what was found of it; `based`: the generations that its
    /// base carries, if that is known.
    pub(super) fn new(
        last: &Manifest,
        parts: Vec<Arc<Part>>,
        broken: BTreeMap<u32, String>,
        based: Option<BTreeSet<u32>>,
    ) -> Self {
        let (mut seen, mut doubled) = (HashMap::new(), HashMap::new());
        for part in &parts {
            for attempt in &part.attempts {
                // Ascending, so that the last one is the latest.
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

    /// The manifest of the next generation, and what counts from it on. `None` before the first;
    /// the error says what it lacks.
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
        // Without a base that is worth it, it carries all that counts, and is one.
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

    /// What a generation has, if it counts.
    pub fn part(&self, generation: u32) -> Option<&Arc<Part>> {
        let at = self
            .parts
            .binary_search_by_key(&generation, |part| part.generation);
        at.ok().map(|at| &self.parts[at])
    }

    /// Those of these outputs that it does not have.
    pub fn missing(&self, owners: impl IntoIterator<Item = Owner>) -> Vec<Owner> {
        let has = |owner: &Owner| self.parts.iter().any(|part| part.attempt(*owner).is_some());
        owners.into_iter().filter(|owner| !has(owner)).collect()
    }

    /// Whether an attempt is read from this generation, which has it.
    pub(super) fn counts(&self, owner: Owner, generation: u32) -> bool {
        self.doubled.is_empty()
            || self
                .doubled
                .get(&owner)
                .is_none_or(|from| *from == generation)
    }

    /// Whose.
    pub fn volume(&self) -> VolumeId {
        self.place.volume
    }

    /// Roughly what it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        let parts = self.parts.iter().map(|part| part.bytes());
        256 + parts.sum::<usize>()
    }
}

/// What a round adds.
#[derive(Debug)]
pub struct Next {
    /// Whose.
    pub place: Place,
    /// Higher than that of any manifest before it.
    pub generation: u32,
    /// Map tasks and reduce partitions of the shuffle.
    pub tasks: (u32, u32),
    /// Its objects and attempts.
    pub part: Part,
    /// Generations whose place it takes: ascending.
    pub replaces: Vec<u32>,
}

impl Part {
    /// What is said of an attempt.
    pub fn attempt(&self, owner: Owner) -> Option<&super::manifest::Attempt> {
        let at = self
            .attempts
            .binary_search_by_key(&owner, |attempt| attempt.owner);
        at.ok().map(|at| &self.attempts[at])
    }

    /// Whether it can take the place of another; the error says what it lacks.
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
