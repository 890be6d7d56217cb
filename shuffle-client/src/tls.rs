//! TLS to the servers: whom a client trusts, by which name it knows a server, and what a failed
//! handshake means to a person.
//!
//! **Names, not addresses.** A server is often reached by an address that no certificate has: one
//! of those behind `dns://name`, or one that a map output names. It is known by the host that the
//! settings name: its own, if the address stands there, or else any of them. A `server_name`
//! replaces them all.
//!
//! Certificates and the key are PEM text and not files: executors get them from their driver.
//! Nothing here prints them.

use std::{
    collections::{BTreeSet, HashMap},
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, InvalidMessage,
    RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How to speak TLS with the servers.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of the authorities that sign servers' certificates, as PEM. No other authority
    /// is trusted, also none of the system's.
    pub ca: String,
    /// Name that every server's certificate must have. Default: the hosts of the settings.
    pub server_name: Option<String>,
    /// The client's own certificate with what is between it and its authority, as PEM: for servers
    /// that ask for one. Needs `key`.
    pub cert: Option<String>,
    /// Private key of `cert`, as PEM.
    pub key: Option<String>,
}

/// What is wrong with [`Tls`]: field of the settings, value, remedy.
pub(crate) type Wrong = (&'static str, String, &'static str);

/// Makes connections secure.
pub(crate) struct Connector {
    named: HashMap<String, Target>,
    other: Target,
    words: Words,
    refusals: Refusals,
}

/// Names of the settings in this text, and those by which people know them.
type Words = Arc<[(&'static str, String); 4]>;

/// By address: what a server said of the client's certificate. In TLS 1.3 it says so after the
/// handshake, to whoever reads from the connection, and that is no call. So the next connection to
/// it is not made, and tells.
type Refusals = Arc<Mutex<HashMap<String, Insecure>>>;

/// How a server is known.
#[derive(Clone)]
struct Target {
    config: Arc<ClientConfig>,
    /// The name that is sent along.
    name: ServerName<'static>,
}

/// Compares a certificate with several names.
#[derive(Debug)]
struct ByNames {
    inner: Arc<WebPkiServerVerifier>,
    names: Vec<ServerName<'static>>,
}

/// A connection, plain or not.
pub(crate) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>, Told),
}

/// Where the words of a server go that come after the handshake.
pub(crate) struct Told {
    address: String,
    words: Words,
    refusals: Refusals,
}

/// Why no secure connection can be made, and nobody need try again: settings are to be mended.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Insecure(String);

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error(transparent)]
    Insecure(#[from] Insecure),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is a secret, and certificates are long.
        f.debug_struct("Tls")
            .field("ca", &format_args!("{} bytes", self.ca.len()))
            .field("server_name", &self.server_name)
            .field("has_cert", &self.cert.is_some())
            .finish_non_exhaustive()
    }
}

// === impl Tls ===

impl Tls {
    /// Refuses what no connection can be made with.
    pub(crate) fn check(&self, servers: &[String]) -> Result<(), Wrong> {
        self.connector(servers, str::to_owned).map(drop)
    }

    /// What makes connections to these servers secure. Fields of the settings have these names for
    /// people.
    pub(crate) fn connector(
        &self,
        servers: &[String],
        name: impl Fn(&str) -> String,
    ) -> Result<Connector, Wrong> {
        let provider = Arc::new(ring::default_provider());
        let verifier = self.verifier(&provider)?;
        let names = match &self.server_name {
            Some(name) => vec![server_name("tls_server_name", name)?],
            None => hosts(servers)
                .into_iter()
                .map(|host| server_name("servers", host))
                .collect::<Result<_, _>>()?,
        };
        let target = |names: Vec<ServerName<'static>>| self.target(&provider, &verifier, names);
        let mut named = HashMap::new();
        if self.server_name.is_none() {
            for server in servers.iter().filter(|server| !is_dns(server)) {
                let name = server_name("servers", host(server))?;
                named.insert(server.clone(), target(vec![name])?);
            }
        }
        Ok(Connector {
            named,
            other: target(names)?,
            words: Arc::new([
                ("tls.ca", name("tls_ca")),
                ("tls.serverName", name("tls_server_name")),
                ("tls.cert", name("tls_cert")),
                ("tls.key", name("tls_key")),
            ]),
            refusals: Refusals::default(),
        })
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, Wrong> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("tls_ca", &self.ca)? {
            roots.add(certificate).map_err(|error| {
                let remedy = "give the certificates of the authority that signed the servers'";
                (
                    "tls_ca",
                    format!("no authority's certificate: {error}"),
                    remedy,
                )
            })?;
        }
        let built =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        built.map_err(|error| ("tls_ca", error.to_string(), "give certificates as PEM"))
    }

    fn target(
        &self,
        provider: &Arc<CryptoProvider>,
        verifier: &Arc<WebPkiServerVerifier>,
        names: Vec<ServerName<'static>>,
    ) -> Result<Target, Wrong> {
        let name = names.first().cloned();
        let name = name.ok_or_else(|| ("servers", "empty".to_owned(), "name a server"))?;
        let verifier = Arc::new(ByNames {
            inner: verifier.clone(),
            names,
        });
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("ring has TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match (&self.cert, &self.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = certificates("tls_cert", cert)?;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| {
                    let remedy = "give the private key of the certificate, unencrypted, as PEM";
                    ("tls_key", format!("no key: {error}"), remedy)
                })?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    let remedy = "give the key that belongs to the certificate";
                    ("tls_key", error.to_string(), remedy)
                })?
            }
            (Some(_), None) => {
                let remedy = "give the private key of the certificate, too";
                return Err(("tls_key", "not set".to_owned(), remedy));
            }
            (None, Some(_)) => {
                let remedy = "give the certificate of the key, too";
                return Err(("tls_cert", "not set".to_owned(), remedy));
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Target {
            config: Arc::new(config),
            name,
        })
    }
}

fn certificates(field: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, Wrong> {
    let remedy = "give certificates as PEM, from -----BEGIN CERTIFICATE----- on";
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err((field, "without a certificate".to_owned(), remedy)),
        Err(error) => Err((field, format!("no PEM: {error}"), remedy)),
    }
}

fn server_name(field: &'static str, name: &str) -> Result<ServerName<'static>, Wrong> {
    let remedy = "write a host name or an address as certificates have them";
    ServerName::try_from(name.to_owned())
        .map_err(|_| (field, format!("{name:?}, no name of a certificate"), remedy))
}

fn is_dns(server: &str) -> bool {
    server.starts_with("dns://")
}

/// The host in `host:port`, `[v6]:port` or `dns://host:port`.
fn host(server: &str) -> &str {
    let server = server.strip_prefix("dns://").unwrap_or(server);
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    // A name with its last dot is the same name to DNS, and to no certificate.
    host.strip_suffix('.').unwrap_or(host)
}

/// The hosts, names first: they are what certificates have.
fn hosts(servers: &[String]) -> Vec<&str> {
    let hosts: BTreeSet<(bool, &str)> = servers
        .iter()
        .map(|server| host(server))
        .map(|host| (host.parse::<std::net::IpAddr>().is_ok(), host))
        .collect();
    hosts.into_iter().map(|(_, host)| host).collect()
}

// === impl Connector ===

impl Connector {
    /// Makes the connection to this address secure.
    pub(crate) async fn secure(&self, address: &str, stream: TcpStream) -> Result<Io, Failed> {
        if let Some(why) = self.refusals.lock().remove(address) {
            return Err(why.into());
        }
        let target = self.named.get(address).unwrap_or(&self.other);
        let connector = TlsConnector::from(target.config.clone());
        match connector.connect(target.name.clone(), stream).await {
            Ok(stream) => {
                let told = Told {
                    address: address.to_owned(),
                    words: self.words.clone(),
                    refusals: self.refusals.clone(),
                };
                Ok(Io::Tls(Box::new(stream), told))
            }
            Err(error) => match insecure(&error, &self.words) {
                Some(why) => Err(why.into()),
                None => Err(error.into()),
            },
        }
    }
}

/// What a person is to do about this error, if it is one of TLS and not of the network.
fn insecure(error: &io::Error, words: &Words) -> Option<Insecure> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let remedy = match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "no authority in tls.ca has signed it: give the CA of the server's tls-cert"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "give the server a new tls-cert and tls-key, or set this machine's clock"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "write the servers as their certificates name them, or set tls.serverName to a \
                 name that is in them"
            }
            _ => "see the server's tls-cert",
        },
        rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::InvalidEmptyPayload,
        ) => {
            "the port does not speak TLS: start the server with tls-cert and tls-key, or leave \
             tls.ca out"
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server wants a client's certificate: set tls.cert and tls.key"
        }
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError,
        ) => {
            "the server does not take this client's certificate: set tls.cert to one that the \
             server's tls-client-ca has signed"
        }
        // TLS 1.2 says so where 1.3 says that a certificate is required.
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            "if the server wants a client's certificate, set tls.cert and tls.key"
        }
        rustls::Error::PeerIncompatible(_) | rustls::Error::AlertReceived(_) => {
            "see what the server's log says"
        }
        _ => return None,
    };
    let remedy = words.iter().fold(remedy.to_owned(), |text, (word, name)| {
        text.replace(word, name)
    });
    Some(Insecure(format!("TLS: {error}: {remedy}")))
}

/// What was said of settings of TLS that do not fit, if a connection ended because of that: by TLS,
/// or in plain words by a server that speaks TLS.
pub(crate) fn why_insecure(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(Failed::Insecure(why)) = error.downcast_ref() {
            return Some(why.to_string());
        }
        // It tells no source, and of an `io::Error` no more than kind and text.
        if let Some(h2) = error.downcast_ref::<h2::Error>()
            && (h2.reason() == Some(h2::Reason::INADEQUATE_SECURITY)
                || h2.get_io().is_some_and(said_by_tls))
        {
            return Some(h2.to_string());
        }
        cause = error.source();
    }
    None
}

/// See [`Io`]'s reads: no socket that is read from says this.
fn said_by_tls(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

// === impl Io ===

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream, told) => Poll::Ready(
                ready!(Pin::new(stream).poll_read(cx, buf)).map_err(|error| {
                    let Some(why) = insecure(&error, &told.words) else {
                        return error;
                    };
                    let mut refusals = told.refusals.lock();
                    refusals.insert(told.address.clone(), why.clone());
                    io::Error::new(io::ErrorKind::PermissionDenied, why)
                }),
            ),
        }
    }
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Self::Tls(stream, _) => {
                let $stream = Pin::new(stream);
                $call
            }
        }
    };
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
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream, _) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(cx))
    }
}

// === impl ByNames ===

impl ServerCertVerifier for ByNames {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // invariant: names-not-addresses
        let mut last = rustls::Error::InvalidCertificate(CertificateError::NotValidForName);
        for name in &self.names {
            let verify = self
                .inner
                .verify_server_cert(end_entity, intermediates, name, ocsp, now);
            match verify {
                Err(
                    error @ rustls::Error::InvalidCertificate(
                        CertificateError::NotValidForName
                        | CertificateError::NotValidForNameContext { .. },
                    ),
                ) => last = error,
                other => return other,
            }
        }
        Err(last)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
