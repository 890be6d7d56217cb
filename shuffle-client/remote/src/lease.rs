//! The record that says until when an app's objects live. It lies beside them, so that whoever is alive can collect them.
//!
//! JSON: `version` 1, `token-sha256` in hex, `lease-ms`, `renewals` (rises with every renewal). It holds no time: clocks of different
//! machines jump and disagree. An app lives as long as its record changes; whoever has watched one for a whole lease and seen it
//! unchanged knows, by its own clock alone, that nobody renews it (see the server's `writeback::collector`).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shuffle_proto::ids::AppId;

use super::{Error, Store, keys};

const VERSION: u32 = 1;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lease {
    version: u32,
    token_sha256: String,
    lease_ms: u64,
    renewals: u64,
}

impl Lease {
    /// The first record of an app.
    pub fn new(token_hash: [u8; 32], lease: Duration) -> Self {
        Self {
            version: VERSION,
            token_sha256: hex(token_hash),
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
            renewals: 1,
        }
    }

    /// The next one.
    pub fn renewed(&self, lease: Duration) -> Self {
        Self {
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
            renewals: self.renewals.wrapping_add(1),
            ..self.clone()
        }
    }

    /// Whether this is the token with which the app was registered.
    pub fn opens(&self, token_hash: [u8; 32]) -> bool {
        self.token_sha256 == hex(token_hash)
    }

    /// How long the app's objects outlive its last renewal.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// Reads an app's record; `None` if it has none.
    pub async fn read(store: &Store, app: &AppId) -> Result<Option<Self>, Error> {
        let key = keys::lease(app);
        let bytes = match store.get(&key).await {
            Ok(bytes) => bytes,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let lease = Self::decode(&bytes).map_err(|reason| Error::Corrupt {
            key: store.path(&key).to_string(),
            reason,
        });
        lease.map(Some)
    }

    /// Reads one; the error says what does not fit.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let lease: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if lease.version != VERSION {
            return Err(format!(
                "format version is {}, this version of Forebay reads {VERSION}",
                lease.version
            ));
        }
        Ok(lease)
    }

    /// Rises with every renewal.
    pub fn renewals(&self) -> u64 {
        self.renewals
    }

    /// Writes it, in the place of the one before.
    pub async fn write(&self, store: &Store, app: &AppId) -> Result<(), Error> {
        let text = serde_json::to_vec(self).map_err(|error| Error::Invalid(error.to_string()))?;
        store.put(&keys::lease(app), text.into(), false).await
    }
}

fn hex(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
