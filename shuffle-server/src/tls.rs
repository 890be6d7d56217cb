//! Encrypted connections: certificate and key, their reload, and who the peer is.
//!
//! Both ports have one pair, from the files of `tls-cert` and `tls-key`, and take TLS 1.2 and 1.3
//! only. With `tls-client-ca` the data port serves nobody without a certificate of that authority;
//! at the admin port one may be shown, because probes and Prometheus have none.
//!
//! Files are looked at every second, by their content: Kubernetes changes them by moving a symlink.
//! A pair that can be used replaces the one before, for connections from then on; one that cannot
//! be used changes nothing, and is told of once, when it is still there at the second look.
//!
//! | file | owns |
//! |---|---|
//! | here | the pair in use, and its reload |
//! | [`files`] | what files have: read, checked, said |
//! | [`certificate`] | until when, and whose, a certificate is |
//! | [`io`] | a connection, plain or not, and how it is opened |
//!
//! Does not own who may do what: [`PeerIdentity`] is for those who do.

mod certificate;
mod files;
mod io;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    config::{Config, Error},
    metrics::Metrics,
};
use files::{Files, Fingerprint, Pair};
pub(crate) use io::{Io, Opener, Unopened};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Which port a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// Clients' (gRPC).
    Data,
    /// People's and probes' (HTTP).
    Admin,
}

/// Who is at the other end of a connection, as far as the connection shows it; an extension of
/// every request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerIdentity {
    /// Subject of the peer's certificate, which an authority of `tls-client-ca` has signed. `None`
    /// if it has shown none.
    pub(crate) certificate_subject: Option<String>,
}

/// The pair in use.
pub(crate) struct Tls {
    files: Files,
    pair: ArcSwap<Pair>,
    metrics: Arc<Metrics>,
}

/// What the last looks have found, apart from the pair in use.
#[derive(Default)]
struct Looks {
    /// Files that cannot be used.
    bad: Option<Fingerprint>,
    /// Whether that was told.
    told: bool,
}

impl Port {
    fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Admin => "admin",
        }
    }
}

// === impl Tls ===

impl Tls {
    /// The pair that the settings name, if they do; an error that names setting, file and remedy.
    pub(crate) fn open(config: &Config, metrics: Arc<Metrics>) -> Result<Option<Arc<Self>>, Error> {
        let Some(files) = Files::of(config) else {
            return Ok(None);
        };
        let pair = files
            .read()
            .and_then(|contents| contents.pair(&files))
            .map_err(Error::Setting)?;
        if pair.has_expired() {
            let (cert, ended) = (files.cert.display(), pair.expires());
            tracing::warn!(%cert, ended, "tls-cert has expired, and clients refuse it: give a new one");
        }
        let this = Self {
            files,
            pair: ArcSwap::from_pointee(pair),
            metrics,
        };
        this.metrics.tls.in_use(this.pair.load().expires(), false);
        Ok(Some(Arc::new(this)))
    }

    fn config(&self, port: Port) -> Arc<ServerConfig> {
        let pair = self.pair.load();
        match port {
            Port::Data => pair.data.clone(),
            Port::Admin => pair.admin.clone(),
        }
    }

    /// Looks at the files until the handle is dropped.
    pub(crate) fn watch(self: &Arc<Self>) -> AbortOnDropHandle<()> {
        let this = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut looks = Looks::default();
            loop {
                tokio::time::sleep(LOOK).await;
                let look = this.clone();
                // A disk may hang; the next look comes when this one is over.
                let looked = tokio::task::spawn_blocking(move || {
                    look.look(&mut looks);
                    looks
                });
                match looked.await {
                    Ok(same) => looks = same,
                    Err(panic) => {
                        tracing::error!(%panic, "a look at the TLS files panicked");
                        looks = Looks::default();
                    }
                }
            }
        }))
    }

    /// Looks once.
    fn look(&self, looks: &mut Looks) {
        let found = self.files.read();
        let fingerprint = Fingerprint::of(&found);
        if fingerprint == self.pair.load().fingerprint {
            *looks = Looks::default();
            self.metrics.tls.same();
            return;
        }
        if looks.told && looks.bad.as_ref() == Some(&fingerprint) {
            return;
        }
        let pair = found.and_then(|contents| contents.pair(&self.files));
        match pair.and_then(|pair| self.replacement(pair)) {
            Ok(pair) => {
                let cert = self.files.cert.display();
                tracing::info!(%cert, serial = pair.serial, expires = pair.expires(), "new certificate in use");
                self.metrics.tls.in_use(pair.expires(), true);
                self.pair.store(Arc::new(pair));
                *looks = Looks::default();
            }
            // It may be written at this moment.
            Err(why) if looks.bad.as_ref() == Some(&fingerprint) => {
                tracing::warn!(
                    why,
                    "the new TLS files cannot be used: those before stay in use"
                );
                self.metrics.tls.failed();
                looks.told = true;
            }
            Err(_) => {
                *looks = Looks {
                    bad: Some(fingerprint),
                    told: false,
                };
            }
        }
    }

    /// A pair that is over does not replace one that is not.
    fn replacement(&self, pair: Pair) -> Result<Pair, String> {
        if pair.has_expired() && !self.pair.load().has_expired() {
            return Err(format!(
                "tls-cert is {}: it has expired: give one that is valid now",
                self.files.cert.display()
            ));
        }
        Ok(pair)
    }
}

#[cfg(test)]
mod tests;
