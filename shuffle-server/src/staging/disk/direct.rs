//! Writes past the page cache: the aligned buffer that they need, and how much page cache there is.

use std::{
    io,
    time::{Duration, Instant},
};

use memmap2::{Advice, MmapMut};
use parking_lot::Mutex;

use crate::clock::{Clock, SystemClock};

/// Buffer that is gathered into before a write past the page cache.
pub(crate) const GATHER: usize = 4 << 20;

/// An aligned buffer of [`GATHER`] bytes that is gathered into and written whole, past the page
/// cache or not.
pub(crate) struct Gather(MmapMut);

// === impl Gather ===

impl Gather {
    pub(super) fn new() -> io::Result<Self> {
        let memory = MmapMut::map_anon(GATHER)?;
        // Only costs less where the system has it.
        let _ = memory.advise(Advice::HugePage);
        Ok(Self(memory))
    }

    pub(crate) fn buffer(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Memory that the machine, or the container, could still use for the page cache; by a look that is
/// up to a second old, because it is asked for with every run and the files of `/proc` take a while
/// to make up.
pub(crate) fn page_cache_room() -> Option<u64> {
    static LAST: Mutex<Option<(Instant, Option<u64>)>> = Mutex::new(None);
    let now = SystemClock.now();
    let mut last = LAST.lock();
    match *last {
        Some((at, room)) if now - at < Duration::from_secs(1) => room,
        _ => {
            let room = look_for_room();
            *last = Some((now, room));
            room
        }
    }
}

fn look_for_room() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
    Some(limit.map_or(available, |limit| limit.min(available)))
}
