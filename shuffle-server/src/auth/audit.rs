//! The audit: one line for each thing that somebody did to the pool, or was refused. Target `audit`
//! of the log, whatever the log's level is; never a secret.
//!
//! | field | |
//! |---|---|
//! | `action` | `register`, `free-app`, `free-shuffle`, `drain`, `look`, `change`, `call`, `reload` |
//! | `outcome` | `done`, `failed`, `refused` |
//! | `who` | who it is, as far as that is known: `app`, `secret` (the pool's), `local`, `nobody`, or how a name was proven: `token:admin`, `certificate:SUBJECT`, `kubernetes:USER` |
//! | `peer` | from where |
//! | `app`, `tenant`, `shuffle`, `bytes`, `path`, `why` | of what, and why not |
//!
//! Refusals are bounded: whoever is refused in a loop must not fill the log. Those over the bound
//! are counted, and the count is told.

use std::{
    fmt::Display,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use shuffle_proto::ids::AppId;

/// Lines about refusals in so long a time.
const WINDOW: Duration = Duration::from_secs(10);
const LINES: u32 = 200;

static REFUSALS: Mutex<Option<Window>> = Mutex::new(None);

struct Window {
    since: Instant,
    told: u32,
    untold: u32,
}

/// Who registers an app, by what is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// `app`, `secret` or `kubernetes:USER`.
    pub who: Arc<str>,
    /// The tenant that the proof names, or nothing.
    pub tenant: Arc<str>,
}

impl Default for By {
    fn default() -> Self {
        Self {
            who: "app".into(),
            tenant: "".into(),
        }
    }
}

/// Tells that an app was registered.
pub(crate) fn registered(app: &AppId, by: &By, peer: Option<IpAddr>, again: bool) {
    let peer = peer.map(tracing::field::display);
    tracing::info!(target: "audit", action = "register", outcome = "done", who = %by.who, peer, %app, tenant = %by.tenant, again);
}

/// Tells that an app's driver freed all that it had here.
pub(crate) fn freed(app: &AppId, peer: Option<impl Display>, result: Result<u64, &impl Display>) {
    let peer = peer.map(tracing::field::display);
    match result {
        Ok(bytes) => {
            tracing::info!(target: "audit", action = "free-app", outcome = "done", who = "app", peer, %app, bytes);
        }
        Err(why) => {
            tracing::info!(target: "audit", action = "free-app", outcome = "failed", who = "app", peer, %app, %why);
        }
    }
}

/// Tells that somebody was refused; `who` as far as that is known.
pub(crate) fn refused(
    action: &str,
    who: &str,
    peer: Option<impl Display>,
    app: Option<&AppId>,
    path: &str,
    why: &str,
) {
    let now = Instant::now();
    let untold = {
        let mut window = REFUSALS.lock();
        let window = window.get_or_insert_with(|| Window::new(now));
        match window.tells(now) {
            Some(untold) => untold,
            None => return,
        }
    };
    if untold > 0 {
        tracing::info!(target: "audit", action, outcome = "refused", count = untold, "more refusals than are told one by one");
    }
    let (peer, app) = (
        peer.map(tracing::field::display),
        app.map(tracing::field::display),
    );
    tracing::info!(target: "audit", action, outcome = "refused", who, peer, app, path, why);
}

impl Window {
    fn new(since: Instant) -> Self {
        Self {
            since,
            told: 0,
            untold: 0,
        }
    }

    /// Whether one more is told; if so, how many before it were not.
    fn tells(&mut self, now: Instant) -> Option<u32> {
        let mut untold = 0;
        if now.saturating_duration_since(self.since) > WINDOW {
            untold = self.untold;
            *self = Self::new(now);
        }
        match self.told < LINES {
            true => {
                self.told += 1;
                Some(untold)
            }
            false => {
                self.untold += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_in_a_loop_are_counted_and_the_count_is_told() {
        let start = Instant::now();
        let mut window = Window::new(start);
        let told = (0..1000).filter(|_| window.tells(start) == Some(0)).count();
        assert_eq!(told, LINES as usize);
        let later = start + WINDOW + Duration::from_millis(1);
        assert_eq!(window.tells(later), Some(1000 - LINES));
        assert_eq!(window.tells(later), Some(0));
    }
}
