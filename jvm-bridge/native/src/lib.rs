//! The client behind JNI: what `io.forebay.core.Native` declares, and nothing that knows Spark.
//!
//! - `exports`: one function per native method: decode, call, encode. The only file that sees JVM objects.
//! - [`handle`]: the tables of what Java has opened. Java holds ids, never addresses.
//! - [`writer`], [`reader`], [`app`]: what an id stands for. [`sort`]: a full arena becomes blocks; pure.
//! - [`arena`]: native memory that Java writes records into. [`runtime`]: the threads that do I/O, and how a Java thread waits.
//! - [`log`]: what the client logs, until Java takes it.
//! - [`error`]: every failure and every panic becomes one Java exception. [`settings`]: the JSON of a client's settings.
//!
//! Rules that hold everywhere: a call returns within its time-out; native threads never call Java; nothing that Java passes is
//! believed before it is checked (ids, lengths, offsets, partitions), so a bug in Java is an exception, not a crash. What cannot be
//! checked is that Java leaves an arena alone while it is flushed: see [`arena`].

mod app;
mod arena;
mod error;
mod exports;
mod handle;
mod log;
mod reader;
mod runtime;
mod settings;
mod sort;
mod writer;
