//! Cache of the store's content: chains of manifests and footers of objects, read on demand.
//!
//! Manifests and objects never change, so a footer stays valid while its object is named. The next
//! manifest is looked for after [`FRESH`], and at once if the chain lacks a wanted attempt. An
//! unknown place costs a listing (its first name is the last manifest's), that manifest and its
//! base; a known place costs a request for the next manifest. Each place has one look at a time,
//! shared by all who wait; results of an interrupted look are kept. Chains and footers are bounded
//! in bytes; the oldest are forgotten first.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use shuffle_proto::ids::{AppId, ShuffleId};

use super::{
    Chain, Cursor, Error, Fetch, Only, Place, Store, keys,
    manifest::{Manifest, Part},
    object::{Entry, Footer},
};

/// Where time is read from: durations only.
pub type Now = Arc<dyn Fn() -> Instant + Send + Sync>;

/// How long the end of a chain is believed.
const FRESH: Duration = Duration::from_secs(2);
/// Bytes of a server's cached footers.
const FOOTERS: usize = 128 << 20;
/// Bytes of cached chains.
const CHAINS: usize = 64 << 20;
/// Cached places, whatever their size.
const PLACES: usize = 16 << 10;
/// Manifests tried one by one after the last known one, before a listing.
const STEPS: u32 = 2;
/// Unreadable manifests skipped backwards.
const BACK: u32 = 16;
/// Requests of one look at the same time.
const AT_ONCE: usize = 16;

/// The store with its cache; shared by all users of the store.
pub struct Remote {
    /// The store.
    pub store: Store,
    now: Now,
    places: Mutex<HashMap<Place, Arc<Known>>>,
    footers: Mutex<Footers>,
}

/// Cached knowledge of a place.
struct Known {
    state: Mutex<State>,
    /// Held by the running look.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// The chain, and when the look behind it began.
    chain: Option<(Instant, Arc<Chain>)>,
    /// Number of looks begun.
    begun: u64,
    /// Number and result of the last finished look.
    ended: Option<(u64, Result<(), Error>)>,
    /// Whether this process made the last manifest, and no other process writes there.
    ours: bool,
    /// Lower bound on manifests, from a cursor of an earlier read.
    earlier: Option<Arc<Chain>>,
    /// Results of an interrupted look: the last generation, and manifests.
    last: Option<u32>,
    read: HashMap<u32, Arc<Manifest>>,
}

struct Footers {
    most: usize,
    found: HashMap<(String, u32), Arc<Footer>>,
    order: VecDeque<(String, u32)>,
    bytes: usize,
}

impl Remote {
    /// Cache of this store.
    pub fn new(store: Store, now: Now) -> Self {
        Self::keeping(store, now, FOOTERS)
    }

    /// Cache of this store, with a bound on the bytes of unused footers.
    pub fn keeping(store: Store, now: Now, footers: usize) -> Self {
        Self {
            store,
            now,
            places: Mutex::default(),
            footers: Mutex::new(Footers {
                most: footers,
                found: HashMap::new(),
                order: VecDeque::new(),
                bytes: 0,
            }),
        }
    }

    /// A volume's chain of a shuffle; [`Error::NotFound`] if there is none.
    pub async fn chain(&self, place: &Place) -> Result<Arc<Chain>, Error> {
        self.chain_with(place, |_| true).await
    }

    /// A chain with the wanted attempts, after another look if the cached one lacks some; the new
    /// one may lack some too.
    pub async fn chain_with(
        &self,
        place: &Place,
        enough: impl Fn(&Chain) -> bool,
    ) -> Result<Arc<Chain>, Error> {
        let now = (self.now)();
        let known = self.known(place);
        let asked = known.state.lock().begun;
        if let Some(answer) = known.state.lock().answer(now, asked, &enough) {
            return answer;
        }
        let _one = known.looking.lock().await;
        if let Some(answer) = known.state.lock().answer(now, asked, &enough) {
            return answer;
        }
        self.look(place, &known).await
    }

    /// The chain for its own writer; `None` if there is none. Sends no request after a write by
    /// this process.
    pub async fn written(&self, place: &Place) -> Result<Option<Arc<Chain>>, Error> {
        let known = self.known(place);
        let _one = known.looking.lock().await;
        {
            let state = known.state.lock();
            if let (true, Some((_, chain))) = (state.ours, &state.chain) {
                return Ok(Some(chain.clone()));
            }
        }
        match self.look(place, &known).await {
            Ok(chain) => Ok(Some(chain)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes the last manifest, made by this process, unless the place was forgotten since by a
    /// deletion.
    pub fn made(&self, chain: Chain) {
        let known = self.places.lock().get(&chain.place).cloned();
        let Some(known) = known else {
            return;
        };
        let mut state = known.state.lock();
        state.chain = Some(((self.now)(), Arc::new(chain)));
        state.ours = true;
    }

    /// Drops the certainty about a place's last manifest: a request may have succeeded without an
    /// answer.
    pub fn doubt(&self, place: &Place) {
        self.known(place).state.lock().ours = false;
    }

    fn known(&self, place: &Place) -> Arc<Known> {
        let mut places = self.places.lock();
        if let Some(known) = places.get(place) {
            return known.clone();
        }
        if places.len() >= PLACES {
            places.clear();
        }
        let known = Arc::new(Known {
            state: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
        });
        places.insert(place.clone(), known.clone());
        known
    }

    /// Looks for the last manifest and its chain, one look at a time.
    async fn look(&self, place: &Place, known: &Known) -> Result<Arc<Chain>, Error> {
        let number = {
            let mut state = known.state.lock();
            state.begun += 1;
            state.begun
        };
        let result = self.look_now(place, known).await;
        let told = result.as_ref().map(drop).map_err(Error::clone);
        known.state.lock().ended = Some((number, told));
        self.forget_oldest();
        result
    }

    async fn look_now(&self, place: &Place, known: &Known) -> Result<Arc<Chain>, Error> {
        let began = (self.now)();
        let (before, listed) = {
            let state = known.state.lock();
            let before = state.chain.as_ref().map(|(_, chain)| chain.clone());
            (before, state.last)
        };
        let mut last = before.as_ref().map(|chain| chain.generation);
        if last.is_some() {
            for _ in 0..STEPS {
                let next = last.unwrap_or(0).saturating_add(1);
                match self.read(place, next, known).await {
                    Ok(_) | Err(Error::Corrupt { .. }) => last = Some(next),
                    Err(Error::NotFound { .. }) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        let grown = last.unwrap_or(0) - before.as_ref().map_or(0, |chain| chain.generation);
        let found = match last {
            Some(last) if grown < STEPS => last,
            _ => {
                let listed = match listed.filter(|listed| *listed > last.unwrap_or(0)) {
                    Some(listed) => Some(listed),
                    None => self.last(place).await?,
                };
                // A directory read over a network may be older than its files.
                let found = listed.max(last).ok_or_else(|| self.nothing(place))?;
                known.state.lock().last = Some(found);
                found
            }
        };
        let chain =
            match before.filter(|chain| chain.generation == found && chain.broken.is_empty()) {
                Some(same) => same,
                None => self.assemble(place, found, known).await?,
            };
        let mut state = known.state.lock();
        state.last = None;
        state.read.clear();
        match &state.chain {
            // Made here meanwhile.
            Some((_, newer)) if state.ours && newer.generation >= found => Ok(newer.clone()),
            _ => {
                state.chain = Some((began, chain.clone()));
                state.ours = false;
                Ok(chain)
            }
        }
    }

    fn nothing(&self, place: &Place) -> Error {
        // The first manifest: without it there never was another.
        let key = self.store.path(&keys::manifest(place, 1)).to_string();
        Error::NotFound { key }
    }

    /// The last generation, by the names of manifests, which begin with the last.
    async fn last(&self, place: &Place) -> Result<Option<u32>, Error> {
        self.store
            .first(&keys::place(place), keys::generation)
            .await
    }

    /// The chain at a generation's manifest, or at the last readable one before.
    async fn assemble(
        &self,
        place: &Place,
        generation: u32,
        known: &Known,
    ) -> Result<Arc<Chain>, Error> {
        let mut broken = BTreeMap::new();
        let mut at = generation;
        let last = loop {
            match self.read(place, at, known).await {
                Ok(manifest) => break manifest,
                Err(Error::Corrupt { key, reason }) => {
                    tracing::warn!(%key, %reason, "a manifest is broken: what only it names is lost");
                    broken.insert(at, reason.clone());
                    at -= 1;
                    if at == 0 || generation - at > BACK {
                        return Err(Error::Corrupt { key, reason });
                    }
                }
                Err(Error::NotFound { .. }) if at < generation => {
                    at -= 1;
                    if at == 0 || generation - at > BACK {
                        return Err(self.nothing(place));
                    }
                }
                Err(error) => return Err(error),
            }
        };
        let mut parts: BTreeMap<u32, Arc<Part>> = BTreeMap::new();
        let take = |parts: &mut BTreeMap<u32, Arc<Part>>, manifest: &Manifest| {
            let mut has: BTreeSet<u32> = BTreeSet::from([manifest.generation]);
            parts.insert(manifest.generation, Arc::new(manifest.own()));
            for part in &manifest.carried {
                has.insert(part.generation);
                parts.insert(part.generation, Arc::new(part.clone()));
            }
            has
        };
        let own = take(&mut parts, &last);
        let mut based = (last.base == 0).then_some(own);
        if let Some((_, before)) = &known.state.lock().chain {
            for part in &before.parts {
                parts.insert(part.generation, part.clone());
            }
            if last.base != 0 && last.base == before.base {
                based = Some(before.based.clone());
            }
        }
        let lacks = |parts: &BTreeMap<u32, Arc<Part>>| -> Vec<u32> {
            let live = last.live.iter().copied();
            live.filter(|live| !parts.contains_key(live)).collect()
        };
        if last.base != 0 && !lacks(&parts).is_empty() {
            match self.read(place, last.base, known).await {
                Ok(base) => based = Some(take(&mut parts, &base)),
                Err(Error::Corrupt { key, reason }) => {
                    tracing::warn!(%key, %reason, "a manifest is broken: what it tells of others is read from them");
                }
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        // From their own manifests, generations told by no other readable one.
        let lacking = lacks(&parts);
        let mut reading = stream::iter(lacking)
            .map(
                |generation| async move { (generation, self.read(place, generation, known).await) },
            )
            .buffer_unordered(AT_ONCE);
        while let Some((generation, read)) = reading.next().await {
            match read {
                Ok(manifest) => {
                    parts.insert(generation, Arc::new(manifest.own()));
                }
                Err(error @ (Error::Corrupt { .. } | Error::NotFound { .. })) => {
                    tracing::warn!(%place, generation, %error, "a manifest is broken: what only it names is lost");
                    broken.insert(generation, error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        drop(reading);
        let live: BTreeSet<u32> = last.live.iter().copied().collect();
        parts.retain(|generation, _| live.contains(generation));
        let mut chain = Chain::new(&last, parts.into_values().collect(), broken, based);
        chain.generation = generation;
        Ok(Arc::new(chain))
    }

    /// Checks a chain against the number of manifests when the read began.
    async fn earlier(&self, place: &Place, generation: u32) -> Result<Arc<Chain>, Error> {
        let known = self.known(place);
        let _one = known.looking.lock().await;
        if let Some(earlier) = &known.state.lock().earlier
            && earlier.generation == generation
        {
            return Ok(earlier.clone());
        }
        let chain = self.assemble(place, generation, &known).await?;
        known.state.lock().earlier = Some(chain.clone());
        Ok(chain)
    }

    /// One manifest, kept for the look in progress.
    async fn read(
        &self,
        place: &Place,
        generation: u32,
        known: &Known,
    ) -> Result<Arc<Manifest>, Error> {
        if let Some(read) = known.state.lock().read.get(&generation) {
            return Ok(read.clone());
        }
        let manifest = Arc::new(self.manifest(place, generation).await?);
        known.state.lock().read.insert(generation, manifest.clone());
        Ok(manifest)
    }

    /// Reads one manifest.
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
            // Read twice, like blocks: the damage may be on the way only.
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

    /// Begins a read of a place: of all attempts, or of the wanted ones, with another look if the
    /// cache lacks some: an attempt acknowledged a moment ago must be seen.
    pub async fn fetch(
        self: &Arc<Self>,
        place: &Place,
        partitions: Range<u32>,
        maps: Range<u32>,
        only: Only,
        cursor: Option<Cursor>,
    ) -> Result<Fetch, Error> {
        let length = cursor.map_or(0, Cursor::manifests);
        let enough = |chain: &Chain| {
            let named = only.iter().flat_map(|only| only.iter().copied());
            chain.generation >= length && chain.missing(named).is_empty()
        };
        let mut chain = self.chain_with(place, enough).await?;
        // A position beyond the last manifest is of a different place: the read starts over.
        let cursor = cursor.filter(|_| chain.generation >= length);
        if cursor.is_some() && length > 0 && length < chain.generation {
            chain = self.earlier(place, length).await?;
        }
        Fetch::new(self.clone(), chain, partitions, maps, only, cursor)
    }

    /// Forgets a shuffle, or an app.
    pub fn forget(&self, app: &AppId, shuffle: Option<ShuffleId>) {
        self.places.lock().retain(|place, _| {
            place.app != *app || shuffle.is_some_and(|shuffle| shuffle != place.shuffle)
        });
    }

    /// Evicts the oldest entries beyond the bounds.
    fn forget_oldest(&self) {
        let mut places = self.places.lock();
        let size = |known: &Known| {
            let state = known.state.lock();
            let chain = |chain: &Arc<Chain>| chain.bytes();
            let last = state.chain.as_ref().map_or(0, |(_, last)| last.bytes());
            let looked = state.chain.as_ref().map(|(looked, _)| *looked);
            (looked, last + state.earlier.as_ref().map_or(0, chain))
        };
        let mut all: Vec<_> = places
            .iter()
            .map(|(place, known)| (size(known), place.clone()))
            .collect();
        let mut bytes: usize = all.iter().map(|((_, bytes), _)| bytes).sum();
        if bytes <= CHAINS {
            return;
        }
        all.sort_by_key(|((looked, _), _)| *looked);
        for ((_, of_one), place) in all {
            if bytes <= CHAINS / 2 {
                return;
            }
            places.remove(&place);
            bytes -= of_one;
        }
    }
}

impl State {
    /// The answer without a look, for a caller that came after this number of looks.
    fn answer(
        &self,
        now: Instant,
        asked: u64,
        enough: &impl Fn(&Chain) -> bool,
    ) -> Option<Result<Arc<Chain>, Error>> {
        // A look begun after the question answers it, whatever the result.
        if let Some((number, Err(error))) = &self.ended
            && *number > asked
        {
            return Some(Err(error.clone()));
        }
        let (looked, chain) = self.chain.as_ref()?;
        let fresh = now.saturating_duration_since(*looked) < FRESH && enough(chain);
        let later = matches!(&self.ended, Some((number, Ok(()))) if *number > asked);
        (self.ours || fresh || later).then(|| Ok(chain.clone()))
    }
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
