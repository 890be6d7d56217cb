//! Who may look, and who may change something, at the admin port.
//!
//! | `admin-auth` | looks (GET) | changes (POST, DELETE) |
//! |---|---|---|
//! | `local` | everybody | this machine |
//! | `token` | a line of `viewer-token-file` or `admin-token-file`, as `Authorization: Bearer` | a line of `admin-token-file` |
//! | `kubernetes` | whom the cluster allows the verb `get` on the path (`nonResourceURLs`) | the verb `post` or `delete` on it |
//!
//! Whoever shows a client certificate that the port has verified is an admin in all three. What
//! probes and Prometheus read ([`OPEN`]) is for everybody: it names no app, and a kubelet has no
//! token. Tokens are compared by digests, in constant time, and with all lines of a file.

use std::net::IpAddr;

use secrecy::ExposeSecret;
use sha2::{Digest as _, Sha256};

use super::{
    AdminAuth, Options,
    files::Watched,
    kubernetes::{Cluster, Failure, User},
};

/// Paths that need nothing.
pub(crate) const OPEN: [&str; 4] = ["/livez", "/readyz", "/metrics", "/version"];

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Look.
    Viewer,
    /// Change something.
    Admin,
}

/// Somebody who was let in, by a name for the audit; an extension of the request.
#[derive(Clone, Debug)]
pub(crate) struct Who(pub(crate) String);

/// The subject of a client's certificate that the port has verified; an extension of the request.
#[derive(Clone, Debug)]
pub(crate) struct Certificate(pub(crate) String);

/// A request, as far as it matters who asks.
pub(crate) struct Question<'a> {
    pub(crate) peer: IpAddr,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// The value of `Authorization`.
    pub(crate) authorization: Option<&'a str>,
    pub(crate) certificate: Option<&'a Certificate>,
    /// Whether nothing changes.
    pub(crate) looks: bool,
}

/// Why somebody is not let in. `who` is for the audit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum No {
    /// Nothing says who it is, or nothing that counts here.
    Unknown { why: String },
    /// It is known who it is, and that is not enough.
    Denied { who: String, why: String },
    /// The cluster does not say.
    Unavailable { why: String },
}

/// SHA-256 of a token.
type Digest = [u8; 32];

/// See the module.
pub(crate) enum Admins {
    Local,
    Token {
        admins: Watched<Digest>,
        viewers: Option<Watched<Digest>>,
    },
    Kubernetes(Cluster),
}

impl Admins {
    pub(super) fn open(options: &Options) -> Result<Self, String> {
        let open = |key, path| Watched::open(key, path, |token| digest(token.expose_secret()));
        match options.admins {
            AdminAuth::Local => Ok(Self::Local),
            AdminAuth::Token => {
                let Some(admins) = &options.admin_tokens else {
                    return Err("admin-token-file is not set: name a file with a token per line, or set admin-auth = local".into());
                };
                let viewers = options.viewer_tokens.as_deref();
                Ok(Self::Token {
                    admins: open("admin-token-file", admins)?,
                    viewers: viewers
                        .map(|path| open("viewer-token-file", path))
                        .transpose()?,
                })
            }
            AdminAuth::Kubernetes => Cluster::open("admin-auth", options).map(Self::Kubernetes),
        }
    }

    pub(super) fn refresh(&self) {
        match self {
            Self::Local => {}
            Self::Token { admins, viewers } => {
                admins.refresh();
                viewers.iter().for_each(Watched::refresh);
            }
            Self::Kubernetes(cluster) => cluster.refresh(),
        }
    }

    /// Whether being on this machine is what counts.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Local)
    }

    /// Who asks, if that is enough for what is asked.
    pub(crate) async fn admit(&self, question: &Question<'_>) -> Result<Who, No> {
        if question.looks && OPEN.contains(&question.path) {
            return Ok(Who("anybody".into()));
        }
        if let Some(Certificate(subject)) = question.certificate {
            return Ok(Who(format!("certificate:{subject}")));
        }
        match self {
            Self::Local => local(question),
            Self::Token { admins, viewers } => {
                let role = role(question.authorization, admins, viewers.as_ref())?;
                if role == Role::Viewer && !question.looks {
                    return Err(No::Denied {
                        who: "token:viewer".into(),
                        why: "authorization is a token of viewer-token-file: what changes something needs one of admin-token-file".into(),
                    });
                }
                Ok(Who(match role {
                    Role::Admin => "token:admin".into(),
                    Role::Viewer => "token:viewer".into(),
                }))
            }
            Self::Kubernetes(cluster) => {
                let token = bearer(
                    question.authorization,
                    "that the cluster gives out (`kubectl create token NAME --audience AUDIENCE`)",
                )?;
                let user = cluster.who(token).await.map_err(no)?;
                let allowed = cluster.allows(&user, token, question.method, question.path);
                match allowed.await.map_err(no)? {
                    true => Ok(Who(format!("kubernetes:{}", user.username))),
                    false => Err(denied(&user, question)),
                }
            }
        }
    }
}

fn local(question: &Question<'_>) -> Result<Who, No> {
    // invariant: changes-from-loopback
    // `::ffff:127.0.0.1` is how a socket of both families shows 127.0.0.1.
    let peer = question.peer.to_canonical();
    if question.looks || peer.is_loopback() {
        return Ok(Who("local".into()));
    }
    Err(No::Denied {
        who: "nobody".into(),
        why: format!(
            "peer is {peer}: what changes something is done on the server's own machine: run `forebay … --server 127.0.0.1:PORT` there \
             (in Kubernetes: `kubectl exec POD -- forebay …`), or set admin-auth = token"
        ),
    })
}

fn denied(user: &User, question: &Question<'_>) -> No {
    let (name, verb, path) = (
        &user.username,
        question.method.to_ascii_lowercase(),
        question.path,
    );
    No::Denied {
        who: format!("kubernetes:{name}"),
        why: format!(
            "user is {name}: the cluster does not allow the verb {verb} on {path}: bind a ClusterRole with nonResourceURLs [{path:?}] and \
             verbs [{verb:?}] to it"
        ),
    }
}

fn no(failure: Failure) -> No {
    match failure {
        Failure::Refused(why) => No::Unknown { why },
        Failure::Unavailable(why) => No::Unavailable { why },
    }
}

/// The token of this header.
fn bearer<'a>(authorization: Option<&'a str>, of: &str) -> Result<&'a str, No> {
    let remedy = format!(
        "send `Authorization: Bearer TOKEN` with a token {of}; the tool `forebay` sends that of --token-file FILE"
    );
    let Some(value) = authorization else {
        return Err(No::Unknown {
            why: format!("authorization is absent: {remedy}"),
        });
    };
    let token = value.split_once(' ').and_then(|(scheme, token)| {
        scheme
            .eq_ignore_ascii_case("bearer")
            .then_some(token.trim())
    });
    token
        .filter(|token| !token.is_empty())
        .ok_or_else(|| No::Unknown {
            why: format!("authorization is no bearer token: {remedy}"),
        })
}

fn role(
    authorization: Option<&str>,
    admins: &Watched<Digest>,
    viewers: Option<&Watched<Digest>>,
) -> Result<Role, No> {
    let token = digest(bearer(
        authorization,
        "of admin-token-file or viewer-token-file",
    )?);
    // All lines, whichever fits: how long it takes tells nothing.
    let fits = |known: &Watched<Digest>| {
        let fitting = known.get().iter().filter(|one| same(one, &token)).count();
        fitting > 0
    };
    let (admin, viewer) = (fits(admins), viewers.is_some_and(fits));
    match (admin, viewer) {
        (true, _) => Ok(Role::Admin),
        (false, true) => Ok(Role::Viewer),
        (false, false) => Err(No::Unknown {
            why: "authorization is a token that is in no file of this server: send one of admin-token-file or viewer-token-file".into(),
        }),
    }
}

fn digest(token: &str) -> Digest {
    Sha256::digest(token.as_bytes()).into()
}

/// Constant time.
fn same(one: &Digest, other: &Digest) -> bool {
    let difference = one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(difference) == 0
}
