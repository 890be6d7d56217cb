//! Readers whose server is gone, when servers have an object store in common.

use shuffle_tests::{
    App, Bucket,
    v1::{self, Durability},
};
use std::{collections::HashSet, time::Instant};

use super::*;

/// Three servers with a store in common.
pub(super) struct Pool {
    pub(super) servers: Vec<Server>,
    pub(super) store: Bucket,
}

pub(super) async fn pool(policy: &str) -> Pool {
    pool_of(policy, 1).await
}

/// The first of them has so many disks.
async fn pool_of(policy: &str, disks: usize) -> Pool {
    let store = Bucket::new();
    let mut servers = Vec::new();
    for number in 0..3 {
        let disks = if number == 0 { disks } else { 1 };
        let setup = store.setup(policy).flag("--write-back-delay", "1h");
        servers.push(Server::with(setup.volumes(disks)).await);
    }
    Pool { servers, store }
}

impl Pool {
    pub(super) fn settings(&self) -> Settings {
        settings(&self.servers.iter().map(Server::addr).collect::<Vec<_>>())
    }

    async fn driver(&self) -> Driver {
        Driver::with(self.settings()).await
    }

    /// Waits until every server has written back what it has.
    pub(super) async fn written(&self) {
        let app = App {
            token: "secret".into(),
            ..App::new("app-1")
        };
        for server in &self.servers {
            let peer = server.peer().await;
            eventually(STEP, || async {
                let usage: v1::UsageResponse = peer.usage(&app, None).await.unwrap();
                let mut levels = usage.levels.iter();
                match levels.find(|level| level.durability != Durability::Object as i32) {
                    None => Ok(()),
                    Some(level) => Err(format!("{level:?}")),
                }
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_back_is_read_when_its_servers_are_gone_for_good() {
    let mut pool = pool("eager").await;
    let driver = pool.driver().await;
    let tasks = tasks(12);
    let outputs = write_all(&driver, 0, &tasks).await;
    pool.written().await;
    for gone in 0..2 {
        pool.servers[gone].destroy();
        let start = Instant::now();
        let rows = read_all(driver.reader(0, outputs.clone())).await.unwrap();
        check(&rows, &tasks);
        // Four tries at the server that is gone, not all of the patience.
        let took = start.elapsed();
        assert!(took < PATIENCE / 2, "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_in_the_middle_goes_on_in_the_store() {
    let mut pool = pool("eager").await;
    let driver = pool.driver().await;
    let tasks = long_tasks(6, 20);
    let outputs = write_all(&driver, 0, &tasks).await;
    pool.written().await;
    let mut reader = driver.windowed(0, outputs, Some(1 << 20));
    let rows = interrupted(&mut reader, || {
        pool.servers[0].destroy();
        pool.servers[1].destroy();
    });
    check(&rows.await, &tasks);
}

/// All rows, though something happens after the first of them.
pub(super) async fn interrupted(reader: &mut Reader, by: impl FnOnce()) -> Rows {
    let mut rows = Rows::new();
    assert!(read_on(reader, &mut rows, 20).await.unwrap());
    by();
    while read_on(reader, &mut rows, 100).await.unwrap() {}
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_written_back_is_lost_with_its_server_and_named() {
    let mut pool = pool("lazy").await;
    let driver = Driver::with(Settings {
        retry_deadline: Duration::from_secs(3),
        ..pool.settings()
    })
    .await;
    let tasks = tasks(6);
    let outputs = write_all(&driver, 0, &tasks).await;
    pool.servers[0].destroy();
    let start = Instant::now();
    let error = read_all(driver.reader(0, outputs.clone()))
        .await
        .unwrap_err();
    let lost = error.output.as_ref().expect("an output is named");
    let address = pool.servers[0].addr().to_string();
    let of_the_dead = outputs.iter().filter(|output| output.address == address);
    assert!(
        of_the_dead
            .clone()
            .any(|output| output.volume == lost.volume),
        "{error}"
    );
    let took = start.elapsed();
    assert!(took < PATIENCE / 2, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_server_of_many_disks_just_what_was_not_written_back_is_lost() {
    let mut pool = pool_of("lazy", 4).await;
    let mut driver = Driver::with(Settings {
        retry_deadline: Duration::from_secs(4),
        ..pool.settings()
    })
    .await;
    let tasks = tasks(24);
    let (mut outputs, mut missing) = (Vec::new(), HashSet::new());
    for (parity, level) in [
        (0, shuffle_client::Durability::Object),
        (1, shuffle_client::Durability::Disk),
    ] {
        driver.durability = level;
        for task in tasks.iter().filter(|task| task.map / 3 % 2 == parity) {
            let commit = task.run(&driver, 0, 24).await.unwrap();
            let output = task.output(&commit);
            if parity == 1 && output.address == pool.servers[0].addr().to_string() {
                missing.insert(output.attempt);
            }
            outputs.push(output);
        }
    }
    assert!(missing.len() > 1);
    pool.servers[0].destroy();
    let error = read_all(driver.reader(0, outputs.clone()))
        .await
        .unwrap_err();
    // Lost singly, or with the volume if the store has nothing of it.
    let lost: HashSet<_> = error.lost.iter().map(|lost| lost.attempt).collect();
    let told = outputs.iter().map(|output| (output.attempt, output.volume));
    let told =
        told.filter(|(attempt, volume)| lost.contains(attempt) || error.gone.contains(volume));
    let told: HashSet<_> = told.map(|(attempt, _)| attempt).collect();
    assert_eq!(told, missing, "{error}");
    assert!(missing.contains(&error.output.unwrap().attempt));
    // Everything else is read, without the server.
    outputs.retain(|output| !missing.contains(&output.attempt));
    read_all(driver.reader(0, outputs)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_is_waited_for_where_the_store_has_not_all() {
    let mut pool = pool("lazy").await;
    let driver = pool.driver().await;
    let tasks = tasks(6);
    let outputs = write_all(&driver, 0, &tasks).await;
    pool.servers[0].kill();
    let mut reader = driver.reader(0, outputs);
    let mut rows = Rows::new();
    let reading = async {
        while read_on(&mut reader, &mut rows, 100).await? {}
        Ok::<_, Error>(())
    };
    let coming = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        pool.servers[0].restart().await;
    };
    let (read, ()) = tokio::join!(reading, coming);
    read.unwrap();
    check(&rows, &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_drained_one_after_the_other_lose_nothing() {
    let mut pool = pool("lazy").await;
    let driver = pool.driver().await;
    let tasks = tasks(9);
    let outputs = write_all(&driver, 0, &tasks).await;
    for server in 0..2 {
        pool.servers[server].stop().await;
        pool.servers[server].destroy();
        let rows = read_all(driver.reader(0, outputs.clone())).await.unwrap();
        check(&rows, &tasks);
    }
}
