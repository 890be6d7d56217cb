//! The program as a person meets it.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_forebay-bench"))
        .args(arguments)
        .output()
        .unwrap()
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
