//! Disks that fail in use: real ones, see `shuffle_tests::shaky`. A server has one of them and a
//! good one.

use std::process::Command;

use shuffle_tests::{
    Bucket, Fetched, Shaky, oracle::summary_columns, peer::fetch_range, raw, server, v1::Durability,
};

use super::*;

/// Room for the attempts of a test on either disk; the emptier disk gets more of them.
const LIMIT: &str = "200MiB";
/// What the server logs as an ERROR about such a disk: a person must look.
pub(super) const TOLD: [&str; 3] = [
    "volume is out of service",
    "cannot be read",
    "cannot be kept",
];

/// A server on a failing disk and a good one.
pub(super) struct Two {
    pub(super) server: Server,
    pub(super) app: App,
    pub(super) oracle: Oracle,
    pub(super) shaky: Shaky,
}

impl Two {
    pub(super) async fn start(setup: Setup) -> Option<Self> {
        let shaky = Shaky::mount(320)?;
        let setup = setup
            .dir(shaky.path())
            .volumes(1)
            .flag("--volume-limit", LIMIT);
        let mut server = Server::with(setup).await;
        TOLD.iter().for_each(|text| server.allow_errors(text));
        Some(Self {
            server,
            app: App::new("app-1"),
            oracle: Oracle::default(),
            shaky,
        })
    }

    /// The id of the volume that fails.
    pub(super) fn failing(&self) -> Vec<u8> {
        self.server.volumes()[0].clone()
    }

    /// What the failing volume has of a shuffle.
    fn on_failing(&self, shuffle: u32) -> impl Iterator<Item = &Attempt> {
        let failing = self.failing();
        let attempts = self.oracle.attempts();
        attempts.filter(move |attempt| {
            attempt.shuffle == shuffle
                && self.oracle.volume(&self.app, shuffle, attempt.attempt) == Some(failing.clone())
        })
    }

    /// Pushes attempts of 2 MiB until each disk has three of this shuffle.
    pub(super) async fn fill(&mut self, shuffle: u32) {
        let peer = self.server.peer().await;
        let mut counts = [0; 2];
        for map in 0.. {
            assert!(map < 60, "{counts:?} after 60 attempts");
            let attempt = large(&self.app, shuffle, map);
            let receipt = self.oracle.push(&peer, &attempt).await;
            counts[usize::from(receipt.volume != self.failing())] += 1;
            if counts.iter().all(|count| *count >= 3) {
                return;
            }
        }
    }

    /// Pushes an attempt like a client, again after every trouble of a volume; returns the number
    /// of tries.
    pub(super) async fn insist(&mut self, attempt: &Attempt) -> u32 {
        let peer = self.server.peer().await;
        for refusals in 0..10 {
            match peer.push(attempt).await {
                Ok(receipt) => {
                    self.oracle.committed(attempt, &receipt);
                    return refusals;
                }
                Err(status) => assert_refused(&status, Kind::Unavailable, &[]),
            }
        }
        panic!("ten refusals, although the other disk is well");
    }

    /// Pushes until the failing disk has been asked and has refused, or `times`; all of it must end
    /// up somewhere.
    pub(super) async fn provoke(&mut self, shuffle: u32, level: Durability) {
        for map in 0..30 {
            let attempt = large(&self.app, shuffle, map).at(level);
            if self.insist(&attempt).await > 0 {
                return;
            }
        }
        panic!("30 attempts, and the failing disk was not asked");
    }

    /// State and reason of the failing volume as a client, a person, a dashboard and a probe see
    /// them, which must agree.
    pub(super) async fn state(&self) -> (String, String) {
        let described = self.server.peer().await.describe().await.volumes[0].clone();
        let (state, reason) = (described.state, described.reason);
        let (_, metrics) = raw::get(self.server.admin(), "/metrics").await;
        let disk = self.shaky.path().display().to_string();
        let lines = metrics.lines().filter(|line| {
            line.starts_with("forebay_volume_state{")
                && line.contains(&disk)
                && line.ends_with(" 1")
        });
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(&format!("\"{state}\"")), "{lines:?}");
        let mut tool = Command::new(server::binary().with_file_name("forebay"));
        tool.args(["status", "--server"])
            .arg(self.server.admin().to_string());
        let said = tokio::task::spawn_blocking(move || tool.output());
        let said = said.await.unwrap().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.contains(&state) && said.contains(&reason), "{said}");
        let (code, ready) = raw::get(self.server.admin(), "/readyz").await;
        assert_eq!(code, 200, "one disk of two is well: {ready}");
        assert!(state == "ok" || ready.contains(&reason), "{ready}");
        (state, reason)
    }

    pub(super) async fn until(&self, word: &str) -> String {
        eventually(STEP, || async {
            let state = self.server.peer().await.describe().await.volumes[0].clone();
            match state.state == word {
                true => Ok(()),
                false => Err(format!("{state:?}")),
            }
        })
        .await;
        let (state, reason) = self.state().await;
        assert_eq!(state, word);
        reason
    }

    /// From now on another app pushes and fetches; answers the one before.
    pub(super) fn change_app(&mut self, app: App) -> App {
        std::mem::replace(&mut self.app, app)
    }

    /// Fetches a shuffle from both volumes. Covered attempts must be whole and exactly as
    /// committed, and the good disk must cover all of its own; returns the lost map indexes.
    pub(super) async fn lost(&self, shuffle: u32) -> Vec<u32> {
        let volumes = self.oracle.volumes(&self.app, shuffle);
        let request = fetch_range(&self.app, shuffle, volumes, 0..8, 0..u32::MAX);
        let fetched = self.server.peer().await.fetch(request).await.unwrap();
        self.compare(shuffle, fetched)
    }

    fn compare(&self, shuffle: u32, mut fetched: Fetched) -> Vec<u32> {
        let lost = std::mem::take(&mut fetched.summary.lost);
        assert!(lost.iter().all(|lost| !lost.reason.is_empty()), "{lost:?}");
        let attempts: Vec<_> = lost.iter().map(|lost| lost.attempt).collect();
        // Parts of a lost attempt may have come before the loss was found; they count for nothing.
        fetched
            .blocks
            .retain(|block| !attempts.contains(&block.attempt));
        let covered = summary_columns(&fetched.summary);
        assert!(covered.keys().all(|key| !attempts.contains(&key.1)));
        let mut rest = self.oracle.clone();
        rest.retain(|attempt| !attempts.contains(&attempt.attempt));
        rest.compare(&fetched, &self.app, shuffle, 0..8, 0..u32::MAX);
        let failing = self.failing();
        for lost in &lost {
            let volume = self.oracle.volume(&self.app, shuffle, lost.attempt);
            assert_eq!(volume, Some(failing.clone()), "{lost:?}");
        }
        lost.iter().map(|lost| lost.map_index).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_becomes_read_only_takes_nothing_more_and_loses_nothing() {
    let Some(mut two) = Two::start(Setup::new()).await else {
        return;
    };
    two.fill(0).await;
    two.shaky.find_broken();
    assert!(two.shaky.is_read_only());
    two.provoke(1, Durability::Disk).await;
    let (state, reason) = two.state().await;
    assert_eq!(state, "read-only", "{reason}");
    assert!(
        reason.contains("Read-only file system") && reason.contains("mount it writable"),
        "{reason}"
    );
    for map in 100..110 {
        let attempt = large(&two.app, 1, map);
        assert_eq!(two.insist(&attempt).await, 0, "it is not asked any more");
    }
    for shuffle in [0, 1] {
        assert!(two.lost(shuffle).await.is_empty());
    }
    // What cannot be removed from it is gone for readers all the same.
    let _ = two.server.peer().await.delete_shuffle(&two.app, 0).await;
    let gone = two
        .server
        .peer()
        .await
        .fetch(fetch_first(&two.app, 0, two.server.volumes()))
        .await;
    assert_refused(&gone.unwrap_err(), Kind::Lost, &[]);
    two.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_writes_is_not_believed_again_and_what_it_has_is_served() {
    let Some(mut two) = Two::start(Setup::new()).await else {
        return;
    };
    two.fill(0).await;
    two.shaky.fail_writes(true);
    two.provoke(1, Durability::Fsync).await;
    let (state, reason) = two.state().await;
    assert!(["failed", "read-only"].contains(&&*state), "{state}");
    assert!(reason.contains("kernel's log"), "{reason}");
    two.shaky.fail_writes(false);
    for map in 100..110 {
        let attempt = large(&two.app, 1, map).at(Durability::Fsync);
        assert_eq!(two.insist(&attempt).await, 0, "a later sync says nothing");
    }
    for shuffle in [0, 1] {
        assert!(two.lost(shuffle).await.is_empty());
    }
    assert_eq!(two.state().await.0, state);
    two.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_reads_loses_only_what_it_had_and_the_store_had_not() {
    let bucket = Bucket::new();
    let setup = bucket.setup("lazy").flag("--write-back-delay", "300ms");
    let Some(mut two) = Two::start(setup).await else {
        return;
    };
    two.fill(0).await;
    let peer = two.server.peer().await;
    peer.written_back(&two.app, 0).await;
    let written_back = two.change_app(App::new("app-2").not_written_back());
    two.fill(1).await;
    two.server.settled().await;
    two.shaky.forget_pages();
    two.shaky.fail_reads(true);
    let had: Vec<_> = two.on_failing(1).map(|attempt| attempt.map_index).collect();
    assert_eq!(two.lost(1).await, had, "exactly what was on that disk only");
    let reason = two.until("failed").await;
    assert!(reason.contains("Input/output error"), "{reason}");
    two.insist(&large(&two.app.clone(), 2, 0)).await;
    assert!(two.lost(2).await.is_empty());
    two.change_app(written_back);
    assert!(two.lost(0).await.is_empty(), "the store has it");
    // Others serve what is in the store too.
    let other = Server::with(bucket.setup("lazy")).await;
    two.oracle.check(&other.peer().await, &two.app, 0).await;
    two.server.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failing_disk_still_reads_is_saved_to_the_store() {
    let bucket = Bucket::new();
    let setup = bucket.setup("lazy").flag("--write-back-delay", "1h");
    let Some(mut two) = Two::start(setup).await else {
        return;
    };
    two.fill(0).await;
    two.shaky.find_broken();
    two.provoke(1, Durability::Disk).await;
    two.until("read-only").await;
    let at_risk: u64 = two.on_failing(0).map(Attempt::bytes).sum();
    let peer = two.server.peer().await;
    eventually(STEP, || async {
        let usage = peer.usage(&two.app, Some(0)).await.unwrap();
        let mut levels = usage.levels.iter();
        let saved = levels.find(|level| level.durability == Durability::Object as i32);
        match saved.map_or(0, |level| level.bytes) {
            saved if saved == at_risk => Ok(()),
            saved => Err(format!("{saved} of {at_risk} bytes are saved")),
        }
    })
    .await;
    two.shaky.forget_pages();
    two.shaky.fail_reads(true);
    assert!(two.lost(0).await.is_empty());
    two.server.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_unmounted_is_removed_and_nothing_is_written_in_its_place() {
    let Some(mut two) = Two::start(Setup::new()).await else {
        return;
    };
    two.fill(0).await;
    two.shaky.unmount();
    let reason = two.until("removed").await;
    assert!(reason.contains("unmounted"), "{reason}");
    for map in 100..110 {
        let attempt = large(&two.app, 1, map);
        assert_eq!(two.insist(&attempt).await, 0, "it is not asked any more");
    }
    two.lost(0).await;
    assert!(two.lost(1).await.is_empty());
    assert_eq!(fs::read_dir(two.shaky.path()).unwrap().count(), 0);
    two.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_vanishes_costs_its_own_attempts_at_most() {
    let Some(mut two) = Two::start(Setup::new()).await else {
        return;
    };
    two.fill(0).await;
    two.server.settled().await;
    two.shaky.forget_pages();
    two.shaky.vanish();
    two.provoke(1, Durability::Fsync).await;
    let (state, _) = two.state().await;
    assert!(["failed", "read-only", "removed"].contains(&&*state));
    let lost = two.lost(0).await;
    assert!(!lost.is_empty(), "its device is gone");
    assert!(two.lost(1).await.is_empty());
    let _ = two.server.peer().await.delete_app(&two.app).await;
    two.server.stop().await;
}
