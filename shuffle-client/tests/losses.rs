//! Reading where much is gone at once, or nothing is and servers only have too much to do.

#![allow(clippy::unwrap_used)] // in helpers of tests
mod common;

use std::time::{Duration, Instant};

use common::*;
use shuffle_client::{Client, Durability, Error, Kind, Output, Settings, VolumeId, fake::Fake};

const DEADLINE: Duration = Duration::from_secs(5);
/// One wait for a server that does not answer, on a busy machine. A wait for each of several servers
/// is longer.
const ONE_WAIT: Duration = Duration::from_secs(15);

fn client(servers: &[&Fake]) -> Client {
    Client::new(Settings {
        retry_deadline: DEADLINE,
        ..settings(servers)
    })
    .unwrap()
}

/// Two maps for each volume of these servers.
async fn written(client: &Client, servers: &[&Fake]) -> Vec<Output> {
    let mut outputs = Vec::new();
    let mut map = 0;
    for server in servers {
        for _ in 0..2 * server.volumes().len() {
            let mut spec = write_spec(&[server], 0, map.into());
            (spec.map_index, spec.num_maps) = (shuffle_client::MapIndex(map), 1000);
            let mut writer = client.open_writer(spec);
            fill(&mut writer, map, 1, 500).unwrap();
            let commit = writer.commit().await.unwrap();
            outputs.push(output(&commit, map, map.into()));
            map += 1;
        }
    }
    outputs
}

async fn fails(client: &Client, outputs: &[Output]) -> (Error, Duration) {
    let started = Instant::now();
    let mut reader = client.open_reader(read_spec(outputs.to_vec()));
    let error = read_all(&mut reader).await.unwrap_err();
    assert_eq!(reader.next().await.unwrap_err(), error);
    (error, started.elapsed())
}

fn sorted(volumes: impl IntoIterator<Item = VolumeId>) -> Vec<VolumeId> {
    let mut volumes: Vec<_> = volumes.into_iter().collect();
    volumes.sort_unstable();
    volumes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twelve_disks_lost_with_their_server_are_one_failure_and_one_wait() {
    let (mut many, other) = (Fake::start_with(12).await, Fake::start_with(2).await);
    let client = client(&[&many, &other]);
    let outputs = written(&client, &[&many, &other]).await;
    let gone = sorted(many.volumes());
    many.stop().await;
    let (error, took) = fails(&client, &outputs).await;
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(took >= DEADLINE && took < ONE_WAIT, "{took:?}");
    assert_eq!(error.gone, gone);
    assert!(gone.contains(&error.output.unwrap().volume));
    // Nobody in this process waits for it again, whatever is read.
    for some in [&outputs[..], &outputs[5..7]] {
        let (error, took) = fails(&client, some).await;
        assert!(took < DEADLINE, "{took:?}");
        assert!(error.gone.contains(&error.output.unwrap().volume));
    }
    // It is there again when it is there again; and it is waited for again when it goes once more.
    many.restart().await;
    let mut reader = client.open_reader(read_spec(outputs.clone()));
    assert_eq!(
        read_all(&mut reader).await.unwrap().len(),
        outputs.len() * PARTITIONS as usize
    );
    many.stop().await;
    let (_, took) = fails(&client, &outputs).await;
    assert!(took >= DEADLINE, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twelve_servers_lost_together_are_one_failure_and_one_wait() {
    let mut servers = Vec::new();
    for _ in 0..13 {
        servers.push(Fake::start().await);
    }
    let all: Vec<&Fake> = servers.iter().collect();
    let client = client(&all);
    let outputs = written(&client, &all).await;
    let gone = sorted(servers[1..].iter().map(Fake::volume));
    for server in &mut servers[1..] {
        server.stop().await;
    }
    let (error, took) = fails(&client, &outputs).await;
    assert!(took >= DEADLINE && took < ONE_WAIT, "{took:?}");
    assert_eq!(error.gone, gone);
    let (error, took) = fails(&client, &outputs).await;
    assert!(took < DEADLINE, "{took:?}");
    assert_eq!(error.gone, gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_come_back_empty_are_one_failure_and_no_wait() {
    let servers = [
        Fake::start_with(5).await,
        Fake::start_with(1).await,
        Fake::start_with(4).await,
        Fake::start_with(2).await,
    ];
    let all: Vec<&Fake> = servers.iter().collect();
    let client = client(&all);
    let outputs = written(&client, &all).await;
    let gone = sorted(servers[..3].iter().flat_map(Fake::volumes));
    for server in &servers[..3] {
        server.lose_disks(5);
    }
    let (error, took) = fails(&client, &outputs).await;
    assert_eq!(error.kind, Kind::Lost);
    assert!(took < DEADLINE, "{took:?}");
    assert_eq!(error.gone, gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_ran_out_are_one_failure() {
    for durability in [Durability::Disk, Durability::Mirror] {
        let servers = [
            Fake::start_with(6).await,
            Fake::start_with(4).await,
            Fake::start_with(1).await,
        ];
        let all: Vec<&Fake> = servers.iter().collect();
        let client = client(&all);
        let mut outputs = Vec::new();
        for map in 0..24 {
            let mut spec = write_spec(
                &[all[map as usize % 3], all[(map as usize + 1) % 3]],
                0,
                map.into(),
            );
            (spec.map_index, spec.num_maps) = (shuffle_client::MapIndex(map), 1000);
            spec.durability = durability;
            let mut writer = client.open_writer(spec);
            fill(&mut writer, map, 1, 500).unwrap();
            outputs.push(output(&writer.commit().await.unwrap(), map, map.into()));
        }
        let copies = outputs.iter().flat_map(|output| {
            let mirror = output.mirror.as_ref().map(|mirror| mirror.volume);
            std::iter::once(output.volume).chain(mirror)
        });
        let mut gone = sorted(copies);
        gone.dedup();
        assert!(gone.len() > 4);
        for server in &servers {
            server.forget_apps();
        }
        let (error, took) = fails(&client, &outputs).await;
        assert_eq!(error.kind, Kind::Lost);
        assert!(took < ONE_WAIT, "{took:?}");
        assert_eq!(error.gone, gone, "at level {durability:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_hang_are_one_failure_and_are_not_waited_for_again() {
    let servers = [Fake::start_with(4).await, Fake::start_with(4).await];
    let client = Client::new(Settings {
        retry_deadline: DEADLINE,
        call_timeout: Duration::from_millis(1500),
        connect_timeout: Duration::from_millis(500),
        ..settings(&[&servers[0], &servers[1]])
    })
    .unwrap();
    let outputs = written(&client, &[&servers[0], &servers[1]]).await;
    for server in &servers {
        server.faults().hang = true;
    }
    let (error, took) = fails(&client, &outputs).await;
    assert!(took < 2 * ONE_WAIT, "{took:?}");
    assert_eq!(error.gone, sorted(servers.iter().flat_map(Fake::volumes)));
    let (_, took) = fails(&client, &outputs).await;
    assert!(took < ONE_WAIT, "{took:?}");
    for server in &servers {
        server.faults().hang = false;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_another_copy_is_not_gone_before_both_are() {
    let mut servers = [
        Fake::start().await,
        Fake::start().await,
        Fake::start().await,
    ];
    let client = client(&[&servers[0], &servers[1], &servers[2]]);
    let mut outputs = Vec::new();
    for map in 0..6 {
        let all: Vec<&Fake> = servers.iter().collect();
        let mut spec = write_spec(&all[map as usize % 3..], map, map.into());
        if map % 3 == 2 {
            spec = write_spec(&[all[2], all[0]], map, map.into());
        }
        spec.durability = Durability::Mirror;
        let mut writer = client.open_writer(spec);
        fill(&mut writer, map, 1, 500).unwrap();
        outputs.push(output(&writer.commit().await.unwrap(), map, map.into()));
    }
    servers[0].stop().await;
    let mut reader = client.open_reader(read_spec(outputs.clone()));
    assert_eq!(
        read_all(&mut reader).await.unwrap(),
        wrote(&[0, 1, 2, 3, 4, 5], 1, 500)
    );
    let gone = sorted([servers[0].volume(), servers[1].volume()]);
    servers[1].stop().await;
    let (error, took) = fails(&client, &outputs).await;
    assert!(took < ONE_WAIT, "{took:?}");
    let lost = error.output.unwrap();
    let pair = outputs
        .iter()
        .find(|output| output.attempt == lost.attempt)
        .unwrap();
    let pair = sorted([pair.volume, pair.mirror.clone().unwrap().volume]);
    assert_eq!(pair, gone);
    assert_eq!(error.gone, gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_server_is_never_a_loss() {
    let servers = [Fake::start().await, Fake::start().await];
    // The limit is ten times this.
    let with_deadline = |retry_deadline| {
        Client::new(Settings {
            retry_deadline,
            ..settings(&[&servers[0], &servers[1]])
        })
        .unwrap()
    };
    let client = with_deadline(Duration::from_secs(2));
    let outputs = written(&client, &[&servers[0], &servers[1]]).await;
    servers[0].faults().busy = u32::MAX;
    let mut reader = client.open_reader(read_spec(outputs.clone()));
    let early = tokio::time::timeout(Duration::from_secs(4), read_all(&mut reader)).await;
    assert!(early.is_err());
    servers[0].faults().busy = 0;
    while reader.next().await.unwrap().is_some() {}

    servers[0].faults().busy = u32::MAX;
    let client = with_deadline(Duration::from_millis(300));
    let (error, took) = fails(&client, &outputs).await;
    assert!(took >= Duration::from_secs(3), "{took:?}");
    assert_eq!(
        (error.kind, error.output, error.gone.len()),
        (Kind::Busy, None, 0)
    );
    for part in [
        &servers[0].address(),
        "told to be busy",
        "Nothing is lost",
        "raise the limit",
    ] {
        assert!(error.message.contains(part), "{part} is not in: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stands_still_gives_its_streams_back_and_goes_on_where_it_was() {
    let servers = [Fake::start().await, Fake::start().await];
    let client = Client::new(Settings {
        idle_stream: Duration::from_millis(300),
        ..settings(&[&servers[0], &servers[1]])
    })
    .unwrap();
    let mut outputs = Vec::new();
    for (map, server) in [(0, &servers[0]), (1, &servers[1])] {
        server.set_message_bytes(200_000);
        let commit = write(&client, &[server], map, map.into(), 20, 65_536).await;
        outputs.push(output(&commit, map, map.into()));
    }
    let open = || {
        servers
            .iter()
            .map(|server| server.counters().fetching)
            .sum::<u64>()
    };
    let mut spec = read_spec(outputs);
    spec.window = Some(400_000);
    let mut reader = client.open_reader(spec);
    let mut got = Got::new();
    // Three times: what it had stood still for before is no excuse.
    for _ in 0..3 {
        let block = reader.next().await.unwrap().unwrap();
        let entry = got
            .entry((block.map_index.0, block.partition.0))
            .or_default();
        entry.0.extend_from_slice(&block.data);
        entry.1 += block.records;
        drop(block);
        eventually("the streams are given back", || open() == 0).await;
    }
    for (key, (bytes, records)) in read_all(&mut reader).await.unwrap() {
        let entry = got.entry(key).or_default();
        entry.0.extend_from_slice(&bytes);
        entry.1 += records;
    }
    assert!(got == wrote(&[0, 1], 20, 65_536));
    assert!(
        reader
            .tally()
            .servers()
            .iter()
            .all(|server| server.failures == 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bits_that_have_flipped_in_many_outputs_on_several_servers_are_one_failure() {
    let servers = [
        Fake::start_with(3).await,
        Fake::start_with(2).await,
        Fake::start_with(2).await,
    ];
    let all: Vec<&Fake> = servers.iter().collect();
    let client = client(&all);
    let outputs = written(&client, &all).await;
    // Small messages: more than one for what is good beside them.
    servers
        .iter()
        .for_each(|server| server.set_message_bytes(2000));
    // Of the first server two of one volume and one of another, of the second all, of the third
    // none.
    let bad: Vec<_> = [0, 1, 4, 6, 7, 8, 9].map(|at| outputs[at].clone()).into();
    for output in &bad {
        let at = servers
            .iter()
            .find(|server| server.volumes().contains(&output.volume));
        at.unwrap().faults().bad.insert(output.attempt);
    }
    let lost: Vec<_> = bad
        .iter()
        .map(|output| (output.map_index, output.attempt, output.volume))
        .collect();
    // Told while it is found out, and when it is known: there is nothing to be reported any more.
    for reports in [bad.len(), 0] {
        let before: usize = all
            .iter()
            .map(|server| server.counters().reports.len())
            .sum();
        let (error, took) = fails(&client, &outputs).await;
        let named: Vec<_> = error
            .lost
            .iter()
            .map(|lost| (lost.map_index, lost.attempt, lost.volume))
            .collect();
        assert_eq!(named, lost, "{error}");
        assert!(error.lost.contains(&error.output.unwrap()));
        assert_eq!(error.gone, []);
        assert!(took < DEADLINE, "{took:?}");
        let after: usize = all
            .iter()
            .map(|server| server.counters().reports.len())
            .sum();
        assert_eq!(after - before, reports);
    }
    // What is good is read.
    let good = outputs
        .iter()
        .filter(|output| !bad.contains(output))
        .cloned();
    let mut reader = client.open_reader(read_spec(good.collect()));
    let maps: Vec<_> = [2, 3, 5, 10, 11, 12, 13].into();
    assert_eq!(read_all(&mut reader).await.unwrap(), wrote(&maps, 1, 500));
}
