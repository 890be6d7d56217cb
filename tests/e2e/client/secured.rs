//! TLS between clients and servers: who is taken for whom, what does not fit and how that is said,
//! and certificates that change under load.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use shuffle_client::{Kind, Tls};
use shuffle_tests::{Authority, tls};

use super::*;

/// The name in certificates, which no DNS has.
const NAME: &str = "forebay.test";

fn trusting(ca: &Authority) -> Tls {
    Tls {
        ca: ca.pem(),
        server_name: Some(NAME.into()),
        ..Tls::default()
    }
}

fn secured(servers: &[&Server], tls: Tls) -> Settings {
    let addresses: Vec<_> = servers.iter().map(|server| server.addr()).collect();
    Settings {
        tls: Some(tls),
        ..settings(&addresses)
    }
}

async fn round_trip(driver: &Driver, shuffle: u32) -> Result<(), Error> {
    let (tasks, mut outputs) = (tasks(4), Vec::new());
    for task in &tasks {
        let commit = task.run(driver, shuffle, 4).await?;
        outputs.push(task.output(&commit));
    }
    check(&read_all(driver.reader(shuffle, outputs)).await?, &tasks);
    Ok(())
}

async fn refused(settings: Settings) -> Error {
    let client = Client::new(settings).unwrap();
    let caller = Caller {
        app: AppId::try_new("app-1").unwrap(),
        token: "secret".into(),
        lease: Duration::ZERO,
    };
    let opened = step("a refusal", client.open_app(caller)).await;
    opened.err().expect("what does not fit is refused")
}

// === who is who ===

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_known_by_its_name_and_not_by_its_address() {
    let ca = Authority::new();
    let setup = ca.serve(&ca.issue(&[NAME]));
    let (one, two) = (Server::with(setup.clone()).await, Server::with(setup).await);
    let driver = Driver::with(secured(&[&one, &two], trusting(&ca))).await;
    step("a round trip", round_trip(&driver, 0)).await.unwrap();

    // Names of the settings count for whatever DNS makes of them, and what map outputs name.
    let ca = Authority::new();
    let server = Server::with(ca.serve(&ca.issue(&["localhost"]))).await;
    let port = server.addr().port();
    let by_name = Settings {
        servers: vec![format!("dns://localhost:{port}")],
        ..secured(
            &[&server],
            Tls {
                server_name: None,
                ..trusting(&ca)
            },
        )
    };
    let driver = Driver::with(by_name).await;
    step("a round trip", round_trip(&driver, 0)).await.unwrap();
    // An address that is in the certificate.
    let ca = Authority::new();
    let server = Server::with(ca.serve(&ca.issue(&["127.0.0.1"]))).await;
    let tls = Tls {
        server_name: None,
        ..trusting(&ca)
    };
    let driver = Driver::with(secured(&[&server], tls)).await;
    step("a round trip", round_trip(&driver, 0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_serves_who_has_a_certificate() {
    let (ca, clients) = (Authority::new(), Authority::new());
    let setup = ca
        .serve(&ca.issue(&[NAME]))
        .flag("--tls-client-ca", clients.ca_file().display());
    let server = Server::with(setup).await;
    let pair = clients.issue(&["app"]);
    let tls = Tls {
        cert: Some(pair.cert.clone()),
        key: Some(pair.key.clone()),
        ..trusting(&ca)
    };
    let driver = Driver::with(secured(&[&server], tls)).await;
    step("a round trip", round_trip(&driver, 0)).await.unwrap();

    let none = refused(secured(&[&server], trusting(&ca))).await;
    assert_eq!(none.kind, Kind::Denied, "{none}");
    says(
        &none.message,
        &["CertificateRequired", "tls_cert", "tls_key"],
    );
    let stranger = Authority::new().issue(&["app"]);
    let tls = Tls {
        cert: Some(stranger.cert.clone()),
        key: Some(stranger.key.clone()),
        ..trusting(&ca)
    };
    let stranger = refused(secured(&[&server], tls)).await;
    assert_eq!(stranger.kind, Kind::Denied, "{stranger}");
    says(&stranger.message, &["tls_cert", "tls-client-ca"]);
    let expired = clients.expired(&["app"]);
    let tls = Tls {
        cert: Some(expired.cert.clone()),
        key: Some(expired.key.clone()),
        ..trusting(&ca)
    };
    let expired = refused(secured(&[&server], tls)).await;
    assert_eq!(expired.kind, Kind::Denied, "{expired}");
    says(&expired.message, &["tls_cert", "tls-client-ca"]);
    let words = ["a connection is refused", "tls-client-ca", "port=\"data\""];
    logged(&server, &words).await;
}

// === what does not fit ===

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
}

/// The server's side says so too, when the peer has gone.
async fn logged(server: &Server, words: &[&str]) {
    for word in words {
        eventually(STEP, || async {
            let has = server.log().contains(word);
            has.then_some(())
                .ok_or_else(|| format!("{word:?} is not logged"))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_said_at_the_registration_on_both_sides() {
    let (ca, other) = (Authority::new(), Authority::new());
    let good = Server::with(ca.serve(&ca.issue(&[NAME]))).await;
    let over = Authority::new();
    let expired = Server::with(over.serve(&over.expired(&[NAME]))).await;
    logged(&expired, &["tls-cert has expired"]).await;
    let plain = Server::start().await;

    let cases = [
        (
            secured(&[&good], trusting(&other)),
            vec!["invalid peer certificate", "tls_ca", "tls-cert"],
        ),
        (
            secured(
                &[&good],
                Tls {
                    server_name: Some("else.test".into()),
                    ..trusting(&ca)
                },
            ),
            vec!["else.test", NAME, "tls_server_name"],
        ),
        (
            secured(
                &[&good],
                Tls {
                    server_name: None,
                    ..trusting(&ca)
                },
            ),
            vec!["127.0.0.1", NAME, "tls_server_name"],
        ),
        (
            secured(&[&expired], trusting(&over)),
            vec!["expired", "tls-cert"],
        ),
        (
            secured(&[&plain], trusting(&ca)),
            vec!["does not speak TLS", "tls-cert", "tls_ca"],
        ),
        (
            settings(&[good.addr()]),
            vec!["TLS only", "spark.forebay.tls.ca", "tls-cert"],
        ),
    ];
    for (settings, words) in cases {
        let begun = std::time::Instant::now();
        let error = refused(settings).await;
        assert_eq!(error.kind, Kind::Denied, "{error}");
        says(&error.message, &words);
        assert!(
            begun.elapsed() < PATIENCE / 2,
            "{:?} for {error}",
            begun.elapsed()
        );
    }
    let words = [
        "the client does not take tls-cert",
        "this port takes TLS only",
    ];
    logged(&good, &words).await;
    let words = ["the client speaks TLS, and this port does not", "tls-key"];
    logged(&plain, &words).await;
    // The port serves on.
    let driver = Driver::with(secured(&[&good], trusting(&ca))).await;
    step("a round trip", round_trip(&driver, 0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_with_a_bad_certificate_costs_nothing_but_itself() {
    let (ca, other) = (Authority::new(), Authority::new());
    let good = Server::with(ca.serve(&ca.issue(&[NAME]))).await;
    let bad = Server::with(other.serve(&other.issue(&[NAME]))).await;
    let driver = Driver::with(secured(&[&good, &bad], trusting(&ca))).await;
    step("a round trip", round_trip(&driver, 0)).await.unwrap();
}

// === certificates that change ===

const SWAPS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_change_under_load_fail_nothing() {
    let ca = Authority::new();
    let server = Server::with(ca.serve(&ca.issue(&[NAME]))).await;
    let ca_file = ca.ca_file();
    let settings = secured(&[&server], trusting(&ca));
    let standing = Driver::with(settings.clone()).await;
    // In flight over all of them.
    let long = Task {
        rounds: SWAPS as u32,
        ..Task::new(0, 1)
    };
    let mut writer = standing.client.open_writer(standing.spec(1000, 1, 0, 1));

    let (over, count) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU32::new(0)),
    );
    let loads: Vec<_> = (0..2)
        .map(|load| {
            let (settings, over, count) = (settings.clone(), over.clone(), count.clone());
            let caller = standing.caller.clone();
            tokio::spawn(async move {
                let mut shuffle = load * 100_000;
                while !over.load(Ordering::Relaxed) {
                    // New connections each time.
                    let client = Client::new(settings.clone()).unwrap();
                    let app = client.open_app(caller.clone()).await?;
                    let driver = Driver {
                        client,
                        app,
                        caller: caller.clone(),
                        durability: Durability::Disk,
                    };
                    round_trip(&driver, shuffle + 2000).await?;
                    shuffle += 1;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, Error>(())
            })
        })
        .collect();
    for swap in 0..SWAPS {
        let pair = ca.issue(&[NAME]);
        ca.put_pair(&pair);
        in_use(server.addr(), &ca_file, &pair).await;
        long.write(&mut writer, swap as u32..swap as u32 + 1)
            .await
            .unwrap();
    }
    over.store(true, Ordering::Relaxed);
    for load in loads {
        step("a load", load).await.unwrap().unwrap();
    }
    assert!(count.load(Ordering::Relaxed) > 2, "there was no load");
    let commit = step("the commit", writer.commit()).await.unwrap();
    let rows = read_all(standing.reader(1000, vec![long.output(&commit)]))
        .await
        .unwrap();
    check(&rows, &[long]);

    // A broken pair changes nothing.
    let last = tls::shown(server.addr(), &ca_file, NAME).await;
    ca.put("tls.crt", "broken");
    eventually(STEP, || async {
        let told = "the new TLS files cannot be used";
        server
            .log()
            .contains(told)
            .then_some(())
            .ok_or_else(|| "not told".to_owned())
    })
    .await;
    assert_eq!(tls::shown(server.addr(), &ca_file, NAME).await, last);
    let metrics = tls::get(server.admin(), &ca_file, NAME, None, "/metrics")
        .await
        .unwrap();
    says(
        &metrics,
        &[
            "forebay_tls_reload_failing 1",
            "forebay_tls_reloads_total{result=\"ok\"} 20",
            "forebay_tls_reloads_total{result=\"failed\"} 1",
        ],
    );
    let fresh = Driver::with(settings).await;
    step("a round trip", round_trip(&fresh, 5000))
        .await
        .unwrap();
}

/// Waits until new connections see this certificate.
async fn in_use(addr: SocketAddr, ca: &Path, pair: &tls::Pair) {
    let der = pair.der();
    eventually(Duration::from_secs(15), || async {
        match tls::shown(addr, ca, NAME).await == der {
            true => Ok(()),
            false => Err("new connections see another certificate".to_owned()),
        }
    })
    .await;
}

/// A TLS handshake that never ends costs its own connection alone, and only for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_never_ends_is_ended() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let ca = Authority::new();
    let server = Server::with(ca.serve(&ca.issue(&[NAME])).flag("--keep-alive", "1s")).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        let mut stream = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
        // A record of a handshake that is said to have 512 bytes.
        stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        silent.push(stream);
    }
    let driver = Driver::with(secured(&[&server], trusting(&ca))).await;
    step("a round trip", round_trip(&driver, 0)).await.unwrap();
    for stream in &mut silent {
        let mut bytes = Vec::new();
        let _ = step("the end of it", stream.read_to_end(&mut bytes)).await;
    }
}

/// TLS 1.1 and older are not spoken.
#[tokio::test(flavor = "multi_thread")]
async fn old_versions_are_refused() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let ca = Authority::new();
    let server = Server::with(ca.serve(&ca.issue(&[NAME]))).await;
    let mut stream = tokio::net::TcpStream::connect(server.addr()).await.unwrap();
    // A hello of TLS 1.1: version 3.2, one suite (AES128-SHA), no extensions.
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    let mut bytes = vec![0x16, 3, 1];
    bytes.extend((hello.len() as u16 + 4).to_be_bytes());
    bytes.extend([1, 0]);
    bytes.extend((hello.len() as u16).to_be_bytes());
    bytes.extend(hello);
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = step("an alert", stream.read_to_end(&mut answer)).await;
    // A fatal alert: protocol_version, or what comes before that in the list of what is missing.
    assert_eq!(
        (answer.first(), answer.get(5)),
        (Some(&0x15), Some(&2)),
        "{answer:?}"
    );
}
