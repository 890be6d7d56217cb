//! Requests to the store per shuffle, by this process: stores charge by the request. Logged when a
//! shuffle is written back and when it is removed; never a label of a metric. Retries below the
//! verbs are invisible here.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
};

use parking_lot::Mutex;

use super::keys::ROOT;

/// Shuffles remembered; the oldest are forgotten first.
const SHUFFLES: usize = 4096;

/// Requests, in the classes of stores' price lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Puts, and all steps of uploads in parts.
    pub writes: u64,
    /// Gets and heads.
    pub reads: u64,
    /// Lists.
    pub lists: u64,
    /// Deletes.
    pub deletes: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Costs(Mutex<Known>);

#[derive(Default)]
struct Known {
    by_shuffle: HashMap<String, Cost>,
    order: VecDeque<String>,
}

impl Costs {
    /// Counts a request; requests of no shuffle are not counted.
    pub(super) fn count(&self, verb: &str, key: &str) {
        let Some(shuffle) = shuffle_of(key) else {
            return;
        };
        let mut known = self.0.lock();
        if !known.by_shuffle.contains_key(shuffle) {
            if known.order.len() == SHUFFLES
                && let Some(first) = known.order.pop_front()
            {
                known.by_shuffle.remove(&first);
            }
            known.order.push_back(shuffle.to_owned());
        }
        let cost = known.by_shuffle.entry(shuffle.to_owned()).or_default();
        *match verb {
            "get" | "head" => &mut cost.reads,
            "list" => &mut cost.lists,
            "delete" => &mut cost.deletes,
            _ => &mut cost.writes,
        } += 1;
    }

    /// Of a shuffle's directory.
    pub(super) fn of(&self, dir: &str) -> Cost {
        self.0
            .lock()
            .by_shuffle
            .get(dir)
            .copied()
            .unwrap_or_default()
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            writes,
            reads,
            lists,
            deletes,
        } = self;
        write!(
            f,
            "{writes} writes, {reads} reads, {lists} lists, {deletes} deletes"
        )
    }
}

/// `forebay-v1/<app>/<shuffle>` of a key in the shuffle's directory, or of the directory.
fn shuffle_of(key: &str) -> Option<&str> {
    let (app, rest) = key.strip_prefix(ROOT)?.strip_prefix('/')?.split_once('/')?;
    let number = rest.split('/').next()?;
    number.parse::<u32>().ok()?;
    Some(&key[..ROOT.len() + 1 + app.len() + 1 + number.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_for_their_shuffle_and_old_ones_are_forgotten() {
        let costs = Costs::default();
        for (verb, key) in [
            ("put", "forebay-v1/app/7/v/1.manifest"),
            ("part", "forebay-v1/app/7/v/1-0.obj"),
            ("get", "forebay-v1/app/7/v/1-0.obj"),
            ("list", "forebay-v1/app/7"),
            ("delete", "forebay-v1/app/7/v/1-0.obj"),
            ("put", "forebay-v1/app/lease"),
            ("list", ""),
            ("get", "forebay-v1/app/70/v/1-0.obj"),
        ] {
            costs.count(verb, key);
        }
        assert_eq!(
            costs.of("forebay-v1/app/7").to_string(),
            "2 writes, 1 reads, 1 lists, 1 deletes"
        );
        assert_eq!(costs.of("forebay-v1/app/70").reads, 1);
        for shuffle in 100..100 + SHUFFLES {
            costs.count("get", &format!("forebay-v1/app/{shuffle}/v/1-0.obj"));
        }
        assert_eq!(costs.of("forebay-v1/app/7"), Cost::default());
        assert_eq!(costs.0.lock().by_shuffle.len(), SHUFFLES);
    }
}
