//! Queue of the client's log lines: native threads never call Java, so a Java thread polls. Before
//! the first poll, lines go to standard error.
//!
//! The queue is bounded, and logging never waits: lines without room are counted, and Java gets the
//! count. No lock is held while a line is made, and only the queue's own while the line is added,
//! so any thread may log anywhere. The end of the process loses the queue.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::VecDeque,
    env::{self, VarError},
    io::{self, Write as _},
    panic::PanicHookInfo,
    sync::{Arc, Once, OnceLock},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Environment variable: what is logged, in the syntax of `tracing_subscriber::EnvFilter`.
const LOG: &str = "FOREBAY_LOG";
const DEFAULT: &str = "warn";

/// Bounds of the queue, in lines and bytes.
const LINES: usize = 1024;
const BYTES: usize = 1 << 20;
/// Of one line.
const LONGEST: usize = 16 << 10;

/// Lines that Java has not taken yet.
#[derive(Clone, Default)]
pub(crate) struct Queue(Arc<Inner>);

#[derive(Default)]
struct Inner {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Default)]
struct Lines {
    lines: VecDeque<Line>,
    bytes: usize,
    dropped: u64,
    /// Java comes and takes them.
    kept: bool,
}

/// An event.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    level: &'static str,
    target: String,
    text: String,
}

/// Adds an event's line to the queue.
pub(crate) struct Writer {
    queue: Queue,
    level: &'static str,
    target: String,
    text: Vec<u8>,
}

/// The queue of this library.
pub(crate) fn queue() -> &'static Queue {
    static QUEUE: OnceLock<Queue> = OnceLock::new();
    QUEUE.get_or_init(Queue::default)
}

/// From now on lines wait for Java to take them.
pub(crate) fn keep() {
    start();
    queue().keep();
}

/// Collects log lines and panics from now on. A subscriber set by an embedder stays.
pub(crate) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(collect);
}

fn collect() {
    let said = match env::var(LOG) {
        Ok(said) => Some(said),
        Err(VarError::NotPresent) => None,
        Err(VarError::NotUnicode(said)) => Some(said.to_string_lossy().into_owned()),
    };
    let (filter, refused) = filter(said.as_deref());
    // Time, level and origin are Java's to write, in its layout.
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(queue().clone())
        .with_ansi(false)
        .without_time()
        .with_level(false)
        .with_target(false)
        .try_init();
    if started.is_ok() {
        // Panics of this library's code only: the library has its own copy of Rust's.
        std::panic::set_hook(Box::new(panicked));
    }
    if let Some(refused) = refused {
        tracing::warn!("{refused}");
    }
}

/// The filter of log lines, and a complaint about an unreadable setting.
fn filter(said: Option<&str>) -> (EnvFilter, Option<String>) {
    match said.map(|said| (said, EnvFilter::try_new(said))) {
        None => (EnvFilter::new(DEFAULT), None),
        Some((_, Ok(filter))) => (filter, None),
        Some((said, Err(error))) => {
            let refused = format!(
                "{LOG} is {said:?}: {error}; give a level, or levels of parts such as shuffle_client=debug; {DEFAULT} is taken"
            );
            (EnvFilter::new(DEFAULT), Some(refused))
        }
    }
}

fn panicked(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let backtrace = Backtrace::capture(); // if RUST_BACKTRACE asks for it
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(thread, "{info}\n{backtrace}");
    } else {
        tracing::error!(thread, "{info}");
    }
}

// === impl Queue ===

impl Queue {
    /// From now on lines wait for [`Self::take`].
    fn keep(&self) {
        self.0.lines.lock().kept = true;
    }

    /// Level, origin and text of each queued line, one after the other; waits for the first within
    /// the time-out.
    pub(crate) fn take(&self, timeout: Duration) -> Vec<String> {
        let (lines, dropped) = {
            let mut queue = self.0.lines.lock();
            if queue.lines.is_empty() && queue.dropped == 0 {
                self.0.more.wait_for(&mut queue, timeout);
            }
            queue.bytes = 0;
            (
                std::mem::take(&mut queue.lines),
                std::mem::take(&mut queue.dropped),
            )
        };
        let mut texts = Vec::with_capacity(3 * lines.len() + 3);
        for line in lines {
            texts.extend([line.level.to_owned(), line.target, line.text]);
        }
        if dropped > 0 {
            texts.extend([
                name(&Level::WARN).to_owned(),
                module_path!().to_owned(),
                format!("{dropped} more lines were logged than could be kept"),
            ]);
        }
        texts
    }

    fn put(&self, line: Line) {
        let mut queue = self.0.lines.lock();
        if !queue.kept {
            drop(queue);
            // A failure here cannot be reported.
            let _ = writeln!(
                io::stderr(),
                "{} {}: {}",
                line.level,
                line.target,
                line.text
            );
            return;
        }
        let bytes = line.target.len() + line.text.len();
        if queue.lines.len() < LINES && queue.bytes + bytes <= BYTES {
            queue.bytes += bytes;
            queue.lines.push_back(line);
        } else {
            queue.dropped += 1;
        }
        drop(queue);
        self.0.more.notify_one();
    }
}

fn name(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Writer;

    fn make_writer(&'a self) -> Writer {
        Writer {
            queue: self.clone(),
            level: name(&Level::WARN),
            target: String::new(),
            text: Vec::new(),
        }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Writer {
        let mut writer = self.make_writer();
        writer.level = name(meta.level());
        writer.target = meta.target().to_owned();
        writer
    }
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LONGEST.saturating_sub(self.text.len());
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.text).trim_end().to_owned();
        if !text.is_empty() {
            self.queue.put(Line {
                level: self.level,
                target: std::mem::take(&mut self.target),
                text,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Queue {
        let queue = Queue::default();
        queue.keep();
        queue
    }

    fn logged(queue: &Queue, log: impl FnOnce()) {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_writer(queue.clone())
            .with_ansi(false)
            .without_time()
            .with_level(false)
            .with_target(false)
            .finish();
        tracing::subscriber::with_default(subscriber, log);
    }

    #[test]
    fn events_come_with_level_origin_and_fields_in_their_order() {
        let queue = kept();
        logged(&queue, || {
            tracing::warn!(server = "a:1", "it is gone");
            tracing::debug!(target: "somewhere::else", "two\nlines");
        });
        let own = module_path!();
        let texts = queue.take(Duration::ZERO);
        let expected = [
            ["WARN", own, "it is gone server=\"a:1\""],
            ["DEBUG", "somewhere::else", "two\nlines"],
        ];
        assert_eq!(texts, expected.concat());
        assert!(queue.take(Duration::ZERO).is_empty());
    }

    #[test]
    fn who_logs_never_waits_and_what_finds_no_room_is_counted() {
        let queue = kept();
        logged(&queue, || {
            for number in 0..LINES + 7 {
                tracing::info!(number, "line");
            }
        });
        let texts = queue.take(Duration::ZERO);
        assert_eq!(texts.len(), 3 * (LINES + 1));
        assert!(texts[texts.len() - 1].starts_with("7 more lines"));
        logged(&queue, || {
            for _ in 0..100 {
                tracing::error!("{}", "x".repeat(100_000));
            }
        });
        let texts = queue.take(Duration::ZERO);
        let bytes: usize = texts.iter().map(String::len).sum();
        assert!(bytes <= BYTES + 1000, "{bytes}");
        assert_eq!(texts[2].len(), LONGEST);
        assert!(texts[texts.len() - 1].contains("more lines"));
    }

    #[test]
    fn who_waits_is_woken_by_a_line() {
        let queue = kept();
        let waiting = {
            let queue = queue.clone();
            std::thread::spawn(move || queue.take(Duration::from_secs(60)))
        };
        logged(&queue, || tracing::warn!("now"));
        assert_eq!(waiting.join().expect("no panic")[2], "now");
    }

    #[test]
    fn nothing_waits_for_a_java_that_never_asks() {
        let queue = Queue::default();
        logged(&queue, || tracing::warn!("to standard error"));
        assert!(queue.take(Duration::ZERO).is_empty());
        queue.keep();
        logged(&queue, || tracing::warn!("to Java"));
        assert_eq!(queue.take(Duration::ZERO)[2], "to Java");
    }

    #[test]
    fn a_text_that_is_cut_inside_a_character_is_text() {
        let queue = kept();
        logged(&queue, || tracing::warn!("x{}", "ä".repeat(LONGEST)));
        let texts = queue.take(Duration::ZERO);
        assert!(texts[2].starts_with("xää") && texts[2].len() <= LONGEST + 3);
    }

    #[test]
    fn a_setting_that_is_not_understood_is_named() {
        assert!(filter(None).1.is_none());
        assert!(filter(Some("shuffle_client=debug,info")).1.is_none());
        let refused = filter(Some("shuffle_client=loud"))
            .1
            .expect("there is no such level");
        assert!(
            refused.starts_with(r#"FOREBAY_LOG is "shuffle_client=loud": "#),
            "{refused}"
        );
    }
}
