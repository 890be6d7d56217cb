//! Frames of a reduce task.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::Stream;
use shuffle_proto::ids::{AttemptId, MapIndex, PartitionId};

use super::{Boundaries, pack::PREFIX};
use crate::{
    client::Client,
    error::{Error, Kind},
    reader::{ReadSpec, Reader, ReaderStats},
    tally::Tally,
};

/// Whole frames of one output and partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Reduce partition.
    pub partition: PartitionId,
    /// The map task.
    pub map_index: MapIndex,
    /// The attempt.
    pub attempt: AttemptId,
    /// The count with which it was written.
    pub records: u32,
    /// With kept boundaries the frame, else one or more of them back to back.
    pub data: Bytes,
}

/// Reads the frames of some outputs, from all their servers at once, in no particular order; frames
/// of one output and partition come in the order of writing.
pub struct FrameReader {
    reader: Reader,
    boundaries: Boundaries,
    /// Of the block being taken apart; its data are what is left.
    block: Option<Frame>,
    failed: Option<Error>,
}

impl FrameReader {
    /// Starts to read the outputs named in `spec`. Connects in the background; a wrong spec is
    /// answered by the first `next`.
    pub fn open(client: &Client, spec: ReadSpec, boundaries: Boundaries) -> Self {
        Self {
            reader: client.open_reader(spec),
            boundaries,
            block: None,
            failed: None,
        }
    }

    /// The next frame; `None` after everything expected was given out and compared with the
    /// commits. May be dropped while it waits and called again. An error is repeated for ever.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        std::future::poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// Counters so far.
    pub fn stats(&self) -> ReaderStats {
        self.reader.stats()
    }

    /// Work of each server so far.
    pub fn tally(&self) -> Tally {
        self.reader.tally()
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Error>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        loop {
            match self.take_apart() {
                Ok(None) => {}
                Ok(frame) => return Poll::Ready(Ok(frame)),
                Err(error) => {
                    self.failed = Some(error.clone());
                    return Poll::Ready(Err(error));
                }
            }
            let Some(block) = ready!(self.reader.poll_block(cx))? else {
                return Poll::Ready(Ok(None));
            };
            self.block = Some(Frame {
                partition: block.partition,
                map_index: block.map_index,
                attempt: block.attempt,
                records: block.records,
                data: block.data.into(),
            });
        }
    }

    /// The next frame of the block.
    fn take_apart(&mut self) -> Result<Option<Frame>, Error> {
        if self.boundaries == Boundaries::Own {
            return Ok(self.block.take());
        }
        let Some(rest) = self.block.as_mut().filter(|block| !block.data.is_empty()) else {
            return Ok(None);
        };
        if rest.data.len() >= PREFIX {
            let (length, records) = (rest.data.get_u32_le() as usize, rest.data.get_u32_le());
            if length <= rest.data.len() {
                return Ok(Some(Frame {
                    records,
                    data: rest.data.split_to(length),
                    ..rest.clone()
                }));
            }
        }
        let message = format!(
            "partition {} of map {}, attempt {}, does not hold frames with kept boundaries: read it as it was written",
            rest.partition, rest.map_index, rest.attempt
        );
        Err(Error::new(Kind::Invalid, message))
    }
}

impl Stream for FrameReader {
    type Item = Result<Frame, Error>;

    /// As [`FrameReader::next`]; an error is repeated for ever.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_frame(cx).map(Result::transpose)
    }
}
