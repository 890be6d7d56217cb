//! One push of the stock client, step by step and in any order.

use bytes::Bytes;
use shuffle_proto::v1::{self, push_request, push_response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{peer::Peer, step};

/// A push in progress: any step at any time.
pub struct Push {
    steps: Option<mpsc::Sender<v1::PushRequest>>,
    answers: Answers,
    /// Batches that the server said it holds.
    pub acked: u64,
}

enum Answers {
    Waiting(tokio::task::JoinHandle<Result<Streaming<v1::PushResponse>, Status>>),
    Open(Box<Streaming<v1::PushResponse>>),
    Done,
}

impl Push {
    /// Starts the call without saying anything.
    pub async fn start(peer: &Peer) -> Self {
        let (steps, requests) = mpsc::channel(4);
        let mut client = peer.data.clone();
        // In its own task: the server may answer the headers only after it has seen a message.
        let call = async move {
            client
                .push(ReceiverStream::new(requests))
                .await
                .map(tonic::Response::into_inner)
        };
        Self {
            steps: Some(steps),
            answers: Answers::Waiting(tokio::spawn(call)),
            acked: 0,
        }
    }

    /// Sends a step without payload. A stream ended by the server swallows the step: the answer
    /// tells why.
    pub async fn send(&mut self, it: push_request::Step) {
        self.send_message(v1::PushRequest {
            step: Some(it),
            payload: Bytes::new(),
        })
        .await;
    }

    /// Sends any message.
    pub async fn send_message(&mut self, message: v1::PushRequest) {
        let steps = self.steps.as_ref().expect("the push is not finished");
        let _ = step("sending", steps.send(message)).await;
    }

    /// Sends messages.
    pub async fn batches(&mut self, batches: Vec<v1::PushRequest>) {
        for batch in batches {
            self.send_message(batch).await;
        }
    }

    /// Ends the sending side.
    pub fn finish(&mut self) {
        self.steps = None;
    }

    /// The next answer that is no ack; `None` at the end of a stream that ended well.
    pub async fn answer(&mut self) -> Result<Option<push_response::Step>, Status> {
        loop {
            match self.any_answer().await? {
                Some(push_response::Step::Ack(ack)) => {
                    assert!(ack.batches >= self.acked, "acks go backwards");
                    self.acked = ack.batches;
                }
                other => return Ok(other),
            }
        }
    }

    /// The next answer.
    pub async fn any_answer(&mut self) -> Result<Option<push_response::Step>, Status> {
        if let Answers::Waiting(call) = &mut self.answers {
            let stream = step("the start of a push", call)
                .await
                .expect("the call does not panic");
            self.answers = match stream {
                Ok(stream) => Answers::Open(Box::new(stream)),
                Err(status) => {
                    self.answers = Answers::Done;
                    return Err(status);
                }
            };
        }
        match &mut self.answers {
            Answers::Open(stream) => match step("an answer to a push", stream.message()).await? {
                Some(response) => Ok(Some(response.step.expect("an answer says something"))),
                None => Ok(None),
            },
            Answers::Done | Answers::Waiting(_) => Ok(None),
        }
    }

    /// Reads acks until the server holds this many batches.
    pub async fn acked(&mut self, batches: u64) -> Result<(), Status> {
        while self.acked < batches {
            match self.any_answer().await? {
                Some(push_response::Step::Ack(ack)) => self.acked = ack.batches,
                other => panic!("waiting for an ack, got {other:?}"),
            }
        }
        Ok(())
    }

    /// Commits, and reads the receipt and the stream's end.
    pub async fn commit(mut self, totals: v1::PartitionTotals) -> Result<v1::Committed, Status> {
        self.send(push_request::Step::Commit(v1::Commit {
            totals: Some(totals),
            more: false,
        }))
        .await;
        self.finish();
        self.receipt().await
    }

    /// Reads the receipt and the stream's end.
    pub async fn receipt(&mut self) -> Result<v1::Committed, Status> {
        let committed = match self.answer().await? {
            Some(push_response::Step::Committed(committed)) => committed,
            other => panic!("the answer to commit is {other:?}"),
        };
        assert_eq!(self.answer().await?, None, "nothing follows the receipt");
        Ok(committed)
    }

    /// Reads up to the refusal that must come.
    pub async fn refusal(&mut self) -> Status {
        loop {
            match self.answer().await {
                Err(status) => return status,
                Ok(Some(push_response::Step::Opened(_))) => {}
                Ok(other) => panic!("a refusal must come, not {other:?}"),
            }
        }
    }

    /// Aborts.
    pub async fn abort(mut self) {
        self.send(push_request::Step::Abort(v1::Abort {
            reason: "the test says so".into(),
        }))
        .await;
        self.finish();
        while let Ok(Some(_)) = self.answer().await {}
    }
}
