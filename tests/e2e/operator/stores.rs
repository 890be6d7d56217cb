//! `forebay doctor store` and `forebay lifecycle-rule`.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_good_store_passes_every_check_and_nothing_is_left_there() {
    let bucket = Bucket::new();
    // Not there yet: a server would make it.
    let said = forebay(["doctor", "store", &bucket.url()]).await.good();
    assert!(!said.contains("FAIL"), "{said}");
    for check in [
        "put",
        "get",
        "ranged get",
        "conditional put",
        "conditional replace",
        "list",
        "multipart upload",
        "multipart abort",
        "clock",
        "delete",
        "leave nothing",
    ] {
        let passed = said
            .lines()
            .any(|line| line.starts_with(&format!("OK    {check}  ")));
        assert!(passed, "{check}: {said}");
    }
    assert!(
        !bucket.path().exists(),
        "the directory that it made is left"
    );
    // A directory in use keeps its content.
    fs::create_dir(bucket.path()).unwrap();
    fs::write(bucket.path().join("theirs"), "x").unwrap();
    forebay(["doctor", "store", &bucket.url()]).await.good();
    let left: Vec<_> = fs::read_dir(bucket.path())
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    assert_eq!(left, ["theirs"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_used_is_told_with_its_remedy() {
    let said = forebay(["doctor", "store", "file:///proc/nothing/here"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("FAIL  open"), "{said:?}");
    // A bucket at an address where nobody is.
    let mut command = Command::new(server::binary().with_file_name("forebay"));
    command
        .args(["doctor", "store", "s3://bucket/prefix"])
        .env("AWS_ACCESS_KEY_ID", "x")
        .env("AWS_SECRET_ACCESS_KEY", "x")
        .env("AWS_REGION", "x")
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        .env("AWS_ALLOW_HTTP", "true");
    let running = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = tokio::time::timeout(Duration::from_secs(150), running)
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("FAIL  put") && text.contains("check the endpoint"),
        "{text}"
    );
    assert!(text.contains("-     get               not tried"), "{text}");
    assert!(!text.contains("\nOK    delete"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_on_stdout_alone_and_its_words_beside_it() {
    let said = forebay(["lifecycle-rule", "s3://bucket/some/prefix", "--days", "45"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.out.starts_with('{') && said.out.trim_end().ends_with('}'),
        "{said:?}"
    );
    assert!(
        said.out.contains("\"some/prefix/forebay-v1/\"") && said.out.contains("45"),
        "{said:?}"
    );
    for word in [
        "net below the leases",
        "put-bucket-lifecycle-configuration --bucket bucket",
        "longest application",
    ] {
        assert!(said.err.contains(word), "{word}: {said:?}");
    }
}
