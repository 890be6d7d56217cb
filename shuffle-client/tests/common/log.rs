//! What the client says in the log.

#![allow(dead_code)] // not every test looks

use std::{
    io::{self, Write},
    sync::{Mutex, Once, PoisonError},
};

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// The warnings of this process from now on; tests tell theirs by the addresses in them.
pub struct Log;

struct Writer;

impl Log {
    pub fn start() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            tracing_subscriber::fmt()
                .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
                .with_ansi(false)
                .with_writer(|| Writer)
                .init();
        });
        Self
    }

    /// How many lines say both.
    pub fn lines(&self, what: &str, of: &str) -> usize {
        let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&lines);
        let both = |line: &&str| line.contains(what) && line.contains(of);
        text.lines().filter(both).count()
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        lines.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
