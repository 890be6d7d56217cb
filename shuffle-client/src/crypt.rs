//! Encryption of blocks, end to end: servers never see the key. A block is encrypted after
//! compression and before its checksum, so servers and the wire check blocks without being able to
//! read them.
//!
//! **What**: AES-256-GCM. Authenticated, because the checksum of a block is no secret: without a
//! tag, write access to a server's disk would be enough to change rows and checksum together. The
//! authenticated data is the block's header ([`BlockHeader::identity`]), so a block in the place of
//! another (partition, map, attempt, position) is refused too.
//!
//! **Keys**: one per attempt, by HKDF-SHA256 from the application's secret and (app, shuffle,
//! attempt). So the number of an application's blocks has no bearing on the safety of any key, and
//! a secret of another length than 32 bytes, or with another use elsewhere, will do.
//!
//! **Nonces**: 8 random bytes per writer, stored before each block, and 4 bytes of the block's
//! position. An attempt id that were ever used twice would still not repeat a nonce.
//!
//! | bytes of an encrypted block | |
//! |---|---|
//! | 0..8 | the writer's random bytes |
//! | 8..n-16 | ciphertext |
//! | n-16..n | authentication tag |
//!
//! **Not covered**: bytes and records per map and partition, and the existence of blocks; the
//! reader knows the expected attempts from its engine, and so notices a missing attempt.

use std::{collections::HashMap, fmt, sync::Arc};

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Prk, Salt},
};
use shuffle_proto::{
    block::{BlockHeader, ENCRYPTION},
    ids::{AppId, AttemptId, ShuffleId},
};

use crate::error::{Error, Kind};

/// Stored bytes of a nonce.
const STORED_NONCE: usize = 8;
/// Bytes of the tag.
const TAG: usize = 16;
const _: () = assert!(STORED_NONCE + TAG == ENCRYPTION as usize);
const _: () = assert!(STORED_NONCE + size_of::<u32>() == NONCE_LEN);

/// Fewest and most bytes of a secret.
const SECRET: (usize, usize) = (16, 64);
/// Keys of attempts that a reader keeps: about 1 KiB each.
const KEPT: usize = 4096;
const PURPOSE: &[u8] = b"forebay block 1";

/// The secret that an application's blocks are encrypted with.
#[derive(Clone)]
pub struct Secret(Arc<Prk>);

impl Secret {
    /// Takes 16 to 64 bytes, as random as a key should be.
    pub fn new(bytes: &[u8]) -> Result<Self, Error> {
        if !(SECRET.0..=SECRET.1).contains(&bytes.len()) {
            let (least, most) = SECRET;
            let message = format!("key of {} bytes: give {least} to {most}", bytes.len());
            return Err(Error::new(Kind::Invalid, message));
        }
        Ok(Self(Arc::new(
            Salt::new(HKDF_SHA256, PURPOSE).extract(bytes),
        )))
    }

    fn attempt(&self, app: &AppId, shuffle: ShuffleId, attempt: AttemptId) -> LessSafeKey {
        let (shuffle, attempt) = (shuffle.0.to_le_bytes(), attempt.0.to_le_bytes());
        // An app's id comes last: the one part of variable length.
        let parts = [&shuffle[..], &attempt, app.as_str().as_bytes()];
        let key = self
            .0
            .expand(&parts, &AES_256_GCM)
            .expect("a key is shorter than what HKDF can give");
        LessSafeKey::new(UnboundKey::from(key))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Encrypts the blocks of one attempt.
pub(crate) struct Encryptor {
    key: LessSafeKey,
    random: [u8; STORED_NONCE],
}

impl Encryptor {
    pub(crate) fn new(
        secret: &Secret,
        app: &AppId,
        shuffle: ShuffleId,
        attempt: AttemptId,
    ) -> Self {
        Self {
            key: secret.attempt(app, shuffle, attempt),
            random: rand::random(),
        }
    }

    /// Place of the plain bytes in a block's space.
    pub(crate) const START: usize = STORED_NONCE;

    /// Encrypts in place. `space` is the whole block as it will be stored, and the header is
    /// complete but for its checksum.
    pub(crate) fn encrypt(&self, header: &BlockHeader, space: &mut [u8]) {
        let (random, rest) = space.split_at_mut(STORED_NONCE);
        let (plain, tag) = rest.split_at_mut(rest.len() - TAG);
        random.copy_from_slice(&self.random);
        let made = self
            .key
            .seal_in_place_separate_tag(
                nonce(self.random, header.seq),
                Aad::from(header.identity()),
                plain,
            )
            .expect("a block is shorter than what AES-GCM can encrypt");
        tag.copy_from_slice(made.as_ref());
    }
}

/// Decrypts the blocks of a shuffle.
pub(crate) struct Decryptor {
    secret: Secret,
    app: AppId,
    shuffle: ShuffleId,
    keys: HashMap<AttemptId, LessSafeKey>,
}

impl Decryptor {
    pub(crate) fn new(secret: Secret, app: AppId, shuffle: ShuffleId) -> Self {
        Self {
            secret,
            app,
            shuffle,
            keys: HashMap::new(),
        }
    }

    /// Decrypts a block, still compressed, into `plain`. False for a wrong key or changed bytes;
    /// the content of `plain` must not be used then.
    pub(crate) fn decrypt(
        &mut self,
        header: &BlockHeader,
        stored: &[u8],
        plain: &mut Vec<u8>,
    ) -> bool {
        plain.clear();
        let Some((random, rest)) = stored.split_first_chunk::<STORED_NONCE>() else {
            return false;
        };
        if self.keys.len() >= KEPT {
            self.keys.clear();
        }
        let key = self
            .keys
            .entry(header.attempt)
            .or_insert_with(|| self.secret.attempt(&self.app, self.shuffle, header.attempt));
        plain.extend_from_slice(rest);
        let opened = key.open_in_place(
            nonce(*random, header.seq),
            Aad::from(header.identity()),
            plain,
        );
        let length = opened.map(|bytes| bytes.len());
        plain.truncate(length.unwrap_or(0));
        length.is_ok()
    }
}

fn nonce(random: [u8; STORED_NONCE], seq: u32) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..STORED_NONCE].copy_from_slice(&random);
    bytes[STORED_NONCE..].copy_from_slice(&seq.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use shuffle_proto::{
        block::{Codec, Flags},
        ids::{MapIndex, PartitionId},
    };

    use super::*;

    const TEXT: &[u8] = b"the rows of a block";

    fn secret(byte: u8) -> Secret {
        Secret::new(&[byte; 16]).expect("16 bytes")
    }

    fn app(name: &str) -> AppId {
        AppId::try_new(name).expect("valid")
    }

    fn header(seq: u32) -> BlockHeader {
        BlockHeader {
            partition: PartitionId(1),
            map_index: MapIndex(2),
            attempt: AttemptId(3),
            seq,
            length: TEXT.len() as u32 + ENCRYPTION,
            raw_length: 100,
            records: 7,
            flags: Flags::new(Codec::Lz4, false, false).encrypted(),
            checksum: 0,
        }
    }

    fn encrypt(header: &BlockHeader) -> Vec<u8> {
        let encryptor = Encryptor::new(&secret(1), &app("a"), ShuffleId(5), AttemptId(3));
        let mut space = vec![0; header.length as usize];
        space[Encryptor::START..Encryptor::START + TEXT.len()].copy_from_slice(TEXT);
        encryptor.encrypt(header, &mut space);
        space
    }

    fn decrypt(
        secret: Secret,
        app: AppId,
        shuffle: u32,
        header: &BlockHeader,
        stored: &[u8],
    ) -> Option<Vec<u8>> {
        let mut plain = b"of a block before".to_vec();
        let ok =
            Decryptor::new(secret, app, ShuffleId(shuffle)).decrypt(header, stored, &mut plain);
        assert!(ok || plain.is_empty());
        ok.then_some(plain)
    }

    #[test]
    fn what_was_encrypted_comes_back_and_cannot_be_read_before() {
        let stored = encrypt(&header(0));
        assert!(
            !stored
                .windows(4)
                .any(|bytes| TEXT.windows(4).any(|text| text == bytes))
        );
        let plain = decrypt(secret(1), app("a"), 5, &header(0), &stored);
        assert_eq!(plain.as_deref(), Some(TEXT));
    }

    #[test]
    fn no_two_blocks_and_no_two_writers_use_the_same_nonce() {
        let encryptor = Encryptor::new(&secret(1), &app("a"), ShuffleId(5), AttemptId(3));
        let mut ciphertexts = Vec::new();
        for seq in 0..2 {
            let mut space = vec![0; TEXT.len() + ENCRYPTION as usize];
            encryptor.encrypt(&header(seq), &mut space);
            ciphertexts.push(space[STORED_NONCE..].to_vec());
        }
        assert_ne!(ciphertexts[0], ciphertexts[1]);
        assert_ne!(
            encrypt(&header(0))[..STORED_NONCE],
            encrypt(&header(0))[..STORED_NONCE]
        );
    }

    #[test]
    fn another_key_app_shuffle_or_attempt_does_not_open_it() {
        let stored = encrypt(&header(0));
        assert_eq!(decrypt(secret(2), app("a"), 5, &header(0), &stored), None);
        assert_eq!(decrypt(secret(1), app("b"), 5, &header(0), &stored), None);
        assert_eq!(decrypt(secret(1), app("a"), 6, &header(0), &stored), None);
        let other = BlockHeader {
            attempt: AttemptId(4),
            ..header(0)
        };
        assert_eq!(decrypt(secret(1), app("a"), 5, &other, &stored), None);
    }

    #[test]
    fn a_block_in_the_place_of_another_or_changed_anywhere_is_refused() {
        let stored = encrypt(&header(0));
        let moves: [fn(&mut BlockHeader); 5] = [
            |header| header.partition.0 = 2,
            |header| header.map_index.0 = 3,
            |header| header.seq = 1,
            |header| header.records = 8,
            |header| header.raw_length = 101,
        ];
        for change in moves {
            let mut moved = header(0);
            change(&mut moved);
            assert_eq!(decrypt(secret(1), app("a"), 5, &moved, &stored), None);
        }
        for position in 0..stored.len() {
            let mut bad = stored.clone();
            bad[position] ^= 1;
            assert_eq!(
                decrypt(secret(1), app("a"), 5, &header(0), &bad),
                None,
                "byte {position}"
            );
        }
        for length in 0..stored.len() {
            assert_eq!(
                decrypt(secret(1), app("a"), 5, &header(0), &stored[..length]),
                None,
                "{length} bytes"
            );
        }
    }

    #[test]
    fn a_secret_is_of_a_sensible_length_and_not_shown() {
        for length in [0, 15, 65] {
            assert_eq!(
                Secret::new(&vec![0; length]).expect_err("refused").kind,
                Kind::Invalid
            );
        }
        for length in [16, 24, 32, 64] {
            assert_eq!(
                format!("{:?}", Secret::new(&vec![7; length]).expect("taken")),
                "Secret"
            );
        }
    }
}
