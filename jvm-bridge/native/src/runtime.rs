//! I/O threads, and waits of Java threads for them.
//!
//! One runtime per loaded library, started by the first call in need of one and never stopped: its
//! threads are unknown to the JVM, so they keep no JVM from exiting, and the last user is unknown.
//! The threads never call Java.

use std::{future::Future, sync::OnceLock, time::Duration};

use shuffle_client::{Error, Kind, blocking};
use tokio::runtime::{Builder, Runtime};

/// Fewest and most threads. Two let a slow decode go on beside the sockets; more than eight have
/// nothing to do, because Java threads sort, compress and frame by themselves.
const THREADS: (usize, usize) = (2, 8);

/// The runtime; starts it the first time.
pub(crate) fn get() -> Result<&'static Runtime, Error> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    RUNTIME
        .get_or_init(|| start().map_err(|error| error.to_string()))
        .as_ref()
        .map_err(|error| {
            Error::new(
                Kind::Internal,
                format!(
                    "cannot start the I/O threads: {error}; raise the limit of threads (ulimit -u)"
                ),
            )
        })
}

/// Makes glibc return freed memory in small processes: by default glibc keeps a heap per thread,
/// and stops returning large buffers at once after a few of them. The setting holds for the whole
/// process, as does a kill for lack of memory.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn spare_memory() {
    unsafe extern "C" {
        safe fn mallopt(param: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
    }
    /// Names of glibc's malloc.h.
    const M_TRIM_THRESHOLD: std::ffi::c_int = -1;
    const M_MMAP_THRESHOLD: std::ffi::c_int = -3;
    const M_ARENA_MAX: std::ffi::c_int = -8;
    // Each answers 0 if it is not known, which changes nothing but memory.
    mallopt(M_MMAP_THRESHOLD, 256 << 10);
    mallopt(M_TRIM_THRESHOLD, 256 << 10);
    mallopt(M_ARENA_MAX, 4);
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn spare_memory() {}

fn start() -> std::io::Result<Runtime> {
    crate::log::start();
    let cores = std::thread::available_parallelism().map_or(THREADS.0, usize::from);
    Builder::new_multi_thread()
        .worker_threads(cores.clamp(THREADS.0, THREADS.1))
        .max_blocking_threads(4)
        .thread_name("forebay-io")
        .enable_all()
        .build()
}

/// Waits for the future within the time-out; `None` = not yet.
pub(crate) fn wait<F: Future>(timeout: Duration, future: F) -> Result<Option<F::Output>, Error> {
    Ok(blocking::wait(get()?.handle(), timeout, future))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_wait_ends_with_its_time_out() {
        let start = Instant::now();
        let answer =
            wait(Duration::from_millis(20), std::future::pending::<()>()).expect("a runtime");
        assert!(answer.is_none());
        let waited = start.elapsed();
        assert!(
            waited >= Duration::from_millis(20) && waited < Duration::from_secs(30),
            "{waited:?}"
        );
    }

    #[test]
    fn what_is_there_already_is_answered_without_waiting() {
        assert_eq!(
            wait(Duration::ZERO, std::future::ready(7)).expect("a runtime"),
            Some(7)
        );
    }

    #[test]
    fn a_wait_ends_when_a_task_of_the_runtime_is_done() {
        let task = get().expect("a runtime").spawn(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            5
        });
        assert_eq!(
            wait(Duration::from_secs(60), task)
                .expect("a runtime")
                .map(Result::ok),
            Some(Some(5))
        );
    }
}
