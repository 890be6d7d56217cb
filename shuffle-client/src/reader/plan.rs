//! What a reader must see, by server: pure functions of the spec.

use std::collections::{BTreeMap, HashMap, HashSet};

use rand::seq::SliceRandom as _;
use shuffle_proto::{
    ids::{AttemptId, VolumeId},
    v1,
    wire::{self, MAX_WANTED},
};

use super::{ReadSpec, spec::Turn, verify::Progress};
use crate::{
    backoff::Backoff,
    error::{Error, Kind},
    settings::is_address,
};

/// Outputs for one call.
pub(super) struct Group {
    /// The server to ask; the object store's name where `direct`.
    pub(super) address: String,
    /// Volumes, in no order.
    pub(super) volumes: Vec<VolumeId>,
    /// Expected outputs, and their progress.
    pub(super) expected: HashMap<AttemptId, Progress>,
    /// Number of searches for these volumes.
    pub(super) moves: u32,
    /// Former server of the volumes, if `address` stands in for it with objects from the store.
    pub(super) home: Option<String>,
    /// No server is asked: the objects are read from here.
    pub(super) direct: bool,
    /// Why the object store did not help when it was looked into from here.
    pub(super) looked: Option<Looked>,
    /// The failures that led here from the other copies.
    pub(super) backoff: Option<Backoff>,
}

/// Result of a vain look into the object store.
pub(super) struct Looked {
    pub(super) kind: Kind,
    pub(super) message: String,
    /// Attempts seen to be missing.
    pub(super) missing: Vec<AttemptId>,
}

/// Checks the spec and groups its outputs by server, in random order: a thousand reducers started
/// together do not all start with the same server. Of two copies one is chosen by hash, the same
/// for all readers, for the sake of servers' caches; but a copy on this machine if the other is
/// not, and the other copy if its server was found gone a moment ago.
pub(super) fn groups(
    spec: &ReadSpec,
    is_down: impl Fn(&str) -> bool,
    is_here: impl Fn(&str) -> bool,
) -> Result<Vec<Group>, Error> {
    check(spec)?;
    let outputs = spec.outputs.iter().map(|output| {
        let mut output = output.clone();
        // The highest bit of a product with 2^64 / phi: attempts are numbered in turn.
        let second = output.attempt.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 == 1;
        if second {
            output.swap(Turn::ForNow);
        }
        let mirror = output.mirror.as_ref();
        if mirror.is_some_and(|mirror| is_here(&mirror.address) && !is_here(&output.address)) {
            output.swap(Turn::ForNow);
        }
        if is_down(&output.address) {
            output.swap(Turn::ForNow);
        }
        Progress::new(output)
    });
    let mut groups = by_server(outputs);
    groups.shuffle(&mut rand::rng());
    Ok(groups)
}

/// Groups outputs by server, with several groups where there are more outputs than one request
/// names.
fn by_server(outputs: impl Iterator<Item = Progress>) -> Vec<Group> {
    let mut servers: BTreeMap<(String, usize), Group> = BTreeMap::new();
    let mut counts: HashMap<String, usize> = HashMap::new();
    for progress in outputs {
        let output = &progress.output;
        let count = counts.entry(output.address.clone()).or_default();
        let part = *count / MAX_WANTED;
        *count += 1;
        let group = servers
            .entry((output.address.clone(), part))
            .or_insert_with(|| Group {
                address: output.address.clone(),
                volumes: Vec::new(),
                expected: HashMap::new(),
                moves: 0,
                home: None,
                direct: false,
                looked: None,
                backoff: None,
            });
        if !group.volumes.contains(&output.volume) {
            group.volumes.push(output.volume);
        }
        group.expected.insert(output.attempt, progress);
    }
    servers.into_values().collect()
}

impl Group {
    /// Wanted attempts of each volume, in the volumes' order.
    pub(super) fn wanted(&self) -> Vec<v1::Attempts> {
        let of = |volume: &VolumeId| {
            let outputs = self.expected.values().map(|progress| &progress.output);
            let mut wanted: Vec<_> = outputs
                .filter(|output| output.volume == *volume)
                .map(|output| (output.map_index, output.attempt))
                .collect();
            wanted.sort_unstable();
            wire::attempts_message(wanted)
        };
        self.volumes.iter().map(of).collect()
    }

    /// Whether an output, or the output of this attempt, has another copy.
    pub(super) fn is_mirrored(&self, only: Option<AttemptId>) -> bool {
        let mut outputs = self.expected.values().map(|progress| &progress.output);
        outputs
            .any(|output| output.mirror.is_some() && only.is_none_or(|only| only == output.attempt))
    }

    /// Takes out the outputs with another copy, or the output of this attempt, to be fetched from
    /// there.
    pub(super) fn split_mirrored(
        &mut self,
        turn: Turn,
        only: Option<AttemptId>,
        backoff: &Backoff,
    ) -> Vec<Group> {
        let moved = self.expected.extract_if(|attempt, progress| {
            only.is_none_or(|only| only == *attempt) && progress.output.swap(turn)
        });
        let mut groups = by_server(moved.map(|(_, progress)| progress));
        for group in &mut groups {
            group.moves = self.moves;
            group.backoff = Some(backoff.clone());
        }
        self.volumes.retain(|volume| {
            let mut outputs = self.expected.values().map(|progress| &progress.output);
            outputs.any(|output| output.volume == *volume)
        });
        groups
    }

    /// Takes the outputs of one volume out, for a call of their own.
    pub(super) fn split_off(&mut self, volume: VolumeId, address: String) -> Group {
        self.volumes.retain(|other| *other != volume);
        let expected = self
            .expected
            .extract_if(|_, progress| progress.output.volume == volume)
            .collect();
        let moves = self.moves + u32::from(address != self.address);
        Group {
            address,
            volumes: vec![volume],
            expected,
            moves,
            home: None,
            direct: false,
            looked: None,
            backoff: None,
        }
    }

    /// The whole group of one volume, to be tried again after others.
    pub(super) fn postpone(&mut self) -> Option<Group> {
        let volume = self.volumes.first().copied()?;
        let (looked, home) = (self.looked.take(), self.home.take());
        Some(Group {
            looked,
            home,
            ..self.split_off(volume, self.address.clone())
        })
    }

    /// A group of the volume's outputs, to be fetched from a server that has the object store and
    /// not the volume.
    pub(super) fn stand_in(&mut self, volume: VolumeId, address: String) -> Group {
        let home = self.home.clone().unwrap_or_else(|| self.address.clone());
        Group {
            home: Some(home),
            ..self.split_off(volume, address)
        }
    }

    /// A group of the volume's outputs, to be read from the object store itself.
    pub(super) fn direct(&mut self, volume: VolumeId, store: &str) -> Group {
        Group {
            direct: true,
            ..self.stand_in(volume, store.to_owned())
        }
    }
}

fn check(spec: &ReadSpec) -> Result<(), Error> {
    let refuse = |what: String| {
        let message = format!(
            "read of shuffle {}, app {}: {what}",
            spec.shuffle, spec.caller.app
        );
        Err(Error::new(Kind::Invalid, message))
    };
    for (field, range) in [("partitions", &spec.partitions), ("maps", &spec.maps)] {
        if let Err(invalid) = wire::range(field, range.start, range.end) {
            return refuse(invalid.to_string());
        }
    }
    let mut maps = HashSet::new();
    let mut attempts = HashSet::new();
    for output in &spec.outputs {
        let (map, attempt) = (output.map_index, output.attempt);
        if !spec.maps.contains(&map.0) {
            return refuse(format!(
                "output of map {map} is outside maps {:?}: ask for it, or leave it out",
                spec.maps
            ));
        }
        if !maps.insert(map) || !attempts.insert(attempt) {
            return refuse(format!(
                "map {map}, attempt {attempt} is named twice: name each map and attempt once"
            ));
        }
        let mirror = output.mirror.iter().map(|mirror| &mirror.address);
        let mut addresses = mirror.chain([&output.address]);
        if let Some(address) = addresses.find(|address| !is_address(address)) {
            return refuse(format!(
                "address of map {map} is {address:?}: write host:port"
            ));
        }
        let inside = output
            .partitions
            .iter()
            .all(|partition| spec.partitions.contains(partition));
        if !inside || !output.partitions.is_sorted_by(|a, b| a < b) {
            return refuse(format!(
                "partitions of map {map} are not ascending within {:?}: send them so",
                spec.partitions
            ));
        }
    }
    Ok(())
}
