//! A counter of requests to the store, passed in: servers have metrics, clients have none.

/// All verbs of requests.
pub const VERBS: [&str; 9] = [
    "put", "begin", "part", "complete", "abort", "get", "head", "delete", "list",
];
/// All results of a request.
pub const RESULTS: [&str; 4] = ["ok", "absent", "exists", "failed"];

/// Called for every finished request.
pub trait Meter: Send + Sync {
    /// A finished request: one of [`VERBS`], one of [`RESULTS`].
    fn request(&self, verb: &'static str, result: &'static str);
    /// Bytes sent to the store.
    fn sent(&self, bytes: u64);
    /// Bytes received from the store.
    fn received(&self, bytes: u64);
}

/// Counts nothing.
impl Meter for () {
    fn request(&self, _: &'static str, _: &'static str) {}
    fn sent(&self, _: u64) {}
    fn received(&self, _: u64) {}
}
