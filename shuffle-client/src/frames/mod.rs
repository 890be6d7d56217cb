//! Opaque frames: byte strings that an engine has made already, as a rule compressed, in whatever
//! order of partitions they come.
//!
//! [`FrameWriter`] holds frames back until there are some MiB of them, and then hands them on in the
//! order of partitions, those of one partition packed into blocks. So frames of a few KiB for many
//! partitions cost no more than sorted rows. They are not compressed again, whatever the spec says;
//! they are encrypted if the client encrypts. [`FrameReader`] gives the frames of one output and
//! partition back in the order of writing.
//!
//! [`Boundaries`] says whether the client keeps the frames apart, or the engine knows by itself
//! where a frame ends. Writer and reader must agree.

mod pack;
mod read;

use shuffle_proto::ids::PartitionId;

pub(crate) use self::pack::{Packer, add};
pub use self::read::{Frame, FrameReader};
use crate::{
    client::Client,
    codec::Compression,
    error::Error,
    receipt::Receipt,
    tally::Tally,
    writer::{MapWriter, WriteSpec, WriterStats},
};

/// Who knows where a frame ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Boundaries {
    /// The client: 8 bytes before each frame say its length and its records, and the reader gives
    /// out one frame at a time.
    Kept,
    /// The frames themselves: nothing is added, and the reader gives out runs of whole frames.
    Own,
}

/// Writes the output of one map attempt as frames. Dropping it before a commit aborts the output.
pub struct FrameWriter {
    writer: MapWriter,
    packer: Packer,
}

impl FrameWriter {
    /// Starts the output of one map attempt. Connects in the background; a wrong spec is answered
    /// by the first call of the writer.
    pub fn open(client: &Client, spec: WriteSpec, boundaries: Boundaries) -> Self {
        let spec = WriteSpec {
            compression: Compression::None,
            ..spec
        };
        Self {
            packer: Packer::new(client, boundaries),
            writer: client.open_writer(spec),
        }
    }

    /// Adds a frame of up to 2 GiB that counts as `records` records, whatever the engine counts:
    /// rows, as a rule. Costs CPU only; call [`ready`](Self::ready) after each frame or every few.
    pub fn add(&mut self, partition: PartitionId, frame: &[u8], records: u32) -> Result<(), Error> {
        self.writer.check_room(partition, frame.len())?;
        self.packer.add(partition, frame.len(), records, |target| {
            target.copy_from_slice(frame);
            Ok::<(), Error>(())
        })?;
        if self.packer.is_full() {
            self.push()?;
        }
        Ok(())
    }

    /// Waits until no more than a few messages are still to be handed to the connection. At once if
    /// that is so already.
    pub async fn ready(&mut self) -> Result<(), Error> {
        self.writer.ready().await
    }

    /// Hands on the frames that are held: what an engine calls that needs the memory for others.
    /// Later frames go into other blocks.
    pub fn push(&mut self) -> Result<(), Error> {
        self.packer.push(&mut self.writer).map(drop)
    }

    /// Bytes of frames that are held.
    pub fn held_bytes(&self) -> usize {
        self.packer.held_bytes()
    }

    /// Sends the rest and commits. May be dropped while it waits and called again; nothing may be
    /// added after the first call. Repeated calls after success return the same.
    pub async fn commit(&mut self) -> Result<Receipt, Error> {
        self.push()?;
        let commit = self.writer.commit().await?;
        Ok(Receipt::of(&self.writer, commit))
    }

    /// Drops the output, telling the server why.
    pub fn abort(self, reason: &str) {
        self.writer.abort(reason);
    }

    /// Counters so far, without the frames that are held.
    pub fn stats(&self) -> WriterStats {
        self.writer.stats()
    }

    /// Work of each server so far.
    pub fn tally(&self) -> Tally {
        self.writer.tally()
    }
}
