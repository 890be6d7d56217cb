//! The admin port and the tool with TLS.

use shuffle_tests::{Authority, tls};

use super::*;

const NAME: &str = "forebay.test";

#[tokio::test(flavor = "multi_thread")]
async fn probes_need_no_certificate_and_the_tool_speaks_tls() {
    let (ca, clients) = (Authority::new(), Authority::new());
    let tokens = ca.put(
        "tokens",
        "0123456789abcdef0123456789abcdef0123456789abcdef\n",
    );
    let setup = ca
        .serve(&ca.issue(&[NAME]))
        .flag("--tls-client-ca", clients.ca_file().display())
        .flag("--admin-auth", "token")
        .flag("--admin-token-file", tokens.display());
    let mut server = Server::with(setup).await;
    let ca_file = ca.ca_file();
    for path in ["/livez", "/readyz", "/metrics", "/version"] {
        let answer = tls::get(server.admin(), &ca_file, NAME, None, path);
        let answer = answer.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let metrics = tls::get(server.admin(), &ca_file, NAME, None, "/metrics");
    let metrics = metrics.await.unwrap();
    assert!(
        metrics.contains("forebay_tls_certificate_expiry_seconds{setting=\"tls-cert\"}"),
        "{metrics}"
    );
    // With one that is good, too; with one that is not, not.
    let own = clients.issue(&["operator"]);
    let answer = tls::get(server.admin(), &ca_file, NAME, Some(&own), "/readyz");
    assert!(answer.await.unwrap().starts_with("HTTP/1.1 200"));
    let strange = Authority::new().issue(&["operator"]);
    let answer = tls::get(server.admin(), &ca_file, NAME, Some(&strange), "/readyz");
    assert!(!answer.await.is_ok_and(|text| text.contains("200")));

    let (admin, ca_path) = (server.admin().to_string(), ca_file.display().to_string());
    let https = format!("https://{admin}");
    let named = ["--ca", &ca_path, "--server-name", NAME];
    let (cert, key) = (ca.put("own.crt", &own.cert), ca.put("own.key", &own.key));
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let shown = ["--cert", &cert, "--key", &key];
    for server in [&https, &admin] {
        let status = ["status", "--server", server];
        let good = forebay([&status[..], &named[..], &shown[..]].concat()).await;
        assert!(good.good().contains("it takes new attempts"));
        // A certificate says who it is; without one this server asks for a token.
        let bad = forebay([&status[..], &named[..]].concat()).await;
        bad.bad(1, &["refuses"]);
    }
    let bad = forebay(["status", "--server", &https, "--ca", &ca_path]).await;
    bad.bad(1, &["127.0.0.1", "--server-name"]);
    let bad = forebay(["status", "--server", &https, "--server-name", NAME]).await;
    bad.bad(1, &["UnknownIssuer", "--ca"]);
    let bad = forebay(["status", "--server", &admin]).await;
    bad.bad(1, &["this port takes TLS only", "https://"]);
    let bad = forebay(["status", "--server", &https, "--ca", "/nowhere.pem"]).await;
    bad.bad(1, &["ca is /nowhere.pem", "readable PEM file"]);
    let clear = Server::start().await;
    let https = format!("https://{}", clear.admin());
    let bad = forebay([&["status", "--server", &https], &named[..]].concat()).await;
    bad.bad(1, &["does not speak TLS", "http://"]);
    eventually(STEP, || async {
        let told = "the client speaks TLS, and this port does not";
        let has = clear.log().contains(told);
        has.then_some(()).ok_or_else(|| "not logged".to_owned())
    })
    .await;

    // A certificate is one way to be an admin.
    let drain = ["drain", "--wait", "--server", &admin];
    let drained = forebay([&drain[..], &named[..], &shown[..]].concat());
    assert!(drained.await.good().contains("drained"));
    assert!(server.ended().await.success());
    let log = server.log();
    assert!(log.contains("certificate:CN=operator"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_does_not_start_on_files_that_it_cannot_use() {
    let ca = Authority::new();
    let setup = ca.serve(&ca.issue(&[NAME]));
    ca.put("tls.key", &ca.issue(&[NAME]).key);
    let said = Server::prepare(setup).refused().await;
    let file = ca.file("tls.key").display().to_string();
    for word in ["tls-key is", &file, "belongs to tls-cert"] {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    let said = Server::prepare(Setup::new().flag("--tls-cert", "/x.pem"));
    let said = { said }.refused().await;
    assert!(
        said.contains("tls-cert is /x.pem") && said.contains("tls-key"),
        "{said}"
    );
}
