use std::fs;

use super::*;

fn load(flags: &[&str], env: &[(&str, &str)]) -> Result<Loaded, Error> {
    let args = std::iter::once("forebay-server")
        .chain(flags.iter().copied())
        .map(OsString::from);
    Config::load(
        args,
        env.iter().map(|(name, value)| (name.into(), value.into())),
    )
}

fn refused(flags: &[&str], env: &[(&str, &str)]) -> String {
    match load(flags, env) {
        Err(Error::Setting(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("forebay.toml");
    fs::write(&path, text).expect("a file");
    (dir, path.to_str().expect("UTF-8").to_owned())
}

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() {
    let (_dir, path) =
        file("memory = \"64MiB\"\nlease = \"1min\"\nmax-apps = 7\ndata-dir = [\"/a\", \"/b\"]\n");
    let env = [
        ("FOREBAY_MEMORY", "128MiB"),
        ("FOREBAY_LEASE", "2min"),
        ("FOREBAY_CONFIG", path.as_str()),
        ("HOME", "/"),
    ];
    let config = load(&["--memory", "256MiB"], &env)
        .expect("well formed")
        .config;
    assert_eq!(config.memory, ByteSize(256 << 20));
    assert_eq!(config.lease, Duration::from_secs(120));
    assert_eq!(config.max_apps, 7);
    assert_eq!(config.data_dir, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(config.listen, "0.0.0.0:7400");
    assert_eq!(config.admin_listen, "127.0.0.1:7401");
}

#[test]
fn several_data_directories_can_be_named_in_every_source() {
    let dirs = [PathBuf::from("/a"), PathBuf::from("/b")];
    assert_eq!(
        load(&["--data-dir", "/a", "--data-dir", "/b"], &[])
            .expect("flags")
            .config
            .data_dir,
        dirs
    );
    assert_eq!(
        load(&[], &[("FOREBAY_DATA_DIR", "/a,/b")])
            .expect("environment")
            .config
            .data_dir,
        dirs
    );
    let replaced = load(&["--data-dir", "/c"], &[("FOREBAY_DATA_DIR", "/a,/b")])
        .expect("both")
        .config
        .data_dir;
    assert_eq!(
        replaced,
        [PathBuf::from("/c")],
        "a flag replaces the list and does not add to it"
    );
}

#[test]
fn a_data_directory_may_be_a_pattern_in_every_source() {
    let root = tempfile::tempdir().expect("a directory");
    for disk in ["nvme0", "nvme1"] {
        fs::create_dir_all(root.path().join(disk).join("forebay")).expect("a directory");
    }
    let pattern = format!("{}/nvme*/forebay", root.path().display());
    let (_dir, path) = file(&format!("data-dir = [\"{pattern}\"]\n"));
    let both = ["nvme0/forebay", "nvme1/forebay"].map(|dir| root.path().join(dir));
    for (flags, env) in [
        (&["--data-dir", &pattern][..], &[][..]),
        (&[], &[("FOREBAY_DATA_DIR", pattern.as_str())]),
        (&["--config", &path], &[]),
    ] {
        let loaded = load(flags, env).expect("directories");
        assert_eq!(loaded.config.data_dir, both);
        assert!(
            loaded.effective.contains(&pattern),
            "what is printed holds on other machines too"
        );
    }
    let twice = format!("{pattern},{}", both[1].display());
    assert!(refused(&["--data-dir", &twice], &[]).contains("nvme1/forebay twice"));
    let none = format!("{}/sd*", root.path().display());
    assert_eq!(
        refused(&["--data-dir", &none], &[]),
        format!(
            "data-dir is {none}: no directory matches: make one on each disk, writable for the server's user"
        )
    );
}

#[test]
fn a_switch_is_set_in_every_source_and_taken_back_by_a_flag() {
    let dir = ["--data-dir", "/a"];
    let allowed = |flags: &[&str], env: &[(&str, &str)]| {
        let loaded = load(&[&dir[..], flags].concat(), env).expect("well formed");
        loaded.config.allow_root_device
    };
    assert!(!allowed(&[], &[]));
    assert!(allowed(&["--allow-root-device"], &[]));
    assert!(allowed(&["--allow-root-device=true"], &[]));
    for word in ["true", "1", "yes"] {
        assert!(allowed(&[], &[("FOREBAY_ALLOW_ROOT_DEVICE", word)]));
    }
    let (_dir, path) = file("allow-root-device = true\n");
    assert!(allowed(&["--config", &path], &[]));
    assert!(!allowed(
        &["--config", &path, "--allow-root-device=false"],
        &[]
    ));
    let said = refused(&dir, &[("FOREBAY_ALLOW_ROOT_DEVICE", "perhaps")]);
    assert!(
        said.contains("FOREBAY_ALLOW_ROOT_DEVICE") && said.contains("perhaps"),
        "{said}"
    );
    let printed = load(&["--allow-root-device", "--print-config"], &[]).expect("well formed");
    assert!(
        printed.effective.contains("\nallow-root-device = true\n"),
        "{}",
        printed.effective
    );
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_one() {
    let (_dir, path) = file("data-dir = [\"/a\"]\nmemroy = \"1GiB\"\n");
    let error = refused(&["--config", &path], &[]);
    assert!(
        error.contains("forebay.toml: memroy is no setting: did you mean memory?"),
        "{error}"
    );
    let error = refused(&["--data-dir", "/a"], &[("FOREBAY_DRAIN_TIME", "3s")]);
    assert_eq!(
        error,
        "environment variable FOREBAY_DRAIN_TIME is no setting: did you mean FOREBAY_DRAIN_TIMEOUT?"
    );
    assert!(matches!(
        load(&["--data-dir", "/a", "--memroy", "1GiB"], &[]),
        Err(Error::Usage(_))
    ));
}

#[test]
fn what_kubernetes_sets_for_a_service_named_forebay_is_no_error() {
    let links = [
        ("FOREBAY_SERVICE_HOST", "10.0.0.1"),
        ("FOREBAY_SERVICE_PORT_DATA", "7400"),
        ("FOREBAY_PORT", "tcp://10.0.0.1:7400"),
        ("FOREBAY_PORT_7400_TCP_ADDR", "10.0.0.1"),
        ("FOREBAY_SERVER_PORT_7400_TCP", "tcp://10.0.0.1:7400"),
    ];
    load(&["--data-dir", "/a"], &links).expect("service links are ignored");
}

#[test]
fn a_wrong_value_is_refused_with_its_place_key_value_and_remedy() {
    let (_dir, path) = file("data-dir = [\"/a\"]\nmemory = \"2 gigs\"\n");
    let error = refused(&["--config", &path], &[]);
    assert!(
        error.contains(
            "forebay.toml: memory is \"2 gigs\": \"gigs\" is no unit of size: write a number"
        ),
        "{error}"
    );
    let error = refused(&["--data-dir", "/a"], &[("FOREBAY_LEASE", "10")]);
    assert!(
        error.contains("FOREBAY_LEASE is \"10\": the unit is missing: write a number with a unit"),
        "{error}"
    );
    let (_dir, path) = file("data-dir = [\"/a\"]\nmax-apps = { a = 1 }\n");
    let error = refused(&["--config", &path], &[]);
    assert!(
        error.contains("max-apps is { a = 1 }: write a string or a number"),
        "{error}"
    );
    let (_dir, path) = file("data-dir = [\"/a\"]\nlease = 10min\n");
    let error = refused(&["--config", &path], &[]);
    assert!(error.contains("forebay.toml, line 2: "), "{error}");
}

#[test]
fn settings_that_cannot_work_are_refused() {
    for (flags, text) in [
        (&[][..], "data-dir is not set: name a directory"),
        (
            &["--data-dir", "/a", "--data-dir", "/a"][..],
            "data-dir is /a twice",
        ),
        (
            &["--data-dir", "/a", "--memory", "1MiB"][..],
            "memory is 1MiB: give at least 16MiB",
        ),
        (
            &["--data-dir", "/a", "--lease", "2d"][..],
            "max-lease is 1d: give at least lease, which is 2d",
        ),
        (
            &["--data-dir", "/a", "--lease", "1ms"][..],
            "lease is 1ms: give at least 100ms",
        ),
        (
            &["--data-dir", "/a", "--volume-slow-after", "1ms"][..],
            "volume-slow-after is 1ms: give at least 500ms",
        ),
        (
            &["--data-dir", "/a", "--max-apps", "0"][..],
            "max-apps is 0: give at least 1",
        ),
        (
            &["--config", "/nowhere/f.toml"][..],
            "config is /nowhere/f.toml: No such file",
        ),
    ] {
        let error = refused(flags, &[]);
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn the_printed_settings_read_back_as_they_are() {
    let first = load(
        &[
            "--data-dir",
            "/a",
            "--data-dir",
            "/b \"c\"",
            "--memory",
            "3GiB",
            "--log",
            "debug",
        ],
        &[],
    )
    .expect("flags");
    let (_dir, path) = file(&first.effective);
    let second = load(&["--config", &path], &[]).expect("what was printed");
    assert_eq!(second.effective, first.effective);
    assert_eq!(
        Config {
            config: None,
            ..second.config
        },
        first.config
    );
}
