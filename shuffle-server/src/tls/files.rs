//! What the files of the settings have: read, checked, and made into what connections need.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use sha2::{Digest, Sha256};

use super::certificate::Facts;
use crate::config::Config;

/// Looks at files that are being exchanged, until two in a row found the same.
const LOOKS: usize = 4;
/// Larger is no certificate and no key.
const LARGEST: u64 = 1 << 20;

/// Where the files are.
pub(super) struct Files {
    pub(super) cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// What the files had at one moment.
#[derive(PartialEq, Eq)]
pub(super) struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// Tells contents apart without keeping them: one of them is a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(Result<[u8; 32], String>);

/// A pair that can be used.
pub(super) struct Pair {
    pub(super) data: Arc<ServerConfig>,
    pub(super) admin: Arc<ServerConfig>,
    pub(super) fingerprint: Fingerprint,
    pub(super) serial: String,
    /// Seconds since 1970 at which the certificate, or one between it and its authority, ends.
    expires: i64,
}

// === impl Files ===

impl Files {
    /// As in settings that were checked.
    pub(super) fn of(config: &Config) -> Option<Self> {
        let (cert, key) = (config.tls_cert.clone()?, config.tls_key.clone()?);
        Some(Self {
            cert,
            key,
            client_ca: config.tls_client_ca.clone(),
        })
    }

    /// Reads all files, of one moment as far as that can be known.
    pub(super) fn read(&self) -> Result<Contents, String> {
        let mut last = self.read_once()?;
        for _ in 1..LOOKS {
            let again = self.read_once()?;
            if again == last {
                break;
            }
            last = again;
        }
        Ok(last)
    }

    fn read_once(&self) -> Result<Contents, String> {
        let client_ca = self.client_ca.as_ref();
        Ok(Contents {
            cert: read("tls-cert", &self.cert)?,
            key: read("tls-key", &self.key)?,
            client_ca: client_ca
                .map(|path| read("tls-client-ca", path))
                .transpose()?,
        })
    }
}

fn read(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
    let told = |why: String| format!("{setting} is {}: {why}", path.display());
    let unread = |error| told(format!("{error}: name a PEM file that the server may read"));
    let length = fs::metadata(path).map_err(unread)?.len();
    if length > LARGEST {
        let why = format!("{length} bytes are no certificate and no key: name a PEM file");
        return Err(told(why));
    }
    fs::read(path).map_err(unread)
}

// === impl Fingerprint ===

impl Fingerprint {
    pub(super) fn of(contents: &Result<Contents, String>) -> Self {
        Self(
            contents
                .as_ref()
                .map(Contents::digest)
                .map_err(Clone::clone),
        )
    }
}

// === impl Contents ===

impl Contents {
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let parts = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        for part in parts.into_iter().flatten() {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    /// What connections need, or which setting has what wrong.
    pub(super) fn pair(&self, files: &Files) -> Result<Pair, String> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates("tls-cert", &files.cert, &self.cert)?;
        let wrong = |setting: &str, path: &Path, why: String| {
            format!("{setting} is {}: {why}", path.display())
        };
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| {
            let why = format!("{error}: give the private key of tls-cert, unencrypted, as PEM");
            wrong("tls-key", &files.key, why)
        })?;
        let unparsed = |error: String| {
            let why = format!("{error}: give a certificate in PEM, the server's own first");
            wrong("tls-cert", &files.cert, why)
        };
        let (mut expires, mut serial) = (i64::MAX, String::new());
        for (position, certificate) in chain.iter().enumerate() {
            let facts = Facts::of(certificate).map_err(unparsed)?;
            expires = expires.min(facts.expires);
            if position == 0 {
                serial = facts.serial;
            }
        }
        let clients = match (&files.client_ca, &self.client_ca) {
            (Some(path), Some(pem)) => Some(clients(&provider, path, pem)?),
            _ => None,
        };
        let config = |verifier: Option<Arc<dyn ClientCertVerifier>>, protocol: &[u8]| {
            let builder = ServerConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .expect("ring has TLS 1.2 and 1.3");
            let builder = match verifier {
                Some(verifier) => builder.with_client_cert_verifier(verifier),
                None => builder.with_no_client_auth(),
            };
            let config = builder.with_single_cert(chain.clone(), key.clone_key());
            let mut config = config.map_err(|error| match error {
                rustls::Error::InvalidCertificate(error) => unparsed(error.to_string()),
                other => {
                    let why = format!("{other}: give the key that belongs to tls-cert");
                    wrong("tls-key", &files.key, why)
                }
            })?;
            config.alpn_protocols = vec![protocol.to_vec()];
            Ok::<_, String>(Arc::new(config))
        };
        let (must, may) = clients.map_or((None, None), |(must, may)| (Some(must), Some(may)));
        Ok(Pair {
            data: config(must, b"h2")?,
            admin: config(may, b"http/1.1")?,
            fingerprint: Fingerprint(Ok(self.digest())),
            serial,
            expires,
        })
    }
}

fn certificates(
    setting: &str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |why: String| {
        format!(
            "{setting} is {}: {why}: give certificates as PEM, from -----BEGIN CERTIFICATE----- on",
            path.display()
        )
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    match found.is_empty() {
        true => Err(wrong("it has no certificate".to_owned())),
        false => Ok(found),
    }
}

type Verifier = Arc<dyn ClientCertVerifier>;

/// Who must, and who may, show a certificate of these authorities.
fn clients(
    provider: &Arc<CryptoProvider>,
    path: &Path,
    pem: &[u8],
) -> Result<(Verifier, Verifier), String> {
    let wrong = |why: String| {
        format!(
            "tls-client-ca is {}: {why}: give the certificates of the authority that signs clients'",
            path.display()
        )
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls-client-ca", path, pem)? {
        let added = roots.add(certificate);
        added.map_err(|error| wrong(error.to_string()))?;
    }
    let roots = Arc::new(roots);
    let builder = || WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let must = builder()
        .build()
        .map_err(|error| wrong(error.to_string()))?;
    let may = builder().allow_unauthenticated().build();
    Ok((must, may.map_err(|error| wrong(error.to_string()))?))
}

// === impl Pair ===

impl Pair {
    /// Seconds since 1970.
    pub(super) fn expires(&self) -> i64 {
        self.expires
    }

    pub(super) fn has_expired(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.is_ok_and(|now| i64::try_from(now.as_secs()).is_ok_and(|now| now >= self.expires))
    }
}
