//! The client behind JNI, as declared by `io.forebay.core.Native`; knows no Spark.
//!
//! - `exports`: one function per native method: decode, call, encode. The only file that sees JVM
//!   objects.
//! - [`handle`]: the tables of what Java has opened. Java holds ids, never addresses.
//! - [`writer`], [`reader`], [`app`]: what an id stands for; the first two are the client's
//!   `blocking` ones. [`runtime`]: I/O threads, and waits of Java threads.
//! - [`log`]: log lines on their way to Java.
//! - [`error`]: every failure and every panic becomes one Java exception. [`settings`]: the JSON of
//!   a client's settings.
//!
//! Rules everywhere: a call returns within its time-out; native threads never call Java; every
//! value from Java is checked before use (ids, lengths, offsets, partitions), so a bug in Java is
//! an exception, not a crash. One rule cannot be checked: Java must leave an arena alone during a
//! flush, see the client's `arena`.

mod app;
mod error;
mod exports;
mod handle;
mod log;
mod reader;
mod runtime;
mod settings;
mod writer;
