//! Servers that hang, vanish, or are not who they seem, as the driver sees them.

#![allow(clippy::unwrap_used)] // in helpers of tests
mod common;

use std::time::{Duration, Instant};

use common::{log::Log, relay::Relay, *};
use shuffle_client::{Caller, Client, Durability, Kind, Settings, fake::Fake};

/// A client that would wait for a server that hangs for a minute.
fn patient(servers: &[String]) -> Client {
    let settings = Settings {
        call_timeout: Duration::from_secs(60),
        retry_deadline: Duration::from_secs(60),
        keep_alive: Duration::from_secs(60),
        ..Settings::of(servers.iter().cloned())
    };
    Client::new(settings).unwrap()
}

fn leased(lease: Duration) -> Caller {
    Caller { lease, ..caller() }
}

/// A listener whose backlog takes connections and whose process never does: a stopped one, or a
/// black hole behind a proxy.
async fn black_hole() -> (tokio::net::TcpListener, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[tokio::test]
async fn servers_that_hang_hold_up_neither_registration_nor_the_leases_of_others() {
    let good = [
        Fake::start().await,
        Fake::start().await,
        Fake::start().await,
    ];
    let hung = Fake::start().await;
    hung.faults().hang = true;
    let (_listener, nobody) = black_hole().await;
    let mut addresses = vec![hung.address(), nobody];
    addresses.extend(good.iter().map(Fake::address));
    let started = Instant::now();
    let lease = Duration::from_secs(2);
    let app = patient(&addresses).open_app(leased(lease)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(30));
    let mut placed = app.place(SHUFFLE, 100, 10);
    placed.sort_unstable();
    let mut well: Vec<_> = good.iter().map(Fake::address).collect();
    well.sort_unstable();
    assert_eq!(placed, well);
    // One that hangs after it was registered does not slow the others' leases either.
    good[0].faults().hang = true;
    let (before, began) = (good[1].counters().renewals, Instant::now());
    eventually("leases are renewed beside a server that hangs", || {
        good[1].counters().renewals >= before + 4
    })
    .await;
    assert!(began.elapsed() < 8 * lease, "{:?}", began.elapsed());
    // What answers again is asked again, and leased anew.
    let before = good[0].counters().renewals;
    good[0].faults().hang = false;
    eventually("it is back", || good[0].counters().renewals > before).await;
}

#[tokio::test]
async fn a_server_that_registers_late_is_used_when_it_has_answered() {
    let (first, late) = (Fake::start().await, Fake::start().await);
    late.faults().hang = true;
    let lease = Duration::from_secs(2);
    let addresses = [first.address(), late.address()];
    let app = patient(&addresses).open_app(leased(lease)).await.unwrap();
    assert_eq!(app.place(SHUFFLE, 100, 10), [first.address()]);
    late.faults().hang = false;
    eventually("the late one is used", || {
        app.place(SHUFFLE, 100, 10).len() == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_takes_seconds_when_every_server_hangs() {
    let servers = [Fake::start().await, Fake::start().await];
    let addresses = servers.each_ref().map(Fake::address);
    let app = patient(&addresses).open_app(caller()).await.unwrap();
    for server in &servers {
        server.faults().hang = true;
    }
    let started = Instant::now();
    let error = app.delete_shuffle(SHUFFLE).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(app.close().await.is_err());
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_server_under_two_names_is_one_candidate() {
    let (one, other) = (Fake::start().await, Fake::start().await);
    let alias = Relay::to(vec![one.address()]).await;
    let addresses = [one.address(), alias.address(), other.address()];
    let client = patient(&addresses);
    let app = client.open_app(caller()).await.unwrap();
    assert_eq!(app.servers().len(), 3);
    for shuffle in 0..20 {
        let placed = app.place(shuffle_client::ShuffleId(shuffle), 1000, 10);
        assert_eq!(placed.len(), 2, "{placed:?}");
        assert!(placed.contains(&other.address()), "{placed:?}");
        // Two copies are on two servers, whichever map it is.
        let mut spec = write_spec(&[], 0, shuffle.into());
        spec.durability = Durability::Mirror;
        spec.candidates = placed.into();
        let commit = client.open_writer(spec).commit().await.unwrap();
        assert_ne!(commit.mirror.unwrap().volume, commit.volume);
    }
}

#[tokio::test]
async fn an_address_behind_which_servers_answer_in_turn_is_refused_with_the_remedy() {
    for count in [2, 3, 5] {
        let mut servers = Vec::new();
        for _ in 0..count {
            servers.push(Fake::start().await);
        }
        let balancer = Relay::to(servers.iter().map(Fake::address).collect()).await;
        let client = patient(&[balancer.address()]);
        let error = client.open_app(caller()).await.err().unwrap();
        assert_eq!(error.kind, Kind::Invalid, "{error}");
        for part in [&balancer.address(), "headless", "dns://", "one by one"] {
            assert!(error.message.contains(part), "{part} is not in: {error}");
        }
    }
}

#[tokio::test]
async fn a_control_connection_that_falls_silent_is_replaced_before_the_lease_ends() {
    let log = Log::start();
    let server = Fake::start().await;
    let relay = Relay::to(vec![server.address()]).await;
    let lease = Duration::from_secs(4);
    let app = patient(&[relay.address()])
        .open_app(leased(lease))
        .await
        .unwrap();
    let mut before = 0;
    for _ in 0..2 {
        eventually("the lease is renewed", || {
            server.counters().renewals > before
        })
        .await;
        relay.silence();
        before = server.counters().renewals;
    }
    eventually("the lease is renewed", || {
        server.counters().renewals > before
    })
    .await;
    assert_eq!(
        log.lines("the lease of the app had run out", &relay.address()),
        0
    );
    drop(app);
}

#[tokio::test]
async fn a_lease_that_ran_out_is_told_once_and_the_app_is_registered_again() {
    let log = Log::start();
    let server = Fake::start().await;
    let lease = Duration::from_millis(600);
    let app = patient(&[server.address()])
        .open_app(leased(lease))
        .await
        .unwrap();
    eventually("it is renewed", || server.counters().renewals >= 3).await;
    let told = || log.lines("the lease of the app had run out", &server.address());
    assert_eq!(told(), 0);
    server.forget_apps();
    eventually("it is told", || told() > 0).await;
    let before = server.counters().renewals;
    eventually("it goes on", || server.counters().renewals >= before + 2).await;
    assert_eq!(told(), 1);
    drop(app);
}

#[tokio::test]
async fn a_server_that_refuses_the_app_is_told_once() {
    let log = Log::start();
    let (good, other) = (Fake::start().await, Fake::start().await);
    other.faults().denies = true;
    let addresses = [good.address(), other.address()];
    let app = patient(&addresses)
        .open_app(leased(Duration::from_millis(600)))
        .await
        .unwrap();
    let told = || log.lines("does not take the application", &other.address());
    eventually("it is told", || told() > 0).await;
    let before = good.counters().renewals;
    eventually("it goes on", || good.counters().renewals >= before + 3).await;
    assert_eq!(
        (told(), app.place(SHUFFLE, 9, 9)),
        (1, vec![good.address()])
    );
    other.faults().denies = false;
    eventually("it takes it", || app.place(SHUFFLE, 9, 9).len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_nobody_uses_are_closed_and_made_again() {
    let server = Fake::start().await;
    let relay = Relay::to(vec![server.address()]).await;
    let settings = Settings {
        idle_connection: Duration::from_secs(2),
        ..Settings::of([relay.address()])
    };
    let client = Client::new(settings).unwrap();
    let mut spec = write_spec(&[], 0, 1);
    spec.candidates = [relay.address()].into();
    let mut writer = client.open_writer(spec);
    fill(&mut writer, 0, 1, 100).unwrap();
    let commit = writer.commit().await.unwrap();
    client.describe(&relay.address()).await.unwrap();
    check_read(&client, &commit, 0, 1, 1, 100).await;
    assert_eq!(relay.accepted(), 3);
    eventually("idle connections are closed", || relay.open() == 0).await;
    check_read(&client, &commit, 0, 1, 1, 100).await;
    // One with a stream is not idle, however long that stands still.
    let open = client.open_writer(write_spec(&[], 1, 2));
    drop(open);
    let mut spec = write_spec(&[], 1, 2);
    spec.candidates = [relay.address()].into();
    let mut writer = client.open_writer(spec);
    fill(&mut writer, 1, 1, 100).unwrap();
    eventually("the stream is open", || server.counters().opens == 2).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let commit = writer.commit().await.unwrap();
    assert_eq!(writer.stats().resends, 0);
    check_read(&client, &commit, 1, 2, 1, 100).await;
}
