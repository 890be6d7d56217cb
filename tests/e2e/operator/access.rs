//! Who gets past the admin port, by tokens of files: the matrix, exchange of tokens, the audit, and
//! that no token is told to anybody.

use super::*;

const ADMIN: &str = "planted-admin-token-0001";
const OLD: &str = "planted-admin-token-0000";
const VIEWER: &str = "planted-viewer-token-0001";
const STRANGER: &str = "planted-stranger-token-1";

/// A server that asks for tokens, and the directory with its files.
async fn guarded() -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (admins, viewers) = (dir.path().join("admins"), dir.path().join("viewers"));
    fs::write(
        &admins,
        format!("# two, while one takes the other's place\n{ADMIN}\n{OLD}\n"),
    )
    .unwrap();
    fs::write(&viewers, format!("{VIEWER}\n")).unwrap();
    let setup = Setup::new()
        .flag("--admin-auth", "token")
        .flag("--admin-token-file", admins.display())
        .flag("--viewer-token-file", viewers.display())
        .flag("--log", "debug");
    (Server::with(setup).await, dir)
}

/// Status and whole answer.
async fn ask(server: &Server, method: &str, path: &str, token: Option<&str>) -> (u16, String) {
    let header = token.map_or_else(String::new, |token| {
        format!("authorization: Bearer {token}\r\n")
    });
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: forebay-0.forebay:7401\r\n{header}content-length: 0\r\nconnection: close\r\n\r\n"
    );
    let answer = raw::exchange(server.admin(), request.as_bytes()).await;
    let text = String::from_utf8(answer).unwrap();
    let status = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_what_its_role_may_and_no_more() {
    let (mut server, dir) = guarded().await;
    let (peer, app, mut oracle) = (server.peer().await, App::new("app-1"), Oracle::default());
    oracle
        .push(&peer, &Attempt::generate(&app, 0, SHAPE, 0, 1))
        .await;
    let shuffle = "/api/v1/apps/app-1/shuffles/7";
    let absent = "/api/v1/apps/nobodys";
    // Path, then what it answers to: nobody, a stranger, a viewer, an admin, the token that goes.
    let matrix: [(&str, &str, [u16; 5]); 12] = [
        ("GET", "/livez", [200; 5]),
        ("GET", "/readyz", [200; 5]),
        ("GET", "/metrics", [200; 5]),
        ("GET", "/version", [200; 5]),
        ("GET", "/api/v1/status", [401, 401, 200, 200, 200]),
        ("GET", "/api/v1/apps", [401, 401, 200, 200, 200]),
        ("GET", "/api/v1/drain", [401, 401, 200, 200, 200]),
        ("GET", "/nowhere", [401, 401, 404, 404, 404]),
        ("DELETE", absent, [401, 401, 403, 200, 200]),
        ("POST", absent, [401, 401, 403, 200, 200]),
        ("DELETE", shuffle, [401, 401, 403, 200, 200]),
        // No probe's path is a way to change something.
        ("POST", "/livez", [401, 401, 403, 405, 405]),
    ];
    let callers = [None, Some(STRANGER), Some(VIEWER), Some(ADMIN), Some(OLD)];
    for (method, path, expected) in matrix {
        for (token, expected) in callers.iter().zip(expected) {
            let (status, answer) = ask(&server, method, path, *token).await;
            assert_eq!(status, expected, "{method} {path} by {token:?}: {answer}");
            assert!(!answer.contains("planted-"), "a token is told: {answer}");
            if status == 401 {
                assert!(
                    answer.to_lowercase().contains("www-authenticate: bearer"),
                    "{answer}"
                );
                assert!(answer.contains("authorization is"), "{answer}");
            }
        }
    }
    // What was refused has changed nothing: this app least of all.
    for token in [None, Some(STRANGER), Some(VIEWER), Some("")] {
        for (method, path) in [("DELETE", "/api/v1/apps/app-1"), ("POST", "/api/v1/drain")] {
            let (status, _) = ask(&server, method, path, token).await;
            assert!([401, 403].contains(&status), "{method} {path}: {status}");
        }
    }
    oracle.check(&peer, &app, 0).await;

    // One token less, without a restart; the other goes on.
    fs::write(dir.path().join("admins"), format!("{ADMIN}\n")).unwrap();
    eventually(Duration::from_secs(15), async || {
        match ask(&server, "GET", "/api/v1/status", Some(OLD)).await.0 {
            401 => Ok(()),
            other => Err(format!("the token that went is answered {other}")),
        }
    })
    .await;
    assert_eq!(
        ask(&server, "GET", "/api/v1/status", Some(ADMIN)).await.0,
        200
    );

    // The tool, with the file.
    let at = server.admin().to_string();
    let file = dir.path().join("mine");
    let call = |command: &'static str, token: &str| {
        fs::write(&file, format!("{token}\n")).unwrap();
        let file = file.display().to_string();
        let app = (command == "delete-app").then(|| "app-1".to_owned());
        let words = [command.to_owned()].into_iter().chain(app);
        let rest = [
            "--server".to_owned(),
            at.clone(),
            "--token-file".to_owned(),
            file,
        ];
        forebay(words.chain(rest).collect::<Vec<_>>())
    };
    call("status", VIEWER).await.good();
    call("delete-app", VIEWER)
        .await
        .bad(1, &["refuses", "admin-token-file"]);
    call("delete-app", STRANGER)
        .await
        .bad(1, &["refuses", "admin-token-file"]);
    forebay(["status", "--server", &at])
        .await
        .bad(1, &["--token-file"]);
    forebay(["status", "--server", &at, "--token-file", "/nowhere"])
        .await
        .bad(1, &["token-file is /nowhere"]);
    oracle.check(&peer, &app, 0).await;
    call("delete-app", ADMIN).await.good();
    call("drain", ADMIN).await.good();
    server.ended().await;

    // One line each: who, from where, what, and what came of it.
    let log = server.log();
    let audit = |words: &[&str]| {
        let fits =
            |line: &&str| line.contains(" audit: ") && words.iter().all(|word| line.contains(word));
        log.lines().filter(fits).count()
    };
    assert_eq!(
        audit(&["action=\"register\"", "app=app-1", "peer=127.0.0.1"]),
        1,
        "{log}"
    );
    assert_eq!(
        audit(&[
            "action=\"free-app\"",
            "outcome=\"done\"",
            "who=\"token:admin\"",
            "app=app-1"
        ]),
        1,
        "{log}"
    );
    assert_eq!(
        audit(&[
            "action=\"drain\"",
            "outcome=\"done\"",
            "who=\"token:admin\""
        ]),
        1,
        "{log}"
    );
    assert_eq!(
        audit(&[
            "outcome=\"refused\"",
            "who=\"token:viewer\"",
            "DELETE /api/v1/apps/app-1\""
        ]),
        2,
        "{log}"
    );
    assert!(
        audit(&[
            "outcome=\"refused\"",
            "who=\"nobody\"",
            "POST /api/v1/drain"
        ]) >= 3,
        "{log}"
    );
    assert!(!log.contains("planted-"), "a token is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_nobody_would_be_asked_for_are_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    fs::write(&file, "short\n").unwrap();
    let path = file.display().to_string();
    for (flags, words) in [
        (
            vec!["--admin-auth=token"],
            vec!["admin-token-file is not set"],
        ),
        (
            vec!["--admin-token-file", &path],
            vec!["admin-token-file is", "admin-auth is local"],
        ),
        (
            vec!["--viewer-token-file", &path],
            vec!["viewer-token-file is", "admin-auth is local"],
        ),
        (
            vec!["--admin-auth=token", "--admin-token-file", &path],
            vec!["line 1", "openssl rand"],
        ),
        (
            vec!["--admin-auth=kubernetes"],
            vec!["KUBERNETES_SERVICE_HOST"],
        ),
        (
            vec!["--admin-auth=everybody"],
            vec!["not one of local, token, kubernetes"],
        ),
    ] {
        let mut command = Command::new(server::binary());
        command.env_remove("KUBERNETES_SERVICE_HOST");
        // What the tests themselves are told is no setting of a server.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FOREBAY_") {
                command.env_remove(name);
            }
        }
        command.arg("--data-dir").arg(dir.path().join("data"));
        command.args([
            "--allow-root-device",
            "--listen=127.0.0.1:0",
            "--admin-listen=127.0.0.1:0",
        ]);
        let output = command.args(&flags).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{flags:?}");
        for word in words {
            assert!(said.contains(word), "{flags:?}: {word:?} is not in {said}");
        }
        assert!(!said.contains("short"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_for_programs_has_an_object_to_a_line() {
    let mut server = Server::with(
        Setup::new()
            .flag("--log-format", "json")
            .flag("--log", "warn"),
    )
    .await;
    let peer = server.peer().await;
    peer.renew(&App::new("app-1")).await.unwrap();
    server.stop().await;
    let log = server.log();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .filter(|line| !line.starts_with("ready "))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    // The audit is told whatever the level.
    let registered = lines
        .iter()
        .find(|line| line["target"] == "audit" && line["action"] == "register");
    let registered = registered.unwrap_or_else(|| panic!("no audit in {log}"));
    assert_eq!(registered["app"], "app-1");
    assert_eq!(registered["peer"], "127.0.0.1");
}
