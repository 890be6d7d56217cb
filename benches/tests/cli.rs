//! The program as a person meets it.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use shuffle_client::fake::Fake;

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_forebay-bench"))
        .args(arguments)
        .output()
        .expect("the program runs")
}

#[track_caller]
fn refused(arguments: &[&str], words: &[&str]) {
    let output = bench(arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{arguments:?} was accepted");
    for word in words {
        assert!(
            text.contains(word),
            "{arguments:?} should say {word:?}, said: {text}"
        );
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn wrong_flags_are_refused_with_field_value_and_remedy() {
    refused(&["push"], &["--servers"]);
    refused(
        &["push", "--servers", "nonsense"],
        &["nonsense", "host:port"],
    );
    refused(
        &["push", "--servers", "127.0.0.1:1", "--size", "many"],
        &["many", "64KiB"],
    );
    refused(
        &["push", "--servers", "127.0.0.1:1", "--block", "5MiB"],
        &["--block", "5 MiB", "4 MiB"],
    );
    refused(
        &["push", "--servers", "127.0.0.1:1", "--durability", "paper"],
        &["paper", "fsync"],
    );
    refused(
        &[
            "push",
            "--servers",
            "127.0.0.1:1",
            "--server-pid",
            "2147483632",
        ],
        &["2147483632"],
    );
    refused(
        &["push", "--spawn", "--server-bin", "/nowhere/forebay-server"],
        &["/nowhere/forebay-server"],
    );
}

#[test]
fn a_server_that_is_not_there_is_named_in_bounded_time() {
    let start = Instant::now();
    refused(
        &[
            "push",
            "--servers",
            "127.0.0.1:1",
            "--size",
            "1MB",
            "--partitions",
            "1",
        ],
        &["127.0.0.1:1"],
    );
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn the_other_end_of_raw_tcp_ends_with_its_parent() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_forebay-bench"))
        .arg("tcp-floor")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut address = String::new();
    stdout.read_line(&mut address).unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    drop(child.stdin.take());
    stdout.read_to_string(&mut address).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Small enough to run in a blink.
const SMALL: [&str; 8] = [
    "--size",
    "4MB",
    "--partitions",
    "7",
    "--block",
    "16KiB",
    "--rounds",
    "2",
];

#[tokio::test(flavor = "multi_thread")]
async fn push_and_fetch_report_what_they_did_and_leave_nothing() {
    let fake = Fake::start().await;
    let address = fake.address();
    let pid = std::process::id().to_string();
    let arguments = [
        "all",
        "--servers",
        &address,
        "--server-pid",
        &pid,
        "--durability",
        "disk",
        "--json",
        "-",
    ];
    let arguments = [&arguments[..], &SMALL].concat();
    let output = tokio::task::block_in_place(|| bench(&arguments));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    for word in [
        "CPU s/GB, both",
        "commit latency",
        "every byte verified",
        "server memory: peak",
    ] {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["format"], 1);
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(
        (&runs[0]["kind"], &runs[1]["kind"]),
        (&"push".into(), &"fetch".into())
    );
    for run in runs {
        assert_eq!(run["rounds"].as_array().unwrap().len(), 2);
        assert_eq!(run["bytes"], run["stored_bytes"]);
        assert!(run["summary"]["cpu_ratio_to_tcp"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(runs[1]["verified"]["bytes"], runs[1]["bytes"]);
    assert_eq!(fake.counters().deleted_apps, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_blocks_are_verified_as_they_were_before() {
    let fake = Fake::start().await;
    let address = fake.address();
    let arguments = [
        &[
            "fetch",
            "--compress",
            "--read-partitions",
            "3",
            "--servers",
            &address,
            "--json",
            "-",
        ][..],
        &SMALL,
    ]
    .concat();
    let output = tokio::task::block_in_place(|| bench(&arguments));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let run = &report["runs"][0];
    assert!(run["stored_bytes"].as_u64() < run["bytes"].as_u64());
    assert_eq!(run["verified"]["bytes"], run["bytes"]);
    assert!(
        run["summary"]["cpu_ratio_to_tcp"].is_null(),
        "the server's cost is not known"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_missing_is_an_error_that_names_the_partitions() {
    let fake = Fake::start().await;
    fake.faults().omit = Some(shuffle_client::AttemptId(3));
    let address = fake.address();
    let arguments = [&["fetch", "--servers", &address][..], &SMALL].concat();
    tokio::task::block_in_place(|| refused(&arguments, &["verify every byte", "read partitions"]));
    assert_eq!(fake.counters().deleted_apps, 1);
}
