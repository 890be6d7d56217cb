//! Level `mirror`: outputs on two servers, of which either may go for good.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use shuffle_client::{Kind, Settings};

use super::*;

async fn driver(servers: &[Server], retry_deadline: Duration) -> Driver {
    let addresses: Vec<_> = servers.iter().map(Server::addr).collect();
    let driver = Driver::with(Settings {
        retry_deadline,
        ..settings(&addresses)
    });
    Driver {
        durability: Durability::Mirror,
        ..driver.await
    }
}

async fn three() -> (Vec<Server>, Driver) {
    let servers = vec![
        Server::start().await,
        Server::start().await,
        Server::start().await,
    ];
    let driver = driver(&servers, PATIENCE).await;
    (servers, driver)
}

/// The addresses of both copies.
fn places(output: &Output) -> BTreeSet<String> {
    let mirror = output.mirror.as_ref().expect("there are two copies");
    assert!(output.volume < mirror.volume);
    BTreeSet::from([output.address.clone(), mirror.address.clone()])
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_are_on_two_servers_each_and_evenly() {
    let (servers, driver) = three().await;
    let tasks = tasks(12);
    let outputs = write_all(&driver, 0, &tasks).await;
    let mut copies: BTreeMap<String, u32> = BTreeMap::new();
    for output in &outputs {
        let places = places(output);
        assert_eq!(places.len(), 2);
        places
            .into_iter()
            .for_each(|place| *copies.entry(place).or_default() += 1);
    }
    assert_eq!(
        copies.into_values().collect::<Vec<_>>(),
        [8; 3],
        "two copies of 12 maps over 3 servers"
    );
    let reader = driver.reader(0, outputs);
    let tally = reader.tally();
    check(&read_all(reader).await.unwrap(), &tasks);
    // One copy of each is read.
    let blocks: u64 = tally.servers().iter().map(|server| server.blocks).sum();
    assert_eq!(blocks, 12 * 4 * u64::from(PARTITIONS));
    drop(servers);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_one_server_may_go_for_good() {
    for gone in 0..3 {
        let (mut servers, driver) = three().await;
        let tasks = tasks(12);
        let outputs = write_all(&driver, 0, &tasks).await;
        servers[gone].destroy();
        let start = Instant::now();
        check(&read_all(driver.reader(0, outputs)).await.unwrap(), &tasks);
        // Four tries at the server that is gone, not all of the patience.
        let took = start.elapsed();
        assert!(took < PATIENCE / 2, "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_in_the_middle_of_a_read_costs_nothing() {
    let (mut servers, driver) = three().await;
    let tasks = long_tasks(6, 20);
    let outputs = write_all(&driver, 0, &tasks).await;
    let mut reader = driver.windowed(0, outputs, Some(1 << 20));
    let mut rows = Rows::new();
    assert!(read_on(&mut reader, &mut rows, 20).await.unwrap());
    servers[0].destroy();
    while read_on(&mut reader, &mut rows, 100).await.unwrap() {}
    check(&rows, &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_without_its_disk_is_made_good_by_the_other() {
    let (mut servers, driver) = three().await;
    let tasks = tasks(6);
    let outputs = write_all(&driver, 0, &tasks).await;
    servers[0].kill();
    servers[0].empty_dir();
    servers[0].restart().await;
    check(&read_all(driver.reader(0, outputs)).await.unwrap(), &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_that_comes_back_is_found_when_the_other_is_gone_for_good() {
    let (mut servers, driver) = three().await;
    let tasks = tasks(6);
    let outputs = write_all(&driver, 0, &tasks).await;
    servers[1].destroy();
    servers[0].kill();
    let (gone, back) = (servers[1].addr(), servers[0].addr());
    let both = BTreeSet::from([gone.to_string(), back.to_string()]);
    assert!(outputs.iter().any(|output| places(output) == both));
    let reading = read_all(driver.reader(0, outputs));
    let coming_back = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        servers[0].restart().await;
    };
    let (rows, ()) = tokio::join!(reading, coming_back);
    check(&rows.unwrap(), &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoilt_copy_is_made_good_by_the_other() {
    let (mut servers, writing) = three().await;
    // By chance half of the copies that are there are read there.
    let tasks = tasks(24);
    let outputs = write_all(&writing, 0, &tasks).await;
    let spoilt = &mut servers[0];
    spoilt.stop().await;
    spoilt.allow_errors("");
    spoilt.restart().await;
    spoilt.settled().await;
    let files = spoilt.data_files();
    assert!(!files.is_empty());
    for path in files {
        let mut bytes = fs::read(&path).unwrap();
        // All over: blocks, headers and footers.
        bytes.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
        fs::write(&path, bytes).unwrap();
    }
    let address = spoilt.addr().to_string();
    // A client that has not seen the server down.
    let driver = driver(&servers, PATIENCE).await;
    let reader = driver.reader(0, outputs);
    let tally = reader.tally();
    check(&read_all(reader).await.unwrap(), &tasks);
    let failed = tally
        .servers()
        .into_iter()
        .find(|server| server.address == address);
    assert!(
        failed.is_some_and(|server| server.failures > 0),
        "nothing was read from the spoilt copy"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_servers_have_lost_is_lost_and_named() {
    let (mut servers, _) = three().await;
    let driver = driver(&servers, Duration::from_secs(4)).await;
    let tasks = tasks(6);
    let outputs = write_all(&driver, 0, &tasks).await;
    servers[0].destroy();
    servers[1].destroy();
    let both = BTreeSet::from([servers[0].addr().to_string(), servers[1].addr().to_string()]);
    let start = Instant::now();
    let error = read_all(driver.reader(0, outputs.clone()))
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind, Kind::Unavailable | Kind::Lost),
        "{error:?}"
    );
    let lost = error.output.expect("an output is named");
    let lost = outputs.iter().find(|output| output.attempt == lost.attempt);
    assert_eq!(places(lost.unwrap()), both);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    // The rest is still to be had.
    let (rest, tasks): (Vec<_>, Vec<_>) = outputs
        .into_iter()
        .zip(tasks)
        .filter(|(output, _)| places(output) != both)
        .unzip();
    assert!(!rest.is_empty());
    check(&read_all(driver.reader(0, rest)).await.unwrap(), &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_while_it_takes_a_copy_is_replaced() {
    for dies in 0..2 {
        let (mut servers, driver) = three().await;
        let task = Task {
            rounds: 40,
            ..Task::new(0, 1)
        };
        let spec = driver.spec(0, 3, 0, 1);
        let address = spec.candidates[dies].clone();
        let mut writer = driver.client.open_writer(spec);
        task.write(&mut writer, 0..20).await.unwrap();
        let dying = servers
            .iter_mut()
            .find(|server| server.addr().to_string() == address)
            .unwrap();
        eventually(STEP, || async {
            match dying.peer().await.describe().await.memory_used {
                0 => Err("nothing was sent yet".into()),
                _ => Ok(()),
            }
        })
        .await;
        dying.destroy();
        task.write(&mut writer, 20..40).await.unwrap();
        let commit = step("the commit", writer.commit()).await.unwrap();
        assert_eq!(commit.durability, Durability::Mirror);
        let output = task.output(&commit);
        assert!(!places(&output).contains(&address) && places(&output).len() == 2);
        check(
            &read_all(driver.reader(0, vec![output])).await.unwrap(),
            &[task],
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_is_not_enough_and_the_error_says_so() {
    let (mut servers, _) = three().await;
    let driver = driver(&servers, Duration::from_secs(3)).await;
    servers[1].kill();
    servers[2].kill();
    let error = Task::new(0, 1).run(&driver, 0, 3).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(
        error.message.contains("level mirror needs two servers"),
        "{error}"
    );
    // With a second one the same output is taken.
    servers[1].restart().await;
    let commit = Task::new(0, 2).run(&driver, 0, 3).await.unwrap();
    assert_eq!(commit.durability, Durability::Mirror);
}
