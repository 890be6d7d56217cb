//! `forebay-server`: settings, log, signals; everything else is the library's.

use std::{io::IsTerminal, io::Write, process::ExitCode, time::Duration};

use anyhow::Context;
use shuffle_server::{
    config::{self, Config, LogFormat},
    error::Error,
    release,
    server::Server,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// One buffer per received batch, a MiB or more each, at the rate of the network: see
/// `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What a shell says of a program that a signal ended.
const KILLED_BY_SIGNAL: i32 = 128;
/// The server has ended and could not save everything: see the last line of the log.
const UNSAVED: u8 = 3;
/// What threads that still wait for a disk get at the end.
const LAST_THREADS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    release::of(option_env!("BUILD_COMMIT"), option_env!("BUILD_DATE"));
    let loaded = match Config::load(std::env::args_os(), std::env::vars_os()) {
        Ok(loaded) => loaded,
        Err(config::Error::Usage(error)) => error.exit(),
        Err(error) => return fail(&error.into()),
    };
    if loaded.config.print_config {
        let mut stdout = std::io::stdout().lock();
        let written = stdout
            .write_all(loaded.effective.as_bytes())
            .and_then(|()| stdout.flush());
        return match written.context("print the settings") {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        };
    }
    match run(loaded.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    // Not eprintln!, which panics where nobody can be told: the exit code still says it.
    drop(writeln!(std::io::stderr(), "error: {error:#}"));
    match error.downcast_ref() {
        Some(Error::Unsaved { .. }) => ExitCode::from(UNSAVED),
        _ => ExitCode::FAILURE,
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    log(config.log.as_deref(), config.log_format)?;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("forebay")
        .max_blocking_threads(blocking_threads(config.data_dir.len()))
        .build()
        .context("start threads")?;
    let served = runtime.block_on(serve(config));
    // A disk that hangs keeps the threads that wait for it, and is not to keep the process.
    runtime.shutdown_timeout(LAST_THREADS);
    served
}

/// Reads of disks that hang keep their threads: so many more than all other work may want.
fn blocking_threads(volumes: usize) -> usize {
    const OTHERS: usize = 512;
    OTHERS + volumes * shuffle_server::staging::READS
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let server = Server::build(config).await?;
    server.write_ready_file()?;
    let mut stdout = std::io::stdout();
    // Whoever started the server may have closed its end already.
    drop(writeln!(stdout, "{}", server.ready_line()).and_then(|()| stdout.flush()));
    let told = CancellationToken::new();
    tokio::spawn(signals(terminate, interrupt, told.clone()));
    server
        .run(told.cancelled_owned())
        .await
        .map_err(|error: Error| error.into())
}

/// The first signal starts the drain, the second ends it. A drain that was begun otherwise takes a
/// first one too: whoever gave notice is often followed by whoever sends SIGTERM.
async fn signals(mut terminate: Signal, mut interrupt: Signal, told: CancellationToken) {
    let (name, _) = either(&mut terminate, &mut interrupt).await;
    tracing::info!(signal = name, "a second signal ends the server at once");
    told.cancel();
    let (name, number) = either(&mut terminate, &mut interrupt).await;
    tracing::warn!(signal = name, "ended at once");
    std::process::exit(KILLED_BY_SIGNAL + number);
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> (&'static str, i32) {
    tokio::select! {
        _ = terminate.recv() => ("SIGTERM", 15),
        _ = interrupt.recv() => ("SIGINT", 2),
    }
}

fn log(filter: Option<&str>, format: LogFormat) -> anyhow::Result<()> {
    let variable = std::env::var("RUST_LOG").ok();
    let (key, value) = match (filter, &variable) {
        (Some(filter), _) => ("log", filter),
        (None, Some(filter)) => ("RUST_LOG", filter.as_str()),
        (None, None) => ("log", "info"),
    };
    let filter = EnvFilter::try_new(value).map_err(|error| {
        anyhow::anyhow!("{key} is {value:?}: {error}: write a level, or a filter such as info,shuffle_server=debug")
    })?;
    // Who did what is told whatever else is; a filter that names it has the last word.
    let filter = match value.contains("audit") {
        true => filter,
        false => filter.add_directive("audit=info".parse().context("a filter for the audit")?),
    };
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Where the log's disk is full or its reader gone, it would complain on stderr, and panic there.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(colours).init(),
        LogFormat::Json => log.json().flatten_event(true).with_ansi(false).init(),
    }
    Ok(())
}

/// Segments, index files and connections are files; the soft limit of most systems is meant for
/// smaller programs.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
