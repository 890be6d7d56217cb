//! The first message of a push: who it is, what it wants to write and how safe, and whether it is
//! let in.

use shuffle_proto::{
    block::MAX_BATCH,
    ids::{AppId, AttemptId, MapIndex},
    v1::{self, push_response},
    wire::{self, Invalid},
};

use super::{Answer, Attempt, Committed, Parts, Push, State, Writing, bytes};
use crate::{
    core::{drain::draining, pace::Pace},
    error::Refusal,
    service::caller,
    staging::{AttemptKey, Durability, Opened},
};

/// When a commit is acknowledged.
#[derive(Clone, Copy)]
pub(super) enum Level {
    /// When the volume has it so.
    Staged(Durability),
    /// When the object store has it.
    Object,
}

impl Push {
    pub(super) async fn open(&mut self, open: &v1::Open) -> Answer {
        if !matches!(self.state, State::New) {
            return Err(Invalid::new(
                "step",
                "a second open",
                "push each attempt on a stream of its own",
            )
            .into());
        }
        self.app = open
            .caller
            .as_ref()
            .and_then(|caller| AppId::try_new(&caller.app));
        let mut caller = caller::check(&self.core, open.caller.as_ref())?;
        caller.peer = Some(self.peer.ip());
        let num_maps = wire::count("open.num_maps", open.num_maps)?;
        let num_partitions = wire::count("open.num_partitions", open.num_partitions)?;
        let map_index = MapIndex(wire::index("open.map_index", open.map_index, num_maps)?);
        let level = self.level(open.durability)?;
        // The token first: a push that is let in is one that the drain waits for.
        let push = self.core.pushes.token();
        if self.core.is_draining() {
            return Err(draining());
        }
        let app = self.core.registry.write(&caller).await?;
        let stream = self.core.stream(&app, self.peer)?;
        Pace::admitted(&mut self.reader);
        let (shuffle, attempt) = (wire::shuffle(open.shuffle), AttemptId(open.attempt));
        let key = AttemptKey {
            app: app.id.clone(),
            shuffle,
            map_index,
            attempt,
        };

        let protocol = caller::version(
            "caller.protocol",
            open.caller.as_ref().map_or(0, |caller| caller.protocol),
        )?;
        let volumes = &self.core.volumes;
        // What is here is answered here.
        let is_here = || {
            volumes
                .iter()
                .any(|volume| volume.committed(&key).is_some())
        };
        let most = if open.share > 0 && is_here() {
            0
        } else {
            open.share
        };
        let held = || {
            let of_volume = volumes
                .iter()
                .map(|volume| volume.attempts(&key.app, shuffle));
            of_volume.sum()
        };
        let of = (key.app.clone(), shuffle);
        let Some(share) = self.core.shares.take(of, most, held) else {
            self.elsewhere = true;
            let answer = v1::Opened {
                protocol,
                elsewhere: true,
                ..v1::Opened::default()
            };
            return Ok(Some(push_response::Step::Opened(answer)));
        };
        let (volume, choice) = volumes.choose(&key)?;
        let opened = volume.open_attempt(key.clone(), num_maps, num_partitions)?;
        // The app may have gone while the volume did not know of the attempt yet: what is deleted
        // must not come back.
        self.core.registry.alive(&app)?;
        let attempt = Attempt {
            app,
            key,
            num_partitions,
            level,
            volume: volume.clone(),
            _choice: choice,
            share: Some(share),
            _stream: stream,
            _push: push,
        };
        let committed = matches!(opened, Opened::Committed(_));
        let answer = v1::Opened {
            protocol,
            volume: bytes(attempt.volume.id()),
            committed,
            max_batch: MAX_BATCH,
            elsewhere: false,
        };
        self.state = match opened {
            Opened::New(writer) => State::Writing(Box::new(Writing {
                attempt,
                writer,
                next_seq: 0,
                batches: 0,
                parts: Parts::default(),
            })),
            Opened::Committed(receipt) => State::Committed(Box::new(Committed {
                attempt,
                here: false,
                batches: 0,
                bytes: receipt.bytes,
                parts: Parts::default(),
            })),
        };
        Ok(Some(push_response::Step::Opened(answer)))
    }

    /// The level to reach, if this server has it.
    pub(super) fn level(&self, raw: i32) -> Result<Level, Refusal> {
        let available = match self.core.remote {
            Some(_) => {
                "this server has DURABILITY_MEMORY (1), DURABILITY_DISK (2), DURABILITY_FSYNC (3) and DURABILITY_OBJECT (5)"
            }
            None => {
                "this server has DURABILITY_MEMORY (1), DURABILITY_DISK (2) and DURABILITY_FSYNC (3); start it with --remote for DURABILITY_OBJECT (5)"
            }
        };
        match v1::Durability::try_from(raw) {
            Ok(v1::Durability::Memory) => Ok(Level::Staged(Durability::Memory)),
            Ok(v1::Durability::Disk) => Ok(Level::Staged(Durability::Disk)),
            Ok(v1::Durability::Fsync) => Ok(Level::Staged(Durability::Fsync)),
            Ok(v1::Durability::Object) if self.core.remote.is_some() => Ok(Level::Object),
            Ok(level) => {
                Err(Invalid::new("open.durability", level.as_str_name(), available).into())
            }
            Err(_) => Err(Invalid::new("open.durability", raw, available).into()),
        }
    }
}

impl Level {
    /// What the volume is asked for.
    pub(super) fn staged(self) -> Durability {
        match self {
            Level::Staged(durability) => durability,
            Level::Object => Durability::Disk,
        }
    }
}
