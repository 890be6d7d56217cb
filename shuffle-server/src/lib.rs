//! Forebay's server: takes map output, stages it on local disks, serves reducers.
//!
//! The way of a block: `service` reads it off the network, [`registry`] says whether its app may,
//! [`staging`] holds it in memory and on disk and finds it again through [`index`]; [`writeback`]
//! copies it later to the object store, which is what [`shuffle_remote`] is about. `core` is what a
//! server is without a wire. [`server`] wires the parts together; [`admin`] is what people and
//! probes see, [`tool`] what an operator types.

pub mod admin;
pub mod auth;
pub mod budget;
pub mod clock;
pub mod config;
mod core;
pub mod error;
pub mod index;
pub mod metrics;
pub mod registry;
pub mod release;
pub mod server;
mod service;
pub mod staging;
mod tls;
pub mod tool;
pub mod writeback;
