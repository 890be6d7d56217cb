//! The end of volumes, without a server around them.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;
use crate::staging::{
    Durability, Operation,
    tests::{Bench, even, key, write},
};

/// A disk that writes once another has been written to.
struct After(Arc<AtomicBool>);

impl Faults for After {
    fn before(&self, operation: Operation, _: &Path) -> io::Result<()> {
        while operation == Operation::Write && !self.0.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// The disk that the other waits for.
struct Before(Arc<AtomicBool>);

impl Faults for Before {
    fn before(&self, operation: Operation, _: &Path) -> io::Result<()> {
        self.0
            .fetch_or(operation == Operation::Write, Ordering::SeqCst);
        Ok(())
    }
}

/// One after the other would never end: the first waits for the last.
#[tokio::test(flavor = "multi_thread")]
async fn volumes_close_at_the_same_time_and_none_waits_for_the_disk_of_another() {
    let written = Arc::new(AtomicBool::new(true));
    let (mut slow, mut other) = (Bench::new(), Bench::new());
    slow.faults = Some(Arc::new(After(written.clone())));
    other.faults = Some(Arc::new(Before(written.clone())));
    let mut volumes = Vec::new();
    for bench in [&slow, &other] {
        let volume = bench.open();
        let shape = even(0..4, 1000);
        write(bench, &volume, key(1, 0, 1), &shape, Durability::Memory).await;
        assert!(volume.only_in_memory() > 0);
        volumes.push(volume);
    }
    written.store(false, Ordering::SeqCst);
    assert_eq!(close_volumes(&Volumes::new(volumes)).await, 0);
}
