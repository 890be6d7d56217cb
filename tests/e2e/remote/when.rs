//! When it is written back, and when an upload is spared.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_shuffle_deleted_in_time_costs_no_upload_and_is_counted() {
    let bucket = Bucket::new();
    let server = Server::with(bucket.setup("lazy").flag("--write-back-delay", "1h")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push_maps(&server, &app, 0, SHAPE, 0..4).await;
    let bytes = oracle.bytes(&app, 0);
    let peer = server.peer().await;
    eventually(SOON, || async {
        match counter(&server, "writeback_backlog_bytes").await {
            backlog if backlog == bytes => Ok(()),
            backlog => Err(format!("{backlog} bytes wait")),
        }
    })
    .await;
    eventually(SOON, || async {
        match counter(&server, "writeback_oldest_seconds").await {
            0 => Err("it has only just been committed".into()),
            _ => Ok(()),
        }
    })
    .await;
    peer.delete_shuffle(&app, 0).await.unwrap();
    assert_eq!(counter(&server, "volume_saved_bytes_total").await, bytes);
    eventually(SOON, || async {
        match counter(&server, "writeback_oldest_seconds").await {
            0 => Ok(()),
            age => Err(format!("something waits since {age} s")),
        }
    })
    .await;
    // Its app is known there, and nothing else of it.
    let mut files = bucket.left();
    files.retain(|path| !path.ends_with("lease"));
    assert_eq!(files, [] as [PathBuf; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lazy_shuffle_goes_after_its_delay_and_one_that_is_off_never() {
    let bucket = Bucket::new();
    let mut server = Server::with(bucket.setup("lazy").flag("--write-back-delay", "10s")).await;
    let (lazy, off) = (App::new("lazy"), App::new("off"));
    let mut oracle = Oracle::default();
    let peer = server.peer().await;
    let caller = v1::Caller {
        write_back: v1::WriteBack::Off.into(),
        ..off.caller()
    };
    let request = v1::RenewLeaseRequest {
        caller: Some(caller),
        ..Default::default()
    };
    peer.control.clone().renew_lease(request).await.unwrap();
    oracle.push_maps(&server, &off, 0, SHAPE, 0..2).await;
    oracle.push_maps(&server, &lazy, 0, SHAPE, 0..2).await;
    assert_eq!(bucket.with_ending(".obj").len(), 0, "it did not wait");
    peer.written_back(&lazy, 0).await;
    server.stop().await;
    let files = bucket.below("off");
    assert!(
        files.iter().all(|path| path.ends_with("lease")),
        "{files:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_told_to_end_writes_back_what_it_has() {
    let bucket = Bucket::new();
    let mut one = Server::with(bucket.setup("lazy").flag("--write-back-delay", "1h")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for shuffle in 0..5 {
        oracle.push_maps(&one, &app, shuffle, SHAPE, 0..3).await;
    }
    // Only memory has this one.
    let attempt = Attempt::generate(&app, 5, SHAPE, 0, 99).at(Durability::Memory);
    oracle.push(&one.peer().await, &attempt).await;
    assert_eq!(bucket.with_ending(".obj").len(), 0);
    one.stop().await;
    one.destroy();
    let two = Server::with(bucket.setup("lazy")).await;
    for shuffle in 0..6 {
        oracle.check(&two.peer().await, &app, shuffle).await;
    }
}
