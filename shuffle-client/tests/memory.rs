//! What writers and readers of one process hold together, against `Settings::memory`.

#![allow(clippy::unwrap_used)] // in helpers of tests
mod common;

use common::*;
use shuffle_client::{
    Client, Compression, PartitionId, Settings, WriteSpec, budget::Share, fake::Fake,
};

const MIB: usize = 1 << 20;

fn bounded(servers: &[&Fake], memory: usize) -> Client {
    Client::new(Settings {
        memory: Some(memory),
        ..settings(servers)
    })
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_together_hold_what_there_is_and_a_piece_each() {
    let server = Fake::start().await;
    let client = bounded(&[&server], 8 * MIB);
    let mut writers: Vec<_> = (0..4)
        .map(|map| client.open_writer(write_spec(&[&server], map, u64::from(map) + 1)))
        .collect();
    let mut most = 0;
    for partition in 0..PARTITIONS {
        for number in 0..40 {
            for (map, writer) in (0..).zip(&mut writers) {
                let raw = raw(map, partition, number, 65_536);
                writer
                    .add_block(PartitionId(partition), &[&raw], 3)
                    .unwrap();
                writer.ready().await.unwrap();
                most = most.max(client.budget().used());
            }
        }
    }
    // 4 of 8 MiB are for messages. Beyond that: what each is building, one that may wait, and one
    // that goes out.
    assert!(most <= 4 * MIB + 4 * 4 * MIB, "{most} bytes were held");
    for (map, mut writer) in (0..).zip(writers) {
        let commit = writer.commit().await.unwrap();
        check_read(&client, &commit, map, u64::from(map) + 1, 40, 65_536).await;
    }
    eventually("everything is given back", || client.budget().used() == 0).await;
}

/// A message ends whenever a partition is lower than the one before. What it holds is what it has,
/// not the megabyte that it could.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_short_hold_little() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let mut writer = client.open_writer(write_spec(&[&server], 0, 1));
    for number in 0..200 {
        let partition = PARTITIONS - 1 - number % PARTITIONS;
        let raw = raw(0, partition, number / PARTITIONS, 4096);
        writer
            .add_block(PartitionId(partition), &[&raw], 3)
            .unwrap();
        writer.ready().await.unwrap();
    }
    let held = client.budget().used();
    assert!(held <= 3 * MIB, "{held} bytes are held for 800 KiB");
    let commit = writer.commit().await.unwrap();
    check_read(&client, &commit, 0, 1, 40, 4096).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_are_opened_together_hold_what_there_is_and_a_piece_each() {
    let server = Fake::start().await;
    let writing = client(&[&server]);
    let commit = write(&writing, &[&server], 0, 1, 30, 65_536).await;
    let client = bounded(&[&server], 4 * MIB);
    let mut readers: Vec<_> = (0..6)
        .map(|_| client.open_reader(read_spec(vec![output(&commit, 0, 1)])))
        .collect();
    // Read in turns, as a join reads: nobody waits for a reader that is not asked.
    let mut most = 0;
    for reader in &mut readers {
        most = most.max(client.budget().used());
        assert!(read_all(reader).await.unwrap() == wrote(&[0], 30, 65_536));
    }
    assert!(most <= 4 * MIB + 6 * 4 * MIB, "{most} bytes were held");
    drop(readers);
    eventually("everything is given back", || client.budget().used() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_larger_than_everything_passes() {
    let server = Fake::start().await;
    let client = bounded(&[&server], MIB / 2);
    let _others = client.budget().take(Share::Arenas, 10 * MIB);
    let mut writer = client.open_writer(WriteSpec {
        compression: Compression::None,
        ..write_spec(&[&server], 0, 1)
    });
    let giant = raw(0, 0, 0, 6 * MIB);
    writer.add_long(PartitionId(0), &giant, 1).unwrap();
    writer.ready().await.unwrap();
    let commit = writer.commit().await.unwrap();
    let mut reader = client.open_reader(read_spec(vec![output(&commit, 0, 1)]));
    assert!(read_all(&mut reader).await.unwrap()[&(0, 0)] == (giant, 1));
}
