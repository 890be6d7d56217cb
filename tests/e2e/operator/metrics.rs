//! `/metrics`, as its readers see it: promtool, the reference parser of OpenMetrics, the load tool.

use std::{io::Write, process::Stdio};

use super::*;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";

/// Head and body of `/metrics` for this `Accept`.
async fn metrics(server: &Server, accept: &str) -> (String, String) {
    let request = format!(
        "GET /metrics HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\nconnection: close\r\n\r\n"
    );
    let answer = raw::exchange(server.admin(), request.as_bytes()).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    (head.to_lowercase(), body.to_owned())
}

/// Runs a program with this input; returns both its outputs, and whether it succeeded.
fn fed(command: &mut Command, input: &str) -> (bool, String) {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// A server that has counted something of most kinds.
async fn used() -> Server {
    let server = Server::start().await;
    let peer = server.peer().await;
    let app = App::new("app-1");
    let mut oracle = Oracle::default();
    let maps = 0..SHAPE.maps;
    oracle.push_maps(&server, &app, 0, SHAPE, maps).await;
    oracle.check(&peer, &app, 0).await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn both_formats_of_the_metrics_are_what_their_readers_want() {
    let mut server = used().await;
    let (head, text) = metrics(&server, "*/*").await;
    assert!(
        head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{head}"
    );
    let preferred = format!("text/plain;version=0.0.4;q=0.5, {OPEN_METRICS};q=0.6");
    let (head, open) = metrics(&server, &preferred).await;
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.contains(kind), "{head}");
    let (head, _) = metrics(&server, &preferred.replace("0.6", "0.4")).await;
    assert!(head.contains("text/plain"), "{head}");
    assert!(!text.contains("# EOF") && open.ends_with("# EOF\n"));
    for text in [&text, &open] {
        for name in [
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_virtual_memory_bytes ",
            "process_start_time_seconds ",
            "process_open_fds ",
            "process_max_fds ",
            "forebay_build_info{version=\"",
        ] {
            let found = text.lines().find_map(|line| line.strip_prefix(name));
            let value = found.unwrap_or_else(|| panic!("no {name} in {text}"));
            let value: f64 = value.rsplit(' ').next().unwrap().parse().unwrap();
            assert!(value > 0.0, "{name} is {value}");
        }
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.unwrap().as_secs_f64();
    let started = raw::metric(&text, "process_start_time_seconds").unwrap();
    assert!((started - now).abs() < 100.0, "{started} is not {now}");

    let tools = shuffle_tests::cache().join("prometheus");
    let promtool = tools.join("usr/bin/promtool");
    let python = tools.join("bin/python");
    if !promtool.exists() || !python.exists() {
        let tools = tools.display();
        return shuffle_tests::skipped(&format!(
            "no {tools}: ./setup.sh --prometheus installs it on Debian and Ubuntu"
        ));
    }
    let lint = |text: &str| fed(Command::new(&promtool).args(["check", "metrics"]), text);
    assert_eq!(lint(&text), (true, String::new()));
    // promtool reads text 0.0.4 only: it knows the help of a counter by the name of its samples,
    // which OpenMetrics forbids.
    let (_, said) = lint(&open);
    let others: Vec<_> = said
        .lines()
        .filter(|line| !line.ends_with("_total no help text"))
        .collect();
    assert_eq!(others, Vec::<&str>::new());
    let parse = |of: &str, text: &str| {
        let program = format!(
            "import sys; from prometheus_client.{of} import text_string_to_metric_families as parse\n\
             print(sum(len(family.samples) for family in parse(sys.stdin.read())))"
        );
        let (parsed, said) = fed(Command::new(&python).args(["-c", &program]), text);
        assert!(parsed, "{said}");
        said.trim().parse::<usize>().unwrap()
    };
    let samples = text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(parse("parser", &text), samples);
    assert_eq!(parse("openmetrics.parser", &open), samples);
    // And the checkers are not content with everything.
    assert!(!lint("# TYPE a counter\na 1\n").0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_load_tool_reads_the_cost_of_a_server_from_its_metrics() {
    let mut server = Server::start().await;
    let bench = server::binary().with_file_name("forebay-bench");
    let mut command = Command::new(bench);
    command
        .args([
            "push",
            "--size",
            "4MB",
            "--partitions",
            "7",
            "--rounds",
            "2",
        ])
        .args(["--block", "16KiB"])
        .args(["--servers", &server.addr().to_string()])
        .args(["--admin", &server.admin().to_string()]);
    let running = tokio::task::spawn_blocking(move || command.output());
    let output = step("the load tool", running).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    let from = format!("server cost from http://{}/metrics", server.admin());
    assert!(said.contains(&from), "{said}");
    assert!(said.contains("server memory: largest sample"), "{said}");
    let cost = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("CPU s/GB, server"));
    let cost = cost.and_then(|cost| cost.split_whitespace().next());
    let cost: f64 = cost.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    assert!(cost > 0.0, "{said}");
    server.stop().await;
}
