//! What is known of the store's content: chains of manifests and footers of objects, read when they are first needed.
//!
//! Manifests and objects never change, so a footer is good for as long as its object is named; how long a chain is may change, so
//! the end of one is looked for again after [`FRESH`]. Both are bounded and forgotten oldest first.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use shuffle_proto::ids::{AppId, ShuffleId};

use super::{
    Cursor, Error, Fetch, Only, Owner, Place, Store, keys,
    manifest::{Attempt, Manifest},
    object::{Entry, Footer},
};

/// Where time is read from: durations only.
pub type Now = Arc<dyn Fn() -> Instant + Send + Sync>;

/// How long the end of a chain is believed.
const FRESH: Duration = Duration::from_secs(2);
/// Bytes of footers that a server keeps.
const FOOTERS: usize = 128 << 20;
/// Chains that are kept.
const CHAINS: usize = 4096;

/// The store, and what is known of its content. Shared by everything that uses it.
pub struct Remote {
    /// The store.
    pub store: Store,
    now: Now,
    chains: Mutex<HashMap<Place, Known>>,
    footers: Mutex<Footers>,
}

/// All manifests of a place.
#[derive(Debug)]
pub struct Chain {
    /// Whose.
    pub place: Place,
    /// Ascending by generation, from 1 and without gaps; at least one.
    pub manifests: Vec<Arc<Manifest>>,
}

struct Known {
    asked: Instant,
    chain: Arc<Chain>,
}

struct Footers {
    most: usize,
    found: HashMap<(String, u32), Arc<Footer>>,
    order: VecDeque<(String, u32)>,
    bytes: usize,
}

impl Remote {
    /// On this store.
    pub fn new(store: Store, now: Now) -> Self {
        Self::keeping(store, now, FOOTERS)
    }

    /// The same, with at most so many bytes of footers in memory beside those that are being used.
    pub fn keeping(store: Store, now: Now, footers: usize) -> Self {
        Self {
            store,
            now,
            chains: Mutex::default(),
            footers: Mutex::new(Footers {
                most: footers,
                found: HashMap::new(),
                order: VecDeque::new(),
                bytes: 0,
            }),
        }
    }

    /// What a volume has written of a shuffle; [`Error::NotFound`] if that is nothing.
    pub async fn chain(&self, place: &Place) -> Result<Arc<Chain>, Error> {
        self.chain_of(place, 0).await
    }

    /// The same, looked for anew if fewer manifests are known than there must be.
    async fn chain_of(&self, place: &Place, length: usize) -> Result<Arc<Chain>, Error> {
        let now = (self.now)();
        let mut manifests = match self.chains.lock().get(place) {
            Some(known) if now - known.asked < FRESH && known.chain.manifests.len() >= length => {
                return Ok(known.chain.clone());
            }
            Some(known) => known.chain.manifests.clone(),
            None => Vec::new(),
        };
        loop {
            let generation = manifests.len() as u32 + 1;
            match self.manifest(place, generation).await {
                Ok(manifest) => {
                    check_replaced(&manifest, &manifests).map_err(|reason| Error::Corrupt {
                        key: self
                            .store
                            .path(&keys::manifest(place, generation))
                            .to_string(),
                        reason,
                    })?;
                    manifests.push(Arc::new(manifest));
                }
                Err(Error::NotFound { .. }) if !manifests.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        let place = place.clone();
        let chain = Arc::new(Chain { place, manifests });
        let mut chains = self.chains.lock();
        if chains.len() >= CHAINS {
            let oldest = chains.iter().min_by_key(|(_, known)| known.asked);
            if let Some(place) = oldest.map(|(place, _)| place.clone()) {
                chains.remove(&place);
            }
        }
        let known = Known {
            asked: now,
            chain: chain.clone(),
        };
        chains.insert(chain.place.clone(), known);
        Ok(chain)
    }

    /// One manifest.
    pub async fn manifest(&self, place: &Place, generation: u32) -> Result<Manifest, Error> {
        let key = keys::manifest(place, generation);
        let mut manifest = Manifest::decode(&self.store.get(&key).await?, place, generation);
        if manifest.is_err() {
            manifest = Manifest::decode(&self.store.get(&key).await?, place, generation);
        }
        manifest.map_err(|reason| Error::Corrupt {
            key: self.store.path(&key).to_string(),
            reason,
        })
    }

    /// The index of an object.
    pub(crate) async fn footer(
        &self,
        place: &Place,
        generation: u32,
        entry: &Entry,
    ) -> Result<Arc<Footer>, Error> {
        let key = keys::object(place, generation, entry.number, entry.nonce);
        let id = (key, entry.checksum);
        if let Some(footer) = self.footers.lock().found.get(&id) {
            return Ok(footer.clone());
        }
        let range = entry.footer..entry.length;
        let mut bytes = self.store.get_range(&id.0, range.clone()).await?;
        let mut footer = Footer::decode(&bytes, place, generation, entry);
        if footer.is_err() {
            // As blocks are: it may have changed on the way only.
            bytes = self.store.get_range(&id.0, range).await?;
            footer = Footer::decode(&bytes, place, generation, entry);
        }
        let footer = Arc::new(footer.map_err(|reason| Error::Corrupt {
            key: self.store.path(&id.0).to_string(),
            reason,
        })?);
        self.footers.lock().keep(id, &footer);
        Ok(footer)
    }

    /// Begins to read what a place has: of all its attempts, or of those that are named.
    pub async fn fetch(
        self: &Arc<Self>,
        place: &Place,
        partitions: Range<u32>,
        maps: Range<u32>,
        only: Only,
        cursor: Option<Cursor>,
    ) -> Result<Fetch, Error> {
        let length = cursor.map_or(0, Cursor::manifests);
        let chain = self.chain_of(place, length).await?;
        // One that tells of manifests which are not there is none of this place: the read starts over.
        let cursor = cursor.filter(|_| chain.manifests.len() >= length);
        Fetch::new(self.clone(), chain, partitions, maps, only, cursor)
    }

    /// Forgets what was known of a shuffle, or of an app.
    pub fn forget(&self, app: &AppId, shuffle: Option<ShuffleId>) {
        self.chains.lock().retain(|place, _| {
            place.app != *app || shuffle.is_some_and(|shuffle| shuffle != place.shuffle)
        });
    }
}

impl Chain {
    /// Of its first manifests, so many, those that none of them replaces.
    pub fn live(&self, length: usize) -> impl Iterator<Item = &Arc<Manifest>> {
        let manifests = self.manifests.iter().take(length);
        let replaced: HashSet<u32> = manifests
            .clone()
            .flat_map(|manifest| manifest.replaces.iter().copied())
            .collect();
        manifests.filter(move |manifest| !replaced.contains(&manifest.generation))
    }

    /// Those of these outputs that it does not have.
    pub fn missing(&self, owners: impl IntoIterator<Item = Owner>) -> Vec<Owner> {
        let has = |owner: &Owner| {
            let mut manifests = self.manifests.iter();
            manifests.any(|manifest| {
                let attempts = &manifest.attempts;
                let found = attempts.binary_search_by_key(owner, |attempt| attempt.owner);
                found.is_ok()
            })
        };
        owners.into_iter().filter(|owner| !has(owner)).collect()
    }
}

/// Whether a manifest has all that it replaces; the error says what it lacks.
fn check_replaced(manifest: &Manifest, before: &[Arc<Manifest>]) -> Result<(), String> {
    let replaced = before
        .iter()
        .filter(|earlier| manifest.replaces.contains(&earlier.generation));
    for earlier in replaced {
        let lacking = earlier
            .attempts
            .iter()
            .find(|attempt| manifest.attempts.binary_search(attempt).is_err());
        if let Some(Attempt { owner, .. }) = lacking {
            return Err(format!(
                "it replaces generation {} and lacks its map {} attempt {}",
                earlier.generation, owner.0, owner.1
            ));
        }
    }
    Ok(())
}

impl Footers {
    fn keep(&mut self, id: (String, u32), footer: &Arc<Footer>) {
        if self.found.insert(id.clone(), footer.clone()).is_some() {
            return;
        }
        self.bytes += footer.bytes();
        self.order.push_back(id);
        while self.bytes > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            let gone = self.found.remove(&oldest);
            self.bytes -= gone.map_or(0, |footer| footer.bytes());
        }
    }
}
