//! Chains: long ones, broken ones, ones that grow while they are read.

use futures_util::future;

use super::*;
use crate::mortal::{Mortal, Steps};

/// Who writes generations, as a server does.
struct Writer {
    remote: Arc<Remote>,
    steps: Steps,
    passed: Arc<Mutex<Duration>>,
    chain: Option<Chain>,
}

fn owner(attempt: u64) -> Owner {
    (MapIndex(attempt as u32), AttemptId(attempt))
}

fn body(attempt: u64) -> Vec<u8> {
    format!("what attempt {attempt} has").into_bytes()
}

impl Writer {
    fn new() -> Self {
        let (start, passed) = (Instant::now(), Arc::new(Mutex::new(Duration::ZERO)));
        let later = passed.clone();
        let now: Now = Arc::new(move || start + *later.lock());
        let steps = Steps::endless();
        let store = Store::on(Arc::new(Mortal::new(steps.clone())));
        Self {
            remote: Arc::new(Remote::new(store, now)),
            steps,
            passed,
            chain: None,
        }
    }

    fn generation(&self) -> u32 {
        self.chain.as_ref().map_or(0, |chain| chain.generation)
    }

    /// One more generation, of these attempts and of those that it replaces.
    async fn write(&mut self, new: impl IntoIterator<Item = u64>, replaces: &[u32]) -> Entry {
        let generation = self.generation() + 1;
        let mut attempts: BTreeSet<u64> = new.into_iter().collect();
        for replaced in replaces {
            let chain = self.chain.as_ref().expect("something to replace");
            let part = chain.part(*replaced).expect("it counts");
            attempts.extend(part.attempts.iter().map(|attempt| attempt.owner.1.0));
        }
        let blocks: Vec<_> = attempts
            .iter()
            .map(|attempt| block(1, *attempt as u32, *attempt, 0, &body(*attempt), 1))
            .collect();
        let nonce = u64::from(generation) << 32;
        let mut builder = Builder::new(place(), generation, 0, nonce);
        builder.add(&blocks);
        let (bytes, entry) = builder.finish();
        let key = keys::object(&place(), generation, 0, nonce);
        let put = self.remote.store.put(&key, bytes.into(), false).await;
        put.expect("put");
        let attempts = attempts.into_iter().map(|attempt| Attempt {
            owner: owner(attempt),
            bytes: body(attempt).len() as u64,
            records: 1,
        });
        let next = Next {
            place: place(),
            generation,
            tasks: (20_000, 20),
            part: manifest::Part {
                generation,
                objects: vec![entry],
                attempts: attempts.collect(),
            },
            replaces: replaces.to_vec(),
        };
        let (manifest, next) = Chain::next(self.chain.as_ref(), next).expect("whole");
        let key = keys::manifest(&place(), generation);
        let put = self.remote.store.put(&key, manifest.encode().into(), true);
        put.await.expect("put");
        self.chain = Some(next);
        entry
    }

    /// Ten thousand one by one, small ones put together now and then.
    async fn write_many(&mut self, attempts: u64) {
        for attempt in 0..attempts {
            let parts = self.chain.iter().flat_map(|chain| &chain.parts);
            let mut sizes: Vec<_> = parts
                .map(|part| (part.attempts.len(), part.generation))
                .collect();
            sizes.sort_unstable();
            let (mut merged, mut sum) = (Vec::new(), 0);
            if sizes.len() >= 8 {
                for (size, generation) in sizes {
                    if merged.len() >= 2 && size > 2 * sum {
                        break;
                    }
                    sum += size;
                    merged.push(generation);
                }
                merged.sort_unstable();
            }
            self.write([attempt], &merged).await;
        }
    }

    /// Who knows nothing yet, on the same store.
    fn stranger(self) -> (Arc<Remote>, Steps, Arc<Mutex<Duration>>) {
        let remote = self.remote;
        remote.forget(&place().app, None);
        (remote, self.steps, self.passed)
    }

    /// Spoils bytes in the middle of an object of the store.
    async fn spoil(&self, key: &str, at: usize) {
        let mut bytes = self.remote.store.get(key).await.expect("there").to_vec();
        bytes[at] ^= 1;
        let put = self.remote.store.put(key, bytes.into(), false).await;
        put.expect("put");
    }
}

/// Requests of any kind for the shuffle so far.
fn requests(remote: &Remote) -> u64 {
    let cost = remote
        .store
        .cost(&keys::shuffle(&place().app, place().shuffle));
    cost.reads + cost.lists + cost.writes + cost.deletes
}

async fn fetch(remote: &Arc<Remote>, only: Only) -> Result<Fetch, Error> {
    remote.fetch(&place(), 0..20, 0..u32::MAX, only, None).await
}

/// Attempts that are served whole, and those that are lost.
async fn served(remote: &Arc<Remote>) -> (Vec<u64>, Vec<u64>) {
    let (blocks, summary) = read_all(fetch(remote, None).await.expect("there")).await;
    let mut whole: Vec<u64> = blocks.iter().map(|header| header.attempt.0).collect();
    whole.sort_unstable();
    let mut covered = Vec::new();
    for totals in &summary.covered {
        let length = body(totals.attempt.0).len() as u64;
        assert_eq!((totals.blocks, totals.bytes), (1, length), "{totals:?}");
        covered.push(totals.attempt.0);
    }
    assert_eq!(whole, covered);
    let lost = summary.lost.iter().map(|lost| lost.attempt.0);
    (covered, lost.collect())
}

#[tokio::test]
async fn ten_thousand_generations_are_read_with_few_requests() {
    let mut writer = Writer::new();
    writer.write_many(10_000).await;
    assert_eq!(writer.generation(), 10_000);
    let (remote, _, passed) = writer.stranger();
    let before = requests(&remote);
    let begin = Instant::now();
    let (whole, lost) = served(&remote).await;
    let took = begin.elapsed();
    assert_eq!((whole.len(), lost.len()), (10_000, 0));
    let cost = requests(&remote) - before;
    assert!(cost <= 20, "{cost} requests");
    assert!(took < Duration::from_secs(60), "{took:?}");
    // Again, when it may have grown: whether there is one more, and the bytes.
    *passed.lock() += Duration::from_secs(5);
    let before = requests(&remote);
    assert_eq!(served(&remote).await.0.len(), 10_000);
    let cost = requests(&remote) - before;
    assert!(cost <= 10, "{cost} requests");
}

#[tokio::test]
async fn a_look_that_was_interrupted_goes_on_where_it_was_and_many_wait_for_one() {
    let mut writer = Writer::new();
    writer.write_many(600).await;
    let (remote, steps, passed) = writer.stranger();
    let place = place();
    // The list and the last manifest, and then the store is gone.
    steps.set(2);
    let gone = remote.chain(&place).await;
    assert!(matches!(gone, Err(Error::Store { .. })), "{gone:?}");
    steps.set(i64::MAX);
    let before = requests(&remote);
    let chains = future::join_all((0..100).map(|_| remote.chain(&place))).await;
    assert!(
        chains
            .iter()
            .all(|chain| chain.as_ref().is_ok_and(|chain| chain.generation == 600))
    );
    assert_eq!(
        requests(&remote) - before,
        1,
        "its base is all that was missing"
    );
    *passed.lock() += Duration::from_secs(5);
    let before = requests(&remote);
    let chains = future::join_all((0..100).map(|_| remote.chain(&place))).await;
    assert!(chains.iter().all(Result::is_ok));
    assert_eq!(requests(&remote) - before, 1, "whether there is one more");
}

#[tokio::test]
async fn an_attempt_that_was_written_a_moment_ago_is_seen_by_who_asks_for_it() {
    let mut writer = Writer::new();
    writer.write([1], &[]).await;
    let reader = writer.remote.clone();
    assert_eq!(served(&reader).await, (vec![1], vec![]));
    writer.write([2], &[]).await;
    assert_eq!(
        served(&reader).await,
        (vec![1], vec![]),
        "believed for a moment"
    );
    let named = |attempt| Some(Arc::new(BTreeSet::from([owner(attempt)])));
    let asked = fetch(&reader, named(2)).await.expect("there");
    assert_eq!(read_all(asked).await.0.len(), 1);
    let before = requests(&reader);
    let asked = fetch(&reader, named(3)).await.expect("there");
    assert_eq!(read_all(asked).await.1.covered.len(), 0);
    assert_eq!(
        requests(&reader) - before,
        1,
        "one look, and that is the answer"
    );
    // Long behind: not one by one.
    for attempt in 3..300 {
        writer.write([attempt], &[]).await;
    }
    let before = requests(&reader);
    let place = place();
    let chain = reader.chain_with(&place, |chain| chain.missing([owner(299)]).is_empty());
    assert_eq!(chain.await.expect("there").generation, 299);
    assert!(requests(&reader) - before <= 5);
}

#[tokio::test]
async fn a_broken_manifest_costs_what_only_it_names() {
    let spoilt = async |generation: u32| {
        let mut writer = Writer::new();
        for attempt in 1..=300 {
            // The first five are replaced.
            let replaces: &[u32] = if attempt == 6 { &[1, 2, 3, 4, 5] } else { &[] };
            writer.write([attempt], replaces).await;
        }
        let key = keys::manifest(&place(), generation);
        writer.spoil(&key, 100).await;
        let base = writer.chain.as_ref().expect("written").base;
        let (remote, ..) = writer.stranger();
        (served(&remote).await.0, base)
    };
    let (all, base) = spoilt(3).await;
    assert_eq!(all.len(), 300, "one that is replaced is not read");
    assert!((200..300).contains(&base), "{base}");
    assert_eq!(
        spoilt(50).await.0.len(),
        300,
        "one that others carry is not either"
    );
    let (left, _) = spoilt(base).await;
    let expected: Vec<u64> = (1..=300).filter(|one| *one != u64::from(base)).collect();
    assert_eq!(left, expected, "what a base carries is in others too");
    let (left, _) = spoilt(300).await;
    assert_eq!(left, (1..300).collect::<Vec<u64>>());
}

#[tokio::test]
async fn an_attempt_that_two_generations_have_is_read_once() {
    let mut writer = Writer::new();
    writer.write([1, 2], &[]).await;
    writer.write([2, 3], &[]).await;
    assert_eq!(served(&writer.remote).await, (vec![1, 2, 3], vec![]));
    let (remote, ..) = writer.stranger();
    assert_eq!(served(&remote).await, (vec![1, 2, 3], vec![]));
    let only = Some(Arc::new(BTreeSet::from([owner(2)])));
    let (blocks, summary) = read_all(fetch(&remote, only).await.expect("there")).await;
    assert_eq!((blocks.len(), summary.covered.len()), (1, 1));
}

#[tokio::test]
async fn a_flipped_bit_in_an_object_costs_the_attempts_that_it_is_of() {
    let write = async || {
        let mut writer = Writer::new();
        let entry = writer.write([1, 2, 3], &[]).await;
        writer.write([4], &[]).await;
        (writer, entry)
    };
    let rows = 3 * shuffle_proto::stored::ROW;
    let second = HEADER + rows + body(1).len() + 3;
    let (_, entry) = write().await;
    for (at, whole, lost) in [
        (second, vec![1, 3, 4], vec![2]),
        // The rows of the section, or the footer: all that may be in it.
        (HEADER + 50, vec![4], vec![1, 2, 3]),
        (entry.footer as usize + 4, vec![4], vec![1, 2, 3]),
        // Nobody reads the header.
        (10, vec![1, 2, 3, 4], vec![]),
    ] {
        let (writer, entry) = write().await;
        let key = keys::object(&place(), 1, 0, entry.nonce);
        writer.spoil(&key, at).await;
        let (remote, ..) = writer.stranger();
        assert_eq!(served(&remote).await, (whole, lost), "byte {at}");
    }
}

#[tokio::test]
async fn an_object_that_is_gone_or_cut_short_costs_the_attempts_that_it_is_of() {
    let write = async || {
        let mut writer = Writer::new();
        let entry = writer.write([1, 2, 3], &[]).await;
        writer.write([4], &[]).await;
        (writer, entry)
    };
    let (_, entry) = write().await;
    let (footer, length) = (entry.footer as usize, entry.length as usize);
    for known in [false, true] {
        for cut in [
            None,
            Some(0),
            Some(HEADER + 1),
            Some(footer),
            Some(length - 1),
        ] {
            let (writer, entry) = write().await;
            let key = keys::object(&place(), 1, 0, entry.nonce);
            let (remote, ..) = writer.stranger();
            if known {
                // Its index too.
                assert_eq!(served(&remote).await.0, [1, 2, 3, 4]);
            }
            let bytes = remote.store.get(&key).await.expect("there");
            match cut {
                None => remote.store.delete(&key).await.expect("deleted"),
                Some(length) => {
                    let put = remote.store.put(&key, bytes.slice(..length), false);
                    put.await.expect("cut short");
                }
            }
            let (whole, lost) = served(&remote).await;
            match (known, cut) {
                // All that is read of it is before that.
                (true, Some(length)) if length >= footer => assert_eq!(whole, [1, 2, 3, 4]),
                _ => assert_eq!((whole, lost), (vec![4], vec![1, 2, 3]), "{known} {cut:?}"),
            }
        }
    }
}

#[test]
fn what_lacks_something_of_what_it_replaces_is_not_made() {
    let part = |generation, attempts: &[u64]| manifest::Part {
        generation,
        objects: vec![],
        attempts: attempts
            .iter()
            .map(|attempt| Attempt {
                owner: owner(*attempt),
                bytes: 1,
                records: 1,
            })
            .collect(),
    };
    let next = |generation, attempts: &[u64], replaces: &[u32]| Next {
        place: place(),
        generation,
        tasks: (10, 20),
        part: part(generation, attempts),
        replaces: replaces.to_vec(),
    };
    let (_, one) = Chain::next(None, next(1, &[1, 2], &[])).expect("whole");
    let (_, two) = Chain::next(Some(&one), next(2, &[3], &[])).expect("whole");
    let lacking = Chain::next(Some(&two), next(3, &[2, 3, 4], &[1, 2])).expect_err("it lacks one");
    assert_eq!(
        lacking,
        "it replaces generation 1 and lacks its map 1 attempt 1"
    );
    let (manifest, three) =
        Chain::next(Some(&two), next(3, &[1, 2, 3, 4], &[1, 2])).expect("whole");
    assert_eq!((manifest.live, three.parts.len()), (vec![3], 1));
}
