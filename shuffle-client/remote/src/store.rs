//! The one door to the crate `object_store`: a store from its URL, and the verbs that are used.
//!
//! Every verb takes one of a bounded number of permits, is counted by its result, and names its key when it fails, with what a person
//! can do about it ([`advice`](super::advice)). Transient failures (5xx, throttling, a broken connection) are retried below, by
//! `object_store` itself; what comes up from here has been tried for [`RETRY`] and is for the caller to try again later or to report.
//! A request that gets no answer ends after 30 s, or after `AWS_TIMEOUT`, `AZURE_TIMEOUT` or `GOOGLE_TIMEOUT`.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{
    BackoffConfig, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, ObjectStoreScheme,
    PutMode, PutPayload, RetryConfig, UpdateVersion,
    aws::AmazonS3Builder,
    azure::MicrosoftAzureBuilder,
    client::{HttpError, HttpErrorKind},
    gcp::GoogleCloudStorageBuilder,
    local::LocalFileSystem,
    path::Path,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::JoinSet,
};
use url::Url;

use super::{
    Error,
    advice::{self, Cloud, Trouble},
    costs::{Cost, Costs},
    meter::Meter,
    secrets::{redacted, shown_url},
};

/// How long one request is tried.
const RETRY: Duration = Duration::from_secs(30);
const RETRIES: usize = 6;
/// Requests at the same time.
const REQUESTS: usize = 64;
/// Of these for leases beside them.
const LANE: usize = 32;
/// Bytes of one part of an upload: all but the last are exactly this long, as some stores demand.
pub(super) const PART: usize = 8 << 20;
/// Parts of one upload that are under way at the same time, each in memory.
const PARTS: usize = 4;
/// How long a range that could not be read waits to hear how long its object is.
const LENGTH: Duration = Duration::from_secs(5);
/// How long an upload that is given up waits for its parts that are under way.
const ANSWERED: Duration = Duration::from_secs(5);

/// An object store, below a prefix.
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Of a store that is one.
    directory: Option<PathBuf>,
    /// Without what may be secret in it.
    url: String,
    cloud: Cloud,
    costs: Costs,
    permits: Arc<Semaphore>,
    /// Of requests for leases, which must not wait for hanging ones of blocks.
    lane: Semaphore,
    meter: Arc<dyn Meter>,
}

/// Which of the contents that an object has had one after the other, by the store's own word; nothing where it does not say.
#[derive(Clone, Debug, Default)]
pub struct Version(Option<UpdateVersion>);

/// An object that is being written: in one request if it is short, else in parts.
pub struct Upload<'a> {
    store: &'a Store,
    key: String,
    buffer: Vec<u8>,
    parts: Option<Box<dyn MultipartUpload>>,
    /// Parts that are under way, with their bytes.
    sending: JoinSet<(object_store::Result<()>, u64)>,
}

/// What is below a directory.
#[derive(Debug, Default)]
pub struct Listing {
    /// Names of directories.
    pub dirs: Vec<String>,
    /// Names of objects.
    pub objects: Vec<String>,
}

/// Says what is wrong with a URL of a store, without asking the store.
pub fn check_url(text: &str) -> Result<(), String> {
    parse(text).map(drop)
}

/// What a URL names, without asking the store.
pub(super) struct Named {
    pub(super) cloud: Cloud,
    /// Or container; a word to be replaced where the URL does not say it plainly.
    pub(super) bucket: String,
    pub(super) prefix: String,
}

impl Named {
    pub(super) fn by(text: &str) -> Result<Self, String> {
        let (url, scheme, path) = parse(text)?;
        let cloud = match scheme {
            ObjectStoreScheme::AmazonS3 => Cloud::S3,
            ObjectStoreScheme::MicrosoftAzure => Cloud::Azure,
            ObjectStoreScheme::GoogleCloudStorage => Cloud::Google,
            _ => Cloud::Directory,
        };
        let bucket = match (url.username(), url.host_str()) {
            // An address of the cloud's own, which names it somewhere in host or path.
            _ if url.scheme().starts_with("http") => "BUCKET",
            ("", host) => host.unwrap_or_default(),
            (container, _) => container,
        };
        Ok(Self {
            cloud,
            bucket: bucket.to_owned(),
            prefix: path.to_string(),
        })
    }
}

fn directory(url: &Url) -> Result<PathBuf, String> {
    url.to_file_path()
        .map_err(|()| "it names no directory of this machine".to_owned())
}

fn parse(text: &str) -> Result<(Url, ObjectStoreScheme, Path), String> {
    let examples =
        "write file:///DIR, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX";
    let url = Url::parse(text).map_err(|error| format!("{error}: {examples}"))?;
    // Its own words hold the whole URL.
    let (scheme, path) =
        ObjectStoreScheme::parse(&url).map_err(|_| format!("its form is not known: {examples}"))?;
    match scheme {
        ObjectStoreScheme::Local if path.as_ref().is_empty() => {
            Err(format!("it names no directory: {examples}"))
        }
        ObjectStoreScheme::Local
        | ObjectStoreScheme::AmazonS3
        | ObjectStoreScheme::GoogleCloudStorage
        | ObjectStoreScheme::MicrosoftAzure => Ok((url, scheme, path)),
        _ => Err(format!("its scheme is not supported: {examples}")),
    }
}

impl Store {
    /// The store of a URL. Credentials, region and endpoint come from where each cloud's own tools find them: the environment
    /// (`AWS_…`, `AZURE_…`, `GOOGLE_…`), files that it names, or the machine's identity. Asks nothing of a cloud yet; a directory is
    /// made if it is not there.
    pub fn open(text: &str, meter: Arc<dyn Meter>) -> Result<Self, String> {
        Self::open_with(text, &[], meter)
    }

    /// The same, as if these variables were in the environment too.
    pub fn open_with(
        text: &str,
        env: &[(String, String)],
        meter: Arc<dyn Meter>,
    ) -> Result<Self, String> {
        let (url, scheme, path) = parse(text)?;
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES,
            retry_timeout: RETRY,
        };
        let said = |error: object_store::Error| redacted(&error.to_string());
        // A builder, and those of the variables that it knows.
        macro_rules! cloud {
            ($builder:ty) => {{
                let mut builder = <$builder>::from_env().with_url(text).with_retry(retry);
                for (name, value) in env {
                    if let Ok(key) = name.to_ascii_lowercase().parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                provide_tls();
                Arc::new(builder.build().map_err(said)?)
            }};
        }
        let local = matches!(scheme, ObjectStoreScheme::Local);
        let (inner, prefix, cloud): (Arc<dyn ObjectStore>, Path, Cloud) = match scheme {
            ObjectStoreScheme::Local => {
                let dir = directory(&url)?;
                std::fs::create_dir_all(&dir)
                    .map_err(|error| format!("{}: {error}", dir.display()))?;
                // invariant: remote-before-reclaim. What is called written has to survive the store's machine too.
                let store = LocalFileSystem::new_with_prefix(&dir)
                    .map_err(said)?
                    .with_fsync(true)
                    .with_automatic_cleanup(true);
                (Arc::new(store), Path::default(), Cloud::Directory)
            }
            ObjectStoreScheme::AmazonS3 => (cloud!(AmazonS3Builder), path, Cloud::S3),
            ObjectStoreScheme::MicrosoftAzure => {
                (cloud!(MicrosoftAzureBuilder), path, Cloud::Azure)
            }
            ObjectStoreScheme::GoogleCloudStorage => {
                (cloud!(GoogleCloudStorageBuilder), path, Cloud::Google)
            }
            _ => return Err("its scheme is not supported".into()),
        };
        Ok(Self {
            inner,
            prefix,
            directory: local.then(|| directory(&url)).transpose()?,
            url: shown_url(text),
            cloud,
            costs: Costs::default(),
            permits: Arc::new(Semaphore::new(REQUESTS)),
            lane: Semaphore::new(LANE),
            meter,
        })
    }

    /// The same for who only reads: a directory that is not there is refused and not made. An empty one in its place, where a
    /// mount is missing, would look as if everything had been deleted.
    pub fn existing(text: &str, meter: Arc<dyn Meter>) -> Result<Self, String> {
        let (url, scheme, _) = parse(text)?;
        if matches!(scheme, ObjectStoreScheme::Local) {
            let dir = directory(&url)?;
            if !dir.is_dir() {
                return Err(format!(
                    "{} is no directory of this machine: mount what the servers write to",
                    dir.display()
                ));
            }
        }
        Self::open(text, meter)
    }

    /// A store in memory, for tests.
    pub fn in_memory() -> Self {
        Self::on(Arc::new(object_store::memory::InMemory::new()))
    }

    /// Any store, for tests.
    pub fn on(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            prefix: Path::from("prefix"),
            directory: None,
            url: "memory:///prefix".into(),
            cloud: Cloud::Directory,
            costs: Costs::default(),
            permits: Arc::new(Semaphore::new(REQUESTS)),
            lane: Semaphore::new(LANE),
            meter: Arc::new(()),
        }
    }

    /// As it was configured, without what may be secret in it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Requests that this process has made for what lies below a shuffle's directory.
    pub fn cost(&self, dir: &str) -> Cost {
        self.costs.of(dir)
    }

    /// Writes a whole object; `create` refuses with [`Error::Exists`] if there is one.
    pub async fn put(&self, key: &str, bytes: Bytes, create: bool) -> Result<(), Error> {
        let _permit = self.permit_for(key).await;
        let length = bytes.len() as u64;
        let mode = if create {
            PutMode::Create
        } else {
            PutMode::Overwrite
        };
        let path = self.path(key);
        let put = self
            .inner
            .put_opts(&path, PutPayload::from(bytes), mode.into());
        self.done("put", key, put.await)?;
        self.meter.sent(length);
        Ok(())
    }

    /// Writes a whole object in the place of one that was read; refuses with [`Error::Exists`] if that has changed since. The clouds
    /// compare it themselves, with the put; a directory cannot, so there it is looked at once more just before, which leaves the moment
    /// between the two.
    pub async fn replace(&self, key: &str, bytes: Bytes, read: &Version) -> Result<(), Error> {
        let Some(version) = &read.0 else {
            return self.put(key, bytes, false).await;
        };
        let permit = self.permit_for(key).await;
        let (path, length) = (self.path(key), bytes.len() as u64);
        if self.directory.is_some() {
            drop(permit);
            let now = self.inner.head(&path).await;
            match self.done("head", key, now) {
                Ok(meta) if meta.e_tag == version.e_tag => {}
                Ok(_) | Err(Error::NotFound { .. }) => {
                    let key = path.to_string();
                    return Err(Error::Exists { key });
                }
                Err(error) => return Err(error),
            }
            return self.put(key, bytes, false).await;
        }
        let mode = PutMode::Update(version.clone());
        let put = self
            .inner
            .put_opts(&path, PutPayload::from(bytes.clone()), mode.into());
        let put = match put.await {
            // A store that does not know conditions of this kind: those who write look before, as they do anyway.
            Err(error) if is_not_implemented(&error) => {
                drop(permit);
                return self.put(key, bytes, false).await;
            }
            // Removed since.
            Err(error @ object_store::Error::NotFound { .. }) => {
                let (path, source) = (path.to_string(), Box::new(error));
                Err(object_store::Error::Precondition { path, source })
            }
            put => put,
        };
        self.done("put", key, put)?;
        self.meter.sent(length);
        Ok(())
    }

    /// Begins an object.
    pub fn upload(&self, key: String) -> Upload<'_> {
        Upload {
            store: self,
            key,
            buffer: Vec::new(),
            parts: None,
            sending: JoinSet::new(),
        }
    }

    /// All of an object.
    pub async fn get(&self, key: &str) -> Result<Bytes, Error> {
        self.get_version(key).await.map(|(bytes, _)| bytes)
    }

    /// The same, and which content it is, for who may [`replace`](Self::replace) it.
    pub async fn get_version(&self, key: &str) -> Result<(Bytes, Version), Error> {
        let _permit = self.permit_for(key).await;
        let path = self.path(key);
        let got = async {
            let got = self.inner.get(&path).await?;
            let (e_tag, version) = (got.meta.e_tag.clone(), got.meta.version.clone());
            let known = e_tag.is_some() || version.is_some();
            let version = known.then_some(UpdateVersion { e_tag, version });
            Ok((got.bytes().await?, Version(version)))
        };
        let (bytes, version) = self.done("get", key, got.await)?;
        self.meter.received(bytes.len() as u64);
        Ok((bytes, version))
    }

    /// Some of an object, all of which must be there: one that is shorter is [`Error::Corrupt`], and not a store that fails.
    pub async fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes, Error> {
        let permit = self.permit().await;
        let path = self.path(key);
        // In a directory this takes a thread that may block once; `get_range` takes one to open the file and one to read.
        let ranges = std::slice::from_ref(&range);
        let got = self.inner.get_ranges(&path, ranges).await;
        let got = got.map(|mut ranges| ranges.pop().unwrap_or_default());
        let bytes = match self.done("get", key, got) {
            Ok(bytes) => bytes,
            Err(error @ Error::Store { .. }) => {
                drop(permit);
                // Stores have many words for a range that is not there.
                return match tokio::time::timeout(LENGTH, self.size(key)).await {
                    Ok(Ok(length)) if length < range.end => Err(Error::Corrupt {
                        key: path.to_string(),
                        reason: format!("it has {length} bytes, and bytes {range:?} are asked for"),
                    }),
                    _ => Err(error),
                };
            }
            Err(error) => return Err(error),
        };
        self.meter.received(bytes.len() as u64);
        if bytes.len() as u64 != range.end - range.start {
            return Err(Error::Corrupt {
                key: self.path(key).to_string(),
                reason: format!("{} bytes instead of {range:?}", bytes.len()),
            });
        }
        Ok(bytes)
    }

    /// Length of an object.
    pub async fn size(&self, key: &str) -> Result<u64, Error> {
        let _permit = self.permit().await;
        let head = self.inner.head(&self.path(key)).await;
        self.done("head", key, head).map(|meta| meta.size)
    }

    /// When an object was written, by the store's clock.
    pub async fn modified(&self, key: &str) -> Result<SystemTime, Error> {
        let _permit = self.permit().await;
        let head = self.inner.head(&self.path(key)).await;
        let meta = self.done("head", key, head)?;
        Ok(meta.last_modified.into())
    }

    /// Removes an object; one that is not there is no error.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        let _permit = self.permit().await;
        let deleted = match self.inner.delete(&self.path(key)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            other => other,
        };
        self.done("delete", key, deleted)
    }

    /// The first name, in the order of names, that means something, of what lies below a directory. Costs one request as long as few
    /// other names come before it: a cloud lists in that order, and no more is asked for; only a directory of a file system is read
    /// whole.
    pub async fn first<T>(
        &self,
        dir: &str,
        meaning: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let _permit = self.permit().await;
        let path = self.path(dir);
        let found = async {
            let mut listed = self.inner.list(Some(&path));
            let mut first: Option<(String, T)> = None;
            while let Some(meta) = listed.try_next().await? {
                let name = meta.location.filename().unwrap_or_default();
                let Some(meant) = meaning(name) else {
                    continue;
                };
                if first
                    .as_ref()
                    .is_none_or(|(first, _)| name < first.as_str())
                {
                    first = Some((name.to_owned(), meant));
                }
                if self.cloud != Cloud::Directory {
                    break;
                }
            }
            Ok(first.map(|(_, meant)| meant))
        };
        match self.done("list", dir, found.await) {
            // A directory of a file system; elsewhere there are no directories that could be missing.
            Err(Error::NotFound { .. }) => Ok(None),
            found => found,
        }
    }

    /// What is directly below a directory.
    pub async fn list(&self, dir: &str) -> Result<Listing, Error> {
        let _permit = self.permit().await;
        let path = self.path(dir);
        let listed = self.inner.list_with_delimiter(Some(&path)).await;
        let listed = match self.done("list", dir, listed) {
            // A directory of a file system; elsewhere there are no directories that could be missing.
            Err(Error::NotFound { .. }) => return Ok(Listing::default()),
            listed => listed?,
        };
        let name = |path: &Path| path.filename().map(str::to_owned);
        Ok(Listing {
            dirs: listed.common_prefixes.iter().filter_map(name).collect(),
            objects: listed
                .objects
                .iter()
                .filter_map(|meta| name(&meta.location))
                .collect(),
        })
    }

    /// Keys of objects below a directory, at any depth, in no order: at most so many, those of a directory that has more by chance.
    /// Only for a directory that is ours.
    pub async fn list_below(&self, dir: &str, most: usize) -> Result<Vec<String>, Error> {
        let _permit = self.permit().await;
        let path = self.path(dir);
        let listed = self.inner.list(Some(&path)).take(most).try_collect();
        let listed: Vec<ObjectMeta> = match self.done("list", dir, listed.await) {
            Err(Error::NotFound { .. }) => return Ok(Vec::new()),
            listed => listed?,
        };
        let key = |meta: &ObjectMeta| {
            let names = meta.location.prefix_match(&self.prefix)?;
            let names: Vec<_> = names.map(|name| name.as_ref().to_owned()).collect();
            Some(names.join("/"))
        };
        Ok(listed.iter().filter_map(key).collect())
    }

    /// Removes objects, a thousand with a request where the store can; those that are not there are no error. All are tried; the
    /// error is the first one's. `dir` is where they lie, for the account.
    pub async fn delete_all(&self, dir: &str, keys: Vec<String>) -> Result<(), Error> {
        let _permit = self.permit().await;
        let paths: Vec<_> = keys.iter().map(|key| Ok(self.path(key))).collect();
        let mut deleted = self.inner.delete_stream(stream::iter(paths).boxed());
        let mut first = Ok(());
        while let Some(deleted) = deleted.next().await {
            match deleted {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => first = first.and(Err(error)),
            }
        }
        self.done("delete", dir, first)
    }

    /// Where the store is a directory: removes what writes of ours that were cut off have left below `dir`. They are files beside the
    /// ones that they were to become, `<name>#<number>`, which no listing shows.
    pub async fn remove_unfinished(&self, dir: &str, is_ours: fn(&str) -> bool) {
        let Some(root) = self.directory.clone() else {
            return;
        };
        let dir = dir.to_owned();
        let sweeping = move || remove_unfinished(&root.join(&dir), &dir, is_ours);
        // What it leaves is found by the next.
        let _ = tokio::task::spawn_blocking(sweeping).await;
    }

    /// A key with the prefix, as errors show it.
    pub fn path(&self, key: &str) -> Path {
        if key.is_empty() {
            return self.prefix.clone();
        }
        key.split('/')
            .fold(self.prefix.clone(), |path, part| path.join(part))
    }

    async fn permit_for(&self, key: &str) -> Option<SemaphorePermit<'_>> {
        match key.ends_with("/lease") {
            true => self.lane.acquire().await.ok(),
            false => self.permit().await,
        }
    }

    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed, so there always is one.
        self.permits.acquire().await.ok()
    }

    /// Counts a result and puts an error into our words.
    fn done<T>(
        &self,
        verb: &'static str,
        key: &str,
        result: object_store::Result<T>,
    ) -> Result<T, Error> {
        use object_store::Error as E;
        self.costs.count(verb, key);
        let key = || self.path(key).to_string();
        let (outcome, result) = match result {
            Ok(value) => ("ok", Ok(value)),
            Err(E::AlreadyExists { .. } | E::Precondition { .. }) => {
                ("exists", Err(Error::Exists { key: key() }))
            }
            Err(error) => {
                let words = advice::words(&error);
                match self.trouble(verb, &error, &words) {
                    None => ("absent", Err(Error::NotFound { key: key() })),
                    Some(trouble) => {
                        let message = advice::message(self.cloud, trouble, &words);
                        let key = key();
                        ("failed", Err(Error::Store { verb, key, message }))
                    }
                }
            }
        };
        self.meter.request(verb, outcome);
        result
    }
}

impl Store {
    /// What is wrong; `None` if the object is not there, and nothing else is.
    fn trouble(&self, verb: &str, error: &object_store::Error, words: &str) -> Option<Trouble> {
        use object_store::Error as E;
        match error {
            // invariant: unknown-is-never-empty. A bucket that is not there says nothing about what was written.
            _ if advice::names_no_bucket(words) => Some(Trouble::NoBucket),
            E::NotFound { .. } => match verb {
                "get" | "head" | "delete" => None,
                // Only in a file system are there directories that could be missing.
                "list" if self.cloud == Cloud::Directory => None,
                "list" | "put" | "begin" => Some(Trouble::NoBucket),
                _ => Some(Trouble::Other),
            },
            _ if advice::is_about_credentials(words) => Some(Trouble::NoCredentials),
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Some(Trouble::Refused),
            _ if advice::is_a_refusal(words) => Some(Trouble::Refused),
            error => Some(match http_kind(error) {
                Some(HttpErrorKind::Connect) => Trouble::Unreachable,
                Some(HttpErrorKind::Timeout) => Trouble::NoAnswer,
                _ if words.contains("incorrectly configured region") => Trouble::WrongRegion,
                _ => Trouble::Other,
            }),
        }
    }
}

impl Upload<'_> {
    /// Adds bytes; sends what makes whole parts.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PART - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == PART {
                self.send().await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Error> {
        let store = self.store;
        let parts = match &mut self.parts {
            Some(parts) => parts,
            none => {
                // Not while it waits for its parts, which need permits of their own.
                let _permit = store.permit().await;
                let begun = store.inner.put_multipart(&store.path(&self.key)).await;
                none.insert(store.done("begin", &self.key, begun)?)
            }
        };
        let bytes = std::mem::replace(&mut self.buffer, Vec::with_capacity(PART));
        let length = bytes.len() as u64;
        let (part, permits) = (
            parts.put_part(PutPayload::from(bytes)),
            store.permits.clone(),
        );
        self.sending.spawn(async move {
            let _permit = permits.acquire_owned().await.ok();
            (part.await, length)
        });
        self.sent_but(PARTS - 1).await
    }

    /// Waits until no more than so many parts are under way.
    async fn sent_but(&mut self, most: usize) -> Result<(), Error> {
        while self.sending.len() > most
            && let Some(sent) = self.sending.join_next().await
        {
            let (sent, length) = sent.unwrap_or_else(|error| {
                let source = Box::new(error);
                let store = "upload";
                (Err(object_store::Error::Generic { store, source }), 0)
            });
            self.store.done("part", &self.key, sent)?;
            self.store.meter.sent(length);
        }
        Ok(())
    }

    /// Ends the object, which is there from then on; one that cannot be ended is given up.
    pub async fn finish(mut self) -> Result<(), Error> {
        let ended = self.end().await;
        if ended.is_err() {
            self.abort().await;
        }
        ended
    }

    async fn end(&mut self) -> Result<(), Error> {
        if self.parts.is_none() {
            let bytes = std::mem::take(&mut self.buffer);
            return self.store.put(&self.key, bytes.into(), false).await;
        }
        if !self.buffer.is_empty() {
            self.send().await?;
        }
        self.sent_but(0).await?;
        let store = self.store;
        let _permit = store.permit().await;
        let Some(parts) = &mut self.parts else {
            return Ok(());
        };
        let completed = parts.complete().await;
        store.done("complete", &self.key, completed).map(drop)
    }

    /// Gives back what the parts so far take in the store. What even that leaves behind is for the bucket's lifecycle rule.
    pub async fn abort(self) {
        if let Err(error) = self.try_abort().await {
            tracing::warn!(%error, "an upload that was given up may keep its parts");
        }
    }

    /// The same; the error says why parts may be left.
    pub async fn try_abort(mut self) -> Result<(), Error> {
        // A part that the store is at while the upload ends may stay, whoever waits for its answer.
        let answered = async { while self.sending.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(ANSWERED, answered).await;
        self.sending.shutdown().await;
        let Some(parts) = &mut self.parts else {
            return Ok(());
        };
        let aborted = parts.abort().await;
        self.store.done("abort", &self.key, aborted)
    }
}

fn remove_unfinished(dir: &std::path::Path, key: &str, is_ours: fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let key = format!("{key}/{name}");
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let unfinished = key.rsplit_once('#').is_some_and(|(key, number)| {
            is_ours(key) && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        });
        if kind.is_dir() {
            remove_unfinished(&entry.path(), &key, is_ours);
        } else if kind.is_file() && unfinished {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    // If it is empty now.
    let _ = std::fs::remove_dir(dir);
}

fn is_not_implemented(error: &object_store::Error) -> bool {
    let words = advice::words(error);
    matches!(error, object_store::Error::NotImplemented { .. })
        || words.contains("NotImplemented")
        || words.contains("501 Not Implemented")
        // Without the condition it will be known whether that was it.
        || words.contains("400 Bad Request")
}

/// The process may have a provider of cryptography already; the first one stays.
pub fn provide_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// How the connection failed, if that is what failed.
fn http_kind(error: &object_store::Error) -> Option<HttpErrorKind> {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return Some(http.kind());
        }
        cause = error.source();
    }
    None
}
