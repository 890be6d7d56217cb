//! Who somebody is: drivers towards the pool ([`drivers`]), people and programs at the admin port
//! ([`roles`]). Both by files of secrets ([`files`]) or by the cluster's API server
//! ([`kubernetes`]). What came of it is told in lines of their own ([`audit`]).
//!
//! Owns secrets and what is derived from them, and no right of a single app: whose an app is, the
//! registry knows. Nothing of this survives the process: an app token is checked by the pool's
//! secret alone, by any server that has it.
//!
//! No secret is in a log, an error, a metric or a `Debug`: they come from files, are of types that
//! do not print, and what is wrong with one is said by its file and line.

pub(crate) mod audit;
pub(crate) mod drivers;
mod files;
mod kubernetes;
pub(crate) mod roles;

use std::{
    fmt,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Weak},
    time::Duration,
};

pub use audit::By;
pub use drivers::DriverAuth;
use drivers::Drivers;
use roles::Admins;

/// How often files are looked at: what is written takes effect well within the time that Kubernetes
/// takes to bring it to a pod.
const LOOK: Duration = Duration::from_secs(2);

/// Who may do something at the admin port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdminAuth {
    /// Whoever reaches the port may look; this machine alone may change something.
    #[default]
    Local,
    /// Whoever has a token of one of two files.
    Token,
    /// Whoever the cluster says.
    Kubernetes,
}

/// What a person has set.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `auth`
    pub drivers: DriverAuth,
    /// `pool-secret-file`
    pub pool_secrets: Option<PathBuf>,
    /// `admin-auth`
    pub admins: AdminAuth,
    /// `admin-token-file`
    pub admin_tokens: Option<PathBuf>,
    /// `viewer-token-file`
    pub viewer_tokens: Option<PathBuf>,
    /// `audience`
    pub audience: String,
    /// `service-account-dir`
    pub service_account: PathBuf,
}

/// See the module.
pub struct Auth {
    pub(crate) admins: Admins,
    pub(crate) drivers: Drivers,
}

impl Auth {
    /// Reads the files, and reads them again as long as this lives. An error names the setting.
    pub fn open(options: &Options) -> Result<Arc<Self>, String> {
        let auth = Arc::new(Self {
            admins: Admins::open(options)?,
            drivers: Drivers::open(options)?,
        });
        let weak = Arc::downgrade(&auth);
        let thread = std::thread::Builder::new().name("forebay-auth".into());
        thread.spawn(move || follow(&weak)).map_err(|error| {
            format!("a thread that reads files of secrets cannot be started: {error}")
        })?;
        Ok(auth)
    }
}

fn follow(auth: &Weak<Auth>) {
    loop {
        std::thread::sleep(LOOK);
        let Some(auth) = auth.upgrade() else { return };
        auth.admins.refresh();
        auth.drivers.refresh();
    }
}

impl FromStr for AdminAuth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "local" => Ok(Self::Local),
            "token" => Ok(Self::Token),
            "kubernetes" => Ok(Self::Kubernetes),
            other => Err(format!("{other:?} is not one of local, token, kubernetes")),
        }
    }
}

impl fmt::Display for AdminAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Token => "token",
            Self::Kubernetes => "kubernetes",
        })
    }
}
