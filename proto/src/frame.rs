//! gRPC messages with a bulk payload, framed by hand so that the payload is never copied.
//!
//! On the wire this is ordinary gRPC: a byte that says "not compressed", the length as u32 big-endian, then the protobuf message.
//! The bulk bytes are in field 15, written last. So the sender can hand the payload's own buffers to HTTP/2 ([`encode`]), and the
//! receiver learns the payload's length, and can take a memory permit for it, before it reads the payload ([`MessageReader`]).
//! Messages of a stock protobuf peer, whose payload may be anywhere, are read too, by way of a copy.
//!
//! Measured (2 cores, loopback): this costs 0.8-1.3 times raw TCP where a codec with default settings costs 2.4-3.0.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_core::Stream;
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use prost::Message;
use tonic::Status;

use crate::{block::MAX_BATCH, v1};

/// Tag of the payload field in every bulk message.
const PAYLOAD_TAG: u32 = 15;
/// Most bytes of a message beside its payload: a full block table is about half of this.
pub const MAX_HEAD: usize = 4 << 20;
/// gRPC's own prefix: compression flag and length.
const PREFIX: usize = 5;

/// A message whose field 15 is `bytes payload`.
pub trait Bulk: Message + Default {
    /// Takes the payload out.
    fn take_payload(&mut self) -> Bytes;
}

impl Bulk for v1::PushRequest {
    fn take_payload(&mut self) -> Bytes {
        std::mem::take(&mut self.payload)
    }
}

impl Bulk for v1::FetchResponse {
    fn take_payload(&mut self) -> Bytes {
        std::mem::take(&mut self.payload)
    }
}

/// Messages without a payload field read the same way.
macro_rules! no_payload {
    ($($message:ty),*) => {$(
        impl Bulk for $message {
            fn take_payload(&mut self) -> Bytes {
                Bytes::new()
            }
        }
    )*};
}
no_payload!(v1::PushResponse, v1::FetchRequest);

/// What a peer sent is no message of this protocol, or the connection broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes are no gRPC message, or one out of bounds.
    #[error("message is malformed: {0}")]
    Malformed(&'static str),
    /// Larger than the protocol allows.
    #[error("{what} is {bytes} bytes: send at most {limit}")]
    TooLarge {
        /// "message", "message head" or "payload".
        what: &'static str,
        /// As announced.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// The stream ended inside a message.
    #[error("stream ended inside a message")]
    Truncated,
    /// The transport's own failure.
    #[error("connection broke: {0}")]
    Transport(String),
}

// === impl Rope ===

/// A queue of buffers that HTTP/2 sees as one: several messages leave in one DATA frame and one `writev`.
#[derive(Debug, Default)]
pub struct Rope {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Rope {
    /// Appends a buffer without copying it.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Bytes in all pieces.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes up to `limit` bytes off the front, as they lie in memory.
    fn take_piece(&mut self, limit: usize) -> Option<Bytes> {
        let mut piece = self.pieces.pop_front()?;
        if piece.len() > limit {
            self.pieces.push_front(piece.split_off(limit));
        }
        self.len -= piece.len();
        Some(piece)
    }
}

impl From<Bytes> for Rope {
    fn from(piece: Bytes) -> Self {
        let mut rope = Rope::default();
        rope.push(piece);
        rope
    }
}

impl Buf for Rope {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| &piece[..])
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let count = slices.len().min(self.pieces.len());
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        self.len -= count;
        while count > 0 {
            let front = self
                .pieces
                .front_mut()
                .expect("remaining() bytes are in the pieces");
            if front.len() > count {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.pieces.pop_front();
        }
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        assert!(count <= self.len, "copy_to_bytes beyond the end");
        match self.pieces.front() {
            Some(front) if front.len() >= count => self.take_piece(count).unwrap_or_default(),
            _ => {
                let mut copy = BytesMut::with_capacity(count);
                copy.put(self.take(count));
                copy.freeze()
            }
        }
    }
}

/// Appends one gRPC message to `rope`: `message`, whose own payload field is empty, with `payload` as its last field.
pub fn encode<M: Message>(message: &M, payload: impl IntoIterator<Item = Bytes>, rope: &mut Rope) {
    let mut pieces = Rope::default();
    payload.into_iter().for_each(|piece| pieces.push(piece));
    let mut head = BytesMut::with_capacity(PREFIX + message.encoded_len() + 16);
    head.put_bytes(0, PREFIX);
    message.encode_raw(&mut head);
    if !pieces.is_empty() {
        prost::encoding::encode_key(
            PAYLOAD_TAG,
            prost::encoding::WireType::LengthDelimited,
            &mut head,
        );
        prost::encoding::encode_varint(pieces.len() as u64, &mut head);
    }
    let length = u32::try_from(head.len() - PREFIX + pieces.len())
        .expect("messages are bounded by MAX_HEAD + MAX_BATCH");
    head[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    rope.push(head.freeze());
    while let Some(piece) = pieces.take_piece(usize::MAX) {
        rope.push(piece);
    }
}

// === bodies ===

/// An HTTP body that sends ropes. A server's ends with gRPC trailers, a client's just ends.
pub struct RopeBody<S> {
    stream: Option<S>,
    trailers: bool,
}

impl<S> RopeBody<S> {
    /// Of a request: `stream` ends when it ends.
    pub fn request(stream: S) -> Self {
        Self {
            stream: Some(stream),
            trailers: false,
        }
    }

    /// Of a response: an `Err` of the stream, or its end, become the trailers.
    pub fn response(stream: S) -> Self {
        Self {
            stream: Some(stream),
            trailers: true,
        }
    }
}

impl<S: Stream<Item = Result<Rope, Status>> + Unpin> Body for RopeBody<S> {
    type Data = Rope;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Rope>, Status>>> {
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Ready(None);
        };
        let end = match ready!(Pin::new(stream).poll_next(cx)) {
            Some(Ok(rope)) => return Poll::Ready(Some(Ok(Frame::data(rope)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.stream = None;
        if !self.trailers {
            return Poll::Ready((end.code() != tonic::Code::Ok).then_some(Err(end)));
        }
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(
            end.add_header(&mut trailers)
                .map(|()| Frame::trailers(trailers)),
        ))
    }
}

/// Turns any body of `Bytes` (generated tonic services) into one of ropes, so that both are served by one connection.
pub fn rope_body<B>(body: B) -> impl Body<Data = Rope, Error = B::Error>
where
    B: Body<Data = Bytes>,
{
    body.map_frame(|frame| frame.map_data(Rope::from))
}

/// A body without data.
pub fn empty_body() -> impl Body<Data = Rope, Error = Infallible> {
    rope_body(http_body_util::Empty::<Bytes>::new())
}

// === impl MessageReader ===

/// Reads gRPC messages off a body in two steps: [`head`](Self::head), then [`payload`](Self::payload).
///
/// Nothing is read ahead of what is asked for, so a caller that waits for memory between the two holds the sender back by HTTP/2's
/// own flow control. Both steps can be dropped while they wait and called again.
pub struct MessageReader<B> {
    body: B,
    queue: Rope,
    /// Length of the message whose head is being read.
    message: Option<usize>,
    /// How far into it whole fields have been seen.
    scanned: usize,
    /// Payload bytes that are still to be delivered.
    payload: usize,
    ended: bool,
    trailers: Option<HeaderMap>,
}

/// What a scan over the start of a message found.
enum Scan {
    More,
    /// The payload is the last field: its key is at `key`, its bytes at `start` up to the message's end.
    Payload {
        key: usize,
        start: usize,
    },
    /// No payload, or not as the last field: the whole message is needed.
    Whole,
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
            message: None,
            scanned: 0,
            payload: 0,
            ended: false,
            trailers: None,
        }
    }

    /// The next message without its payload, and the payload's length; `None` at the end of the stream. What was not taken of the
    /// payload before is skipped.
    pub async fn head<M: Bulk>(&mut self) -> Result<Option<(M, usize)>, FrameError> {
        while self.payload > 0 {
            self.payload_piece().await?;
        }
        let length = match self.message {
            Some(length) => length,
            None => {
                while self.queue.len() < PREFIX {
                    if !self.fill().await? {
                        return if self.queue.is_empty() {
                            Ok(None)
                        } else {
                            Err(FrameError::Truncated)
                        };
                    }
                }
                if self.queue.get_u8() != 0 {
                    return Err(FrameError::Malformed("compressed; send it as it is"));
                }
                let length = self.queue.get_u32() as usize;
                let limit = MAX_HEAD + MAX_BATCH as usize;
                if length > limit {
                    return Err(FrameError::TooLarge {
                        what: "message",
                        bytes: length,
                        limit,
                    });
                }
                self.message = Some(length);
                self.scanned = 0;
                length
            }
        };
        loop {
            match self.scan(length)? {
                Scan::Payload { key, start } => {
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
                Scan::Whole if self.queue.len() >= length => {
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
                Scan::More if self.queue.len() > MAX_HEAD => {
                    return Err(FrameError::TooLarge {
                        what: "message head",
                        bytes: self.queue.len(),
                        limit: MAX_HEAD,
                    });
                }
                Scan::More | Scan::Whole => {
                    if !self.fill().await? {
                        return Err(FrameError::Truncated);
                    }
                }
            }
        }
    }

    /// Delivers the payload of the message whose head was just read, in the pieces in which it arrived.
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
            if let Some(piece) = self.queue.take_piece(self.payload) {
                self.payload -= piece.len();
                return Ok(piece);
            }
            if !self.fill().await? {
                return Err(FrameError::Truncated);
            }
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
                        self.queue.push(data);
                        return Ok(true);
                    }
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
            }
        }
        Ok(false)
    }

    /// Walks over the fields of the message at the front of the queue, as far as it is here.
    fn scan(&mut self, length: usize) -> Result<Scan, FrameError> {
        let mut cursor = Cursor {
            pieces: &self.queue.pieces,
            piece: 0,
            offset: 0,
            position: 0,
        };
        if !cursor.skip(self.scanned) {
            return Ok(Scan::More);
        }
        loop {
            let key = cursor.position;
            self.scanned = key;
            if key == length {
                return Ok(Scan::Whole);
            }
            let Some(tag_and_type) = cursor.varint(length)? else {
                return Ok(Scan::More);
            };
            let skip = match tag_and_type & 7 {
                0 => match cursor.varint(length)? {
                    Some(_) => 0,
                    None => return Ok(Scan::More),
                },
                1 => 8,
                2 => {
                    let Some(field) = cursor.varint(length)? else {
                        return Ok(Scan::More);
                    };
                    let start = cursor.position;
                    let field = usize::try_from(field)
                        .map_err(|_| FrameError::Malformed("field longer than the message"))?;
                    if tag_and_type >> 3 == u64::from(PAYLOAD_TAG) {
                        let last = start.checked_add(field) == Some(length);
                        return Ok(if last {
                            Scan::Payload { key, start }
                        } else {
                            Scan::Whole
                        });
                    }
                    field
                }
                5 => 4,
                _ => return Err(FrameError::Malformed("unknown wire type")),
            };
            if cursor
                .position
                .checked_add(skip)
                .is_none_or(|end| end > length)
            {
                return Err(FrameError::Malformed("field longer than the message"));
            }
            if !cursor.skip(skip) {
                return Ok(Scan::More);
            }
        }
    }
}

fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, FrameError> {
    M::decode(bytes).map_err(|_| FrameError::Malformed("not the protobuf message of this call"))
}

/// A position in a queue of buffers that never moves past its end.
struct Cursor<'a> {
    pieces: &'a VecDeque<Bytes>,
    piece: usize,
    offset: usize,
    position: usize,
}

impl Cursor<'_> {
    /// Moves on; false if the queue ends before.
    fn skip(&mut self, mut count: usize) -> bool {
        self.position += count;
        while let Some(piece) = self.pieces.get(self.piece) {
            let left = piece.len() - self.offset;
            if left > count {
                self.offset += count;
                return true;
            }
            count -= left;
            self.piece += 1;
            self.offset = 0;
        }
        count == 0
    }

    /// Reads a varint that ends within a message of `length` bytes; `None` if the queue ends before.
    fn varint(&mut self, length: usize) -> Result<Option<u64>, FrameError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.position >= length {
                return Err(FrameError::Malformed("field cut off by the message's end"));
            }
            let Some(&byte) = self.pieces.get(self.piece).map(|piece| &piece[self.offset]) else {
                return Ok(None);
            };
            self.skip(1);
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(Some(value));
            }
        }
        Err(FrameError::Malformed("varint longer than 10 bytes"))
    }
}

#[cfg(test)]
mod tests;
