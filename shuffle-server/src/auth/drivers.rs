//! Drivers: who may register an app with this pool, and whose a call's token is.
//!
//! | `auth` | a driver registers with | a call's token is |
//! |---|---|---|
//! | `open` | nothing | the driver's own, bound by the first registration |
//! | `secret` | a credential that it made with the pool's secret ([`credential`]) | the app token that a server made for it |
//! | `kubernetes` | its service account's token, made for our audience | the same |
//!
//! A driver sends its own token besides, whose digest the app token carries: the pool's secret lets
//! somebody in, and that digest tells one app from another ([`TokenHash`] of the registry is made of
//! it and of the tenant). So a driver of the same pool, or of another tenant, that comes under
//! another's id is refused as any stranger is.
//!
//! With `open` and a `pool-secret-file`, tokens that the pool has signed are checked, and others are
//! taken as they come: the way from `open` to `secret` without a stop.
//!
//! [`credential`]: shuffle_proto::credential
//! [`TokenHash`]: crate::registry::TokenHash

use std::{fmt, str::FromStr};

use secrecy::ExposeSecret;
use sha2::{Digest as _, Sha256};
use shuffle_proto::{
    credential::{self, AppClaims, Bad, Keys, Own},
    ids::AppId,
};

use super::{
    Options,
    files::Watched,
    kubernetes::{Cluster, Failure},
};

/// Who may register an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverAuth {
    /// Whoever reaches the port.
    #[default]
    Open,
    /// Whoever has the pool's secret.
    Secret,
    /// Whoever has a service account of the cluster.
    Kubernetes,
}

/// Whose a call's token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) hash: [u8; 32],
    /// Seconds since 1970; `None` for tokens without an end.
    pub(crate) expires: Option<u64>,
}

/// A driver that has proven itself.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proven {
    pub(crate) hash: [u8; 32],
    /// Who it is, for the audit.
    pub(crate) who: String,
    /// The tenant that the proof names, or nothing.
    pub(crate) tenant: String,
    /// What it and its tasks call with from now on, and until when that is good by itself; `None`
    /// where its own token is what counts.
    pub(crate) token: Option<(String, u64)>,
}

/// Why not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unproven {
    Denied(String),
    /// The cluster does not say.
    Unavailable(String),
}

/// See the module.
pub(crate) struct Drivers {
    auth: DriverAuth,
    pool: Option<Watched<Keys>>,
    cluster: Option<Cluster>,
}

impl Drivers {
    pub(super) fn open(options: &Options) -> Result<Self, String> {
        let pool = options.pool_secrets.as_deref().map(|path| {
            Watched::open("pool-secret-file", path, |secret| {
                Keys::of(secret.expose_secret())
            })
        });
        let cluster =
            (options.drivers == DriverAuth::Kubernetes).then(|| Cluster::open("auth", options));
        Ok(Self {
            auth: options.drivers,
            pool: pool.transpose()?,
            cluster: cluster.transpose()?,
        })
    }

    pub(super) fn refresh(&self) {
        self.pool.iter().for_each(Watched::refresh);
        self.cluster.iter().for_each(Cluster::refresh);
    }

    /// Whose this token is, if it may be this app's. Its age is the caller's to judge.
    pub(crate) fn whose(&self, app: &AppId, token: &str) -> Result<Opened, String> {
        let signed = match &self.pool {
            Some(pool) if self.auth != DriverAuth::Open || credential::is_signed(token) => pool,
            _ => {
                return Ok(Opened {
                    hash: credential::own(token),
                    expires: None,
                });
            }
        };
        match credential::check_token(&signed.get(), token, app) {
            Ok(AppClaims {
                tenant,
                own,
                expires,
            }) => Ok(Opened {
                hash: hash(&tenant, &own),
                expires: Some(expires),
            }),
            Err(bad) => Err(format!(
                "caller.token does not open app {app}: {bad}: {}",
                self.remedy(&bad)
            )),
        }
    }

    /// Whether this driver may register this app, or go on.
    pub(crate) async fn prove(
        &self,
        app: &AppId,
        token: &str,
        shown: &str,
    ) -> Result<Proven, Unproven> {
        let own = credential::own(token);
        let (who, tenant) = match (self.auth, &self.pool, &self.cluster) {
            (DriverAuth::Open, pool, _) if pool.is_none() || shown.is_empty() => {
                let opened = self.whose(app, token).map_err(Unproven::Denied)?;
                return Ok(Proven {
                    hash: opened.hash,
                    who: "app".into(),
                    tenant: String::new(),
                    token: None,
                });
            }
            (DriverAuth::Kubernetes, _, Some(cluster)) => {
                self.is_shown(app, shown)?;
                let user = cluster.who(shown).await.map_err(|failure| match failure {
                    Failure::Refused(why) => Unproven::Denied(format!(
                        "the driver of app {app} is refused: its token is not taken: {why}"
                    )),
                    Failure::Unavailable(why) => Unproven::Unavailable(why),
                })?;
                let Some(namespace) = user.namespace() else {
                    return Err(Unproven::Denied(format!(
                        "the driver of app {app} is refused: {} is no service account, and a tenant is the namespace of one: give the \
                         driver a projected serviceAccountToken",
                        user.username
                    )));
                };
                (
                    format!("kubernetes:{}", user.username),
                    namespace.to_owned(),
                )
            }
            (_, Some(pool), _) => {
                self.is_shown(app, shown)?;
                let now = credential::now();
                credential::check_credential(&pool.get(), shown, app, &own, now).map_err(|bad| {
                    Unproven::Denied(format!(
                        "the driver of app {app} is refused: its credential does not count: {bad}: {}",
                        self.remedy(&bad)
                    ))
                })?;
                ("secret".to_owned(), String::new())
            }
            (_, None, _) => {
                return Err(Unproven::Denied(
                    "pool-secret-file is not set at this server".into(),
                ));
            }
        };
        let keys = self.pool.as_ref().map(Watched::get);
        // The first one mints.
        let first = keys.as_ref().and_then(|keys| keys.first());
        let now = credential::now();
        let token = first.map(|keys| {
            let token = keys.token(app, &tenant, &own, now);
            (token, now + credential::TOKEN.as_secs())
        });
        Ok(Proven {
            hash: hash(&tenant, &own),
            who,
            tenant,
            token,
        })
    }

    fn is_shown(&self, app: &AppId, shown: &str) -> Result<(), Unproven> {
        if !shown.is_empty() {
            return Ok(());
        }
        Err(Unproven::Denied(format!(
            "the driver of app {app} is refused: credential is absent, and auth is {} here: {}",
            self.auth,
            match self.auth {
                DriverAuth::Kubernetes =>
                    "set spark.forebay.auth=kubernetes, and give the driver a projected serviceAccountToken for the servers' audience",
                _ =>
                    "set spark.forebay.auth=secret, and spark.forebay.auth.file to a file with a line of the servers' pool-secret-file",
            }
        )))
    }

    fn remedy(&self, bad: &Bad) -> &'static str {
        match (bad, self.auth) {
            (Bad::Unknown(_) | Bad::Forged, _) => {
                "give the driver (spark.forebay.auth.file, or spark.authenticate.secret) a line of pool-secret-file, and all servers the \
                 same lines"
            }
            (Bad::Malformed, DriverAuth::Kubernetes) => {
                "set spark.forebay.auth=kubernetes at the driver"
            }
            (Bad::Malformed, _) => "set spark.forebay.auth=secret at the driver",
            (Bad::Another(_) | Bad::NotYours, _) => "call with what was made for this app",
            (Bad::Expired(_), _) => "make a new one, and set the clocks right if this one is new",
        }
    }
}

/// What the registry knows an app by. Without a tenant it is the digest that it has where nobody is
/// asked, so apps live on when a pool begins to ask.
fn hash(tenant: &str, own: &Own) -> [u8; 32] {
    if tenant.is_empty() {
        return *own;
    }
    let mut digest = Sha256::new();
    digest.update((tenant.len() as u64).to_le_bytes());
    digest.update(tenant);
    digest.update(own);
    digest.finalize().into()
}

impl FromStr for DriverAuth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "open" => Ok(Self::Open),
            "secret" => Ok(Self::Secret),
            "kubernetes" => Ok(Self::Kubernetes),
            other => Err(format!("{other:?} is not one of open, secret, kubernetes")),
        }
    }
}

impl fmt::Display for DriverAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Secret => "secret",
            Self::Kubernetes => "kubernetes",
        })
    }
}
