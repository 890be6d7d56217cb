//! The way out: a fetch, from runs and from memory, in parts of about a MiB; and a second look at
//! an attempt that a reader reports.

pub(crate) mod cursor;
pub(crate) mod fetch;
mod left_out;
mod memory;
pub(crate) mod part;
pub(super) mod reader;
mod runs;
mod table;
pub(crate) mod verify;
