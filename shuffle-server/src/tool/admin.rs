//! The way to a server's admin port: plain, or TLS where the server is named with https:// or an
//! authority is given. Certificates are compared with the name that was typed, or `--server-name`.

use std::{error::Error, fmt::Write, path::Path, time::Duration};

use reqwest::{Certificate, Client, Identity, Method, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::{PATIENCE, Servers};

const REMEDY: &str = "name the HOST:PORT of its admin-listen, and see that it runs";

/// A server's admin port.
pub(super) struct Admin<'a> {
    pub(super) server: &'a str,
    client: Client,
    base: Url,
    /// What is to be said as `Host`, where that is not in `base`.
    host: Option<String>,
    token: Option<SecretString>,
}

/// What the files of the command line have.
pub(super) struct Files {
    authorities: Vec<Certificate>,
    identity: Option<Identity>,
    token: Option<SecretString>,
}

impl Servers {
    pub(super) fn files(&self) -> Result<Files, String> {
        // The client demands a provider, even without encryption.
        shuffle_remote::provide_tls();
        let authorities = match &self.ca {
            None => Vec::new(),
            Some(path) => {
                let wrong = |why| wrong("ca", path, why, "give certificates as PEM");
                let found = Certificate::from_pem_bundle(&read("ca", path)?)
                    .map_err(|error| wrong(causes(&error)))?;
                match found.is_empty() {
                    true => return Err(wrong("it has no certificate".to_owned())),
                    false => found,
                }
            }
        };
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let mut pem = read("cert", cert)?;
                pem.push(b'\n');
                pem.extend(read("key", key)?);
                let remedy = "give a certificate and its private key as PEM";
                let identity = Identity::from_pem(&pem)
                    .map_err(|error| wrong("cert", cert, causes(&error), remedy))?;
                Some(identity)
            }
            _ => None,
        };
        Ok(Files {
            authorities,
            identity,
            token: self.token_file.as_deref().map(token).transpose()?,
        })
    }
}

/// The first token in a file; the others are those that it takes the place of.
fn token(file: &Path) -> Result<SecretString, String> {
    let place = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| {
        format!("token-file is {place}: {error}: name a readable file with a token")
    })?;
    let mut lines = text.lines().map(str::trim);
    let token = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    token.map(SecretString::from).ok_or_else(|| {
        format!("token-file is {place}: no token is in it: name a file with one of the server's admin-token-file")
    })
}

fn read(option: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path)
        .map_err(|error| wrong(option, path, error.to_string(), "name a readable PEM file"))
}

fn wrong(option: &str, path: &Path, why: String, remedy: &str) -> String {
    format!("{option} is {}: {why}: {remedy}", path.display())
}

impl<'a> Admin<'a> {
    pub(super) async fn of(
        server: &'a str,
        servers: &Servers,
        files: &Files,
    ) -> Result<Self, String> {
        let wrong = |why: &dyn std::fmt::Display| format!("server is {server:?}: {why}: {REMEDY}");
        let (secure, bare) = match server.split_once("://") {
            Some(("https", bare)) => (true, bare),
            Some(("http", bare)) if servers.ca.is_none() => (false, bare),
            Some(("http", _)) => return Err(wrong(&"--ca is for https://")),
            Some(_) => return Err(wrong(&"its scheme is neither https:// nor http://")),
            None => (servers.ca.is_some(), server),
        };
        let scheme = if secure { "https" } else { "http" };
        let mut base = Url::parse(&format!("{scheme}://{bare}/")).map_err(|error| wrong(&error))?;
        // Servers are near: no proxy of the environment is used. Nor a certificate of the machine:
        // an image may have none, and a client with them could not be made there.
        let mut builder = Client::builder()
            .no_proxy()
            .tls_certs_only(files.authorities.iter().cloned())
            .connect_timeout(PATIENCE);
        if let Some(identity) = files.identity.clone().filter(|_| secure) {
            builder = builder.identity(identity);
        }
        let mut host = None;
        if let Some(name) = servers.server_name.as_ref().filter(|_| secure) {
            let addresses: Vec<_> = tokio::net::lookup_host(bare.trim_end_matches('/'))
                .await
                .map_err(|error| wrong(&error))?
                .collect();
            builder = builder.resolve_to_addrs(name, &addresses);
            host = Some(bare.trim_end_matches('/').to_owned());
            base.set_host(Some(name)).map_err(|error| wrong(&error))?;
        }
        let client = builder
            .build()
            .map_err(|error| format!("make an HTTP client: {}", causes(&error)))?;
        Ok(Self {
            server,
            client,
            base,
            host,
            token: files.token.clone(),
        })
    }

    /// The answer, or why there is none, with the remedy.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        patience: Duration,
    ) -> Result<Value, String> {
        let server = self.server;
        let url = self
            .base
            .join(path)
            .map_err(|error| format!("server is {server:?}: {error}: {REMEDY}"))?;
        let mut request = self.client.request(method, url).timeout(patience);
        if let Some(host) = &self.host {
            request = request.header(header::HOST, host);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        let failed = |error: reqwest::Error| {
            let remedy = tls_remedy(&error).unwrap_or(REMEDY);
            format!("server is {server}: {}: {remedy}", causes(&error))
        };
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let text = answer.text().await.map_err(failed)?;
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        match value.get("error").and_then(Value::as_str) {
            Some(error) => Err(format!("server {server} refuses: {error}")),
            None if status.is_success() && value.is_object() => Ok(value),
            None if self.base.scheme() == "http" && text.contains("TLS") => {
                let why = text.trim();
                Err(format!(
                    "server is {server}: {why}; here: --server https://HOST:PORT --ca FILE"
                ))
            }
            None => Err(format!(
                "server is {server}: it answers {status} to {path}: {REMEDY}"
            )),
        }
    }
}

/// What to do where TLS says no.
fn tls_remedy(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let (mut cause, mut tls) = (Some(error), None);
    while let (Some(error), None) = (cause, tls) {
        (cause, tls) = (error.source(), said_by_tls(error));
    }
    Some(match tls? {
        rustls::Error::InvalidCertificate(why) => match why {
            rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature => {
                "give the authority of its tls-cert with --ca"
            }
            rustls::CertificateError::NotValidForName
            | rustls::CertificateError::NotValidForNameContext { .. } => {
                "name it as its certificate does, or say that name with --server-name"
            }
            _ => "give the server a valid tls-cert",
        },
        rustls::Error::InvalidMessage(_) => {
            "it does not speak TLS there: use http://, or start it with tls-cert and tls-key"
        }
        _ => "see what its log says",
    })
}

/// An error of TLS, also within errors of the network that are within each other, which none of
/// them names as its source.
fn said_by_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let inner = error.downcast_ref::<std::io::Error>();
    match inner.and_then(std::io::Error::get_ref) {
        Some(inner) => said_by_tls(inner),
        None => error.downcast_ref(),
    }
}

/// An error with its causes: the client says only "error sending request" at the top.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
