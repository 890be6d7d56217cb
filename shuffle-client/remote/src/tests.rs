//! Formats, and reading back what was written, on a store in memory.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use shuffle_proto::{
    block::{BlockHeader, Codec, Flags},
    ids::{AppId, AttemptId, MapIndex, PartitionId, ShuffleId, VolumeId},
};

mod chains;

use super::{
    manifest::{Attempt, Manifest, Part},
    object::{Builder, Entry, Footer, HEADER},
    *,
};

fn place() -> Place {
    Place {
        app: AppId::try_new("app-1").expect("valid"),
        shuffle: ShuffleId(7),
        volume: VolumeId::parse("01020304-0506-0708-090a-0b0c0d0e0f10").expect("valid"),
    }
}

fn block(
    partition: u32,
    map: u32,
    attempt: u64,
    seq: u32,
    body: &[u8],
    records: u32,
) -> (BlockHeader, Bytes) {
    let mut header = BlockHeader {
        partition: PartitionId(partition),
        map_index: MapIndex(map),
        attempt: AttemptId(attempt),
        seq,
        length: body.len() as u32,
        raw_length: body.len() as u32,
        records,
        flags: Flags::new(Codec::None, false, false),
        checksum: 0,
    };
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(body);
    header.checksum = header.checksum_of(hasher);
    (header, Bytes::copy_from_slice(body))
}

fn blocks() -> Vec<(BlockHeader, Bytes)> {
    vec![
        block(1, 3, 30, 0, b"first", 2),
        block(1, 4, 40, 0, b"second!", 3),
        block(5, 3, 30, 1, b"x", 1),
    ]
}

fn object() -> (Vec<u8>, Entry) {
    let mut builder = Builder::new(place(), 1, 2, 0xfeed);
    assert!(builder.is_empty());
    builder.add(&blocks());
    let mut bytes = builder.take();
    let (rest, entry) = builder.finish();
    bytes.extend(rest);
    (bytes, entry)
}

fn manifest(entry: Entry) -> Manifest {
    let attempt = |map, attempt, bytes, records| Attempt {
        owner: (MapIndex(map), AttemptId(attempt)),
        bytes,
        records,
    };
    Manifest {
        place: place(),
        generation: 1,
        num_maps: 10,
        num_partitions: 20,
        objects: vec![entry],
        attempts: vec![attempt(3, 30, 6, 3), attempt(4, 40, 7, 3)],
        replaces: vec![],
        live: vec![1],
        base: 0,
        carried: vec![],
    }
}

/// One that takes the place of two others, has a third as its base, and carries a fourth.
fn merged(entry: Entry) -> Manifest {
    let manifest = manifest(entry);
    let carried = Part {
        generation: 4,
        objects: vec![Entry { number: 0, ..entry }],
        attempts: vec![Attempt {
            owner: (MapIndex(5), AttemptId(50)),
            bytes: 9,
            records: 1,
        }],
    };
    Manifest {
        generation: 5,
        replaces: vec![1, 2],
        live: vec![3, 4, 5],
        base: 3,
        carried: vec![carried],
        ..manifest
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn stored_bytes_stay_what_they_are() {
    let (bytes, entry) = object();
    let text = format!("{}\n{}\n", hex(&bytes), hex(&merged(entry).encode()));
    // Made by another program after the tables of the formats.
    assert_eq!(
        text,
        include_str!("format.golden"),
        "a changed format needs a new version"
    );
    assert_eq!(entry.length, bytes.len() as u64);
    assert_eq!(entry.checksum, crc32fast::hash(&bytes));
}

#[test]
fn a_flipped_bit_in_a_manifest_is_found() {
    let bytes = merged(object().1).encode();
    let decoded = Manifest::decode(&bytes, &place(), 5).expect("intact");
    assert_eq!(decoded, merged(object().1));
    assert!(Manifest::decode(&bytes, &place(), 2).is_err());
    let other = Place {
        app: AppId::try_new("app-2").expect("valid"),
        ..place()
    };
    assert!(Manifest::decode(&bytes, &other, 5).is_err());
    for bit in 0..bytes.len() * 8 {
        let mut broken = bytes.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::decode(&broken, &place(), 5).is_err(), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(Manifest::decode(&bytes[..length], &place(), 5).is_err());
    }
    for replaces in [vec![5], vec![3], vec![2, 1], vec![1, 1]] {
        let contradiction = Manifest {
            replaces,
            ..merged(object().1)
        };
        assert!(Manifest::decode(&contradiction.encode(), &place(), 5).is_err());
    }
    let mut wrong = vec![merged(object().1); 5];
    wrong[0].live = vec![3, 4];
    wrong[1].live = vec![4, 3, 5];
    wrong[2].base = 5;
    wrong[3].carried[0].generation = 2;
    wrong[4].carried[0].generation = 5;
    for contradiction in wrong {
        assert!(Manifest::decode(&contradiction.encode(), &place(), 5).is_err());
    }
}

#[test]
fn a_flipped_bit_in_an_object_is_found_where_it_is_read() {
    let (bytes, entry) = object();
    let read = |bytes: &[u8]| -> Result<Vec<(BlockHeader, Bytes)>, String> {
        let footer = Footer::decode(&bytes[entry.footer as usize..], &place(), 1, &entry)?;
        let mut found = Vec::new();
        for section in &footer.sections {
            let range = section.offset as usize..section.end().expect("it ends") as usize;
            found.extend(section.blocks(&Bytes::copy_from_slice(&bytes[range]))?);
        }
        Ok(found)
    };
    assert_eq!(read(&bytes), Ok(blocks()));
    for bit in HEADER * 8..bytes.len() * 8 {
        let mut broken = bytes.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&broken).is_err(), "bit {bit}");
    }
}

#[test]
fn a_large_partition_is_cut_into_sections_that_a_map_range_can_skip() {
    let body = vec![7; 1 << 20];
    let blocks: Vec<_> = (0..10)
        .map(|map| block(3, map, u64::from(map), 0, &body, 1))
        .collect();
    let mut builder = Builder::new(place(), 1, 2, 0xfeed);
    builder.add(&blocks);
    let mut bytes = builder.take();
    let (rest, entry) = builder.finish();
    bytes.extend(rest);
    let footer =
        Footer::decode(&bytes[entry.footer as usize..], &place(), 1, &entry).expect("intact");
    let maps: Vec<_> = footer
        .sections
        .iter()
        .map(|section| (section.first_map, section.last_map))
        .collect();
    assert_eq!(maps, [(0, 3), (4, 7), (8, 9)]);
}

/// On a store in memory, and how much time has passed.
fn remote() -> (Arc<Remote>, Arc<Mutex<Duration>>) {
    let (start, passed) = (Instant::now(), Arc::new(Mutex::new(Duration::ZERO)));
    let later = passed.clone();
    let now: Now = Arc::new(move || start + *later.lock());
    (Arc::new(Remote::new(Store::in_memory(), now)), passed)
}

async fn read_all(mut fetch: Fetch) -> (Vec<BlockHeader>, shuffle_proto::summary::Summary) {
    let mut found = Vec::new();
    while let Some(part) = fetch.next().await.expect("readable") {
        found.extend(part.blocks);
    }
    (found, fetch.summary().await.expect("readable"))
}

#[tokio::test]
async fn a_chain_grows_by_generations_and_ends_where_there_is_none() {
    let (remote, passed) = remote();
    let put = async |generation: u32, attempt: u64| {
        let mut builder = Builder::new(place(), generation, 0, 0xfeed);
        builder.add(&[block(1, attempt as u32, attempt, 0, b"bytes", 1)]);
        let (bytes, entry) = builder.finish();
        let key = keys::object(&place(), generation, 0, 0xfeed);
        remote
            .store
            .put(&key, bytes.into(), false)
            .await
            .expect("put");
        let owner = (MapIndex(attempt as u32), AttemptId(attempt));
        let manifest = Manifest {
            generation,
            attempts: vec![Attempt {
                owner,
                bytes: 5,
                records: 1,
            }],
            live: (1..=generation).collect(),
            ..manifest(entry)
        };
        let key = keys::manifest(&place(), generation);
        let bytes: Bytes = manifest.encode().into();
        remote
            .store
            .put(&key, bytes.clone(), true)
            .await
            .expect("put");
        // A second one of the same generation is refused.
        let again = remote.store.put(&key, bytes, true).await;
        assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
    };
    let fetch = async |only: Only| remote.fetch(&place(), 0..20, 0..u32::MAX, only, None).await;
    assert!(matches!(fetch(None).await, Err(Error::NotFound { .. })));
    put(1, 10).await;
    let (blocks, summary) = read_all(fetch(None).await.expect("there")).await;
    assert_eq!((blocks.len(), summary.covered.len()), (1, 1));
    put(2, 11).await;
    *passed.lock() += Duration::from_secs(5);
    let (blocks, summary) = read_all(fetch(None).await.expect("there")).await;
    assert_eq!((blocks.len(), summary.covered.len()), (2, 2));
    let only = BTreeSet::from([(MapIndex(11), AttemptId(11))]);
    let (blocks, summary) = read_all(fetch(Some(Arc::new(only))).await.expect("there")).await;
    assert_eq!((blocks.len(), summary.covered.len()), (1, 1));
    assert_eq!(summary.covered[0].bytes, 5);
    // Who has read of a longer chain elsewhere makes it look again at once.
    put(3, 12).await;
    let mut cursor = fetch(None)
        .await
        .expect("there")
        .position()
        .to_bytes()
        .to_vec();
    assert_eq!(cursor[1..5], 2u32.to_le_bytes());
    for (length, blocks) in [(2u32, 2), (3, 3), (4, 3)] {
        cursor[1..5].copy_from_slice(&length.to_le_bytes());
        let cursor = Cursor::try_from_bytes(&cursor);
        let place = place();
        let fetch = remote.fetch(&place, 0..20, 0..u32::MAX, None, cursor).await;
        let (found, _) = read_all(fetch.expect("there")).await;
        assert_eq!(found.len(), blocks, "{length} manifests");
    }
}

/// Ten maps with five blocks of `length` bytes in each of four partitions, as one object.
async fn written(length: usize) -> (Arc<Remote>, Vec<(BlockHeader, Bytes)>) {
    let (remote, _) = remote();
    let mut blocks = Vec::new();
    for partition in 0..4 {
        for map in 0..10 {
            for seq in 0..5 {
                let body = vec![(partition + map + seq) as u8; length];
                let attempt = u64::from(map) + 10;
                blocks.push(block(
                    partition,
                    map,
                    attempt,
                    5 * partition + seq,
                    &body,
                    1,
                ));
            }
        }
    }
    let mut builder = Builder::new(place(), 1, 0, 0xfeed);
    builder.add(&blocks);
    let (bytes, entry) = builder.finish();
    let attempts = (0..10).map(|map| Attempt {
        owner: (MapIndex(map), AttemptId(u64::from(map) + 10)),
        bytes: 20 * length as u64,
        records: 20,
    });
    let manifest = Manifest {
        attempts: attempts.collect(),
        ..manifest(entry)
    };
    let key = keys::object(&place(), 1, 0, 0xfeed);
    let put = remote.store.put(&key, bytes.into(), false);
    put.await.expect("put");
    let key = keys::manifest(&place(), 1);
    let put = remote.store.put(&key, manifest.encode().into(), true);
    put.await.expect("put");
    (remote, blocks)
}

#[tokio::test]
async fn whole_requests_and_parts_are_the_same_blocks_from_any_cursor_on() {
    let (remote, blocks) = written(100_000).await;
    let begin = async |cursor| {
        let place = place();
        let fetch = remote.fetch(&place, 0..4, 0..u32::MAX, None, cursor);
        fetch.await.expect("there")
    };
    let expected: Vec<_> = blocks.iter().map(|(header, _)| *header).collect();
    let (parts, summary) = read_all(begin(None).await).await;
    assert_eq!(parts, expected);
    assert_eq!(summary.covered.len(), 10);
    let (mut fetch, mut found, mut cursors) = (begin(None).await, Vec::new(), Vec::new());
    while let Some(length) = fetch.ahead().await.expect("planned") {
        let part = fetch.next_read().await.expect("readable").expect("more");
        let bytes: usize = part.data.iter().map(Bytes::len).sum();
        let rows = part.blocks.len() * shuffle_proto::stored::ROW;
        assert_eq!(length, (bytes + rows) as u64, "what was said to come");
        assert!(length < 5 << 20, "{length} bytes at once");
        found.extend(part.blocks);
        cursors.push((found.len(), part.cursor));
    }
    assert_eq!(found, expected);
    assert_eq!(fetch.summary().await.expect("readable"), summary);
    assert!(cursors.len() > 3, "{} requests", cursors.len());
    for (before, cursor) in cursors {
        let cursor = Cursor::try_from_bytes(&cursor.to_bytes());
        let (rest, again) = read_all(begin(cursor).await).await;
        assert_eq!(rest, expected[before..]);
        assert_eq!(again, summary);
    }
}

#[tokio::test]
async fn a_chain_says_which_outputs_it_does_not_have() {
    let (remote, _) = written(10).await;
    let chain = remote.chain(&place()).await.expect("there");
    let owner = |map, attempt| (MapIndex(map), AttemptId(attempt));
    assert!(chain.missing([owner(0, 10), owner(9, 19)]).is_empty());
    let others = [owner(3, 12), owner(3, 13), owner(10, 20)];
    assert_eq!(chain.missing(others), [owner(3, 12), owner(10, 20)]);
}

#[test]
fn a_url_is_shown_without_what_may_be_secret() {
    for (url, shown) in [
        ("s3://bucket/some/prefix", "s3://bucket/some/prefix"),
        ("s3://key:secret@bucket/p?token=t#f", "s3://bucket/p"),
        ("s3://key:sec/ret@bucket/p", "s3://bucket/p"),
        ("s3://key:sec ret@bucket", "s3://bucket"),
        ("s3://key:se@cret@bucket", "s3://bucket"),
        ("s3:key:secret@bucket", "(no URL)"),
        (
            "abfss://key:secret@account.dfs.core.windows.net/p",
            "abfss://account.dfs.core.windows.net/p",
        ),
        (
            "https://account.blob.core.windows.net/c?sv=1&sig=secret",
            "https://account.blob.core.windows.net/c",
        ),
        (
            "abfss://container@account.dfs.core.windows.net/p?sig=s",
            "abfss://container@account.dfs.core.windows.net/p",
        ),
        ("file:///mnt/store", "file:///mnt/store"),
        ("secret", "(no URL)"),
    ] {
        assert_eq!(shown_url(url), shown);
    }
}

#[test]
fn who_only_reads_makes_no_directory() {
    let dir = std::env::temp_dir().join(format!("forebay-none-{}", uuid::Uuid::new_v4()));
    let url = format!("file://{}", dir.display());
    let error = Store::existing(&url, Arc::new(())).err().expect("refused");
    assert!(error.contains("is no directory"), "{error}");
    assert!(!dir.exists());
}

#[test]
fn urls_that_name_no_store_are_refused_with_examples() {
    for url in [
        "",
        "/tmp/store",
        "file://",
        "file:///",
        "ftp://host/dir",
        "http://host/dir",
        "memory:///",
        "s3:bucket",
    ] {
        let error = check_url(url).expect_err(url);
        assert!(error.contains("s3://BUCKET/PREFIX"), "{url}: {error}");
    }
    for url in [
        "file:///tmp/store",
        "s3://bucket",
        "s3://bucket/some/prefix",
        "az://container/prefix",
        "gs://bucket/prefix",
    ] {
        check_url(url).expect(url);
    }
}
