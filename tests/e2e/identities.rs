//! Who may do what with an application where servers ask drivers who they are: identities and calls,
//! at a server that knows the app and at one that has never heard of it, with a store and without.

use std::{fs, time::Duration};

use shuffle_proto::{
    credential::{self, Keys},
    ids::AppId,
};
use shuffle_tests::{
    App, Attempt, Bucket, Kind, Oracle, Peer, Server, Setup, Shape, eventually,
    peer::{assert_refused, fetch_first},
    raw, step, v1,
};
use tonic::Status;

const SECRET: &str = "planted-pool-secret-0001";
const OLD: &str = "planted-pool-secret-0000";
const STRANGER: &str = "planted-pool-secret-none";
const SHAPE: Shape = Shape {
    maps: 4,
    partitions: 3,
    rounds: 1,
    block: 2000,
};

/// Servers that ask for the pool's secret.
struct Pool {
    dir: tempfile::TempDir,
    servers: Vec<Server>,
}

impl Pool {
    async fn start(count: usize, setup: impl Fn() -> Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pool");
        fs::write(&file, format!("{SECRET}\n{OLD}\n")).unwrap();
        let mut servers = Vec::new();
        for _ in 0..count {
            let setup = setup()
                .flag("--auth", "secret")
                .flag("--pool-secret-file", file.display())
                .flag("--log", "debug");
            servers.push(Server::with(setup).await);
        }
        Self { dir, servers }
    }

    async fn peer(&self, at: usize) -> Peer {
        self.servers[at].peer().await
    }

    /// No secret, token or credential is in any log, metric or answer of the admin port.
    async fn told(&self, secrets: &[&str]) {
        for server in &self.servers {
            let mut said = server.log();
            for path in ["/metrics", "/api/v1/status", "/api/v1/apps", "/readyz"] {
                said += &raw::get(server.admin(), path).await.1;
            }
            for secret in secrets {
                assert!(!said.contains(secret), "{secret} is told:\n{said}");
            }
        }
    }
}

fn id(app: &str) -> AppId {
    AppId::try_new(app).unwrap()
}

/// A driver's credential by this secret.
fn credential(secret: &str, app: &App) -> String {
    let own = credential::own(&app.token);
    Keys::of(secret).credential(&id(&app.id), &own, credential::now())
}

/// What a driver does first: the app with the token that the server made.
async fn register(peer: &Peer, driver: &App, credential: String) -> Result<App, Status> {
    let request = v1::RenewLeaseRequest {
        caller: Some(driver.caller()),
        task: false,
        credential,
    };
    let answer = step("register", peer.control.clone().renew_lease(request)).await?;
    let answer = answer.into_inner();
    assert!(
        !answer.app_token.is_empty(),
        "a server of such a pool makes a token"
    );
    assert!(answer.app_token_ms > 3_600_000, "{answer:?}");
    Ok(App {
        token: answer.app_token,
        ..driver.clone()
    })
}

/// Every call that an app can make but registration, by this caller: each must be refused.
async fn refused(server: &Server, app: &App, kind: Kind, who: &str) {
    let peer = server.peer().await;
    let task = v1::RenewLeaseRequest {
        caller: Some(app.caller()),
        task: true,
        ..Default::default()
    };
    let verify = v1::VerifyRequest {
        caller: Some(app.caller()),
        volume: server.volumes()[0].clone().into(),
        ..Default::default()
    };
    let (mut renewing, mut verifying) = (peer.control.clone(), peer.control.clone());
    let opened = peer.open(Attempt::empty(app, 0, SHAPE, 3, 77).open()).await;
    let answers = [
        ("push", opened.map(drop)),
        (
            "fetch",
            peer.fetch(fetch_first(app, 0, server.volumes()))
                .await
                .map(drop),
        ),
        (
            "renew as a task",
            renewing.renew_lease(task).await.map(drop),
        ),
        ("renew", peer.renew(app).await.map(drop)),
        ("usage", peer.usage(app, None).await.map(drop)),
        ("verify", verifying.verify(verify).await.map(drop)),
        (
            "delete a shuffle",
            peer.delete_shuffle(app, 0).await.map(drop),
        ),
        ("delete the app", peer.delete_app(app).await.map(drop)),
    ];
    for (call, answer) in answers {
        let Err(status) = answer else {
            panic!("{who} may {call}");
        };
        assert_refused(&status, kind, &[]);
        for secret in [app.token.as_str(), SECRET, OLD] {
            let told = !secret.is_empty() && status.message().contains(secret);
            assert!(!told, "{who}, {call}: {status:?}");
        }
    }
}

async fn matrix(pool: &Pool, with_store: bool) {
    let driver = App::new("app-1");
    let (peer, mut oracle) = (pool.peer(0).await, Oracle::default());
    let app = register(&peer, &driver, credential(SECRET, &driver))
        .await
        .unwrap();
    oracle
        .push(&peer, &Attempt::generate(&app, 0, SHAPE, 0, 1))
        .await;

    let (a, own) = (id("app-1"), credential::own(&driver.token));
    let (keys, old, stranger) = (Keys::of(SECRET), Keys::of(OLD), Keys::of(STRANGER));
    let (now, day) = (credential::now(), 24 * 3600);
    let other = App::new("app-2");
    let others = register(&peer, &other, credential(SECRET, &other))
        .await
        .unwrap();
    let with = |token: &str| App {
        token: token.to_owned(),
        ..driver.clone()
    };
    // Nothing that opens anything, at any server.
    let everywhere = [
        ("nobody", with("")),
        ("a guess", with("wrong")),
        ("the driver's own token", driver.clone()),
        ("a driver's credential", with(&credential(SECRET, &driver))),
        ("another app's token", with(&others.token)),
        (
            "another pool's token",
            with(&stranger.token(&a, "", &own, now)),
        ),
        ("half a token", with(&app.token[..app.token.len() / 2])),
    ];
    // Tokens of this pool, for this id, and not this app's: where the app is known.
    let known = [
        (
            "another driver of the pool",
            with(&keys.token(&a, "", &credential::own("other"), now)),
        ),
        ("another tenant", with(&keys.token(&a, "team-b", &own, now))),
    ];
    let expired = with(&keys.token(&a, "", &own, now - 2 * day));
    for (at, server) in pool.servers.iter().enumerate() {
        for (who, caller) in &everywhere {
            refused(server, caller, Kind::Denied, who).await;
        }
        if at == 0 || with_store {
            for (who, caller) in &known {
                refused(server, caller, Kind::Denied, who).await;
            }
        }
        if at > 0 {
            refused(server, &expired, Kind::Denied, "a token that has expired").await;
        }
    }
    oracle.check(&peer, &app, 0).await;
    // A driver that is there vouches for the tokens of its tasks, however old, and another secret
    // of the pool is as good as the first.
    for token in [&expired.token, &old.token(&a, "", &own, now)] {
        oracle.check(&peer, &with(token), 0).await;
    }
    // The server that has never heard of it takes the app by its token alone.
    let away = pool.peer(1).await;
    let map = Attempt::generate(&app, 0, SHAPE, 1, 2);
    away.push(&map).await.unwrap();
    // Who may register.
    let none = |driver: &App, shown: String| {
        let (peer, driver) = (peer.clone(), driver.clone());
        async move { register(&peer, &driver, shown).await.unwrap_err() }
    };
    let thief = App {
        token: "of-somebody-else".into(),
        ..driver.clone()
    };
    let before = keys.credential(&a, &own, now - 3600);
    let new = App::new("app-3");
    for (who, refusal, words) in [
        (
            "no proof",
            none(&driver, String::new()).await,
            ["credential is absent", "spark.forebay.auth.file"],
        ),
        (
            "a new app without",
            none(&new, String::new()).await,
            ["app-3", "credential is absent"],
        ),
        (
            "another pool's secret",
            none(&driver, credential(STRANGER, &driver)).await,
            ["app-1", "pool-secret-file"],
        ),
        (
            "another app's proof",
            none(&driver, credential(SECRET, &other)).await,
            ["made for app app-2", "app-1"],
        ),
        (
            "another driver's proof",
            none(&thief, credential(SECRET, &driver)).await,
            ["another driver", "app-1"],
        ),
        (
            "an old proof",
            none(&driver, before).await,
            ["expired", "clocks"],
        ),
        (
            "an app token",
            none(&driver, app.token.clone()).await,
            ["signature is wrong", "app-1"],
        ),
        (
            "another driver of the pool",
            none(&thief, credential(SECRET, &thief)).await,
            ["does not open app app-1", "token"],
        ),
    ] {
        assert_refused(&refusal, Kind::Denied, &words);
        for secret in [SECRET, OLD, STRANGER, "eyJ"] {
            assert!(!refusal.message().contains(secret), "{who}: {refusal:?}");
        }
    }
    let again = register(&peer, &driver, credential(OLD, &driver))
        .await
        .unwrap();
    oracle.check(&peer, &again, 0).await;

    // One secret less, without a restart: what it signed opens nothing, and what the other did does.
    fs::write(pool.dir.path().join("pool"), format!("{SECRET}\n")).unwrap();
    let olds = with(&old.token(&a, "", &own, now));
    eventually(Duration::from_secs(15), || async {
        match peer.usage(&olds, None).await {
            Err(status) if Kind::of(&status) == Kind::Denied => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    oracle.check(&peer, &app, 0).await;
    // A restart keeps what belongs to whom, and asks nobody for more.
    assert_eq!(
        register(&peer, &driver, credential(OLD, &driver))
            .await
            .unwrap_err()
            .code(),
        tonic::Code::PermissionDenied
    );
    peer.delete_app(&others).await.unwrap();
    pool.told(&[SECRET, OLD, STRANGER, "eyJ", &driver.token])
        .await;
    let log = pool.servers[0].log();
    let audit = |words: &[&str]| {
        let fits =
            |line: &&str| line.contains(" audit: ") && words.iter().all(|word| line.contains(word));
        log.lines().filter(fits).count()
    };
    assert_eq!(
        audit(&[
            "action=\"register\"",
            "who=secret",
            "app=app-1",
            "peer=127.0.0.1"
        ]),
        1,
        "{log}"
    );
    assert_eq!(
        audit(&["action=\"free-app\"", "outcome=\"done\"", "app=app-2"]),
        1,
        "{log}"
    );
    assert!(
        audit(&["outcome=\"refused\"", "app=app-1", "path=\"Push\""]) >= 5,
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_its_drivers_alone_on_every_server() {
    let pool = Pool::start(2, Setup::new).await;
    matrix(&pool, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_its_drivers_alone_on_every_server_of_a_pool_with_a_store() {
    let bucket = Bucket::new();
    let pool = Pool::start(2, || bucket.setup("eager")).await;
    matrix(&pool, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_begins_to_ask_without_a_stop() {
    let mut pool = Pool::start(1, Setup::new).await;
    let file = pool.dir.path().join("pool").display().to_string();
    // As it was: open, and the secret in place already.
    pool.servers[0].kill();
    let open = |_: Setup| Setup::new().flag("--pool-secret-file", &file);
    pool.servers[0].reconfigure(open);
    pool.servers[0].restart().await;
    let (driver, mut oracle) = (App::new("app-1"), Oracle::default());
    let peer = pool.peer(0).await;
    peer.renew(&driver).await.unwrap();
    oracle
        .push(&peer, &Attempt::generate(&driver, 0, SHAPE, 0, 1))
        .await;
    // The driver learns to prove itself; its tasks have either token meanwhile.
    let app = register(&peer, &driver, credential(SECRET, &driver))
        .await
        .unwrap();
    oracle.check(&peer, &app, 0).await;
    oracle.check(&peer, &driver, 0).await;
    let stranger = Keys::of(STRANGER);
    let forged = stranger.token(
        &id("app-1"),
        "",
        &credential::own(&driver.token),
        credential::now(),
    );
    let forged = App {
        token: forged,
        ..driver.clone()
    };
    assert_refused(
        &peer.usage(&forged, None).await.unwrap_err(),
        Kind::Denied,
        &[],
    );
    // Then the pool asks.
    pool.servers[0].kill();
    pool.servers[0].reconfigure(|_| {
        Setup::new()
            .flag("--auth", "secret")
            .flag("--pool-secret-file", &file)
    });
    pool.servers[0].restart().await;
    let peer = pool.peer(0).await;
    oracle.check(&peer, &app, 0).await;
    assert_refused(
        &peer.usage(&driver, None).await.unwrap_err(),
        Kind::Denied,
        &["token"],
    );
}
