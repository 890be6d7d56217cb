use std::{fs, path::PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    date_time_ymd,
};

use super::{certificate::Facts, *};

struct Authority(CertifiedIssuer<'static, KeyPair>);

struct Folder {
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    /// Certificate and key of a server, both PEM.
    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params =
            CertificateParams::new(vec!["forebay.test".to_owned()]).expect("parameters");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.0).expect("a certificate");
        (cert.pem(), key.serialize_pem())
    }
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, (cert, key): &(String, String)) {
        fs::write(self.path("cert"), cert).expect("written");
        fs::write(self.path("key"), key).expect("written");
    }

    fn config(&self) -> Config {
        let mut config = Config::local([self.path("data")]);
        config.tls_cert = Some(self.path("cert"));
        config.tls_key = Some(self.path("key"));
        config
    }

    fn open(&self, config: &Config) -> Result<Arc<Tls>, String> {
        let opened = Tls::open(config, Arc::default());
        let opened = opened.map_err(|error| error.to_string())?;
        Ok(opened.expect("the settings have files"))
    }
}

fn serial(tls: &Tls) -> String {
    tls.pair.load().serial.clone()
}

fn metric(tls: &Tls, name: &str) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &tls.metrics.registry).expect("text");
    let line = text.lines().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.rsplit(' ').next().expect("a value").to_owned()
}

#[test]
fn files_that_cannot_be_used_are_refused_with_setting_file_and_remedy() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let good = authority.issue(|_| {});
    let other = authority.issue(|_| {});
    let refused = |cert: &str, key: &str, says: &[&str]| {
        folder.put(&(cert.to_owned(), key.to_owned()));
        let error = folder.open(&folder.config()).err().expect("a refusal");
        for part in says {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
        assert!(!error.contains("PRIVATE"), "{error}");
    };
    let (cert, key) = (folder.path("cert"), folder.path("key"));
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    refused(
        "",
        &good.1,
        &["tls-cert is ", &cert, "no certificate", "PEM"],
    );
    refused("nothing", &good.1, &["tls-cert is ", "PEM"]);
    refused(&good.1, &good.1, &["tls-cert is ", "no certificate"]);
    refused(&good.0, "", &["tls-key is ", &key, "private key"]);
    refused(&good.0, &good.0, &["tls-key is ", "private key"]);
    refused(&good.0, &other.1, &["tls-key is ", "belongs to tls-cert"]);
    let broken = good.0.replace("MII", "AAA");
    refused(&broken, &good.1, &["tls-cert is "]);

    folder.put(&good);
    let mut config = folder.config();
    config.tls_client_ca = Some(folder.path("nowhere"));
    let error = folder.open(&config).err().expect("a refusal");
    assert!(
        error.contains("tls-client-ca is ") && error.contains("nowhere"),
        "{error}"
    );
    fs::write(folder.path("nowhere"), "x").expect("written");
    let error = folder.open(&config).err().expect("a refusal");
    assert!(
        error.contains("tls-client-ca is ") && error.contains("PEM"),
        "{error}"
    );
    fs::remove_file(folder.path("key")).expect("removed");
    let error = folder.open(&folder.config()).err().expect("a refusal");
    assert!(
        error.contains("tls-key is ") && error.contains("name a PEM file"),
        "{error}"
    );
}

#[test]
fn settings_of_tls_come_together() {
    let folder = Folder::new();
    let mut config = folder.config();
    config.tls_key = None;
    let error = config.check().expect_err("no key").to_string();
    assert!(
        error.contains("tls-cert is") && error.contains("tls-key"),
        "{error}"
    );
    let mut config = folder.config();
    (config.tls_cert, config.tls_key) = (None, None);
    config.check().expect("no TLS at all");
    config.tls_client_ca = Some(folder.path("ca"));
    let error = config.check().expect_err("no pair").to_string();
    assert!(
        error.contains("tls-client-ca is") && error.contains("tls-cert"),
        "{error}"
    );
}

#[test]
fn a_new_pair_is_taken_at_once_and_a_broken_one_never_and_told_once() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let first = authority.issue(|params| params.not_after = date_time_ymd(2100, 1, 1));
    folder.put(&first);
    let tls = folder.open(&folder.config()).expect("a good pair");
    assert_eq!(
        metric(&tls, "forebay_tls_certificate_expiry_seconds"),
        "4102444800"
    );
    let before = serial(&tls);
    let mut looks = Looks::default();
    let mut look = || {
        tls.look(&mut looks);
        serial(&tls)
    };
    assert_eq!(look(), before);

    let second = authority.issue(|params| params.not_after = date_time_ymd(2101, 1, 1));
    folder.put(&second);
    let after = look();
    assert_ne!(after, before);
    assert_eq!(
        metric(&tls, "forebay_tls_certificate_expiry_seconds"),
        "4133980800"
    );
    assert_eq!(
        metric(&tls, "forebay_tls_reloads_total{result=\"ok\"}"),
        "1"
    );

    let failed = "forebay_tls_reloads_total{result=\"failed\"}";
    // Half of an exchange, and once it stays that way.
    fs::write(folder.path("cert"), &first.0).expect("written");
    assert_eq!(look(), after);
    assert_eq!(metric(&tls, failed), "0");
    for _ in 0..3 {
        assert_eq!(look(), after);
        assert_eq!(metric(&tls, failed), "1");
        assert_eq!(metric(&tls, "forebay_tls_reload_failing"), "1");
    }
    // Broken in another way: another change.
    fs::remove_file(folder.path("cert")).expect("removed");
    for _ in 0..3 {
        assert_eq!(look(), after);
    }
    assert_eq!(metric(&tls, failed), "2");
    // As before it: nothing is new.
    folder.put(&second);
    assert_eq!(look(), after);
    assert_eq!(metric(&tls, "forebay_tls_reload_failing"), "0");
    assert_eq!(
        metric(&tls, "forebay_tls_reloads_total{result=\"ok\"}"),
        "1"
    );
    // One that is over already.
    folder.put(&authority.issue(|params| params.not_after = date_time_ymd(2001, 1, 1)));
    for _ in 0..3 {
        assert_eq!(look(), after);
    }
    assert_eq!(metric(&tls, "forebay_tls_reload_failing"), "1");
    folder.put(&first);
    assert_eq!(look(), before);
    assert_eq!(metric(&tls, "forebay_tls_reload_failing"), "0");
}

#[test]
fn a_symlink_that_moves_is_a_change() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let lay = |name: &str| {
        let (cert, key) = authority.issue(|_| {});
        fs::create_dir(folder.path(name)).expect("a folder");
        fs::write(folder.path(name).join("cert"), cert).expect("written");
        fs::write(folder.path(name).join("key"), key).expect("written");
    };
    let link = |from: &str, to: &str| {
        let _ = fs::remove_file(folder.path("next"));
        std::os::unix::fs::symlink(to, folder.path("next")).expect("a link");
        fs::rename(folder.path("next"), folder.path(from)).expect("moved");
    };
    // As Kubernetes has it.
    lay("..1");
    lay("..2");
    link("..data", "..1");
    link("cert", "..data/cert");
    link("key", "..data/key");
    let tls = folder.open(&folder.config()).expect("a good pair");
    let before = serial(&tls);
    link("..data", "..2");
    tls.look(&mut Looks::default());
    assert_ne!(serial(&tls), before);
}

#[test]
fn a_subject_says_who_and_no_value_passes_for_two() {
    let authority = Authority::new();
    let subject = |names: &[(DnType, &str)]| {
        let mut name = DistinguishedName::new();
        for (kind, value) in names {
            name.push(kind.clone(), *value);
        }
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name = name;
        params.not_after = date_time_ymd(2055, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &authority.0).expect("a certificate");
        Facts::of(cert.der()).expect("facts")
    };
    let facts = subject(&[
        (DnType::OrganizationName, "Data"),
        (DnType::CommonName, "operator"),
    ]);
    assert_eq!(facts.subject, "O=Data, CN=operator");
    // After 2049 the time has another form.
    assert_eq!(facts.expires, 2_682_374_400);
    let facts = subject(&[(DnType::CommonName, "a, CN=operator\n")]);
    assert_eq!(facts.subject, "CN=a\\, CN\\=operator\\0a");
    assert!(Facts::of(b"no certificate").is_err());
    assert!(Facts::of(&[]).is_err());
}
