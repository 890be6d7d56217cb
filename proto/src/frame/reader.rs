//! The receiving end: messages off a body.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt;
use prost::Message;

use super::{
    Bulk, FrameError, HEAD, MAX_HEAD, MAX_MESSAGE, PREFIX, Rope, SMALL,
    scan::{Found, Scanner},
};
use crate::block::MAX_BATCH;

/// Reads gRPC messages off a body in two steps: [`head`](Self::head), then
/// [`payload`](Self::payload).
///
/// Nothing is read ahead of what is asked for, so a caller that waits for memory between the two
/// holds the sender back by HTTP/2's own flow control. All steps can be dropped while they wait and
/// called again. Each byte of a head is looked at once, in however small frames it comes.
pub struct MessageReader<B> {
    body: B,
    queue: Rope,
    /// What came in small frames and follows the queue. A piece for each would be more memory than
    /// their bytes.
    tail: BytesMut,
    /// The message whose head is being read.
    message: Option<Scanner>,
    /// Payload bytes that are still to be delivered.
    payload: usize,
    max_message: usize,
    room: usize,
    received: u64,
    ended: bool,
    trailers: Option<HeaderMap>,
}

impl<B> MessageReader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    /// Reads from this body.
    pub fn new(body: B) -> Self {
        Self {
            body,
            queue: Rope::default(),
            tail: BytesMut::new(),
            message: None,
            payload: 0,
            max_message: MAX_MESSAGE,
            room: MAX_MESSAGE,
            received: 0,
            ended: false,
            trailers: None,
        }
    }

    /// Refuses messages of more than `message` bytes, and stops reading a head at `room` bytes:
    /// [`head`](Self::head) is then a [`FrameError::TooLarge`] of [`HEAD`], and goes on where it
    /// was when it is called again with more room.
    pub fn limit(&mut self, message: usize, room: usize) {
        (self.max_message, self.room) = (message, room);
    }

    /// Bytes that came, of all messages.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Waits for the first byte of the next message, or for more of one that was begun; false at
    /// the end of the stream.
    pub async fn begun(&mut self) -> Result<bool, FrameError> {
        let inside = self.payload > 0 || self.message.is_some() || self.len() > 0;
        Ok(inside || self.fill().await?)
    }

    /// The next message without its payload, and the payload's length; `None` at the end of the
    /// stream. What was not taken of the payload before is skipped.
    pub async fn head<M: Bulk>(&mut self) -> Result<Option<(M, usize)>, FrameError> {
        while self.payload > 0 {
            self.payload_piece().await?;
        }
        if self.message.is_none() {
            while self.len() < PREFIX {
                if !self.fill().await? {
                    return if self.len() == 0 {
                        Ok(None)
                    } else {
                        Err(FrameError::Truncated)
                    };
                }
            }
            self.begin()?;
        }
        loop {
            let Some(scanner) = &self.message else {
                return Err(FrameError::Malformed("no message was begun"));
            };
            let (length, here) = (scanner.length, self.len());
            match scanner.found {
                Some(Found::Payload { key, start }) => {
                    self.seal();
                    let head = self.queue.copy_to_bytes(key);
                    self.queue.advance(start - key);
                    self.payload = length - start;
                    self.message = None;
                    let limit = MAX_BATCH as usize;
                    if self.payload > limit {
                        return Err(FrameError::TooLarge {
                            what: "payload",
                            bytes: self.payload,
                            limit,
                        });
                    }
                    return Ok(Some((decode(head)?, self.payload)));
                }
                Some(Found::Whole) if here >= length => {
                    self.seal();
                    let mut message: M = decode(self.queue.copy_to_bytes(length))?;
                    let payload = message.take_payload();
                    self.message = None;
                    self.payload = payload.len();
                    self.queue.len += payload.len();
                    if !payload.is_empty() {
                        self.queue.pieces.push_front(payload);
                    }
                    return Ok(Some((message, self.payload)));
                }
                None if here > MAX_HEAD => {
                    return Err(FrameError::TooLarge {
                        what: "message head",
                        bytes: here,
                        limit: MAX_HEAD,
                    });
                }
                found if here >= self.room => {
                    return Err(FrameError::TooLarge {
                        what: HEAD,
                        bytes: match found {
                            Some(_) => length,
                            None => length.min(MAX_HEAD + 1),
                        },
                        limit: self.room,
                    });
                }
                _ => {
                    if !self.fill().await? {
                        return Err(FrameError::Truncated);
                    }
                }
            }
        }
    }

    /// Delivers the payload of the message whose head was just read, in the pieces in which it
    /// arrived.
    pub async fn payload(&mut self, mut take: impl FnMut(Bytes)) -> Result<(), FrameError> {
        while self.payload > 0 {
            take(self.payload_piece().await?);
        }
        Ok(())
    }

    /// The trailers, once [`head`](Self::head) has returned `None`.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    async fn payload_piece(&mut self) -> Result<Bytes, FrameError> {
        loop {
            self.seal();
            if let Some(piece) = self.queue.take_piece(self.payload) {
                self.payload -= piece.len();
                return Ok(piece);
            }
            if !self.fill().await? {
                return Err(FrameError::Truncated);
            }
        }
    }

    /// Takes the prefix of the next message, and looks at what is here of it.
    fn begin(&mut self) -> Result<(), FrameError> {
        self.seal();
        if self.queue.get_u8() != 0 {
            return Err(FrameError::Malformed("compressed; send it as it is"));
        }
        let length = self.queue.get_u32() as usize;
        if length > self.max_message {
            return Err(FrameError::TooLarge {
                what: "message",
                bytes: length,
                limit: self.max_message,
            });
        }
        let mut scanner = Scanner::new(length);
        scanner.feed(&[])?;
        for piece in &self.queue.pieces {
            scanner.feed(piece)?;
        }
        self.message = Some(scanner);
        Ok(())
    }

    /// Bytes that are here.
    fn len(&self) -> usize {
        self.queue.len() + self.tail.len()
    }

    /// Puts the tail into the queue.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.queue.push(self.tail.split().freeze());
        }
    }

    /// Waits for more bytes; false at the end of the stream.
    async fn fill(&mut self) -> Result<bool, FrameError> {
        while !self.ended {
            match self.body.frame().await {
                None => self.ended = true,
                Some(Err(error)) => return Err(FrameError::Transport(error.to_string())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        self.received += data.len() as u64;
                        if let Some(scanner) = &mut self.message {
                            scanner.feed(&data)?;
                        }
                        if data.len() < SMALL {
                            self.tail.extend_from_slice(&data);
                        } else {
                            self.seal();
                            self.queue.push(data);
                        }
                        return Ok(true);
                    }
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
            }
        }
        Ok(false)
    }
}

fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, FrameError> {
    M::decode(bytes).map_err(|_| FrameError::Malformed("not the protobuf message of this call"))
}
