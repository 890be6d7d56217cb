//! How slow a peer may be. Whoever begins a message goes on with it; whoever has begun none may
//! rest as long as its connection lives.
//!
//! A message that was begun holds memory, of the budget once its head was read. So it is given
//! [`Pace::grace`], and as much time more as its bytes take at [`RATE`]: a pause of the network is
//! forgiven, a byte now and then is not. What counts is time in which this server looked and
//! nothing came; time in which the server itself stood still is not the peer's.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::body::Incoming;
use shuffle_proto::{
    frame::{Bulk, FrameError, HEAD, MAX_MESSAGE, MessageReader},
    kind::Kind,
    wire::MAX_FETCH,
};

use crate::{
    core::{Core, pace::Pace, peers::Share},
    error::Refusal,
    metrics::Limit,
    registry::{self, App, StreamPermit},
};

/// Bytes a second of a message that was begun.
const RATE: u64 = 64 << 10;
/// Bytes of the first message of a push: its caller is not known before.
const FIRST_PUSH: usize = 64 << 10;
/// What a head may have without asking. A table of thousands of blocks is smaller.
const HEAD_ROOM: usize = 64 << 10;

/// The time that a peer has taken.
struct Patience {
    grace: Duration,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// A reader of a push whose caller is not known yet.
    pub(super) fn first_push(body: Incoming) -> MessageReader<Incoming> {
        let mut reader = MessageReader::new(body);
        reader.limit(FIRST_PUSH, FIRST_PUSH);
        reader
    }

    /// A reader of a fetch whose caller is not known yet.
    pub(super) fn first_fetch(body: Incoming) -> MessageReader<Incoming> {
        let mut reader = MessageReader::new(body);
        reader.limit(MAX_FETCH, MAX_FETCH);
        reader
    }

    /// The bounds of a stream whose caller is known.
    pub(super) fn admitted(reader: &mut MessageReader<Incoming>) {
        reader.limit(MAX_MESSAGE, HEAD_ROOM);
    }
}

impl Core {
    /// A stream whose first message is not here yet.
    pub(super) fn opening(&self, peer: SocketAddr) -> Result<Share, Refusal> {
        self.bounds.openings.take(peer.ip()).map_err(|_| {
            self.limit(Limit::Openings, Some(peer));
            let message = "too many streams wait for their first message: send it at once";
            Refusal::new(Kind::Busy, message)
        })
    }

    /// A share of an app's streams.
    pub(super) fn stream(
        &self,
        app: &Arc<App>,
        peer: SocketAddr,
    ) -> Result<StreamPermit, registry::Error> {
        self.registry
            .stream(app)
            .inspect_err(|_| self.limit(Limit::StreamsPerApp, Some(peer)))
    }

    /// The first message of a stream, which must come at once.
    pub(super) async fn first<M: Bulk>(
        &self,
        reader: &mut MessageReader<Incoming>,
    ) -> Result<Option<(M, usize)>, Refusal> {
        let mut patience = Patience::new(self.pace.opening);
        loop {
            match patience
                .wait(reader, async |reader| reader.head().await)
                .await
            {
                Some(head) => return Ok(head?),
                None if patience.is_over() => {
                    self.limit(Limit::Slow, None);
                    let message = format!(
                        "first message is not here after {:?}: send it at once",
                        patience.waited
                    );
                    return Err(Refusal::new(Kind::Unavailable, message));
                }
                None => {}
            }
        }
    }

    /// The next message of a stream, which may take its time to begin, but not to go on.
    pub(super) async fn next<M: Bulk>(
        &self,
        reader: &mut MessageReader<Incoming>,
    ) -> Result<Option<(M, usize)>, Refusal> {
        if !reader.begun().await? {
            return Ok(None);
        }
        let mut patience = Patience::new(self.pace.grace);
        let mut room = None;
        loop {
            match patience
                .wait(reader, async |reader| reader.head().await)
                .await
            {
                Some(Err(FrameError::TooLarge { what, bytes, limit }))
                    if what == HEAD && room.is_none() && limit < bytes && bytes <= MAX_MESSAGE =>
                {
                    // Few are so large, and those wait for one another.
                    let wanted = u32::try_from(bytes).unwrap_or(u32::MAX);
                    if self.pace.heads.available_permits() < bytes {
                        self.limit(Limit::Heads, None);
                    }
                    let permit = self.pace.heads.clone().acquire_many_owned(wanted).await;
                    room = permit.ok();
                    reader.limit(MAX_MESSAGE, bytes);
                }
                Some(head) => {
                    Pace::admitted(reader);
                    return Ok(head?);
                }
                None if patience.is_over() => return Err(self.too_slow("message", &patience)),
                None => {}
            }
        }
    }

    /// Gives the payload of the message whose head was read to `take`. Memory that was granted for
    /// it is withheld from all others.
    pub(super) async fn payload(
        &self,
        reader: &mut MessageReader<Incoming>,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), Refusal> {
        let mut patience = Patience::new(self.pace.grace);
        loop {
            let payload = patience.wait(reader, async |reader| {
                reader.payload(|piece| take(&piece)).await
            });
            match payload.await {
                Some(payload) => return Ok(payload?),
                None if patience.is_over() => return Err(self.too_slow("payload", &patience)),
                None => {}
            }
        }
    }

    fn too_slow(&self, what: &str, patience: &Patience) -> Refusal {
        self.limit(Limit::Slow, None);
        let message = format!(
            "{what} has brought {} bytes in {:?} and holds memory: send what was begun with {RATE} bytes a second; push again",
            patience.bytes, patience.waited
        );
        Refusal::new(Kind::Unavailable, message)
    }
}

// === impl Patience ===

impl Patience {
    fn new(grace: Duration) -> Self {
        Self {
            grace,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Lets a step of the reader run for a while; `None` if it is not done then.
    async fn wait<T>(
        &mut self,
        reader: &mut MessageReader<Incoming>,
        step: impl AsyncFnOnce(&mut MessageReader<Incoming>) -> T,
    ) -> Option<T> {
        let (slice, before, start) = (self.grace / 4, reader.received(), Instant::now());
        let done = tokio::time::timeout(slice, step(reader)).await.ok();
        self.note(slice, start.elapsed(), reader.received() - before);
        done
    }

    /// Notes a while in which so many bytes came. One that took much longer than was asked for was
    /// this server's standstill.
    fn note(&mut self, slice: Duration, took: Duration, bytes: u64) {
        self.waited += took.min(2 * slice);
        self.bytes += bytes;
    }

    fn is_over(&self) -> bool {
        let earned = Duration::from_millis(self.bytes.saturating_mul(1000) / RATE);
        self.waited > self.grace.saturating_add(earned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a peer is borne with that sends so much every second.
    fn borne(bytes_a_second: u64) -> Option<u64> {
        let mut patience = Patience::new(Duration::from_secs(20));
        let second = Duration::from_secs(1);
        (1..10_000).find(|_| {
            patience.note(second, second, bytes_a_second);
            patience.is_over()
        })
    }

    #[test]
    fn a_byte_now_and_then_is_no_progress() {
        assert_eq!(borne(0), Some(21));
        assert_eq!(borne(1), Some(21));
        assert_eq!(borne(RATE / 2), Some(41));
        assert_eq!(borne(RATE), None);
    }

    #[test]
    fn a_pause_after_much_is_forgiven_and_a_standstill_of_the_server_is_not_the_peers() {
        let mut patience = Patience::new(Duration::from_secs(20));
        let slice = Duration::from_secs(5);
        patience.note(slice, slice, 4 << 20);
        for _ in 0..15 {
            patience.note(slice, slice, 0);
        }
        assert!(!patience.is_over(), "4 MiB earn 64 s");
        let mut stopped = Patience::new(Duration::from_secs(20));
        stopped.note(slice, Duration::from_secs(3600), 0);
        assert!(!stopped.is_over());
    }
}
