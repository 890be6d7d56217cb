//! What is counted of the object store: requests by verb, bytes, and how write-back goes.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use shuffle_remote::{Meter, RESULTS, VERBS};

use super::{add, add_unit};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    verb: &'static str,
    result: &'static str,
}

/// See the module. Clones count together.
#[derive(Clone)]
pub struct RemoteMetrics {
    requests: Family<Request, Counter>,
    /// Bytes sent to the store.
    pub sent: Counter,
    /// Bytes received from the store.
    pub received: Counter,
    /// Bytes of blocks that were written back.
    pub written: Counter,
    /// Bytes of blocks that were in the store and are in fewer objects now.
    pub merged: Counter,
    /// Rounds of write-back that ended with a manifest.
    pub rounds: Counter,
    /// Rounds that failed and will be tried again.
    pub failures: Counter,
    /// Bytes of committed blocks that are in no object and are to be.
    pub backlog: Gauge,
    /// Seconds since the oldest of them was committed.
    pub oldest: Gauge,
    /// Objects of dead apps and shuffles that were removed.
    pub removed: Counter,
    /// Things below Forebay's directory that are not Forebay's.
    pub foreign: Counter,
}

impl RemoteMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        let metrics = Self {
            requests: add(
                r,
                "remote_requests",
                "Requests to the object store, by verb and result",
                Family::default(),
            ),
            sent: add_unit(
                r,
                "remote_sent",
                "Sent to the object store",
                Unit::Bytes,
                Counter::default(),
            ),
            received: add_unit(
                r,
                "remote_received",
                "Received from the object store",
                Unit::Bytes,
                Counter::default(),
            ),
            written: add_unit(
                r,
                "written_back",
                "Blocks written back to the object store",
                Unit::Bytes,
                Counter::default(),
            ),
            merged: add_unit(
                r,
                "writeback_merged",
                "Blocks written again, because they lay in many small objects",
                Unit::Bytes,
                Counter::default(),
            ),
            rounds: add(r, "writeback_rounds", "Manifests made", Counter::default()),
            failures: add(
                r,
                "writeback_failures",
                "Rounds of write-back that failed and are tried again",
                Counter::default(),
            ),
            backlog: add_unit(
                r,
                "writeback_backlog",
                "Committed blocks that wait to be written back",
                Unit::Bytes,
                Gauge::default(),
            ),
            oldest: add_unit(
                r,
                "writeback_oldest",
                "Since the oldest committed block that waits to be written back was committed",
                Unit::Seconds,
                Gauge::default(),
            ),
            removed: add(
                r,
                "remote_removed_objects",
                "Objects of deleted shuffles and apps removed from the object store",
                Counter::default(),
            ),
            foreign: add(
                r,
                "remote_foreign_things",
                "Things below Forebay's directory in the object store that are not Forebay's and are left alone",
                Counter::default(),
            ),
        };
        for verb in VERBS {
            for result in RESULTS {
                metrics
                    .requests
                    .get_or_create_owned(&Request { verb, result });
            }
        }
        metrics
    }
}

impl Meter for RemoteMetrics {
    fn request(&self, verb: &'static str, result: &'static str) {
        self.requests
            .get_or_create_owned(&Request { verb, result })
            .inc();
    }

    fn sent(&self, bytes: u64) {
        self.sent.inc_by(bytes);
    }

    fn received(&self, bytes: u64) {
        self.received.inc_by(bytes);
    }
}
