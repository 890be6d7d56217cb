//! Logs with all kinds of damage: what is put right, and what is left out.

use super::*;
use crate::index::{Changes, Step, record_of};

/// Batches of many lengths, over several blocks, as they are written one after the other; every
/// third deletes only.
pub(in crate::index::mend) fn records() -> Vec<Vec<u8>> {
    let mut sequence = 1u64;
    let record = |number: usize| {
        let length = if number % 40 == 7 {
            40_000
        } else {
            20 + number
        };
        let value: Vec<u8> = (0..length).map(|at| (at * number + at / 3) as u8).collect();
        let step = match number % 3 {
            0 => Step::DeleteRange(value[..10].to_vec(), value[10..].to_vec()),
            1 => Step::Delete(value),
            _ => Step::Put(value[..9].to_vec(), value),
        };
        let mut record = record_of(&Changes { steps: vec![step] });
        record[..8].copy_from_slice(&sequence.to_le_bytes());
        sequence += 1;
        record
    };
    (0..200).map(record).collect()
}

pub(in crate::index::mend) fn log(records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    records
        .iter()
        .for_each(|record| put(&mut bytes, FULL, record));
    bytes
}

/// The records of a log.
pub(in crate::index::mend) fn read(bytes: &[u8]) -> Vec<Vec<u8>> {
    let log = Log::read(bytes.to_vec());
    let records = log.records();
    records.iter().filter_map(|one| log.record(one)).collect()
}

/// What a log is after it was looked through.
fn looked(bytes: &[u8], newest: bool) -> Vec<u8> {
    let mut log = Log::read(bytes.to_vec());
    log.check_seals();
    let mut after = bytes.to_vec();
    match log.verdict(true, newest) {
        Verdict::Whole => {}
        Verdict::Mended(bytes) => bytes.iter().for_each(|(at, byte)| after[*at] = *byte),
        Verdict::Shortened(bytes, _) => after = bytes,
    }
    after
}

#[test]
fn a_log_is_read_as_it_was_written_and_masks_are_rocksdbs() {
    assert_eq!(read(&log(&records())), records());
    assert_eq!(unmasked(masked(0x1234_5678)), 0x1234_5678);
    assert_eq!(seal::sequence(&records()[7]), Some(8..9));
}

#[test]
fn a_flipped_bit_anywhere_is_put_right() {
    let good = log(&records());
    let whole = Log::read(good.clone());
    let padding = |at: usize| {
        whole.pieces.iter().all(|piece| match piece {
            Piece::Good { payload, .. } => !(payload.start - HEADER..payload.end).contains(&at),
            Piece::Bad(_) => true,
        })
    };
    // Dense in the first two hundred bytes, which have all fields of some headers.
    for at in (0..200).chain((200..good.len()).step_by(997)) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        assert!(looked(&bytes, true) == good || padding(at), "{at}");
    }
}

#[test]
fn a_wrong_guess_is_not_taken_for_what_was_written() {
    // Such damage is rare; here it is made: another record, whose checksum is then changed as one
    // wrong byte elsewhere would change it.
    let records = records();
    for (number, what) in [
        (3, "a deletion of a range"),
        (4, "a deletion"),
        (47, "a long one"),
    ] {
        let good = log(&records);
        let mut begun = 0;
        for record in &records[..number] {
            begun = log_end(&good, begun, record);
        }
        let end = log_end(&good, begun, &records[number]);
        let mut bytes = good.clone();
        let block_end = (begun / BLOCK + 1) * BLOCK;
        let (_, payload) = piece(&good, begun, block_end.min(good.len())).expect("its first piece");
        // In the first key, and behind it.
        for at in [payload.start + 15, payload.start + 17] {
            bytes[at] ^= 0x55;
        }
        let guess = payload.start + 19;
        let mut guessed = bytes.clone();
        guessed[guess] ^= 4;
        let checksum = masked(CASTAGNOLI.of([&guessed[begun + 6..payload.end]]));
        bytes[begun..begun + 4].copy_from_slice(&checksum.to_le_bytes());
        let log = Log::read(bytes.clone());
        assert!(
            log.pieces.iter().any(|piece| matches!(piece, Piece::Good { mended: Some(place), .. } if place.start == guess)),
            "{what}: its checksum alone is taken in"
        );
        let mut others = records.clone();
        others.remove(number);
        assert_eq!(read(&looked(&bytes, true)), others, "{what}");
        // At the end of the newest log it is no more than a torn end, and stays one: the guess is
        // not written there either.
        let torn = &bytes[..end];
        assert!(looked(torn, true) == torn, "{what}");
        assert_eq!(read(&looked(torn, false)), others[..number], "{what}");
    }
}

/// Where a record ends that begins at a place of a log.
fn log_end(bytes: &[u8], mut at: usize, record: &[u8]) -> usize {
    let mut left = record.len();
    loop {
        let block_end = (at / BLOCK + 1) * BLOCK;
        if block_end - at < HEADER {
            at = block_end;
            continue;
        }
        let (_, payload) = piece(bytes, at, block_end.min(bytes.len())).expect("whole");
        left -= payload.len();
        at = payload.end;
        if left == 0 {
            return at;
        }
    }
}

#[test]
fn what_is_damaged_worse_is_left_out_alone() {
    let good = log(&records());
    for fill in [0xee, 0] {
        for (at, length) in [(17, 6), (70, 700), (30_000, 5_000), (100_000, 512), (0, 7)] {
            let mut bytes = good.clone();
            bytes[at..at + length].fill(fill);
            let left = read(&looked(&bytes, true));
            let lost = records().len() - left.len();
            // The shortest of them is some 50 bytes.
            assert!(lost >= 1 && lost <= 2 + length / 40, "{at}: {lost} lost");
            assert!(left.iter().all(|record| records().contains(record)));
            assert!(looked(&log(&left), true) == log(&left), "the second time");
        }
    }
}

#[test]
fn a_torn_end_stays_in_the_newest_log_and_is_cut_off_in_others() {
    let good = log(&records());
    for end in [good.len() - 1, good.len() - 30, 33_000, 3, 0] {
        assert!(looked(&good[..end], true) == good[..end]);
        let older = looked(&good[..end], false);
        assert_eq!(read(&older), read(&good[..end]), "{end}");
        assert!(looked(&older, false) == older);
    }
    // Zeros, as a file has them whose bytes never reached the disk.
    for from in [good.len() - 20, 33_000] {
        let mut bytes = good.clone();
        bytes[from..].fill(0);
        assert!(looked(&bytes, true) == bytes);
        assert_eq!(read(&looked(&bytes, false)), read(&bytes));
    }
}
