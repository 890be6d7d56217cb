//! The only place where parts are wired together: settings → [`Server::build`] → [`Server::run`]
//! until told to end.
//!
//! A signal, the admin port or `notice-file` starts the end, which is bounded by `drain-timeout`.
//! At once new attempts are refused and probes say so, everything that is not in the object store
//! is written back, if there is one, and volumes put on disk what only memory holds. Beside that
//! running pushes get a third of the time to commit; the others are told to go to another server.
//! Then connections finish what runs on them, and the volumes close, all at the same time and
//! within a few seconds of their own. What could not be saved is the error with which the process
//! ends: nobody is to find out by a fetch.

mod ending;
mod opening;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use shuffle_proto::ids::VolumeId;
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use crate::{
    admin::{Front, Port},
    auth::{Auth, DriverAuth},
    budget::Budget,
    clock::{Clock, SystemClock},
    config::{self, Config},
    core::{Core, ObjectTier, Place, drain::Step, pace::Pace, peers::Bounds, volumes::Volumes},
    error::Error,
    metrics::Metrics,
    registry::{Limits, Pool, Registry},
    service::{End, Listener, generated, not_serving},
    staging::{Components, Faults, Volume},
    tls::{self, Opener, Tls},
    writeback::WriteBack,
};
use ending::{close_volumes, end_pushes, notice, write_back};
use opening::{check_grounds, listen, open_remote, open_store, open_volumes};

/// How often half of the unneeded memory is given back: an idle server has nearly none after a few
/// minutes.
const TRIM_PERIOD: Duration = Duration::from_secs(30);
/// What ends a call that does not end by itself gets to finish.
const LAST_MOMENT: Duration = Duration::from_secs(2);
/// The part of `drain-timeout` that running pushes get: one in so many.
const PUSHES: u32 = 3;

/// A server that listens but does not serve yet; its admin port answers already.
pub struct Server {
    config: Config,
    core: Arc<Core>,
    data: TcpListener,
    admin: Port,
    tls: Option<Arc<Tls>>,
    /// Looks for new certificates.
    watch: Option<AbortOnDropHandle<()>>,
    data_addr: SocketAddr,
    admin_addr: SocketAddr,
}

/// Builds a server from parts that tests exchange.
pub struct Builder {
    config: Config,
    clock: Arc<dyn Clock>,
    faults: Option<Arc<dyn Faults>>,
}

// === impl Builder ===

impl Builder {
    /// Another clock, for leases.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Disks that fail when told to.
    pub fn faults(mut self, faults: Arc<dyn Faults>) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Binds the addresses, answers at the admin port, opens and recovers the volumes.
    pub async fn build(self) -> Result<Server, Error> {
        let Self {
            config,
            clock,
            faults,
        } = self;
        config.check()?;
        if let Some(path) = &config.ready_file {
            // One of an earlier process would be believed.
            match fs::remove_file(path) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::ReadyFile {
                        path: path.clone(),
                        cause,
                    });
                }
                _ => {}
            }
        }
        let metrics = Arc::new(Metrics::default());
        let tls = Tls::open(&config, metrics.clone())?;
        let watch = tls.as_ref().map(Tls::watch);
        let auth = Auth::open(&config.auth_options())
            .map_err(|why| Error::Config(config::Error::Setting(why)))?;
        let (data, data_addr) = listen("listen", &config.listen).await?;
        if config.auth == DriverAuth::Open && !data_addr.ip().to_canonical().is_loopback() {
            tracing::warn!(listen = %data_addr, "auth is open: whoever reaches this address may register an application and fill the disks; set auth = secret and pool-secret-file, or let the network say who reaches it");
        }
        let (admin, admin_addr) = listen("admin-listen", &config.admin_listen).await?;
        check_grounds(&config).await?;

        let front = Front::new(metrics.clone(), auth.clone());
        let admin = admin
            .into_std()
            .and_then(|admin| {
                let opener = Opener::new(tls.clone(), tls::Port::Admin);
                Port::open(admin, opener, front.clone())
            })
            .map_err(|error| Error::Process(format!("start the admin port: {error}")))?;
        let remote = match open_store(&config, &metrics)? {
            Some(store) => Some(open_remote(store, clock.clone()).await?),
            None => None,
        };
        let budget = Budget::new(config.memory.0);
        let components = Components {
            budget: budget.clone(),
            clock: clock.clone(),
            observer: metrics.clone(),
            faults,
        };
        let volumes = Volumes::new(open_volumes(&config, &components, &front).await?);
        if let Some((_, records)) = &remote {
            let (records, volumes) = (records.clone(), volumes.to_vec());
            let recalling = tokio::task::spawn_blocking(move || records.remember(volumes));
            if let Err(panic) = recalling.await {
                return Err(Error::Process(format!(
                    "read what is noted of apps: {panic}"
                )));
            }
        }
        let limits = Limits {
            apps: config.max_apps,
            streams: config.max_streams_per_app,
            lease: config.lease,
            max_lease: config.max_lease,
        };
        let recovering = volumes.clone();
        let recovered = tokio::task::spawn_blocking(move || recovering.recovered());
        let recovered = recovered
            .await
            .map_err(|panic| Error::Process(format!("read what volumes know of apps: {panic}")))?;
        let ledger = Arc::new(volumes.clone());
        let registry = Arc::new(Registry::new(
            ledger,
            clock.clone(),
            limits,
            metrics.clone(),
            remote
                .as_ref()
                .map(|(_, records)| records.clone() as Arc<dyn Pool>),
            recovered,
        ));
        let tier = remote.map(|(remote, records)| {
            let (all, options) = (volumes.to_vec(), config.writeback());
            let (apps, counts) = (registry.clone(), metrics.remote.clone());
            let writeback =
                WriteBack::new(remote.clone(), records, all, apps, options, clock, counts);
            ObjectTier {
                remote,
                writeback: Arc::new(writeback),
            }
        });
        let mut core = Core::new(
            volumes,
            registry,
            auth,
            budget,
            metrics,
            tier,
            Pace::new(config.keep_alive),
            Bounds::new(config.max_streams_per_peer),
        );
        core.place = Place {
            node: config.node(),
            zone: config.zone.clone().unwrap_or_default(),
        };
        let core = Arc::new(core);
        front.serves(core.clone());
        Ok(Server {
            config,
            core,
            data,
            admin,
            tls,
            watch,
            data_addr,
            admin_addr,
        })
    }
}

// === impl Server ===

impl Server {
    /// A builder with these settings and the real parts.
    pub fn builder(config: Config) -> Builder {
        Builder {
            config,
            clock: Arc::new(SystemClock),
            faults: None,
        }
    }

    /// [`Builder::build`] with the real parts.
    pub async fn build(config: Config) -> Result<Server, Error> {
        Self::builder(config).build().await
    }

    /// Where clients connect.
    pub fn data_addr(&self) -> SocketAddr {
        self.data_addr
    }

    /// Where people and probes connect.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Ids of all volumes, in the order of the data directories; also of volumes that could not be
    /// opened.
    pub fn volumes(&self) -> Vec<VolumeId> {
        self.core.volumes.iter().map(Volume::id).collect()
    }

    /// The line that says that the server serves.
    pub fn ready_line(&self) -> String {
        let served = self.core.volumes.iter().filter(|volume| volume.is_open());
        let volumes: Vec<_> = served.map(|volume| volume.id().to_string()).collect();
        format!(
            "ready data={} admin={} volumes={}",
            self.data_addr,
            self.admin_addr,
            volumes.join(",")
        )
    }

    /// Writes the ready line to the file that the settings name, whole or not at all.
    pub fn write_ready_file(&self) -> Result<(), Error> {
        let Some(path) = &self.config.ready_file else {
            return Ok(());
        };
        write_whole(path, &(self.ready_line() + "\n")).map_err(|cause| Error::ReadyFile {
            path: path.clone(),
            cause,
        })
    }

    /// Serves until `shutdown`, then ends in order.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let Self {
            config,
            core,
            data,
            admin,
            tls,
            watch: _watch,
            ..
        } = self;
        let (routes, health) = generated(core.clone()).await;
        let (tasks, end, background) =
            (TaskTracker::new(), End::default(), CancellationToken::new());
        let mut parts = JoinSet::new();
        parts.spawn(core.registry.clone().run(background.clone()));
        parts.spawn(trim(core.budget.clone(), background.clone()));
        if let Some(tier) = &core.remote {
            tracing::info!(url = tier.remote.store.url(), "object store");
            parts.spawn(tier.writeback.clone().run(background.clone()));
        }
        let close_admin = admin.close();
        parts.spawn(admin.ended());
        let listener = Listener {
            core: core.clone(),
            opener: Opener::new(tls, tls::Port::Data),
            routes,
            max_connections: config.max_connections,
            max_connections_per_peer: config.max_connections_per_peer,
            keep_alive: config.keep_alive,
            tasks: tasks.clone(),
            end: end.clone(),
        };
        parts.spawn(listener.run(data));

        if let Some(path) = config.notice_file.clone() {
            parts.spawn(notice(path, core.clone(), background.clone()));
        }

        let failed = tokio::select! {
            () = shutdown => {
                core.drain("a signal");
                None
            }
            () = core.drain.asked() => None,
            // None of them ends by itself, unless it panicked.
            ended = parts.join_next() => ended.map(|ended| format!("a part of the server ended: {ended:?}")),
        };
        if let Some(failed) = &failed {
            core.drain("a part of the server failed");
            tracing::error!(failed, "the server drains because a part of it failed");
        }

        let begun = Instant::now();
        let deadline = begun + config.drain_timeout;
        tracing::info!(why = core.progress().why, timeout = ?config.drain_timeout, pushes = core.metrics.streams("push"), "draining");
        core.drain.ends_at(deadline);
        // First of all, and before anybody is waited for: what lies here is what is lost with the
        // machine.
        if let Some(tier) = &core.remote {
            tier.writeback.urge();
        }
        core.volumes.iter().for_each(Volume::keep);
        not_serving(&health).await;
        let fence = begun + config.drain_timeout / PUSHES;
        // While others still read from here: what they cannot finish they find in the store.
        let (left, ()) = tokio::join!(
            write_back(&core, deadline),
            end_pushes(&core, fence, deadline)
        );
        core.drain.go(Step::Calls);
        end.graceful.cancel();
        tasks.close();
        if timeout_at(deadline, tasks.wait()).await.is_err() {
            tracing::info!(
                fetches = core.metrics.streams("fetch"),
                "drain-timeout is over: calls that still run are ended"
            );
            end.now.cancel();
            if tokio::time::timeout(LAST_MOMENT, tasks.wait())
                .await
                .is_err()
            {
                tracing::warn!("calls that do not end are left behind");
            }
        }
        core.drain.go(Step::Volumes);
        let unkept = close_volumes(&core.volumes).await;
        core.drain.go(Step::Ended);
        background.cancel();
        close_admin.cancel();
        while tokio::time::timeout(LAST_MOMENT, parts.join_next())
            .await
            .is_ok_and(|part| part.is_some())
        {}
        if let Some(failed) = failed {
            return Err(Error::Process(failed));
        }
        let tier = core.remote.as_ref();
        let lost = tier.map_or(0, |tier| tier.writeback.given_up());
        if left > 0 || unkept > 0 || lost > 0 {
            return Err(Error::Unsaved {
                timeout: config.drain_timeout,
                left,
                lost,
                unkept,
            });
        }
        tracing::info!("ended, with everything saved");
        Ok(())
    }
}

/// Gives memory back that pushes have not needed for a while.
async fn trim(budget: Budget, shutdown: CancellationToken) {
    while shutdown
        .run_until_cancelled(tokio::time::sleep(TRIM_PERIOD))
        .await
        .is_some()
    {
        budget.trim();
    }
}

fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    fs::write(&beside, text)?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests;
