//! Starts with disks that are bad already: the others are served, and the bad one as far as it is
//! readable.

use std::{io::Write, path::Path};

use shuffle_tests::{Shaky, raw};

use super::*;

/// A server on these disks and a good one in last place, with data of one app on each; and a way to
/// look at it.
struct Several {
    server: Server,
    app: App,
    oracle: Oracle,
    ids: Vec<Vec<u8>>,
}

impl Several {
    async fn start(disks: &[&Path]) -> Self {
        let with = |setup: Setup, disk: &&Path| setup.dir(*disk);
        let setup = disks.iter().fold(Setup::new(), with).volumes(1);
        // So that each has the same room.
        let mut server = Server::with(setup.flag("--volume-limit", "40MiB")).await;
        server.allow_errors("volume is out of service");
        let (app, mut oracle) = (App::new("app-1"), Oracle::default());
        let (peer, ids) = (server.peer().await, server.volumes());
        for map in 0.. {
            assert!(map < 60, "a volume got nothing");
            oracle.push(&peer, &large(&app, 0, map)).await;
            let used = peer.describe().await.volumes;
            if used.iter().all(|volume| volume.bytes_used > 0) {
                break;
            }
        }
        server.stop().await;
        Self {
            server,
            app,
            oracle,
            ids,
        }
    }

    /// Starts the server again with these states of its volumes; readable ones are served.
    async fn states(&mut self, states: &[&str], served: &[usize]) -> Vec<String> {
        self.server.restart().await;
        let served: Vec<_> = served.iter().map(|at| self.ids[*at].clone()).collect();
        assert_eq!(self.server.volumes(), served, "{}", self.server.log());
        let described = self.server.peer().await.describe().await.volumes;
        let found: Vec<_> = described.iter().map(|volume| &*volume.state).collect();
        assert_eq!(found, states, "{described:?}");
        let (_, metrics) = raw::get(self.server.admin(), "/metrics").await;
        let (_, status) = raw::get(self.server.admin(), "/api/v1/status").await;
        for (volume, dir) in described.iter().zip(self.server.dirs()) {
            let dir = dir.display().to_string();
            let line = metrics.lines().find(|line| {
                line.starts_with("forebay_volume_state{")
                    && line.contains(&dir)
                    && line.ends_with(" 1")
            });
            assert!(
                line.is_some_and(|line| line.contains(&volume.state)),
                "{metrics}"
            );
            let reason = volume.reason.replace('"', "\\\""); // as JSON has it
            assert!(
                status.contains(&reason) && status.contains(&dir),
                "{status}"
            );
        }
        let (code, ready) = raw::get(self.server.admin(), "/readyz").await;
        assert_eq!(code, 200, "one is well: {ready}");
        described.into_iter().map(|volume| volume.reason).collect()
    }

    /// It takes what comes, on the good disk.
    async fn works(&mut self, shuffle: u32) {
        let peer = self.server.peer().await;
        for map in 0..3 {
            let attempt = large(&self.app, shuffle, map);
            let receipt = self.oracle.push(&peer, &attempt).await;
            assert_eq!(receipt.volume, self.ids[self.ids.len() - 1]);
        }
        self.oracle.check(&peer, &self.app, shuffle).await;
        // An app that it did not know.
        let other = App::new(&format!("app-{}", shuffle + 10));
        let mut theirs = Oracle::default();
        theirs.push(&peer, &large(&other, 0, 0)).await;
        theirs.check(&peer, &other, 0).await;
        peer.delete_app(&other).await.unwrap();
    }

    async fn all_is_there(&self) {
        let peer = self.server.peer().await;
        for shuffle in [0, 1] {
            self.oracle.check(&peer, &self.app, shuffle).await;
        }
    }
}

/// Takes all space left; returns the file with it.
fn fill_up(disk: &Path) -> std::path::PathBuf {
    let path = disk.join("somebody-elses");
    let mut file = fs::File::create(&path).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    let _ = file.sync_all();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_read_only_and_one_that_is_full_are_served_beside_a_good_one() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(first) = Tmpfs::mount(scratch.path().join("first"), 64 << 10) else {
        return;
    };
    let second = Tmpfs::mount(scratch.path().join("second"), 64 << 10).unwrap();
    let mut several = Several::start(&[first.path(), second.path()]).await;
    // And a bit has flipped in the log of the index of each, before much else.
    several
        .server
        .allow_errors("bytes of the index's log have changed");
    for disk in [first.path(), second.path()] {
        let logs = several.server.index_files().into_iter().filter(|path| {
            path.starts_with(disk) && path.extension().is_some_and(|ending| ending == "log")
        });
        let log = logs.max_by_key(|path| fs::metadata(path).unwrap().len());
        let log = log.expect("there is one");
        let length = fs::metadata(&log).unwrap().len();
        assert!(length > 500, "{} has {length} bytes", log.display());
        shuffle_tests::disk::flip(&log, length / 3, 2);
    }
    assert!(first.read_only(true));
    let junk = fill_up(second.path());
    // The index's reserve is enough to open it; without the reserve it is opened for reading.
    for ballast in [true, false] {
        if !ballast {
            let _ = fs::remove_file(second.path().join("ballast"));
            fs::remove_file(&junk).unwrap();
            fill_up(second.path());
        }
        let reasons = several
            .states(&["read-only", "full", "ok"], &[0, 1, 2])
            .await;
        assert!(reasons[0].contains("mount it writable"), "{reasons:?}");
        assert!(reasons[1].contains("free some"), "{reasons:?}");
        several
            .oracle
            .check(&several.server.peer().await, &several.app, 0)
            .await;
        several.works(1 + u32::from(ballast)).await;
        if ballast {
            several.server.stop().await;
        }
    }
    // The full one heals by itself, the other with the next start.
    fs::remove_file(&junk).unwrap();
    let peer = several.server.peer().await;
    eventually(STEP, || async {
        let state = peer.describe().await.volumes[1].clone();
        match &*state.state {
            "ok" => Ok(()),
            _ => Err(format!("{state:?}")),
        }
    })
    .await;
    several.server.stop().await;
    assert!(first.read_only(false));
    several.states(&["ok", "ok", "ok"], &[0, 1, 2]).await;
    several.all_is_there().await;
    several.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_that_cannot_be_opened_do_not_keep_the_third_from_being_served() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(first) = Tmpfs::mount(scratch.path().join("first"), 64 << 10) else {
        return;
    };
    let second = scratch.path().join("second");
    fs::create_dir(&second).unwrap();
    let mut several = Several::start(&[first.path(), &second]).await;
    // A disk that is not mounted leaves an empty directory; the other has no index that could be
    // mended.
    let away = scratch.path().join("away");
    fs::create_dir(&away).unwrap();
    shuffle_tests::disk::move_mount(first.path(), &away);
    let (index, elsewhere) = (second.join("index"), scratch.path().join("index"));
    fs::rename(&index, &elsewhere).unwrap();
    fs::write(&index, "a file").unwrap();
    for round in 1..3 {
        let reasons = several.states(&["removed", "failed", "ok"], &[2]).await;
        assert!(reasons[0].contains("not mounted"), "{reasons:?}");
        assert!(reasons[1].contains("index"), "{reasons:?}");
        let described = several.server.peer().await.describe().await.volumes;
        assert_eq!(described[1].id, several.ids[1], "its id can be read");
        several.works(round).await;
        several.server.stop().await;
        assert_eq!(
            fs::read_dir(first.path()).unwrap().count(),
            0,
            "no volume is begun there"
        );
    }
    shuffle_tests::disk::move_mount(&away, first.path());
    fs::remove_file(&index).unwrap();
    fs::rename(&elsewhere, &index).unwrap();
    several.states(&["ok", "ok", "ok"], &[0, 1, 2]).await;
    several.all_is_there().await;
    several.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_be_read_at_the_start_does_not_keep_the_other_from_being_served() {
    let Some(shaky) = Shaky::mount(160) else {
        return;
    };
    let mut several = Several::start(&[&shaky.path()]).await;
    shaky.forget_pages();
    shaky.fail_reads(true);
    several.states(&["failed", "ok"], &[1]).await;
    several.works(1).await;
    several.server.stop().await;
    shaky.fail_reads(false);
    several.states(&["ok", "ok"], &[0, 1]).await;
    several.all_is_there().await;
    several.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_only_disk_is_not_mounted_begins_no_volume_in_its_place() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(scratch.path().join("disk"), 64 << 10) else {
        return;
    };
    // The first start makes the directory, as ever.
    let dir = disk.path().join("deep/forebay");
    let mut server = Server::with(Setup::new().dir(&dir)).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push(&server.peer().await, &large(&app, 0, 0)).await;
    server.stop().await;
    let away = scratch.path().join("away");
    fs::create_dir(&away).unwrap();
    shuffle_tests::disk::move_mount(disk.path(), &away);
    let said = server.refused().await;
    assert!(said.contains("not mounted"), "{said}");
    assert!(
        said.contains(dir.to_str().unwrap()),
        "the directory is not named: {said}"
    );
    let note = scratch.path().join(".disk.forebay");
    assert!(
        said.contains(note.to_str().unwrap()),
        "the remedy is not named: {said}"
    );
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0);
    shuffle_tests::disk::move_mount(&away, disk.path());
    server.restart().await;
    oracle.check(&server.peer().await, &app, 0).await;
    server.stop().await;
    // A new disk in the place of one that is gone for good is a new volume.
    let before = server.volumes();
    fs::remove_dir_all(disk.path().join("deep")).unwrap();
    server.restart().await;
    assert_ne!(server.volumes(), before);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_on_the_root_device_is_refused_unless_somebody_wants_it_so() {
    use std::os::unix::fs::MetadataExt;
    let setup = Setup::new().nothing_allowed();
    let mut server = Server::prepare(setup.clone());
    let dir = server.dirs()[0].clone();
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    if device(&dir) != device(Path::new("/")) {
        let dir = dir.display();
        return shuffle_tests::skipped(&format!("{dir} is not on the root device: set TMPDIR"));
    }
    let said = server.refused().await;
    for word in [
        &*format!("data-dir is {}: ", dir.display()),
        "device of /",
        "mounted at",
        "allow-root-device",
    ] {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "nothing is made");
    // One of several is enough, whatever the others are.
    let scratch = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(scratch.path().join("disk"), 100 << 10) else {
        return;
    };
    let both = setup.clone().dir(disk.path()).dir(&dir);
    let said = Server::prepare(both).refused().await;
    assert!(said.contains(dir.to_str().unwrap()), "{said}");
    let mut wanted = setup.clone().env("FOREBAY_ALLOW_ROOT_DEVICE", "true");
    wanted = wanted.dir(&dir);
    let mut server = Server::with(wanted).await;
    assert!(!server.log().contains("allow-root-device"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_a_containers_own_layers_is_refused_and_one_in_memory_told() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(layers) = shuffle_tests::disk::Overlay::mount(scratch.path().join("layers")) else {
        return;
    };
    let dir = layers.path().join("data");
    let setup = Setup::new().nothing_allowed();
    let said = Server::prepare(setup.clone().dir(&dir)).refused().await;
    let point = format!("mounted at {}", layers.path().display());
    for word in [
        dir.to_str().unwrap(),
        "overlayfs",
        &point,
        "allow-root-device",
    ] {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    let mut server = Server::with(Setup::new().dir(&dir)).await;
    server.stop().await;
    let Some(memory) = Tmpfs::mount(scratch.path().join("memory"), 100 << 10) else {
        return;
    };
    let dir = memory.path().join("data");
    let mut server = Server::with(setup.dir(&dir)).await;
    let log = server.log();
    let line = log.lines().find(|line| line.contains("tmpfs"));
    let line = line.unwrap_or_else(|| panic!("nothing is told: {log}"));
    assert!(
        line.contains("WARN") && line.contains(dir.to_str().unwrap()),
        "{line}"
    );
    server.stop().await;
}
