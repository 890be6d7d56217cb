//! `forebay status`, `drain`, `delete-app`, `delete-shuffle`: calls of the admin port, see
//! `crate::admin`.

use std::{fmt::Write, time::Duration};

use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use super::{End, PATIENCE, Servers, admin::Admin, bad, complain, say};

use crate::tool::report::{Table, size};

/// Time limit of a deletion: a large app is many objects.
const LONG: Duration = Duration::from_secs(600);
/// How often progress is told.
const TELL: Duration = Duration::from_secs(2);

/// The server's word on its drain; see `core::drain`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
struct Progress {
    draining: bool,
    step: String,
    pushes: i64,
    fetches: i64,
    bytes_left: Option<u64>,
    #[serde(default)]
    outputs_lost: u64,
    bytes_sent: Option<u64>,
    needs_ms: Option<u64>,
    time_left_ms: Option<u64>,
}

impl Admin<'_> {
    async fn progress(
        &self,
        method: Method,
        path: &str,
        patience: Duration,
    ) -> Result<Progress, String> {
        let value = self.call(method, path, patience).await?;
        serde_json::from_value(value).map_err(|error| {
            format!(
                "server is {}: it answers {path} in other words: {error}",
                self.server
            )
        })
    }
}

/// Calls all servers, even after a failure of one.
async fn each(
    servers: &Servers,
    mut one: impl AsyncFnMut(&Admin<'_>) -> Result<(), String>,
) -> End {
    let files = match servers.files() {
        Ok(files) => files,
        Err(error) => return bad(error),
    };
    let mut end = End::Good;
    for server in &servers.servers {
        let done = match Admin::of(server, servers, &files).await {
            Ok(admin) => one(&admin).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            end = bad(error);
        }
    }
    end
}

pub(super) async fn free(servers: &Servers, app: &str, shuffle: Option<u32>) -> End {
    // A path has no room for other characters; the server lists the allowed ones.
    let app: String = url::form_urlencoded::byte_serialize(app.as_bytes()).collect();
    let app = app.replace('+', "%20");
    let path = match shuffle {
        None => format!("/api/v1/apps/{app}"),
        Some(shuffle) => format!("/api/v1/apps/{app}/shuffles/{shuffle}"),
    };
    each(servers, async |admin| {
        let freed = admin.call(Method::DELETE, &path, LONG).await?;
        let number = |field: &str| freed.get(field).and_then(Value::as_u64);
        let mut line = format!(
            "server {}: {} freed",
            admin.server,
            size(number("bytes").unwrap_or(0))
        );
        if let Some(objects) = number("objects") {
            let _ = write!(line, ", {objects} objects removed from the object store");
        }
        say(line + "\n");
        Ok(())
    })
    .await
}

pub(super) async fn status(servers: &Servers, json: bool) -> End {
    each(servers, async |admin| {
        let state = admin.call(Method::GET, "/api/v1/status", PATIENCE).await?;
        if json {
            say(format!("{state}\n"));
            return Ok(());
        }
        let drain = admin
            .progress(Method::GET, "/api/v1/drain", PATIENCE)
            .await?;
        say(status_text(admin.server, &state, &drain));
        Ok(())
    })
    .await
}

pub(super) async fn apps(servers: &Servers, json: bool) -> End {
    each(servers, async |admin| {
        let apps = admin.call(Method::GET, "/api/v1/apps", PATIENCE).await?;
        if json {
            say(format!("{apps}\n"));
        } else {
            say(apps_text(admin.server, &apps));
        }
        Ok(())
    })
    .await
}

fn apps_text(server: &str, apps: &Value) -> String {
    let number = |value: &Value| {
        value
            .as_u64()
            .map_or_else(|| "-".to_owned(), |n| n.to_string())
    };
    let mut rows = Vec::new();
    for app in apps["apps"].as_array().into_iter().flatten() {
        let name = app["app"].as_str().unwrap_or("-");
        for shuffle in app["shuffles"].as_array().into_iter().flatten() {
            let mut row = vec![name.to_owned(), number(&shuffle["shuffle"])];
            row.push(number(&shuffle["attempts"]));
            for level in ["memory", "disk", "fsync", "object"] {
                let bytes = shuffle["bytes"][level].as_u64();
                row.push(bytes.map_or_else(|| "-".to_owned(), size));
            }
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return format!("server {server} holds nothing\n");
    }
    let columns = &[
        "app", "shuffle", "attempts", "memory", "disk", "fsync", "object",
    ];
    format!("server {server}\n{}", Table::new(columns, rows))
}

fn status_text(server: &str, state: &Value, drain: &Progress) -> String {
    let text = |value: &Value, field: &str| match value.get(field) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "-".to_owned(),
    };
    let bytes = |value: &Value, field: &str| {
        value
            .get(field)
            .and_then(Value::as_u64)
            .map_or_else(|| "-".to_owned(), size)
    };
    let memory = &state["memory"];
    let mut out = format!("server {server}, version {}\n", text(state, "version"));
    let _ = writeln!(
        out,
        "  {}",
        match drain.draining {
            true => progress_text(drain),
            false => "it takes new attempts".to_owned(),
        }
    );
    let _ = writeln!(
        out,
        "  apps {}, attempts {}, connections {}, pushes {}, fetches {}",
        text(state, "apps"),
        text(state, "attempts"),
        text(state, "connections"),
        text(state, "pushes"),
        text(state, "fetches"),
    );
    let _ = writeln!(
        out,
        "  memory {} of {}, {} batches wait for it",
        bytes(memory, "used"),
        bytes(memory, "limit"),
        text(memory, "waiting"),
    );
    if let Some(left) = drain.bytes_left {
        let _ = writeln!(out, "  {} not in the object store yet", size(left));
    }
    let volume = |volume: &Value| {
        vec![
            text(volume, "id"),
            text(volume, "state"),
            bytes(volume, "bytes_used"),
            bytes(volume, "bytes_free"),
            text(volume, "attempts"),
            match volume.get("reason") {
                Some(Value::String(reason)) => format!("{}: {reason}", text(volume, "disk")),
                _ => text(volume, "disk"),
            },
        ]
    };
    let volumes = state.get("volumes").and_then(Value::as_array);
    let rows = volumes.into_iter().flatten().map(volume).collect();
    let table = Table::new(
        &["volume", "state", "used", "free", "attempts", "directory"],
        rows,
    );
    let _ = write!(out, "{table}");
    out
}

fn progress_text(progress: &Progress) -> String {
    let mut text = format!(
        "draining: step {}, {} pushes and {} fetches run",
        progress.step, progress.pushes, progress.fetches
    );
    if let Some(left) = progress.bytes_left {
        let _ = write!(text, ", {} left to write back", size(left));
    }
    if let Some(sent) = progress.bytes_sent {
        let _ = write!(text, ", {} sent", size(sent));
    }
    if let Some(needs) = progress.needs_ms.filter(|needs| *needs > 0) {
        let _ = write!(text, ", needs some {} s more", needs.div_ceil(1000));
    }
    if let Some(left) = progress.time_left_ms {
        let _ = write!(text, ", ends within {} s", left.div_ceil(1000));
    }
    text
}

pub(super) async fn drain(servers: &Servers, wait: bool) -> End {
    each(servers, async |admin| {
        if wait {
            return until_over(admin).await;
        }
        let begun = admin.progress(Method::POST, "/api/v1/drain", PATIENCE);
        let begun = begun.await?;
        say(format!(
            "server {}: {}\n",
            admin.server,
            progress_text(&begun)
        ));
        Ok(())
    })
    .await
}

/// Begins a drain, waits for its end, and prints its progress.
async fn until_over(admin: &Admin<'_>) -> Result<(), String> {
    // The server bounds the drain by its drain-timeout, unknown here.
    let forever = Duration::from_secs(7 * 86_400);
    let mut over = std::pin::pin!(admin.progress(Method::POST, "/api/v1/drain?wait", forever));
    let last = loop {
        tokio::select! {
            last = &mut over => break last,
            () = tokio::time::sleep(TELL) => {}
        }
        if let Ok(progress) = admin.progress(Method::GET, "/api/v1/drain", PATIENCE).await {
            complain(format!(
                "server {}: {}",
                admin.server,
                progress_text(&progress)
            ));
        }
    };
    let last = last.map_err(|error| {
        format!("{error}; it went before it said how its drain ended: look at its log")
    })?;
    match last.bytes_left {
        Some(left) if left > 0 => Err(format!(
            "server {}: drain-timeout was over with {} not in the object store: only a server on the same disk serves them; start it \
             there again and give it more time",
            admin.server,
            size(left)
        )),
        Some(_) if last.outputs_lost > 0 => Err(format!(
            "server {}: drained, but {} map outputs could not be read any more and are in no object store: their maps run again, and \
             its log says what is the matter with its disks",
            admin.server, last.outputs_lost
        )),
        Some(_) => {
            say(format!(
                "server {}: drained, everything live is in the object store\n",
                admin.server
            ));
            Ok(())
        }
        None => {
            say(format!(
                "server {}: drained; without an object store its data are on its disk\n",
                admin.server
            ));
            Ok(())
        }
    }
}
