//! Certificates of a test's own authorities, and a TLS client that shares no code with the product's.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Setup, step};

/// Who signs certificates, and a directory for them.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

impl Authority {
    /// One that nobody trusts yet.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, "an authority of a test");
        params.distinguished_name = name;
        let key = KeyPair::generate().expect("a key");
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).expect("an authority"),
            folder: TempDir::new().expect("a directory"),
        }
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these names (or addresses).
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.pair(names, |_| {})
    }

    /// One that was over in 2001.
    pub fn expired(&self, names: &[&str]) -> Pair {
        self.pair(names, |params| {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        })
    }

    fn pair(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).expect("parameters");
        let mut name = DistinguishedName::new();
        name.push(
            DnType::CommonName,
            names.first().map_or("nobody", |name| name),
        );
        params.distinguished_name = name;
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Pair {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A file of this authority's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts the authority's certificate into a file.
    pub fn ca_file(&self) -> PathBuf {
        self.put("ca.pem", &self.pem())
    }

    /// Puts a pair where [`serve`](Self::serve) has a server look for it.
    pub fn put_pair(&self, pair: &Pair) {
        self.put("tls.crt", &pair.cert);
        self.put("tls.key", &pair.key);
    }

    /// Puts text into a file, whole or not at all.
    pub fn put(&self, name: &str, text: &str) -> PathBuf {
        let (path, beside) = (self.file(name), self.file(&format!("{name}.new")));
        fs::write(&beside, text).expect("a file can be written");
        fs::rename(&beside, &path).expect("a file can be moved");
        path
    }

    /// A server with this pair.
    pub fn serve(&self, pair: &Pair) -> Setup {
        self.put_pair(pair);
        let path = |name| self.file(name).display().to_string();
        Setup::new()
            .flag("--tls-cert", path("tls.crt"))
            .flag("--tls-key", path("tls.key"))
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Pair {
    /// The certificate as it goes over the wire.
    pub fn der(&self) -> Vec<u8> {
        let der = CertificateDer::from_pem_slice(self.cert.as_bytes()).expect("a certificate");
        der.to_vec()
    }
}

/// Connects to this address, and trusts this authority.
pub async fn connect(
    addr: SocketAddr,
    ca: &Path,
    name: &str,
    pair: Option<&Pair>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let pem = fs::read(ca).expect("the authority's file can be read");
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.expect("PEM")).expect("an authority");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has TLS")
        .with_root_certificates(roots);
    let config = match pair {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = CertificateDer::pem_slice_iter(pair.cert.as_bytes())
                .collect::<Result<_, _>>()
                .expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    let stream = step("a connection", TcpStream::connect(addr)).await?;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    step("a handshake", connecting).await
}

/// The certificate that new connections to this address see (DER).
pub async fn shown(addr: SocketAddr, ca: &Path, name: &str) -> Vec<u8> {
    let stream = connect(addr, ca, name, None).await.expect("a handshake");
    let (_, connection) = stream.get_ref();
    let chain = connection.peer_certificates().expect("a certificate");
    chain[0].to_vec()
}

/// GET over HTTPS: all of the answer.
pub async fn get(
    addr: SocketAddr,
    ca: &Path,
    name: &str,
    pair: Option<&Pair>,
    path: &str,
) -> std::io::Result<String> {
    let mut stream = connect(addr, ca, name, pair).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    step("an answer", stream.read_to_string(&mut answer)).await?;
    Ok(answer)
}
