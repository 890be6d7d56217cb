//! The method: rounds of Forebay and rounds of raw TCP take turns, and each pair gives one ratio.
//! Machines drift by more than what is to be measured, so figures of different moments are not
//! compared.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{sleep, timeout};

use crate::{
    cpu::{Memory, Probe, ProcessClock},
    pages,
    payload::Payload,
    report::Round,
    tcp::{Direction, Floor, Transfer},
};

/// Longest wait for servers to finish what they put off.
const SETTLE: Duration = Duration::from_secs(10);
/// A server that uses less than this share of one CPU is quiet.
const QUIET: f64 = 0.03;
const LOOK: Duration = Duration::from_millis(100);

/// What rounds have in common.
pub(crate) struct Bench {
    pub(crate) probes: Vec<Probe>,
    pub(crate) floor: Option<Floor>,
    pub(crate) payload: Payload,
    pub(crate) timeout: Duration,
    /// Where pages are warmed before each write (see [`pages`](crate::pages)).
    pub(crate) warm_pages: Option<PathBuf>,
    sampled: Vec<Memory>,
}

/// What a round of Forebay cost.
struct Cost {
    elapsed: Duration,
    client_cpu: Duration,
    server_cpu: Option<Duration>,
    server_cpu_after: Option<Duration>,
}

impl Bench {
    pub(crate) fn new(
        probes: Vec<Probe>,
        floor: Option<Floor>,
        payload: Payload,
        timeout: Duration,
        warm_pages: Option<PathBuf>,
    ) -> Self {
        Self {
            probes,
            floor,
            payload,
            timeout,
            warm_pages,
            sampled: Vec::new(),
        }
    }

    /// Forgets the memory that earlier runs used.
    pub(crate) fn start_peak(&mut self) {
        self.sampled.clear();
        self.probes.iter_mut().for_each(Probe::start_peak);
    }

    /// Measures `rounds` pairs after one that warms up. `work` moves `bytes` once; it is told the
    /// number of the round. `clean` makes room for the next and is not measured.
    pub(crate) async fn rounds<T>(
        &mut self,
        name: &str,
        rounds: u32,
        direction: Direction,
        bytes: u64,
        mut work: impl AsyncFnMut(u32, &ProgressBar) -> Result<T>,
        mut clean: impl AsyncFnMut(T) -> Result<()>,
    ) -> Result<Vec<Round>> {
        let bar = progress(bytes * u64::from(rounds + 1));
        let mut measured = Vec::new();
        for round in 0..=rounds {
            let label = if round == 0 {
                "warm-up".to_owned()
            } else {
                format!("round {round}/{rounds}")
            };
            bar.set_message(format!("{name}: {label}"));
            bar.set_position(bytes * u64::from(round));
            // Who goes first alternates: neither always finds the caches and the clock speed that
            // the other left.
            let first = round % 2 == 0;
            let tcp_first = if first {
                self.raw_tcp(direction, bytes).await?
            } else {
                None
            };
            if direction == Direction::Send {
                self.warm_pages(bytes).await?;
            }
            let what = format!("{name}, {label}");
            let (cost, made) = self.cost(&what, work(round, &bar)).await?;
            clean(made)
                .await
                .with_context(|| format!("{what}: clean up"))?;
            self.settle().await?;
            self.sample_memory().await?;
            let tcp = if first {
                tcp_first
            } else {
                self.raw_tcp(direction, bytes).await?
            };
            if round > 0 {
                measured.push(cost.beside(tcp));
            }
        }
        bar.finish_and_clear();
        Ok(measured)
    }

    /// Lets the next `bytes` of page cache be pages that the machine has.
    pub(crate) async fn warm_pages(&self, bytes: u64) -> Result<()> {
        let Some(directory) = self.warm_pages.clone() else {
            return Ok(());
        };
        let warmed = tokio::task::spawn_blocking(move || pages::warm(&directory, bytes)).await;
        warmed
            .context("warm pages")?
            .context("write a temporary file (or give --warm-pages off)")
    }

    /// The largest peak, or sample, of any server.
    pub(crate) fn peak_memory(&self) -> Option<Memory> {
        self.sampled
            .iter()
            .copied()
            .max_by_key(|memory| memory.bytes)
    }

    /// `None` without a floor.
    async fn raw_tcp(&self, direction: Direction, bytes: u64) -> Result<Option<Transfer>> {
        let Some(floor) = &self.floor else {
            return Ok(None);
        };
        let moved = timeout(self.timeout, floor.measure(direction, &self.payload, bytes)).await;
        let late = || {
            format!(
                "raw TCP did not move its bytes within {} s",
                self.timeout.as_secs()
            )
        };
        Ok(Some(moved.with_context(late)??))
    }

    async fn cost<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<(Cost, T)> {
        let client = ProcessClock::of_self()?;
        let server_start = self.server_cpu().await?;
        let (client_start, start) = (client.now()?, Instant::now());
        let made = timeout(self.timeout, work)
            .await
            .with_context(|| {
                format!(
                    "{what}: not done within {} s (--timeout)",
                    self.timeout.as_secs()
                )
            })?
            .with_context(|| what.to_owned())?;
        let (elapsed, client_cpu) = (start.elapsed(), client.now()?.saturating_sub(client_start));
        let server_end = self.server_cpu().await?;
        self.settle().await?;
        let server_quiet = self.server_cpu().await?;
        let between =
            |from: Option<Duration>, to: Option<Duration>| Some(to?.saturating_sub(from?));
        let cost = Cost {
            elapsed,
            client_cpu,
            server_cpu: between(server_start, server_end),
            server_cpu_after: between(server_end, server_quiet),
        };
        Ok((cost, made))
    }

    /// All servers together; `None` if any is not known.
    async fn server_cpu(&self) -> Result<Option<Duration>> {
        let mut sum = Duration::ZERO;
        for probe in &self.probes {
            sum += probe.cpu().await?;
        }
        Ok((!self.probes.is_empty()).then_some(sum))
    }

    /// Waits until the servers rest, so that one round's leftovers are not in the next, nor in raw
    /// TCP's way.
    async fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + SETTLE;
        let mut before = self.server_cpu().await?;
        while before.is_some() && Instant::now() < deadline {
            sleep(LOOK).await;
            let now = self.server_cpu().await?;
            let used = now
                .unwrap_or_default()
                .saturating_sub(before.unwrap_or_default());
            if used.as_secs_f64() < QUIET * LOOK.as_secs_f64() {
                break;
            }
            before = now;
        }
        Ok(())
    }

    async fn sample_memory(&mut self) -> Result<()> {
        for probe in &self.probes {
            self.sampled.push(probe.memory().await?);
        }
        Ok(())
    }
}

impl Cost {
    fn beside(&self, tcp: Option<Transfer>) -> Round {
        Round {
            seconds: self.elapsed.as_secs_f64(),
            client_cpu_seconds: self.client_cpu.as_secs_f64(),
            server_cpu_seconds: self.server_cpu.map(|cpu| cpu.as_secs_f64()),
            server_cpu_after_seconds: self.server_cpu_after.map(|cpu| cpu.as_secs_f64()),
            tcp_seconds: tcp.map(|tcp| tcp.elapsed.as_secs_f64()),
            tcp_client_cpu_seconds: tcp.map(|tcp| tcp.client_cpu.as_secs_f64()),
            tcp_server_cpu_seconds: tcp.map(|tcp| tcp.server_cpu.as_secs_f64()),
        }
    }
}

/// A bar on standard error, if that is a terminal.
fn progress(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg:<32} {bar:32} {bytes:>10}/{total_bytes} {bytes_per_sec:>12}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style)
}
