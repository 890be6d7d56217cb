//! Puts right what has changed in the files of the index, before RocksDB opens them.
//!
//! RocksDB finds a flipped bit in its log, and drops *everything that was written after it*: thousands of commits, for a bit. So its
//! files are looked at first. A byte that has changed in a record of a log (the write-ahead log, or MANIFEST, which is one) is put
//! right by the record's checksum, see `shuffle_proto::stored::mend`. A record of the write-ahead log that has changed more is left
//! out alone, and the log is written anew without it; what the log was is kept in `lost/`. A torn end is left as it is: RocksDB
//! knows what that is. Tables: [`super::parity`].
//!
//! | bytes of a log | field |
//! |---|---|
//! | | blocks of 32768 bytes, each with pieces one after the other; less than 7 bytes at the end of a block are zero |
//! | 0..4 of a piece | CRC-32C of its kind and payload, masked |
//! | 4..6 | length of the payload u16 |
//! | 6 | kind: 1 a whole record, 2 its first piece, 3 one in the middle, 4 its last; others only RocksDB knows |

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use shuffle_proto::stored::mend::{CASTAGNOLI, nearly};

const BLOCK: usize = 32 << 10;
const HEADER: usize = 7;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
/// Kinds that RocksDB writes with the settings of [`super::RocksIndex`] or may come to write: none with a longer header.
const KNOWN: [u8; 7] = [FULL, FIRST, MIDDLE, LAST, 9, 10, 130];
/// Suffix of a file that takes the place of another.
const NEW: &str = "mending";

/// What was found in a log.
#[derive(Debug, Default)]
struct Walk {
    /// Whether bytes were put right.
    mended: usize,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Good { kind: u8, payload: Range<usize> },
    Bad(Range<usize>),
}

/// Looks through an index; answers what could not be put right, for a person.
pub(super) fn mend(index: &Path) -> io::Result<Vec<String>> {
    let mut gone = Vec::new();
    let mut manifests = Vec::new();
    for entry in fs::read_dir(index)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.ends_with(NEW) {
            fs::remove_file(&path)?;
        } else if name.starts_with("MANIFEST-") {
            mend_log(&path, false)?;
            manifests.push(name);
        } else if name.ends_with(".log") {
            gone.extend(mend_log(&path, true)?);
        }
    }
    mend_current(index, manifests)?;
    Ok(gone)
}

/// The file that says which MANIFEST counts.
fn mend_current(index: &Path, mut manifests: Vec<String>) -> io::Result<()> {
    let path = index.join("CURRENT");
    manifests.sort(); // by number: they have leading zeros
    let Some(newest) = manifests.last() else {
        return Ok(());
    };
    let text = match fs::read(&path) {
        // Without it RocksDB would begin a new, empty index.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read?,
    };
    let named = |name: &String| text == format!("{name}\n").into_bytes();
    if !manifests.iter().any(named) {
        tracing::error!(path = %path.display(), newest, "the index's file CURRENT has changed: it is written anew");
        replace(&path, format!("{newest}\n").as_bytes())?;
    }
    Ok(())
}

fn mend_log(path: &Path, droppable: bool) -> io::Result<Option<String>> {
    let mut bytes = fs::read(path)?;
    let walk = walk(&mut bytes);
    // What is behind the last good piece is a torn end.
    let good = |piece: &Piece| matches!(piece, Piece::Good { .. });
    let last = walk.pieces.iter().rposition(good);
    let pieces = &walk.pieces[..last.map_or(0, |last| last + 1)];
    let bad: Vec<_> = pieces
        .iter()
        .filter_map(|piece| match piece {
            Piece::Bad(range) => Some(range.clone()),
            Piece::Good { .. } => None,
        })
        .collect();
    if walk.mended > 0 {
        tracing::error!(path = %path.display(), bytes = walk.mended, "bytes of the index's log have changed on the disk: they are put right");
    }
    if bad.is_empty() || !droppable {
        if walk.mended > 0 {
            replace(path, &bytes)?;
        }
        return Ok(None);
    }
    let lost = keep_lost(path)?;
    let message = format!(
        "{} is damaged at {bad:?}: what these records say is lost; the log as it was is {}",
        path.display(),
        lost.display()
    );
    tracing::error!("{message}");
    replace(path, &rewritten(&bytes, pieces))?;
    Ok(Some(message))
}

/// Walks over the pieces of a log and puts right what can be.
fn walk(bytes: &mut [u8]) -> Walk {
    let (mut walk, mut at) = (Walk::default(), 0);
    while at < bytes.len() {
        let end = (at / BLOCK * BLOCK + BLOCK).min(bytes.len());
        if end - at < HEADER || bytes[at..at + HEADER] == [0; HEADER] {
            at = end;
            continue;
        }
        if let Some((kind, payload)) = piece(bytes, at, end) {
            at = payload.end;
            walk.pieces.push(Piece::Good { kind, payload });
        } else if mend_piece(bytes, at, end) {
            walk.mended += 1;
        } else {
            // Where the length cannot be believed, the next piece is looked for.
            let next = (at + 1..end).find(|at| piece(bytes, *at, end).is_some());
            let next = next.unwrap_or(end);
            walk.pieces.push(Piece::Bad(at..next));
            at = next;
        }
    }
    walk
}

/// The piece at this place, if its checksum is right.
fn piece(bytes: &[u8], at: usize, end: usize) -> Option<(u8, Range<usize>)> {
    let header = bytes[at..end].first_chunk::<HEADER>()?;
    let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
    let kind = header[6];
    let payload = at + HEADER..at + HEADER + length;
    if payload.end > end || !KNOWN.contains(&kind) {
        return None;
    }
    let computed = CASTAGNOLI.of([&bytes[at + 6..payload.end]]);
    (masked(computed) == stored).then_some((kind, payload))
}

/// Puts one byte of a piece right; false if that does not make it a good one.
fn mend_piece(bytes: &mut [u8], at: usize, end: usize) -> bool {
    if end - at < HEADER {
        return false;
    }
    let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    let stored = u32::from_le_bytes(word);
    let length = usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
    let last = at + HEADER + length;
    if last <= end {
        let covered = at + 6..last;
        let computed = CASTAGNOLI.of([&bytes[covered.clone()]]);
        let wrong = computed ^ unmasked(stored);
        if nearly(masked(computed), stored) && KNOWN.contains(&bytes[at + 6]) {
            bytes[at..at + 4].copy_from_slice(&masked(computed).to_le_bytes());
            return true;
        }
        if let Some((place, bits)) = CASTAGNOLI.find(covered.len(), wrong) {
            bytes[at + 6 + place] ^= bits;
            if piece(bytes, at, end).is_some() {
                return true;
            }
            bytes[at + 6 + place] ^= bits;
        }
    }
    // The length itself.
    for place in [at + 4, at + 5] {
        let was = bytes[place];
        for byte in 0..=u8::MAX {
            bytes[place] = byte;
            if byte != was && piece(bytes, at, end).is_some() {
                return true;
            }
        }
        bytes[place] = was;
    }
    false
}

/// A log of the records that are whole.
fn rewritten(bytes: &[u8], pieces: &[Piece]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut begun: Option<Vec<u8>> = None;
    for piece in pieces {
        let Piece::Good { kind, payload } = piece else {
            begun = None;
            continue;
        };
        let payload = &bytes[payload.clone()];
        match (*kind, &mut begun) {
            (FIRST, _) => begun = Some(payload.to_vec()),
            (MIDDLE, Some(record)) => record.extend(payload),
            (LAST, Some(record)) => {
                record.extend(payload);
                put(&mut out, FULL, record);
                begun = None;
            }
            (MIDDLE | LAST, None) => {}
            (kind, _) => put(&mut out, kind, payload),
        }
    }
    out
}

/// Appends a record, in as many pieces as its blocks need.
fn put(out: &mut Vec<u8>, kind: u8, record: &[u8]) {
    let mut rest = record;
    let mut first = true;
    loop {
        let mut room = BLOCK - out.len() % BLOCK;
        if room < HEADER {
            out.resize(out.len() + room, 0);
            room = BLOCK;
        }
        let (now, later) = rest.split_at(rest.len().min(room - HEADER));
        let kind = match (kind, first, later.is_empty()) {
            (kind, true, true) => kind,
            (_, true, false) => FIRST,
            (_, false, false) => MIDDLE,
            (_, false, true) => LAST,
        };
        let checksum = masked(CASTAGNOLI.of([&[kind][..], now]));
        out.extend(checksum.to_le_bytes());
        out.extend((now.len() as u16).to_le_bytes());
        out.push(kind);
        out.extend(now);
        (rest, first) = (later, false);
        if rest.is_empty() {
            return;
        }
    }
}

fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn unmasked(stored: u32) -> u32 {
    stored.wrapping_sub(0xa282_ead8).rotate_left(15)
}

/// Copies a file of the index to where a person finds it, under a name that is not taken.
pub(super) fn keep_lost(path: &Path) -> io::Result<PathBuf> {
    let volume = path.parent().and_then(Path::parent).unwrap_or(path);
    let lost = volume.join("lost");
    fs::create_dir_all(&lost)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let free = (0..).map(|number| lost.join(format!("index-{name}.{number}")));
    let mut free = free.skip_while(|path| path.exists());
    let to = free.next().unwrap_or_else(|| lost.join("index"));
    fs::copy(path, &to)?;
    Ok(to)
}

/// Replaces a file, whole or not at all.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!("{name}.{NEW}"));
    fs::write(&new, bytes)?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
