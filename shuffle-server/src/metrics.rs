//! What the server counts. One struct of handles, made once and passed to whoever counts; names are
//! `forebay_<thing>_<unit>[_total]`; of the process, `process_…` as everywhere.
//!
//! Labels are closed sets: a kind of failure, a data directory, a state. Never an id from the
//! network. What is a state elsewhere (memory, volumes, apps) is not copied here but read when
//! Prometheus asks: `admin::scrape`.

pub(crate) mod process;
mod remote;
pub(crate) mod text;
mod tls;

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use shuffle_proto::kind::Kind;

pub use remote::RemoteMetrics;
pub use tls::TlsMetrics;

use crate::staging::Observer;

pub(crate) const PREFIX: &str = "forebay";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OpLabel {
    op: &'static str,
}

/// A bound that can be met, as metrics and the log name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// All connections of clients.
    Connections,
    /// Connections of one address.
    ConnectionsPerPeer,
    /// Running calls of one address.
    StreamsPerPeer,
    /// Pushes and fetches of one app.
    StreamsPerApp,
    /// Streams whose first message is not here yet.
    Openings,
    /// Memory for large heads of messages: they wait for one another.
    Heads,
    /// A message that was begun did not go on.
    Slow,
    /// Control calls in a time.
    Control,
    /// Connections of the admin port.
    AdminConnections,
}

impl Limit {
    /// All limits, for their labels.
    pub const ALL: [Limit; 9] = [
        Limit::Connections,
        Limit::ConnectionsPerPeer,
        Limit::StreamsPerPeer,
        Limit::StreamsPerApp,
        Limit::Openings,
        Limit::Heads,
        Limit::Slow,
        Limit::Control,
        Limit::AdminConnections,
    ];

    /// The limit's label: a setting's name where there is one.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Connections => "max-connections",
            Limit::ConnectionsPerPeer => "max-connections-per-peer",
            Limit::StreamsPerPeer => "max-streams-per-peer",
            Limit::StreamsPerApp => "max-streams-per-app",
            Limit::Openings => "openings",
            Limit::Heads => "heads",
            Limit::Slow => "slow",
            Limit::Control => "control-calls",
            Limit::AdminConnections => "admin-connections",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

/// See the module.
pub struct Metrics {
    pub(crate) registry: Registry,
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections over the limit.
    pub connections_refused: Counter,
    streams: Family<OpLabel, Gauge>,
    /// Bytes of payload taken.
    pub pushed: Counter,
    /// Bytes of payload sent.
    pub fetched: Counter,
    /// Blocks taken.
    pub blocks_pushed: Counter,
    /// Blocks sent.
    pub blocks_fetched: Counter,
    /// Attempts that were committed, each counted once.
    pub commits: Counter,
    /// Pushes that ended without a commit.
    pub aborts: Counter,
    /// Time from Commit to its answer.
    pub commit_latency: Histogram,
    /// How long batches waited for memory, those that did.
    pub permit_wait: Histogram,
    flush_latency: Histogram,
    refusals: Family<KindLabel, Counter>,
    limits: Family<LimitLabel, Counter>,
    /// Leases that ran out.
    pub leases_expired: Counter,
    /// Metrics of the object store.
    pub remote: RemoteMetrics,
    /// Metrics of certificates.
    pub tls: TlsMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let r = &mut registry;
        // 0.25 ms to 33 s.
        let latency = || Histogram::new(exponential_buckets(0.000_25, 2.0, 18));
        let metrics = Self {
            connections: add(
                r,
                "connections",
                "Open connections of clients",
                Gauge::default(),
            ),
            connections_refused: add(
                r,
                "connections_refused",
                "Connections over max-connections",
                Counter::default(),
            ),
            streams: add(
                r,
                "streams",
                "Running pushes and fetches",
                Family::default(),
            ),
            pushed: add_unit(
                r,
                "pushed",
                "Payload taken from clients",
                Unit::Bytes,
                Counter::default(),
            ),
            fetched: add_unit(
                r,
                "fetched",
                "Payload sent to clients",
                Unit::Bytes,
                Counter::default(),
            ),
            blocks_pushed: add(
                r,
                "pushed_blocks",
                "Blocks taken from clients",
                Counter::default(),
            ),
            blocks_fetched: add(
                r,
                "fetched_blocks",
                "Blocks sent to clients",
                Counter::default(),
            ),
            commits: add(
                r,
                "commits",
                "Attempts committed, each counted once",
                Counter::default(),
            ),
            aborts: add(
                r,
                "aborts",
                "Pushes that ended without a commit",
                Counter::default(),
            ),
            commit_latency: add_unit(
                r,
                "commit_latency",
                "Time from a commit to its answer",
                Unit::Seconds,
                latency(),
            ),
            permit_wait: add_unit(
                r,
                "permit_wait",
                "Time that batches waited for memory",
                Unit::Seconds,
                latency(),
            ),
            flush_latency: add_unit(
                r,
                "flush_latency",
                "Time to write a run",
                Unit::Seconds,
                latency(),
            ),
            refusals: add(
                r,
                "refusals",
                "Calls refused, by the kind of the refusal",
                Family::default(),
            ),
            limits: add(
                r,
                "limits",
                "How often a limit was met, by the limit's name",
                Family::default(),
            ),
            leases_expired: add(
                r,
                "leases_expired",
                "Apps deleted because their lease ran out",
                Counter::default(),
            ),
            remote: RemoteMetrics::new(r),
            tls: TlsMetrics::new(r),
            registry,
        };
        // All labels are there from the start, so that a rate over them is right from the first
        // event on.
        for kind in Kind::ALL {
            metrics
                .refusals
                .get_or_create_owned(&KindLabel { kind: kind.name() });
        }
        for limit in Limit::ALL {
            metrics.limits.get_or_create_owned(&LimitLabel {
                limit: limit.name(),
            });
        }
        for op in ["push", "fetch"] {
            metrics.streams.get_or_create_owned(&OpLabel { op });
        }
        metrics
    }
}

impl Metrics {
    /// Counts a refusal.
    pub fn refused(&self, kind: Kind) {
        self.refusals
            .get_or_create_owned(&KindLabel { kind: kind.name() })
            .inc();
    }

    /// Counts that a limit was met.
    pub fn limited(&self, limit: Limit) {
        self.limits
            .get_or_create_owned(&LimitLabel {
                limit: limit.name(),
            })
            .inc();
    }

    /// Counts a running stream ("push" or "fetch") for as long as the answer lives.
    pub fn stream(&self, op: &'static str) -> Running {
        Running::new(self.streams.get_or_create_owned(&OpLabel { op }))
    }

    /// Running streams.
    pub fn streams(&self, op: &'static str) -> i64 {
        self.streams.get_or_create_owned(&OpLabel { op }).get()
    }
}

impl Observer for Metrics {
    fn flushed(&self, _bytes: u64, took: Duration) {
        self.flush_latency.observe(took.as_secs_f64());
    }
}

/// Counts one as long as it lives.
pub struct Running(Gauge);

impl Running {
    /// Counts one more in this gauge.
    pub fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

pub(crate) fn add<M: prometheus_client::registry::Metric + Clone>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    metric: M,
) -> M {
    registry.register(name, help, metric.clone());
    metric
}

pub(crate) fn add_unit<M>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    unit: Unit,
    metric: M,
) -> M
where
    M: prometheus_client::registry::Metric + Clone,
{
    registry.register_with_unit(name, help, unit, metric.clone());
    metric
}
