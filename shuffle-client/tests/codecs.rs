//! Compressed and encrypted blocks, through a server that looks into none of them.

#![allow(clippy::unwrap_used)] // in helpers of tests
mod common;

use common::*;
use shuffle_client::{
    AttemptId, Client, Commit, Compression, Error, Kind, PartitionId, Secret, WriteSpec, fake::Fake,
};
use tokio::runtime::Handle;

/// Of incompressible bytes, and longer than a block may be when it is encrypted.
const GIANT: usize = (4 << 20) - 3;

const ALL: [Compression; 4] = [
    Compression::None,
    Compression::Lz4,
    Compression::Zstd(1),
    Compression::Zstd(9),
];

fn encrypted(server: &Fake, key: u8) -> Client {
    let secret = Secret::new(&[key; 32]).unwrap();
    Client::encrypted(settings(&[server]), Handle::current(), secret).unwrap()
}

/// Blocks of many lengths, and one giant in the last partition.
async fn output_of(
    client: &Client,
    server: &Fake,
    map: u32,
    compression: Compression,
) -> (Commit, Got) {
    let attempt = 100 + u64::from(map);
    let mut writer = client.open_writer(WriteSpec {
        compression,
        ..write_spec(&[server], map, attempt)
    });
    let mut wrote = Got::new();
    let mut keep = |partition: u32, bytes: &[u8], records: u32| {
        let entry = wrote.entry((map, partition)).or_default();
        entry.0.extend_from_slice(bytes);
        entry.1 += records;
    };
    for (partition, length) in [1, 31, 32, 5000, 1 << 20].into_iter().enumerate() {
        let partition = partition as u32;
        for number in 0..3 {
            let bytes = raw(map, partition, number, length);
            writer
                .add_block(
                    PartitionId(partition),
                    &[&bytes[..length / 2], &bytes[length / 2..]],
                    2,
                )
                .unwrap();
            keep(partition, &bytes, 2);
            writer.ready().await.unwrap();
        }
    }
    let rows = b"rows that LZ4 can shorten, ".repeat(1000);
    writer.add_block(PartitionId(4), &[&rows], 5).unwrap();
    keep(4, &rows, 5);
    let longest = raw(map, 4, 99, writer.longest_block());
    writer.add_block(PartitionId(4), &[&longest], 1).unwrap();
    keep(4, &longest, 1);
    let giant = raw(map, 4, 100, GIANT);
    writer.add_long(PartitionId(4), &giant, 1).unwrap();
    keep(4, &giant, 1);
    (writer.commit().await.unwrap(), wrote)
}

async fn read(client: &Client, commits: &[Commit]) -> Result<Got, Error> {
    let outputs = (0u32..)
        .zip(commits)
        .map(|(map, commit)| output(commit, map, 100 + u64::from(map)))
        .collect();
    read_all(&mut client.open_reader(read_spec(outputs))).await
}

async fn all_codecs(client: &Client, server: &Fake) -> (Vec<Commit>, Got) {
    let (mut commits, mut all) = (Vec::new(), Got::new());
    for (map, compression) in (0u32..).zip(ALL) {
        let (commit, wrote) = output_of(client, server, map, compression).await;
        commits.push(commit);
        all.extend(wrote);
    }
    (commits, all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_reader_reads_outputs_of_every_codec() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let (commits, wrote) = all_codecs(&client, &server).await;
    assert!(read(&client, &commits).await.unwrap() == wrote);
    let stored: Vec<u64> = commits.iter().map(|commit| commit.bytes).collect();
    let raw: u64 = wrote
        .iter()
        .filter(|((map, _), _)| *map == 0)
        .map(|(_, (bytes, _))| bytes.len() as u64)
        .sum();
    assert_eq!(stored[0], raw);
    assert!(
        stored[1] < stored[0] && stored[2] < stored[1] && stored[3] < stored[1],
        "{stored:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encrypted_outputs_of_every_codec_are_read_with_the_key() {
    let server = Fake::start().await;
    let writing = encrypted(&server, 1);
    let (commits, wrote) = all_codecs(&writing, &server).await;
    // Another client, as another executor is.
    assert!(read(&encrypted(&server, 1), &commits).await.unwrap() == wrote);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_or_none_is_an_error_that_names_the_output_and_never_rows() {
    let server = Fake::start().await;
    let (commit, _) = output_of(&encrypted(&server, 1), &server, 0, Compression::Lz4).await;
    for (reader, word) in [
        (encrypted(&server, 2), "another key"),
        (client(&[&server]), "no key"),
    ] {
        let spec = read_spec(vec![output(&commit, 0, 100)]);
        let mut reader = reader.open_reader(spec);
        let error = reader.next().await.expect_err(word);
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(error.message.contains(word), "{error}");
        assert_eq!(error.output.unwrap().attempt, AttemptId(100));
        assert_eq!(reader.next().await.expect_err("for ever"), error);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_in_the_clear_are_refused_where_they_must_be_encrypted() {
    let server = Fake::start().await;
    let (commit, _) = output_of(&client(&[&server]), &server, 0, Compression::None).await;
    let error = read(&encrypted(&server, 1), &[commit])
        .await
        .expect_err("in the clear");
    assert_eq!(error.kind, Kind::Corrupt);
    assert!(error.message.contains("not encrypted"), "{error}");
}
