//! The task that brings one output to a server: opens the stream, feeds it, reads the answers, and
//! starts over after a failure.
//!
//! **Which server.** A near one (`near.rs`), up to a quarter more than its part of the shuffle.
//! Else the candidate of the map index, unless found gone or refusing a moment ago; then the
//! stand-ins in order; then servers of the settings that joined later; then around again, with
//! growing pauses (`route.rs`). Silent servers are waited for until `retry_deadline`, as long as a
//! restart takes; servers that answer and take nothing (busy, full, draining) are waited for
//! longer, with their own error at the end. So are servers with an open stream and no progress for
//! `retry_deadline`: they are short of something, and another server gets the output.
//!
//! **Lease.** A server at which the app's lease ran out has lost the app's data, and takes new
//! outputs once the app is registered again. A task can do that itself, and need not wait for the
//! driver.
//!
//! **Lost acknowledgement.** If the stream breaks after Commit was sent, the same server is asked
//! first: it answers `committed` to Open, and Commit alone brings the receipt. If the server stays
//! away, another one gets the whole output: two servers may then hold the attempt, and only the one
//! named to the engine is ever read.
//!
//! **Mirror.** The second copy begins at the first stand-in, on another machine if there is one,
//! and neither goes to a server that the other is at.

mod stream;

use std::{fmt::Write as _, sync::Arc, time::Duration};

use futures_util::future::join_all;
use shuffle_proto::{
    frame::{self, Rope},
    v1, wire,
};

use super::{
    UNKNOWN_MAPS, WriteSpec,
    copies::Claim,
    route::{self, Next, Outcome, Route, Tried, Verdict},
    state::{Receipt, Shared},
};
use crate::{
    backoff::{Backoff, OVERLOAD},
    channel::Failure,
    client::Client,
    error::{Error, Kind},
    placement,
    types::Durability,
};

/// How long the word that an output is given up may take to leave. The server finds out anyway when
/// the stream ends.
const FAREWELL: Duration = Duration::from_millis(500);

pub(super) struct Push {
    client: Client,
    spec: Arc<WriteSpec>,
    shared: Arc<Shared>,
    claim: Claim,
    backoff: Backoff,
    /// Servers at which the app was registered from here.
    registered: Vec<String>,
    /// Outputs of the shuffle that a server should have at most; 0 while nobody is preferred, and
    /// once a server has failed.
    share: u32,
}

/// End of a stream.
enum End {
    Committed(Receipt),
    Aborted,
    Failed(Failure),
    /// The server has taken the stream and does not go on with it.
    Stalled(Failure),
}

/// `map 3 (attempt 17) of shuffle 2, app x`: the subject of every message about an output.
pub(super) fn name(spec: &WriteSpec) -> String {
    format!(
        "output of map {} (attempt {}) of shuffle {}, app {}",
        spec.map_index, spec.attempt, spec.shuffle, spec.caller.app
    )
}

// === impl Push ===

impl Push {
    pub(super) fn new(
        client: Client,
        spec: Arc<WriteSpec>,
        shared: Arc<Shared>,
        claim: Claim,
    ) -> Self {
        let backoff = Backoff::new(client.settings());
        Self {
            client,
            spec,
            shared,
            claim,
            backoff,
            registered: Vec::new(),
            share: 0,
        }
    }

    /// Runs until the output is committed, given up or failed; the shared state has the result
    /// then, whatever happens.
    pub(super) async fn run(mut self) {
        struct Abandoned(Arc<Shared>);
        impl Drop for Abandoned {
            fn drop(&mut self) {
                self.0.abandoned();
            }
        }
        let guard = Abandoned(self.shared.clone());
        let result = self.deliver().await;
        if let Err(error) = &result {
            tracing::debug!(app = %self.spec.caller.app, kind = %error.kind, "{error}");
        }
        guard.0.finish(result);
    }

    async fn deliver(&mut self) -> Result<Receipt, Error> {
        let mut candidates: Vec<String> =
            placement::route(&self.spec.candidates, self.spec.map_index)
                .cloned()
                .collect();
        let nearby = self.client.nearby(&candidates).await;
        // Without a number of maps a near server has no share of them, and might get all.
        let shares = self.spec.num_maps != UNKNOWN_MAPS;
        if shares {
            nearby.order(&mut candidates, self.claim.copy());
        } else {
            nearby.apart(&mut candidates, self.claim.copy());
        }
        if shares && nearby.bounded {
            let copies = 1 + u32::from(self.spec.durability == Durability::Mirror);
            self.share = placement::share(self.spec.num_maps, copies, candidates.len());
        }
        // Servers just found gone come last, because a host that swallows packets costs a time-out
        // per try; servers with a recent refusal come before them.
        candidates.sort_by_key(|address| self.client.connections().reluctance(address));
        let mut route = Route::new(candidates);
        let mut started = false;
        let mut commit_sent = false;
        loop {
            if self.shared.aborted().is_cancelled() {
                return Err(self.given_up());
            }
            let address = route.current().to_owned();
            if !self.claim.take(&address) {
                self.go_on(&mut route, Outcome::Taken).await?;
                continue;
            }
            let opened = tokio::time::Instant::now();
            self.shared.restart(started);
            let eager = !started && self.share == 0;
            let (failure, stalled) = match self.stream(&address, eager).await {
                End::Committed(receipt) => {
                    self.shared.delivered(&receipt.address);
                    return Ok(receipt);
                }
                End::Aborted => return Err(self.given_up()),
                End::Failed(failure) => (failure, false),
                End::Stalled(failure) => (failure, self.shared.stream().opened),
            };
            started = true;
            let stream = self.shared.stream();
            commit_sent |= stream.commit_sent;
            if !failure.elsewhere {
                // Other servers have to take a failing server's share.
                self.share = 0;
                let deadline = self.client.settings().retry_deadline;
                // A stalled server has stood still for all of that time.
                let long = if stalled { 2 * deadline } else { deadline / 4 };
                if stream.opened && opened.elapsed() > long {
                    // The stream was up for long: this is a new trouble, not the old one.
                    self.backoff.succeeded();
                    route.afresh();
                }
                self.shared.tally().failed(&address, &failure.message);
                tracing::debug!(
                    app = %self.spec.caller.app, shuffle = %self.spec.shuffle, map = %self.spec.map_index, attempt = %self.spec.attempt,
                    server = address, error = failure.message, "push broke",
                );
            }
            let verdict = route::judge(Tried {
                kind: failure.kind,
                answered: failure.answered,
                elsewhere: failure.elsewhere,
                retry_after: failure.retry_after,
                stalled,
                opened: stream.opened,
                commit_sent: stream.commit_sent,
                committing: commit_sent,
                replayable: self.shared.replayable(),
            });
            match verdict {
                Verdict::Register if self.register(&address).await => {}
                Verdict::Register | Verdict::Refused => {
                    return Err(self.refused(&address, &failure));
                }
                Verdict::Outgrown => return Err(self.outgrown(&address, &failure)),
                Verdict::Wait { answered } => {
                    let Some(pause) = self.backoff.failed(answered, failure.retry_after) else {
                        return Err(self.exhausted());
                    };
                    self.pause(pause).await;
                }
                Verdict::GoOn(outcome) => {
                    if !failure.elsewhere && matches!(outcome, Outcome::Refused(_)) {
                        self.client.connections().refused(&address);
                    }
                    self.go_on(&mut route, outcome).await?;
                }
            }
        }
    }

    /// Turns to the next server after this outcome, in due time.
    async fn go_on(&mut self, route: &mut Route, outcome: Outcome) -> Result<(), Error> {
        let answered = matches!(outcome, Outcome::Refused(_));
        match route.after(outcome) {
            Next::Again => {
                let pause = self.backoff.moment();
                self.pause(pause).await;
            }
            // A server that was not asked yet need not be waited for.
            Next::Other if outcome == Outcome::Taken || self.backoff.note(answered) => {}
            Next::Other => return Err(self.exhausted()),
            Next::Round { answered, at_least } => {
                self.share = 0;
                if self.add_newcomers(route).await {
                    return Ok(());
                }
                let Some(pause) = self.backoff.failed(answered, at_least) else {
                    return Err(self.exhausted());
                };
                self.pause(pause).await;
            }
        }
        Ok(())
    }

    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.shared.aborted().cancelled() => {}
        }
    }

    /// Registers the app at a server at which its lease ran out; false if that was tried, or does
    /// not help.
    async fn register(&mut self, address: &str) -> bool {
        if self.registered.iter().any(|known| known == address) {
            return false;
        }
        self.registered.push(address.to_owned());
        let (client, limit) = (&self.client, self.client.settings().call_timeout);
        let request = v1::RenewLeaseRequest {
            caller: Some(self.spec.caller.message()),
            task: true,
            ..Default::default()
        };
        let call = client.renew_lease(address, request);
        match client.within(address, limit, call).await {
            Ok((_, anew, _)) => {
                if anew {
                    tracing::warn!(app = %self.spec.caller.app, server = address, "the lease of the app had run out: what the server had of it is lost; it is registered there again");
                }
                true
            }
            Err(_) => false,
        }
    }

    /// Adds the servers of the settings that are no candidates; false if there are none. At level
    /// `mirror` they must not be candidates under another name either, or both copies would be on
    /// one server.
    async fn add_newcomers(&self, route: &mut Route) -> bool {
        let addresses = self.client.addresses().await;
        let mut others: Vec<String> = addresses
            .into_iter()
            .filter(|address| !route.servers().contains(address))
            .collect();
        if self.spec.durability == Durability::Mirror && !others.is_empty() {
            others = self.strangers(route.servers(), others).await;
        }
        route.add(others)
    }

    /// The servers among `others` that answer and are none of `known`, nor the same as another of
    /// them.
    async fn strangers(&self, known: &[String], others: Vec<String>) -> Vec<String> {
        let limit = self.client.settings().connect_timeout;
        let asked = known.iter().chain(&others);
        let answers = join_all(asked.map(|address| self.client.describe_within(address, limit)));
        let answers = answers.await;
        let (known, others_said) = answers.split_at(known.len());
        let mut seen: Vec<&str> = known
            .iter()
            .flatten()
            .map(|server| server.instance.as_str())
            .collect();
        let mut strangers = Vec::new();
        for server in others_said.iter().flatten() {
            if server.instance.is_empty() || !seen.contains(&server.instance.as_str()) {
                seen.push(&server.instance);
                strangers.push(server.address.clone());
            }
        }
        strangers
    }

    fn given_up(&self) -> Error {
        Error::new(
            Kind::Fenced,
            format!(
                "{} was given up: {}",
                name(&self.spec),
                self.shared.reason()
            ),
        )
    }

    fn refused(&self, address: &str, failure: &Failure) -> Error {
        Error::new(
            failure.kind,
            format!(
                "{address} refuses the {}: {}",
                name(&self.spec),
                failure.message
            ),
        )
    }

    fn outgrown(&self, address: &str, failure: &Failure) -> Error {
        let settings = self.client.settings();
        let replay_buffer = settings.name("replay_buffer");
        // What all writers of the process share may have been less.
        let shared = settings.memory.map_or_else(String::new, |bytes| {
            format!(
                " or its part of {} ({bytes} bytes)",
                settings.name("memory")
            )
        });
        let message = format!(
            "{address} failed while it took the {}: {}. The output cannot be sent to another server: its {} bytes have outgrown \
             {replay_buffer} ({} bytes){shared}. Run the task again, or raise {replay_buffer}",
            name(&self.spec),
            failure.message,
            self.shared.built_bytes(),
            settings.replay_buffer,
        );
        Error::new(Kind::Unavailable, message)
    }

    fn exhausted(&self) -> Error {
        let tried_for = self.backoff.failing_for();
        let mut message = format!(
            "no server took the {} within {tried_for:.0?}:",
            name(&self.spec)
        );
        for server in self.shared.tally().servers() {
            let reason = server.last_failure.unwrap_or_default();
            let _ = write!(
                message,
                " {} ({} times): {reason};",
                server.address, server.failures
            );
        }
        if self.spec.durability == Durability::Mirror {
            message += " level mirror needs two servers;";
        }
        let retry_deadline = self.client.settings().name("retry_deadline");
        if self.backoff.is_overload() {
            let _ = write!(
                message,
                " they answer, and take nothing for {OVERLOAD} times {retry_deadline}: add servers or disks, or raise the limits they                  name"
            );
            return Error::new(Kind::Busy, message);
        }
        let _ = write!(message, " start the servers, or raise {retry_deadline}");
        Error::new(Kind::Unavailable, message)
    }
}

fn internal(address: &str, error: &wire::Invalid) -> Failure {
    Failure::new(
        Kind::Internal,
        format!("{address} answers wrongly: {error}"),
    )
}

/// Partitions with totals in one message. A server takes 4 MiB, and small ones without a queue.
const PART: usize = 4096;

/// The totals as messages of a fitting size; one at least.
fn commit_parts(totals: &v1::PartitionTotals) -> Vec<v1::Commit> {
    let count = totals.partition.len();
    let mut parts = Vec::with_capacity(count / PART + 1);
    let mut start = 0;
    loop {
        let end = count.min(start + PART);
        parts.push(v1::Commit {
            totals: Some(v1::PartitionTotals {
                partition: totals.partition[start..end].to_vec(),
                blocks: totals.blocks[start..end].to_vec(),
                bytes: totals.bytes[start..end].to_vec(),
                records: totals.records[start..end].to_vec(),
            }),
            more: end < count,
        });
        if end == count {
            return parts;
        }
        start = end;
    }
}

fn rope(step: v1::push_request::Step) -> Rope {
    let mut rope = Rope::default();
    frame::encode(
        &v1::PushRequest {
            step: Some(step),
            payload: bytes::Bytes::new(),
        },
        [],
        &mut rope,
    );
    rope
}
