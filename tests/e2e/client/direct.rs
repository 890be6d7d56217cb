//! Readers that read the object store themselves, because no server is left.

use shuffle_client::Kind;
use shuffle_remote::{
    Place, keys,
    manifest::{Attempt, Manifest},
};
use shuffle_tests::{
    Endpoint,
    stores::{BUCKET, Kind as StoreKind},
};
use std::{collections::HashSet, fs, time::Instant};

use super::{
    written_back::{Pool, interrupted, pool},
    *,
};

impl Pool {
    /// A driver that may read the store, and waits for servers for three seconds only.
    async fn may_read(&self) -> Driver {
        Driver::with(Settings {
            remote: Some(self.store.url()),
            retry_deadline: Duration::from_secs(3),
            ..self.settings()
        })
        .await
    }

    /// All servers, for good.
    fn destroy(&mut self) {
        self.servers.iter_mut().for_each(Server::destroy);
    }
}

impl Driver {
    /// Reads with another setting from now on.
    fn look_at(&mut self, remote: Option<String>) {
        let settings = self.client.settings().clone();
        self.client = Client::new(Settings { remote, ..settings }).unwrap();
    }
}

/// Three servers, gone for good with everything written back.
async fn gone(tasks: &[Task]) -> (Pool, Driver, Vec<Output>) {
    let mut pool = pool("eager").await;
    let driver = pool.may_read().await;
    let outputs = write_all(&driver, 0, tasks).await;
    pool.written().await;
    pool.destroy();
    (pool, driver, outputs)
}

/// The error with which a read ends, and that it did not take for ever.
async fn fails(driver: &Driver, outputs: &[Output]) -> Error {
    let start = Instant::now();
    let read = read_all(driver.reader(0, outputs.to_vec())).await;
    let took = start.elapsed();
    assert!(took < PATIENCE / 2, "{took:?}");
    read.expect_err("an answer without what must be in it")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_may_reads_the_store_when_no_server_is_left() {
    let tasks = tasks(12);
    let (pool, driver, outputs) = gone(&tasks).await;
    let mut reader = driver.reader(0, outputs);
    let mut rows = Rows::new();
    while read_on(&mut reader, &mut rows, 1000).await.unwrap() {}
    check(&rows, &tasks);
    // People see where it came from.
    let servers = reader.tally().servers();
    let store = servers.iter().find(|one| one.address == pool.store.url());
    let store = store.expect("the store stands where a server would");
    assert_eq!(
        (store.bytes, store.blocks),
        (reader.stats().bytes, reader.stats().blocks)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_the_store_is_not_touched() {
    let (pool, mut driver, outputs) = gone(&tasks(3)).await;
    driver.look_at(None);
    let error = fails(&driver, &outputs).await;
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    assert!(error.output.is_some(), "{error}");
    assert!(!error.message.contains(&pool.store.url()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_go_in_the_middle_of_a_read_are_followed_into_the_store() {
    let mut pool = pool("eager").await;
    let driver = pool.may_read().await;
    let tasks = long_tasks(6, 20);
    let outputs = write_all(&driver, 0, &tasks).await;
    pool.written().await;
    // A window that is smaller than what is asked of the store at once.
    let mut reader = driver.windowed(0, outputs, Some(1 << 20));
    let rows = interrupted(&mut reader, || pool.destroy()).await;
    check(&rows, &tasks);
    let blocks: u64 = tasks
        .iter()
        .map(|task| u64::from(task.rounds * PARTITIONS))
        .sum();
    assert_eq!(reader.stats().blocks, blocks, "none comes twice");
    let servers = reader.tally().servers();
    let moved = |one: &&shuffle_client::ServerStats| one.blocks > 0;
    let from: Vec<_> = servers
        .iter()
        .filter(moved)
        .map(|one| &one.address)
        .collect();
    assert!(
        from.contains(&&pool.store.url()) && from.len() > 1,
        "{from:?}"
    );
}

/// Twelve outputs, every other one written back, and the servers gone.
async fn half_written(pool: &mut Pool, driver: &mut Driver) -> (Vec<Task>, Vec<Output>) {
    let tasks = tasks(12);
    let mut outputs = Vec::new();
    // The others are committed after everything has been written back.
    for (parity, level) in [(0, Durability::Object), (1, Durability::Disk)] {
        driver.durability = level;
        for task in tasks.iter().filter(|task| task.map / 3 % 2 == parity) {
            let commit = task.run(driver, 0, 12).await.unwrap();
            outputs.push(task.output(&commit));
        }
    }
    pool.servers.iter_mut().for_each(Server::kill);
    (tasks, outputs)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_store_has_not_all_what_is_missing_is_lost_and_named() {
    let mut pool = pool("lazy").await;
    let mut driver = pool.may_read().await;
    let (_, outputs) = half_written(&mut pool, &mut driver).await;
    let missing: HashSet<_> = outputs[6..].iter().map(|output| output.attempt).collect();
    let error = fails(&driver, &outputs).await;
    assert_eq!(error.kind, Kind::Lost, "{error}");
    let lost = error.output.as_ref().expect("an output is named");
    assert!(missing.contains(&lost.attempt), "{error}");
    let volume = outputs.iter().filter(|output| output.volume == lost.volume);
    for output in volume {
        let named = format!("map {} (attempt {})", output.map_index, output.attempt);
        let is_missing = missing.contains(&output.attempt);
        assert_eq!(error.message.contains(&named), is_missing, "{error}");
    }
    assert!(error.message.contains(&pool.store.url()), "{error}");
    // All losses are told, and no volume beyond them.
    let told: HashSet<_> = error.lost.iter().map(|lost| lost.attempt).collect();
    assert_eq!(told, missing, "{error}");
    assert_eq!(error.gone, [], "{error}");
    // What is there is read.
    let there = outputs[..6].to_vec();
    read_all(driver.reader(0, there)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_is_waited_for_where_the_store_has_not_all() {
    let mut pool = pool("lazy").await;
    let mut driver = Driver::with(Settings {
        remote: Some(pool.store.url()),
        ..pool.settings()
    })
    .await;
    let (tasks, outputs) = half_written(&mut pool, &mut driver).await;
    let coming = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        for server in &mut pool.servers {
            server.restart().await;
        }
    };
    let (read, ()) = tokio::join!(read_all(driver.reader(0, outputs)), coming);
    check(&read.unwrap(), &tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_in_the_store_never_reaches_a_row() {
    let (pool, driver, outputs) = gone(&tasks(6)).await;
    let mut places = Vec::new();
    for object in pool.store.with_ending(".obj") {
        let mut bytes = fs::read(&object).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&object, bytes).unwrap();
        places.push(object);
    }
    assert_eq!(places.len(), 3);
    let error = fails(&driver, &outputs).await;
    assert_eq!(error.kind, Kind::Corrupt, "{error}");
    assert!(
        error.output.is_some() && error.message.contains(".obj"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_a_manifest_forgot_are_missed_by_the_summary() {
    let (pool, driver, outputs) = gone(&tasks(3)).await;
    for path in pool.store.with_ending(".manifest") {
        let mut manifest = Manifest::read(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(manifest.objects.len(), 1);
        manifest.objects.clear();
        fs::write(&path, manifest.encode()).unwrap();
    }
    let error = fails(&driver, &outputs).await;
    assert_eq!(error.kind, Kind::Corrupt, "{error}");
    assert!(
        error.message.contains("has no bytes for partition"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_other_attempts_is_no_answer() {
    let (pool, driver, mut outputs) = gone(&tasks(3)).await;
    for path in pool.store.with_ending(".manifest") {
        let mut manifest = Manifest::read(&fs::read(&path).unwrap()).unwrap();
        for Attempt { owner, .. } in &mut manifest.attempts {
            owner.1 = AttemptId(owner.1.0 + 100);
        }
        fs::write(&path, manifest.encode()).unwrap();
    }
    // Not even where there would be no rows.
    outputs
        .iter_mut()
        .for_each(|output| output.partitions.clear());
    let error = fails(&driver, &outputs).await;
    assert_eq!(error.kind, Kind::Lost, "{error}");
    assert!(error.message.contains("1 of 1 outputs"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_is_lost() {
    let mut pool = pool("eager").await;
    let driver = pool.may_read().await;
    let outputs = write_all(&driver, 0, &tasks(3)).await;
    pool.written().await;
    driver.app.delete_shuffle(ShuffleId(0)).await.unwrap();
    let directory = "app-1/0";
    eventually(STEP, || async {
        match &pool.store.below(directory)[..] {
            [] => Ok(()),
            left => Err(format!("left: {left:?}")),
        }
    })
    .await;
    pool.destroy();
    let error = fails(&driver, &outputs).await;
    assert_eq!(error.kind, Kind::Lost, "{error}");
    let key = keys::manifest(
        &Place {
            app: driver.caller.app.clone(),
            shuffle: ShuffleId(0),
            volume: error.output.as_ref().expect("an output is named").volume,
        },
        1,
    );
    assert!(error.message.contains(&key), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_mounted_is_waited_for_and_not_made() {
    let (pool, mut driver, outputs) = gone(&tasks(3)).await;
    let elsewhere = pool.store.path().with_file_name("not-mounted");
    driver.look_at(Some(format!("file://{}", elsewhere.display())));
    let error = fails(&driver, &outputs).await;
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    assert!(
        error.message.contains("is no directory of this machine"),
        "{error}"
    );
    assert!(!elsewhere.exists());
}

#[tokio::test]
async fn a_url_that_names_no_store_is_refused_with_the_name_of_the_setting() {
    let settings = Settings {
        remote: Some("ftp://host/dir".into()),
        names: BTreeMap::from([("remote".into(), "my.remote".into())]),
        ..Settings::of(["127.0.0.1:1"])
    };
    let error = Client::new(settings).err().expect("refused");
    assert_eq!(error.kind, Kind::Invalid);
    let refusal = "setting `my.remote` is \"ftp://host/dir\": ";
    assert!(error.message.starts_with(refusal), "{error}");
    assert!(error.message.contains("s3://BUCKET/PREFIX"), "{error}");
}

/// Credentials come from the environment, shared by all tests of a process: the test runs in a
/// child.
async fn in_a_child(kind: StoreKind) {
    let Some(endpoint) = Endpoint::start(kind).await else {
        return;
    };
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "direct::with_credentials_of_the_environment"])
        .args(["--ignored", "--nocapture"])
        .envs(endpoint.env(endpoint.addr()))
        .env("FOREBAY_TEST_STORE", endpoint.url("prefix"));
    let output = tokio::task::spawn_blocking(move || child.output());
    let output = step("the child", output).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("1 passed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn versitygw_is_read_by_the_client_itself() {
    in_a_child(StoreKind::Versity).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_is_read_by_the_client_itself() {
    in_a_child(StoreKind::Moto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azurite_is_read_by_the_client_itself() {
    in_a_child(StoreKind::Azurite).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by those above, with the environment of a store"]
async fn with_credentials_of_the_environment() {
    let url = std::env::var("FOREBAY_TEST_STORE").unwrap();
    let mut servers = Vec::new();
    for _ in 0..2 {
        let setup = shuffle_tests::Setup::new().flag("--remote", &url);
        // A server of a test has nothing of its environment by chance.
        let of_clouds =
            |(name, _): &(String, _)| name.starts_with("AWS_") || name.starts_with("AZURE_");
        let setup = std::env::vars()
            .filter(of_clouds)
            .fold(setup, |setup, (name, value)| setup.env(&name, value));
        servers.push(Server::with(setup).await);
    }
    let addresses: Vec<_> = servers.iter().map(Server::addr).collect();
    let mut driver = Driver::with(Settings {
        remote: Some(url.clone()),
        retry_deadline: Duration::from_secs(3),
        ..settings(&addresses)
    })
    .await;
    driver.durability = Durability::Object;
    let tasks = long_tasks(6, 20);
    let outputs = write_all(&driver, 0, &tasks).await;
    servers.iter_mut().for_each(Server::destroy);
    let rows = read_all(driver.reader(0, outputs.clone())).await.unwrap();
    check(&rows, &tasks);

    // A bucket that is not there says nothing about what was written.
    let elsewhere = url.replace(BUCKET, "forebay-other");
    driver.look_at(Some(elsewhere));
    let error = fails(&driver, &outputs).await;
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    assert!(error.message.contains("forebay-other"), "{error}");
}
