//! Asks servers for their distance; the rules are in `near.rs`.

use std::time::Duration;

use futures_util::future::join_all;

use super::Client;
use crate::{
    near::{Distance, Nearby, is_own},
    settings::Settings,
};

/// How long a task waits for the answers.
const PATIENCE: Duration = Duration::from_secs(1);

// === impl Client ===

impl Client {
    /// Distances of these servers. Asks the unknown ones; a second at most.
    pub(crate) async fn nearby(&self, servers: &[String]) -> Nearby {
        let near = self.near();
        if servers.len() > 1 && !near.unknown(servers).is_empty() {
            let _asking = near.asking.lock().await;
            let unknown = near.unknown(servers);
            let asked = unknown.iter().map(|server| async move {
                let known = tokio::time::timeout(PATIENCE, ask(self, server)).await;
                (server, known.ok().flatten())
            });
            for (server, answer) in join_all(asked).await {
                near.learn(server, answer);
            }
        }
        near.nearby(servers, is_told(self.settings()))
    }
}

fn is_told(settings: &Settings) -> bool {
    settings.node.is_some() || settings.zone.is_some()
}

/// Distance of one server, and its machine's name; `None` if the server does not tell.
async fn ask(client: &Client, server: &str) -> Option<(Distance, String)> {
    let settings = client.settings();
    if !is_told(settings) {
        let addresses = tokio::net::lookup_host(server).await.ok()?;
        let here = addresses.into_iter().any(|address| is_own(address.ip()));
        let distance = if here { Distance::Node } else { Distance::Far };
        return Some((distance, String::new()));
    }
    let said = client.try_describe(server).await.ok()?;
    let same = |own: &Option<String>, other: &str| {
        own.as_deref()
            .is_some_and(|own| !own.is_empty() && own == other)
    };
    let distance = if same(&settings.node, &said.node) {
        Distance::Node
    } else if same(&settings.zone, &said.zone) {
        Distance::Zone
    } else {
        Distance::Far
    };
    Some((distance, said.node))
}
