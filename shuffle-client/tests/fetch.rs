//! Reading map outputs: what is released, and what happens when something fails on the way.

#![allow(clippy::unwrap_used)] // in helpers of tests
mod common;

use std::time::{Duration, Instant};

use common::*;
use shuffle_client::{
    AttemptId, Client, Error, Kind, Location, LostOutput, MapIndex, Output, PartitionId, Settings,
    VolumeId, fake::Fake,
};

const LENGTH: usize = 65_536;

/// Two servers with four maps of ten blocks per partition, in small messages; attempt = 100 + map.
async fn two_servers() -> (Fake, Fake, Client, Vec<Output>) {
    let (first, second) = (Fake::start_with(2).await, Fake::start_with(2).await);
    let client = client(&[&first, &second]);
    let mut outputs = Vec::new();
    for map in 0..4 {
        let attempt = 100 + u64::from(map);
        let commit = write(&client, &[&first, &second], map, attempt, 10, LENGTH).await;
        outputs.push(output(&commit, map, attempt));
    }
    for server in [&first, &second] {
        server.set_message_bytes(200_000);
    }
    (first, second, client, outputs)
}

async fn read(client: &Client, outputs: &[Output]) -> Result<Got, Error> {
    read_all(&mut client.open_reader(read_spec(outputs.to_vec()))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_on_several_servers_and_volumes_are_read_with_one_call_per_server() {
    let (first, second, client, outputs) = two_servers().await;
    assert!(read(&client, &outputs).await.unwrap() == wrote(&[0, 1, 2, 3], 10, LENGTH));
    assert_eq!(
        (first.counters().fetches, second.counters().fetches),
        (1, 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_partitions_and_maps_are_read_alone() {
    let (_first, _second, client, outputs) = two_servers().await;
    let mut spec = read_spec(outputs[1..3].to_vec());
    (spec.partitions, spec.maps) = (2..4, 1..3);
    for output in &mut spec.outputs {
        output.partitions = vec![2, 3];
    }
    let mut expected = wrote(&[1, 2], 10, LENGTH);
    expected.retain(|(_, partition), _| (2..4).contains(partition));
    assert!(read_all(&mut client.open_reader(spec)).await.unwrap() == expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_that_nobody_names_are_not_released() {
    let (first, second, client, outputs) = two_servers().await;
    write(&client, &[&first, &second], 0, 999, 1, 100).await; // a speculative copy that lost
    assert!(read(&client, &outputs[..2]).await.unwrap() == wrote(&[0, 1], 10, LENGTH));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_block_of_an_attempt_that_nobody_names_fails_nothing() {
    let (first, second, client, outputs) = two_servers().await;
    // A map has run again because its output is bad, and an old server sends that too.
    let commit = write(&client, &[&first, &second], 1, 999, 10, LENGTH).await;
    let named = [outputs[0].clone(), output(&commit, 1, 999)];
    for server in [&first, &second] {
        server.faults().spoilt = Some(AttemptId(101));
    }
    assert!(read(&client, &named).await.unwrap() == wrote(&[0, 1], 10, LENGTH));
    // Who names it is told, after the server was.
    let error = read(&client, &outputs[..2]).await.unwrap_err();
    assert_eq!(error.output.unwrap().attempt, AttemptId(101));
    let mut reports = first.counters().reports;
    reports.extend(second.counters().reports);
    assert_eq!(reports, [AttemptId(101)]);
}

#[tokio::test]
async fn nothing_to_read_is_read_at_once() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    assert!(read(&client, &[]).await.unwrap().is_empty());
    assert_eq!(server.counters().connections, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_stream_is_taken_up_where_it_was_verified() {
    let (first, second, client, outputs) = two_servers().await;
    first.faults().break_fetch_after = Some(1 << 20);
    second.faults().break_fetch_after = Some(2 << 20);
    let mut reader = client.open_reader(read_spec(outputs));
    assert!(read_all(&mut reader).await.unwrap() == wrote(&[0, 1, 2, 3], 10, LENGTH));
    assert_eq!(reader.stats().resumes, 2);
    let stored: u64 = reader.stats().bytes;
    let servers = reader.tally().servers();
    assert_eq!(
        servers.iter().map(|s| s.failures).collect::<Vec<_>>(),
        [1, 1]
    );
    assert_eq!(servers.iter().map(|s| s.bytes).sum::<u64>(), stored);
    let why = servers[0].last_failure.as_deref().unwrap_or_default();
    assert!(!why.is_empty());
    let sent = first.counters().fetched_bytes + second.counters().fetched_bytes;
    assert!(
        sent < stored + (2 << 20),
        "{sent} bytes were sent for {stored}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_that_come_twice_are_released_once() {
    let (first, _second, client, outputs) = two_servers().await;
    first.faults().break_fetch_after = Some(1 << 20);
    first.faults().forget_cursors = true;
    assert!(read(&client, &outputs).await.unwrap() == wrote(&[0, 1, 2, 3], 10, LENGTH));
    assert_eq!(first.counters().fetches, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_asked_for_again_and_never_released() {
    let (first, _second, client, outputs) = two_servers().await;
    *first.faults() = shuffle_client::fake::Faults {
        flip: 1,
        flip_after: 7,
        ..Default::default()
    };
    assert!(read(&client, &outputs).await.unwrap() == wrote(&[0, 1, 2, 3], 10, LENGTH));
    assert_eq!(first.counters().fetches, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bits_that_stay_flipped_lose_the_output_that_they_are_in() {
    let (first, _second, client, outputs) = two_servers().await;
    *first.faults() = shuffle_client::fake::Faults {
        flip: u32::MAX,
        flip_after: 7,
        ..Default::default()
    };
    let error = read(&client, &outputs).await.unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
    assert_eq!(error.output.unwrap().map_index, MapIndex(0));
    assert!(
        error.message.contains(&first.address()) && error.message.contains("checksum"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_the_server_does_not_know_is_lost_and_never_empty() {
    let (first, _second, client, outputs) = two_servers().await;
    first.faults().omit = Some(AttemptId(102));
    let error = read(&client, &outputs).await.unwrap_err();
    assert_eq!(error.kind, Kind::Lost);
    let lost = LostOutput {
        volume: outputs[2].volume,
        map_index: MapIndex(2),
        attempt: AttemptId(102),
    };
    assert_eq!(error.output, Some(lost));
    assert!(
        error.message.contains("shuffle 7") && error.message.contains("app-1"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_the_server_says_is_lost_is_lost_with_the_servers_reason() {
    let (first, _second, client, outputs) = two_servers().await;
    first.faults().lost.insert(AttemptId(100));
    let error = read(&client, &outputs).await.unwrap_err();
    assert_eq!(
        (error.kind, error.output.unwrap().attempt),
        (Kind::Lost, AttemptId(100))
    );
    assert!(error.message.contains("the fake is told so"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_of_an_unknown_shuffle_is_lost() {
    let (_first, _second, client, outputs) = two_servers().await;
    let mut spec = read_spec(outputs.clone());
    spec.shuffle = shuffle_client::ShuffleId(8);
    let error = read_all(&mut client.open_reader(spec)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Lost);
    assert!(
        outputs
            .iter()
            .any(|output| output.volume == error.output.unwrap().volume)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_should_have_bytes_and_has_none_is_an_error() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let mut writer = client.open_writer(write_spec(&[&server], 0, 1));
    writer.add_block(PartitionId(0), &[b"x"], 1).unwrap();
    let commit = writer.commit().await.unwrap();
    let mut wrong = output(&commit, 0, 1);
    wrong.partitions = vec![0, 3];
    let error = read(&client, &[wrong.clone()]).await.unwrap_err();
    assert!(
        error.kind == Kind::Corrupt && error.message.contains("partition 3"),
        "{error}"
    );
    wrong.partitions = vec![];
    let error = read(&client, &[wrong]).await.unwrap_err();
    assert!(
        error.kind == Kind::Corrupt && error.message.contains("partition 0"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarting_server_is_waited_for_in_the_middle_of_a_read() {
    let (mut first, _second, client, outputs) = two_servers().await;
    let mut spec = read_spec(outputs);
    spec.window = Some(300_000);
    let mut reader = client.open_reader(spec);
    reader.next().await.unwrap().unwrap();
    first.stop().await;
    let restart = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        first.restart().await;
    };
    let (rest, ()) = tokio::join!(read_all(&mut reader), restart);
    rest.unwrap();
    assert_eq!(reader.stats().blocks, u64::from(4 * 10 * PARTITIONS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stays_away_names_one_output_of_its_volume() {
    let (mut first, second, _client, outputs) = two_servers().await;
    let settings = Settings {
        retry_deadline: Duration::from_millis(300),
        ..settings(&[&first, &second])
    };
    let client = Client::new(settings).unwrap();
    first.stop().await;
    let started = Instant::now();
    let error = read(&client, &outputs).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(error.kind, Kind::Unavailable);
    let lost = error.output.unwrap();
    assert!(
        outputs
            .iter()
            .any(|output| output.address == first.address() && output.attempt == lost.attempt)
    );
    for part in [
        &first.address(),
        "partitions 0..5",
        "shuffle 7",
        "app-1",
        "retry_deadline",
    ] {
        assert!(error.message.contains(part), "{part} is not in: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_came_back_on_an_empty_disk_has_lost_its_outputs() {
    let (mut first, _second, client, outputs) = two_servers().await;
    first.stop().await;
    first.lose_disk();
    first.restart().await;
    let error = read(&client, &outputs).await.unwrap_err();
    assert_eq!(error.kind, Kind::Lost);
    assert!(error.message.contains("not served"), "{error}");
    let on_first: Vec<_> = outputs
        .iter()
        .filter(|output| output.address == first.address())
        .collect();
    assert!(
        on_first
            .iter()
            .any(|output| Some(output.volume) == error.output.map(|lost| lost.volume))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_that_moved_to_another_server_are_found_there() {
    let (first, second, client, outputs) = two_servers().await;
    first.give_volumes_to(&second);
    assert!(read(&client, &outputs).await.unwrap() == wrote(&[0, 1, 2, 3], 10, LENGTH));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_of_a_server_that_is_gone_are_found_at_another_one() {
    let (mut first, second, client, outputs) = two_servers().await;
    first.stop().await;
    first.give_volumes_to(&second);
    assert!(read(&client, &outputs).await.unwrap() == wrote(&[0, 1, 2, 3], 10, LENGTH));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_server_is_asked_again() {
    let (first, second, client, outputs) = two_servers().await;
    first.faults().busy = 3;
    second.faults().unavailable = 2;
    assert!(read(&client, &outputs).await.unwrap() == wrote(&[0, 1, 2, 3], 10, LENGTH));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_given_up_after_the_deadline() {
    let (first, second, _client, outputs) = two_servers().await;
    let settings = Settings {
        // The other one has to answer within it.
        call_timeout: Duration::from_millis(1500),
        retry_deadline: Duration::from_secs(3),
        ..settings(&[&first, &second])
    };
    let client = Client::new(settings).unwrap();
    first.faults().hang = true;
    let error = read(&client, &outputs).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(
        outputs
            .iter()
            .any(|output| output.address == first.address()
                && Some(output.volume) == error.output.map(|o| o.volume))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_not_read_from_stops_its_streams() {
    let (first, second, client, mut outputs) = two_servers().await;
    for map in 4..8 {
        let attempt = 100 + u64::from(map);
        let commit = write(&client, &[&first, &second], map, attempt, 30, LENGTH).await;
        outputs.push(output(&commit, map, attempt));
    }
    let mut spec = read_spec(outputs);
    spec.window = Some(300_000);
    let mut reader = client.open_reader(spec);
    reader.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let sent = first.counters().fetched_bytes + second.counters().fetched_bytes;
    // The window, and per stream what HTTP/2 holds on both ends and in the socket.
    let held = 300_000 + 2 * (2 + 1 + 1 + 6) * (1 << 20);
    assert!(
        sent < held,
        "{sent} bytes were sent to a reader that takes none"
    );
    read_all(&mut reader).await.unwrap();
    let total = first.counters().fetched_bytes + second.counters().fetched_bytes;
    assert!(
        held < total,
        "of {total} bytes {held} may be on their way: it tells nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_one_connection_do_not_wait_for_each_other() {
    let (_first, _second, client, outputs) = two_servers().await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut spec = read_spec(outputs.clone());
        spec.window = Some(1000);
        let mut reader = client.open_reader(spec);
        reader.next().await.unwrap().unwrap();
        stalled.push(reader);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(read(&client, &outputs).await.unwrap() == wrote(&[0, 1, 2, 3], 10, LENGTH));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_longer_than_the_window_passes() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    let client = client(&[&first, &second]);
    let mut outputs = Vec::new();
    for map in 0..4 {
        let mut writer = client.open_writer(write_spec(&[&first, &second], map, map.into()));
        writer
            .add_long(PartitionId(0), &raw(map, 0, 0, 3_000_000), 1)
            .unwrap();
        outputs.push(output(&writer.commit().await.unwrap(), map, map.into()));
    }
    let mut spec = read_spec(outputs);
    spec.window = Some(10_000);
    let got = read_all(&mut client.open_reader(spec)).await.unwrap();
    assert_eq!(got.len(), 4);
    assert!(
        got.iter().all(
            |((map, _), (bytes, records))| *bytes == raw(*map, 0, 0, 3_000_000) && *records == 1
        )
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_record_survives_a_broken_stream_in_its_middle() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let mut writer = client.open_writer(write_spec(&[&server], 0, 1));
    writer
        .add_long(PartitionId(0), &raw(0, 0, 0, 3_000_000), 1)
        .unwrap();
    let commit = writer.commit().await.unwrap();
    server.set_message_bytes(100_000);
    for forget in [false, true] {
        server.faults().break_fetch_after = Some(1_000_000);
        server.faults().forget_cursors = forget;
        let got = read(&client, &[output(&commit, 0, 1)]).await.unwrap();
        assert!(got[&(0, 0)] == (raw(0, 0, 0, 3_000_000), 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn next_may_be_dropped_while_it_waits() {
    let (_first, _second, client, outputs) = two_servers().await;
    let mut reader = client.open_reader(read_spec(outputs));
    let mut got = Got::new();
    loop {
        match tokio::time::timeout(Duration::from_micros(50), reader.next()).await {
            Err(_) => {}
            Ok(Ok(Some(block))) => {
                let entry = got
                    .entry((block.map_index.0, block.partition.0))
                    .or_default();
                entry.0.extend_from_slice(&block.data);
                entry.1 += block.records;
            }
            Ok(end) => break assert!(end.unwrap().is_none()),
        }
    }
    assert!(got == wrote(&[0, 1, 2, 3], 10, LENGTH));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_answered_for_ever() {
    let (first, _second, client, outputs) = two_servers().await;
    first.faults().omit = Some(AttemptId(100));
    let mut reader = client.open_reader(read_spec(outputs));
    let error = read_all(&mut reader).await.unwrap_err();
    assert_eq!(reader.next().await.unwrap_err(), error);
    assert_eq!(reader.next().await.unwrap_err(), error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_reader_ends_its_streams() {
    let (first, second, client, outputs) = two_servers().await;
    let mut spec = read_spec(outputs);
    spec.window = Some(300_000);
    let mut reader = client.open_reader(spec);
    reader.next().await.unwrap().unwrap();
    let open = || first.counters().fetching + second.counters().fetching;
    assert!(open() > 0, "its streams wait for the window");
    drop(reader);
    // One that is left behind waits for ever.
    eventually("the streams end", || open() == 0).await;
}

#[tokio::test]
async fn a_wrong_spec_is_refused_with_the_field_named() {
    let server = Fake::start().await;
    let client = client(&[&server]);
    let good = Output {
        volume: VolumeId::random(),
        address: server.address(),
        mirror: None,
        map_index: MapIndex(0),
        attempt: AttemptId(1),
        partitions: vec![0],
    };
    let twice = [
        good.clone(),
        Output {
            attempt: AttemptId(2),
            ..good.clone()
        },
    ];
    let unsorted = [Output {
        partitions: vec![2, 1],
        ..good.clone()
    }];
    let outside = [Output {
        partitions: vec![9],
        ..good.clone()
    }];
    let nowhere = [Output {
        address: "nowhere".into(),
        ..good.clone()
    }];
    let mirror_nowhere = [Output {
        mirror: Some(Location {
            volume: VolumeId::random(),
            address: "nobody".into(),
        }),
        ..good.clone()
    }];
    for (outputs, part) in [
        (&twice[..], "twice"),
        (&unsorted, "ascending"),
        (&outside, "0..5"),
        (&nowhere, "\"nowhere\": write host:port"),
        (&mirror_nowhere, "\"nobody\": write host:port"),
    ] {
        let error = read(&client, outputs).await.unwrap_err();
        assert!(
            error.kind == Kind::Invalid && error.message.contains(part),
            "{error}"
        );
    }
    let mut spec = read_spec(vec![good]);
    spec.partitions = 3..3;
    let error = client.open_reader(spec).next().await.unwrap_err();
    assert!(
        error.kind == Kind::Invalid && error.message.contains("partitions"),
        "{error}"
    );
}
