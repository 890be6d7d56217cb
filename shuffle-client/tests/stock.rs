//! A server made of nothing but the generated code and stock tonic takes this client's pushes and
//! serves its fetches.

#![allow(clippy::unwrap_used)] // in helpers of tests
mod common;

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use common::*;
use futures_util::{Stream, StreamExt as _, stream};
use shuffle_client::{Client, Kind, PartitionId, Settings, VolumeId};
use shuffle_proto::v1::{self, data_server::DataServer, push_request, push_response};
use tokio::sync::Mutex;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Batches as they came, of one attempt.
#[derive(Default)]
struct Stock {
    batches: Mutex<Vec<(v1::BlockTable, Bytes)>>,
    open: Mutex<Option<v1::Open>>,
}

const VOLUME: [u8; 16] = [9; 16];

#[tonic::async_trait]
impl v1::data_server::Data for Stock {
    type PushStream = Answers<v1::PushResponse>;
    type FetchStream = Answers<v1::FetchResponse>;

    async fn push(
        &self,
        request: Request<Streaming<v1::PushRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let mut messages = request.into_inner();
        let mut answers = Vec::new();
        while let Some(message) = messages.message().await? {
            answers.push(
                match message
                    .step
                    .ok_or_else(|| Status::invalid_argument("no step"))?
                {
                    push_request::Step::Open(open) => {
                        *self.open.lock().await = Some(open);
                        let volume = Bytes::from_static(&VOLUME);
                        push_response::Step::Opened(v1::Opened {
                            protocol: 1,
                            volume,
                            committed: false,
                            max_batch: 8 << 20,
                            elsewhere: false,
                        })
                    }
                    push_request::Step::Batch(batch) => {
                        let mut batches = self.batches.lock().await;
                        batches.push((batch.table.unwrap(), message.payload));
                        push_response::Step::Ack(v1::Ack {
                            batches: batches.len() as u64,
                        })
                    }
                    push_request::Step::Commit(commit) => {
                        let totals = commit.totals.unwrap();
                        let (bytes, records) =
                            (totals.bytes.iter().sum(), totals.records.iter().sum());
                        let volume = Bytes::from_static(&VOLUME);
                        push_response::Step::Committed(v1::Committed {
                            volume,
                            durability: 2,
                            bytes,
                            records,
                        })
                    }
                    push_request::Step::Abort(abort) => return Err(Status::aborted(abort.reason)),
                },
            );
        }
        let answers = answers
            .into_iter()
            .map(|step| Ok(v1::PushResponse { step: Some(step) }));
        Ok(Response::new(stream::iter(answers).boxed()))
    }

    async fn fetch(
        &self,
        _: Request<v1::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let open = self.open.lock().await.clone().unwrap();
        let mut summary = v1::Summary {
            map_index: vec![open.map_index],
            attempt: vec![open.attempt],
            ..Default::default()
        };
        let (mut blocks, mut bytes, mut records) = (0, 0, 0);
        let mut answers = Vec::new();
        for (table, payload) in self.batches.lock().await.iter() {
            blocks += table.length.len() as u32;
            bytes += table
                .length
                .iter()
                .map(|length| u64::from(*length))
                .sum::<u64>();
            records += table
                .records
                .iter()
                .map(|records| u64::from(*records))
                .sum::<u64>();
            let mut table = table.clone();
            table.map_index = vec![open.map_index; table.length.len()];
            table.attempt = vec![open.attempt; table.length.len()];
            answers.push(Ok(v1::FetchResponse {
                table: Some(table),
                payload: payload.clone(),
                ..Default::default()
            }));
        }
        (summary.blocks, summary.bytes, summary.records) =
            (vec![blocks], vec![bytes], vec![records]);
        answers.push(Ok(v1::FetchResponse {
            summary: Some(summary),
            ..Default::default()
        }));
        Ok(Response::new(stream::iter(answers).boxed()))
    }
}

async fn serve() -> (Arc<Stock>, Client) {
    let stock = Arc::new(Stock::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = DataServer::from_arc(stock.clone()).max_decoding_message_size(16 << 20);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let settings = Settings {
        servers: vec![address],
        ..settings(&[])
    };
    (stock, Client::new(settings).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_server_takes_pushes_and_serves_fetches() {
    let (stock, client) = serve().await;
    let address = client.settings().servers[0].clone();
    let mut spec = write_spec(&[], 3, 33);
    spec.candidates = [address.clone()].into();
    let mut writer = client.open_writer(spec);
    fill(&mut writer, 3, 12, 65_536).unwrap();
    writer
        .add_long(
            PartitionId(PARTITIONS - 1),
            &raw(3, PARTITIONS - 1, 12, 65_536 * 2),
            3,
        )
        .unwrap();
    let commit = writer.commit().await.unwrap();
    assert_eq!(commit.volume, VolumeId(uuid::Uuid::from_bytes(VOLUME)));
    assert!(stock.batches.lock().await.len() > 1);

    let mut reader = client.open_reader(read_spec(vec![output(&commit, 3, 33)]));
    let mut expected = wrote(&[3], 12, 65_536);
    let last = expected.get_mut(&(3, PARTITIONS - 1)).unwrap();
    last.0.extend(raw(3, PARTITIONS - 1, 12, 65_536 * 2));
    last.1 += 3;
    assert!(read_all(&mut reader).await.unwrap() == expected);
}

#[tokio::test]
async fn a_server_without_the_control_service_is_no_server_for_an_app() {
    let (_stock, client) = serve().await;
    let error = client.open_app(caller()).await.err().unwrap();
    assert_eq!(error.kind, Kind::Invalid);
}
