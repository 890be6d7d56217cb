//! Compression of blocks. Each block names its codec, so a reader needs no setting, and blocks of
//! one shuffle may differ.

use std::{io, str::FromStr};

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use shuffle_proto::block::Codec;

use crate::error::{Error, Kind};

/// Shorter blocks are stored as they are: LZ4 needs a token and 5 literals at the end, a Zstandard
/// frame at least 9 bytes, and setting up costs more than it saves.
const WORTH_COMPRESSING: usize = 32;

/// A writer's compression. A block that would not get shorter is stored as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Blocks are not compressed.
    None,
    /// LZ4: the fastest.
    #[default]
    Lz4,
    /// Zstandard at this level (higher is shorter and slower); levels beyond the library's count as
    /// its nearest.
    Zstd(i32),
}

/// What a writer compresses with; about 16 KiB for LZ4, up to a few MiB for Zstandard at its higher
/// levels.
pub(crate) enum Encoder {
    None,
    Lz4(Box<CompressTable>),
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

/// A reader's decompression. Its parts are made on demand.
#[derive(Default)]
pub(crate) struct Decoder {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

// === impl Compression ===

impl FromStr for Compression {
    type Err = Error;

    /// `none`, `lz4`, `zstd` or `zstd:LEVEL`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level.parse::<i32>())),
            None => (text, None),
        };
        match (name, level) {
            ("none", None) => Ok(Self::None),
            ("lz4", None) => Ok(Self::Lz4),
            ("zstd", None) => Ok(Self::Zstd(1)),
            ("zstd", Some(Ok(level))) => Ok(Self::Zstd(level)),
            _ => Err(Error::new(
                Kind::Invalid,
                format!("compression is {text:?}: write none, lz4, zstd or zstd:LEVEL"),
            )),
        }
    }
}

// === impl Encoder ===

impl Encoder {
    pub(crate) fn new(compression: Compression) -> Result<Self, Error> {
        Ok(match compression {
            Compression::None => Self::None,
            Compression::Lz4 => Self::Lz4(Box::new(CompressTable::large())),
            Compression::Zstd(level) => {
                let levels = zstd::compression_level_range();
                let level = level.clamp(*levels.start(), *levels.end());
                let encoder = zstd::bulk::Compressor::new(level).map_err(|error| {
                    let message =
                        format!("cannot compress with Zstandard at level {level}: {error}");
                    Error::new(Kind::Internal, message)
                })?;
                Self::Zstd(Box::new(encoder))
            }
        })
    }

    /// Bytes needed by [`store`](Self::store) for a block.
    pub(crate) fn space(&self, raw_len: usize) -> usize {
        match self {
            // With room for the worst case it need not look for the end at every step.
            Self::Lz4(_) => get_maximum_output_size(raw_len),
            Self::None | Self::Zstd(_) => raw_len,
        }
    }

    /// Stores one block at the start of `space`, compressed if that is shorter. `gathered` is
    /// scratch space for pieces.
    pub(crate) fn store(
        &mut self,
        pieces: &[&[u8]],
        raw_len: usize,
        gathered: &mut Vec<u8>,
        space: &mut [u8],
    ) -> (Codec, usize) {
        if matches!(self, Self::None) || raw_len < WORTH_COMPRESSING {
            let mut start = 0;
            for piece in pieces {
                space[start..start + piece.len()].copy_from_slice(piece);
                start += piece.len();
            }
            return (Codec::None, raw_len);
        }
        let raw: &[u8] = match pieces {
            [piece] => piece,
            _ => {
                gathered.clear();
                pieces
                    .iter()
                    .for_each(|piece| gathered.extend_from_slice(piece));
                gathered
            }
        };
        if let Some((codec, length)) = self.compress(raw, space)
            && length < raw_len
        {
            return (codec, length);
        }
        space[..raw_len].copy_from_slice(raw);
        (Codec::None, raw_len)
    }

    /// `None` if the block does not fit.
    fn compress(&mut self, raw: &[u8], space: &mut [u8]) -> Option<(Codec, usize)> {
        match self {
            Self::None => None,
            Self::Lz4(table) => {
                let length = compress_into_with_table(raw, space, table).ok()?;
                Some((Codec::Lz4, length))
            }
            Self::Zstd(encoder) => {
                let length = encoder.compress_to_buffer(raw, space).ok()?;
                Some((Codec::Zstd, length))
            }
        }
    }
}

// === impl Decoder ===

impl Decoder {
    /// Fills `space` exactly; else says why it could not.
    pub(crate) fn decode(
        &mut self,
        codec: Codec,
        stored: &[u8],
        space: &mut [u8],
    ) -> Result<(), String> {
        let length = match codec {
            Codec::None if stored.len() == space.len() => {
                space.copy_from_slice(stored);
                stored.len()
            }
            Codec::None => stored.len(),
            Codec::Lz4 => lz4_flex::block::decompress_into(stored, space)
                .map_err(|error| error.to_string())?,
            Codec::Zstd => self
                .zstd(stored, space)
                .map_err(|error| error.to_string())?,
        };
        if length == space.len() {
            Ok(())
        } else {
            Err(format!("{length} bytes instead of {}", space.len()))
        }
    }

    fn zstd(&mut self, stored: &[u8], space: &mut [u8]) -> io::Result<usize> {
        let decoder = match &mut self.zstd {
            Some(decoder) => decoder,
            none => none.insert(zstd::bulk::Decompressor::new()?),
        };
        decoder.decompress_to_buffer(stored, space)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Compression; 5] = [
        Compression::None,
        Compression::Lz4,
        Compression::Zstd(1),
        Compression::Zstd(19),
        Compression::Zstd(i32::MAX),
    ];

    fn store(compression: Compression, pieces: &[&[u8]]) -> (Codec, Vec<u8>) {
        let mut encoder = Encoder::new(compression).expect("an encoder");
        let raw_len = pieces.iter().map(|piece| piece.len()).sum();
        let mut space = vec![0; encoder.space(raw_len)];
        let (codec, length) = encoder.store(pieces, raw_len, &mut Vec::new(), &mut space);
        space.truncate(length);
        (codec, space)
    }

    #[test]
    fn what_was_stored_is_decoded_whatever_the_codec() {
        let rows = b"a row of some bytes, ".repeat(500);
        let noise: Vec<u8> = (0..9000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let mut decoder = Decoder::default();
        for compression in ALL {
            for raw in [&rows[..], &noise, b"x", &rows[..31], &rows[..32]] {
                let (a, b) = raw.split_at(raw.len() / 3);
                for pieces in [&[raw][..], &[a, b]] {
                    let (codec, stored) = store(compression, pieces);
                    assert!(stored.len() <= raw.len());
                    let mut space = vec![0; raw.len()];
                    decoder.decode(codec, &stored, &mut space).expect("decodes");
                    assert_eq!(space, raw, "{compression:?}");
                }
            }
            let expected = match compression {
                Compression::None => Codec::None,
                Compression::Lz4 => Codec::Lz4,
                Compression::Zstd(_) => Codec::Zstd,
            };
            assert_eq!(store(compression, &[&rows]).0, expected);
        }
    }

    #[test]
    fn a_higher_level_is_shorter() {
        let text: String = (0..5_000u32)
            .map(|i| {
                format!(
                    "{:06x} customer {} ",
                    i.wrapping_mul(2_654_435_761) >> 8,
                    i % 977
                )
            })
            .collect();
        let length = |compression| store(compression, &[text.as_bytes()]).1.len();
        assert!(length(Compression::Zstd(19)) < length(Compression::Zstd(1)));
        assert!(length(Compression::Zstd(1)) < length(Compression::Lz4));
    }

    #[test]
    fn what_is_not_what_its_codec_says_is_an_error() {
        let rows = b"a row of some bytes, ".repeat(500);
        let mut decoder = Decoder::default();
        for compression in ALL {
            let (codec, stored) = store(compression, &[&rows]);
            for wrong in [rows.len() - 1, rows.len() + 1] {
                assert!(
                    decoder.decode(codec, &stored, &mut vec![0; wrong]).is_err(),
                    "{codec:?} {wrong}"
                );
            }
            let mut space = vec![0; rows.len()];
            assert!(
                decoder
                    .decode(codec, &stored[..stored.len() - 1], &mut space)
                    .is_err()
            );
        }
    }

    #[test]
    fn names_are_read_and_others_refused() {
        for (text, expected) in [
            ("none", Compression::None),
            ("lz4", Compression::Lz4),
            ("zstd", Compression::Zstd(1)),
            ("zstd:-7", Compression::Zstd(-7)),
        ] {
            assert_eq!(text.parse(), Ok(expected));
        }
        for text in ["", "snappy", "lz4:1", "zstd:", "zstd:high", "ZSTD"] {
            let error = text.parse::<Compression>().expect_err("refused");
            assert!(error.message.contains("zstd:LEVEL"), "{error}");
        }
    }
}
