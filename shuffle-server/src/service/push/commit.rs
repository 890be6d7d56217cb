//! The last message of a push: commits the attempt, and answers once its level is reached.

use std::time::Instant;

use shuffle_proto::{
    block::PartitionTotal,
    v1::{self, push_response},
    wire::Invalid,
};

use super::{Answer, Attempt, Committed, Parts, Push, State, Writing, bytes, open::Level};
use crate::{
    error::Refusal,
    staging::{Durability, Receipt},
};

impl Push {
    pub(super) async fn commit(&mut self, commit: &v1::Commit) -> Answer {
        let batches = match &mut self.state {
            State::New => return Err(Invalid::new("step", "commit", "send open first").into()),
            State::Writing(writing) => {
                self.core.registry.alive(&writing.attempt.app)?;
                let most = u64::from(writing.next_seq);
                let parts = &mut writing.parts;
                let blocks = |total: &PartitionTotal| u64::from(total.blocks);
                parts.add(commit, writing.attempt.num_partitions, blocks, most)?;
                writing.batches
            }
            State::Committed(known) => {
                self.core.registry.alive(&known.attempt.app)?;
                let most = known.bytes;
                let parts = &mut known.parts;
                let bytes = |total: &PartitionTotal| total.bytes;
                parts.add(commit, known.attempt.num_partitions, bytes, most)?;
                known.batches
            }
        };
        if commit.more {
            return Ok(Some(push_response::Step::Ack(v1::Ack { batches })));
        }
        match std::mem::replace(&mut self.state, State::New) {
            State::New => Err(Invalid::new("step", "commit", "send open first").into()),
            State::Writing(writing) => {
                let Writing {
                    mut attempt,
                    writer,
                    batches,
                    parts: Parts { totals, .. },
                    ..
                } = *writing;
                let start = Instant::now();
                let receipt = writer.commit(totals, attempt.level.staged()).await?;
                attempt.share = None;
                attempt.app.committed();
                let answer = self.acknowledge(&attempt, &receipt).await?;
                self.core
                    .metrics
                    .commit_latency
                    .observe(start.elapsed().as_secs_f64());
                self.core.metrics.commits.inc();
                self.state = State::Committed(Box::new(Committed {
                    attempt,
                    here: true,
                    batches,
                    bytes: receipt.bytes,
                    parts: Parts::default(),
                }));
                Ok(Some(answer))
            }
            State::Committed(mut known) => {
                let Attempt {
                    key, level, volume, ..
                } = &known.attempt;
                let Parts { totals, .. } = std::mem::take(&mut known.parts);
                let receipt = volume.confirm(key, &totals, level.staged()).await?;
                let answer = self.acknowledge(&known.attempt, &receipt).await?;
                self.state = State::Committed(known);
                Ok(Some(answer))
            }
        }
    }

    /// The answer to a commit, when its level is reached.
    pub(super) async fn acknowledge(
        &self,
        attempt: &Attempt,
        receipt: &Receipt,
    ) -> Result<push_response::Step, Refusal> {
        let durability = match (attempt.level, &self.core.remote) {
            (Level::Object, Some(tier)) => {
                tier.writeback
                    .written(&attempt.volume, &attempt.key)
                    .await?;
                v1::Durability::Object
            }
            _ => match receipt.durability {
                Durability::Memory => v1::Durability::Memory,
                Durability::Disk => v1::Durability::Disk,
                Durability::Fsync => v1::Durability::Fsync,
            },
        };
        Ok(push_response::Step::Committed(v1::Committed {
            volume: bytes(receipt.volume),
            durability: durability as i32,
            bytes: receipt.bytes,
            records: receipt.records,
        }))
    }
}
