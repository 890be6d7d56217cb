//! (being built)
/// The index failed.
#[derive(Debug, thiserror::Error)]
#[error("index: {0}")]
pub struct Error(String);
