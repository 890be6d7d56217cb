//! Bits that flip on a server's disk or in the object store: every reader gets the right rows, or
//! the one map is named, and running it again heals the job.

use shuffle_client::{Kind, VolumeId};
use shuffle_tests::disk;
use std::{fs, path::PathBuf};

use super::{written_back::pool, *};

/// Flips a bit of a task's block in its file. The block must not be compressed.
fn flip(files: impl IntoIterator<Item = PathBuf>, task: &Task, round: u32, partition: u32) {
    let block = task.block(round, partition);
    let needle = &block[..64];
    for path in files {
        let bytes = fs::read(&path).unwrap();
        let mut places = bytes.windows(needle.len());
        if let Some(at) = places.position(|window| window == needle) {
            return disk::flip(&path, at as u64 + 20, 3);
        }
    }
    panic!("the block is in no file");
}

/// The map that the scheduler is to run again, and whoever asks is told the same.
async fn named(driver: &Driver, outputs: &[Output]) -> (MapIndex, AttemptId) {
    let mut named = Vec::new();
    for _ in 0..2 {
        let error = read_all(driver.reader(0, outputs.to_vec()))
            .await
            .unwrap_err();
        assert_eq!(error.kind, Kind::Lost, "{error}");
        let lost = error.output.expect("a map is named");
        named.push((lost.map_index, lost.attempt));
    }
    assert_eq!(named[0], named[1]);
    named[0]
}

/// The map whose blocks are stored as they are, see `Driver::spec`.
const PLAIN: u32 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_in_a_segment_or_a_log_costs_its_map_once_and_running_it_again_heals() {
    for (bytes, restart) in [(30_000, false), (300, true)] {
        let mut server = Server::start().await;
        server.allow_errors(""); // a person must look at a disk that does this
        let driver = Driver::new(&[&server]).await;
        let mut tasks: Vec<_> = tasks(6)
            .into_iter()
            .map(|task| Task { bytes, ..task })
            .collect();
        let mut outputs = write_all(&driver, 0, &tasks).await;
        if restart {
            // Memory has small ones too.
            server.kill();
        }
        flip(server.data_files(), &tasks[1], 2, 5);
        if restart {
            server.restart().await;
        }
        // For every reader, and nothing else than that map.
        for _ in 0..2 {
            let error = read_all(driver.reader(0, outputs.clone()))
                .await
                .unwrap_err();
            let lost = error.output.expect("a map is named");
            assert_eq!(
                (error.kind, lost.map_index, lost.attempt),
                (Kind::Lost, MapIndex(PLAIN), AttemptId(2)),
                "{error}"
            );
        }
        let others: Vec<_> = outputs
            .iter()
            .filter(|one| one.map_index.0 != PLAIN)
            .cloned()
            .collect();
        assert_eq!(
            read_all(driver.reader(0, others)).await.unwrap().len(),
            5 * PARTITIONS as usize
        );
        // The scheduler runs it again, and the new attempt lies on the same volume.
        tasks[1] = Task {
            attempt: 100,
            bytes,
            ..Task::new(PLAIN, 0)
        };
        let commit = tasks[1].run(&driver, 0, 6).await.unwrap();
        outputs[1] = tasks[1].output(&commit);
        let volume: VolumeId = outputs[0].volume;
        assert!(outputs.iter().all(|output| output.volume == volume));
        for again in [false, true] {
            if again {
                server.kill();
                server.restart().await;
            }
            let rows = read_all(driver.reader(0, outputs.clone())).await.unwrap();
            check(&rows, &tasks);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_where_the_store_has_a_good_copy_costs_nothing() {
    let mut pool = pool("eager").await;
    for server in &mut pool.servers {
        server.allow_errors("");
    }
    let driver = Driver::with(pool.settings()).await;
    let tasks = tasks(6);
    let outputs = write_all(&driver, 0, &tasks).await;
    pool.written().await;
    let files = pool.servers.iter().flat_map(Server::data_files);
    flip(files, &tasks[4], 1, 3);
    for _ in 0..2 {
        check(
            &read_all(driver.reader(0, outputs.clone())).await.unwrap(),
            &tasks,
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_in_one_of_two_copies_costs_nothing() {
    let mut servers = [Server::start().await, Server::start().await];
    servers
        .iter_mut()
        .for_each(|server| server.allow_errors(""));
    let mut driver = Driver::new(&[&servers[0], &servers[1]]).await;
    driver.durability = Durability::Mirror;
    let tasks = tasks(6);
    let outputs = write_all(&driver, 0, &tasks).await;
    // Whichever is read first.
    flip(servers[0].data_files(), &tasks[1], 1, 3);
    flip(servers[1].data_files(), &tasks[4], 1, 3);
    for _ in 0..2 {
        check(
            &read_all(driver.reader(0, outputs.clone())).await.unwrap(),
            &tasks,
        );
    }
}

/// The same bit is bad in both copies that there are: one map, once, and all others are served.
async fn costs_one_map_once(driver: &Driver, tasks: &mut [Task], outputs: &mut [Output]) {
    let bad = 4;
    let found = named(driver, outputs).await;
    assert_eq!(found, (MapIndex(4), outputs[bad].attempt));
    let others: Vec<_> = outputs
        .iter()
        .filter(|one| one.map_index.0 != 4)
        .cloned()
        .collect();
    let rows = read_all(driver.reader(0, others)).await.unwrap();
    assert_eq!(rows.len(), 5 * PARTITIONS as usize);
    tasks[bad] = Task {
        attempt: 100,
        ..Task::new(4, 0)
    };
    let commit = tasks[bad].run(driver, 0, 6).await.unwrap();
    outputs[bad] = tasks[bad].output(&commit);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_is_bad_in_both_of_two_copies_costs_its_map_once() {
    let mut servers = [Server::start().await, Server::start().await];
    servers
        .iter_mut()
        .for_each(|server| server.allow_errors(""));
    let mut driver = Driver::new(&[&servers[0], &servers[1]]).await;
    driver.durability = Durability::Mirror;
    let mut tasks = tasks(6);
    let mut outputs = write_all(&driver, 0, &tasks).await;
    for server in &servers {
        flip(server.data_files(), &tasks[4], 1, 3);
    }
    costs_one_map_once(&driver, &mut tasks, &mut outputs).await;
    for again in [false, true] {
        if again {
            for server in &mut servers {
                server.kill();
                server.restart().await;
            }
        }
        check(
            &read_all(driver.reader(0, outputs.clone())).await.unwrap(),
            &tasks,
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_is_bad_on_the_disk_and_in_the_store_costs_its_map_once() {
    let mut pool = pool("eager").await;
    for server in &mut pool.servers {
        server.allow_errors("");
    }
    let driver = Driver::with(pool.settings()).await;
    let mut tasks = tasks(6);
    let mut outputs = write_all(&driver, 0, &tasks).await;
    pool.written().await;
    let files: Vec<_> = pool.servers.iter().flat_map(Server::data_files).collect();
    flip(files, &tasks[4], 1, 3);
    flip(pool.store.files(), &tasks[4], 1, 3);
    costs_one_map_once(&driver, &mut tasks, &mut outputs).await;
    pool.written().await;
    // From the disks, and from the store alone.
    for gone in [false, true] {
        if gone {
            pool.servers[..2].iter_mut().for_each(Server::destroy);
        }
        check(
            &read_all(driver.reader(0, outputs.clone())).await.unwrap(),
            &tasks,
        );
    }
}
