//! The server as a process, seen by a stock gRPC peer: its promises, its refusals, and its crashes.

// A failed unwrap is a failed test; clippy's own exemption for tests does not reach their helper
// functions.
#![allow(clippy::unwrap_used)]

mod architecture;
mod callers;
mod corruption;
mod cpu;
mod deleted;
mod disks;
mod durability;
mod hostile;
mod identities;
mod imports;
mod leases;
mod lifecycle;
mod lost;
mod memory;
mod operator;
mod peers;
mod push;
mod random;
mod remote;
mod reopened;
mod round_trip;
mod wire;
