//! Finds the payload in the bytes of a message while they come.

use super::{FrameError, PAYLOAD_TAG};

/// Walks over the fields of a message while its bytes come, each byte once, up to its payload.
pub(super) struct Scanner {
    pub(super) length: usize,
    position: usize,
    /// Where the field begins that is being looked at.
    key: usize,
    state: Scan,
    pub(super) found: Option<Found>,
}

/// What the next byte belongs to.
enum Scan {
    Key { value: u64, shift: u32 },
    Varint { shift: u32 },
    Length { tag: u64, value: u64, shift: u32 },
    Skip(usize),
}

/// What a scan over the start of a message finds.
#[derive(Clone, Copy)]
pub(super) enum Found {
    /// The payload is the last field: its key is at `key`, its bytes at `start` up to the message's
    /// end.
    Payload { key: usize, start: usize },
    /// No payload, or not as the last field: the whole message is needed.
    Whole,
}

impl Scanner {
    pub(super) fn new(length: usize) -> Self {
        Self {
            length,
            position: 0,
            key: 0,
            state: Scan::Key { value: 0, shift: 0 },
            found: None,
        }
    }

    /// Goes on with the next bytes, which may go beyond the message.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), FrameError> {
        while self.found.is_none() {
            if self.position == self.length {
                return match self.state {
                    Scan::Key { shift: 0, .. } => {
                        self.found = Some(Found::Whole);
                        Ok(())
                    }
                    _ => Err(FrameError::Malformed("field cut off by the message's end")),
                };
            }
            if let Scan::Skip(left) = self.state {
                let count = left.min(bytes.len());
                bytes = &bytes[count..];
                self.position += count;
                if left > count {
                    self.state = Scan::Skip(left - count);
                    return Ok(());
                }
                self.state = Scan::Key { value: 0, shift: 0 };
                continue;
            }
            let Some((&byte, rest)) = bytes.split_first() else {
                return Ok(());
            };
            bytes = rest;
            self.byte(byte)?;
        }
        Ok(())
    }

    /// One byte of a varint.
    fn byte(&mut self, byte: u8) -> Result<(), FrameError> {
        if let Scan::Key { shift: 0, .. } = self.state {
            self.key = self.position;
        }
        self.position += 1;
        let (ends, bits) = (byte < 0x80, u64::from(byte & 0x7f));
        let next = |shift: u32| match shift + 7 {
            shift if shift < 64 => Ok(shift),
            _ => Err(FrameError::Malformed("varint longer than 10 bytes")),
        };
        self.state = match self.state {
            Scan::Key { value, shift } if ends => self.field(value | bits << shift)?,
            Scan::Key { value, shift } => Scan::Key {
                value: value | bits << shift,
                shift: next(shift)?,
            },
            Scan::Varint { .. } if ends => Scan::Key { value: 0, shift: 0 },
            Scan::Varint { shift } => Scan::Varint {
                shift: next(shift)?,
            },
            Scan::Length { tag, value, shift } if ends => {
                self.bytes_field(tag, value | bits << shift)?
            }
            Scan::Length { tag, value, shift } => Scan::Length {
                tag,
                value: value | bits << shift,
                shift: next(shift)?,
            },
            Scan::Skip(left) => Scan::Skip(left),
        };
        Ok(())
    }

    /// What follows this key.
    fn field(&self, tag_and_type: u64) -> Result<Scan, FrameError> {
        let tag = tag_and_type >> 3;
        match tag_and_type & 7 {
            0 => Ok(Scan::Varint { shift: 0 }),
            1 => self.skip(8),
            2 => Ok(Scan::Length {
                tag,
                value: 0,
                shift: 0,
            }),
            5 => self.skip(4),
            _ => Err(FrameError::Malformed("unknown wire type")),
        }
    }

    /// A field of so many bytes begins here.
    fn bytes_field(&mut self, tag: u64, length: u64) -> Result<Scan, FrameError> {
        let length = usize::try_from(length)
            .map_err(|_| FrameError::Malformed("field longer than the message"))?;
        if tag != u64::from(PAYLOAD_TAG) {
            return self.skip(length);
        }
        let (key, start) = (self.key, self.position);
        let last = start.checked_add(length) == Some(self.length);
        self.found = Some(if last {
            Found::Payload { key, start }
        } else {
            Found::Whole
        });
        Ok(Scan::Skip(0))
    }

    fn skip(&self, count: usize) -> Result<Scan, FrameError> {
        match self.position.checked_add(count) {
            Some(_) if count == 0 => Ok(Scan::Key { value: 0, shift: 0 }),
            Some(end) if end <= self.length => Ok(Scan::Skip(count)),
            _ => Err(FrameError::Malformed("field longer than the message")),
        }
    }
}
