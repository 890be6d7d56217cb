//! How a driver proves to the servers that it belongs to their pool: from a file that it alone has.
//! Tasks prove nothing; they have the app token that the servers gave the driver for it.

use std::{fmt, fs, path::PathBuf, sync::Arc};

use shuffle_proto::{
    credential::{self, Keys},
    ids::AppId,
};

use crate::error::{Error, Kind};

/// See the module. Read anew for every renewal, so that a file may change meanwhile.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: the pool asks nobody.
    #[default]
    None,
    /// The pool's secret, the first line of this file.
    SecretFile(PathBuf),
    /// The pool's secret.
    Secret(Arc<str>),
    /// The token that a cluster has given this process, in this file.
    TokenFile(PathBuf),
}

impl Proof {
    /// What to show for this app, whose driver's own token is this; empty if nothing. `name` is the
    /// setting's, for people.
    pub(crate) fn credential(&self, app: &AppId, token: &str, name: &str) -> Result<String, Error> {
        let sign = |secret: &str| {
            let own = credential::own(token);
            Keys::of(secret).credential(app, &own, credential::now())
        };
        match self {
            Self::None => Ok(String::new()),
            Self::Secret(secret) => Ok(sign(secret)),
            Self::SecretFile(path) => line(path, name).map(|secret| sign(&secret)),
            Self::TokenFile(path) => line(path, name),
        }
    }
}

/// The first line of a file that is no comment.
fn line(path: &PathBuf, name: &str) -> Result<String, Error> {
    let refuse = |why: String| {
        let message = format!("{name} is {}: {why}", path.display());
        Error::new(Kind::Invalid, message)
    };
    let text = fs::read_to_string(path)
        .map_err(|error| refuse(format!("{error}: name a file that the driver may read")))?;
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    match first {
        None => Err(refuse("nothing is in it: write the secret into it".into())),
        Some(line) => Ok(line.to_owned()),
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::SecretFile(path) => write!(f, "SecretFile({})", path.display()),
            Self::Secret(_) => f.write_str("Secret"),
            Self::TokenFile(path) => write!(f, "TokenFile({})", path.display()),
        }
    }
}
