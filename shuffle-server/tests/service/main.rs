//! A real server in this process, and the stock generated client: what a peer of another make sees.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod fetch;
mod ops;
mod push;
mod stage;
