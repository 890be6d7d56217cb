//! Who counts the requests to the store: a part that is passed in, because a server has metrics and
//! a client has none.

/// All verbs of requests.
pub const VERBS: [&str; 9] = [
    "put", "begin", "part", "complete", "abort", "get", "head", "delete", "list",
];
/// All results that one can have.
pub const RESULTS: [&str; 4] = ["ok", "absent", "exists", "failed"];

/// Hears of every request as it ends.
pub trait Meter: Send + Sync {
    /// A request has ended: one of [`VERBS`], one of [`RESULTS`].
    fn request(&self, verb: &'static str, result: &'static str);
    /// Bytes that the store took.
    fn sent(&self, bytes: u64);
    /// Bytes that the store gave.
    fn received(&self, bytes: u64);
}

/// Counts nothing.
impl Meter for () {
    fn request(&self, _: &'static str, _: &'static str) {}
    fn sent(&self, _: u64) {}
    fn received(&self, _: u64) {}
}
