//! The cluster's word: who has this token (TokenReview), and may they do this (SubjectAccessReview).
//! Two POSTs to the API server, with the credentials that every pod is given.
//!
//! Only a token of our audience counts: one that was made for another service, or for the API
//! server itself, must not be worth anything here, and whoever is asked for one must not send it.
//! Answers are kept for [`KEEP`], so a right that is taken away is gone that soon. The API server is
//! asked a few questions at a time, whoever asks.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use reqwest::{Certificate, Client};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::Options;

/// How long an answer counts.
const KEEP: Duration = Duration::from_secs(10);
/// Answers that are kept.
const MANY: usize = 4096;
/// How long the API server has to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions to it at a time.
const QUESTIONS: usize = 8;
/// Bytes of a token that is worth a question.
const MAX_TOKEN: usize = 16 << 10;
/// Bytes of an answer.
const MAX_ANSWER: usize = 1 << 20;

/// Somebody whom the cluster knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct User {
    #[serde(default)]
    pub(crate) username: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    extra: HashMap<String, Vec<String>>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The token is worth nothing here.
    Refused(String),
    /// The API server does not say.
    Unavailable(String),
}

type Key = [u8; 32];

/// Who a token belongs to, or why to nobody.
type Answer = Result<Arc<User>, String>;

/// See the module.
pub(crate) struct Cluster {
    url: String,
    dir: PathBuf,
    audience: String,
    /// The client, and the certificates it was made with.
    client: RwLock<(Client, Vec<u8>)>,
    slots: Semaphore,
    users: Mutex<HashMap<Key, (Instant, Answer)>>,
    allowed: Mutex<HashMap<Key, (Instant, bool)>>,
}

impl User {
    /// The namespace, of a service account.
    pub(crate) fn namespace(&self) -> Option<&str> {
        let rest = self.username.strip_prefix("system:serviceaccount:")?;
        rest.split_once(':').map(|(namespace, _)| namespace)
    }
}

impl Cluster {
    /// The API server of the pod that this runs in, for the setting `key`.
    pub(super) fn open(key: &str, options: &Options) -> Result<Self, String> {
        let variable = |name: &str| {
            std::env::var(name).ok().filter(|it| !it.is_empty()).ok_or_else(|| {
                format!("{key} is kubernetes: {name} is not set: run the server in a pod, whose kubelet sets it")
            })
        };
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        let host = match host.contains(':') && !host.starts_with('[') {
            true => format!("[{host}]"),
            false => host,
        };
        let dir = options.service_account.clone();
        let ca = read(&dir, "ca.crt")?;
        read(&dir, "token")?;
        let client = client(&ca)
            .map_err(|why| format!("service-account-dir is {}: ca.crt: {why}", dir.display()))?;
        Ok(Self {
            url: format!("https://{host}:{port}"),
            dir,
            audience: options.audience.clone(),
            client: RwLock::new((client, ca)),
            slots: Semaphore::new(QUESTIONS),
            users: Mutex::default(),
            allowed: Mutex::default(),
        })
    }

    /// Takes up the cluster's certificates when they have changed. Blocks.
    pub(super) fn refresh(&self) {
        let Ok(ca) = read(&self.dir, "ca.crt") else {
            return;
        };
        if self.client.read().1 == ca {
            return;
        }
        match client(&ca) {
            Ok(made) => *self.client.write() = (made, ca),
            Err(why) => tracing::warn!(why, "the cluster's new certificates cannot be used"),
        }
    }

    /// Who has this token.
    pub(crate) async fn who(&self, token: &str) -> Result<Arc<User>, Failure> {
        if token.len() > MAX_TOKEN {
            let why = format!(
                "the token has {} bytes: send one of at most {MAX_TOKEN}",
                token.len()
            );
            return Err(Failure::Refused(why));
        }
        let key = key([token]);
        if let Some(kept) = kept(&self.users, &key) {
            return kept.map_err(Failure::Refused);
        }
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": [self.audience] },
        });
        let answer = self
            .ask("/apis/authentication.k8s.io/v1/tokenreviews", &body)
            .await?;
        let status = &answer["status"];
        let ours = status["audiences"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| *one == *self.audience));
        let user = match status["authenticated"].as_bool() == Some(true) && ours {
            true => User::deserialize(&status["user"])
                .map(Arc::new)
                .map_err(|error| {
                    format!("the cluster's word on the token is not understood: {error}")
                }),
            false => Err(format!(
                "the cluster does not know the token as one for the audience {:?}, or it has expired: send one that was made for it \
                 (a projected serviceAccountToken, or `kubectl create token NAME --audience {}`)",
                self.audience, self.audience
            )),
        };
        keep(&self.users, key, user.clone());
        user.map_err(Failure::Refused)
    }

    /// Whether somebody may do this to a path that is no resource.
    pub(crate) async fn allows(
        &self,
        user: &User,
        token: &str,
        method: &str,
        path: &str,
    ) -> Result<bool, Failure> {
        let verb = method.to_ascii_lowercase();
        let key = key([token, &verb, path]);
        if let Some(kept) = kept(&self.allowed, &key) {
            return Ok(kept);
        }
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.username,
                "uid": user.uid,
                "groups": user.groups,
                "extra": user.extra,
                "nonResourceAttributes": { "path": path, "verb": verb },
            },
        });
        let answer = self
            .ask("/apis/authorization.k8s.io/v1/subjectaccessreviews", &body)
            .await?;
        let allowed = answer["status"]["allowed"].as_bool() == Some(true);
        keep(&self.allowed, key, allowed);
        Ok(allowed)
    }

    async fn ask(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let asked = tokio::time::timeout(PATIENCE, self.post(path, body));
        let answer = match asked.await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        };
        answer.map_err(|why| {
            let why = format!("the API server at {} does not say: {why}", self.url);
            tracing::warn!(path, why, "a question to the cluster failed");
            Failure::Unavailable(why)
        })
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        let _slot = self
            .slots
            .acquire()
            .await
            .map_err(|error| error.to_string())?;
        // The kubelet writes another one before it expires.
        let dir = self.dir.clone();
        let own = tokio::task::spawn_blocking(move || read(&dir, "token"));
        let own = own.await.map_err(|panic| panic.to_string())??;
        let own = String::from_utf8_lossy(&own).trim().to_owned();
        let client = self.client.read().0.clone();
        let request = client
            .post(format!("{}{path}", self.url))
            .bearer_auth(own)
            .header("content-type", "application/json")
            .body(body.to_string());
        // Only the outermost words: a body with somebody's token is part of the request.
        let mut answer = request
            .send()
            .await
            .map_err(|error| causes(&error.without_url()))?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| causes(&error))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_ANSWER {
                return Err(format!("its answer has more than {MAX_ANSWER} bytes"));
            }
        }
        if !status.is_success() {
            let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let message = value["message"].as_str().unwrap_or_default();
            return Err(format!(
                "it answers {status} to {path} ({message}): bind the server's service account to the ClusterRole system:auth-delegator"
            ));
        }
        serde_json::from_slice(&bytes).map_err(|error| format!("its answer is no JSON: {error}"))
    }
}

fn client(ca: &[u8]) -> Result<Client, String> {
    shuffle_remote::provide_tls();
    let certificates = Certificate::from_pem_bundle(ca).map_err(|error| causes(&error))?;
    if certificates.is_empty() {
        return Err("no certificate is in it".into());
    }
    let client = Client::builder()
        .no_proxy()
        .tls_certs_only(certificates)
        .connect_timeout(PATIENCE)
        // Connections belong to the runtime that made them, and there are two.
        .pool_max_idle_per_host(0)
        .build();
    client.map_err(|error| causes(&error))
}

fn read(dir: &std::path::Path, name: &str) -> Result<Vec<u8>, String> {
    std::fs::read(dir.join(name)).map_err(|error| {
        format!(
            "service-account-dir is {}: {name}: {error}: let the pod's service account be mounted there (automountServiceAccountToken)",
            dir.display()
        )
    })
}

fn key<const N: usize>(parts: [&str; N]) -> Key {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

fn kept<T: Clone>(of: &Mutex<HashMap<Key, (Instant, T)>>, key: &Key) -> Option<T> {
    let of = of.lock();
    let (since, value) = of.get(key)?;
    (since.elapsed() < KEEP).then(|| value.clone())
}

fn keep<T>(of: &Mutex<HashMap<Key, (Instant, T)>>, key: Key, value: T) {
    let mut of = of.lock();
    if of.len() >= MANY {
        of.retain(|_, (since, _)| since.elapsed() < KEEP);
        if of.len() >= MANY {
            of.clear();
        }
    }
    of.insert(key, (Instant::now(), value));
}

/// An error with its causes: the client says little at the top.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
