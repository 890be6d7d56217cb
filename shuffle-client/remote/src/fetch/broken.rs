//! Damaged blocks of a section, and their owners.

use std::collections::BTreeSet;

use crate::{
    Owner,
    object::{Checked, Footer, Section},
};

/// The first mismatch in a section.
pub(super) fn broken(blocks: &Result<Vec<Checked>, String>) -> Option<String> {
    match blocks {
        Err(reason) => Some(reason.clone()),
        Ok(blocks) => blocks
            .iter()
            .find_map(|(_, block)| block.as_ref().err().cloned()),
    }
}

/// Owners of the damaged blocks; of all blocks possibly in the section if its table is damaged.
pub(super) fn owners_of(
    blocks: &Result<Vec<Checked>, String>,
    section: &Section,
    footer: &Footer,
) -> BTreeSet<Owner> {
    match blocks {
        Ok(blocks) => {
            let failed = blocks.iter().filter(|(_, block)| block.is_err());
            let owner = |(header, _): &Checked| (header.map_index, header.attempt);
            failed.map(owner).collect()
        }
        Err(_) => {
            let maps = section.first_map..=section.last_map;
            let of = section.partition..section.partition.saturating_add(1);
            let all = footer.all_totals().iter();
            let here = all
                .filter(|(owner, totals)| maps.contains(&owner.0.0) && totals.sum(&of).blocks > 0);
            here.map(|(owner, _)| *owner).collect()
        }
    }
}
