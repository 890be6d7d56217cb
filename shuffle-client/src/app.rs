//! An application's registration with the servers, and its lease: the driver's part.
//!
//! One task per server keeps its description fresh (does it answer, does it drain) and renews the
//! lease there, by a timer of its own: a hanging server delays only its own lease. One more task
//! follows the name service. Nothing else depends on these tasks: a server learns of an unknown app
//! by the first push.
//!
//! **Who is who.** A server names the run of its process. Two addresses with the same run are one
//! server under two names, of which shuffles use one (`placement` must not put two copies on it).
//! One address with alternating runs is a load balancer, behind which a pushed output may never be
//! found again: refused by name.

mod identity;
mod known;
mod look;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use rand::RngExt as _;
use shuffle_proto::{ids::ShuffleId, v1};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::{AbortOnDropHandle, TaskTracker},
};

use self::known::Pool;
use crate::{
    channel::Failure,
    client::Client,
    error::{Error, Kind},
    placement,
    proof::Proof,
    types::{Caller, Description, WriteBack},
};

/// Interval between questions to servers: after this time a draining server is left out of new
/// shuffles.
const REFRESH: Duration = Duration::from_secs(10);
/// Assumed while no server has said what the lease is.
const DEFAULT_LEASE: Duration = Duration::from_secs(600);
/// How long the others have to answer when the first server has taken the app: what they say later
/// counts from then on.
const GRACE: Duration = Duration::from_millis(500);
/// How long it takes until a refusal is the answer though some servers have said nothing yet.
const DOUBT: Duration = Duration::from_secs(3);
/// No deadline is shorter: one try must be possible.
const ONE_TRY: Duration = Duration::from_secs(1);
/// How long a deletion waits for answers: it may be Spark that stops, and Kubernetes gives a driver
/// 30 s.
const GOODBYE: Duration = Duration::from_secs(5);
/// Least time for a control call, however short the lease.
const SHORTEST_CALL: Duration = Duration::from_millis(500);
/// Concurrent calls for the question who is behind an address.
const PROBES: usize = 16;

/// A registered application. Tasks of the runtime renew its lease until this handle is dropped or
/// closed; servers delete the app's data when the lease runs out.
pub struct AppHandle {
    members: Arc<Members>,
    stop: DropGuard,
}

/// State shared by the tasks.
struct Members {
    client: Client,
    /// With the driver's own token.
    caller: Caller,
    /// What the app's calls have: the newest token that a server has made, or the driver's own.
    token: Mutex<Arc<str>>,
    pool: Mutex<Pool>,
    /// Told when `pool` has changed.
    news: watch::Sender<()>,
    /// Whether it was told that a server asks for no proof.
    unasked: AtomicBool,
    probes: Semaphore,
    stop: CancellationToken,
    tasks: TaskTracker,
}

// === impl Client ===

impl Client {
    /// Registers an app with all servers that answer, at least one within `retry_deadline`, and
    /// renews its lease until the handle is dropped.
    pub async fn open_app(&self, caller: Caller) -> Result<AppHandle, Error> {
        AppHandle::open(self.clone(), caller).await
    }
}

// === impl AppHandle ===

impl AppHandle {
    async fn open(client: Client, caller: Caller) -> Result<Self, Error> {
        let stop = CancellationToken::new();
        let members = Arc::new(Members {
            client,
            token: Mutex::new(caller.token.clone()),
            caller,
            pool: Mutex::default(),
            news: watch::Sender::new(()),
            unasked: AtomicBool::new(false),
            probes: Semaphore::new(PROBES),
            stop: stop.clone(),
            tasks: TaskTracker::new(),
        });
        let opened = Self {
            members: members.clone(),
            stop: stop.drop_guard(),
        };
        let mut news = members.news.subscribe();
        let started = Instant::now();
        members.spawn(members.clone().follow());
        members.registered(&mut news, started).await?;
        Ok(opened)
    }

    /// Chooses the candidate servers of a shuffle, in the order of map indexes (see
    /// [`placement`](crate::placement)). Asks no server: descriptions are kept fresh in the
    /// background.
    pub fn place(&self, shuffle: ShuffleId, num_maps: u32, num_partitions: u32) -> Vec<String> {
        let pool = self.members.pool.lock();
        let zone = self.members.client.settings().zone.as_deref();
        let usable = pool.usable();
        let (near, far): (Vec<_>, Vec<_>) = usable
            .into_iter()
            .partition(|server| zone.is_none_or(|zone| pool.is_in(server, zone)));
        drop(pool);
        placement::zoned_candidates(
            &self.members.caller.app,
            shuffle,
            (&near, &far),
            num_maps,
            num_partitions,
        )
    }

    /// What the app's tasks call the servers with: the newest token that a server has made for it,
    /// or the driver's own where servers ask nobody who they are. Tasks that run for longer than a
    /// day need no newer one, as long as the driver renews the lease.
    pub fn token(&self) -> Arc<str> {
        self.members.token.lock().clone()
    }

    /// Descriptions by the servers that answered last time.
    pub fn servers(&self) -> Vec<Description> {
        let pool = self.members.pool.lock();
        let answered = pool.servers.values();
        answered
            .filter_map(|server| server.description.clone())
            .collect()
    }

    /// Deletes a shuffle on every server that answers within a few seconds; the lease takes care of
    /// the others. Fails only when no server answered.
    pub async fn delete_shuffle(&self, shuffle: ShuffleId) -> Result<(), Error> {
        let request = v1::DeleteShuffleRequest {
            caller: Some(self.members.message()),
            shuffle: shuffle.0,
        };
        let what = format!("delete shuffle {shuffle}");
        self.members
            .everywhere(&what, |client, address| {
                let request = request.clone();
                async move {
                    let mut control = client.connections().control(&address)?;
                    Ok(control.delete_shuffle(request).await.map(drop)?)
                }
            })
            .await
    }

    /// Stops renewing and deletes the app on every server that answers within a few seconds; the
    /// lease takes care of the others.
    pub async fn close(self) -> Result<(), Error> {
        let Self { members, stop } = self;
        // Before the delete: a later renewal would make the app known again.
        drop(stop);
        members.tasks.close();
        members.tasks.wait().await;
        let request = v1::DeleteAppRequest {
            caller: Some(members.message()),
        };
        members
            .everywhere("delete the app", |client, address| {
                let request = request.clone();
                async move {
                    let mut control = client.connections().control(&address)?;
                    Ok(control.delete_app(request).await.map(drop)?)
                }
            })
            .await
    }
}

// === impl Members ===

impl Members {
    /// Waits until a server has taken the app and the others had a moment to, or until none will.
    async fn registered(
        &self,
        news: &mut watch::Receiver<()>,
        started: Instant,
    ) -> Result<(), Error> {
        let patience = self.client.settings().retry_deadline.max(ONE_TRY);
        let (mut taken, mut refused) = (None, None);
        loop {
            let now = Instant::now();
            let until = {
                let pool = self.pool.lock();
                if let Some((address, why)) = pool.ambiguous() {
                    return Err(Error::new(
                        Kind::Invalid,
                        format!(
                            "{} {address}: {why}",
                            self.client.settings().name("servers")
                        ),
                    ));
                }
                if pool.is_taken() {
                    let taken = *taken.get_or_insert(now);
                    if pool.all_asked() || now >= taken + GRACE {
                        return Ok(());
                    }
                    taken + GRACE
                } else if let Some((address, failure)) = pool.refusal() {
                    // Final when nobody has accepted.
                    let refused = *refused.get_or_insert(now);
                    if pool.all_asked() || now >= refused + DOUBT {
                        let app = &self.caller.app;
                        return Err(Error::new(
                            failure.kind,
                            format!("{address} does not take app {app}: {}", failure.message),
                        ));
                    }
                    refused + DOUBT
                } else if now >= started + patience {
                    return Err(self.not_registered(&pool, started.elapsed()));
                } else {
                    started + patience
                }
            };
            tokio::select! {
                _ = news.changed() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Runs until the app is closed.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let task = async move {
            stop.run_until_cancelled(task).await;
        };
        self.tasks.spawn_on(task, self.client.handle());
    }

    /// Follows the name service: every address has a task.
    async fn follow(self: Arc<Self>) {
        let mut visits: BTreeMap<String, AbortOnDropHandle<()>> = BTreeMap::new();
        let mut pause = self.client.settings().backoff_base;
        loop {
            let addresses = self.client.addresses().await;
            // A server that left the name service is not asked any more; one with data of the app
            // keeps them until the lease ends.
            visits.retain(|address, _| addresses.contains(address));
            self.pool.lock().list(&addresses);
            for address in &addresses {
                if !visits.contains_key(address) {
                    let visit = self.clone().keep(address.clone());
                    let task = self.tasks.spawn_on(visit, self.client.handle());
                    visits.insert(address.clone(), AbortOnDropHandle::new(task));
                }
            }
            let _ = self.news.send(());
            pause = if addresses.is_empty() {
                pause
                    .saturating_mul(2)
                    .min(self.client.settings().backoff_max)
            } else {
                self.rest()
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Keeps one server's description fresh, and renews the lease there.
    async fn keep(self: Arc<Self>, address: String) {
        let settings = self.client.settings();
        let mut pause = settings.backoff_base;
        loop {
            let visit = self.stop.run_until_cancelled(self.visit(&address)).await;
            let Some(visit) = visit else { return };
            if let Err(failure) = &visit {
                tracing::debug!(app = %self.caller.app, server = address, error = failure.message, "server does not answer");
            }
            let well = visit.is_ok();
            let refusal = self.pool.lock().visited(&address, visit.err());
            if let Some(why) = refusal {
                tracing::warn!(app = %self.caller.app, server = address, why, "a server does not take the application");
            }
            let _ = self.news.send(());
            let rest = self.rest();
            let wait = if well {
                pause = settings.backoff_base;
                rest
            } else {
                // A random half is left out, so that a thousand drivers do not come back to a
                // restarted server in step.
                let wait = pause.mul_f64(rand::rng().random_range(0.5..=1.0));
                pause = pause.saturating_mul(2).min(REFRESH);
                wait.min(rest)
            };
            if self
                .stop
                .run_until_cancelled(tokio::time::sleep(wait))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    /// Asks one server for its description, and renews the lease there if due.
    async fn visit(&self, address: &str) -> Result<(), Failure> {
        let (client, limit) = (&self.client, self.limit());
        let description = client.describe_within(address, limit).await?;
        let before = self.pool.lock().server(address);
        if before.instance.is_empty() {
            let identified = self.identify(address, &description, limit).await;
            identified.inspect_err(|_| self.pool.lock().several(address))?;
        }
        let restarted = before.instance != description.instance;
        // A server that comes back may have lost its disk, and the app with it: the app registers
        // again.
        let back = before.description.is_none();
        let due = before
            .leased
            .is_none_or(|(when, lease)| when.elapsed() + self.rest() >= lease / 3);
        self.pool.lock().described(address, description)?;
        if !back && !due {
            return Ok(());
        }
        let (lease, anew, token) = client.within(address, limit, self.renew(address)).await?;
        self.got(address, token);
        if anew && !restarted && before.leased.is_some() {
            tracing::warn!(app = %self.caller.app, server = address, "the lease of the app had run out: what the server had of it is lost; it is registered there again");
        }
        self.pool.lock().leased(address, lease);
        Ok(())
    }

    /// The caller for calls other than registration and renewal.
    fn message(&self) -> v1::Caller {
        v1::Caller {
            token: self.token.lock().to_string(),
            ..self.caller.message()
        }
    }

    /// Takes up the token that a server has made.
    fn got(&self, address: &str, token: String) {
        let proves = self.client.settings().proof != Proof::None;
        match token.is_empty() {
            false => *self.token.lock() = token.into(),
            true if proves && !self.unasked.swap(true, Ordering::Relaxed) => {
                tracing::warn!(app = %self.caller.app, server = address, "this driver proves who it is, and the server asks nobody: set auth = secret or kubernetes at all servers");
            }
            true => {}
        }
    }

    async fn renew(&self, address: &str) -> Result<(Duration, bool, String), Failure> {
        let write_back = self.client.settings().write_back;
        let write_back = write_back.map_or(v1::WriteBack::Unspecified, WriteBack::message);
        let caller = v1::Caller {
            write_back: write_back.into(),
            ..self.caller.message()
        };
        let settings = self.client.settings();
        let (app, name) = (&self.caller.app, settings.name("auth_file"));
        let shown = settings.proof.credential(app, &self.caller.token, name);
        let request = v1::RenewLeaseRequest {
            caller: Some(caller),
            task: false,
            credential: shown.map_err(|error| Failure::new(error.kind, error.message))?,
        };
        self.client.renew_lease(address, request).await
    }

    /// How long a server rests between two visits.
    fn rest(&self) -> Duration {
        REFRESH.min(self.lease() / 3)
    }

    /// How long it may take to answer: a lease of which that were the greater part would lapse.
    fn limit(&self) -> Duration {
        (self.lease() / 4)
            .max(SHORTEST_CALL)
            .min(self.client.settings().call_timeout)
    }

    fn lease(&self) -> Duration {
        let asked = Some(self.caller.lease).filter(|lease| !lease.is_zero());
        let granted = self.pool.lock().shortest_lease();
        match (asked, granted) {
            (Some(asked), Some(granted)) => asked.min(granted),
            (one, other) => one.or(other).unwrap_or(DEFAULT_LEASE),
        }
    }

    /// Makes a call to every known server; fails without any answer. Servers that were unwell last
    /// time are waited for only if no other answers. Abandoned calls go on.
    async fn everywhere<F>(
        &self,
        what: &str,
        call: impl Fn(Client, String) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let (well, unwell) = self.pool.lock().by_health();
        let patient = if well.is_empty() { &unwell } else { &well };
        let mut waited = FuturesUnordered::new();
        for address in well.iter().chain(&unwell) {
            let call = call(self.client.clone(), address.clone());
            let task = self.client.handle().spawn(call);
            if patient.contains(address) {
                waited.push(async move { (address, task.await) });
            }
        }
        let app = &self.caller.app;
        let mut answered = false;
        let mut last = None;
        let end = Instant::now() + GOODBYE;
        while let Ok(Some((address, result))) = tokio::time::timeout_at(end, waited.next()).await {
            let failure = match result {
                Ok(Ok(())) => {
                    answered = true;
                    continue;
                }
                Ok(Err(failure)) => failure,
                Err(error) => Failure::new(Kind::Internal, format!("the call broke off: {error}")),
            };
            tracing::debug!(%app, server = address, error = failure.message, "cannot {what}; its lease will end");
            last = Some((address, failure));
        }
        if answered || (last.is_none() && waited.is_empty()) {
            return Ok(());
        }
        let (kind, said) = match &last {
            Some((address, failure)) => {
                (failure.kind, format!("{address} says: {}", failure.message))
            }
            None => (
                Kind::Unavailable,
                format!("none answered within {GOODBYE:?}"),
            ),
        };
        let message = format!("no server could {what} of app {app}; {said}. Its lease will end it");
        Err(Error::new(kind, message))
    }

    fn not_registered(&self, pool: &Pool, tried_for: Duration) -> Error {
        let app = &self.caller.app;
        let servers = self.client.settings().servers.join(", ");
        let said: Vec<_> = pool.failures().take(3).collect();
        let said = if !said.is_empty() {
            said.join("; ")
        } else if pool.servers.is_empty() {
            "no name could be resolved".to_string()
        } else {
            "none has answered".to_string()
        };
        let message = format!(
            "no server took app {app} within {tried_for:.0?} (servers: {servers}): {said}. Start a server, or correct {}",
            self.client.settings().name("servers"),
        );
        Error::new(Kind::Unavailable, message)
    }
}
