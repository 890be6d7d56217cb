//! Readers while servers are killed, restart, move, come back empty, and while bits flip.

use shuffle_client::{AttemptId, Kind, PartitionId, Settings, ShuffleId, VolumeId};
use shuffle_tests::{
    STEP, Server, Setup,
    attempt::Random,
    disk, eventually,
    proxy::{Fault, Proxy},
    step,
};
use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    Driver, PATIENCE, Rows, Task, check, long_tasks, read_all, read_on, settings, tasks, write_all,
};

// === readers and servers that fail ===

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_waits_for_a_server_that_restarts() {
    let mut server = Server::start().await;
    let driver = Driver::new(&[&server]).await;
    let tasks = tasks(6);
    let outputs = write_all(&driver, 0, &tasks).await;
    server.kill();
    let reading = read_all(driver.reader(0, outputs));
    let coming_back = async {
        tokio::time::sleep(Duration::from_millis(2000)).await;
        server.restart().await;
    };
    let (rows, ()) = tokio::join!(reading, coming_back);
    check(&rows.unwrap(), &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_resumes_where_its_server_was_killed() {
    let mut server = Server::start().await;
    let driver = Driver::with(Settings {
        fetch_window: 128 << 10,
        ..settings(&[server.addr()])
    })
    .await;
    let tasks = long_tasks(6, 30);
    let outputs = write_all(&driver, 0, &tasks).await;
    let mut reader = driver.reader(0, outputs);
    let mut rows = Rows::new();
    for round in 0..4 {
        assert!(
            read_on(&mut reader, &mut rows, 60 + round * 20)
                .await
                .unwrap()
        );
        server.kill();
        server.restart().await;
    }
    while read_on(&mut reader, &mut rows, 1000).await.unwrap() {}
    assert!(reader.stats().resumes > 0);
    check(&rows, &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_again_and_again_still_brings_everything_once() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.addr()).await;
    let tasks = long_tasks(4, 20);
    let direct = Driver::new(&[&server]).await;
    let mut outputs = write_all(&direct, 0, &tasks).await;
    outputs
        .iter_mut()
        .for_each(|output| output.address = proxy.addr().to_string());
    let driver = Driver::with(settings(&[proxy.addr()])).await;
    // More than a message: what was not verified has to come again.
    proxy.set(Fault::CutEvery(2_500_000));
    let reader = driver.reader(0, outputs);
    let rows = read_all(reader).await.unwrap();
    assert!(
        proxy.struck() > 2,
        "the connection was cut {} times",
        proxy.struck()
    );
    check(&rows, &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_flipped_on_the_wire_never_reaches_a_row() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.addr()).await;
    let direct = Driver::new(&[&server]).await;
    let tasks = tasks(3);
    let mut outputs = write_all(&direct, 0, &tasks).await;
    outputs
        .iter_mut()
        .for_each(|output| output.address = proxy.addr().to_string());
    let mut random = Random(9);
    for _ in 0..25 {
        let impatient = Settings {
            retry_deadline: Duration::from_secs(4),
            ..settings(&[proxy.addr()])
        };
        let driver = Driver::with(impatient).await;
        proxy.set(Fault::FlipAt(random.below(350_000)));
        // Asked again it comes right, or the fetch fails: both are fine.
        match read_all(driver.reader(0, outputs.clone())).await {
            Ok(rows) => check(&rows, &tasks),
            Err(error) => assert!(
                error.output.is_some() || error.kind == Kind::Denied,
                "{error:?}"
            ),
        }
        proxy.set(Fault::None);
    }
    assert!(
        proxy.struck() > 10,
        "only {} bits were flipped",
        proxy.struck()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_flipped_on_the_disk_never_reaches_a_row() {
    let mut server = Server::start().await;
    let driver = Driver::with(Settings {
        retry_deadline: Duration::from_secs(3),
        ..settings(&[server.addr()])
    })
    .await;
    let mut tasks = tasks(3);
    let mut outputs = write_all(&driver, 0, &tasks).await;
    server.stop().await;
    server.allow_errors("");
    server.restart().await;
    server.settled().await;
    let mut random = Random(4);
    let (mut refused, files) = (0, server.data_files());
    assert!(!files.is_empty());
    for path in files {
        let good = fs::read(&path).unwrap();
        for _ in 0..30 {
            let (at, bit) = (random.below(good.len() as u64), random.below(8) as u8);
            disk::flip(&path, at, bit);
            match read_all(driver.reader(0, outputs.clone())).await {
                Ok(rows) => check(&rows, &tasks),
                Err(error) => {
                    refused += 1;
                    assert!(
                        matches!(error.kind, Kind::Lost | Kind::Corrupt),
                        "{error:?}"
                    );
                    let output = error.output.expect("the error names one output");
                    assert!(outputs.iter().any(|o| (o.volume, o.map_index, o.attempt)
                        == (output.volume, output.map_index, output.attempt)));
                    // It is lost for every reader from then on, also when the bit is right again;
                    // running the map again heals.
                    let lost = output.map_index.0 as usize;
                    tasks[lost] = Task::new(output.map_index.0, 1000 + refused);
                    let commit = tasks[lost].run(&driver, 0, 3).await.unwrap();
                    outputs[lost] = tasks[lost].output(&commit);
                    let rows = read_all(driver.reader(0, outputs.clone())).await.unwrap();
                    check(&rows, &tasks);
                }
            }
            disk::flip(&path, at, bit);
        }
    }
    assert!(refused > 0, "no flip was noticed");
    check(&read_all(driver.reader(0, outputs)).await.unwrap(), &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_moved_to_another_address_is_found() {
    let (mut one, mut two) = (Server::start().await, Server::start().await);
    let driver = Driver::new(&[&one, &two]).await;
    let tasks = tasks(6);
    let outputs = write_all(&driver, 0, &tasks).await;
    one.kill();
    let moved = one.dirs()[0].clone();
    // It joins the other server's own disk.
    let own = two.dirs()[0].clone();
    let addr = two.addr();
    two.kill();
    let mut both = Server::prepare(Setup::new().dir(own).dir(moved));
    both.listen_like(&two);
    both.restart().await;
    assert_eq!(both.addr(), addr);
    check(&read_all(driver.reader(0, outputs)).await.unwrap(), &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_empty_is_lost_at_once_and_by_name() {
    let mut server = Server::start().await;
    let driver = Driver::new(&[&server]).await;
    let tasks = tasks(3);
    let outputs = write_all(&driver, 0, &tasks).await;
    server.kill();
    server.empty_dir();
    server.restart().await;
    // The same shuffle lives there again: its new content is not the expected one.
    let fresh = Task {
        attempt: 50,
        ..Task::new(0, 0)
    };
    fresh.run(&driver, 0, 3).await.unwrap();
    let error = read_all(driver.reader(0, outputs.clone()))
        .await
        .unwrap_err();
    assert_eq!(error.kind, Kind::Lost, "{error}");
    let lost = error.output.expect("the error names one output");
    assert_eq!(lost.volume, outputs[0].volume);
    assert!(
        error.message.contains(&outputs[0].volume.to_string()),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_gone_for_good_fails_within_the_deadline() {
    let (mut one, two) = (Server::start().await, Server::start().await);
    let addresses = [one.addr(), two.addr()];
    let driver = Driver::with(Settings {
        retry_deadline: Duration::from_secs(4),
        ..settings(&addresses)
    })
    .await;
    let tasks = tasks(6);
    let outputs = write_all(&driver, 0, &tasks).await;
    let volume = VolumeId(uuid::Uuid::from_slice(&one.volumes()[0]).unwrap());
    one.kill();
    let start = Instant::now();
    let error = read_all(driver.reader(0, outputs)).await.unwrap_err();
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    assert_eq!(
        error.output.expect("the error names one output").volume,
        volume,
        "{error}"
    );
    assert!(
        matches!(error.kind, Kind::Unavailable | Kind::Lost),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_are_not_there_are_an_error_not_an_empty_answer() {
    let server = Server::start().await;
    let driver = Driver::new(&[&server]).await;
    let tasks = tasks(3);
    let outputs = write_all(&driver, 0, &tasks).await;
    // An attempt that never committed.
    let mut wrong = outputs.clone();
    wrong[1].attempt = AttemptId(77);
    let error = read_all(driver.reader(0, wrong)).await.unwrap_err();
    assert_eq!(
        (error.kind, error.output.map(|o| o.attempt)),
        (Kind::Lost, Some(AttemptId(77))),
        "{error}"
    );
    // A partition said to have rows, in an output that has none there.
    let mut writer = driver.client.open_writer(driver.spec(1, 1, 0, 5));
    writer.add_block(PartitionId(0), &[&[1; 10]], 1).unwrap();
    let commit = step("the commit", writer.commit()).await.unwrap();
    let claimed = Task::new(0, 5).output(&commit);
    let error = read_all(driver.reader(1, vec![claimed])).await.unwrap_err();
    assert!(error.output.is_some(), "{error}");
    // A shuffle that was deleted.
    driver.app.delete_shuffle(ShuffleId(0)).await.unwrap();
    let error = read_all(driver.reader(0, outputs)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Lost, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_dropped_in_the_middle_frees_the_server() {
    let mut server = Server::with(Setup::new().flag("--memory", "16MiB")).await;
    let driver = Driver::new(&[&server]).await;
    let tasks = long_tasks(6, 30);
    let outputs = write_all(&driver, 0, &tasks).await;
    for _ in 0..20 {
        let mut reader = driver.reader(0, outputs.clone());
        let mut rows = Rows::new();
        assert!(read_on(&mut reader, &mut rows, 5).await.unwrap());
    }
    check(&read_all(driver.reader(0, outputs)).await.unwrap(), &tasks);
    driver.app.close().await.unwrap();
    let peer = server.peer().await;
    eventually(STEP, || async {
        let used = peer.describe().await.memory_used;
        if used == 0 {
            Ok(())
        } else {
            Err(format!("{used} bytes of memory used"))
        }
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_connection_is_given_up_and_taken_up_again() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.addr()).await;
    let direct = Driver::new(&[&server]).await;
    let tasks = long_tasks(3, 10);
    let mut outputs = write_all(&direct, 0, &tasks).await;
    outputs
        .iter_mut()
        .for_each(|output| output.address = proxy.addr().to_string());
    let driver = Driver::with(settings(&[proxy.addr()])).await;
    let mut reader = driver.reader(0, outputs);
    let mut rows = Rows::new();
    assert!(read_on(&mut reader, &mut rows, 2).await.unwrap());
    proxy.set(Fault::Stall);
    let lifted = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        proxy.set(Fault::None);
    };
    let reading = async { while read_on(&mut reader, &mut rows, 1000).await.unwrap() {} };
    tokio::join!(reading, lifted);
    check(&rows, &tasks);
}
