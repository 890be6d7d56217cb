//! Bytes that no client would send: inside a well-formed HTTP/2 stream, or straight on the socket.
//! And a tiny HTTP/1.1 client.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Status, body::Body, client::GrpcService};

use crate::{peer::Peer, step};

/// What came back from a call with hand-made bytes.
#[derive(Debug)]
pub struct RawAnswer {
    /// HTTP status.
    pub http: u16,
    /// The gRPC status, from the trailers or the headers; `None` if the stream broke without one.
    pub status: Option<Status>,
    /// The body.
    pub body: Bytes,
}

/// Sends these bytes as the body of a gRPC call, then ends the stream, or keeps it open until the
/// answer is there.
pub async fn call(peer: &Peer, path: &str, pieces: Vec<Bytes>, end: bool) -> RawAnswer {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let feed = tokio::spawn(async move {
        for piece in pieces {
            if sender.send(piece).await.is_err() {
                break;
            }
        }
        if !end {
            sender.closed().await;
        }
    });
    let frames = tokio_stream::StreamExt::map(
        tokio_stream::wrappers::ReceiverStream::new(receiver),
        |piece| Ok::<_, Infallible>(http_body::Frame::data(piece)),
    );
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(StreamBody::new(frames)))
        .expect("a request can be made");
    let answer = step("a raw call", async {
        let mut channel = peer.channel.clone();
        std::future::poll_fn(|cx| GrpcService::<Body>::poll_ready(&mut channel, cx))
            .await
            .expect("the connection stands");
        let response = match GrpcService::call(&mut channel, request).await {
            Ok(response) => response,
            Err(error) => {
                return RawAnswer {
                    http: 0,
                    status: Some(Status::from_error(Box::new(error))),
                    body: Bytes::new(),
                };
            }
        };
        let (head, body) = response.into_parts();
        let mut status = Status::from_header_map(&head.headers);
        let body = match body.collect().await {
            Ok(collected) => {
                status = status.or_else(|| collected.trailers().and_then(Status::from_header_map));
                collected.to_bytes()
            }
            Err(error) => {
                status = status.or(Some(error));
                Bytes::new()
            }
        };
        RawAnswer {
            http: head.status.as_u16(),
            status,
            body,
        }
    })
    .await;
    feed.abort();
    answer
}

/// A gRPC call whose bytes are sent by hand, at any pace.
pub struct Stream {
    sender: Option<tokio::sync::mpsc::Sender<Bytes>>,
    answer: tokio::task::JoinHandle<Status>,
}

impl Stream {
    /// Opens it and sends nothing.
    pub fn open(peer: &Peer, path: &str) -> Self {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
        let frames = tokio_stream::StreamExt::map(
            tokio_stream::wrappers::ReceiverStream::new(receiver),
            |piece| Ok::<_, Infallible>(http_body::Frame::data(piece)),
        );
        let request = http::Request::post(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(StreamBody::new(frames)))
            .expect("a request can be made");
        let mut channel = peer.channel.clone();
        let answer = tokio::spawn(async move {
            let ready =
                std::future::poll_fn(|cx| GrpcService::<Body>::poll_ready(&mut channel, cx));
            if let Err(error) = ready.await {
                return Status::from_error(Box::new(error));
            }
            let response = match GrpcService::call(&mut channel, request).await {
                Ok(response) => response,
                Err(error) => return Status::from_error(Box::new(error)),
            };
            let (head, body) = response.into_parts();
            if let Some(status) = Status::from_header_map(&head.headers) {
                return status;
            }
            match body.collect().await {
                Ok(collected) => collected
                    .trailers()
                    .and_then(Status::from_header_map)
                    .unwrap_or_else(|| Status::ok("")),
                Err(error) => error,
            }
        });
        Self {
            sender: Some(sender),
            answer,
        }
    }

    /// Sends bytes; false once the server has ended the stream.
    pub async fn send(&self, bytes: impl Into<Bytes>) -> bool {
        let sender = self.sender.as_ref().expect("the stream is open");
        step("sending bytes", sender.send(bytes.into()))
            .await
            .is_ok()
    }

    /// How the server ends it.
    pub async fn ended(mut self) -> Status {
        step("the end of a raw stream", &mut self.answer)
            .await
            .expect("the call does not panic")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

/// A gRPC message: prefix and bytes.
pub fn grpc_frame(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

/// Writes bytes on a new connection, and reads what comes until the server closes it or a moment
/// has passed.
pub async fn socket(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr)
        .await
        .expect("the server takes connections");
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_millis(500), stream.read_to_end(&mut answer)).await;
    answer
}

/// Writes bytes on a new connection, and reads what comes until the other side closes it.
pub async fn exchange(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    step("an exchange", async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(bytes).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    })
    .await
    .expect("a connection that stands")
}

/// GET over HTTP/1.1: status and body.
pub async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    step("an HTTP call", async {
        let mut stream = TcpStream::connect(addr)
            .await
            .expect("the admin port takes connections");
        let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("a request can be sent");
        let mut answer = Vec::new();
        stream
            .read_to_end(&mut answer)
            .await
            .expect("an answer can be read");
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
        let status = head
            .split_whitespace()
            .nth(1)
            .and_then(|code| code.parse().ok())
            .expect("a status");
        (status, body.to_owned())
    })
    .await
}

/// The value of a metric without labels, or the sum over all labels.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    let mut sum = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some(rest) = line.strip_prefix(name) else {
            continue;
        };
        if !rest.starts_with([' ', '{']) {
            continue;
        }
        if let Some(value) = rest
            .rsplit(' ')
            .next()
            .and_then(|value| value.parse::<f64>().ok())
        {
            sum = Some(sum.unwrap_or(0.0) + value);
        }
    }
    sum
}
