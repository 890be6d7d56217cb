//! The record that says whose an app is, and until when its objects live. It lies beside them, so that whoever is alive can collect
//! them, and it is there before the first of them: a server that hears of an app for the first time makes it, or compares the token
//! with it (see the server's `writeback::records`).
//!
//! JSON: `version` 2, `token-sha256` in hex, `lease-ms`, `renewals` (rises with every renewal), `buried` (a UUID, or absent), `silent`
//! (true, or absent), `checksum` (CRC-32 of the others' values with a space between). It holds no time: clocks of different machines jump and disagree. An app lives as long as its record changes; whoever has watched one for
//! two whole leases and longer, and seen it unchanged, knows by its own clock alone that nobody renews it.
//!
//! A record with `buried` is a *tombstone*: the app is dead, what it has is being removed by the one that this UUID names, and the
//! record goes last. Who is interrupted leaves it, and whoever sees it unchanged goes on. With `silent` it is dead because nobody
//! renewed the record, and if it turns out to live, its servers make a record of it again; without, somebody has deleted it, and only
//! its driver can do that.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shuffle_proto::ids::AppId;
use uuid::Uuid;

use super::{Error, Store, keys};

const VERSION: u32 = 2;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lease {
    version: u32,
    token_sha256: String,
    lease_ms: u64,
    renewals: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    buried: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    silent: bool,
    /// Of all the others, so that a flipped bit is nobody else's token.
    checksum: u32,
}

/// What every version has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// What version 1 had.
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
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
            renewals: 1,
            buried: None,
            silent: false,
            checksum: 0,
        }
        .sealed()
    }

    /// The next one: of an app that lives.
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

    /// The tombstone in its place; `silent` if nobody has deleted the app.
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
            lease_ms,
            renewals,
            buried,
            silent,
            checksum: _,
        } = self;
        let buried = buried.as_deref().unwrap_or_default();
        let text = format!("{version} {token_sha256} {lease_ms} {renewals} {buried} {silent}");
        crc32fast::hash(text.as_bytes())
    }

    /// Who removes what the app has; `None` while it lives.
    pub fn buried_by(&self) -> Option<&str> {
        self.buried.as_deref()
    }

    /// Whether somebody has deleted the app.
    pub fn is_deleted(&self) -> bool {
        self.buried.is_some() && !self.silent
    }

    /// Whether this is the token with which the app was registered. In a time that does not depend on where they differ.
    pub fn opens(&self, token_hash: [u8; 32]) -> bool {
        let (ours, theirs) = (self.token_sha256.as_bytes(), hex(token_hash));
        let pairs = ours.iter().zip(theirs.as_bytes());
        let difference = pairs.fold(0, |all, (a, b)| all | (a ^ b));
        ours.len() == theirs.len() && std::hint::black_box(difference) == 0
    }

    /// How long the app's objects outlive its last renewal.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// Reads an app's record; `None` if it has none.
    pub async fn read(store: &Store, app: &AppId) -> Result<Option<Self>, Error> {
        let key = keys::lease(app);
        let mut reason = String::new();
        // Once more: it may have changed on the way only.
        for _ in 0..2 {
            let bytes = match store.get(&key).await {
                Ok(bytes) => bytes,
                Err(Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            match Self::decode(&bytes) {
                Ok(lease) => return Ok(Some(lease)),
                Err(why) => reason = why,
            }
        }
        Err(Error::Corrupt {
            key: store.path(&key).to_string(),
            reason: format!("it is no lease record of Forebay's: {reason}"),
        })
    }

    /// Reads one; the error says what does not fit.
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
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if lease.token_sha256.len() != 64 || !lease.token_sha256.bytes().all(hex) {
            return Err("token-sha256 is no SHA-256 in hex".into());
        }
        Ok(lease)
    }

    /// Whether these bytes are a record of the layout before [`keys::ROOT`], and can be nothing else.
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

    /// Writes it where there is none; [`Error::Exists`] if there is one.
    pub async fn create(&self, store: &Store, app: &AppId) -> Result<(), Error> {
        store.put(&keys::lease(app), self.encode()?, true).await
    }

    /// Writes it, in the place of the one before.
    pub async fn write(&self, store: &Store, app: &AppId) -> Result<(), Error> {
        store.put(&keys::lease(app), self.encode()?, false).await
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
        let record = Lease::new([7; 32], Duration::from_secs(5));
        let mut almost = [7; 32];
        almost[31] ^= 1;
        assert!(record.opens([7; 32]) && !record.opens(almost));
        let text = String::from_utf8(record.encode().expect("encoded").to_vec()).expect("text");
        assert_eq!(
            text,
            format!(
                "{{\"version\":2,\"token-sha256\":\"{}\",\"lease-ms\":5000,\"renewals\":1,\"checksum\":1682200996}}",
                "07".repeat(32)
            ),
            "a changed format needs a new version"
        );
        // No flipped bit makes it another's.
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

    #[test]
    fn what_is_no_record_of_ours_is_refused() {
        let old = r#"{"version":1,"token-sha256":"HASH","lease-ms":5000,"renewals":1}"#;
        let old = old.replace("HASH", &"07".repeat(32));
        let error = Lease::decode(old.as_bytes()).expect_err("another version");
        assert_eq!(
            error,
            "format version is 1, this version of Forebay reads 2"
        );
        assert!(Lease::is_of_the_old_layout(old.as_bytes()));
        for text in [
            "",
            "{}",
            "rent: 500",
            r#"{"version":2,"token-sha256":"","lease-ms":1,"renewals":1}"#,
            r#"{"version":2,"token-sha256":"HASH","lease-ms":-1,"renewals":1}"#,
        ] {
            let text = text.replace("HASH", &"07".repeat(32));
            assert!(Lease::decode(text.as_bytes()).is_err(), "{text}");
            assert!(!Lease::is_of_the_old_layout(text.as_bytes()), "{text}");
        }
    }
}
