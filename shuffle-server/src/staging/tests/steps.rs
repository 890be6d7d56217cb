//! A crash between any two steps of what a volume does to its disk: from one step on nothing reaches a file or the index any more. What was
//! acknowledged before is there when the volume is opened again, what was not is there whole or not at all.

use std::{collections::BTreeSet, io};

use shuffle_remote::mortal::Steps;

use super::*;

impl Faults for Steps {
    fn before(&self, operation: Operation, _: &Path) -> io::Result<()> {
        match operation == Operation::Read || self.take() {
            true => Ok(()),
            false => Err(io::Error::other("the process is gone")),
        }
    }
}

/// What must be there afterwards, and what may.
#[derive(Default)]
struct Model {
    acked: BTreeMap<u32, BTreeMap<(u32, u64), Shape>>,
    maybe: BTreeMap<u32, BTreeMap<(u32, u64), Shape>>,
    deleted: BTreeSet<u32>,
    maybe_deleted: BTreeSet<u32>,
    /// Of another app, in the order in which it was done: whether each was acked.
    other: Vec<(Other, bool)>,
}

/// What is done to another app: it is written to, deleted, and comes back under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    Write(u64),
    Delete,
}

struct Scene<'a> {
    bench: &'a Bench,
    volume: &'a Volume,
    steps: Steps,
    model: Model,
}

impl Scene<'_> {
    /// One attempt. `None`: the process is gone.
    async fn write(&mut self, shuffle: u32, map: u32, attempt: u64, shape: Shape) -> Option<()> {
        let owner = (map, attempt);
        let committed = async {
            let opened = self
                .volume
                .open_attempt(key(shuffle, map, attempt), MAPS, PARTITIONS)?;
            let Opened::New(mut writer) = opened else {
                panic!("{owner:?} is there already");
            };
            let totals = push(&self.bench.budget, &mut writer, &shape).await?;
            writer.commit(totals, Durability::Disk).await
        };
        match committed.await {
            Ok(receipt) => {
                assert_eq!(receipt.durability, Durability::Disk);
                let acked = self.model.acked.entry(shuffle).or_default();
                acked.insert(owner, shape);
            }
            Err(error) => {
                assert!(self.steps.struck(), "{error}");
                let maybe = self.model.maybe.entry(shuffle).or_default();
                maybe.insert(owner, shape);
            }
        }
        (!self.steps.struck()).then_some(())
    }

    async fn delete(&mut self, shuffle: u32) -> Option<()> {
        let deleted = self.volume.delete_shuffle(&app(), ShuffleId(shuffle));
        match deleted {
            Ok(_) => self.model.deleted.insert(shuffle),
            Err(_) => self.model.maybe_deleted.insert(shuffle),
        };
        (!self.steps.struck()).then_some(())
    }

    /// As [`write`](Self::write) and [`delete`](Self::delete), of another app.
    async fn other(&mut self, step: Other) -> Option<()> {
        let done = match step {
            Other::Delete => self.volume.delete_app(&other()).is_ok(),
            Other::Write(attempt) => {
                let key = AttemptKey {
                    app: other(),
                    ..key(0, 0, attempt)
                };
                let committed = async {
                    self.volume.put_app(&record(&other()))?;
                    let opened = self.volume.open_attempt(key, MAPS, PARTITIONS)?;
                    let Opened::New(mut writer) = opened else {
                        panic!("{attempt} is there already");
                    };
                    let totals = push(&self.bench.budget, &mut writer, &theirs()).await?;
                    writer.commit(totals, Durability::Disk).await
                };
                committed.await.is_ok()
            }
        };
        assert!(done || self.steps.struck());
        self.model.other.push((step, done));
        (!self.steps.struck()).then_some(())
    }

    /// What is in the commit log joins a run, and the log goes.
    async fn quiet(&mut self) -> Option<()> {
        self.bench.clock.advance(Duration::from_secs(60));
        eventually("the commit log goes, or the process does", || {
            self.steps.struck() || self.bench.files(".log").is_empty()
        })
        .await;
        (!self.steps.struck()).then_some(())
    }

    /// Commits that are runs and commits that go to the log, of three shuffles, one of which is deleted in each state.
    async fn everything(&mut self) -> Option<()> {
        let (large, small) = (even(0..PARTITIONS, 40_000), even(3..9, 700));
        self.write(1, 0, 1, large.clone()).await?;
        self.write(1, 1, 2, small.clone()).await?;
        self.write(2, 0, 3, small.clone()).await?;
        self.write(2, 1, 4, large.clone()).await?;
        self.quiet().await?;
        self.other(Other::Write(1)).await?;
        self.write(1, 2, 5, small.clone()).await?;
        self.other(Other::Delete).await?;
        self.other(Other::Write(2)).await?;
        self.write(3, 0, 6, small.clone()).await?;
        self.delete(2).await?;
        self.delete(3).await?;
        self.write(1, 3, 7, large).await?;
        self.quiet().await?;
        self.write(1, 4, 8, small).await
    }
}

fn other() -> AppId {
    AppId::try_new("app-2").expect("valid")
}

fn theirs() -> Shape {
    even(0..PARTITIONS, 40_000)
}

/// Whether nothing of the app that was deleted is there any more, and what came after it is.
async fn check_other(volume: &Volume, model: &Model) {
    let apps = volume.apps();
    let known = apps.iter().filter(|app| app.app == other()).count();
    assert!(known <= 1, "{apps:?}");
    let fetch = volume.fetch(&other(), ShuffleId(0), 0..PARTITIONS, 0..MAPS, None);
    let found = match fetch {
        Ok(fetch) => drain(fetch).await.expect("what is there can be read"),
        Err(error) => {
            assert_eq!(error.kind(), Kind::Lost, "{error}");
            Fetched::default()
        }
    };
    assert_eq!(found.summary.lost, [], "{:?}", model.other);
    let covered = found.summary.covered.iter();
    let covered: Vec<_> = covered.map(|one| one.attempt.0).collect();
    let acked = |step| model.other.contains(&(step, true));
    let begun = |step| model.other.iter().any(|(of, _)| *of == step);
    for attempt in &covered {
        let gone = *attempt == 1 && acked(Other::Delete);
        assert!(
            !gone && begun(Other::Write(*attempt)),
            "{covered:?} {:?}",
            model.other
        );
    }
    let kept = acked(Other::Write(1)) && !begun(Other::Delete);
    assert!(!kept || covered.contains(&1), "{:?}", model.other);
    assert!(
        !acked(Other::Write(2)) || covered == [2],
        "{:?}",
        model.other
    );
}

/// Whether the volume has what it must and nothing else.
async fn check(volume: &Volume, model: &Model) {
    let none = BTreeMap::new();
    let shuffles: BTreeSet<u32> = model
        .acked
        .keys()
        .chain(model.maybe.keys())
        .copied()
        .collect();
    for shuffle in shuffles {
        let acked = model.acked.get(&shuffle).unwrap_or(&none);
        let maybe = model.maybe.get(&shuffle).unwrap_or(&none);
        let deleted = model.deleted.contains(&shuffle);
        let found = match read(volume, shuffle, 0..PARTITIONS, 0..MAPS).await {
            Ok(found) => found,
            Err(error) => {
                assert_eq!(error.kind(), Kind::Lost, "{error}");
                let may = deleted || model.maybe_deleted.contains(&shuffle) || acked.is_empty();
                assert!(
                    may,
                    "shuffle {shuffle} had {} acked attempts: {error}",
                    acked.len()
                );
                continue;
            }
        };
        assert!(!deleted, "shuffle {shuffle} was deleted and is served");
        assert_eq!(found.summary.lost, [], "shuffle {shuffle}");
        let covered = found.summary.covered.iter();
        let covered: BTreeSet<_> = covered
            .map(|one| (one.map_index.0, one.attempt.0))
            .collect();
        let missing: Vec<_> = acked.keys().filter(|one| !covered.contains(one)).collect();
        assert!(missing.is_empty(), "shuffle {shuffle} has lost {missing:?}");
        let mut whole = Blocks::new();
        for owner in &covered {
            let shape = acked.get(owner).or_else(|| maybe.get(owner));
            let shape = shape.unwrap_or_else(|| panic!("{owner:?} was never written"));
            whole.extend(expected(owner.0, owner.1, shape, 0..PARTITIONS));
        }
        assert_same(&found.blocks, &whole);
    }
}

#[tokio::test]
async fn a_crash_between_any_two_steps_keeps_what_was_acked_whole_and_nothing_in_parts() {
    let (mut steps, mut over) = (0, false);
    while !over {
        // A second crash while the first is recovered from, a little later each time.
        for again in [None, Some(steps % 5)] {
            let mut bench = Bench::new();
            let volume = bench.open();
            drop(volume);
            let left = Steps::endless();
            left.set(steps);
            bench.faults = Some(Arc::new(left.clone()));
            let mut model = Model::default();
            if let Ok(volume) = bench.try_open() {
                let mut scene = Scene {
                    bench: &bench,
                    volume: &volume,
                    steps: left,
                    model,
                };
                over = scene.everything().await.is_some();
                model = scene.model;
            }
            if let Some(again) = again {
                let left = Steps::endless();
                left.set(again);
                bench.faults = Some(Arc::new(left));
                drop(bench.try_open());
            }
            bench.faults = None;
            let volume = bench.open();
            check(&volume, &model).await;
            check_other(&volume, &model).await;
            // It goes on, and what is deleted leaves nothing.
            let shape = even(0..PARTITIONS, 500);
            write(&bench, &volume, key(9, 0, 99), &shape, Durability::Disk).await;
            assert_holds(&volume, 9, &[(0, 99, shape)]).await;
            for shuffle in [1, 2, 3, 9] {
                volume
                    .delete_shuffle(&app(), ShuffleId(shuffle))
                    .expect("deleted");
            }
            volume.delete_app(&other()).expect("deleted");
            eventually("no segment is left", || bench.files(".seg").is_empty()).await;
            eventually("nothing counts as used", || volume.bytes_used() == 0).await;
            let trash = bench.dir.path().join("trash");
            eventually("no trash is left", || {
                std::fs::read_dir(&trash).expect("there").next().is_none()
            })
            .await;
        }
        steps += 1;
    }
    println!("{steps} steps");
    assert!(steps > 25, "only {steps} steps were broken off at");
}
