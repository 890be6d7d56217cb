//! Crashes, failing stores, broken or full disks: nothing acknowledged is lost, nothing comes
//! twice.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_any_moment_of_write_back_lose_and_double_nothing() {
    let bucket = Bucket::new();
    let mut one = Server::with(bucket.setup("eager")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let mut random = Random(11);
    for round in 0..12u32 {
        let map = round / 3;
        oracle
            .push_maps(&one, &app, round % 3, SHAPE, map..map + 1)
            .await;
        let moment = 450 + random.below(350);
        tokio::time::sleep(Duration::from_millis(moment)).await;
        one.kill();
        one.restart().await;
        for shuffle in 0..=round.min(2) {
            oracle.check(&one.peer().await, &app, shuffle).await;
        }
    }
    for shuffle in 0..3 {
        // It has to be heard of before anything of it is written.
        one.peer().await.renew(&app).await.unwrap();
        one.peer().await.written_back(&app, shuffle).await;
    }
    one.destroy();
    let two = Server::with(bucket.setup("eager")).await;
    for shuffle in 0..3 {
        oracle.check(&two.peer().await, &app, shuffle).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_costs_a_backlog_and_nothing_else() {
    let bucket = Bucket::new();
    let mut one = Server::with(bucket.setup("eager")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    // A file where the app's directory would have to be: root may write everywhere, but not below a
    // file.
    let obstacle = bucket.path().join("forebay-v1/app-1");
    fs::create_dir_all(obstacle.parent().unwrap()).unwrap();
    fs::write(&obstacle, "not a directory").unwrap();
    oracle.push_maps(&one, &app, 0, SHAPE, 0..3).await;
    eventually(SOON, || async {
        match counter(&one, "writeback_failures_total").await {
            0 => Err("no failure yet".into()),
            _ => Ok(()),
        }
    })
    .await;
    oracle.push_maps(&one, &app, 0, SHAPE, 3..6).await;
    oracle.check(&one.peer().await, &app, 0).await;
    fs::remove_file(obstacle).unwrap();
    one.peer().await.written_back(&app, 0).await;
    one.destroy();
    let two = Server::with(bucket.setup("eager")).await;
    oracle.check(&two.peer().await, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_copy_that_is_broken_is_replaced_by_the_store() {
    let bucket = Bucket::new();
    let mut one = Server::with(bucket.setup("eager")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push_maps(&one, &app, 0, SHAPE, 0..4).await;
    one.peer().await.written_back(&app, 0).await;
    one.settled().await;
    one.kill();
    let segments = one.data_files();
    assert!(!segments.is_empty());
    segments.iter().for_each(|path| disk::truncate(path, 100));
    one.allow_errors("run cannot be read");
    one.restart().await;
    oracle.check(&one.peer().await, &app, 0).await;
    oracle
        .check_range(&one.peer().await, &app, 0, 2..5, 1..3)
        .await;
    one.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_gives_its_copies_up_and_goes_on() {
    let bucket = Bucket::new();
    let Some(disk) = Tmpfs::mount(bucket.path().with_file_name("disk"), 160 << 10) else {
        return;
    };
    let setup = bucket
        .setup("lazy")
        .flag("--write-back-delay", "1h")
        .flag("--reclaim-at", 50)
        .flag("--memory", "64MiB")
        .dir(disk.path());
    let mut one = Server::with(setup).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for shuffle in 0..24u32 {
        let mut attempt = Attempt::empty(&app, shuffle, SHAPE, 0, u64::from(shuffle) + 1);
        for block in 0..16 {
            let bytes = random_bytes(u64::from(shuffle) << 8 | u64::from(block), 768 << 10);
            attempt = attempt.with_block(block % 10, bytes);
        }
        // 12 MiB each, 288 MiB in all, on a disk of 160; what is full asks for 64 MiB before it
        // goes on.
        eventually(SOON, || async {
            let peer = one.peer().await;
            peer.push(&attempt)
                .await
                .map_err(|status| status.to_string())
        })
        .await;
        let receipt = v1::Committed {
            volume: one.volumes()[0].clone().into(),
            ..Default::default()
        };
        oracle.committed(&attempt, &receipt);
    }
    assert!(counter(&one, "volume_reclaimed_bytes_total").await > 100 << 20);
    for shuffle in 0..24 {
        oracle.check(&one.peer().await, &app, shuffle).await;
    }
    one.kill();
    one.restart().await;
    for shuffle in 0..24 {
        oracle.check(&one.peer().await, &app, shuffle).await;
    }
    // One that was reclaimed takes more, and both parts are read.
    let more = Attempt::generate(&app, 0, SHAPE, 5, 1000);
    oracle.push(&one.peer().await, &more).await;
    oracle.check(&one.peer().await, &app, 0).await;
    one.kill();
}
