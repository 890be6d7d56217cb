//! Logs with all kinds of damage: what is put right, and what is left out.

use super::*;

/// Records of many lengths, over several blocks.
fn records() -> Vec<Vec<u8>> {
    let record = |number: usize| {
        let length = if number % 40 == 7 {
            40_000
        } else {
            20 + number
        };
        (0..length).map(|at| (at * number + at / 3) as u8).collect()
    };
    (0..200).map(record).collect()
}

fn log(records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    records
        .iter()
        .for_each(|record| put(&mut bytes, FULL, record));
    bytes
}

/// The records of a log without damage.
fn read(mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
    let walk = walk(&mut bytes);
    let mut records: Vec<Vec<u8>> = Vec::new();
    for piece in &walk.pieces {
        match piece {
            Piece::Good {
                kind: FULL | FIRST,
                payload,
            } => {
                records.push(bytes[payload.clone()].to_vec());
            }
            Piece::Good { payload, .. } => {
                let record = records.last_mut().expect("a first piece");
                record.extend(&bytes[payload.clone()]);
            }
            Piece::Bad(range) => panic!("bad at {range:?}"),
        }
    }
    records
}

#[test]
fn a_log_is_read_as_it_was_written_and_masks_are_rocksdbs() {
    assert_eq!(read(log(&records())), records());
    assert_eq!(unmasked(masked(0x1234_5678)), 0x1234_5678);
}

#[test]
fn a_flipped_bit_anywhere_is_put_right() {
    let good = log(&records());
    let padding = |at: usize| {
        walk(&mut good.clone())
            .pieces
            .iter()
            .all(|piece| match piece {
                Piece::Good { payload, .. } => !(payload.start - HEADER..payload.end).contains(&at),
                Piece::Bad(_) => true,
            })
    };
    // Dense in the first two hundred bytes, which have all fields of some headers.
    for at in (0..200).chain((200..good.len()).step_by(997)) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        let walk = walk(&mut bytes);
        assert!(bytes == good || padding(at), "{at}: {walk:?}");
        assert!(walk.mended == 1 || padding(at), "{at}");
    }
}

#[test]
fn what_is_damaged_worse_is_left_out_alone_and_a_torn_end_stays() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let index = dir.path().join("index");
    fs::create_dir(&index).expect("make");
    let path = index.join("000007.log");
    let good = log(&records());
    for (at, length) in [(9, 6), (70, 700), (30_000, 5_000), (100_000, 512)] {
        let mut bytes = good.clone();
        bytes[at..at + length].fill(0xee);
        fs::write(&path, &bytes).expect("write");
        let gone = mend(&index).expect("readable");
        assert_eq!(gone.len(), 1, "{at}");
        let left = read(fs::read(&path).expect("read"));
        let lost = records().len() - left.len();
        // The shortest of them is 20 bytes and its header.
        assert!(lost >= 1 && lost <= 2 + length / 27, "{at}: {lost} lost");
        assert!(left.iter().all(|record| records().contains(record)));
        assert_eq!(mend(&index).expect("readable"), [""; 0], "the second time");
    }
    assert_eq!(
        fs::read_dir(dir.path().join("lost")).expect("list").count(),
        4
    );
    for end in [good.len() - 1, good.len() - 30, 33_000, 3, 0] {
        fs::write(&path, &good[..end]).expect("write");
        assert_eq!(mend(&index).expect("readable"), [""; 0]);
        assert_eq!(fs::read(&path).expect("read"), good[..end]);
    }
}

#[test]
fn the_name_of_the_manifest_is_found_again() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for name in ["MANIFEST-000005", "MANIFEST-000010"] {
        fs::write(dir.path().join(name), b"").expect("write");
    }
    let current = dir.path().join("CURRENT");
    for (text, right) in [
        ("MANIFEST-000005\n", "MANIFEST-000005\n"),
        ("MANIFEST-000014\n", "MANIFEST-000010\n"),
        ("MANIFEST-000010", "MANIFEST-000010\n"),
        ("\0", "MANIFEST-000010\n"),
    ] {
        fs::write(&current, text).expect("write");
        mend(dir.path()).expect("readable");
        assert_eq!(fs::read_to_string(&current).expect("text"), right);
    }
}
