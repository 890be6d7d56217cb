//! A second chance for the tables of the index: a small file beside each from which a damaged
//! stretch of it is put together again.
//!
//! A table of RocksDB never changes, and holds thousands of records; a flipped bit in the wrong
//! place of it makes all of them unreadable. A table is cut into chunks of 4 KiB, of which every
//! sixteenth belongs to the same stripe; the parity of a stripe is the exclusive or of its chunks.
//! So 64 KiB in a row may be damaged, for 64 KiB and 0.1 % of the table.
//!
//! | bytes of `index/parity/<table>` | field |
//! |---|---|
//! | 0..4 | magic `FBPR` |
//! | 4..8 | version u32, 1 |
//! | 8..16 | length of the table u64 |
//! | 16.. | CRC-32 of each chunk u32 |
//! | after them | parity of each of the 16 stripes, 4096 bytes |
//! | the last 4 | CRC-32 of all before |
//!
//! Made when the index is opened, and now and then while it is written; a table without one is as
//! safe as RocksDB makes it.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::mend::{Change, read_around};

const CHUNK: usize = 4 << 10;
const STRIPES: usize = 16;
const MAGIC: [u8; 4] = *b"FBPR";
const VERSION: u32 = 1;
const HEADER: usize = 16;

/// What is known of a table.
struct Parity {
    length: u64,
    checksums: Vec<u32>,
    stripes: Vec<[u8; CHUNK]>,
}

fn dir_of(index: &Path) -> PathBuf {
    index.join("parity")
}

/// Compares all tables with what is known of them; answers how those that have changed are put
/// together again.
pub(super) fn look(index: &Path) -> io::Result<Vec<Change>> {
    let mut changes = Vec::new();
    for entry in fs::read_dir(dir_of(index)).into_iter().flatten() {
        let entry = entry?;
        let path = index.join(entry.file_name());
        let stored = fs::read(entry.path()).ok();
        let Some(parity) = stored.and_then(|stored| Parity::decode(&stored)) else {
            // It is made again.
            let _ = fs::remove_file(entry.path());
            continue;
        };
        let Ok(mut bytes) = read_around(&path) else {
            continue;
        };
        match parity.mend(&mut bytes) {
            Some(0) => {}
            Some(_) => changes.push(Change::whole(path, bytes)),
            None => {
                tracing::error!(path = %path.display(), "a table of the index has changed on the disk, more than can be put right");
            }
        }
    }
    Ok(changes)
}

/// Makes what is missing for these tables, and removes what is of others.
pub(super) fn protect(index: &Path, tables: &BTreeSet<String>) -> io::Result<()> {
    let dir = dir_of(index);
    fs::create_dir_all(&dir)?;
    let mut known = BTreeSet::new();
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if tables.contains(&name) {
            known.insert(name);
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    for table in tables.difference(&known) {
        match fs::read(index.join(table)) {
            Ok(bytes) => fs::write(dir.join(table), Parity::new(&bytes).encode())?,
            // Compacted away meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Parity {
    fn new(bytes: &[u8]) -> Self {
        let mut stripes = vec![[0; CHUNK]; STRIPES];
        let mut checksums = Vec::with_capacity(bytes.len() / CHUNK + 1);
        for (at, chunk) in bytes.chunks(CHUNK).enumerate() {
            checksums.push(crc32fast::hash(chunk));
            add(&mut stripes[at % STRIPES], chunk);
        }
        Self {
            length: bytes.len() as u64,
            checksums,
            stripes,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.checksums.len() * 4 + STRIPES * CHUNK + 4);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(self.length.to_le_bytes());
        let checksums = self.checksums.iter();
        checksums.for_each(|checksum| out.extend(checksum.to_le_bytes()));
        self.stripes.iter().for_each(|stripe| out.extend(stripe));
        let checksum = crc32fast::hash(&out);
        out.extend(checksum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (rest, stored) = bytes.split_last_chunk::<4>()?;
        let right = crc32fast::hash(rest) == u32::from_le_bytes(*stored);
        let head: &[u8; HEADER] = rest.first_chunk()?;
        if !right || head[..4] != MAGIC || head[4..8] != VERSION.to_le_bytes() {
            return None;
        }
        let length = u64::from_le_bytes(*head[8..].first_chunk()?);
        let (checksums, stripes) =
            rest[HEADER..].split_at_checked(rest.len().checked_sub(HEADER + STRIPES * CHUNK)?)?;
        Some(Self {
            length,
            checksums: checksums
                .as_chunks()
                .0
                .iter()
                .map(|checksum| u32::from_le_bytes(*checksum))
                .collect(),
            stripes: stripes.as_chunks().0.to_vec(),
        })
    }

    /// Puts right what it can; answers how many chunks, `None` if that is not all of them.
    fn mend(&self, bytes: &mut [u8]) -> Option<usize> {
        if bytes.len() as u64 != self.length {
            return None;
        }
        let chunks = bytes.chunks(CHUNK).zip(&self.checksums).enumerate();
        let bad = chunks.filter(|(_, (chunk, checksum))| crc32fast::hash(chunk) != **checksum);
        let bad: Vec<usize> = bad.map(|(at, _)| at).collect();
        let mut mended = 0;
        for &at in &bad {
            let stripe = at % STRIPES;
            if bad
                .iter()
                .filter(|other| **other % STRIPES == stripe)
                .count()
                > 1
            {
                continue;
            }
            let mut right = self.stripes[stripe];
            let others = bytes.chunks(CHUNK).enumerate();
            others
                .filter(|(other, _)| other % STRIPES == stripe && *other != at)
                .for_each(|(_, chunk)| add(&mut right, chunk));
            let end = bytes.len().min((at + 1) * CHUNK);
            let chunk = &mut bytes[at * CHUNK..end];
            let right = &right[..chunk.len()];
            if crc32fast::hash(right) == self.checksums[at] {
                chunk.copy_from_slice(right);
                mended += 1;
            }
        }
        (mended == bad.len()).then_some(mended)
    }
}

fn add(sum: &mut [u8; CHUNK], chunk: &[u8]) {
    sum.iter_mut()
        .zip(chunk)
        .for_each(|(sum, byte)| *sum ^= byte);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_of_up_to_sixteen_chunks_in_a_row_is_put_right_and_no_more() {
        for length in [0, 1, CHUNK, 3 * CHUNK + 5, 100 * CHUNK + 77] {
            let good: Vec<u8> = (0..length).map(|at| (at * 31 + at / 255) as u8).collect();
            let parity = Parity::decode(&Parity::new(&good).encode()).expect("its own");
            assert_eq!(parity.mend(&mut good.clone()), Some(0));
            for at in (0..length).step_by(1 + length / 50) {
                let mut bytes = good.clone();
                bytes[at] ^= 4;
                assert_eq!(parity.mend(&mut bytes), Some(1));
                assert!(bytes == good);
            }
            if length > 40 * CHUNK {
                let mut bytes = good.clone();
                bytes[10 * CHUNK..26 * CHUNK].fill(0);
                assert_eq!(parity.mend(&mut bytes), Some(16));
                assert!(bytes == good);
                bytes[10 * CHUNK..27 * CHUNK].fill(0);
                assert_eq!(parity.mend(&mut bytes), None);
            }
        }
    }
}
