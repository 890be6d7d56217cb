//! A log of RocksDB, piece by piece: what is whole, what is put right, and what is left out.
//!
//! | bytes of a log | field |
//! |---|---|
//! | | blocks of 32768 bytes, each with pieces one after the other; less than 7 bytes at the end of a block are zero |
//! | 0..4 of a piece | CRC-32C of its kind and payload, masked |
//! | 4..6 | length of the payload u16 |
//! | 6 | kind: 1 a whole record, 2 its first piece, 3 one in the middle, 4 its last; others only RocksDB knows |

use std::ops::Range;

use shuffle_proto::stored::mend::{CASTAGNOLI, nearly};

use super::seal;

const BLOCK: usize = 32 << 10;
const HEADER: usize = 7;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
/// Kinds that RocksDB writes with the settings of [`super::super::RocksIndex`] or may come to
/// write: none with a longer header.
const KNOWN: [u8; 7] = [FULL, FIRST, MIDDLE, LAST, 9, 10, 130];

/// A log that was looked through.
#[derive(Debug)]
pub(super) struct Log {
    /// The log's bytes, with everything put right that could be.
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Good {
        kind: u8,
        payload: Range<usize>,
        /// Bytes that were put right.
        mended: Option<Range<usize>>,
    },
    Bad(Range<usize>),
}

/// What is to become of a log.
pub(super) enum Verdict {
    /// Nothing.
    Whole,
    /// These bytes are to take the place of what is there.
    Mended(Vec<(usize, u8)>),
    /// The log is to be this, without what was in these places.
    Shortened(Vec<u8>, Vec<Range<usize>>),
}

impl Log {
    /// Walks over the pieces and puts right what can be.
    pub(super) fn read(bytes: Vec<u8>) -> Self {
        let mut log = Self {
            bytes,
            pieces: Vec::new(),
        };
        log.walk();
        log
    }

    fn walk(&mut self) {
        let (bytes, mut at) = (&mut self.bytes, 0);
        while at < bytes.len() {
            let block_end = at / BLOCK * BLOCK + BLOCK;
            let end = block_end.min(bytes.len());
            if block_end - at < HEADER {
                at = end;
                continue;
            }
            let mut mended = None;
            let whole = piece(bytes, at, end).or_else(|| {
                mended = mend_piece(bytes, at, end);
                mended.is_some().then(|| piece(bytes, at, end)).flatten()
            });
            if let Some((kind, payload)) = whole {
                at = payload.end;
                self.pieces.push(Piece::Good {
                    kind,
                    payload,
                    mended,
                });
            } else {
                // Where the length cannot be believed, the next piece is looked for.
                let next = (at + 1..end).find(|at| piece(bytes, *at, end).is_some());
                let next = next.unwrap_or(end);
                self.pieces.push(Piece::Bad(at..next));
                at = next;
            }
        }
    }

    /// Takes back what was put right of records whose seal does not fit then: it was a wrong guess.
    /// Of the write-ahead log only.
    pub(super) fn check_seals(&mut self) {
        let is_mended =
            |piece: &Piece| matches!(piece, Piece::Good { mended, .. } if mended.is_some());
        if !self.pieces.iter().any(is_mended) {
            return;
        }
        let (mut wrong, mut before) = (Vec::new(), None);
        for record in self.records() {
            let sequence = self.record(&record);
            let sequence = sequence.as_deref().and_then(seal::sequence);
            let start = sequence.as_ref().map(|sequence| sequence.start);
            let right = start.is_some() && before.is_none_or(|before| Some(before) == start);
            if self.pieces[record.clone()].iter().any(is_mended) && !right {
                wrong.extend(record);
                before = None;
            } else {
                before = sequence.map(|sequence| sequence.end);
            }
        }
        for at in wrong {
            if let Piece::Good { payload, .. } = &self.pieces[at] {
                self.pieces[at] = Piece::Bad(payload.start - HEADER..payload.end);
            }
        }
    }

    /// Which pieces are a record's, for all that are whole.
    fn records(&self) -> Vec<Range<usize>> {
        let (mut records, mut begun) = (Vec::new(), None);
        for (at, piece) in self.pieces.iter().enumerate() {
            match piece {
                Piece::Bad(_) => begun = None,
                Piece::Good { kind: FIRST, .. } => begun = Some(at),
                Piece::Good { kind: MIDDLE, .. } => {}
                Piece::Good { kind: LAST, .. } => {
                    records.extend(begun.take().map(|begun| begun..at + 1));
                }
                Piece::Good { .. } => {
                    begun = None;
                    records.push(at..at + 1);
                }
            }
        }
        records
    }

    /// The bytes of a record of changes; `None` if it is of another kind.
    fn record(&self, pieces: &Range<usize>) -> Option<Vec<u8>> {
        let mut record = Vec::new();
        for piece in &self.pieces[pieces.clone()] {
            match piece {
                Piece::Good {
                    kind: FULL | FIRST | MIDDLE | LAST,
                    payload,
                    ..
                } => record.extend(&self.bytes[payload.clone()]),
                _ => return None,
            }
        }
        Some(record)
    }

    /// Decides what becomes of the log. With `droppable`, bad records are left out, so that the
    /// records behind them are kept. With `newest`, a bad end counts as torn: it was never written
    /// whole.
    pub(super) fn verdict(mut self, droppable: bool, newest: bool) -> Verdict {
        if droppable && newest {
            let good = |piece: &Piece| matches!(piece, Piece::Good { .. });
            let last = self.pieces.iter().rposition(good);
            self.pieces.truncate(last.map_or(0, |last| last + 1));
        }
        let bad = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Bad(range) => Some(range.clone()),
            Piece::Good { .. } => None,
        });
        let bad: Vec<_> = bad.collect();
        if droppable && !bad.is_empty() {
            return Verdict::Shortened(self.rewritten(), bad);
        }
        let mended = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Good { mended, .. } => mended.clone(),
            Piece::Bad(_) => None,
        });
        let mended: Vec<_> = mended.flatten().map(|at| (at, self.bytes[at])).collect();
        match mended.is_empty() {
            true => Verdict::Whole,
            false => Verdict::Mended(mended),
        }
    }

    /// A log of the records that are whole.
    fn rewritten(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len());
        for pieces in self.records() {
            match (self.record(&pieces), &self.pieces[pieces.start]) {
                (Some(record), _) => put(&mut out, FULL, &record),
                (None, Piece::Good { kind, payload, .. }) => {
                    put(&mut out, *kind, &self.bytes[payload.clone()]);
                }
                (None, Piece::Bad(_)) => {}
            }
        }
        out
    }
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

/// Corrects one byte of a piece or of its checksum and returns the places; `None` if no single byte
/// makes the piece whole.
fn mend_piece(bytes: &mut [u8], at: usize, end: usize) -> Option<Range<usize>> {
    if end - at < HEADER {
        return None;
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
            return Some(at..at + 4);
        }
        if let Some((place, bits)) = CASTAGNOLI.find(covered.len(), wrong) {
            bytes[at + 6 + place] ^= bits;
            if piece(bytes, at, end).is_some() {
                return Some(at + 6 + place..at + 7 + place);
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
                return Some(place..place + 1);
            }
        }
        bytes[place] = was;
    }
    None
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

#[cfg(test)]
pub(super) mod tests;
