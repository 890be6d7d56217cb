//! Fetch: what was pushed, what is not here, fields that cannot be.

use bytes::Bytes;
use shuffle_proto::{kind::Kind, v1};

use crate::stage::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_client_pushes_and_fetches_over_several_volumes() {
    let mut stage = Stage::start(3, |_| ()).await;
    let mut sent = Vec::new();
    let mut volumes = Vec::new();
    for map in 0..8 {
        let text = format!("rows of map {map}").into_bytes();
        let receipt = stage.put(map, 100 + u64::from(map), &text).await;
        assert_eq!((receipt.bytes, receipt.records), (text.len() as u64, 1));
        assert!(stage.volumes.contains(&receipt.volume));
        volumes.push(receipt.volume);
        sent.push(text);
    }
    // A volume that happened to get none would be Lost.
    let request = v1::FetchRequest {
        volumes,
        ..stage.all()
    };
    let (payload, summary) = stage.fetch(request).await.unwrap();
    assert_eq!(payload.len(), sent.iter().map(Vec::len).sum::<usize>());
    let mut maps = summary.map_index;
    maps.sort_unstable();
    assert_eq!(maps, (0..8).collect::<Vec<_>>());
    stage.stop();
    stage.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_is_lost_and_never_empty() {
    let stage = Stage::start(1, |_| ()).await;
    let all = stage.all();
    assert_refused(
        &stage.fetch(all.clone()).await.unwrap_err(),
        Kind::Lost,
        &["app-1"],
    );
    stage.put(0, 1, b"rows").await;
    let foreign = v1::FetchRequest {
        volumes: vec![Bytes::from_static(&[7; 16])],
        ..all.clone()
    };
    let refusal = stage.fetch(foreign).await.unwrap_err();
    assert_refused(
        &refusal,
        Kind::Lost,
        &["07070707-0707-0707-0707-070707070707", "not served here"],
    );
    let mixed = v1::FetchRequest {
        volumes: vec![all.volumes[0].clone(), vec![7; 16].into()],
        ..all.clone()
    };
    assert_eq!(Kind::of(&stage.fetch(mixed).await.unwrap_err()), Kind::Lost);
    let unknown = v1::FetchRequest {
        shuffle: 99,
        ..all.clone()
    };
    assert_eq!(
        Kind::of(&stage.fetch(unknown).await.unwrap_err()),
        Kind::Lost
    );
    let mut control = stage.control();
    let delete = v1::DeleteShuffleRequest {
        caller: caller("secret"),
        shuffle: 1,
    };
    control.delete_shuffle(delete).await.unwrap();
    assert_eq!(Kind::of(&stage.fetch(all).await.unwrap_err()), Kind::Lost);
    let late = stage.push(open(1, 2)).await.unwrap().refusal().await;
    assert_eq!(Kind::of(&late), Kind::Fenced, "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_is_checked_field_by_field() {
    let stage = Stage::start(1, |_| ()).await;
    stage.put(0, 1, b"rows").await;
    type Spoil = fn(&mut v1::FetchRequest);
    let cases: [(Kind, &str, Spoil); 7] = [
        (Kind::Invalid, "caller is absent", |fetch| {
            fetch.caller = None
        }),
        (
            Kind::Denied,
            "caller.token does not open app app-1",
            |fetch| fetch.caller = caller("guess"),
        ),
        (Kind::Invalid, "volumes is empty", |fetch| {
            fetch.volumes.clear()
        }),
        (Kind::Invalid, "volumes is 3 bytes", |fetch| {
            fetch.volumes = vec![Bytes::from_static(b"abc")]
        }),
        (Kind::Invalid, "partition_start is [4, 4)", |fetch| {
            fetch.partition_start = 4
        }),
        (Kind::Invalid, "map_start is [9, 3)", |fetch| {
            (fetch.map_start, fetch.map_end) = (9, 3)
        }),
        (Kind::Invalid, "cursor is 65 bytes", |fetch| {
            fetch.cursor = vec![1; 65].into()
        }),
    ];
    for (kind, text, spoil) in cases {
        let mut request = stage.all();
        spoil(&mut request);
        assert_refused(&stage.fetch(request).await.unwrap_err(), kind, &[text]);
    }
    let strange = v1::FetchRequest {
        cursor: Bytes::from_static(b"no cursor of ours"),
        ..stage.all()
    };
    assert_eq!(
        stage.fetch(strange).await.unwrap().0,
        b"rows",
        "a cursor that is not ours starts over"
    );
}
