//! Data directories in use, read-only, full or foreign, and disks that fail, go or hang. Tests with
//! mounts are skipped, with the reason, without root.

use shuffle_tests::{
    App, Attempt, Kind, Oracle, Peer, STEP, Server, Setup, Shape,
    disk::{Ext4, Tmpfs},
    eventually,
    peer::{assert_refused, fetch_first},
    random_bytes,
};
use std::{fs, io::Write, time::Duration};

mod failing;
mod hanging;
mod starting;

const SHAPE: Shape = Shape {
    maps: 1000,
    partitions: 8,
    rounds: 1,
    block: 8000,
};

/// An attempt of 2 MiB.
fn large(app: &App, shuffle: u32, map: u32) -> Attempt {
    let id = u64::from(shuffle) << 32 | u64::from(map);
    let mut attempt = Attempt::empty(app, shuffle, SHAPE, map, id);
    for partition in 0..8 {
        attempt = attempt.with_block(
            partition,
            random_bytes(id * 8 + u64::from(partition), 256 << 10),
        );
    }
    attempt
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_use_is_refused_and_its_user_unharmed() {
    let mut one = Server::start().await;
    let peer = one.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle
        .push(&peer, &Attempt::generate(&app, 0, SHAPE, 0, 1))
        .await;
    let dir = one.dirs()[0].clone();
    let mut two = Server::prepare(Setup::new().dir(dir.clone()));
    let said = two.refused().await;
    assert!(
        said.contains(dir.to_str().unwrap()),
        "the directory is not named: {said}"
    );
    assert!(
        said.contains("use") || said.contains("lock"),
        "the reason is not named: {said}"
    );
    oracle.check(&peer, &app, 0).await;
    oracle
        .push(&peer, &Attempt::generate(&app, 0, SHAPE, 1, 2))
        .await;
    one.kill();
    one.restart().await;
    oracle.check(&one.peer().await, &app, 0).await;
    // A dead owner leaves no lock behind.
    one.kill();
    two.restart().await;
    oracle.check(&two.peer().await, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_directory_twice_is_refused() {
    let server = Server::prepare(Setup::new());
    let dir = server.dirs()[0].clone();
    let mut twice = Server::prepare(
        Setup::new()
            .dir(dir.clone())
            .dir(dir.join("..").join(dir.file_name().unwrap())),
    );
    let said = twice.refused().await;
    assert!(
        said.contains(dir.to_str().unwrap()),
        "the directory is not named: {said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_is_none_is_refused() {
    let mut server = Server::prepare(Setup::new());
    let dir = server.dirs()[0].clone();
    fs::remove_dir(&dir).unwrap();
    fs::write(&dir, "not a directory").unwrap();
    let said = server.refused().await;
    assert!(
        said.contains(dir.to_str().unwrap()),
        "the path is not named: {said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_with_other_files_is_not_taken_over() {
    let mut server = Server::prepare(Setup::new());
    let file = server.dirs()[0].join("thesis.txt");
    fs::write(&file, "years of work").unwrap();
    // Refused or used beside it: what is not ours is never removed.
    if server.try_start().await.is_ok() {
        server.stop().await;
    } else {
        server.allow_errors("");
    }
    assert_eq!(fs::read_to_string(file).unwrap(), "years of work");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoilt_volume_file_costs_nothing_and_without_a_copy_is_refused_clearly() {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle
        .push(&peer, &Attempt::generate(&app, 0, SHAPE, 0, 1))
        .await;
    server.stop().await;
    let [path, copy] = ["volume", "volume.copy"].map(|name| server.dirs()[0].join(name));
    let good = fs::read(&path).unwrap();
    let mut other = good.clone();
    other[0] ^= 0x40;
    for spoilt in [
        vec![],
        b"hello".to_vec(),
        good[..good.len() / 4].to_vec(),
        vec![0xff; good.len()],
    ] {
        fs::write(&path, &spoilt).unwrap();
        server.restart().await;
        oracle.check(&server.peer().await, &app, 0).await;
        server.stop().await;
        assert_eq!(fs::read(&path).unwrap(), good, "it is put right");
        for path in [&path, &copy] {
            fs::write(path, &spoilt).unwrap();
        }
        let said = server.refused().await;
        assert!(
            said.contains("volume"),
            "the file is not named for {spoilt:?}: {said}"
        );
        fs::write(&copy, &good).unwrap();
    }
    for path in [&path, &copy] {
        fs::write(path, &other).unwrap();
    }
    server.restart().await;
    oracle.check(&server.peer().await, &app, 0).await;
    server.stop().await;
    // Without its name the data is somebody's, not nobody's: it must not be swept away under a new
    // id.
    for path in [&path, &copy] {
        fs::remove_file(path).unwrap();
    }
    let said = server.refused().await;
    assert!(said.contains("is not a volume and holds"), "{said}");
    assert!(
        server.data_bytes() >= oracle.bytes(&app, 0),
        "data of a volume without its name was removed"
    );
    fs::write(&path, &good).unwrap();
    server.restart().await;
    oracle.check(&server.peer().await, &app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_data_directory_is_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(scratch.path().join("disk"), 32 << 10) else {
        return;
    };
    let mut server = Server::with(Setup::new().dir(disk.path())).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle
        .push(
            &server.peer().await,
            &Attempt::generate(&app, 0, SHAPE, 0, 1),
        )
        .await;
    server.stop().await;
    assert!(disk.read_only(true));
    let said = server.refused().await;
    assert!(
        said.contains(disk.path().to_str().unwrap()),
        "the directory is not named: {said}"
    );
    assert!(
        said.to_lowercase().contains("read-only"),
        "the reason is not named: {said}"
    );
    assert!(disk.read_only(false));
    server.restart().await;
    oracle.check(&server.peer().await, &app, 0).await;
    drop(server);
}

/// Pushes attempts of 2 MiB to four shuffles until three in a row are refused for want of space.
async fn fill(peer: &Peer, app: &App, oracle: &mut Oracle, first: u32) {
    let mut refusals = 0;
    for map in first..first + 400 {
        let attempt = large(app, map % 4, map);
        match peer.push(&attempt).await {
            Ok(receipt) => oracle.committed(&attempt, &receipt),
            Err(status) => {
                assert!(
                    matches!(Kind::of(&status), Kind::Busy | Kind::Unavailable),
                    "{status:?}"
                );
                let why = status.message();
                assert!(why.contains("full") || why.contains("space"), "{status:?}");
                refusals += 1;
                if refusals == 3 {
                    return;
                }
            }
        }
    }
    panic!("800 MiB fit on the disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_pushes_and_loses_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(scratch.path().join("disk"), 256 << 10) else {
        return;
    };
    let setup = Setup::new().dir(disk.path()).flag("--memory", "16MiB");
    let mut server = Server::with(setup).await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    fill(&peer, &app, &mut oracle, 0).await;
    let kept = oracle.attempts().count();
    assert!(kept >= 60, "{kept} attempts of 2 MiB on 256 MiB");
    assert_eq!(peer.describe().await.volumes[0].state, "full");
    for shuffle in 0..4 {
        oracle.check(&peer, &app, shuffle).await;
    }
    // Space comes back with a deletion, and the disk is used again.
    for shuffle in 0..3 {
        peer.delete_shuffle(&app, shuffle).await.unwrap();
        oracle.delete_shuffle(&app, shuffle);
    }
    eventually(STEP, || async {
        let state = peer.describe().await.volumes[0].state.clone();
        if state == "ok" { Ok(()) } else { Err(state) }
    })
    .await;
    let attempt = large(&app, 5, 500);
    oracle.push(&peer, &attempt).await;
    for shuffle in [3, 5] {
        oracle.check(&peer, &app, shuffle).await;
    }
    // Killed while it is full.
    let app2 = App::new("app-2");
    fill(&peer, &app2, &mut oracle, 0).await;
    server.kill();
    server.restart().await;
    let peer = server.peer().await;
    for shuffle in [3, 5] {
        oracle.check(&peer, &app, shuffle).await;
    }
    for shuffle in 0..4 {
        oracle.check(&peer, &app2, shuffle).await;
    }
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_two_leaves_the_work_to_the_other() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(scratch.path().join("disk"), 48 << 10) else {
        return;
    };
    let mut server = Server::with(Setup::new().dir(disk.path()).volumes(1)).await;
    server.allow_errors("full");
    server.allow_errors("No space");
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for map in 0..60 {
        let attempt = large(&app, 0, map);
        // A push that had begun on the disk that became full may be told to come again.
        let mut receipt = peer.push(&attempt).await;
        for _ in 0..600 {
            if let Err(status) = &receipt {
                assert!(
                    matches!(Kind::of(status), Kind::Busy | Kind::Unavailable),
                    "{status:?}"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
                receipt = peer.push(&attempt).await;
            }
        }
        oracle.committed(&attempt, &receipt.expect("the other disk has room"));
    }
    oracle.check(&peer, &app, 0).await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_on_a_disk_that_is_full_to_the_last_byte_make_room_for_what_comes() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(disk) = Ext4::mount(scratch.path().join("disk"), 150) else {
        return;
    };
    let setup = Setup::new().dir(disk.path().join("data"));
    let mut server = Server::with(setup.flag("--memory", "64MiB")).await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    for map in 0..40 {
        oracle.push(&peer, &large(&app, map % 4, map)).await;
    }
    server.settled().await;
    // Of what was damaged once, and nobody reads.
    let kept = disk.path().join("data/lost/apps/7.app-9/0/1.kept");
    fs::create_dir_all(kept.parent().unwrap()).unwrap();
    fs::write(&kept, vec![1; 1 << 20]).unwrap();
    // Another user takes all space, and again the reserve of the index.
    let junk = disk.path().join("somebody-elses");
    let mut file = fs::File::create(&junk).unwrap();
    let mut take_all = || {
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
    };
    take_all();
    server.kill();
    server.restart().await;
    let peer = server.peer().await;
    for shuffle in 0..4 {
        oracle.check(&peer, &app, shuffle).await;
    }
    for shuffle in 10.. {
        take_all();
        if peer.delete_shuffle(&app, shuffle).await.is_err() {
            break;
        }
        assert!(shuffle < 5_000, "the index is never full");
    }
    take_all();
    assert_eq!(peer.describe().await.volumes[0].state, "full");
    eventually(STEP, || async {
        match kept.exists() {
            true => Err("it takes space that others need".to_owned()),
            false => Ok(()),
        }
    })
    .await;
    for shuffle in 0..4 {
        // Not done is not answered as done; that it is done is waited for.
        eventually(STEP, || async {
            match peer.delete_shuffle(&app, shuffle).await {
                Ok(_) => Ok(()),
                Err(status) => {
                    assert_refused(&status, Kind::Unavailable, &[]);
                    Err(status.to_string())
                }
            }
        })
        .await;
    }
    eventually(STEP, || async {
        let volume = peer.describe().await.volumes[0].clone();
        match volume.state == "ok" && volume.bytes_used == 0 {
            true => Ok(()),
            false => Err(format!("{volume:?}, left: {:?}", server.data_files())),
        }
    })
    .await;
    assert_eq!(server.data_files(), [] as [std::path::PathBuf; 0]);
    let mut oracle = Oracle::default();
    for map in 0..10 {
        oracle.push(&peer, &large(&app, 5, map)).await;
    }
    oracle.check(&peer, &app, 5).await;
    server.kill();
    server.restart().await;
    let peer = server.peer().await;
    oracle.check(&peer, &app, 5).await;
    let gone = peer.fetch(fetch_first(&app, 0, server.volumes())).await;
    assert_refused(&gone.unwrap_err(), Kind::Lost, &[]);
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_wait_for_the_memory_of_a_full_disk_are_answered() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(scratch.path().join("disk"), 64 << 10) else {
        return;
    };
    let setup = Setup::new().dir(disk.path()).flag("--memory", "16MiB");
    let mut server = Server::with(setup).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    let mut pushes = tokio::task::JoinSet::new();
    for map in 0..16 {
        let mut attempt = Attempt::empty(&app, 0, SHAPE, map, u64::from(map));
        for block in 0..16 {
            let bytes = random_bytes(u64::from(map * 16 + block), 512 << 10);
            attempt = attempt.with_block(block / 2, bytes);
        }
        let peer = server.peer().await;
        pushes.spawn(async move { (peer.push(&attempt).await, attempt) });
    }
    let mut refused = 0;
    while !pushes.is_empty() {
        let answered = tokio::time::timeout(STEP, pushes.join_next()).await;
        let answered = answered.expect("nobody is held back for ever");
        match answered.unwrap().unwrap() {
            (Ok(receipt), attempt) => oracle.committed(&attempt, &receipt),
            (Err(status), _) => {
                assert_refused(&status, Kind::Unavailable, &[]);
                let why = status.message();
                assert!(why.contains("full") || why.contains("space"), "{status:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "128 MiB fit");
    if oracle.attempts().count() > 0 {
        oracle.check(&server.peer().await, &app, 0).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_gone_loses_its_attempts_and_no_others() {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push(&peer, &large(&app, 0, 0)).await;
    let first = server.data_files();
    oracle.push(&peer, &large(&app, 1, 1)).await;
    server.kill();
    assert!(!first.is_empty());
    for path in &first {
        fs::remove_file(path).unwrap();
    }
    server.allow_errors("");
    server.restart().await;
    let peer = server.peer().await;
    oracle.check(&peer, &app, 1).await;
    match peer.fetch(fetch_first(&app, 0, server.volumes())).await {
        Err(status) => assert_refused(&status, Kind::Lost, &[]),
        Ok(fetched) => {
            assert!(fetched.blocks.is_empty());
            assert_eq!(
                (fetched.summary.lost.len(), fetched.summary.attempt.len()),
                (1, 0),
                "{:?}",
                fetched.summary
            );
            assert!(!fetched.summary.lost[0].reason.is_empty());
        }
    }
}
