//! `forebay inspect`: a server's files are good, and every change in them is found and named.

use super::*;

/// Every flipped bit is found, and the finding covers its byte; so is a missing end.
async fn every_change_is_found(kind: &str, file: &Path, flips: u64) {
    let length = fs::metadata(file).unwrap().len();
    let mut random = Random(length);
    // Both ends, and anywhere.
    let mut offsets = vec![0, 5, 63, 64, 100, length - 1, length - 30, length - 64];
    offsets.extend((0..flips).map(|_| random.below(length)));
    for offset in offsets {
        disk::flip(file, offset, 3);
        let said = forebay(["inspect", kind, file.to_str().unwrap()]).await;
        disk::flip(file, offset, 3);
        let what = format!(
            "{kind} {} with a flipped bit at {offset} of {length}",
            file.display()
        );
        assert_eq!(said.code, Some(1), "{what}: {said:?}");
        let covered = |line: &str| {
            let range = line.split(" bytes ").nth(1)?.split(':').next()?;
            let (begin, end) = range.split_once("..")?;
            let range = begin.parse::<u64>().ok()?..end.parse::<u64>().ok()?;
            Some(range.contains(&offset))
        };
        let named = said.err.lines().any(|line| covered(line) == Some(true));
        assert!(named, "{what}: {said:?}");
        assert!(
            said.err.contains(&file.display().to_string()),
            "{what}: {said:?}"
        );
    }
    let whole = fs::read(file).unwrap();
    for left in [length - 1, length / 2, 70, 63, 1] {
        disk::truncate(file, left);
        let said = forebay(["inspect", kind, file.to_str().unwrap()]).await;
        fs::write(file, &whole).unwrap();
        assert_eq!(
            said.code,
            Some(1),
            "{kind} cut off at {left} of {length}: {said:?}"
        );
    }
    forebay(["inspect", kind, file.to_str().unwrap()])
        .await
        .good();
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_are_printed_and_every_flipped_bit_is_found() {
    let mut server = Server::start().await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push_maps(&server, &app, 7, SHAPE, 0..3).await;
    server.settled().await;
    oracle.push_maps(&server, &app, 7, SHAPE, 3..6).await;
    server.settled().await;
    server.stop().await;
    let segments = server.data_files();
    let (mut bytes, mut records) = (0, 0);
    for segment in &segments {
        let report = forebay(["inspect", "segment", segment.to_str().unwrap()])
            .await
            .good();
        assert_eq!(fact(&report, "app"), "app-1");
        assert_eq!(fact(&report, "shuffle"), "7");
        let volume = uuid::Uuid::from_slice(&server.volumes()[0]).unwrap();
        assert_eq!(fact(&report, "volume"), volume.to_string());
        let number = |name| {
            fact(&report, name)
                .split(' ')
                .next()
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        bytes += number("bytes");
        records += number("records of blocks");
        assert!(report.ends_with("good: every checksum fits\n"), "{report}");
    }
    let all = |of: fn(&Attempt) -> u64| oracle.attempts().map(of).sum::<u64>();
    assert_eq!(
        (bytes, records),
        (all(Attempt::bytes), all(Attempt::records))
    );
    every_change_is_found("segment", &segments[0], 25).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_logs_are_printed_and_every_flipped_bit_is_found() {
    let mut server = Server::start().await;
    let peer = server.peer().await;
    let app = App::new("app-1");
    for map in 0..5 {
        let attempt = Attempt::generate(
            &app,
            2,
            Shape::small(5, 20).block(200),
            map,
            10 + u64::from(map),
        );
        peer.push(&attempt).await.unwrap();
    }
    server.kill();
    let mut logs = server.data_files();
    logs.retain(|path| path.extension().is_some_and(|it| it == "log"));
    assert!(
        !logs.is_empty(),
        "small commits go to a log first: {:?}",
        server.data_files()
    );
    let log = logs[0].to_str().unwrap();
    let report = forebay(["inspect", "log", log]).await.good();
    assert_eq!(fact(&report, "records"), "5");
    assert_eq!(fact(&report, "attempts"), "5");
    every_change_is_found("log", &logs[0], 15).await;
    // Another kind is named as what it is.
    forebay(["inspect", "segment", log])
        .await
        .bad(1, &["forebay inspect log"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_manifests_and_leases_are_printed_and_every_flipped_bit_is_found() {
    let bucket = Bucket::new();
    let server = Server::with(bucket.setup("eager")).await;
    let (app, mut oracle) = (App::new("app-1"), Oracle::default());
    oracle.push_maps(&server, &app, 3, SHAPE, 0..6).await;
    server.peer().await.written_back(&app, 3).await;
    drop(server);
    let all = |of: fn(&Attempt) -> u64| oracle.attempts().map(of).sum::<u64>().to_string();
    let (mut bytes, mut records) = (0, 0);
    for object in bucket.with_ending(".obj") {
        let report = forebay(["inspect", "object", object.to_str().unwrap(), "--all"])
            .await
            .good();
        assert_eq!(fact(&report, "app"), "app-1");
        assert_eq!(fact(&report, "shuffle"), "3");
        assert!(fact(&report, "named by").ends_with(".manifest"), "{report}");
        let number = |name| fact(&report, name).parse::<u64>().unwrap();
        bytes += number("bytes");
        records += number("records");
    }
    assert_eq!(bytes.to_string(), all(Attempt::bytes));
    assert_eq!(records.to_string(), all(Attempt::records));
    let (mut bytes, mut attempts) = (0, 0);
    for manifest in bucket.with_ending(".manifest") {
        let report = forebay(["inspect", "manifest", manifest.to_str().unwrap()])
            .await
            .good();
        assert_eq!(fact(&report, "app"), "app-1");
        assert!(report.contains("as named"), "{report}");
        let number = |name| fact(&report, name).parse::<u64>().unwrap();
        bytes += number("bytes");
        attempts += number("attempts");
    }
    assert_eq!(bytes.to_string(), all(Attempt::bytes));
    assert_eq!(attempts, 6);
    let lease = bucket.path().join("forebay-v1/app-1/lease");
    let report = forebay(["inspect", "lease", lease.to_str().unwrap()])
        .await
        .good();
    assert_eq!(fact(&report, "lease"), "10min");

    let (object, manifest) = (
        &bucket.with_ending(".obj")[0],
        &bucket.with_ending(".manifest")[0],
    );
    every_change_is_found("manifest", manifest, 10).await;
    // A manifest says which of its objects is not as it was written.
    let length = fs::metadata(object).unwrap().len();
    disk::flip(object, length / 2, 1);
    let name = object.file_name().unwrap().to_str().unwrap();
    forebay(["inspect", "manifest", manifest.to_str().unwrap()])
        .await
        .bad(1, &[name, "checksum of the whole"]);
    disk::flip(object, length / 2, 1);
    // A downloaded object alone: its own checksums find all of it.
    let alone = bucket.path().with_file_name("downloaded");
    fs::copy(object, &alone).unwrap();
    every_change_is_found("object", &alone, 25).await;
    let report = forebay(["inspect", "object", alone.to_str().unwrap()])
        .await
        .good();
    assert!(report.contains("is not beside it"), "{report}");
    // Under another's name.
    let other = object.with_file_name("data-00000009-00000009-0000000000000009.obj");
    fs::copy(object, &other).unwrap();
    forebay(["inspect", "object", other.to_str().unwrap()])
        .await
        .bad(1, &["under the name of"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_wrongly_is_said_with_code_2() {
    forebay(["inspect", "segment", "/no/such/file"])
        .await
        .bad(2, &["file is /no/such/file"]);
    forebay(["inspect", "segment", "/tmp"])
        .await
        .bad(2, &["file is /tmp: it is no file"]);
    forebay(["inspect", "nonsense", "/tmp"])
        .await
        .bad(2, &["nonsense"]);
    forebay(["drain"]).await.bad(2, &["--server"]);
    forebay(["doctor", "store", "ftp://x/y"])
        .await
        .bad(2, &["url is \"ftp://x/y\""]);
    forebay(["lifecycle-rule", "s3://b/p", "--days", "1"])
        .await
        .bad(2, &["days is 1", "give at least 2"]);
    let empty = tempfile::NamedTempFile::new().unwrap();
    for kind in ["object", "manifest"] {
        let path = empty.path().to_str().unwrap();
        forebay(["inspect", kind, path]).await.bad(1, &["broken: "]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_are_shown_by_shuffle_and_level() {
    let bucket = Bucket::new();
    let eager = Server::with(bucket.setup("eager").volumes(2)).await;
    let off = Server::with(bucket.setup("off").volumes(2)).await;
    let app = App::new("app-1");
    for (server, level) in [(&eager, "object"), (&off, "disk")] {
        let admin = server.admin().to_string();
        let nothing = forebay(["apps", "--server", &admin]).await.good();
        assert!(nothing.contains("holds nothing"), "{nothing}");
        let (peer, mut oracle) = (server.peer().await, Oracle::default());
        // Over both volumes.
        oracle.push_maps(server, &app, 7, SHAPE, 0..6).await;
        oracle.push_maps(server, &app, 8, SHAPE, 0..1).await;
        if level == "object" {
            peer.written_back(&app, 7).await;
            peer.written_back(&app, 8).await;
        }
        let usage = peer.usage(&app, Some(7)).await.unwrap();
        let bytes: u64 = usage.levels.iter().map(|level| level.bytes).sum();
        let levels = ["disk", "fsync", "memory", "object"]
            .map(|name| format!("\"{name}\":{}", if name == level { bytes } else { 0 }));
        let shuffle = format!(
            "{{\"apps\":[{{\"app\":\"app-1\",\"shuffles\":[{{\"attempts\":6,\"bytes\":{{{}}},\"shuffle\":7}},",
            levels.join(",")
        );
        let json = forebay(["apps", "--json", "--server", &admin]).await.good();
        assert!(json.contains(&shuffle), "{json} has not {shuffle}");
        let table = forebay(["apps", "--server", &admin]).await.good();
        let row = table.lines().find(|line| line.contains("app-1"));
        let row: Vec<&str> = row.unwrap_or_default().split_whitespace().collect();
        assert_eq!(row[..3], ["app-1", "7", "6"], "{table}");
        println!("{table}");
    }
}
