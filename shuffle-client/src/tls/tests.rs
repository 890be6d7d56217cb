use super::*;

fn servers(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn pair(names: &[&str]) -> (String, String) {
    let names = servers(names);
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(names).expect("a certificate");
    (cert.pem(), signing_key.serialize_pem())
}

fn tls(ca: &str) -> Tls {
    Tls {
        ca: ca.to_owned(),
        ..Tls::default()
    }
}

#[test]
fn hosts_are_read_out_of_every_way_to_name_a_server() {
    for (server, expected) in [
        ("a.example:7400", "a.example"),
        ("dns://pool.example:7400", "pool.example"),
        ("dns://pool.example.:7400", "pool.example"),
        ("10.0.0.1:7400", "10.0.0.1"),
        ("[::1]:7400", "::1"),
    ] {
        assert_eq!(host(server), expected, "{server}");
    }
    let named = servers(&["10.0.0.1:1", "b:1", "dns://a:1", "b:2"]);
    assert_eq!(hosts(&named), ["a", "b", "10.0.0.1"]);
}

#[test]
fn each_address_is_known_by_its_own_host_and_others_by_any() {
    let (ca, _) = pair(&["a"]);
    let named = servers(&["a:1", "b:1", "dns://pool:1"]);
    let connector = tls(&ca)
        .connector(&named, str::to_owned)
        .expect("good settings");
    let known: Vec<_> = connector.named.keys().cloned().collect();
    assert_eq!(known.len(), 2, "{known:?}");
    let name = |target: &Target| target.name.to_str().into_owned();
    assert_eq!(name(&connector.named["a:1"]), "a");
    assert_eq!(name(&connector.named["b:1"]), "b");
    let one = Tls {
        server_name: Some("forebay".into()),
        ..tls(&ca)
    };
    let connector = one.connector(&named, str::to_owned).expect("good settings");
    assert!(connector.named.is_empty());
    assert_eq!(name(&connector.other), "forebay");
}

#[test]
fn what_cannot_be_used_names_its_field() {
    let (ca, key) = pair(&["a"]);
    let (cert, other) = pair(&["b"]);
    let field = |tls: Tls| {
        let (field, value, remedy) = tls.check(&servers(&["a:1"])).expect_err("a refusal");
        assert!(!value.contains("PRIVATE") && !remedy.is_empty(), "{value}");
        field
    };
    assert_eq!(field(tls("")), "tls_ca");
    assert_eq!(field(tls("no PEM")), "tls_ca");
    assert_eq!(field(tls(&key)), "tls_ca");
    let mut settings = tls(&ca);
    settings.cert = Some(cert.clone());
    assert_eq!(field(settings.clone()), "tls_key");
    settings.key = Some(key.clone());
    assert_eq!(field(settings.clone()), "tls_key");
    settings.key = Some("no key".to_owned());
    assert_eq!(field(settings.clone()), "tls_key");
    settings.key = Some(other);
    assert_eq!(settings.check(&servers(&["a:1"])), Ok(()));
    settings.cert = None;
    assert_eq!(field(settings), "tls_cert");
    let mut settings = tls(&ca);
    settings.server_name = Some("not a name".into());
    assert_eq!(field(settings), "tls_server_name");
}

#[test]
fn nothing_secret_is_printed() {
    let (cert, key) = pair(&["a"]);
    let settings = crate::Settings {
        tls: Some(Tls {
            ca: cert.clone(),
            server_name: Some("a".into()),
            cert: Some(cert),
            key: Some(key.clone()),
        }),
        ..crate::Settings::of(["a:1"])
    };
    let text = format!("{settings:?}");
    assert!(text.contains("has_cert: true"), "{text}");
    for line in key.lines() {
        assert!(!text.contains(line), "{text}");
    }
}
