//! Whether probes are answered when the server has no time for them.

use std::{process::Stdio, time::Instant};

use shuffle_tests::quota::Quota;

use super::*;

/// What kubelet gives a probe, by default.
const PROBE: Duration = Duration::from_secs(1);
/// An idle server this slow is a sign of a busy machine, and not of a fault.
const BUSY: Duration = Duration::from_millis(300);

/// A load that ends with its test.
struct Load(std::process::Child);

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_while_the_data_path_has_all_of_half_a_processor() {
    let Some(quota) = Quota::of(50) else { return };
    let mut server = Server::with(Setup::new().flag("--memory", "256MiB")).await;
    let mut idle = Server::start().await;
    quota.take(server.pid());
    let loads: Vec<_> = (0..2)
        .map(|_| {
            let mut load = Command::new(server::binary().with_file_name("forebay-bench"));
            load.args(["push", "--size", "512MB", "--rounds", "1000"])
                .args(["--servers", &server.addr().to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            Load(load.spawn().unwrap())
        })
        .collect();
    // A busy machine may leave the server less than its half: then nothing holds it back, and the
    // demands are the same.
    let start = Instant::now();
    while quota.throttled() < 20 && start.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let before = quota.throttled();
    let mut slow = Vec::new();
    for _ in 0..30 {
        for path in ["/livez", "/readyz", "/metrics"] {
            let ask = async |server: &Server| {
                let start = Instant::now();
                let (status, body) = raw::get(server.admin(), path).await;
                assert_eq!(status, 200, "{path}: {body}");
                start.elapsed()
            };
            let (before, took) = (ask(&idle).await, ask(&server).await);
            if took > PROBE && before < BUSY && ask(&idle).await < BUSY {
                slow.push((path, took));
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!(
        "held back in {} of some {} periods",
        quota.throttled() - before,
        start.elapsed().as_millis() / 100
    );
    assert_eq!(slow, []);
    drop(loads);
    drop(quota);
    server.stop().await;
    idle.stop().await;
}
