//! The one door to the crate `object_store`: a store opened from a URL, and its verbs.
//!
//! Every verb takes one of a bounded number of permits, counts its result, and names key and remedy
//! in its errors ([`advice`](super::advice)). `object_store` itself retries transient failures
//! (5xx, throttling, a broken connection) for [`RETRY`]; callers report the rest, or try again
//! later. A request without an answer ends after 30 s, or after `AWS_TIMEOUT`, `AZURE_TIMEOUT` or
//! `GOOGLE_TIMEOUT`.

mod ground;
mod named;
mod replace;
mod unfinished;
mod upload;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{
    BackoffConfig, ObjectMeta, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode, PutPayload,
    RetryConfig,
    aws::AmazonS3Builder,
    azure::MicrosoftAzureBuilder,
    client::{HttpError, HttpErrorKind},
    gcp::GoogleCloudStorageBuilder,
    local::LocalFileSystem,
    path::Path,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    Error,
    advice::{self, Cloud, Trouble},
    costs::{Cost, Costs},
    meter::Meter,
    secrets::{redacted, shown_url},
};
use ground::Ground;
pub(super) use named::Named;
pub use named::check_url;
use named::{directory, parse};
pub use replace::Version;
pub(super) use upload::PART;
pub use upload::Upload;

/// Time limit of a request with its retries.
const RETRY: Duration = Duration::from_secs(30);
const RETRIES: usize = 6;
/// Requests at the same time.
const REQUESTS: usize = 64;
/// Permits for leases, beside the others.
const LANE: usize = 32;
/// Time limit for the length of an object after a failed range.
const LENGTH: Duration = Duration::from_secs(5);

/// An object store, below a prefix.
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
    /// The directory of a `file://` store.
    directory: Option<PathBuf>,
    /// What that directory lies on.
    ground: Option<Ground>,
    /// The URL without secrets.
    url: String,
    cloud: Cloud,
    costs: Costs,
    permits: Arc<Semaphore>,
    /// Permits for leases, which must not wait for hanging requests for blocks.
    lane: Semaphore,
    meter: Arc<dyn Meter>,
}

/// Content of a directory.
#[derive(Debug, Default)]
pub struct Listing {
    /// Names of directories.
    pub dirs: Vec<String>,
    /// Names of objects.
    pub objects: Vec<String>,
}

impl Store {
    /// Opens the store of a URL. Credentials, region and endpoint come from where each cloud's own
    /// tools find them: the environment (`AWS_…`, `AZURE_…`, `GOOGLE_…`), files named there, or the
    /// machine's identity. Sends no request to a cloud; a missing directory is made.
    pub fn open(text: &str, meter: Arc<dyn Meter>) -> Result<Self, String> {
        Self::open_with(text, &[], meter)
    }

    /// Opens a store with additional environment variables.
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
        // A builder with its known variables.
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
                // invariant: remote-before-reclaim. Written objects must survive the store's
                // machine too.
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
        let directory = local.then(|| directory(&url)).transpose()?;
        Ok(Self {
            inner,
            prefix,
            ground: directory.as_deref().and_then(Ground::of),
            directory,
            url: shown_url(text),
            cloud,
            costs: Costs::default(),
            permits: Arc::new(Semaphore::new(REQUESTS)),
            lane: Semaphore::new(LANE),
            meter,
        })
    }

    /// Opens a store for reading only: a missing directory is refused and not made. An empty
    /// directory in the place of a missing mount would look like the deletion of everything.
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
            ground: None,
            url: "memory:///prefix".into(),
            cloud: Cloud::Directory,
            costs: Costs::default(),
            permits: Arc::new(Semaphore::new(REQUESTS)),
            lane: Semaphore::new(LANE),
            meter: Arc::new(()),
        }
    }

    /// The configured URL without secrets.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Requests of this process for a shuffle's directory.
    pub fn cost(&self, dir: &str) -> Cost {
        self.costs.of(dir)
    }

    /// Writes a whole object; with `create`, [`Error::Exists`] if there is one.
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

    /// All of an object.
    pub async fn get(&self, key: &str) -> Result<Bytes, Error> {
        self.get_version(key).await.map(|(bytes, _)| bytes)
    }

    /// Reads a range, which must be there whole: a shorter object is [`Error::Corrupt`], no failure
    /// of the store.
    pub async fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes, Error> {
        let permit = self.permit().await;
        let path = self.path(key);
        // One blocking thread per read of a directory; `get_range` takes one to open the file and
        // one to read.
        let ranges = std::slice::from_ref(&range);
        let got = self.inner.get_ranges(&path, ranges).await;
        let got = got.map(|mut ranges| ranges.pop().unwrap_or_default());
        let bytes = match self.done("get", key, got) {
            Ok(bytes) => bytes,
            Err(error @ Error::Store { .. }) => {
                drop(permit);
                // Stores have many words for a missing range.
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

    /// Removes an object; a missing one is no error.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        let _permit = self.permit().await;
        let deleted = match self.inner.delete(&self.path(key)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            other => other,
        };
        self.done("delete", key, deleted)
    }

    /// The first meaningful name below a directory, in the order of names. Costs one request while
    /// few other names come first: a cloud lists in that order, and the listing stops there; a
    /// directory of a file system is read whole.
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
            // Only a file system has directories that can be missing.
            Err(Error::NotFound { .. }) => Ok(None),
            found => found,
        }
    }

    /// Content of a directory, without its subdirectories' content.
    pub async fn list(&self, dir: &str) -> Result<Listing, Error> {
        let _permit = self.permit().await;
        let path = self.path(dir);
        let listed = self.inner.list_with_delimiter(Some(&path)).await;
        let listed = match self.done("list", dir, listed) {
            // Only a file system has directories that can be missing.
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

    /// Keys of objects below a directory, at any depth, in no order, up to `most`. Only for a
    /// directory of Forebay's.
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

    /// Removes objects, a thousand per request where the store can; missing ones are no error. All
    /// are tried; the first error is returned. `dir` is their directory, for the count of requests.
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

    /// A key with the prefix, as in errors.
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
        // Never closed, so there is always a permit.
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
        // What was written then is under the mount point, and what was not found says nothing.
        if let Some(message) = self.ground.as_ref().and_then(Ground::why_gone) {
            self.meter.request(verb, "failed");
            let key = key();
            return Err(Error::Store { verb, key, message });
        }
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
    /// Cause of a failure; `None` if the object is simply missing.
    fn trouble(&self, verb: &str, error: &object_store::Error, words: &str) -> Option<Trouble> {
        use object_store::Error as E;
        match error {
            // invariant: unknown-is-never-empty. A missing bucket says nothing about its objects.
            _ if advice::names_no_bucket(words) => Some(Trouble::NoBucket),
            E::NotFound { .. } => match verb {
                "get" | "head" | "delete" => None,
                // Only a file system has directories that can be missing.
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

/// The process may have a provider of cryptography already; the first one stays.
pub fn provide_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Kind of a failed connection; `None` for other failures.
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
