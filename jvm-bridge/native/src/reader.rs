//! A reader: the input of one reduce task, with the blocks lent to Java.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use shuffle_client::{
    AttemptId, Buffer, Client, Commit, Error, Location, MapIndex, Output, Part, ReadSpec,
    ReaderStats, Tally, VolumeId,
    blocking::{self, Reader as Input},
};

use crate::{error::invalid, handle::exclusive};

const NAME: &str = "reader";

/// The input of one reduce task.
pub(crate) struct Reader {
    input: Input,
    lending: Mutex<Lending>,
}

struct Lending {
    /// Memory in Java's hands: a buffer does not move until it is taken out.
    lent: HashMap<i64, Buffer>,
    next_id: i64,
}

/// A lent block, as Java gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lent {
    pub(crate) address: usize,
    pub(crate) length: usize,
    pub(crate) records: u32,
    pub(crate) partition: u32,
    pub(crate) map_index: u32,
    pub(crate) attempt: u64,
    pub(crate) id: i64,
    pub(crate) stored_bytes: u64,
    pub(crate) part: Part,
}

/// What `next` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Block(Lent),
    NotYet,
    End,
}

impl Reader {
    /// Starts to read; connects in the background.
    pub(crate) fn open(client: &Client, spec: ReadSpec) -> Self {
        Self {
            input: Input::open_in_parts(client, spec),
            lending: Mutex::new(Lending {
                lent: HashMap::new(),
                next_id: 1,
            }),
        }
    }

    /// What each server did so far.
    pub(crate) fn tally(&self) -> &Tally {
        self.input.tally()
    }

    /// The next block, lent until it is released.
    pub(crate) fn next(&self, timeout: Duration) -> Result<Next, Error> {
        let mut lending = exclusive(&self.lending, NAME)?;
        let block = match self.input.next(timeout)? {
            blocking::Next::Block(block) => block,
            blocking::Next::NotYet => return Ok(Next::NotYet),
            blocking::Next::End => {
                lending.lent.shrink_to_fit();
                return Ok(Next::End);
            }
        };
        let lent = Lent {
            address: block.data.as_ptr() as usize,
            length: block.data.len(),
            records: block.records,
            partition: block.partition.0,
            map_index: block.map_index.0,
            attempt: block.attempt.0,
            id: lending.next_id,
            stored_bytes: block.stored_bytes,
            part: block.part,
        };
        lending.next_id += 1;
        lending.lent.insert(lent.id, block.data);
        Ok(Next::Block(lent))
    }

    /// Takes back a block that was lent, with its bytes.
    pub(crate) fn take(&self, id: i64) -> Result<Buffer, Error> {
        let buffer = exclusive(&self.lending, NAME)?.lent.remove(&id);
        buffer.ok_or_else(|| invalid(format!("block {id} is not lent: take a block once")))
    }

    /// Frees a block that was lent. Releasing twice is a bug of the caller: the address may be
    /// another block's by now.
    pub(crate) fn release(&self, id: i64) -> Result<(), Error> {
        let buffer = exclusive(&self.lending, NAME)?.lent.remove(&id);
        match buffer {
            Some(_) => Ok(()),
            None => Err(invalid(format!(
                "block {id} is not lent: release a block once"
            ))),
        }
    }

    /// Frees everything but what is lent.
    pub(crate) fn cut(&self) -> Result<(), Error> {
        self.input.cut()
    }

    /// Counters so far.
    pub(crate) fn stats(&self) -> Result<ReaderStats, Error> {
        self.input.stats()
    }
}

/// The outputs of a read as Java passes them: columns, checked against each other.
pub(crate) struct OutputColumns {
    pub(crate) locations: Vec<String>,
    pub(crate) location: Vec<i32>,
    pub(crate) map_index: Vec<i32>,
    pub(crate) attempt: Vec<i64>,
    pub(crate) partition_counts: Vec<i32>,
    pub(crate) partitions: Vec<i32>,
}

impl OutputColumns {
    /// One `Output` per row.
    pub(crate) fn outputs(&self) -> Result<Vec<Output>, Error> {
        let rows = self.location.len();
        for (name, length) in [
            ("outputMapIndex", self.map_index.len()),
            ("outputAttempt", self.attempt.len()),
            ("partitionCounts", self.partition_counts.len()),
        ] {
            if length != rows {
                return Err(invalid(format!(
                    "{name} has {length} entries: outputLocation has {rows}, give as many"
                )));
            }
        }
        let locations = self
            .locations
            .iter()
            .map(|text| location(text))
            .collect::<Result<Vec<_>, _>>()?;
        let mut partitions = self.partitions.as_slice();
        let mut outputs = Vec::with_capacity(rows);
        for row in 0..rows {
            let index = self.location[row];
            let (place, mirror) = usize::try_from(index)
                .ok()
                .and_then(|index| locations.get(index))
                .ok_or_else(|| {
                    invalid(format!(
                        "outputLocation is {index}: there are {} locations",
                        locations.len()
                    ))
                })?;
            let count = self.partition_counts[row];
            let own = usize::try_from(count)
                .ok()
                .and_then(|count| partitions.split_off(..count))
                .ok_or_else(|| {
                    invalid(format!(
                        "partitionCounts is {count}: {} partitions are left to be counted",
                        partitions.len()
                    ))
                })?;
            outputs.push(Output {
                volume: place.volume,
                address: place.address.clone(),
                mirror: mirror.clone(),
                map_index: MapIndex(unsigned("outputMapIndex", self.map_index[row])?),
                attempt: AttemptId(self.attempt[row].cast_unsigned()),
                partitions: own
                    .iter()
                    .map(|&partition| unsigned("partitions", partition))
                    .collect::<Result<_, _>>()?,
            });
        }
        if partitions.is_empty() {
            Ok(outputs)
        } else {
            Err(invalid(format!(
                "partitions has {} entries more than partitionCounts counts",
                partitions.len()
            )))
        }
    }
}

/// `volume@host:port`, or two of them with a `+` in between.
fn location(text: &str) -> Result<(Location, Option<Location>), Error> {
    let mut places = text.splitn(2, '+').map(|place| {
        let (volume, address) = place.split_once('@')?;
        Some(Location {
            volume: VolumeId::parse(volume)?,
            address: address.to_owned(),
        })
    });
    let place = places.next().flatten();
    match (place, places.next()) {
        (Some(place), None) => Ok((place, None)),
        (Some(place), Some(Some(mirror))) => Ok((place, Some(mirror))),
        _ => Err(invalid(format!(
            "location is {text:?}: write volume@host:port, or two with a + in between"
        ))),
    }
}

/// As [`OutputColumns::outputs`] takes it.
pub(crate) fn location_of(commit: &Commit) -> String {
    let place = format!("{}@{}", commit.volume, commit.address);
    match &commit.mirror {
        Some(mirror) => format!("{place}+{}@{}", mirror.volume, mirror.address),
        None => place,
    }
}

/// A number for Java's int, not negative.
pub(crate) fn unsigned(name: &str, value: i32) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| invalid(format!("{name} is {value}: give 0 or more")))
}

#[cfg(test)]
mod tests {
    use shuffle_client::Kind;

    use super::*;

    const VOLUME: &str = "5f4d8e9a-3b5e-4d8a-9a57-0c1f5a7f3f10";

    const OTHER: &str = "0b6f2a54-6d0b-4f0e-8f5c-3a7f4f9f1c22";

    fn columns() -> OutputColumns {
        OutputColumns {
            locations: vec![
                format!("{VOLUME}@host-a:7400"),
                format!("{VOLUME}@[::1]:7400+{OTHER}@host-b:7400"),
            ],
            location: vec![1, 0],
            map_index: vec![4, 5],
            attempt: vec![40, i64::MAX],
            partition_counts: vec![2, 1],
            partitions: vec![7, 9, 8],
        }
    }

    #[test]
    fn columns_become_outputs() {
        let outputs = columns().outputs().expect("valid");
        assert_eq!(outputs[0].address, "[::1]:7400");
        assert_eq!(outputs[0].volume.to_string(), VOLUME);
        let mirror = outputs[0].mirror.as_ref().expect("two places");
        assert_eq!(mirror.address, "host-b:7400");
        assert_eq!(mirror.volume.to_string(), OTHER);
        assert_eq!(outputs[1].mirror, None);
        assert_eq!(
            (outputs[0].map_index, outputs[0].attempt),
            (MapIndex(4), AttemptId(40))
        );
        assert_eq!(outputs[0].partitions, [7, 9]);
        assert_eq!(outputs[1].partitions, [8]);
    }

    #[test]
    fn columns_that_do_not_fit_each_other_are_named() {
        let refused = |spoil: &dyn Fn(&mut OutputColumns), word: &str| {
            let mut columns = columns();
            spoil(&mut columns);
            let error = columns.outputs().expect_err(word);
            assert_eq!(error.kind, Kind::Invalid);
            assert!(error.message.contains(word), "{error}");
        };
        refused(&|c| c.map_index.clear(), "outputMapIndex");
        refused(&|c| c.attempt.clear(), "outputAttempt");
        refused(&|c| c.location[0] = 2, "outputLocation");
        refused(&|c| c.location[0] = -1, "outputLocation");
        refused(&|c| c.map_index[0] = -1, "outputMapIndex");
        refused(&|c| c.partition_counts[0] = 4, "partitionCounts");
        refused(&|c| c.partition_counts[0] = -1, "partitionCounts");
        refused(
            &|c| c.partition_counts[0] = 1,
            "partitions has 1 entries more",
        );
        refused(&|c| c.partitions[0] = -7, "partitions is -7");
        refused(&|c| c.locations[0] = "host:1".into(), "location is");
        refused(&|c| c.locations[0] += "+host:1", "location is");
        refused(&|c| c.locations[0] = "no-uuid@host:1".into(), "location is");
    }
}
