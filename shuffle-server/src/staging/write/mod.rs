//! The way in: from a pushed batch to a run in a segment, and from a deletion to free space.
//!
//! ```text
//! attempt ─▶ [queue] ─▶ writer ─▶ commit ─▶ commit_log ─▶ index ─▶ visible
//!                         │          └────▶ run ────────────▶ │
//!                         └─▶ flush ──────▶ run ────────────▶ │
//! ```

pub(crate) mod apps;
pub(crate) mod attempt;
pub(crate) mod commit;
pub(crate) mod commit_log;
pub(crate) mod delete;
pub(crate) mod flush;
pub(crate) mod forget;
pub(crate) mod open;
pub(crate) mod relief;
pub(crate) mod remover;
pub(crate) mod run;
pub(crate) mod writer;
