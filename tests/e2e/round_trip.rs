//! What was committed is what is served: whole, by range, over many attempts, across batches and
//! cursors.

use shuffle_proto::{block::MAX_BLOCK, v1};
use shuffle_tests::{
    App, Attempt, Oracle, Server, Setup, Shape,
    attempt::{Random, random_bytes},
    peer::{Fetched, fetch_first, fetch_range},
    step,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_comes_back_byte_for_byte() {
    let server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let attempt = Attempt::generate(&app, 0, Shape::small(1, 50).rounds(3), 0, 1 << 40);
    let committed = oracle.push(&peer, &attempt).await;
    assert_eq!(vec![committed.volume.to_vec()], server.volumes());
    oracle.check(&peer, &app, 0).await;
    oracle.check(&peer, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_without_a_block_is_in_the_summary() {
    let server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let shape = Shape::small(3, 4);
    oracle
        .push(&peer, &Attempt::empty(&app, 0, shape, 2, 7))
        .await;
    oracle.check(&peer, &app, 0).await;
    oracle
        .push(&peer, &Attempt::generate(&app, 0, shape, 1, 8))
        .await;
    oracle.check(&peer, &app, 0).await;
    oracle.check_range(&peer, &app, 0, 0..4, 2..3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_partition_and_map_range_is_exactly_its_part() {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let shape = Shape::small(12, 17).rounds(2);
    for map in 0..12 {
        oracle
            .push(
                &peer,
                &Attempt::generate(&app, 3, shape, map, 100 + u64::from(map)),
            )
            .await;
    }
    // A speculative copy and a retry: all committed attempts are served, Spark says which one
    // counts.
    oracle
        .push(&peer, &Attempt::generate(&app, 3, shape, 5, 900))
        .await;
    let mut random = Random(7);
    for round in 0..2 {
        for _ in 0..60 {
            let (a, c) = (random.below(17) as u32, random.below(12) as u32);
            let (b, d) = (
                a + 1 + random.below(u64::from(17 - a)) as u32,
                c + 1 + random.below(u64::from(12 - c)) as u32,
            );
            oracle.check_range(&peer, &app, 3, a..b, c..d).await;
        }
        for partition in 0..17 {
            oracle
                .check_range(&peer, &app, 3, partition..partition + 1, 0..u32::MAX)
                .await;
        }
        if round == 0 {
            // The same from disk only.
            server.kill();
            server.restart().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_attempts_pushed_at_once_are_all_there() {
    let mut server = Server::with(Setup::new().volumes(2)).await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let shape = Shape::small(200, 40).block(600);
    let mut pushes = tokio::task::JoinSet::new();
    for map in 0..200 {
        let (peer, attempt) = (
            peer.clone(),
            Attempt::generate(&app, 1, shape, map, 1000 + u64::from(map)),
        );
        pushes.spawn(async move { (peer.push(&attempt).await, attempt) });
    }
    while let Some(done) = pushes.join_next().await {
        let (committed, attempt) = done.unwrap();
        oracle.committed(&attempt, &committed.unwrap());
    }
    oracle.check(&peer, &app, 1).await;
    for partition in [0, 1, 20, 39] {
        oracle
            .check_range(&peer, &app, 1, partition..partition + 1, 0..200)
            .await;
    }
    server.kill();
    server.restart().await;
    oracle.check(&server.peer().await, &app, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_the_smallest_and_the_largest_size_are_kept() {
    let server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let mut attempt = Attempt::empty(&app, 0, Shape::small(1, 3), 0, u64::MAX);
    attempt = attempt
        .with_block(0, random_bytes(1, 1))
        .with_block(1, random_bytes(2, MAX_BLOCK as usize));
    attempt = attempt
        .with_block(1, random_bytes(3, MAX_BLOCK as usize))
        .with_block(2, random_bytes(4, 1));
    // Both large blocks in one message: the largest payload there is.
    let (mut push, opened) = peer.open(attempt.open()).await.unwrap();
    assert_eq!(opened.protocol, 1);
    let limit = opened.max_batch as usize;
    assert!(
        limit >= MAX_BLOCK as usize,
        "a block must fit in a message: {limit}"
    );
    push.batches(attempt.batches_from(0, limit)).await;
    let committed = push.commit(attempt.totals()).await.unwrap();
    oracle.committed(&attempt, &committed);
    oracle.check(&peer, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_of_half_of_all_bytes_is_served() {
    let server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let shape = Shape::small(3, 64);
    for map in 0..3 {
        let mut attempt = Attempt::empty(&app, 0, shape, map, u64::from(map));
        for partition in 0..64 {
            attempt = attempt.with_block(
                partition,
                random_bytes(u64::from(map * 64 + partition), 16 << 10),
            );
            for part in 0..if partition == 9 { 16 } else { 0 } {
                attempt = attempt.with_block(9, random_bytes(part, 64 << 10));
            }
        }
        oracle.push(&peer, &attempt).await;
    }
    oracle.check(&peer, &app, 0).await;
    oracle.check_range(&peer, &app, 0, 9..10, 1..2).await;
}

/// Peers overflowed their packed ids near these numbers.
#[tokio::test(flavor = "multi_thread")]
async fn ids_at_their_upper_ends_do_not_wrap() {
    let server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new(&"a".repeat(128)), Oracle::default());
    let most = 1 << 24;
    let shape = Shape {
        maps: most,
        partitions: most,
        rounds: 1,
        block: 1,
    };
    for (map, attempt) in [
        (0, 0),
        (most - 1, u64::MAX),
        (1 << 16, 1 << 32),
        (most - 2, i64::MAX as u64),
    ] {
        let attempt = Attempt::empty(&app, u32::MAX, shape, map, attempt)
            .with_block(0, random_bytes(attempt, 10))
            .with_block(1 << 16, random_bytes(attempt, 20))
            .with_block(most - 1, random_bytes(attempt, 30));
        oracle.push(&peer, &attempt).await;
    }
    oracle.check(&peer, &app, u32::MAX).await;
    oracle
        .check_range(&peer, &app, u32::MAX, most - 1..most, most - 1..most)
        .await;
    oracle
        .check_range(&peer, &app, u32::MAX, 0..1, 0..u32::MAX)
        .await;
}

/// More blocks than fit in one message, and a commit of several hundred KiB.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_with_two_hundred_thousand_partitions_is_kept() {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let shape = Shape::small(2, 200_000);
    for map in 0..2 {
        let mut attempt = Attempt::empty(&app, 0, shape, map, u64::from(map));
        let bytes = random_bytes(u64::from(map), 200_000 + 8);
        for partition in 0..200_000 {
            let at = partition as usize;
            attempt = attempt.with_block(partition, bytes.slice(at..at + 8));
        }
        let (mut push, _) = peer.open(attempt.open()).await.unwrap();
        // A message may hold 65 536 blocks.
        push.batches(attempt.batches_from(0, 8 * 65_536)).await;
        let receipt = push.commit(attempt.totals()).await.unwrap();
        oracle.committed(&attempt, &receipt);
    }
    for _ in 0..2 {
        let peer = server.peer().await;
        oracle.check(&peer, &app, 0).await;
        oracle
            .check_range(&peer, &app, 0, 131_072..131_073, 1..2)
            .await;
        server.kill();
        server.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_resumes_at_any_cursor() {
    resumes(Server::start().await, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_of_two_volumes_resumes_in_the_second_with_what_the_first_has_covered() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let setup = Setup::new().dir(dirs[0].path()).dir(dirs[1].path());
    let server = Server::with(setup).await;
    assert_eq!(server.volumes().len(), 2);
    // By free space and chance: with so many both have some.
    resumes(server, 24).await;
}

async fn resumes(mut server: Server, maps: u32) {
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let shape = Shape::small(maps, 8).block(200_000);
    for map in 0..maps {
        oracle
            .push(
                &peer,
                &Attempt::generate(&app, 0, shape, map, u64::from(map)),
            )
            .await;
    }
    assert_eq!(oracle.volumes(&app, 0).len(), server.volumes().len());
    for round in 0..2 {
        let whole = peer
            .fetch(fetch_range(&app, 0, server.volumes(), 0..8, 0..u32::MAX))
            .await
            .unwrap();
        oracle.compare(&whole, &app, 0, 0..8, 0..u32::MAX);
        assert!(
            whole.cursors.len() > 2,
            "{} cursors for {} blocks",
            whole.cursors.len(),
            whole.blocks.len()
        );
        for (count, cursor) in &whole.cursors {
            let mut request = fetch_range(&app, 0, server.volumes(), 0..8, 0..u32::MAX);
            request.cursor = cursor.clone();
            let rest = peer.fetch(request).await.unwrap();
            let mut joined = Fetched {
                summary: rest.summary.clone(),
                ..Fetched::default()
            };
            joined.blocks.extend_from_slice(&whole.blocks[..*count]);
            // A server may start over: a reader drops what it has.
            let key = |b: &shuffle_tests::peer::FetchedBlock| (b.map_index, b.attempt, b.seq);
            let have: std::collections::HashSet<_> = joined.blocks.iter().map(key).collect();
            joined.blocks.extend(
                rest.blocks
                    .iter()
                    .filter(|b| !have.contains(&key(b)))
                    .cloned(),
            );
            oracle.compare(&joined, &app, 0, 0..8, 0..u32::MAX);
        }
        if round == 0 {
            server.kill();
            server.restart().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_fetch_never_hides_a_block() {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let shape = Shape::small(4, 8).block(200_000);
    for map in 0..3 {
        oracle
            .push(
                &peer,
                &Attempt::generate(&app, 0, shape, map, u64::from(map)),
            )
            .await;
    }
    let request = fetch_range(&app, 0, server.volumes(), 0..8, 0..u32::MAX);
    let before = peer.fetch(request.clone()).await.unwrap();
    let (count, cursor) = before.cursors[before.cursors.len() / 2].clone();
    // Between a break and its resumption the server restarts and another attempt commits.
    oracle
        .push(&peer, &Attempt::generate(&app, 0, shape, 3, 3))
        .await;
    server.kill();
    server.restart().await;
    let peer = server.peer().await;
    let rest = peer
        .fetch(v1::FetchRequest { cursor, ..request })
        .await
        .unwrap();
    let mut joined = Fetched {
        summary: rest.summary.clone(),
        ..Fetched::default()
    };
    let key = |b: &shuffle_tests::peer::FetchedBlock| (b.map_index, b.attempt, b.seq);
    let have: std::collections::HashSet<_> = before.blocks[..count].iter().map(key).collect();
    joined.blocks.extend_from_slice(&before.blocks[..count]);
    joined.blocks.extend(
        rest.blocks
            .iter()
            .filter(|b| !have.contains(&key(b)))
            .cloned(),
    );
    // The attempts of the first fetch are whole. Of the new one the summary must say more than
    // came, or all came: never a summary that fits while a block is missing.
    let columns = shuffle_tests::oracle::summary_columns(&joined.summary);
    for attempt in oracle.attempts() {
        let (blocks, bytes, _) = columns[&(attempt.map_index, attempt.attempt)];
        assert_eq!(
            (blocks as usize, bytes),
            (attempt.blocks.len(), attempt.bytes())
        );
        let came = joined
            .blocks
            .iter()
            .filter(|b| b.attempt == attempt.attempt)
            .count();
        assert!(
            attempt.attempt == 3 || came == attempt.blocks.len(),
            "attempt {}: {came} of {blocks}",
            attempt.attempt
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_whole_attempts_while_others_commit() {
    let server = Server::start().await;
    let peer = server.peer().await;
    let app = App::new("app-1");
    let shape = Shape::small(60, 10).block(20_000);
    let mut oracle = Oracle::default();
    oracle
        .push(&peer, &Attempt::generate(&app, 0, shape, 0, 0))
        .await;
    let writer = {
        let (peer, app) = (peer.clone(), app.clone());
        tokio::spawn(async move {
            for map in 1..60 {
                peer.push(&Attempt::generate(&app, 0, shape, map, u64::from(map)))
                    .await
                    .unwrap();
            }
        })
    };
    let mut seen = 0;
    while !writer.is_finished() {
        let fetched = peer
            .fetch(fetch_range(&app, 0, server.volumes(), 0..10, 0..u32::MAX))
            .await
            .unwrap();
        let columns = shuffle_tests::oracle::summary_columns(&fetched.summary);
        assert!(columns.len() >= seen, "a committed attempt is gone");
        seen = columns.len();
        let mut seen_now = Oracle::default();
        for &(map, attempt) in columns.keys() {
            let receipt = v1::Committed {
                volume: server.volumes()[0].clone().into(),
                ..v1::Committed::default()
            };
            seen_now.committed(&Attempt::generate(&app, 0, shape, map, attempt), &receipt);
        }
        seen_now.compare(&fetched, &app, 0, 0..10, 0..u32::MAX);
    }
    step("the writer", writer).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_and_one_that_leaves_hold_nobody_up() {
    let server = Server::with(Setup::new().flag("--memory", "32MiB")).await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let shape = Shape::small(4, 16).block(1 << 20);
    for map in 0..4 {
        oracle
            .push(
                &peer,
                &Attempt::generate(&app, 0, shape, map, u64::from(map)),
            )
            .await;
    }
    let request = fetch_range(&app, 0, server.volumes(), 0..16, 0..u32::MAX);
    let mut slow = server
        .peer()
        .await
        .data
        .fetch(request.clone())
        .await
        .unwrap()
        .into_inner();
    let first = step("the first message", slow.message())
        .await
        .unwrap()
        .unwrap();
    for _ in 0..10 {
        let mut gone = server
            .peer()
            .await
            .data
            .fetch(request.clone())
            .await
            .unwrap()
            .into_inner();
        step("a message", gone.message()).await.unwrap().unwrap();
    }
    oracle
        .push(&peer, &Attempt::generate(&app, 1, shape, 0, 99))
        .await;
    oracle.check(&peer, &app, 1).await;
    let mut fetched = Fetched::default();
    let mut summary = fetched.take(first);
    while let Some(message) = step("the slow reader", slow.message()).await.unwrap() {
        summary = fetched.take(message);
    }
    fetched.summary = summary.unwrap();
    oracle.compare(&fetched, &app, 0, 0..16, 0..u32::MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_hold_two_parts_and_neither_knows_the_other() {
    let (one, two) = (Server::start().await, Server::start().await);
    assert_ne!(one.volumes(), two.volumes());
    let app = App::new("app-1");
    let shape = Shape::small(10, 5);
    let mut parts = [Oracle::default(), Oracle::default()];
    let peers = [one.peer().await, two.peer().await];
    for map in 0..10 {
        let part = (map % 2) as usize;
        parts[part]
            .push(
                &peers[part],
                &Attempt::generate(&app, 0, shape, map, u64::from(map)),
            )
            .await;
    }
    parts[0].check(&peers[0], &app, 0).await;
    parts[1].check(&peers[1], &app, 0).await;
    let foreign = peers[0]
        .fetch(fetch_first(&app, 0, two.volumes()))
        .await
        .unwrap_err();
    shuffle_tests::peer::assert_refused(&foreign, shuffle_tests::Kind::Lost, &[]);
}
