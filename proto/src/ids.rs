//! Identities, one type each, so that no two of them can be mixed up.

use std::{fmt, sync::Arc};

use uuid::Uuid;

/// One Spark application attempt: `[A-Za-z0-9._-]{1,128}`, and neither `.` nor `..`, so that it can
/// name a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppId(Arc<str>);

impl AppId {
    /// Checks the text; `None` if it is no application id.
    pub fn try_new(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let valid = (1..=128).contains(&text.len())
            && text.bytes().all(allowed)
            && text != "."
            && text != "..";
        valid.then(|| Self(text.into()))
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $raw);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id! {
    /// One shuffle of an app.
    ShuffleId(u32)
}
number_id! {
    /// Position of a map task in its shuffle, from 0. Spark's own `mapId` is not this but the
    /// [`AttemptId`].
    MapIndex(u32)
}
number_id! {
    /// One try at a map index, unique in the app (Spark's task attempt id).
    AttemptId(u64)
}
number_id! {
    /// Reduce partition, from 0.
    PartitionId(u32)
}

/// Map and attempt behind a block, within one shuffle.
pub type Owner = (MapIndex, AttemptId);

/// One data directory and all in it: the unit of identity and of failure. An address is only where
/// one was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub Uuid);

impl VolumeId {
    /// A new identity, for a new data directory.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}
