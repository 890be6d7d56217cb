//! What a reader must see, by server: pure functions of the spec.

use std::collections::{BTreeMap, HashMap, HashSet};

use rand::seq::SliceRandom as _;
use shuffle_proto::{
    ids::{AttemptId, VolumeId},
    wire,
};

use super::{ReadSpec, verify::Progress};
use crate::{
    error::{Error, Kind},
    settings::is_address,
};

/// Outputs that are fetched with one call.
pub(super) struct Group {
    /// Server that is asked.
    pub(super) address: String,
    /// Volumes, in no order.
    pub(super) volumes: Vec<VolumeId>,
    /// What must be seen, and what has been.
    pub(super) expected: HashMap<AttemptId, Progress>,
    /// How often these volumes were looked for elsewhere.
    pub(super) moves: u32,
    /// Server that has, or had, the volumes, if `address` stands in for it with what lies in the object store.
    pub(super) home: Option<String>,
}

/// Checks the spec and groups its outputs by server, in random order: a thousand reducers that start together do not all start with
/// the same server.
pub(super) fn groups(spec: &ReadSpec) -> Result<Vec<Group>, Error> {
    check(spec)?;
    let mut servers: BTreeMap<&str, Group> = BTreeMap::new();
    for output in &spec.outputs {
        let group = servers.entry(&output.address).or_insert_with(|| Group {
            address: output.address.clone(),
            volumes: Vec::new(),
            expected: HashMap::new(),
            moves: 0,
            home: None,
        });
        if !group.volumes.contains(&output.volume) {
            group.volumes.push(output.volume);
        }
        group.expected.insert(output.attempt, Progress::new(output));
    }
    let mut groups: Vec<Group> = servers.into_values().collect();
    groups.shuffle(&mut rand::rng());
    Ok(groups)
}

impl Group {
    /// Takes the outputs of one volume out, to be fetched by a call of their own.
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
        }
    }

    /// The same, to be fetched from a server that does not have the volume, but the object store.
    pub(super) fn stand_in(&mut self, volume: VolumeId, address: String) -> Group {
        let home = self.home.clone().unwrap_or_else(|| self.address.clone());
        Group {
            home: Some(home),
            ..self.split_off(volume, address)
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
        if !is_address(&output.address) {
            return refuse(format!(
                "address of map {map} is {:?}: write host:port",
                output.address
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
