//! Servers that answer for ever and bring nothing, or that fail in one part: what is not theirs to
//! spoil is had all the same.

#![allow(clippy::unwrap_used)] // in helpers of tests
mod common;

use std::time::Duration;

use common::*;
use shuffle_client::{
    AttemptId, Client, Durability, Error, Kind, Output, Settings,
    fake::{Endless, Fake},
};

const DEADLINE: Duration = Duration::from_millis(1500);
/// Far longer than anything here takes, and an end.
const NEVER: Duration = Duration::from_secs(90);

fn client(servers: &[&Fake]) -> Client {
    Client::new(Settings {
        retry_deadline: DEADLINE,
        // Some answer nothing, and are given up.
        call_timeout: Duration::from_secs(4),
        ..settings(servers)
    })
    .unwrap()
}

async fn read(client: &Client, outputs: &[Output]) -> Result<Got, Error> {
    let mut reader = client.open_reader(read_spec(outputs.to_vec()));
    let read = tokio::time::timeout(NEVER, read_all(&mut reader));
    read.await.expect("it ends")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_goes_on_for_ever_and_brings_nothing_ends() {
    let server = Fake::start().await;
    server.set_message_bytes(4 << 20);
    let client = client(&[&server]);
    let commit = write(&client, &[&server], 0, 7, 40, 200_000).await;
    let outputs = [output(&commit, 0, 7)];
    for (endless, kind) in [
        (Endless::Empty, Kind::Unavailable),
        (Endless::Again, Kind::Corrupt),
        (Endless::Summary, Kind::Corrupt),
    ] {
        server.faults().endless = Some(endless);
        let error = read(&client, &outputs).await.unwrap_err();
        assert_eq!(error.kind, kind, "{endless:?}: {error}");
        // The map runs again, elsewhere perhaps.
        assert_eq!(error.output.unwrap().attempt, AttemptId(7));
    }
    server.faults().endless = None;
    assert!(read(&client, &outputs).await.unwrap() == wrote(&[0], 40, 200_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_is_acknowledged_for_ever_goes_elsewhere() {
    let (hostile, good) = (Fake::start().await, Fake::start().await);
    let client = client(&[&hostile, &good]);
    hostile.faults().endless = Some(Endless::Acks);
    let servers = [&hostile, &good];
    let pushed = write(&client, &servers, 0, 7, 3, 1000);
    let commit = tokio::time::timeout(NEVER, pushed).await.expect("it ends");
    assert_eq!(commit.address, good.address());
    check_read(&client, &commit, 0, 7, 3, 1000).await;

    hostile.faults().endless = Some(Endless::Opened);
    let mut writer = client.open_writer(write_spec(&[&hostile], 1, 8));
    // It may be known as early as that.
    let filled = fill(&mut writer, 1, 1, 500);
    let committed = async { writer.commit().await.map(drop) };
    let error = match filled {
        Ok(()) => committed.await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind, Kind::Internal);
    assert!(error.message.contains("opens a stream twice"), "{error}");
}

async fn mirrored(client: &Client, servers: &[&Fake], map: u32) -> Output {
    let mut spec = write_spec(servers, map, map.into());
    (spec.num_maps, spec.durability) = (1000, Durability::Mirror);
    let mut writer = client.open_writer(spec);
    fill(&mut writer, map, 1, 500).unwrap();
    output(&writer.commit().await.unwrap(), map, map.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_costs_what_is_on_it() {
    let (server, other) = (Fake::start_with(3).await, Fake::start().await);
    let client = client(&[&server, &other]);
    let mut outputs = Vec::new();
    for map in 0..8 {
        let on = if map > 5 {
            [&other, &server]
        } else {
            [&server, &other]
        };
        let mut spec = write_spec(&on, 0, map.into());
        (spec.map_index, spec.num_maps) = (shuffle_client::MapIndex(8 * map), 1000);
        let mut writer = client.open_writer(spec);
        fill(&mut writer, 8 * map, 1, 500).unwrap();
        outputs.push(output(&writer.commit().await.unwrap(), 8 * map, map.into()));
    }
    let hung = server.volumes()[1];
    server.faults().hung = Some(hung);
    let error = read(&client, &outputs).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert_eq!(error.gone, [hung], "{error}");
    assert_eq!(error.output.unwrap().volume, hung);
    // And nobody takes the server for gone.
    let (bad, good): (Vec<_>, Vec<_>) = outputs
        .into_iter()
        .partition(|output| output.volume == hung);
    assert!(
        !bad.is_empty()
            && good
                .iter()
                .any(|output| server.volumes().contains(&output.volume))
    );
    let maps: Vec<_> = good.iter().map(|output| output.map_index.0).collect();
    assert_eq!(read(&client, &good).await.unwrap(), wrote(&maps, 1, 500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_gone_does_not_cost_the_other_disks_copies() {
    let (server, b) = (Fake::start_with(2).await, Fake::start().await);
    let mut c = Fake::start().await;
    let client = client(&[&server, &b, &c]);
    let gone = server.volumes()[0];
    let is_gone = |output: &Output| {
        let mirror = output.mirror.as_ref().map(|mirror| mirror.volume);
        [Some(output.volume), mirror].contains(&Some(gone))
    };
    // Two copies of each, one at the server of two disks; where that is on the disk which will be
    // lost, the other one stays.
    let mut outputs = Vec::new();
    for map in 0..16 {
        let with_b = mirrored(&client, &[&server, &b], map).await;
        outputs.extend(Some(with_b).filter(is_gone));
    }
    let on_gone = outputs.len();
    for map in 16..32 {
        let with_c = mirrored(&client, &[&server, &c], map).await;
        outputs.extend(Some(with_c).filter(|output| !is_gone(output)));
    }
    let on_other = outputs.len() - on_gone;
    assert!(on_gone > 4 && on_other > 4, "{on_gone}, {on_other}");
    let maps: Vec<_> = outputs.iter().map(|output| output.map_index.0).collect();
    server.faults().unserved = Some(gone);
    c.stop().await;
    assert_eq!(read(&client, &outputs).await.unwrap(), wrote(&maps, 1, 500));
}
