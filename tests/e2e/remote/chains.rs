//! Ten thousand generations of one shuffle, as left by a long stage of commits at level `object`,
//! read by servers that have seen none of them.

use super::*;
use shuffle_proto::{
    block::{BlockHeader, Codec, Flags},
    ids::{AppId, AttemptId, MapIndex, PartitionId, ShuffleId, VolumeId},
};
use shuffle_remote::{
    Chain, Next, Place, keys,
    manifest::{self, Part},
    object::Builder,
};
use std::time::Instant;

const GENERATIONS: u32 = 10_000;
const BLOCK: &[u8] = b"what one map has";

/// Writes them like a volume that no server serves any more: one attempt each, small ones merged
/// now and then.
fn write(bucket: &Bucket, place: &Place) {
    let mut chain: Option<Chain> = None;
    let dir = bucket.path().join(keys::place(place));
    fs::create_dir_all(&dir).unwrap();
    for generation in 1..=GENERATIONS {
        let parts = chain.iter().flat_map(|chain| &chain.parts);
        let mut sizes: Vec<_> = parts
            .map(|part| (part.attempts.len(), part.generation))
            .collect();
        sizes.sort_unstable();
        let (mut replaces, mut sum) = (Vec::new(), 0);
        if sizes.len() >= 8 {
            for (size, generation) in sizes {
                if replaces.len() >= 2 && size > 2 * sum {
                    break;
                }
                sum += size;
                replaces.push(generation);
            }
            replaces.sort_unstable();
        }
        let replaced = chain.iter().flat_map(|chain| {
            let parts = replaces.iter().filter_map(move |it| chain.part(*it));
            parts.flat_map(|part| part.attempts.iter().copied())
        });
        let new = manifest::Attempt {
            owner: (MapIndex(generation - 1), AttemptId(generation.into())),
            bytes: BLOCK.len() as u64,
            records: 1,
        };
        let mut attempts: Vec<_> = replaced.chain([new]).collect();
        attempts.sort_unstable();
        let blocks: Vec<_> = attempts
            .iter()
            .map(|attempt| {
                let mut header = BlockHeader {
                    partition: PartitionId(1),
                    map_index: attempt.owner.0,
                    attempt: attempt.owner.1,
                    seq: 0,
                    length: BLOCK.len() as u32,
                    raw_length: BLOCK.len() as u32,
                    records: 1,
                    flags: Flags::new(Codec::None, false, false),
                    checksum: 0,
                };
                let mut hasher = crc32fast::Hasher::new();
                hasher.update(BLOCK);
                header.checksum = header.checksum_of(hasher);
                (header, bytes::Bytes::from_static(BLOCK))
            })
            .collect();
        let mut builder = Builder::new(place.clone(), generation, 0, 7);
        builder.add(&blocks);
        let (object, entry) = builder.finish();
        fs::write(dir.join(keys::object_name(generation, 0, 7)), object).unwrap();
        let next = Next {
            place: place.clone(),
            generation,
            tasks: (GENERATIONS, 2),
            part: Part {
                generation,
                objects: vec![entry],
                attempts,
            },
            replaces,
        };
        let (manifest, next) = Chain::next(chain.as_ref(), next).unwrap();
        let name = keys::manifest_name(generation);
        fs::write(dir.join(name), manifest.encode()).unwrap();
        chain = Some(next);
    }
}

/// Requests so far: all, and of these the listings.
async fn requests(server: &Server) -> (u64, u64) {
    let mut counts = [0; 3];
    for (count, verb) in counts.iter_mut().zip(["get", "head", "list"]) {
        let name = format!("remote_requests_total{{verb=\"{verb}\"");
        *count = counter(server, &name).await;
    }
    (counts.iter().sum(), counts[2])
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_generations_are_read_with_a_few_requests_by_many_who_ask_together() {
    const READERS: usize = 32;
    let bucket = Bucket::new();
    let app = App::new("app-1");
    let one = Server::with(bucket.setup("off")).await;
    one.peer().await.renew(&app).await.unwrap();
    let volume = uuid::Uuid::new_v4();
    let place = Place {
        app: AppId::try_new(&app.id).unwrap(),
        shuffle: ShuffleId(0),
        volume: VolumeId(volume),
    };
    let bucket = tokio::task::spawn_blocking(move || {
        write(&bucket, &place);
        bucket
    })
    .await
    .unwrap();
    let request = fetch_range(&app, 0, vec![volume.as_bytes().to_vec()], 1..2, 0..u32::MAX);
    // A server that knows the app, one that has never heard of it, and that one again after a kill.
    let mut two = Server::with(bucket.setup("off")).await;
    for round in 0..3 {
        if round == 2 {
            two.kill();
            two.restart().await;
        }
        let server = if round == 0 { &one } else { &two };
        let peer = server.peer().await;
        peer.renew(&app).await.unwrap();
        // What the server itself looks at meanwhile comes once a minute.
        let (before, began) = (requests(server).await, Instant::now());
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..READERS {
            let (peer, request) = (server.peer().await, request.clone());
            readers.spawn(async move { peer.fetch(request).await.unwrap() });
        }
        let mut first = None;
        while let Some(read) = readers.join_next().await {
            first.get_or_insert_with(|| began.elapsed());
            let read = read.unwrap();
            assert_eq!(read.blocks.len(), GENERATIONS as usize);
            assert_eq!(read.summary.attempt.len(), GENERATIONS as usize);
            assert!(read.summary.lost.is_empty());
        }
        let after = requests(server).await;
        let (took, cost, lists) = (began.elapsed(), after.0 - before.0, after.1 - before.1);
        eprintln!(
            "round {round}: {cost} requests, {lists} listings, {first:?} for the first, {took:?} for {READERS}"
        );
        // One of them looks for the last manifest; each reads the counting generations. The
        // server's own looks come again on a machine that takes minutes.
        let again = took.as_secs() / 30;
        assert!(lists <= 4 + 2 * again, "{lists} listings in round {round}");
        let most = 20 * READERS as u64 + 6 * again;
        assert!(cost <= most, "{cost} requests in round {round}");
    }
    // By one alone, who has to find everything.
    two.kill();
    two.restart().await;
    let peer = two.peer().await;
    peer.renew(&app).await.unwrap();
    let (before, began) = (requests(&two).await, Instant::now());
    let read = peer.fetch(request).await.unwrap();
    assert_eq!(read.blocks.len(), GENERATIONS as usize);
    let cost = requests(&two).await.0 - before.0;
    // Twenty for the place, and what the server looks at by itself.
    let most = 26 + 6 * (began.elapsed().as_secs() / 30);
    assert!(cost <= most, "{cost} requests");
}
