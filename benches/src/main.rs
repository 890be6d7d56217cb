//! `forebay-bench`: loads Forebay servers and tells what they cost, beside the same bytes over raw
//! TCP in the same minutes.
//!
//! - [`cli`]: flags. [`session`]: one use, from connecting to cleaning up; [`spawn`]: a server of
//!   one's own.
//! - [`shape`], [`payload`], [`size`]: what is written. [`push`], [`fetch`]: how.
//! - [`measure`]: the method; [`pages`]: a trap of virtual machines; [`cpu`]: what processes cost;
//!   [`tcp`]: the floor; [`report`]: table and JSON.
//!
//! How to read the figures is in `README.md` beside this crate.

mod cli;
mod cpu;
mod fetch;
mod measure;
mod pages;
mod payload;
mod push;
mod report;
mod session;
mod shape;
mod size;
mod spawn;
mod tcp;

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::{Cli, Command, FetchLoad, Level, Load, Source},
    report::Report,
    session::{Kind, Session},
    shape::Shape,
};

// The same as the server's, and kind to both ends of raw TCP.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = runtime
        .context("start the runtime")
        .and_then(|runtime| runtime.block_on(Box::pin(dispatch(cli.command))));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forebay-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::TcpFloor => tcp::serve().await,
        Command::Push(load) => {
            let levels = load.levels(&[Level::Disk]);
            Box::pin(run(load, &[Kind::Push], &levels)).await
        }
        Command::Fetch(fetch) => {
            let levels = fetch.load.levels(&[Level::Disk]);
            let kinds = fetch_kinds(&fetch)?;
            Box::pin(run(fetch.load, &kinds, &levels)).await
        }
        Command::All(fetch) => {
            let levels = fetch.load.levels(&[Level::Memory, Level::Disk]);
            let kinds = [vec![Kind::Push], fetch_kinds(&fetch)?].concat();
            Box::pin(run(fetch.load, &kinds, &levels)).await
        }
    }
}

fn fetch_kinds(fetch: &FetchLoad) -> Result<Vec<Kind>> {
    if fetch.from.contains(&Source::Store) && !fetch.load.spawn {
        bail!("--from store drains the server that took the bytes: it needs --spawn");
    }
    let kind = |from: &Source| Kind::Fetch {
        readers: fetch.readers.unwrap_or(fetch.load.streams),
        partitions_per_read: fetch.read_partitions,
        from: *from,
    };
    Ok(fetch.from.iter().map(kind).collect())
}

/// Every kind at every level with every block size; interrupted, it still cleans up and reports
/// what is done.
async fn run(load: Load, kinds: &[Kind], levels: &[Level]) -> Result<()> {
    let shapes: Vec<Shape> = load
        .block
        .iter()
        .map(|block| Shape::try_new(load.size, load.maps, load.partitions, *block))
        .collect::<Result<_>>()?;
    let json = load.json.clone();
    let needs_store = levels.contains(&Level::Object) || kinds.iter().any(Kind::is_from_store);
    let mut report = Report::new(std::env::args().collect());
    let mut terminated = signal(SignalKind::terminate()).context("listen for signals")?;
    let mut session = tokio::select! {
        session = Session::open(load, needs_store) => session?,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminated.recv() => bail!("terminated"),
    };
    let mut outcome = Ok(());
    'runs: for shape in shapes {
        for level in levels {
            for kind in kinds {
                let run = tokio::select! {
                    run = Box::pin(session.run(*kind, *level, shape)) => run,
                    _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
                    _ = terminated.recv() => Err(anyhow::anyhow!("terminated")),
                };
                match run {
                    Ok(run) => {
                        print_out(json.as_deref(), &run.table());
                        report.runs.push(run);
                    }
                    Err(error) => {
                        outcome = Err(error);
                        break 'runs;
                    }
                }
            }
        }
    }
    let closed = session.close().await;
    if report.runs.len() > 1 {
        print_out(json.as_deref(), &report.overview());
    }
    if let (Some(path), false) = (&json, report.runs.is_empty()) {
        write_json(path, &report)?;
    }
    outcome.and(closed)
}

/// Tables go to standard output unless JSON does.
fn print_out(json: Option<&Path>, text: &str) {
    if json == Some(Path::new("-")) {
        eprint!("{text}")
    } else {
        print!("{text}")
    }
}

fn write_json(path: &Path, report: &Report) -> Result<()> {
    let text = serde_json::to_string_pretty(report).context("write JSON")? + "\n";
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    if path == Path::new("-") {
        print!("{text}");
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
