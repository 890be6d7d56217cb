//! What ends the answer to a fetch: which attempts it covered, and what their commits say of the
//! fetched partitions.

use std::collections::HashMap;

use prost::encoding::encoded_len_varint;

use crate::{
    ids::{AttemptId, MapIndex},
    v1,
};

/// Which attempts a fetch covered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Attempts that were served whole, ascending by map index and attempt.
    pub covered: Vec<AttemptTotals>,
    /// Attempts that were committed here and cannot be served.
    pub lost: Vec<LostAttempt>,
}

/// What an attempt's commit says of the fetched partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptTotals {
    /// Position of the map task.
    pub map_index: MapIndex,
    /// The try.
    pub attempt: AttemptId,
    /// Blocks.
    pub blocks: u32,
    /// Stored bytes.
    pub bytes: u64,
    /// Records.
    pub records: u64,
}

/// An attempt that cannot be served, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostAttempt {
    /// Position of the map task.
    pub map_index: MapIndex,
    /// The try.
    pub attempt: AttemptId,
    /// For a person: file, offset, cause.
    pub reason: String,
}

/// Longest reason that travels.
const REASON: usize = 400;

/// What is left of a message, while it is filled.
#[derive(Default)]
struct Messages {
    done: Vec<v1::Summary>,
    current: v1::Summary,
    bytes: usize,
    most: usize,
}

/// The summaries of several volumes as messages of at most so many bytes: one, unless that is too
/// little.
///
/// A disk that fails loses thousands of attempts for one reason, which is written out for the first
/// of them in each message: the others name that one.
pub fn messages(summaries: impl IntoIterator<Item = Summary>, most: usize) -> Vec<v1::Summary> {
    let mut messages = Messages {
        most,
        ..Messages::default()
    };
    let mut told: HashMap<String, String> = HashMap::new();
    for summary in summaries {
        for one in summary.covered {
            let lengths = [
                u64::from(one.map_index.0),
                one.attempt.0,
                u64::from(one.blocks),
                one.bytes,
                one.records,
            ];
            messages.room(lengths.map(encoded_len_varint).iter().sum());
            let message = &mut messages.current;
            message.map_index.push(one.map_index.0);
            message.attempt.push(one.attempt.0);
            message.blocks.push(one.blocks);
            message.bytes.push(one.bytes);
            message.records.push(one.records);
        }
        for lost in summary.lost {
            let known = told.get(&lost.reason).cloned();
            let reason = known.unwrap_or_else(|| shortened(&lost.reason));
            // With tags and the lengths of the reason and of the entry.
            if messages.room(reason.len() + 32) {
                told.clear();
            }
            told.entry(lost.reason)
                .or_insert_with(|| as_of(lost.map_index.0, lost.attempt.0));
            messages.current.lost.push(v1::LostAttempt {
                map_index: lost.map_index.0,
                attempt: lost.attempt.0,
                reason,
            });
        }
    }
    messages.done.push(messages.current);
    messages.done
}

/// A reason that an attempt which came before has too.
fn as_of(map_index: u32, attempt: u64) -> String {
    format!("as map {map_index} attempt {attempt}")
}

/// Why an attempt is lost, in words: where its reason is another's, the other's.
pub fn reason<'a>(lost: &'a [v1::LostAttempt], of: &'a v1::LostAttempt) -> &'a str {
    let same = of.reason.starts_with("as map ").then(|| {
        lost.iter()
            .find(|other| as_of(other.map_index, other.attempt) == of.reason)
    });
    same.flatten().map_or(&of.reason, |other| &other.reason)
}

impl Messages {
    /// Sees to it that so many bytes fit into the current message; true if that is a new one.
    fn room(&mut self, bytes: usize) -> bool {
        // The columns' own tags and lengths are a few bytes.
        let new = self.bytes > 0 && self.bytes + bytes + 64 > self.most;
        if new {
            self.current.more = true;
            self.done.push(std::mem::take(&mut self.current));
            self.bytes = 0;
        }
        self.bytes += bytes;
        new
    }
}

/// Both ends of a text that is too long: the file, and what is the matter with it.
fn shortened(reason: &str) -> String {
    let characters = reason.chars().count();
    if characters <= REASON {
        return reason.to_owned();
    }
    let head: String = reason.chars().take(REASON / 2).collect();
    let tail: String = reason.chars().skip(characters - REASON / 2).collect();
    format!("{head} … {tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(map: u32, reason: &str) -> LostAttempt {
        LostAttempt {
            map_index: MapIndex(map),
            attempt: AttemptId(u64::from(map) + 1000),
            reason: reason.into(),
        }
    }

    fn covered(map: u32) -> AttemptTotals {
        AttemptTotals {
            map_index: MapIndex(map),
            attempt: AttemptId(u64::MAX - u64::from(map)),
            blocks: map,
            bytes: 1 << 40,
            records: 1,
        }
    }

    #[test]
    fn a_small_summary_is_one_message_and_an_empty_one_too() {
        let one = Summary {
            covered: vec![covered(1)],
            lost: vec![lost(2, "gone")],
        };
        let all = messages([Summary::default(), one], 1 << 20);
        assert_eq!(all.len(), 1);
        assert!(!all[0].more);
        assert_eq!((all[0].map_index.len(), all[0].lost.len()), (1, 1));
        assert_eq!(messages([], 1 << 20), [v1::Summary::default()]);
    }

    #[test]
    fn a_large_summary_is_several_messages_that_say_so_and_none_is_too_long() {
        use prost::Message as _;
        let long = format!("/{}/x.seg ends at 0", "d".repeat(3000));
        let lost = (0..3000).map(|map| lost(map, if map % 2 == 0 { &long } else { "other" }));
        let summary = Summary {
            covered: (5000..15_000).map(covered).collect(),
            lost: lost.collect(),
        };
        let most = 64 << 10;
        let all = messages([summary.clone(), Summary::default()], most);
        assert!(all.len() > 2);
        for (at, message) in all.iter().enumerate() {
            assert!(message.encoded_len() <= most, "{}", message.encoded_len());
            assert_eq!(message.more, at + 1 < all.len());
        }
        let came = all.iter().flat_map(|message| &message.map_index);
        assert!(came.copied().eq(5000..15_000));
        let came: Vec<_> = all.iter().flat_map(|message| &message.lost).collect();
        assert!(came.iter().map(|lost| lost.map_index).eq(0..3000));
        // Each is told why, and the first of a kind in words.
        assert!(came[0].reason.len() < 2 * REASON && came[0].reason.ends_with("x.seg ends at 0"));
        assert_eq!(came[1].reason, "other");
        assert!(came[2].reason.starts_with("as map "), "{}", came[2].reason);
        let first: Vec<_> = all
            .iter()
            .flat_map(|message| message.lost.clone())
            .collect();
        assert_eq!(reason(&first, &first[2]), first[0].reason);
        assert_eq!(reason(&first, &first[1]), "other");
        assert!(came.iter().all(|lost| !lost.reason.is_empty()));
    }
}
