//! An application's registration with the servers, and its lease: the driver's part.
//!
//! One task per app keeps what is known of the servers fresh (who answers, who drains) and renews the lease wherever a server
//! answers. Nothing else depends on it: a server that has never heard of an app learns of it by the first push.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use parking_lot::Mutex;
use shuffle_proto::{ids::ShuffleId, v1};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    backoff::Backoff,
    channel::Failure,
    client::{Caller, Client, Description, WriteBack},
    error::{Error, Kind},
    placement,
};

/// How often servers are asked how they are: a server that drains is left out of new shuffles after this time.
const REFRESH: Duration = Duration::from_secs(10);
/// Assumed while no server has said what the lease is.
const DEFAULT_LEASE: Duration = Duration::from_secs(600);

/// A registered application. Its lease is renewed by a task of the runtime until this is dropped or closed; the servers delete what
/// the app left when its lease runs out.
pub struct AppHandle {
    members: Arc<Members>,
    refresh: AbortOnDropHandle<()>,
}

/// What is known of the servers.
struct Members {
    client: Client,
    caller: Caller,
    known: Mutex<BTreeMap<String, Known>>,
}

/// One server, by its address.
#[derive(Clone, Default)]
struct Known {
    /// Its answer to the last round; `None` = it did not answer.
    description: Option<Description>,
    /// When the lease was last renewed there, and for how long.
    leased: Option<(Instant, Duration)>,
}

impl AppHandle {
    pub(crate) async fn open(client: Client, caller: Caller) -> Result<Self, Error> {
        let members = Arc::new(Members {
            client,
            caller,
            known: Mutex::default(),
        });
        let mut backoff = Backoff::new(members.client.settings());
        loop {
            let failures = members.round().await;
            if members
                .known
                .lock()
                .values()
                .any(|server| server.leased.is_some())
            {
                break;
            }
            // A refusal is final when nobody has accepted.
            let refused = failures
                .iter()
                .find(|(_, failure)| !failure.kind.retryable());
            let pause = if refused.is_some() {
                None
            } else {
                backoff.failed(None)
            };
            let Some(pause) = pause else {
                return Err(members.not_registered(refused, &failures, backoff.failing_for()));
            };
            tokio::time::sleep(pause).await;
        }
        let refresh = members.client.handle().spawn(members.clone().run());
        Ok(Self {
            members,
            refresh: AbortOnDropHandle::new(refresh),
        })
    }

    /// Chooses the candidate servers of a shuffle, in the order in which map indexes go over them (see
    /// [`placement`](crate::placement)). Asks no server: what is known of them is kept fresh in the background.
    pub fn place(&self, shuffle: ShuffleId, num_maps: u32, num_partitions: u32) -> Vec<String> {
        let servers = self.members.usable();
        placement::candidates(
            &self.members.caller.app,
            shuffle,
            &servers,
            num_maps,
            num_partitions,
        )
    }

    /// What the servers that answered the last round said of themselves.
    pub fn servers(&self) -> Vec<Description> {
        self.members
            .known
            .lock()
            .values()
            .filter_map(|server| server.description.clone())
            .collect()
    }

    /// Deletes a shuffle on every server that answers within one call; the lease takes care of the others. Fails only when no server
    /// answered.
    pub async fn delete_shuffle(&self, shuffle: ShuffleId) -> Result<(), Error> {
        let request = v1::DeleteShuffleRequest {
            caller: Some(self.members.caller.message()),
            shuffle: shuffle.0,
        };
        let what = format!("delete shuffle {shuffle}");
        self.members
            .everywhere(&what, |client, address| {
                let request = request.clone();
                async move {
                    Ok(client
                        .connections()
                        .control(&address)?
                        .delete_shuffle(request)
                        .await
                        .map(drop)?)
                }
            })
            .await
    }

    /// Stops renewing and deletes the app on every server that answers within one call; the lease takes care of the others.
    pub async fn close(self) -> Result<(), Error> {
        let Self { members, refresh } = self;
        // Before the delete: a renewal that comes after it would make the app known again.
        refresh.abort();
        let _ = refresh.await;
        let request = v1::DeleteAppRequest {
            caller: Some(members.caller.message()),
        };
        members
            .everywhere("delete the app", |client, address| {
                let request = request.clone();
                async move {
                    Ok(client
                        .connections()
                        .control(&address)?
                        .delete_app(request)
                        .await
                        .map(drop)?)
                }
            })
            .await
    }
}

// === impl Members ===

impl Members {
    async fn run(self: Arc<Self>) {
        let lease = Some(self.caller.lease)
            .filter(|lease| !lease.is_zero())
            .unwrap_or(DEFAULT_LEASE);
        let pause = REFRESH.min(lease / 3);
        loop {
            tokio::time::sleep(pause).await;
            for (address, failure) in self.round().await {
                tracing::debug!(app = %self.caller.app, server = address, error = failure.message, "server does not answer");
            }
        }
    }

    /// Asks every server how it is, and renews the lease where that is due.
    async fn round(&self) -> Vec<(String, Failure)> {
        let addresses = self.client.addresses().await;
        let mut known = self.known.lock().clone();
        // A server that left the name service is not asked any more, but one that has our data keeps it until the lease ends.
        known.retain(|address, _| addresses.contains(address));
        let results = join_all(addresses.into_iter().map(|address| {
            let before = known.remove(&address).unwrap_or_default();
            async move { (self.ask(&address, before).await, address) }
        }))
        .await;
        let mut failures = Vec::new();
        let mut next = BTreeMap::new();
        for ((server, failure), address) in results {
            failures.extend(failure.map(|failure| (address.clone(), failure)));
            next.insert(address, server);
        }
        *self.known.lock() = next;
        failures
    }

    async fn ask(&self, address: &str, before: Known) -> (Known, Option<Failure>) {
        let description = match self.client.try_describe(address).await {
            Ok(description) => description,
            Err(failure) => {
                return (
                    Known {
                        description: None,
                        ..before
                    },
                    Some(failure),
                );
            }
        };
        // A server that comes back may have lost its disk and with it the app: it is told again.
        let back = before.description.is_none();
        let due = before
            .leased
            .is_none_or(|(when, lease)| when.elapsed() + REFRESH >= lease / 3);
        let mut server = Known {
            description: Some(description),
            ..before
        };
        if !back && !due {
            return (server, None);
        }
        match self.renew(address).await {
            Ok(lease) => {
                server.leased = Some((Instant::now(), lease));
                (server, None)
            }
            Err(failure) => (server, Some(failure)),
        }
    }

    async fn renew(&self, address: &str) -> Result<Duration, Failure> {
        let write_back = self.client.settings().write_back;
        let write_back = write_back.map_or(v1::WriteBack::Unspecified, WriteBack::message);
        let request = v1::RenewLeaseRequest {
            caller: Some(v1::Caller {
                write_back: write_back.into(),
                ..self.caller.message()
            }),
        };
        let answer = self
            .client
            .connections()
            .control(address)?
            .renew_lease(request)
            .await?
            .into_inner();
        Ok(Duration::from_millis(answer.lease_ms))
    }

    /// Servers that can take a new shuffle: they answered, do not drain, and have a disk that works. If none is like that, all that
    /// are known, because what is known may be old.
    fn usable(&self) -> Vec<String> {
        let known = self.known.lock();
        let takes = |server: &Known| {
            server.description.as_ref().is_some_and(|description| {
                !description.draining
                    && description
                        .volumes
                        .iter()
                        .any(|volume| volume.state == "ok")
            })
        };
        let usable: Vec<_> = known
            .iter()
            .filter(|(_, server)| takes(server))
            .map(|(address, _)| address.clone())
            .collect();
        if usable.is_empty() {
            known.keys().cloned().collect()
        } else {
            usable
        }
    }

    /// One call to every known server; fails if none answered.
    async fn everywhere<F>(
        &self,
        what: &str,
        call: impl Fn(Client, String) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Failure>>,
    {
        let addresses: Vec<_> = self.known.lock().keys().cloned().collect();
        let results = join_all(addresses.into_iter().map(|address| {
            let result = call(self.client.clone(), address.clone());
            async move { (address, result.await) }
        }))
        .await;
        let mut answered = false;
        let mut last = None;
        for (address, result) in results {
            match result {
                Ok(()) => answered = true,
                Err(failure) => {
                    let app = &self.caller.app;
                    tracing::debug!(%app, server = address, error = failure.message, "cannot {what}; its lease will end");
                    last = Some((address, failure));
                }
            }
        }
        match last {
            Some((address, failure)) if !answered => {
                let app = &self.caller.app;
                let message = format!(
                    "no server could {what} of app {app}; {address} says: {}. Its lease will end it",
                    failure.message
                );
                Err(Error::new(failure.kind, message))
            }
            _ => Ok(()),
        }
    }

    fn not_registered(
        &self,
        refused: Option<&(String, Failure)>,
        failures: &[(String, Failure)],
        tried_for: Duration,
    ) -> Error {
        let app = &self.caller.app;
        if let Some((address, failure)) = refused {
            return Error::new(
                failure.kind,
                format!("{address} does not take app {app}: {}", failure.message),
            );
        }
        let servers = self.client.settings().servers.join(", ");
        let said: Vec<_> = failures
            .iter()
            .map(|(_, failure)| failure.message.as_str())
            .take(3)
            .collect();
        let said = if said.is_empty() {
            "no name could be resolved".to_string()
        } else {
            said.join("; ")
        };
        let message = format!(
            "no server took app {app} within {tried_for:.0?} (servers: {servers}): {said}. Start a server, or correct {}",
            self.client.settings().name("servers"),
        );
        Error::new(Kind::Unavailable, message)
    }
}
