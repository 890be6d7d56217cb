//! Lease records: identity of an app and lifetime of its objects. The record lies beside the
//! objects, so that any live server can remove them, and exists before the first object: the first
//! server that hears of an app makes the record, all others compare tokens (see the server's
//! `writeback::records`).
//!
//! JSON: `version` 3, `token-sha256` in hex, `born` (a UUID), `lease-ms`, `renewals` (rises with
//! every renewal), `buried` (a UUID, or absent), `silent` (true, or absent), `checksum` (CRC-32 of
//! the other values with a space between). No time: clocks of different machines jump and disagree.
//! An app lives while its record changes; a server that has watched a record for two leases and
//! longer without a change knows, by its own clock alone, that nobody renews the record.
//!
//! A record with `buried` is a *tombstone*: the app is dead, the process named by the UUID removes
//! its objects, and the record goes last. An interrupted removal is taken over by a server that
//! sees the tombstone unchanged. With `silent` the app is dead because nobody renewed the record;
//! an app found alive gets a live record again from its servers. Without `silent` the app was
//! deleted and stays dead. A next app of the same name, even with the same token, gets a record
//! with another `born` once this one is gone: statements on one life do not hold for the other.
//!
//! A record replaces the record that was read, and only if nobody has written since
//! ([`Store::replace`]): a tombstone never replaces a renewal unseen by its writer, nor the record
//! of the next app of the name.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shuffle_proto::ids::AppId;
use uuid::Uuid;

use super::{Error, Store, Version as Read, keys};

const VERSION: u32 = 3;

/// A lease record. Equality is by content.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lease {
    version: u32,
    token_sha256: String,
    born: String,
    lease_ms: u64,
    renewals: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    buried: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    silent: bool,
    /// CRC-32 over the other values, so that a flipped bit is no other token.
    checksum: u32,
    /// Version read from the store, to be replaced.
    #[serde(skip)]
    read: Option<(Read, bytes::Bytes)>,
}

impl PartialEq for Lease {
    fn eq(&self, other: &Self) -> bool {
        // The version is no content.
        serde_json::to_vec(self).ok() == serde_json::to_vec(other).ok()
    }
}

impl Eq for Lease {}

/// Fields of every version.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Fields of version 1.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Old {
    version: u32,
    token_sha256: String,
    lease_ms: u64,
    #[serde(rename = "renewals")]
    _renewals: u64,
}

impl Lease {
    /// The first record of an app.
    pub fn new(token_hash: [u8; 32], lease: Duration) -> Self {
        Self {
            version: VERSION,
            token_sha256: hex(token_hash),
            born: Uuid::new_v4().to_string(),
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
            renewals: 1,
            buried: None,
            silent: false,
            checksum: 0,
            read: None,
        }
        .sealed()
    }

    /// Record of an app with an unreadable one: of the life named by `born`.
    pub fn again(token_hash: [u8; 32], lease: Duration, born: Option<Uuid>) -> Self {
        let new = Self::new(token_hash, lease);
        let born = born.map_or_else(|| new.born.clone(), |born| born.to_string());
        Self { born, ..new }.sealed()
    }

    /// The next record of a live app.
    pub fn renewed(&self, lease: Duration) -> Self {
        Self {
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
            renewals: self.renewals.wrapping_add(1),
            buried: None,
            silent: false,
            ..self.clone()
        }
        .sealed()
    }

    /// The tombstone after this record; `silent` for an app that was not deleted.
    pub fn buried(&self, by: Uuid, silent: bool) -> Self {
        Self {
            renewals: self.renewals.wrapping_add(1),
            buried: Some(by.to_string()),
            silent,
            ..self.clone()
        }
        .sealed()
    }

    fn sealed(mut self) -> Self {
        self.checksum = self.computed();
        self
    }

    fn computed(&self) -> u32 {
        let Self {
            version,
            token_sha256,
            born,
            lease_ms,
            renewals,
            buried,
            silent,
            checksum: _,
            read: _,
        } = self;
        let buried = buried.as_deref().unwrap_or_default();
        let text =
            format!("{version} {token_sha256} {born} {lease_ms} {renewals} {buried} {silent}");
        crc32fast::hash(text.as_bytes())
    }

    /// Life of the name: one UUID per app of this name.
    pub fn born(&self) -> Uuid {
        // Unreadable records were refused.
        Uuid::parse_str(&self.born).unwrap_or_default()
    }

    /// SHA-256 of the token with which the app was registered.
    pub fn token_hash(&self) -> [u8; 32] {
        let digit = |at: usize| self.token_sha256.get(at..at + 2);
        let byte = |at| digit(at).and_then(|two| u8::from_str_radix(two, 16).ok());
        // Unreadable records were refused.
        std::array::from_fn(|at| byte(at * 2).unwrap_or_default())
    }

    /// The record, for a write without a condition.
    pub fn anyway(&self) -> Self {
        Self {
            read: None,
            ..self.clone()
        }
    }

    /// Process that removes the app's objects; `None` while the app lives.
    pub fn buried_by(&self) -> Option<&str> {
        self.buried.as_deref()
    }

    /// Whether somebody has deleted the app.
    pub fn is_deleted(&self) -> bool {
        self.buried.is_some() && !self.silent
    }

    /// Whether the app was registered with this token. Constant time.
    pub fn opens(&self, token_hash: [u8; 32]) -> bool {
        let (ours, theirs) = (self.token_sha256.as_bytes(), hex(token_hash));
        let pairs = ours.iter().zip(theirs.as_bytes());
        let difference = pairs.fold(0, |all, (a, b)| all | (a ^ b));
        ours.len() == theirs.len() && std::hint::black_box(difference) == 0
    }

    /// How long the app's objects outlive the last renewal.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// Reads an app's record; `None` if there is none.
    pub async fn read(store: &Store, app: &AppId) -> Result<Option<Self>, Error> {
        let key = keys::lease(app);
        let mut reason = String::new();
        // Read twice: the damage may be on the way only.
        for _ in 0..2 {
            let (bytes, version) = match store.get_version(&key).await {
                Ok(got) => got,
                Err(Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            match Self::decode(&bytes) {
                Ok(lease) => {
                    let read = Some((version, bytes));
                    return Ok(Some(Self { read, ..lease }));
                }
                Err(why) => reason = why,
            }
        }
        Err(Error::Corrupt {
            key: store.path(&key).to_string(),
            reason: format!(
                "it is no lease record of Forebay's ({reason}): a server that has seen the app's record writes it anew; where none is \
                 left, remove it"
            ),
        })
    }

    /// Decodes a record; the error names the bad field.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let any: Version = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if any.version != VERSION {
            return Err(format!(
                "format version is {}, this version of Forebay reads {VERSION}",
                any.version
            ));
        }
        let lease: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let computed = lease.computed();
        if lease.checksum != computed {
            return Err(format!(
                "checksum is {:08x}, computed {computed:08x}",
                lease.checksum
            ));
        }
        if Uuid::parse_str(&lease.born).is_err() {
            return Err("born is no UUID".into());
        }
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if lease.token_sha256.len() != 64 || !lease.token_sha256.bytes().all(hex) {
            return Err("token-sha256 is no SHA-256 in hex".into());
        }
        Ok(lease)
    }

    /// Whether the bytes can only be a record of the layout before [`keys::ROOT`].
    pub(super) fn is_of_the_old_layout(bytes: &[u8]) -> bool {
        let Ok(record) = serde_json::from_slice::<Old>(bytes) else {
            return false;
        };
        record.version == 1 && record.token_sha256.len() == 64 && record.lease_ms > 0
    }

    /// Rises with every renewal.
    pub fn renewals(&self) -> u64 {
        self.renewals
    }

    /// Writes a first record; [`Error::Exists`] if there is one.
    pub async fn create(&self, store: &Store, app: &AppId) -> Result<(), Error> {
        store.put(&keys::lease(app), self.encode()?, true).await
    }

    /// Whether the record has a later format, which must not be repaired.
    pub async fn is_newer(store: &Store, app: &AppId) -> Result<bool, Error> {
        match store.get(&keys::lease(app)).await {
            Ok(bytes) => Ok(serde_json::from_slice::<Version>(&bytes)
                .is_ok_and(|found| found.version > VERSION)),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Replaces the record read before, or any if none was; [`Error::Exists`] if another was
    /// written since.
    pub async fn write(&self, store: &Store, app: &AppId) -> Result<(), Error> {
        let (key, bytes) = (keys::lease(app), self.encode()?);
        let Some((version, read)) = &self.read else {
            return store.put(&key, bytes, false).await;
        };
        match store.replace(&key, bytes.clone(), version).await {
            Err(Error::Exists { key: path }) => match store.get(&key).await {
                // The first answer was lost: the record is there.
                Ok(now) if now == bytes => Ok(()),
                // Nobody has written: a proxy on the way changes versions (compression makes them
                // weak), and no app may die of that. No two records are equal, so this is the
                // record read before.
                Ok(now) if now == *read => store.put(&key, bytes, false).await,
                _ => Err(Error::Exists { key: path }),
            },
            written => written,
        }
    }

    fn encode(&self) -> Result<bytes::Bytes, Error> {
        let text = serde_json::to_vec(self).map_err(|error| Error::Invalid(error.to_string()))?;
        Ok(text.into())
    }
}

fn hex(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_opens_for_its_token_and_a_tombstone_is_one_until_it_is_renewed() {
        let mut record = Lease::new([7; 32], Duration::from_secs(5));
        record.born = Uuid::from_u128(7).to_string();
        let record = record.sealed();
        let mut almost = [7; 32];
        almost[31] ^= 1;
        assert!(record.opens([7; 32]) && !record.opens(almost));
        assert_eq!(Lease::new(almost, record.lease()).token_hash(), almost);
        let text = String::from_utf8(record.encode().expect("encoded").to_vec()).expect("text");
        assert_eq!(
            text,
            format!(
                "{{\"version\":3,\"token-sha256\":\"{}\",\"born\":\"00000000-0000-0000-0000-000000000007\",\"lease-ms\":5000,\"renewals\":1,\"checksum\":1821616651}}",
                "07".repeat(32)
            ),
            "a changed format needs a new version"
        );
        // No flipped bit makes the token another's.
        for bit in 0..text.len() * 8 {
            let mut broken = text.clone().into_bytes();
            broken[bit / 8] ^= 1 << (bit % 8);
            let read = Lease::decode(&broken);
            assert!(
                read.is_err() || read.as_ref() == Ok(&record),
                "{bit}: {read:?}"
            );
        }
        let by = Uuid::from_u128(9);
        let tombstone = Lease::decode(&record.buried(by, false).encode().expect("encoded"));
        let tombstone = tombstone.expect("a record too");
        let name = by.to_string();
        assert_eq!(tombstone.buried_by(), Some(&name[..]));
        assert_eq!(tombstone.renewals(), 2);
        assert!(tombstone.opens([7; 32]) && tombstone.is_deleted());
        assert!(!tombstone.buried(by, true).is_deleted());
        let again = tombstone.renewed(Duration::from_secs(6));
        assert_eq!((again.buried_by(), again.renewals()), (None, 3));
    }

    #[tokio::test]
    async fn a_record_takes_the_place_of_the_one_that_was_read_and_of_no_other() {
        let app = AppId::try_new("app-1").expect("valid");
        let dir = tempfile::tempdir().expect("temporary directory");
        let url = format!("file://{}", dir.path().display());
        for store in [
            Store::in_memory(),
            Store::open(&url, std::sync::Arc::new(())).expect("a store"),
        ] {
            let first = Lease::new([7; 32], Duration::from_secs(5));
            first.create(&store, &app).await.expect("created");
            let read = async || Lease::read(&store, &app).await.expect("read");
            let (one, two) = (read().await.expect("there"), read().await.expect("there"));
            let renewed = one.renewed(Duration::from_secs(6));
            renewed.write(&store, &app).await.expect("written");
            // A process without that reading does not bury the app.
            let stone = two.buried(Uuid::from_u128(1), false);
            let late = stone.write(&store, &app).await;
            assert!(
                matches!(late, Err(Error::Exists { .. })),
                "{store:?}: {late:?}",
                store = store.url()
            );
            assert_eq!(read().await.as_ref(), Some(&renewed));
            // A store without reliable versions is written to if nobody else has written.
            let other = "forebay-v1/app-1/other";
            store.put(other, "x".into(), false).await.expect("put");
            let (_, wrong) = store.get_version(other).await.expect("there");
            store.delete(other).await.expect("deleted");
            let mut odd = read().await.expect("there");
            odd.read.as_mut().expect("as it was read").0 = wrong;
            let renewed = odd.renewed(Duration::from_secs(6));
            renewed.write(&store, &app).await.expect("written");
            assert_eq!(read().await.as_ref(), Some(&renewed));
            let late = odd.buried(Uuid::from_u128(1), false);
            let late = late.write(&store, &app).await;
            assert!(matches!(late, Err(Error::Exists { .. })), "{late:?}");
            // The same write again finds its own record: the answer was lost.
            renewed.write(&store, &app).await.expect("the same again");
            // Nor does the record come back once removed.
            let seen = read().await.expect("there");
            store.delete(&keys::lease(&app)).await.expect("deleted");
            let late = seen
                .renewed(Duration::from_secs(6))
                .write(&store, &app)
                .await;
            assert!(matches!(late, Err(Error::Exists { .. })), "{late:?}");
            assert_eq!(read().await, None);
        }
    }

    #[test]
    fn what_is_no_record_of_ours_is_refused() {
        let old = r#"{"version":1,"token-sha256":"HASH","lease-ms":5000,"renewals":1}"#;
        let old = old.replace("HASH", &"07".repeat(32));
        let error = Lease::decode(old.as_bytes()).expect_err("another version");
        assert_eq!(
            error,
            "format version is 1, this version of Forebay reads 3"
        );
        assert!(Lease::is_of_the_old_layout(old.as_bytes()));
        for text in [
            "",
            "{}",
            "rent: 500",
            r#"{"version":3,"token-sha256":"","lease-ms":1,"renewals":1}"#,
            r#"{"version":3,"token-sha256":"HASH","lease-ms":-1,"renewals":1}"#,
        ] {
            let text = text.replace("HASH", &"07".repeat(32));
            assert!(Lease::decode(text.as_bytes()).is_err(), "{text}");
            assert!(!Lease::is_of_the_old_layout(text.as_bytes()), "{text}");
        }
    }
}
