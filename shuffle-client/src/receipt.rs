//! What a map task tells the reduce tasks: where its output is, and which partitions have data.
//! Bytes on their way through the engine, which keeps them as it keeps its own.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;
use shuffle_proto::ids::{AttemptId, MapIndex, VolumeId};

use crate::{
    error::{Error, Kind},
    reader::Output,
    types::{Durability, Location},
    writer::{Commit, MapWriter},
};

/// Version of the bytes. Others are refused by name.
const VERSION: u8 = 1;

/// A committed output, with its name in the shuffle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The map task.
    pub map_index: MapIndex,
    /// The attempt.
    pub attempt: AttemptId,
    /// The commit.
    pub commit: Commit,
}

/// The bytes between version and checksum.
#[derive(Clone, PartialEq, prost::Message)]
struct Encoded {
    #[prost(uint32, tag = "1")]
    map_index: u32,
    #[prost(uint64, tag = "2")]
    attempt: u64,
    #[prost(message, repeated, tag = "3")]
    places: Vec<Place>,
    #[prost(string, tag = "4")]
    durability: String,
    #[prost(uint64, repeated, tag = "5")]
    partition_lengths: Vec<u64>,
    #[prost(uint64, tag = "6")]
    bytes: u64,
    #[prost(uint64, tag = "7")]
    records: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Place {
    #[prost(string, tag = "1")]
    volume: String,
    #[prost(string, tag = "2")]
    address: String,
}

impl Receipt {
    /// The receipt of what this writer has committed.
    pub fn of(writer: &MapWriter, commit: Commit) -> Self {
        let (map_index, attempt) = writer.name();
        Self {
            map_index,
            attempt,
            commit,
        }
    }

    /// The receipt as bytes: a version, the content, a checksum. One byte per partition without
    /// data, two to five per partition with some.
    pub fn encode(&self) -> Bytes {
        let commit = &self.commit;
        let main = Place {
            volume: commit.volume.to_string(),
            address: commit.address.clone(),
        };
        let mirror = commit.mirror.as_ref().map(|mirror| Place {
            volume: mirror.volume.to_string(),
            address: mirror.address.clone(),
        });
        let content = Encoded {
            map_index: self.map_index.0,
            attempt: self.attempt.0,
            places: std::iter::once(main).chain(mirror).collect(),
            durability: commit.durability.name().to_owned(),
            partition_lengths: commit.partition_lengths.clone(),
            bytes: commit.bytes,
            records: commit.records,
        }
        .encode_to_vec();
        let mut bytes = BytesMut::with_capacity(content.len() + 5);
        bytes.put_u8(VERSION);
        bytes.put_slice(&content);
        let checksum = crc32fast::hash(&bytes);
        bytes.put_u32_le(checksum);
        bytes.freeze()
    }

    /// The receipt that `bytes` are; an error if they are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let wrong = |what: &str| {
            let message = format!(
                "a receipt of {} bytes {what}: pass on what Receipt::encode gave, whole",
                bytes.len()
            );
            Error::new(Kind::Invalid, message)
        };
        let Some((content, mut checksum)) = bytes.split_last_chunk::<4>().map(|(a, b)| (a, &b[..]))
        else {
            return Err(wrong("is none"));
        };
        match content.first() {
            Some(&VERSION) => {}
            Some(other) => {
                return Err(wrong(&format!(
                    "has version {other} and this client reads {VERSION}"
                )));
            }
            None => return Err(wrong("is none")),
        }
        if crc32fast::hash(content) != checksum.get_u32_le() {
            return Err(wrong("was changed on its way"));
        }
        let encoded = Encoded::decode(&content[1..]).map_err(|error| wrong(&error.to_string()))?;
        let durability = encoded.durability.parse::<Durability>()?;
        let places: Option<Vec<Location>> = encoded
            .places
            .into_iter()
            .map(|place| {
                Some(Location {
                    volume: VolumeId::parse(&place.volume)?,
                    address: place.address,
                })
            })
            .collect();
        let mut places = places
            .ok_or_else(|| wrong("names a volume that is none"))?
            .into_iter();
        let place = places.next().ok_or_else(|| wrong("names no volume"))?;
        Ok(Self {
            map_index: MapIndex(encoded.map_index),
            attempt: AttemptId(encoded.attempt),
            commit: Commit {
                volume: place.volume,
                address: place.address,
                mirror: places.next(),
                durability,
                partition_lengths: encoded.partition_lengths,
                bytes: encoded.bytes,
                records: encoded.records,
            },
        })
    }

    /// The output as a reader of these partitions has to name it; `None` if none of them has data,
    /// and then the reader need not name it.
    pub fn output(&self, partitions: Range<u32>) -> Option<Output> {
        let commit = &self.commit;
        let with_data: Vec<u32> = (0u32..)
            .zip(&commit.partition_lengths)
            .filter(|(partition, length)| **length > 0 && partitions.contains(partition))
            .map(|(partition, _)| partition)
            .collect();
        (!with_data.is_empty()).then(|| Output {
            volume: commit.volume,
            address: commit.address.clone(),
            mirror: commit.mirror.clone(),
            map_index: self.map_index,
            attempt: self.attempt,
            partitions: with_data,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn volume(last: u16) -> VolumeId {
        VolumeId::parse(&format!("5f4d8e9a-3b5e-4d8a-9a57-0c1f5a7f{last:04x}")).expect("a volume")
    }

    fn receipt(lengths: Vec<u64>, mirror: bool, numbers: (u32, u64)) -> Receipt {
        let mirror = mirror.then(|| Location {
            volume: volume(2),
            address: "[::1]:7400".into(),
        });
        Receipt {
            map_index: MapIndex(numbers.0),
            attempt: AttemptId(numbers.1),
            commit: Commit {
                volume: volume(1),
                address: "server-a:7400".into(),
                durability: if mirror.is_some() {
                    Durability::Mirror
                } else {
                    Durability::Fsync
                },
                mirror,
                bytes: lengths.iter().fold(0, |sum, &length| sum | length),
                records: numbers.1,
                partition_lengths: lengths,
            },
        }
    }

    proptest! {
        #[test]
        fn a_receipt_comes_back_whole(
            lengths in prop::collection::vec(prop_oneof![Just(0), any::<u64>()], 0..40),
            mirror in any::<bool>(),
            numbers in any::<(u32, u64)>(),
            flipped in any::<prop::sample::Index>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let receipt = receipt(lengths, mirror, numbers);
            let bytes = receipt.encode();
            prop_assert_eq!(Receipt::decode(&bytes), Ok(receipt));
            // And in no other way: it would be read as an output without some of its rows.
            let mut spoilt = bytes.to_vec();
            spoilt[flipped.index(bytes.len())] ^= 4;
            prop_assert!(Receipt::decode(&spoilt).is_err());
            prop_assert!(Receipt::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }
    }

    #[test]
    fn only_partitions_with_data_are_named_and_an_output_without_any_is_none() {
        let receipt = receipt(vec![0, 5, 0, 7, 9], true, (3, 4));
        let output = receipt.output(0..4).expect("two have data");
        assert_eq!(output.partitions, [1, 3]);
        assert_eq!(output.mirror, receipt.commit.mirror);
        assert_eq!(
            (output.map_index, output.attempt),
            (MapIndex(3), AttemptId(4))
        );
        assert_eq!(receipt.output(2..3), None);
        assert_eq!(receipt.output(9..12), None);
    }

    #[test]
    fn bytes_of_another_version_are_refused_by_name() {
        let mut bytes = receipt(vec![1], false, (0, 0)).encode().to_vec();
        bytes[0] = 2;
        let error = Receipt::decode(&bytes).expect_err("another version");
        assert!(error.message.contains("version 2"), "{error}");
    }
}
