//! What a fetch reads of one volume, from wherever it is: the volume itself, and the object store
//! for what the volume has written back and does not have, or cannot read, any more. A volume that
//! is not served here is read from the store alone.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use bytes::Bytes;
use shuffle_proto::{
    block::BlockHeader,
    ids::{AppId, ShuffleId, VolumeId},
    kind::Kind,
    summary::{LostAttempt, Summary},
};
use shuffle_remote::{self as remote, Only, Place};

use crate::{
    core::Core,
    error::Refusal,
    staging::{self, Unanswered},
};

/// What is asked for.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) app: AppId,
    pub(super) shuffle: ShuffleId,
    pub(super) partitions: Range<u32>,
    pub(super) maps: Range<u32>,
    /// The attempts that are wanted; all, if absent.
    pub(super) only: Only,
}

/// Where a read of a volume begins.
pub(super) enum Begin {
    /// At the first block of the volume.
    Start,
    /// Behind a part of an earlier read. A cursor that the source does not know means the start.
    After(Bytes),
    /// Behind the last block of the volume: the reader has all blocks, and wants the summary.
    End,
}

/// Some blocks, and where they end.
pub(super) struct Part {
    pub(super) blocks: Vec<BlockHeader>,
    pub(super) data: Vec<Bytes>,
    pub(super) cursor: Bytes,
}

/// See the module.
pub(super) struct Read {
    volume: VolumeId,
    subject: Subject,
    begin: Begin,
    source: Source,
    summary: Summary,
    unanswered: Option<Unanswered>,
}

enum Source {
    Local(staging::Fetch),
    Remote(Box<remote::Fetch>),
    Done,
}

impl Begin {
    /// Converts to a source's own cursor type.
    fn cursor<C>(&self, end: C, parse: impl FnOnce(&[u8]) -> Option<C>) -> Option<C> {
        match self {
            Begin::Start => None,
            Begin::After(cursor) => parse(cursor),
            Begin::End => Some(end),
        }
    }
}

impl Read {
    /// Begins.
    pub(super) async fn open(
        core: &Core,
        volume: VolumeId,
        subject: Subject,
        begin: Begin,
    ) -> Result<Self, Refusal> {
        let mut read = Self {
            volume,
            subject,
            begin,
            source: Source::Done,
            summary: Summary::default(),
            unanswered: None,
        };
        let refusal = match read.local(core) {
            Ok(fetch) => {
                read.source = Source::Local(fetch);
                return Ok(read);
            }
            Err(refusal) => refusal,
        };
        let Subject {
            app, shuffle, only, ..
        } = &read.subject;
        // A deletion counts before the objects are gone.
        let deleted = || {
            core.volumes
                .iter()
                .any(|volume| volume.is_deleted(app, *shuffle))
        };
        if refusal.kind == Kind::Lost
            && !deleted()
            && let Some(fetch) = read.remote(core, only.clone()).await?
        {
            read.source = Source::Remote(Box::new(fetch));
            return Ok(read);
        }
        Err(refusal)
    }

    fn local(&self, core: &Core) -> Result<staging::Fetch, Refusal> {
        let volume = core.volumes.find(self.volume)?;
        let cursor = self
            .begin
            .cursor(staging::Cursor::END, staging::Cursor::try_from_bytes);
        let Subject {
            app,
            shuffle,
            partitions,
            maps,
            only,
        } = &self.subject;
        let fetch = volume.fetch(app, *shuffle, partitions.clone(), maps.clone(), cursor)?;
        Ok(fetch.only(only.clone()))
    }

    /// What the store has; `None` if that is nothing, or if there is no store.
    async fn remote(&self, core: &Core, only: Only) -> Result<Option<remote::Fetch>, Refusal> {
        let Some(tier) = &core.remote else {
            return Ok(None);
        };
        let Subject {
            app,
            shuffle,
            partitions,
            maps,
            ..
        } = &self.subject;
        let place = Place {
            app: app.clone(),
            shuffle: *shuffle,
            volume: self.volume,
        };
        let cursor = self
            .begin
            .cursor(remote::Cursor::END, remote::Cursor::try_from_bytes);
        // A token that only this server knows opens nothing that others have written.
        core.registry.confirm(app).await?;
        let fetch = tier
            .remote
            .fetch(&place, partitions.clone(), maps.clone(), only, cursor);
        match fetch.await {
            Ok(fetch) => Ok(Some(fetch)),
            Err(remote::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Some more; `None` when the summary is complete.
    pub(super) async fn next(&mut self, core: &Core) -> Result<Option<Part>, Refusal> {
        loop {
            match &mut self.source {
                Source::Local(fetch) => {
                    if let Some(part) = fetch.next().await? {
                        return Ok(Some(Part {
                            blocks: part.blocks,
                            data: part.data,
                            cursor: part.cursor.to_bytes(),
                        }));
                    }
                    (self.summary, self.unanswered) = (fetch.summary(), fetch.unanswered());
                    self.source = self.rest(core).await?;
                }
                Source::Remote(fetch) => {
                    if let Some(part) = fetch.next().await? {
                        return Ok(Some(Part {
                            blocks: part.blocks,
                            data: part.data,
                            cursor: part.cursor.to_bytes(),
                        }));
                    }
                    let summary = fetch.summary().await?;
                    let found: BTreeSet<_> = summary
                        .covered
                        .iter()
                        .map(|totals| (totals.map_index, totals.attempt))
                        .collect();
                    // What is broken there too is lost for that reason.
                    let there = summary.lost.iter();
                    let there: BTreeSet<_> =
                        there.map(|lost| (lost.map_index, lost.attempt)).collect();
                    self.summary.lost.retain(|lost| {
                        let owner = (lost.map_index, lost.attempt);
                        !found.contains(&owner) && !there.contains(&owner)
                    });
                    self.summary.lost.extend(summary.lost);
                    self.summary.covered.extend(summary.covered);
                    self.name_missing();
                    self.source = Source::Done;
                }
                Source::Done => {
                    // A disk that does not answer has lost nothing: whoever asks again later, or
                    // elsewhere, may get it.
                    let mut lost = self.summary.lost.iter();
                    return match self.unanswered.take() {
                        Some(Unanswered { error, attempts })
                            if lost
                                .any(|lost| attempts.contains(&(lost.map_index, lost.attempt))) =>
                        {
                            Err(error.into())
                        }
                        _ => Ok(None),
                    };
                }
            }
        }
    }

    /// What is wanted and was found nowhere is lost: never silently absent.
    fn name_missing(&mut self) {
        let Some(only) = &self.subject.only else {
            return;
        };
        let Summary { covered, lost } = &mut self.summary;
        let covered = covered.iter().map(|one| (one.map_index, one.attempt));
        let known: BTreeSet<_> = covered
            .chain(lost.iter().map(|one| (one.map_index, one.attempt)))
            .collect();
        for &(map_index, attempt) in only.difference(&known) {
            if self.subject.maps.contains(&map_index.0) {
                lost.push(LostAttempt {
                    map_index,
                    attempt,
                    reason: format!(
                        "volume {} is not served here, and it is not in the object store",
                        self.volume
                    ),
                });
            }
        }
    }

    /// The read that follows the volume's: attempts that the volume cannot serve may be in the
    /// store.
    async fn rest(&self, core: &Core) -> Result<Source, Refusal> {
        if self.summary.lost.is_empty() {
            return Ok(Source::Done);
        }
        let lost = self.summary.lost.iter();
        let lost: BTreeSet<_> = lost.map(|lost| (lost.map_index, lost.attempt)).collect();
        let fetch = match self.remote(core, Some(Arc::new(lost))).await {
            // Then it is lost, for the volume's own reason.
            Err(refusal) if refusal.kind == Kind::Corrupt => {
                tracing::error!(volume = %self.volume, why = refusal.message, "the store cannot stand in for the volume");
                None
            }
            fetch => fetch?,
        };
        Ok(fetch.map_or(Source::Done, |fetch| Source::Remote(Box::new(fetch))))
    }

    /// The volume that is read.
    pub(super) fn volume(&self) -> VolumeId {
        self.volume
    }

    /// What was covered; complete once [`Read::next`] has returned `None`.
    pub(super) fn summary(&self) -> Summary {
        self.summary.clone()
    }
}
