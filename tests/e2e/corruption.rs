//! Bytes changed on the disk. The stock peer checks every block's checksum, as the product's reader
//! does: no answer may hold a wrong block with a good checksum, and no short answer may look
//! complete.

use shuffle_tests::{
    App, Attempt, Fetched, Kind, Oracle, Peer, STEP, Server, Shape, attempt::Random, disk,
    eventually, oracle::summary_columns, peer::fetch_range,
};
use std::{collections::BTreeMap, fs, path::PathBuf};

const SHAPE: Shape = Shape {
    maps: 6,
    partitions: 12,
    rounds: 1,
    block: 3000,
};
const SHUFFLES: u32 = 2;

/// A stopped server with two shuffles of several attempts in segments and logs.
async fn filled() -> (Server, App, Oracle) {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for shuffle in 0..SHUFFLES {
        for map in 0..6 {
            // One large attempt in each, so that both small and large commits are on the disk.
            let shape = if map == 0 {
                Shape {
                    block: 200_000,
                    ..SHAPE
                }
            } else {
                SHAPE
            };
            oracle
                .push(
                    &peer,
                    &Attempt::generate(&app, shuffle, shape, map, u64::from(shuffle * 10 + map)),
                )
                .await;
        }
    }
    server.stop().await;
    server.allow_errors(""); // a corrupt file is an error that a person must look at
    (server, app, oracle)
}

/// How a fetch of a possibly spoilt shuffle may end. Answers the attempts that came whole.
async fn never_wrong(
    peer: &Peer,
    server: &Server,
    app: &App,
    oracle: &Oracle,
    shuffle: u32,
    what: &str,
) -> Vec<u64> {
    let request = fetch_range(
        app,
        shuffle,
        server.volumes(),
        0..SHAPE.partitions,
        0..u32::MAX,
    );
    let fetched = match peer.fetch_unchecked(request).await {
        Ok(fetched) => fetched,
        Err(status) => {
            let kind = Kind::of(&status);
            assert!(
                matches!(kind, Kind::Lost | Kind::Corrupt),
                "{what}: {status:?}"
            );
            return Vec::new();
        }
    };
    judge(&fetched, oracle, shuffle, what)
}

/// Judges an answer as a reader would that knows from Spark which attempts must be there.
fn judge(fetched: &Fetched, oracle: &Oracle, shuffle: u32, what: &str) -> Vec<u64> {
    let known: BTreeMap<_, _> = oracle
        .attempts()
        .filter(|a| a.shuffle == shuffle)
        .map(|a| (a.attempt, a))
        .collect();
    let mut good = BTreeMap::<u64, (u32, u64, u64)>::new();
    for block in &fetched.blocks {
        if !block.intact() {
            continue; // the reader finds it and reports it
        }
        let attempt = known
            .get(&block.attempt)
            .unwrap_or_else(|| panic!("{what}: an attempt nobody pushed"));
        let right = &attempt.blocks[block.seq as usize];
        assert_eq!(
            (block.partition, block.records, block.map_index),
            (right.partition, right.records, attempt.map_index),
            "{what}"
        );
        assert!(
            block.data == right.data,
            "{what}: a wrong block passes its checksum"
        );
        let sum = good.entry(block.attempt).or_default();
        *sum = (
            sum.0 + 1,
            sum.1 + block.data.len() as u64,
            sum.2 + u64::from(block.records),
        );
    }
    let columns = summary_columns(&fetched.summary);
    let lost: Vec<_> = fetched
        .summary
        .lost
        .iter()
        .map(|lost| lost.attempt)
        .collect();
    for lost in &fetched.summary.lost {
        assert!(
            !lost.reason.is_empty(),
            "{what}: an attempt is lost without a reason"
        );
    }
    let mut whole = Vec::new();
    for (id, attempt) in known {
        let Some(&sums) = columns.get(&(attempt.map_index, id)) else {
            continue;
        }; // missing: the reader knows and reports it
        assert!(
            !lost.contains(&id),
            "{what}: attempt {id} is both there and lost"
        );
        if good.get(&id).copied().unwrap_or_default() != sums {
            continue; // the counts differ: the reader reports it
        }
        // The reader accepts this attempt, so all of it must be there.
        assert_eq!(
            sums,
            (
                attempt.blocks.len() as u32,
                attempt.bytes(),
                attempt.records()
            ),
            "{what}: attempt {id} is short"
        );
        whole.push(id);
    }
    whole
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_anywhere_in_the_data_never_reaches_a_row() {
    let (mut server, app, oracle) = filled().await;
    let mut random = Random(11);
    let files: Vec<(PathBuf, Vec<u8>)> = server
        .data_files()
        .into_iter()
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    assert!(!files.is_empty());
    let mut rejected = 0;
    // Every restart sees one flip per stretch of each file: first dense at the head and tail, where
    // the structure is.
    for round in 0..14 {
        let mut flips = Vec::new();
        for (path, good) in &files {
            fs::write(path, good).unwrap();
            let length = good.len() as u64;
            if length == 0 {
                continue;
            }
            let at = match round {
                0..4 => round * 7,
                4..8 => length.saturating_sub(1 + (round - 4) * 5),
                _ => random.below(length),
            };
            disk::flip(path, at.min(length - 1), (round % 8) as u8);
            flips.push(at);
        }
        let what = format!("round {round}, flips at {flips:?}");
        if server.try_start().await.is_err() {
            panic!("{what}: a bad segment is no reason not to start");
        }
        let peer = server.peer().await;
        for shuffle in 0..SHUFFLES {
            let whole = never_wrong(&peer, &server, &app, &oracle, shuffle, &what).await;
            rejected += usize::from(whole.len() < 6);
        }
        server.kill();
    }
    assert!(
        rejected > 0,
        "none of the flips was noticed: is the server serving from these files?"
    );
    for (path, good) in &files {
        fs::write(path, good).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bits_that_flip_under_a_running_server_never_reach_a_row() {
    let (mut server, app, oracle) = filled().await;
    server.restart().await;
    server.settled().await;
    let peer = server.peer().await;
    let mut random = Random(5);
    let mut rejected = 0;
    for path in server.data_files() {
        let good = fs::read(&path).unwrap();
        for _ in 0..150 {
            let at = random.below(good.len() as u64);
            disk::flip(&path, at, random.below(8) as u8);
            for shuffle in 0..SHUFFLES {
                let whole = never_wrong(
                    &peer,
                    &server,
                    &app,
                    &oracle,
                    shuffle,
                    &format!("{path:?} at {at}"),
                )
                .await;
                rejected += usize::from(whole.len() < 6);
            }
            // In place: the server has the file open.
            use std::os::unix::fs::FileExt;
            fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .write_all_at(&good, 0)
                .unwrap();
        }
    }
    assert!(rejected > 0, "none of the flips was noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_costs_its_attempt_and_not_its_neighbours() {
    let (mut server, app, oracle) = filled().await;
    // A byte of the middle of map 0's data: found by its content.
    let victim = oracle
        .attempts()
        .find(|a| a.shuffle == 0 && a.map_index == 0)
        .unwrap();
    let block = victim
        .blocks
        .iter()
        .max_by_key(|block| block.data.len())
        .unwrap();
    let (path, at) = find(&server, &block.data[..64]);
    disk::flip(&path, at + block.data.len() as u64 / 2, 3);
    server.restart().await;
    let peer = server.peer().await;
    let whole = never_wrong(&peer, &server, &app, &oracle, 0, "one bit").await;
    assert!(
        !whole.contains(&victim.attempt),
        "a spoilt block was accepted"
    );
    assert_eq!(
        whole.len(),
        5,
        "one bit cost more than its attempt: {whole:?}"
    );
    assert_eq!(
        never_wrong(&peer, &server, &app, &oracle, 1, "another shuffle")
            .await
            .len(),
        6
    );
}

/// Where these bytes lie on the disk.
fn find(server: &Server, needle: &[u8]) -> (PathBuf, u64) {
    for path in server.data_files() {
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes
            .windows(needle.len())
            .position(|window| window == needle)
        {
            return (path, at as u64);
        }
    }
    panic!("the bytes are in no file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_file_loses_exactly_the_attempts_it_cuts() {
    let (mut server, app, oracle) = filled().await;
    let victim = oracle
        .attempts()
        .find(|a| a.shuffle == 0 && a.map_index == 0)
        .unwrap();
    let (path, _) = find(
        &server,
        &victim
            .blocks
            .iter()
            .max_by_key(|b| b.data.len())
            .unwrap()
            .data[..64],
    );
    let good = fs::read(&path).unwrap();
    for cut in [good.len() - 1, good.len() / 2, good.len() / 10, 1, 0] {
        fs::write(&path, &good[..cut]).unwrap();
        server.restart().await;
        let peer = server.peer().await;
        let whole = never_wrong(&peer, &server, &app, &oracle, 0, &format!("cut at {cut}")).await;
        if cut < good.len() / 10 {
            assert!(!whole.contains(&victim.attempt));
        }
        assert_eq!(
            never_wrong(&peer, &server, &app, &oracle, 1, "the other shuffle")
                .await
                .len(),
            6
        );
        // Still a server: it takes new attempts of the same shuffle.
        let fresh = Attempt {
            attempt: 9000 + cut as u64,
            ..Attempt::generate(&app, 2, SHAPE, 5, 1)
        };
        peer.push(&fresh).await.unwrap();
        server.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_partition_of_a_spoilt_attempt_may_still_be_read() {
    let (mut server, app, oracle) = filled().await;
    let victim = oracle
        .attempts()
        .find(|a| a.shuffle == 0 && a.map_index == 0)
        .unwrap();
    let (seq, block) = victim
        .blocks
        .iter()
        .enumerate()
        .max_by_key(|(_, b)| b.data.len())
        .unwrap();
    let (path, at) = find(&server, &block.data[..64]);
    disk::flip(&path, at, 0);
    server.restart().await;
    let peer = server.peer().await;
    // A fetch of the spoilt block itself: by partition and map, so that nothing else is in the way.
    let range = block.partition..block.partition + 1;
    let request = fetch_range(&app, 0, server.volumes(), range, 0..1);
    match peer.fetch_unchecked(request).await {
        Err(status) => assert!(
            matches!(Kind::of(&status), Kind::Lost | Kind::Corrupt),
            "{status:?}"
        ),
        Ok(fetched) => {
            let spoilt = fetched.blocks.iter().find(|b| b.seq == seq as u32);
            let told = spoilt.is_some_and(|b| !b.intact()) || !fetched.summary.lost.is_empty();
            assert!(
                told,
                "a spoilt block vanished silently: {:?}",
                fetched.summary
            );
        }
    }
    assert_eq!(
        never_wrong(&peer, &server, &app, &oracle, 1, "the other shuffle")
            .await
            .len(),
        6
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoilt_index_is_refused_or_loses_attempts_but_never_lies() {
    let (mut server, app, oracle) = filled().await;
    let files: Vec<(PathBuf, Vec<u8>)> = server
        .index_files()
        .into_iter()
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    assert!(!files.is_empty(), "no index in the data directory");
    let whole_dir = server.scratch("whole");
    disk::copy_dir(&server.dirs()[0], &whole_dir);
    let mut random = Random(23);
    for round in 0..16u64 {
        let dir = server.scratch(&format!("round{round}"));
        disk::copy_dir(&whole_dir, &dir);
        let (path, good) = &files[(round as usize) % files.len()];
        let path = dir.join(
            path.strip_prefix(&server.dirs()[0])
                .unwrap_or(path.as_path()),
        );
        let path = if path.starts_with(&dir) {
            path
        } else {
            continue;
        };
        if good.is_empty() {
            continue;
        }
        match round % 4 {
            0 => disk::flip(&path, random.below(good.len() as u64), 2),
            1 => disk::truncate(&path, random.below(good.len() as u64)),
            2 => fs::remove_file(&path).unwrap(),
            _ => {
                let at = random.below(good.len() as u64) as usize;
                let mut bytes = good.clone();
                bytes[at..].fill(0xa5);
                fs::write(&path, bytes).unwrap();
            }
        }
        let what = format!(
            "round {round}: {}",
            path.file_name().unwrap().to_string_lossy()
        );
        let original = server.replace_dir(&dir);
        match server.try_start().await {
            Err(_) => {
                let log = server.log();
                assert!(
                    log.contains(dir.to_str().unwrap()),
                    "{what}: the refusal does not name the directory: {log}"
                );
            }
            Ok(()) => {
                let peer = server.peer().await;
                for shuffle in 0..SHUFFLES {
                    never_wrong(&peer, &server, &app, &oracle, shuffle, &what).await;
                }
                server.kill();
            }
        }
        server.replace_dir(original);
        fs::remove_dir_all(&dir).unwrap();
    }
    server.restart().await;
    oracle.check(&server.peer().await, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_without_its_index_is_refused_or_lost_but_not_empty() {
    let (mut server, app, oracle) = filled().await;
    let before = server.volumes();
    fs::remove_dir_all(server.dirs()[0].join("index")).unwrap();
    if server.try_start().await.is_err() {
        assert!(server.log().contains("index"), "{}", server.log());
        return;
    }
    assert_eq!(server.volumes(), before);
    let peer = server.peer().await;
    for shuffle in 0..SHUFFLES {
        never_wrong(&peer, &server, &app, &oracle, shuffle, "without index").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stray_files_are_removed_and_harm_nobody() {
    let (mut server, app, oracle) = filled().await;
    let segment = server.data_files().remove(0);
    let stray = segment.with_file_name("99999999.seg");
    fs::write(&stray, vec![7; 100_000]).unwrap();
    server.restart().await;
    let peer = server.peer().await;
    for shuffle in 0..SHUFFLES {
        oracle.check(&peer, &app, shuffle).await;
    }
    eventually(STEP, || async {
        if stray.exists() {
            Err("the stray segment is there".into())
        } else {
            Ok(())
        }
    })
    .await;
}
