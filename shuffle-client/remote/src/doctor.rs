//! Examines a store: tries everything that servers need, in a directory of its own, and names a
//! remedy for each failure.
//!
//! Requests go through [`Store`], as servers' do, so results hold for servers. The directory is
//! `forebay-v1/.doctor-<random>/` below the prefix, beside the servers' directories, and is removed
//! after the checks, however they end. If even the removal fails, the directory stays (servers
//! remove only apps' data), and the next examination names it. Other keys are reported and left
//! alone.

use std::{
    fs,
    future::Future,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use shuffle_proto::ids::AppId;

use super::{
    Error, Store,
    advice::Cloud,
    keys,
    lease::Lease,
    marker::{self, Marker},
    shown_url,
    store::{Named, PART},
};

/// Prefix of an examination's directory.
const OURS: &str = ".doctor-";
/// Foreign keys named in a report.
const NAMED: usize = 10;
/// Time limit of one check: longer than the retries of a request.
const PATIENCE: Duration = Duration::from_secs(60);
/// By how much the clocks may differ. Signed requests are refused from minutes on; lifecycle rules
/// count days.
const SKEW: Duration = Duration::from_secs(60);
const SMALL: usize = 100_000;

/// One line of the report.
#[derive(Debug)]
pub struct Check {
    /// Name of the check.
    pub name: &'static str,
    /// Its result.
    pub outcome: Outcome,
}

/// Result of a check.
#[derive(Debug)]
pub enum Outcome {
    /// Success, with details.
    Ok(String),
    /// Failure.
    Fail {
        /// The observation.
        why: String,
        /// The remedy.
        remedy: String,
    },
    /// The check cannot be done from here; with a way to do it.
    Unknown(String),
    /// Skipped, because a check before it failed.
    Skipped(&'static str),
}

/// Observation and remedy of a failed check.
struct Failed {
    why: String,
    remedy: Option<&'static str>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            why: error.to_string(),
            remedy: None,
        }
    }
}

fn failed<T>(why: impl Into<String>, remedy: &'static str) -> Result<T, Failed> {
    let (why, remedy) = (why.into(), Some(remedy));
    Err(Failed { why, remedy })
}

/// Runs all checks on the store of a URL; `tell` gets each result at once. Returns whether all
/// succeeded.
pub async fn examine(url: &str, tell: &mut dyn FnMut(&Check)) -> bool {
    let made = missing_dirs(url);
    let good = checks(url, tell).await;
    // A directory made by `Store::open` goes, unless it has content.
    for dir in made {
        let _ = fs::remove_dir(dir);
    }
    good
}

async fn checks(url: &str, tell: &mut dyn FnMut(&Check)) -> bool {
    match Store::open(url, Arc::new(())) {
        Ok(store) => examine_store(url, store, tell).await,
        Err(why) => {
            let remedy = "write file:///DIR, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX, and give credentials where \
                 the cloud's own tools find them: AWS_… with AWS_REGION (and AWS_ENDPOINT_URL, AWS_ALLOW_HTTP=true without TLS), \
                 AZURE_STORAGE_…, GOOGLE_APPLICATION_CREDENTIALS";
            Told { tell, good: true }.fail("open", why, remedy);
            false
        }
    }
}

async fn examine_store(url: &str, store: Store, tell: &mut dyn FnMut(&Check)) -> bool {
    let mut told = Told { tell, good: true };
    told.ok(
        "open",
        format!("{}, nothing asked of it yet", shown_url(url)),
    );
    let probe = Probe {
        dir: format!("{}/{OURS}{}", keys::ROOT, uuid::Uuid::new_v4()),
        store,
    };
    if !probe.checks(url, &mut told).await {
        // A put without an answer may have succeeded.
        let _ = tokio::time::timeout(PATIENCE, probe.clean_up()).await;
        return false;
    }
    let remedy = "give the right to list and delete below the prefix, and remove it by hand";
    told.check("leave nothing", remedy, probe.clean_up()).await;
    let remedy = "give the right to list and read below the prefix";
    told.check("layout", remedy, probe.layout()).await;
    told.check("others' things", remedy, probe.others()).await;
    told.good
}

/// Directories that `Store::open` will have to make, the deepest first.
fn missing_dirs(url: &str) -> Vec<PathBuf> {
    let Ok(named) = Named::by(url) else {
        return Vec::new();
    };
    if named.cloud != Cloud::Directory {
        return Vec::new();
    }
    let dir = PathBuf::from("/").join(named.prefix);
    let missing = dir.ancestors().take_while(|dir| !dir.exists());
    missing.map(PathBuf::from).collect()
}

struct Told<'a> {
    tell: &'a mut dyn FnMut(&Check),
    good: bool,
}

impl Told<'_> {
    async fn check(
        &mut self,
        name: &'static str,
        remedy: &'static str,
        check: impl Future<Output = Result<String, Failed>>,
    ) -> bool {
        match tokio::time::timeout(PATIENCE, check).await {
            Ok(Ok(seen)) => {
                self.ok(name, seen);
                true
            }
            Ok(Err(Failed { why, remedy: own })) => {
                self.fail(name, why, own.unwrap_or(remedy));
                false
            }
            Err(_) => {
                self.fail(name, format!("no answer within {PATIENCE:?}"), remedy);
                false
            }
        }
    }

    fn ok(&mut self, name: &'static str, seen: String) {
        let outcome = Outcome::Ok(seen);
        (self.tell)(&Check { name, outcome });
    }

    fn fail(&mut self, name: &'static str, why: String, remedy: &str) {
        self.good = false;
        let remedy = remedy.to_owned();
        let outcome = Outcome::Fail { why, remedy };
        (self.tell)(&Check { name, outcome });
    }

    fn skip(&mut self, names: &[&'static str], why: &'static str) {
        for name in names {
            let outcome = Outcome::Skipped(why);
            (self.tell)(&Check { name, outcome });
        }
    }
}

/// A store, and the examination's directory in it.
struct Probe {
    store: Store,
    dir: String,
}

impl Probe {
    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    /// Answers whether anything could be written.
    async fn checks(&self, url: &str, told: &mut Told<'_>) -> bool {
        let remedy = "check the endpoint, the bucket's name and the credentials, and give the right to write below the prefix";
        let writes = told.check("put", remedy, self.put()).await;
        if !writes {
            let rest = [
                "get",
                "ranged get",
                "conditional put",
                "conditional replace",
                "list",
                "multipart upload",
                "multipart abort",
                "delete",
                "clock",
            ];
            told.skip(&rest, "nothing can be written");
        } else {
            let remedy = "give the right to read below the prefix";
            told.check("get", remedy, self.get()).await;
            let remedy = "use a store, or a gateway before it, that honours Range headers";
            told.check("ranged get", remedy, self.ranged_get()).await;
            let remedy = "use a store that honours If-None-Match: * on puts (S3, Azure, Google and current S3-compatible servers do): \
                          without it two servers can write one manifest";
            told.check("conditional put", remedy, self.conditional_put())
                .await;
            let remedy = "give the right to write below the prefix";
            told.check("conditional replace", remedy, self.conditional_replace())
                .await;
            let remedy = "give the right to list the bucket";
            told.check("list", remedy, self.list()).await;
            let remedy = "give the right to write in parts (s3:PutObject covers it), or use a store that takes multipart uploads";
            told.check("multipart upload", remedy, self.multipart())
                .await;
            let remedy = "give the right to abort uploads (s3:AbortMultipartUpload), or parts of uploads that were given up are paid for \
                          until a lifecycle rule removes them";
            told.check("multipart abort", remedy, self.abort()).await;
            let remedy = "keep the clock of this machine and of the store by NTP: signed requests are refused when they differ by minutes";
            told.check("clock", remedy, self.clock()).await;
            let remedy =
                "give the right to delete below the prefix: without it what is dead stays for ever";
            told.check("delete", remedy, self.delete()).await;
        }
        let outcome = Outcome::Unknown(match Named::by(url).map(|named| named.cloud) {
            Ok(Cloud::Directory) => {
                "a directory has none; forebay lifecycle-rule prints a line for cron".into()
            }
            _ => "the rules of a bucket are not seen by those who read and write objects: forebay lifecycle-rule prints one, look with \
                  the cloud's own tool whether it is there"
                .to_owned(),
        });
        let name = "lifecycle rule";
        (told.tell)(&Check { name, outcome });
        writes
    }

    async fn put(&self) -> Result<String, Failed> {
        self.store.put(&self.key("small"), small(), false).await?;
        Ok(format!("{SMALL} bytes to {}", self.store.path(&self.dir)))
    }

    async fn get(&self) -> Result<String, Failed> {
        if self.store.get(&self.key("small")).await? != small() {
            return failed(
                "it answers other bytes than were written",
                "use another store: this one changes what it keeps",
            );
        }
        Ok("the same bytes".into())
    }

    async fn ranged_get(&self) -> Result<String, Failed> {
        let range = 1_000..60_000;
        let key = self.key("small");
        let bytes = self.store.get_range(&key, range.clone()).await?;
        if bytes != small()[1_000..60_000] {
            let remedy = "use a store, or a gateway before it, that honours Range headers";
            return failed("it answers other bytes than were asked for", remedy);
        }
        Ok(format!("bytes {range:?}"))
    }

    async fn conditional_put(&self) -> Result<String, Failed> {
        let key = self.key("once");
        self.store
            .put(&key, Bytes::from_static(b"first"), true)
            .await?;
        let remedy = "use a store that honours If-None-Match: * on puts (S3, Azure, Google and current S3-compatible servers do): \
                      without it two servers can write one manifest";
        match self
            .store
            .put(&key, Bytes::from_static(b"second"), true)
            .await
        {
            Err(Error::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(()) => return failed("a second create of one key was let through", remedy),
        }
        if self.store.get(&key).await? != b"first"[..] {
            return failed("the second create was refused and has written", remedy);
        }
        Ok("a second create of one key is refused".into())
    }

    /// Not every store has conditional replacement. Without it servers look before they write, with
    /// a moment in between.
    async fn conditional_replace(&self) -> Result<String, Failed> {
        let key = self.key("replaced");
        let put = self.store.put(&key, Bytes::from_static(b"first"), false);
        put.await?;
        let (_, version) = self.store.get_version(&key).await?;
        let replace = |bytes: &'static [u8]| {
            let (key, version) = (&key, &version);
            async move {
                let bytes = Bytes::from_static(bytes);
                self.store.replace(key, bytes, version).await
            }
        };
        replace(b"second").await?;
        match replace(b"third, by who has read the first").await {
            Err(Error::Exists { .. }) => {
                Ok("who has not read the last content does not replace it".into())
            }
            Err(error) => Err(error.into()),
            Ok(()) => Ok(
                "this store does not compare what is replaced: servers look before they write"
                    .into(),
            ),
        }
    }

    async fn list(&self) -> Result<String, Failed> {
        let listing = self.store.list(&self.dir).await?;
        if !listing.objects.iter().any(|name| name == "small") {
            let remedy = "use a store whose listings show what was written before: deletion of what is dead needs it";
            return failed("an object that was written is not listed", remedy);
        }
        Ok(format!("{} objects", listing.objects.len()))
    }

    async fn multipart(&self) -> Result<String, Failed> {
        let key = self.key("parts");
        let bytes = large();
        let mut upload = self.store.upload(key.clone());
        upload.write(&bytes).await?;
        upload.finish().await?;
        let length = self.store.size(&key).await?;
        let border = PART as u64 - 500..PART as u64 + 500;
        let found = self.store.get_range(&key, border).await?;
        if length != bytes.len() as u64 || found != bytes[PART - 500..PART + 500] {
            let remedy = "use another store: this one puts parts together wrongly";
            return failed(format!("{length} bytes of other content"), remedy);
        }
        Ok(format!("{length} bytes in 2 parts"))
    }

    async fn abort(&self) -> Result<String, Failed> {
        let key = self.key("given-up");
        let mut upload = self.store.upload(key.clone());
        upload.write(&large()[..PART]).await?;
        upload.try_abort().await?;
        match self.store.size(&key).await {
            Err(Error::NotFound { .. }) => Ok("nothing is there under its name".into()),
            Err(error) => Err(error.into()),
            Ok(length) => failed(
                format!("{length} bytes are there under its name"),
                "use another store: this one shows uploads that were given up",
            ),
        }
    }

    async fn clock(&self) -> Result<String, Failed> {
        let key = self.key("time");
        let before = SystemTime::now();
        self.store
            .put(&key, Bytes::from_static(b"now"), false)
            .await?;
        let after = SystemTime::now();
        let theirs = self.store.modified(&key).await?;
        let ahead = theirs.duration_since(after).unwrap_or_default();
        let behind = before.duration_since(theirs).unwrap_or_default();
        // Stores truncate times to seconds.
        let behind = behind.saturating_sub(Duration::from_secs(1));
        let (by, which) = match ahead > behind {
            true => (ahead, "ahead of"),
            false => (behind, "behind"),
        };
        let seconds = by.as_secs_f64();
        let seen = format!("the store is {seconds:.1} s {which} this machine");
        match by {
            Duration::ZERO => Ok("no difference is seen".into()),
            small if small <= SKEW => Ok(seen),
            _ => Err(Failed {
                why: seen,
                remedy: None,
            }),
        }
    }

    async fn delete(&self) -> Result<String, Failed> {
        let key = self.key("small");
        self.store.delete(&key).await?;
        let remedy = "use a store in which what was deleted is gone";
        match self.store.get(&key).await {
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return failed("what was deleted is still answered", remedy),
        }
        // Deletions are retried, so a second one must succeed.
        self.store.delete(&key).await?;
        Ok("gone, and deleting it again is no error".into())
    }

    /// Pool of the directory.
    async fn layout(&self) -> Result<String, Failed> {
        let remedy = "give `remote` another prefix";
        match Marker::read(&self.store).await {
            Err(Error::Invalid(why)) => return failed(why, remedy),
            Err(error) => return Err(error.into()),
            Ok(Some(marker)) => {
                let dir = self.store.path(keys::ROOT);
                return Ok(format!("{dir} is that of pool {}", marker.pool()));
            }
            Ok(None) => {}
        }
        match &marker::of_the_old_layout(&self.store).await?[..] {
            [] => Ok("no server has used it yet".into()),
            old => failed(
                format!(
                    "apps in a layout of an earlier build of Forebay: {}",
                    some(old)
                ),
                "remove them by hand once their applications have ended, or give `remote` another prefix",
            ),
        }
    }

    /// Foreign keys beside Forebay's directory and in it, as far as the first level shows.
    async fn others(&self) -> Result<String, Failed> {
        let (beside, within) = (
            self.store.list("").await?,
            self.store.list(keys::ROOT).await?,
        );
        let mut foreign = Vec::new();
        for name in beside.dirs.iter().filter(|name| *name != keys::ROOT) {
            foreign.push(format!("{name}/"));
        }
        foreign.extend(beside.objects);
        let mut strange = Vec::new();
        for name in within.objects {
            let key = format!("{}/{name}", keys::ROOT);
            if key != keys::marker() {
                strange.push(key);
            }
        }
        for name in &within.dirs {
            let record = match AppId::try_new(name) {
                Some(app) => Lease::read(&self.store, &app).await,
                None => Ok(None),
            };
            match record {
                Ok(Some(_)) => {}
                Ok(None) | Err(Error::Corrupt { .. }) => {
                    strange.push(format!("{}/{name}/", keys::ROOT));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let mut seen = match &foreign[..] {
            [] => "nothing lies beside Forebay's directory".to_owned(),
            foreign => format!("left alone beside Forebay's directory: {}", some(foreign)),
        };
        if !strange.is_empty() {
            let strange = some(&strange);
            seen += &format!(
                "; left alone in it, because no lease record of Forebay's says whose they are: {strange}"
            );
        }
        Ok(seen)
    }

    async fn clean_up(&self) -> Result<String, Failed> {
        let found = self.store.list_below(&self.dir, usize::MAX).await?;
        let removed = found.len();
        if removed > 0 {
            self.store.delete_all(&self.dir, found).await?;
        }
        let left = self.store.list(&self.dir).await?;
        if !left.objects.is_empty() {
            let remedy = "remove the directory by hand";
            let why = format!(
                "{} still has {:?}",
                self.store.path(&self.dir),
                left.objects
            );
            return failed(why, remedy);
        }
        Ok(format!("{removed} objects removed"))
    }
}

/// The first few by name.
fn some(names: &[String]) -> String {
    let mut text = names[..names.len().min(NAMED)].join(", ");
    if names.len() > NAMED {
        text += &format!(" and {} more", names.len() - NAMED);
    }
    text
}

/// Bytes without a period, so that a shifted range shows.
fn pattern(length: usize) -> Bytes {
    let word = |at: u32| at.wrapping_mul(0x9e37_79b9).to_le_bytes();
    let words = length.div_ceil(4) as u32;
    let mut bytes: Vec<u8> = (0..words).flat_map(word).collect();
    bytes.truncate(length);
    bytes.into()
}

fn small() -> Bytes {
    pattern(SMALL)
}

/// One part and a bit.
fn large() -> Bytes {
    pattern(PART + 4_096)
}

#[cfg(test)]
mod tests;
