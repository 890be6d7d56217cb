//! The JSON of a client's settings. What is left out has the client's default; an unknown field is
//! refused.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Deserialize;
use shuffle_client::{Error, Proof, Settings, Tls, budget::Share};

use crate::error::invalid;

/// As `io.forebay.core.ClientSettings` writes it. For meaning and default of each see [`Settings`].
#[derive(Deserialize)] // no Debug: a secret may be in it
#[serde(deny_unknown_fields)]
struct ClientSettings {
    servers: Vec<String>,
    connect_timeout_ms: Option<u64>,
    call_timeout_ms: Option<u64>,
    retry_deadline_ms: Option<u64>,
    backoff_base_ms: Option<u64>,
    backoff_max_ms: Option<u64>,
    keep_alive_ms: Option<u64>,
    idle_connection_ms: Option<u64>,
    idle_stream_ms: Option<u64>,
    fetch_window_bytes: Option<usize>,
    fetch_streams: Option<usize>,
    replay_buffer_bytes: Option<usize>,
    block_bytes: Option<usize>,
    batch_bytes: Option<usize>,
    memory_bytes: Option<usize>,
    /// Shares of the memory bounded by hand: `arenas`, `messages`, `reads`.
    #[serde(default)]
    memory_apart: String,
    stream_window_bytes: Option<u32>,
    /// Field of [`Settings`] → the key by which people know it.
    #[serde(default)]
    names: BTreeMap<String, String>,
    write_back: Option<String>,
    remote: Option<String>,
    node: Option<String>,
    zone: Option<String>,
    /// `secret` or `kubernetes`.
    auth: Option<String>,
    auth_file: Option<PathBuf>,
    auth_secret: Option<String>,
    tls_ca: Option<String>,
    tls_server_name: Option<String>,
    tls_cert: Option<String>,
    tls_key: Option<String>,
}

/// Reads and checks the settings; the error names the bad one.
pub(crate) fn parse(json: &str) -> Result<Settings, Error> {
    let given: ClientSettings = serde_json::from_str(json)
        .map_err(|error| invalid(format!("client settings are not right: {error}")))?;
    let mut settings = Settings {
        names: given.names,
        ..Settings::of(given.servers)
    };
    for (given, setting) in [
        (given.connect_timeout_ms, &mut settings.connect_timeout),
        (given.call_timeout_ms, &mut settings.call_timeout),
        (given.retry_deadline_ms, &mut settings.retry_deadline),
        (given.backoff_base_ms, &mut settings.backoff_base),
        (given.backoff_max_ms, &mut settings.backoff_max),
        (given.keep_alive_ms, &mut settings.keep_alive),
        (given.idle_connection_ms, &mut settings.idle_connection),
        (given.idle_stream_ms, &mut settings.idle_stream),
    ] {
        if let Some(millis) = given {
            *setting = Duration::from_millis(millis);
        }
    }
    for (given, setting) in [
        (given.fetch_window_bytes, &mut settings.fetch_window),
        (given.fetch_streams, &mut settings.fetch_streams),
        (given.replay_buffer_bytes, &mut settings.replay_buffer),
        (given.block_bytes, &mut settings.block_bytes),
        (given.batch_bytes, &mut settings.batch_bytes),
    ] {
        if let Some(value) = given {
            *setting = value;
        }
    }
    settings.node = given.node;
    settings.zone = given.zone;
    settings.tls = given.tls_ca.map(|ca| Tls {
        ca,
        server_name: given.tls_server_name,
        cert: given.tls_cert,
        key: given.tls_key,
    });
    settings.memory = given.memory_bytes;
    settings.memory_apart = given
        .memory_apart
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| match name {
            "arenas" => Ok(Share::Arenas),
            "messages" => Ok(Share::Messages),
            "reads" => Ok(Share::Reads),
            _ => Err(invalid(format!(
                "memory_apart has {name:?}: write arenas, messages or reads"
            ))),
        })
        .collect::<Result<_, _>>()?;
    if let Some(window) = given.stream_window_bytes {
        settings.stream_window = window;
    }
    settings.write_back = given.write_back.map(|policy| policy.parse()).transpose()?;
    settings.remote = given.remote;
    settings.proof = match (given.auth.as_deref(), given.auth_file, given.auth_secret) {
        (None, None, None) => Proof::None,
        (Some("secret"), None, Some(secret)) => Proof::Secret(secret.into()),
        (Some("secret"), Some(file), None) => Proof::SecretFile(file),
        (Some("kubernetes"), Some(file), None) => Proof::TokenFile(file),
        _ => {
            return Err(invalid(
                "auth is neither secret, with auth_file or auth_secret, nor kubernetes with auth_file",
            ));
        }
    };
    settings.check()?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_servers_must_be_given() {
        let settings = parse(r#"{"servers":["a:7400","dns://b:7400"]}"#).expect("valid");
        assert_eq!(settings, Settings::of(["a:7400", "dns://b:7400"]));
        assert!(
            parse("{}")
                .expect_err("no servers")
                .message
                .contains("servers")
        );
    }

    #[test]
    fn every_field_reaches_its_setting() {
        let settings = parse(
            r#"{"servers":["a:1"],"connect_timeout_ms":1,"call_timeout_ms":2,"retry_deadline_ms":3,"backoff_base_ms":4,
                "backoff_max_ms":5,"keep_alive_ms":6,"idle_connection_ms":10,"idle_stream_ms":11,"fetch_window_bytes":70000,"fetch_streams":8,"replay_buffer_bytes":9,
                "block_bytes":2000,"batch_bytes":3000,"memory_bytes":100,"memory_apart":"reads,arenas","stream_window_bytes":65536,"write_back":"eager","remote":"s3://bucket/prefix","node":"n","zone":"z","auth":"secret","auth_file":"/a","names":{"keep_alive":"my.keepAlive"}}"#,
        )
        .expect("valid");
        let expected = Settings {
            servers: vec!["a:1".into()],
            connect_timeout: Duration::from_millis(1),
            call_timeout: Duration::from_millis(2),
            retry_deadline: Duration::from_millis(3),
            backoff_base: Duration::from_millis(4),
            backoff_max: Duration::from_millis(5),
            keep_alive: Duration::from_millis(6),
            idle_connection: Duration::from_millis(10),
            idle_stream: Duration::from_millis(11),
            fetch_window: 70000,
            fetch_streams: 8,
            replay_buffer: 9,
            block_bytes: 2000,
            batch_bytes: 3000,
            memory: Some(100),
            memory_apart: vec![Share::Reads, Share::Arenas],
            stream_window: 65536,
            names: BTreeMap::from([("keep_alive".into(), "my.keepAlive".into())]),
            write_back: Some(shuffle_client::WriteBack::Eager),
            remote: Some("s3://bucket/prefix".into()),
            node: Some("n".into()),
            zone: Some("z".into()),
            proof: Proof::SecretFile("/a".into()),
            tls: None,
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn a_secret_is_kept_and_never_printed() {
        let json = r#"{"servers":["a:1"],"auth":"secret","auth_secret":"planted-secret-0001"}"#;
        let settings = parse(json).expect("valid");
        assert_eq!(settings.proof, Proof::Secret("planted-secret-0001".into()));
        assert!(!format!("{settings:?}").contains("planted"), "{settings:?}");
        let twice = json.replace("\"secret\"", "\"kubernetes\"");
        let refused = parse(&twice).expect_err("a secret of no use");
        assert!(!refused.message.contains("planted"), "{refused}");
    }

    #[test]
    fn an_unknown_field_and_a_bad_value_are_named() {
        let unknown = parse(r#"{"servers":["a:1"],"colour":1}"#).expect_err("unknown");
        assert!(unknown.message.contains("colour"), "{unknown}");
        let bad = parse(r#"{"servers":["a:1"],"fetch_streams":0}"#).expect_err("bad");
        assert!(bad.message.contains("fetch_streams"), "{bad}");
        let named = parse(
            r#"{"servers":["a:1"],"fetch_streams":0,"names":{"fetch_streams":"my.streams"}}"#,
        )
        .expect_err("bad");
        assert!(named.message.contains("`my.streams`"), "{named}");
        let nowhere =
            parse(r#"{"servers":["a:1"],"remote":"ftp://b/c","names":{"remote":"my.remote"}}"#)
                .expect_err("no store");
        let refusal = "setting `my.remote` is \"ftp://b/c\": ";
        assert!(nowhere.message.starts_with(refusal), "{nowhere}");
        assert!(nowhere.message.contains("s3://BUCKET/PREFIX"), "{nowhere}");
    }
}
