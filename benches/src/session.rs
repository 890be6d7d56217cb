//! One use of this program: connect as an app of its own, run the asked-for loads one after the
//! other, delete what was written.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use shuffle_client::{
    AppHandle, AppId, Caller, Client, Compression, Durability, Settings, ShuffleId, Tls,
};
use tokio::time::timeout;

use crate::{
    cli::{Level, Load, Source},
    cpu::Probe,
    fetch::{Check, Fetch},
    measure::Bench,
    payload::{Payload, Texture},
    push::{Push, Pushed, latencies},
    report::{Latency, Run, Summary, Verified},
    shape::Shape,
    size::ByteSize,
    spawn::{Remote, Spawned},
    tcp::{Direction, Floor},
};

/// If this program is killed, the servers delete its data after this.
const LEASE: Duration = Duration::from_secs(120);
/// Shorter than the client's own patience, which is made for servers that restart: here a person
/// waits.
const CONNECT: Duration = Duration::from_secs(15);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Push,
    Fetch {
        readers: u32,
        partitions_per_read: u32,
        from: Source,
    },
}

/// See the module.
pub(crate) struct Session {
    load: Load,
    servers: Vec<String>,
    client: Client,
    caller: Caller,
    app: AppHandle,
    bench: Bench,
    shuffles: u32,
    /// Ends after everything that talks to it.
    spawned: Option<Spawned>,
}

impl Session {
    /// `needs_store`: a server that is started here is to have one.
    pub(crate) async fn open(load: Load, needs_store: bool) -> Result<Self> {
        let remote = if needs_store {
            Remote::Own
        } else {
            Remote::None
        };
        let spawned = if load.spawn {
            Some(Spawned::start(&load, remote)?)
        } else {
            None
        };
        let servers = spawned
            .as_ref()
            .map_or_else(|| load.servers.clone(), |server| vec![server.data.clone()]);
        if let Some(server) = &spawned {
            eprintln!("started {}", server.describe);
        }
        let mut probes = Vec::new();
        for pid in spawned
            .iter()
            .map(|server| server.pid)
            .chain(load.server_pid.iter().copied())
        {
            probes.push(Probe::local(pid)?);
        }
        for admin in &load.admin {
            probes.push(Probe::metrics(admin).await?);
        }
        if !probes.is_empty()
            && !load.spawn
            && probes.len() != servers.len()
            && !servers.iter().any(|server| server.starts_with("dns://"))
        {
            bail!(
                "{} servers, but the cost of {} is known: give --admin or --server-pid for each",
                servers.len(),
                probes.len()
            );
        }
        let texture = if load.compress {
            Texture::Numbers
        } else {
            Texture::Random
        };
        let program = std::env::current_exe().context("find this program's own path")?;
        let floor = if load.no_floor {
            None
        } else {
            Some(Floor::start(&program)?)
        };
        let bench = Bench::new(
            probes,
            floor,
            Payload::new(load.seed, texture),
            load.timeout(),
            load.warms_pages(),
        );
        let client = Client::new(settings(&load, servers.clone())?)?;
        let name = format!("forebay-bench-{:016x}", rand::random::<u64>());
        let caller = Caller {
            app: AppId::try_new(&name).context("make an application id")?,
            token: format!("{:032x}", rand::random::<u128>()).into(),
            lease: LEASE,
        };
        let open = timeout(CONNECT, client.open_app(caller.clone())).await;
        let app = open
            .with_context(|| {
                format!(
                    "no answer within {} s: is a server running there?",
                    CONNECT.as_secs()
                )
            })
            .and_then(|opened| opened.map_err(Into::into))
            .with_context(|| format!("connect to {}", servers.join(", ")))?;
        Ok(Self {
            load,
            servers,
            client,
            caller,
            app,
            bench,
            shuffles: 0,
            spawned,
        })
    }

    /// Deletes everything that was written.
    pub(crate) async fn close(self) -> Result<()> {
        self.app.close().await.context("delete the data that was written; the servers do it when the lease runs out, in 2 minutes")
    }

    /// One load at one level, in rounds.
    pub(crate) async fn run(&mut self, kind: Kind, level: Level, shape: Shape) -> Result<Run> {
        let bytes = shape.bytes();
        eprintln!(
            "{}: loads {} with {} in each of {} rounds",
            kind.name(),
            self.servers.join(", "),
            ByteSize(bytes),
            self.load.rounds + 1,
        );
        self.bench.start_peak();
        let mut run = self.described(kind, level, shape);
        match kind {
            Kind::Push => self.push_rounds(&mut run, level, shape).await?,
            Kind::Fetch {
                readers,
                partitions_per_read,
                from,
            } => {
                self.fetch_rounds(&mut run, level, shape, readers, partitions_per_read, from)
                    .await?;
            }
        }
        run.summary = Summary::of(bytes, &run.rounds);
        let memory = self.bench.peak_memory();
        run.server_peak_memory_bytes = memory.map(|memory| memory.bytes);
        run.server_peak_memory_is_exact = memory.map(|memory| memory.is_peak);
        Ok(run)
    }

    async fn push_rounds(&mut self, run: &mut Run, level: Level, shape: Shape) -> Result<()> {
        let mut latency = latencies()?;
        let mut stored = 0;
        let first = self.shuffles;
        self.shuffles += self.load.rounds + 1;
        let Self {
            load,
            client,
            caller,
            app,
            bench,
            ..
        } = self;
        let payload = bench.payload.clone();
        let work = async |round: u32, bar: &ProgressBar| {
            let shuffle = ShuffleId(first + round);
            let pushed = push(client, caller, app, &payload, load, level, shape, shuffle)
                .run(load.streams, bar)
                .await?;
            stored = pushed.stored_bytes;
            if round > 0 {
                latency.add(&pushed.latency).context("add up latencies")?;
            }
            Ok(shuffle)
        };
        let clean = async |shuffle| {
            app.delete_shuffle(shuffle)
                .await
                .context("delete the round's shuffle")
        };
        run.rounds = bench
            .rounds(
                "push",
                load.rounds,
                Direction::Send,
                shape.bytes(),
                work,
                clean,
            )
            .await?;
        run.commit_latency = Latency::of(&latency);
        run.stored_bytes = stored;
        Ok(())
    }

    async fn fetch_rounds(
        &mut self,
        run: &mut Run,
        level: Level,
        shape: Shape,
        readers: u32,
        partitions_per_read: u32,
        from: Source,
    ) -> Result<()> {
        let shuffle = ShuffleId(self.shuffles);
        self.shuffles += 1;
        self.bench.warm_pages(shape.bytes()).await?;
        let Pushed {
            commits,
            stored_bytes,
            ..
        } = match from {
            Source::Server => self.write(level, shape, shuffle).await,
            Source::Store => self.write_to_store(level, shape, shuffle).await,
        }
        .context("write what is to be read")?;
        run.stored_bytes = stored_bytes;
        let Self {
            load,
            client,
            caller,
            app,
            bench,
            ..
        } = self;
        let hidden = ProgressBar::hidden();
        let fetch = Fetch {
            client: client.clone(),
            caller: caller.clone(),
            payload: bench.payload.clone(),
            shape,
            shuffle,
            commits: commits.into(),
            readers,
            partitions_per_read,
        };
        let start = Instant::now();
        let verified = fetch
            .run(Check::Bytes, &hidden)
            .await
            .context("verify every byte")?;
        run.verified = Some(Verified {
            bytes: verified.bytes,
            blocks: verified.blocks,
            seconds: start.elapsed().as_secs_f64(),
        });
        let work = async |_, bar: &ProgressBar| fetch.run(Check::Count, bar).await;
        let clean = async |_| Ok(());
        run.rounds = bench
            .rounds(
                "fetch",
                load.rounds,
                Direction::Receive,
                shape.bytes(),
                work,
                clean,
            )
            .await?;
        app.delete_shuffle(shuffle)
            .await
            .context("delete what was read")
    }

    async fn write(&self, level: Level, shape: Shape, shuffle: ShuffleId) -> Result<Pushed> {
        let (client, caller, app) = (&self.client, &self.caller, &self.app);
        let payload = &self.bench.payload;
        push(
            client, caller, app, payload, &self.load, level, shape, shuffle,
        )
        .run(self.load.streams, &ProgressBar::hidden())
        .await
    }

    /// By a server of its own, which is drained then. The commits name the server that is left,
    /// which has nothing but the store.
    async fn write_to_store(
        &self,
        level: Level,
        shape: Shape,
        shuffle: ShuffleId,
    ) -> Result<Pushed> {
        let left = self
            .spawned
            .as_ref()
            .context("--from store needs --spawn")?;
        let store = left.remote.clone().context("the server has no store")?;
        let writer = Spawned::start(&self.load, Remote::Of(store))?;
        let (caller, payload) = (&self.caller, &self.bench.payload);
        let client = Client::new(settings(&self.load, vec![writer.data.clone()])?)?;
        let app = client.open_app(caller.clone()).await?;
        let mut pushed = push(
            &client, caller, &app, payload, &self.load, level, shape, shuffle,
        )
        .run(self.load.streams, &ProgressBar::hidden())
        .await?;
        // Not closed: that would delete what was written.
        drop(app);
        writer.drain().await?;
        for commit in &mut pushed.commits {
            commit.address.clone_from(&left.data);
        }
        Ok(pushed)
    }

    fn described(&self, kind: Kind, level: Level, shape: Shape) -> Run {
        let (streams, partitions_per_read, from) = match kind {
            Kind::Push => (self.load.streams, None, None),
            Kind::Fetch {
                readers,
                partitions_per_read,
                from,
            } => (readers, Some(partitions_per_read), Some(from.name())),
        };
        Run {
            kind: kind.name(),
            from,
            servers: self.servers.clone(),
            durability: level.name(),
            bytes: shape.bytes(),
            stored_bytes: 0,
            maps: shape.maps,
            partitions: shape.partitions,
            block_bytes: shape.block,
            blocks: shape.bytes() / u64::from(shape.block),
            streams,
            partitions_per_read,
            compressed: self.load.compress,
            seed: self.load.seed,
            pages_warmed: self.bench.warm_pages.is_some(),
            server_cost_from: self.bench.probes.iter().map(Probe::describe).collect(),
            server_peak_memory_bytes: None,
            server_peak_memory_is_exact: None,
            verified: None,
            rounds: Vec::new(),
            commit_latency: None,
            summary: Summary::default(),
        }
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Fetch { .. } => "fetch",
        }
    }

    /// Whether it reads what is in object storage only.
    pub(crate) fn is_from_store(&self) -> bool {
        matches!(
            self,
            Self::Fetch {
                from: Source::Store,
                ..
            }
        )
    }
}

/// The client's settings, with what the flags say of TLS.
fn settings(load: &Load, servers: Vec<String>) -> Result<Settings> {
    let read = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
    };
    let mut settings = Settings::of(servers);
    for (field, flag) in [
        ("tls_ca", "--tls-ca"),
        ("tls_server_name", "--tls-server-name"),
        ("tls_cert", "--tls-cert"),
        ("tls_key", "--tls-key"),
    ] {
        settings.names.insert(field.into(), flag.into());
    }
    settings.tls = match &load.tls_ca {
        None => None,
        Some(ca) => Some(Tls {
            ca: read(ca)?,
            server_name: load.tls_server_name.clone(),
            cert: load.tls_cert.as_ref().map(read).transpose()?,
            key: load.tls_key.as_ref().map(read).transpose()?,
        }),
    };
    Ok(settings)
}

#[allow(
    clippy::too_many_arguments,
    reason = "parts of one session, borrowed apart"
)]
fn push(
    client: &Client,
    caller: &Caller,
    app: &AppHandle,
    payload: &Payload,
    load: &Load,
    level: Level,
    shape: Shape,
    shuffle: ShuffleId,
) -> Push {
    Push {
        client: client.clone(),
        caller: caller.clone(),
        payload: payload.clone(),
        shape,
        shuffle,
        durability: match level {
            Level::Memory => Durability::Memory,
            Level::Disk => Durability::Disk,
            Level::Fsync => Durability::Fsync,
            Level::Object => Durability::Object,
        },
        compression: if load.compress {
            Compression::Lz4
        } else {
            Compression::None
        },
        candidates: Arc::from(app.place(shuffle, shape.maps, shape.partitions)),
    }
}
