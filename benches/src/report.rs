//! What was measured: a document for machines, whose format is described in `results/README.md`,
//! and a table for people.

use std::{
    fmt::Write as _,
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::size::ByteSize;

/// Counts up when a field changes its meaning or goes; new fields may come without.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    format: u32,
    version: &'static str,
    started_unix_seconds: u64,
    command: Vec<String>,
    machine: Machine,
    pub(crate) runs: Vec<Run>,
}

#[derive(Debug, Serialize)]
struct Machine {
    cpus: usize,
    cpu: String,
    kernel: String,
    memory_bytes: u64,
}

/// One load, measured in rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    /// `push` or `fetch`.
    pub(crate) kind: &'static str,
    /// Of a fetch: who had the bytes, `server` or `store`.
    pub(crate) from: Option<&'static str>,
    pub(crate) servers: Vec<String>,
    pub(crate) durability: &'static str,
    pub(crate) bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) maps: u32,
    pub(crate) partitions: u32,
    pub(crate) block_bytes: u32,
    pub(crate) blocks: u64,
    /// Map tasks, or reduce tasks, at the same time.
    pub(crate) streams: u32,
    pub(crate) partitions_per_read: Option<u32>,
    pub(crate) compressed: bool,
    pub(crate) seed: u64,
    /// Whether a hypervisor's faults were kept out of the figures.
    pub(crate) pages_warmed: bool,
    pub(crate) server_cost_from: Vec<String>,
    pub(crate) server_peak_memory_bytes: Option<u64>,
    /// False: the largest of samples between rounds.
    pub(crate) server_peak_memory_is_exact: Option<bool>,
    pub(crate) verified: Option<Verified>,
    pub(crate) rounds: Vec<Round>,
    pub(crate) commit_latency: Option<Latency>,
    pub(crate) summary: Summary,
}

/// Every byte was compared with what was written, in a round of its own.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Verified {
    pub(crate) bytes: u64,
    pub(crate) blocks: u64,
    pub(crate) seconds: f64,
}

/// The same bytes through Forebay and over raw TCP.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) seconds: f64,
    pub(crate) client_cpu_seconds: f64,
    pub(crate) server_cpu_seconds: Option<f64>,
    /// Of the servers, from the last answer until they were quiet: work that was put off.
    pub(crate) server_cpu_after_seconds: Option<f64>,
    pub(crate) tcp_seconds: Option<f64>,
    pub(crate) tcp_client_cpu_seconds: Option<f64>,
    pub(crate) tcp_server_cpu_seconds: Option<f64>,
}

impl Round {
    /// Client and server together, beside raw TCP's.
    fn ratio(&self) -> Option<f64> {
        Some((self.client_cpu_seconds + self.server_cpu_seconds?) / self.tcp_cpu()?)
    }

    fn tcp_cpu(&self) -> Option<f64> {
        Some(self.tcp_client_cpu_seconds? + self.tcp_server_cpu_seconds?)
    }
}

/// From the call of commit to its receipt, so with the bytes that were still on their way.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    commits: u64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl Latency {
    pub(crate) fn of(micros: &Histogram<u64>) -> Option<Self> {
        let ms = |quantile| micros.value_at_quantile(quantile) as f64 / 1e3;
        (!micros.is_empty()).then(|| Self {
            commits: micros.len(),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            max_ms: ms(1.0),
        })
    }
}

/// Medians over the rounds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Summary {
    gb_per_second: f64,
    client_cpu_seconds_per_gb: f64,
    server_cpu_seconds_per_gb: Option<f64>,
    server_cpu_after_seconds_per_gb: Option<f64>,
    cpu_seconds_per_gb: Option<f64>,
    tcp_gb_per_second: Option<f64>,
    tcp_client_cpu_seconds_per_gb: Option<f64>,
    tcp_server_cpu_seconds_per_gb: Option<f64>,
    tcp_cpu_seconds_per_gb: Option<f64>,
    /// Median of the rounds' own ratios, client and server together.
    cpu_ratio_to_tcp: Option<f64>,
    cpu_ratio_to_tcp_min: Option<f64>,
    cpu_ratio_to_tcp_max: Option<f64>,
}

impl Summary {
    pub(crate) fn of(bytes: u64, rounds: &[Round]) -> Self {
        let gb = bytes as f64 / 1e9;
        let median_of = |value: &dyn Fn(&Round) -> f64| median(rounds.iter().map(value).collect());
        let some_of = |value: &dyn Fn(&Round) -> Option<f64>| {
            let values: Option<Vec<f64>> = rounds.iter().map(value).collect();
            values.filter(|values| !values.is_empty()).map(median)
        };
        let ratios: Option<Vec<f64>> = rounds.iter().map(Round::ratio).collect();
        let ratios = ratios.unwrap_or_default();
        Self {
            gb_per_second: median_of(&|round| gb / round.seconds),
            client_cpu_seconds_per_gb: median_of(&|round| round.client_cpu_seconds / gb),
            server_cpu_seconds_per_gb: some_of(&|round| Some(round.server_cpu_seconds? / gb)),
            server_cpu_after_seconds_per_gb: some_of(&|round| {
                Some(round.server_cpu_after_seconds? / gb)
            }),
            cpu_seconds_per_gb: some_of(&|round| {
                Some((round.client_cpu_seconds + round.server_cpu_seconds?) / gb)
            }),
            tcp_gb_per_second: some_of(&|round| Some(gb / round.tcp_seconds?)),
            tcp_client_cpu_seconds_per_gb: some_of(&|round| {
                Some(round.tcp_client_cpu_seconds? / gb)
            }),
            tcp_server_cpu_seconds_per_gb: some_of(&|round| {
                Some(round.tcp_server_cpu_seconds? / gb)
            }),
            tcp_cpu_seconds_per_gb: some_of(&|round| Some(round.tcp_cpu()? / gb)),
            cpu_ratio_to_tcp: some_of(&Round::ratio),
            cpu_ratio_to_tcp_min: ratios.iter().copied().reduce(f64::min),
            cpu_ratio_to_tcp_max: ratios.iter().copied().reduce(f64::max),
        }
    }
}

/// The middle value, or the mean of the two; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}

// === impl Report ===

impl Report {
    pub(crate) fn new(command: Vec<String>) -> Self {
        let started = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION"),
            started_unix_seconds: started.as_secs(),
            command,
            machine: Machine::this(),
            runs: Vec::new(),
        }
    }

    /// One line per run: what to look at first.
    pub(crate) fn overview(&self) -> String {
        let mut text = String::from(
            "\nkind              level   block      streams   GB/s   CPU s/GB: client  server  both   raw TCP   ratio (min..max)    commit p50/p99\n",
        );
        for run in &self.runs {
            let summary = &run.summary;
            let range = match (summary.cpu_ratio_to_tcp_min, summary.cpu_ratio_to_tcp_max) {
                (Some(min), Some(max)) => format!("({min:.2}..{max:.2})"),
                _ => String::new(),
            };
            let commits = run.commit_latency.map_or_else(String::new, |l| {
                format!("{:.1} / {:.1} ms", l.p50_ms, l.p99_ms)
            });
            let _ = writeln!(
                text,
                "{:<17} {:<7} {:<10} {:>7} {:>6.2} {:>18.3} {:>7} {:>5} {:>9} {:>7} {:<14}  {commits}",
                run.title(),
                run.durability,
                ByteSize(run.block_bytes.into()).to_string(),
                run.streams,
                summary.gb_per_second,
                summary.client_cpu_seconds_per_gb,
                number(summary.server_cpu_seconds_per_gb, 3),
                number(summary.cpu_seconds_per_gb, 3),
                number(summary.tcp_cpu_seconds_per_gb, 3),
                number(summary.cpu_ratio_to_tcp, 2),
                range,
            );
        }
        text
    }
}

impl Run {
    fn title(&self) -> String {
        match self.from {
            Some("store") => format!("{} from store", self.kind),
            _ => self.kind.into(),
        }
    }

    /// All that is known of this run, for a person.
    pub(crate) fn table(&self) -> String {
        let s = &self.summary;
        let mut text = format!(
            "\n{}: {} in {} maps x {} partitions, {} blocks of {}, level {}, {}, {} {}, {} rounds\n",
            self.title(),
            ByteSize(self.bytes),
            self.maps,
            self.partitions,
            self.blocks,
            ByteSize(self.block_bytes.into()),
            self.durability,
            if self.compressed {
                format!("LZ4 to {}", ByteSize(self.stored_bytes))
            } else {
                "not compressed".into()
            },
            self.streams,
            if self.kind == "push" {
                "writers"
            } else {
                "readers"
            },
            self.rounds.len(),
        );
        let _ = writeln!(
            text,
            "  {:<22}{:>10}{:>10}{:>10}",
            "", "Forebay", "raw TCP", "ratio"
        );
        let mut row = |name: &str, ours: Option<f64>, tcp: Option<f64>, ratio: Option<f64>| {
            let _ = writeln!(
                text,
                "  {name:<22}{:>10}{:>10}{:>10}",
                number(ours, 3),
                number(tcp, 3),
                number(ratio, 2)
            );
        };
        let over = |ours: Option<f64>, tcp: Option<f64>| Some(ours? / tcp?);
        for (name, ours, tcp) in [
            ("GB/s", Some(s.gb_per_second), s.tcp_gb_per_second),
            (
                "CPU s/GB, client",
                Some(s.client_cpu_seconds_per_gb),
                s.tcp_client_cpu_seconds_per_gb,
            ),
            (
                "CPU s/GB, server",
                s.server_cpu_seconds_per_gb,
                s.tcp_server_cpu_seconds_per_gb,
            ),
        ] {
            row(name, ours, tcp, over(ours, tcp));
        }
        row(
            "CPU s/GB, both",
            s.cpu_seconds_per_gb,
            s.tcp_cpu_seconds_per_gb,
            s.cpu_ratio_to_tcp,
        );
        if let Some(after) = s.server_cpu_after_seconds_per_gb {
            row("  + server, afterwards", Some(after), None, None);
        }
        if let (Some(min), Some(max)) = (s.cpu_ratio_to_tcp_min, s.cpu_ratio_to_tcp_max) {
            let _ = writeln!(
                text,
                "  the rounds' ratios lie between {min:.2} and {max:.2}; figures are medians over the rounds"
            );
        }
        if let Some(l) = self.commit_latency {
            let Latency {
                commits,
                p50_ms,
                p99_ms,
                max_ms,
            } = l;
            let _ = writeln!(
                text,
                "  commit latency: p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, max {max_ms:.1} ms ({commits} commits)"
            );
        }
        if let Some(v) = self.verified {
            let bytes = ByteSize(v.bytes);
            let _ = writeln!(
                text,
                "  every byte verified: {bytes} in {} blocks, in a round of its own ({:.1} s); timed rounds verify checksums and counts",
                v.blocks, v.seconds,
            );
        }
        match self.server_peak_memory_bytes {
            Some(bytes) => {
                let how = if self.server_peak_memory_is_exact == Some(true) {
                    "peak"
                } else {
                    "largest sample"
                };
                let _ = writeln!(
                    text,
                    "  server memory: {how} {:.0} MiB",
                    bytes as f64 / f64::from(1 << 20)
                );
            }
            None => text
                .push_str("  server CPU and memory are not known: give --server-pid or --admin\n"),
        }
        if self.pages_warmed {
            text.push_str("  pages were warmed before each write: this machine's host takes free memory away (--warm-pages)\n");
        }
        for source in &self.server_cost_from {
            let _ = writeln!(text, "  server cost from {source}");
        }
        text
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}

impl Machine {
    fn this() -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name).map(str::to_owned));
            line.unwrap_or_default()
                .trim_start_matches([' ', '\t', ':'])
                .to_owned()
        };
        let memory = field("/proc/meminfo", "MemTotal");
        Self {
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: field("/proc/cpuinfo", "model name"),
            kernel: field("/proc/sys/kernel/osrelease", ""),
            memory_bytes: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(client: f64, server: Option<f64>, tcp: f64) -> Round {
        Round {
            seconds: 2.0,
            client_cpu_seconds: client,
            server_cpu_seconds: server,
            server_cpu_after_seconds: server,
            tcp_seconds: Some(1.0),
            tcp_client_cpu_seconds: Some(tcp / 2.0),
            tcp_server_cpu_seconds: Some(tcp / 2.0),
        }
    }

    #[test]
    fn the_ratio_is_the_median_of_the_rounds_own_ratios() {
        let rounds = [
            round(1.0, Some(1.0), 1.0),
            round(3.0, Some(3.0), 2.0),
            round(9.0, Some(9.0), 2.0),
        ];
        let summary = Summary::of(2_000_000_000, &rounds);
        assert_eq!(summary.cpu_ratio_to_tcp, Some(3.0));
        assert_eq!(
            (summary.cpu_ratio_to_tcp_min, summary.cpu_ratio_to_tcp_max),
            (Some(2.0), Some(9.0))
        );
        assert_eq!(summary.gb_per_second, 1.0);
        assert_eq!(summary.cpu_seconds_per_gb, Some(3.0));
    }

    #[test]
    fn without_the_servers_cost_there_is_no_ratio() {
        let summary = Summary::of(1_000_000_000, &[round(1.0, None, 1.0)]);
        assert_eq!(
            (summary.cpu_ratio_to_tcp, summary.server_cpu_seconds_per_gb),
            (None, None)
        );
        assert_eq!(summary.client_cpu_seconds_per_gb, 1.0);
    }

    #[test]
    fn the_median_of_an_even_number_is_the_mean_of_the_middle_two() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
    }
}
