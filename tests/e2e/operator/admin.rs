//! The admin port, towards peers that may look and not change, and peers that hold on to it.

use super::*;
use std::time::Instant;
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// A request with these headers: status and body.
async fn ask(server: &Server, method: &str, path: &str, headers: &str) -> (u16, String) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n"
    );
    let answer = raw::exchange(server.admin(), request.as_bytes()).await;
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_changes_nothing() {
    let server = Server::start().await;
    let (peer, app, mut oracle) = (server.peer().await, App::new("app-1"), Oracle::default());
    oracle
        .push(&peer, &Attempt::generate(&app, 0, SHAPE, 0, 1))
        .await;
    let host = format!("host: {}\r\n", server.admin());
    let pages = [
        (format!("{host}origin: http://evil.example\r\n"), "Origin"),
        (
            format!("{host}origin: null\r\ncontent-type: text/plain\r\n"),
            "Origin",
        ),
        (
            format!("{host}sec-fetch-site: cross-site\r\n"),
            "Sec-Fetch-Site",
        ),
        ("host: evil.example:7401\r\n".to_owned(), "Host"),
        (
            "host: evil.example\r\norigin: http://evil.example\r\nsec-fetch-site: same-origin\r\n"
                .to_owned(),
            "Host",
        ),
    ];
    for (headers, field) in &pages {
        for (method, path) in [
            ("POST", "/api/v1/drain"),
            ("POST", "/api/v1/apps/app-1"),
            ("DELETE", "/api/v1/apps/app-1"),
            ("DELETE", "/api/v1/apps/app-1/shuffles/0"),
            ("POST", "/api/v1/apps/app-1/shuffles/0"),
        ] {
            let (status, body) = ask(&server, method, path, headers).await;
            assert_eq!(status, 403, "{method} {path} {headers}: {body}");
            assert!(
                body.contains("\"denied\"") && body.contains(&format!("{field} is")),
                "{body}"
            );
        }
        let (status, _) = ask(&server, "GET", "/api/v1/status", headers).await;
        assert_eq!(status, 200, "looking is not changing: {headers}");
    }
    // Nor does a GET change anything, whoever sends it.
    for path in ["/api/v1/apps/app-1", "/api/v1/apps/app-1/shuffles/0"] {
        assert_eq!(ask(&server, "GET", path, &host).await.0, 405, "{path}");
    }
    let (_, drain) = ask(&server, "GET", "/api/v1/drain", &host).await;
    assert!(drain.contains("\"draining\":false"), "{drain}");
    oracle.check(&peer, &app, 0).await;
    // The operator, on the same machine.
    let (status, _) = ask(&server, "DELETE", "/api/v1/apps/app-1", &host).await;
    assert_eq!(status, 200);
    assert_refused(
        &peer
            .fetch(fetch_first(&app, 0, server.volumes()))
            .await
            .unwrap_err(),
        Kind::Lost,
        &[],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_ask_nothing_do_not_use_up_the_files() {
    let server = Server::start().await;
    let files = || {
        let fds = format!("/proc/{}/fd", server.pid());
        fs::read_dir(fds).unwrap().count()
    };
    let before = files();
    let mut idle = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(server.admin()).await.unwrap();
        if number % 2 == 0 {
            let _ = stream.write_all(b"GET /livez HTT").await;
        }
        idle.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let during = files();
    assert!(during < before + 100, "{before} files, then {during}");
    // They end by themselves; none of them is closed here.
    let start = Instant::now();
    loop {
        let answer = raw::socket(
            server.admin(),
            b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        );
        if answer.await.starts_with(b"HTTP/1.1 200") {
            break;
        }
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "nobody is let in"
        );
    }
    let (_, metrics) = raw::get(server.admin(), "/metrics").await;
    let met = "forebay_limits_total{limit=\"admin-connections\"} ";
    let met = metrics.lines().find_map(|line| line.strip_prefix(met));
    let met: f64 = met.unwrap().parse().unwrap();
    assert!(met >= 200.0, "{met}");
    drop(idle);
}
