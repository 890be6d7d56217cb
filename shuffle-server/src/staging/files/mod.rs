//! What outlives the process: the files of a data directory. Their bytes, their names, and how far
//! each is written and synced.
//!
//! Owns no decision about what is in them: that is `state`'s and above. Knows nothing of shuffles
//! but their ids.

pub(crate) mod ballast;
pub(crate) mod directory;
pub(crate) mod format;
pub(crate) mod layout;
pub(crate) mod log_file;
pub(crate) mod lost;
pub(crate) mod segment;
