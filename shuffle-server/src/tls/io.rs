//! A connection, plain or not, and how it is opened.
//!
//! The first byte tells: a TLS client begins with a handshake record, every other with a letter.
//! Whoever speaks the other way is told so, in words that its side can read, and so is the log.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{PeerIdentity, Port, Tls, certificate::Facts};
use crate::metrics::Metrics;

/// First byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;
/// For telling a peer why it is refused, before it is.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A connection, plain or not.
pub(crate) struct Io {
    stream: Stream,
    /// What was read already and is still to be given to the reader.
    early: Vec<u8>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Opens the connections of a port.
#[derive(Clone)]
pub(crate) struct Opener {
    tls: Option<Arc<Tls>>,
    port: Port,
}

/// Why a connection is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unopened {
    /// Nothing to be told: it went, or the network failed.
    #[error(transparent)]
    Gone(#[from] io::Error),
    /// What its settings and this server's do not have in common, with the remedy.
    #[error("{0}")]
    Refused(String),
}

// === impl Opener ===

impl Opener {
    pub(crate) fn new(tls: Option<Arc<Tls>>, port: Port) -> Self {
        Self { tls, port }
    }

    /// Makes the connection secure, where this server's are. Takes as long as the peer does.
    pub(crate) async fn open(&self, stream: TcpStream) -> Result<(Io, PeerIdentity), Unopened> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::Error::other("closed").into());
        }
        match (&self.tls, first == [HANDSHAKE]) {
            (None, false) => Ok((Io::plain(stream), PeerIdentity::default())),
            (Some(tls), true) => self.accept(tls, stream).await,
            (Some(_), false) => {
                let why = match self.port {
                    Port::Data => {
                        "this port takes TLS only: set spark.forebay.tls.ca (--tls-ca) to the CA of \
                         the server's tls-cert, or start the server without tls-cert"
                    }
                    Port::Admin => {
                        "this port takes TLS only: use https:// (probes: scheme: HTTPS), or start \
                         the server without tls-cert"
                    }
                };
                self.say(stream, why).await;
                Err(Unopened::Refused(why.to_owned()))
            }
            (None, true) => {
                let why = match self.port {
                    Port::Data => {
                        "the client speaks TLS, and this port does not: start the server with \
                         tls-cert and tls-key, or leave spark.forebay.tls.ca (--tls-ca) out"
                    }
                    Port::Admin => {
                        "the client speaks TLS, and this port does not: start the server with \
                         tls-cert and tls-key, or use http://"
                    }
                };
                // No TLS, which is what the client is to see.
                self.say(stream, why).await;
                Err(Unopened::Refused(why.to_owned()))
            }
        }
    }

    /// Whether its connections are made secure.
    pub(crate) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    async fn accept(
        &self,
        tls: &Arc<Tls>,
        stream: TcpStream,
    ) -> Result<(Io, PeerIdentity), Unopened> {
        let acceptor = TlsAcceptor::from(tls.config(self.port));
        match acceptor.accept(stream).await {
            Ok(stream) => {
                let identity = identity(&stream);
                let stream = Stream::Tls(Box::new(stream));
                let early = Vec::new();
                Ok((Io { stream, early }, identity))
            }
            Err(error) => Err(refusal(error)),
        }
    }

    /// Answers a client in words that it can read, if it speaks what the port would without TLS.
    async fn say(&self, mut stream: TcpStream, why: &str) {
        let bytes = match self.port {
            Port::Data => go_away(why),
            Port::Admin => format!(
                "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\
                 connection: close\r\n\r\n{why}\n",
                why.len() + 1
            )
            .into_bytes(),
        };
        let said = async {
            stream.write_all(&bytes).await?;
            stream.shutdown().await?;
            // A socket that is closed with unread bytes takes its last words with it.
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
        };
        // Who does not listen, or stays, is refused all the same.
        let _ = tokio::time::timeout(LAST_WORDS, said).await;
    }
}

/// Says in HTTP/2's words that this connection is not secure enough.
fn go_away(why: &str) -> Vec<u8> {
    // SETTINGS without any, then GOAWAY: no stream was looked at, INADEQUATE_SECURITY.
    let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let length = u16::try_from(8 + why.len()).expect("a text of this module is short");
    bytes.push(0);
    bytes.extend(length.to_be_bytes());
    bytes.extend([7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xc]);
    bytes.extend(why.as_bytes());
    bytes
}

/// What a failed handshake means to a person.
fn refusal(error: io::Error) -> Unopened {
    let Some(tls) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    else {
        return Unopened::Gone(error);
    };
    let remedy = match tls {
        rustls::Error::NoCertificatesPresented => {
            "set tls.cert and tls.key at the client to a certificate that tls-client-ca has signed, or leave tls-client-ca out"
        }
        rustls::Error::InvalidCertificate(_) => {
            "set tls.cert at the client to a valid certificate that tls-client-ca has signed"
        }
        rustls::Error::AlertReceived(_) => {
            "the client does not take tls-cert: see that its tls.ca is the CA of that, and the name that it knows the server by is in it"
        }
        _ => "see what the client's log says",
    };
    Unopened::Refused(format!("TLS: {tls}: {remedy}"))
}

fn identity(stream: &TlsStream<TcpStream>) -> PeerIdentity {
    let (_, connection) = stream.get_ref();
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    let subject = certificate.and_then(|certificate| Some(Facts::of(certificate).ok()?.subject));
    PeerIdentity {
        certificate_subject: subject,
    }
}

impl Unopened {
    /// Logs it. What the peer's settings are to do with is for the eyes of both sides; `may` bounds
    /// how often.
    pub(crate) fn tell(
        &self,
        port: Port,
        peer: SocketAddr,
        metrics: &Metrics,
        may: impl Fn() -> bool,
    ) {
        if matches!(self, Self::Refused(_)) {
            metrics.tls.refused(port.name());
        }
        let port = port.name();
        match self {
            Self::Refused(why) if may() => {
                tracing::warn!(%peer, port, why, "a connection is refused");
            }
            other => {
                tracing::debug!(%peer, port, why = %other, "a connection ended before its first call")
            }
        }
    }
}

// === impl Io ===

impl Io {
    /// A connection as it came.
    pub(crate) fn plain(stream: TcpStream) -> Self {
        Self {
            stream: Stream::Plain(stream),
            early: Vec::new(),
        }
    }

    /// Waits until as many bytes are here as these, or other ones, and keeps them for the reader.
    pub(crate) async fn begins(&mut self, with: &[u8]) -> io::Result<()> {
        while self.early.len() < with.len() && with.starts_with(&self.early) {
            let mut bytes = [0; 64];
            let room = (with.len() - self.early.len()).min(bytes.len());
            let count = match &mut self.stream {
                Stream::Plain(stream) => stream.read(&mut bytes[..room]).await?,
                Stream::Tls(stream) => stream.read(&mut bytes[..room]).await?,
            };
            if count == 0 {
                return Err(io::Error::other("closed"));
            }
            self.early.extend(&bytes[..count]);
        }
        Ok(())
    }
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().stream {
            Stream::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::Tls(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let count = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early[..count]);
            self.early.drain(..count);
            return Poll::Ready(Ok(()));
        }
        either!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(cx))
    }
}
