//! One stream of a push, from Open to its end: feeds it, reads the answers, and watches its
//! progress.

use std::time::Duration;

use shuffle_proto::{frame::Rope, v1, wire};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{End, FAREWELL, PART, Push, commit_parts, internal, rope};
use crate::{
    channel::{Bulk, Failure, Outgoing, ended},
    error::Kind,
    types::Durability,
    writer::state::{Receipt, Step},
};

impl Push {
    /// Runs one stream, from Open to its end. With `eager`, batches are sent before the server has
    /// answered Open, which saves a round trip; not when the server may have the commit already.
    pub(super) async fn stream(&self, address: &str, eager: bool) -> End {
        let (sender, receiver) = mpsc::channel(1);
        let body: Outgoing = Box::pin(ReceiverStream::new(receiver));
        let run = async {
            tokio::select! {
                failure = self.watch(address) => {
                    if !self.shared.stream().opened {
                        self.client.connections().found_hung(address);
                    }
                    self.client.connections().distrust(address, Bulk::Push).await;
                    End::Stalled(failure)
                }
                failure = self.feed(sender, eager) => End::Failed(failure),
                receipt = self.listen(address, body) => match receipt {
                    Ok(receipt) => End::Committed(receipt),
                    Err(failure) => End::Failed(failure),
                },
            }
        };
        tokio::pin!(run);
        let aborted = self.shared.aborted();
        tokio::select! {
            biased;
            () = aborted.cancelled() => {
                // The stream must go on for a moment for its last word to leave; the server ends it
                // then.
                let _ = tokio::time::timeout(FAREWELL, &mut run).await;
                End::Aborted
            }
            end = &mut run => end,
        }
    }

    /// Sends messages, and after Commit or Abort the end of the stream. Does not end by itself: the
    /// result is in the answers.
    pub(super) async fn feed(
        &self,
        sender: mpsc::Sender<Result<Rope, Status>>,
        eager: bool,
    ) -> Failure {
        let spec = &self.spec;
        let open = v1::push_request::Step::Open(v1::Open {
            caller: Some(spec.caller.message()),
            shuffle: spec.shuffle.0,
            num_maps: spec.num_maps,
            num_partitions: spec.num_partitions,
            map_index: spec.map_index.0,
            attempt: spec.attempt.0,
            durability: self.level().message().into(),
            share: self.share,
        });
        if sender.send(Ok(rope(open))).await.is_err() {
            return std::future::pending().await;
        }
        'stream: loop {
            // Room first, then the bytes: what is taken here counts as handed over.
            let Ok(room) = sender.reserve().await else {
                return std::future::pending().await;
            };
            loop {
                if !eager && !self.shared.stream().opened {
                    self.shared.work().await;
                    continue;
                }
                match self.shared.step() {
                    Step::Send(rope) => {
                        room.send(Ok(rope));
                        break;
                    }
                    Step::Commit(totals) => {
                        drop(room);
                        for part in commit_parts(&totals) {
                            let part = rope(v1::push_request::Step::Commit(part));
                            if sender.send(Ok(part)).await.is_err() {
                                return std::future::pending().await;
                            }
                        }
                        break 'stream;
                    }
                    Step::Abort(reason) => {
                        room.send(Ok(rope(v1::push_request::Step::Abort(v1::Abort {
                            reason,
                        }))));
                        break 'stream;
                    }
                    Step::Wait => self.shared.work().await,
                }
            }
        }
        drop(sender);
        std::future::pending().await
    }

    /// Opens the stream and reads the answers up to the receipt.
    pub(super) async fn listen(&self, address: &str, body: Outgoing) -> Result<Receipt, Failure> {
        let mut lane = self.client.connections().lane(address, Bulk::Push).await?;
        let mut answers = lane.call(body).await?;
        let mut acks = 0;
        while let Some((answer, _)) = answers.head::<v1::PushResponse>().await? {
            match answer.step {
                Some(v1::push_response::Step::Opened(_)) if self.shared.stream().opened => {
                    let message = format!("{address} opens a stream twice: report it");
                    return Err(Failure::new(Kind::Internal, message));
                }
                Some(v1::push_response::Step::Opened(opened)) => {
                    self.client.connections().answered(address);
                    self.opened(address, &opened)?;
                }
                // An ack without a message is no progress.
                Some(v1::push_response::Step::Ack(_)) => {
                    acks += 1;
                    if acks <= self.shared.most_acks(PART) {
                        self.shared.progressed();
                    }
                }
                Some(v1::push_response::Step::Committed(committed)) => {
                    let receipt = self.receipt(address, committed)?;
                    // Reads to the end in peace: a stream that is dropped before is reset.
                    self.client.handle().spawn(async move {
                        let rest = async {
                            while let Ok(Some(_)) = answers.head::<v1::PushResponse>().await {}
                        };
                        let _ = tokio::time::timeout(FAREWELL, rest).await;
                        drop(lane);
                    });
                    return Ok(receipt);
                }
                None => {} // a step of a later version
            }
        }
        Err(ended(&answers, "a receipt"))
    }

    pub(super) fn opened(&self, address: &str, opened: &v1::Opened) -> Result<(), Failure> {
        if opened.elsewhere {
            let message = format!("{address} has its share of the shuffle");
            return Err(Failure {
                answered: true,
                elsewhere: true,
                ..Failure::new(Kind::Unavailable, message)
            });
        }
        wire::volume("opened.volume", &opened.volume).map_err(|error| internal(address, &error))?;
        let (largest, most) = (self.shared.largest_payload(), opened.max_batch as usize);
        if most > 0 && largest > most {
            let message = format!(
                "messages of {largest} bytes, and {address} takes {most}: lower batch_bytes or block_bytes"
            );
            return Err(Failure::new(Kind::Invalid, message));
        }
        if !opened.committed && !self.shared.replayable() {
            return Err(Failure::new(
                Kind::Lost,
                "the server has not got the commit that was sent to it",
            ));
        }
        self.shared.opened(opened.committed);
        Ok(())
    }

    /// Compares the server's totals with the written ones.
    pub(super) fn receipt(
        &self,
        address: &str,
        committed: v1::Committed,
    ) -> Result<Receipt, Failure> {
        let volume = wire::volume("committed.volume", &committed.volume)
            .map_err(|error| internal(address, &error))?;
        let durability = Durability::of(committed.durability());
        let totals = self.shared.totals();
        let wrote = totals.map(|totals| (totals.bytes, totals.records));
        // invariant: whole-attempt-or-none
        if wrote != Some((committed.bytes, committed.records)) {
            let message = format!(
                "{address} committed {} bytes and {} records, written were {wrote:?}: report it",
                committed.bytes, committed.records
            );
            return Err(Failure::new(Kind::Internal, message));
        }
        match durability {
            Some(durability) if durability >= self.level() => Ok(Receipt {
                volume,
                address: address.to_string(),
                durability,
            }),
            _ => {
                let message = format!(
                    "{address} reached {} where {} was asked: report it",
                    durability.map_or("no level", Durability::name),
                    self.level()
                );
                Err(Failure::new(Kind::Internal, message))
            }
        }
    }

    /// Fails when the server owes something for too long. A dead peer is found by the connection's
    /// own probes; this watch is for a peer that answers probes and does not go on.
    pub(super) async fn watch(&self, address: &str) -> Failure {
        let settings = self.client.settings();
        loop {
            let stream = self.shared.stream();
            // Back-pressure may last: a server short of memory is as alive as a restarting one.
            let limit = if stream.opened {
                settings.retry_deadline
            } else {
                settings
                    .call_timeout
                    .saturating_add(settings.connect_timeout)
            };
            let idle = stream.progress.elapsed();
            if !self.shared.waiting() {
                tokio::time::sleep(limit.min(settings.call_timeout)).await;
            } else if idle < limit {
                tokio::time::sleep((limit - idle).max(Duration::from_millis(1))).await;
            } else {
                let doing = match (stream.opened, stream.commit_sent) {
                    (false, _) => "opening the stream",
                    (true, false) => "taking batches",
                    (true, true) => "committing",
                };
                return Failure::new(
                    Kind::Unavailable,
                    format!("{address} did not go on {doing} for {idle:.0?}"),
                );
            }
        }
    }

    /// Level asked of each server: two of them at `disk` make `mirror`.
    pub(super) fn level(&self) -> Durability {
        match self.spec.durability {
            Durability::Mirror => Durability::Disk,
            level => level,
        }
    }
}
