//! The marker: the owner of the directory [`keys::ROOT`], and the format of its content.
//!
//! JSON: `forebay` (a sentence for a person), `format` 1, `pool` (a UUID). The first server on a
//! store makes the marker, by a conditional put; all servers on one store are one pool. No server
//! writes before it has seen the marker. A removed or damaged marker is restored by a server that
//! has seen it, or on the evidence of an app's record. Any other content is refused by name, and so
//! is the layout from before the marker, whose directories lay directly below the prefix (never
//! released).

use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use shuffle_proto::ids::AppId;
use uuid::Uuid;

use super::{Error, Store, keys, lease::Lease};

const FORMAT: u32 = 1;
/// Directories beside Forebay's examined before the marker is made, each with one request.
const LOOKED_AT: usize = 200;
/// Directories in Forebay's examined when the marker is unreadable.
const EVIDENCE: usize = 50;
/// Time limit of the examination: a shared bucket may have millions of keys.
const PATIENCE: Duration = Duration::from_secs(5);

/// Fields of every format.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Why the content is no marker of this format.
enum Fault {
    /// Foreign content, or a damaged marker.
    None(String),
    Another(u32),
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    forebay: String,
    format: u32,
    pool: String,
}

impl Marker {
    fn new() -> Self {
        Self {
            forebay:
                "Map output of Spark jobs, written back by Forebay; its servers remove what is dead"
                    .into(),
            format: FORMAT,
            pool: Uuid::new_v4().to_string(),
        }
    }

    /// UUID of the pool: all servers on this store.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// Reads the marker; `None` if there is none. [`Error::Invalid`] for a foreign one.
    pub async fn read(store: &Store) -> Result<Option<Self>, Error> {
        match Self::read_once(store).await {
            // Read twice: the damage may be on the way only.
            Err(Error::Invalid(_)) => Self::read_once(store).await,
            read => read,
        }
    }

    async fn read_once(store: &Store) -> Result<Option<Self>, Error> {
        let key = keys::marker();
        let bytes = match store.get(&key).await {
            Ok(bytes) => bytes,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let path = store.path(&key);
        Self::decode(&bytes).map(Some).map_err(|fault| {
            Error::Invalid(match fault {
                Fault::None(why) => format!(
                    "{path} is no marker of Forebay's ({why}): if the directory is Forebay's and it was damaged, remove it, and it is made \
                     anew; if not, give `remote` another prefix"
                ),
                Fault::Another(format) => format!(
                    "{path} says that the format there is {format}, and this version of Forebay has {FORMAT}: give `remote` another prefix"
                ),
            })
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let none = |error: serde_json::Error| Fault::None(error.to_string());
        match serde_json::from_slice::<Format>(bytes)
            .map_err(none)?
            .format
        {
            FORMAT => serde_json::from_slice(bytes).map_err(none),
            other => Err(Fault::Another(other)),
        }
    }

    /// Restores this marker after removal or damage; returns whether that was needed.
    pub async fn keep(&self, store: &Store) -> Result<bool, Error> {
        let key = keys::marker();
        let create = match store.get(&key).await {
            Ok(bytes) => match Self::decode(&bytes) {
                Err(Fault::None(_)) => false,
                // Another's, or made anew by another server.
                Ok(_) | Err(Fault::Another(_)) => return Ok(false),
            },
            Err(Error::NotFound { .. }) => true,
            Err(error) => return Err(error),
        };
        match store.put(&key, self.encode()?, create).await {
            Ok(()) => Ok(true),
            Err(Error::Exists { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn encode(&self) -> Result<bytes::Bytes, Error> {
        let text = serde_json::to_vec(self).map_err(|error| Error::Invalid(error.to_string()))?;
        Ok(text.into())
    }

    /// Reads the marker, or makes it. [`Error::Invalid`] for foreign content, or the old layout.
    pub async fn claim(store: &Store) -> Result<Self, Error> {
        match Self::read(store).await {
            Ok(Some(marker)) => return Ok(marker),
            Ok(None) => {}
            Err(refused @ Error::Invalid(_)) => return Self::mend(store).await?.ok_or(refused),
            Err(error) => return Err(error),
        }
        // Millions of keys are foreign; and a silent store fails below.
        if let Ok(old) = tokio::time::timeout(PATIENCE, of_the_old_layout(store)).await
            && let Some(name) = old?.first()
        {
            return Err(Error::Invalid(format!(
                "{} holds apps in a layout of an earlier build of Forebay, {} among them, which this version neither reads nor \
                 removes: remove them by hand once their applications have ended, or give `remote` another prefix",
                store.path(""),
                store.path(name),
            )));
        }
        let marker = Self::new();
        match store.put(&keys::marker(), marker.encode()?, true).await {
            Ok(()) => Ok(marker),
            // Another server was quicker.
            Err(Error::Exists { key }) => {
                let marker = Self::read(store).await?;
                marker.ok_or(Error::NotFound { key })
            }
            Err(error) => Err(error),
        }
    }

    /// Restores a damaged marker if an app's record beside it is evidence for Forebay.
    async fn mend(store: &Store) -> Result<Option<Self>, Error> {
        let mut dirs = store.list(keys::ROOT).await?.dirs;
        dirs.truncate(EVIDENCE);
        let apps: Vec<_> = dirs
            .iter()
            .filter_map(|name| AppId::try_new(name))
            .collect();
        let looks = stream::iter(apps)
            .map(|app| async move { Lease::read(store, &app).await.is_ok_and(|it| it.is_some()) });
        let mut looks = looks.buffer_unordered(16);
        while let Some(ours) = looks.next().await {
            let marker = Self::new();
            if ours && marker.keep(store).await? {
                tracing::warn!(key = %store.path(&keys::marker()), "the marker was damaged: it is made anew, because records of apps say that its directory is Forebay's");
            }
            if ours {
                return Self::read(store).await;
            }
        }
        Ok(None)
    }
}

/// Directories directly below the prefix in the layout before [`keys::ROOT`], judged by their lease
/// records alone.
pub(super) async fn of_the_old_layout(store: &Store) -> Result<Vec<String>, Error> {
    let mut dirs = store.list("").await?.dirs;
    dirs.retain(|name| name != keys::ROOT && AppId::try_new(name).is_some());
    dirs.truncate(LOOKED_AT);
    let looks = stream::iter(dirs).map(|name| async move {
        let record = store.get(&format!("{name}/lease")).await;
        // An unreadable record is no evidence.
        let old = record.is_ok_and(|bytes| Lease::is_of_the_old_layout(&bytes));
        old.then_some(name)
    });
    let found = looks.buffer_unordered(16).filter_map(async |name| name);
    let mut found: Vec<_> = found.collect().await;
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn put(store: &Store, key: &str, text: &str) {
        let put = store.put(key, text.to_owned().into(), false);
        put.await.expect("put");
    }

    #[tokio::test]
    async fn the_first_server_makes_the_marker_and_all_others_find_it() {
        let store = Store::in_memory();
        let first = Marker::claim(&store).await.expect("made");
        let second = Marker::claim(&store).await.expect("found");
        assert_eq!(first, second);
        let rivals = Store::in_memory();
        let claims = (0..8).map(|_| Marker::claim(&rivals));
        let claimed = futures_util::future::join_all(claims).await;
        let pools = claimed.into_iter().map(|one| one.expect("claimed").pool);
        let pools: std::collections::BTreeSet<_> = pools.collect();
        assert_eq!(pools.len(), 1, "{pools:?}");
    }

    #[tokio::test]
    async fn foreign_things_beside_it_are_no_reason_to_refuse() {
        let store = Store::in_memory();
        for (key, text) in [
            ("warehouse/part-0", "rows"),
            ("logs/lease", "not a record"),
            ("flats/lease", r#"{"version":1,"rent":500}"#),
            ("0/lease", ""),
            ("top", "x"),
        ] {
            put(&store, key, text).await;
        }
        Marker::claim(&store).await.expect("claimed");
    }

    #[tokio::test]
    async fn a_marker_that_was_removed_or_damaged_is_made_anew_where_it_is_known_to_be_ours() {
        let store = Store::in_memory();
        let first = Marker::claim(&store).await.expect("made");
        for damaged in [Some(""), Some("{\"forebay\":"), Some("\0\0\0"), None] {
            store.delete(&keys::marker()).await.expect("deleted");
            if let Some(text) = damaged {
                put(&store, &keys::marker(), text).await;
                // A new server cannot know that.
                let refused = Marker::claim(&store).await.expect_err("no marker");
                assert!(refused.to_string().contains("remove it"), "{refused}");
            }
            assert!(first.keep(&store).await.expect("put back"), "{damaged:?}");
            assert_eq!(Marker::claim(&store).await.expect("found"), first);
            assert!(!first.keep(&store).await.expect("there"));
        }
        // Without a server that has seen the marker, an app's record is evidence.
        put(&store, "forebay-v1/warehouse/lease", "rent: 500").await;
        put(&store, &keys::marker(), "").await;
        Marker::claim(&store).await.expect_err("no record");
        let app = AppId::try_new("app-1").expect("valid");
        let record = Lease::new([7; 32], Duration::from_secs(5));
        record.create(&store, &app).await.expect("created");
        let anew = Marker::claim(&store).await.expect("made anew");
        assert_eq!(Marker::read(&store).await.expect("read"), Some(anew));
        // Another format is nobody's to mend.
        put(&store, &keys::marker(), r#"{"format":2}"#).await;
        Marker::claim(&store).await.expect_err("newer");
        assert!(!first.keep(&store).await.expect("left alone"));
    }

    #[tokio::test]
    async fn another_format_and_the_old_layout_are_refused_by_name() {
        let store = Store::in_memory();
        put(&store, &keys::marker(), "{}").await;
        let error = Marker::claim(&store).await.expect_err("no marker");
        assert!(
            error.to_string().contains(".forebay-marker is no marker"),
            "{error}"
        );
        let newer = r#"{"forebay":"","format":2,"pool":"01020304-0506-0708-090a-0b0c0d0e0f10"}"#;
        put(&store, &keys::marker(), newer).await;
        let error = Marker::claim(&store).await.expect_err("newer");
        assert!(
            error.to_string().contains("the format there is 2"),
            "{error}"
        );

        let store = Store::in_memory();
        let record = r#"{"version":1,"token-sha256":"HASH","lease-ms":5000,"renewals":1}"#;
        let record = record.replace("HASH", &"07".repeat(32));
        put(&store, "app-7/lease", &record).await;
        let error = Marker::claim(&store).await.expect_err("old");
        assert!(
            error.to_string().contains("prefix/app-7 among them"),
            "{error}"
        );
        assert!(matches!(
            store.get(&keys::marker()).await,
            Err(Error::NotFound { .. })
        ));
    }
}
