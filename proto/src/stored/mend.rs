//! Putting right one byte of what has a checksum of its own.
//!
//! A CRC tells where a single flipped bit is: each place leaves a remainder that no other leaves.
//! What describes many blocks at once (a table of rows, a footer, a manifest, a record of the
//! index) is worth that look, because losing it would lose all that it describes. *Blocks are never
//! put right so*: a guess that is wrong would be rows that are wrong. What is put right here only
//! leads to blocks, whose checksums are over their own description too, so that a wrong guess is
//! found there (invariant: verified-before-released); and what would not be found there, as
//! deletions in the log of an index, has a second checksum that is compared once this one fits.

/// Bytes up to which more than one flipped bit in the same byte is looked for: in longer ones some
/// other damage would too often look like it. (Damage at random looks like one flipped bit of n
/// bytes in 8 n of 2^32 cases, like one changed byte in 255 n.)
const SHORT: usize = 1 << 10;

/// A CRC of 32 bits, reflected, with all bits set at the start and inverted at the end, as both of
/// those in use are.
pub struct Crc {
    table: [u32; 256],
    /// Which entry of the table has this highest byte: all differ.
    by_highest: [u8; 256],
}

/// CRC-32 (IEEE), which Forebay's own formats use.
pub static IEEE: Crc = Crc::new(0xedb8_8320);
/// CRC-32C, which RocksDB uses.
pub static CASTAGNOLI: Crc = Crc::new(0x82f6_3b78);

impl Crc {
    const fn new(polynomial: u32) -> Self {
        let (mut table, mut by_highest) = ([0; 256], [0; 256]);
        let mut byte = 0;
        while byte < 256 {
            let (mut state, mut bit) = (byte as u32, 0);
            while bit < 8 {
                state = (state >> 1) ^ (polynomial * (state & 1));
                bit += 1;
            }
            table[byte] = state;
            by_highest[(state >> 24) as usize] = byte as u8;
            byte += 1;
        }
        Self { table, by_highest }
    }

    /// Checksum of these bytes.
    pub fn of<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>) -> u32 {
        let mut state = u32::MAX;
        for byte in pieces.into_iter().flatten() {
            state = self.table[((state ^ u32::from(*byte)) & 0xff) as usize] ^ (state >> 8);
        }
        !state
    }

    /// Which byte is wrong, and by which bits, if changing one byte of `length` is what makes a
    /// right checksum wrong in these bits (`computed ^ stored`). `None` if it is no single byte, or
    /// if that is not sure.
    pub fn find(&self, length: usize, mut wrong: u32) -> Option<(usize, u8)> {
        if wrong == 0 {
            return None;
        }
        let (mut bits, mut bytes) = (Vec::new(), Vec::new());
        for at in (0..length).rev() {
            // What the remainder was before the byte behind this one: that of a single byte is in
            // the table.
            let byte = self.by_highest[(wrong >> 24) as usize];
            let before = wrong ^ self.table[usize::from(byte)];
            if before == 0 {
                match byte.is_power_of_two() {
                    true => bits.push((at, byte)),
                    false => bytes.push((at, byte)),
                }
            }
            wrong = (before << 8) | u32::from(byte);
        }
        match (&bits[..], &bytes[..]) {
            ([one], _) => Some(*one),
            ([], [one]) if length <= SHORT => Some(*one),
            _ => None,
        }
    }

    /// Puts one byte right so that the checksum fits; false, and nothing is changed, if that cannot
    /// be done.
    pub fn mend(&self, bytes: &mut [u8], stored: u32) -> bool {
        let wrong = self.of([&*bytes]) ^ stored;
        let Some((at, bits)) = self.find(bytes.len(), wrong) else {
            return false;
        };
        bytes[at] ^= bits;
        true
    }
}

/// Whether two checksums differ in one byte: then it may be the checksum that has changed, and what
/// it is of is right.
pub fn nearly(a: u32, b: u32) -> bool {
    let differ = (a ^ b).to_le_bytes();
    differ.iter().filter(|byte| **byte != 0).count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(length: usize) -> Vec<u8> {
        let bytes = (0..length).map(|at| (at * at + 7 * at + 3) as u8);
        bytes.collect()
    }

    #[test]
    fn they_are_the_crcs_that_they_are_called() {
        assert_eq!(IEEE.of([&b"123456789"[..]]), 0xcbf4_3926);
        assert_eq!(CASTAGNOLI.of([&b"1234"[..], b"56789"]), 0xe306_9283);
        assert_eq!(IEEE.of([&some(1000)[..]]), crc32fast::hash(&some(1000)));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_put_right() {
        for crc in [&IEEE, &CASTAGNOLI] {
            for length in [1, 4, 5, 60, 1000] {
                let good = some(length);
                let stored = crc.of([&good[..]]);
                for bit in (0..length * 8).step_by(1 + length / 100) {
                    let mut bytes = good.clone();
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    assert!(crc.mend(&mut bytes, stored), "{length} {bit}");
                    assert_eq!(bytes, good, "{length} {bit}");
                }
            }
        }
    }

    #[test]
    fn a_bit_in_a_megabyte_is_put_right_and_more_than_a_byte_is_not() {
        let mut bytes = some(1 << 20);
        let stored = IEEE.of([&bytes[..]]);
        bytes[77_777] ^= 4;
        assert!(IEEE.mend(&mut bytes, stored));
        assert_eq!(bytes, some(1 << 20));
        for at in [0, 500_000] {
            bytes[at..at + 512].fill(0xee);
            assert!(!IEEE.mend(&mut bytes, stored));
        }
        assert!(!IEEE.mend(&mut [], 1));
    }

    #[test]
    fn a_changed_byte_of_something_short_is_put_right() {
        let good = some(300);
        let stored = CASTAGNOLI.of([&good[..]]);
        for at in 0..300 {
            let mut bytes = good.clone();
            bytes[at] ^= 0xa5;
            assert!(CASTAGNOLI.mend(&mut bytes, stored) && bytes == good, "{at}");
        }
    }
}
