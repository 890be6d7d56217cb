//! A client and its open apps: the driver's part.
//!
//! Registering and deleting ask servers and may take long, so they run as tasks; Java holds a
//! [`Call`] and polls. A forgotten call goes on.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex as StdMutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use shuffle_client::{
    AppHandle, AppId, Caller, Client, Description, Error, Kind, Secret, Settings, ShuffleId,
    VolumeState, arena::AMPLE,
};
use tokio::{
    sync::{RwLock, watch},
    task::{AbortHandle, JoinHandle},
};

use crate::{error::invalid, handle::exclusive, runtime};

/// Time limit for all servers' answers after a server has lost something: Spark runs maps again
/// meanwhile.
const LOOK: Duration = Duration::from_secs(1);

/// A client with its open apps.
pub(crate) struct ClientEntry {
    client: Client,
    apps: Arc<Apps>,
}

/// Empty when the client is closed.
struct Apps(Mutex<Option<HashMap<AppId, App>>>);

/// One app, from the first call to open it.
struct App {
    caller: Caller,
    /// Tells a finished registration whether the entry is still its own.
    number: u64,
    state: State,
}

enum State {
    /// Result of the registration, for all waiting and later callers.
    Opening {
        outcome: watch::Receiver<Option<Result<(), Error>>>,
        task: AbortHandle,
    },
    Open(SharedApp),
}

/// Calls of an app share the handle; closing takes it out after the last of them.
type SharedApp = Arc<RwLock<Option<AppHandle>>>;

impl ClientEntry {
    /// A client of the library's runtime. Does no I/O.
    pub(crate) fn open(settings: Settings, secret: Option<Secret>) -> Result<Self, Error> {
        let handle = runtime::get()?.handle().clone();
        if settings.memory.is_some_and(|memory| memory < AMPLE) {
            runtime::spare_memory();
        }
        let client = match secret {
            Some(secret) => Client::encrypted(settings, handle, secret)?,
            None => Client::with_handle(settings, handle)?,
        };
        Ok(Self {
            client,
            apps: Arc::new(Apps(Mutex::new(Some(HashMap::new())))),
        })
    }

    /// The client behind it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Starts to register an app, joins a registration in progress, or returns at once for an open
    /// app. A caller interrupted in its wait asks again.
    pub(crate) fn open_app(&self, caller: Caller) -> Result<Call, Error> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let app = caller.app.clone();
        let mut locked = self.apps.0.lock();
        let apps = locked.as_mut().ok_or_else(closed)?;
        let mut outcome = match apps.get(&app) {
            Some(entry) if entry.caller != caller => {
                return Err(invalid(format!(
                    "app {app} is open already, with another token or lease: close it first"
                )));
            }
            Some(App {
                state: State::Open(_),
                ..
            }) => return Call::start(std::future::ready(Ok(()))),
            Some(App {
                state: State::Opening { outcome, .. },
                ..
            }) => outcome.clone(),
            None => {
                let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
                let (sender, outcome) = watch::channel(None);
                let (client, shared) = (self.client.clone(), self.apps.clone());
                let register = register(client, shared, caller.clone(), number, sender);
                let task = runtime::get()?.spawn(register).abort_handle();
                let state = State::Opening {
                    outcome: outcome.clone(),
                    task,
                };
                let entry = App {
                    caller,
                    number,
                    state,
                };
                apps.insert(app, entry);
                outcome
            }
        };
        drop(locked);
        Call::start(async move {
            let known = outcome.wait_for(Option::is_some).await;
            // Without an outcome the registration was broken off, by whoever closed the app or the
            // client.
            let outcome = known.ok().and_then(|known| known.clone());
            outcome.unwrap_or_else(|| Err(closed()))
        })
    }

    /// Candidate servers of a shuffle.
    pub(crate) fn place(
        &self,
        app: &str,
        shuffle: ShuffleId,
        maps: u32,
        partitions: u32,
    ) -> Result<Vec<String>, Error> {
        let shared = self.app(app)?;
        let handle = shared.try_read().map_err(|_| closing(app))?;
        Ok(handle
            .as_ref()
            .ok_or_else(|| closing(app))?
            .place(shuffle, maps, partitions))
    }

    /// What an app's tasks call the servers with.
    pub(crate) fn token(&self, app: &str) -> Result<Arc<str>, Error> {
        let shared = self.app(app)?;
        let handle = shared.try_read().map_err(|_| closing(app))?;
        Ok(handle.as_ref().ok_or_else(|| closing(app))?.token())
    }

    /// Descriptions of an app's servers from their last answers: a [`line`] each.
    pub(crate) fn servers(&self, app: &str) -> Result<Vec<String>, Error> {
        let shared = self.app(app)?;
        let handle = shared.try_read().map_err(|_| closing(app))?;
        let servers = handle.as_ref().ok_or_else(|| closing(app))?.servers();
        Ok(servers
            .iter()
            .map(|server| line(&server.address, Some(server)))
            .collect())
    }

    /// Starts to ask all servers, and the given ones, for their descriptions: a [`line`] each.
    pub(crate) fn look(&self, app: &str, more: Vec<String>) -> Result<Call, Error> {
        let (shared, app) = (self.app(app)?, app.to_owned());
        Call::start_with_lines(|lines| async move {
            let handle = shared.read().await;
            let handle = handle.as_ref().ok_or_else(|| closing(&app))?;
            let seen = handle.look(more, LOOK).await;
            let _ = lines.set(
                seen.iter()
                    .map(|(address, server)| line(address, server.as_ref()))
                    .collect(),
            );
            Ok(())
        })
    }

    /// Starts to delete a shuffle.
    pub(crate) fn delete_shuffle(&self, app: &str, shuffle: ShuffleId) -> Result<Call, Error> {
        let (shared, app) = (self.app(app)?, app.to_owned());
        Call::start(async move {
            let handle = shared.read().await;
            handle
                .as_ref()
                .ok_or_else(|| closing(&app))?
                .delete_shuffle(shuffle)
                .await
        })
    }

    /// Starts to delete an app, whose lease is not renewed from now on. A registration in progress
    /// is abandoned.
    pub(crate) fn close_app(&self, app: &str) -> Result<Call, Error> {
        let id = app_id(app)?;
        let removed = self.apps.0.lock().as_mut().ok_or_else(closed)?.remove(&id);
        let shared = match removed.map(|entry| entry.state) {
            Some(State::Open(shared)) => Some(shared),
            Some(State::Opening { task, .. }) => {
                task.abort();
                None
            }
            None => return Err(not_open(app)),
        };
        Call::start(async move {
            let Some(shared) = shared else {
                return Ok(());
            };
            let handle = shared.write().await.take();
            match handle {
                Some(handle) => handle.close().await,
                None => Ok(()),
            }
        })
    }

    fn app(&self, app: &str) -> Result<SharedApp, Error> {
        let id = app_id(app)?;
        let apps = self.apps.0.lock();
        match apps.as_ref().ok_or_else(closed)?.get(&id) {
            Some(App {
                state: State::Open(shared),
                ..
            }) => Ok(shared.clone()),
            Some(_) => Err(invalid(format!(
                "app {app} is still being opened: wait for that"
            ))),
            None => Err(not_open(app)),
        }
    }
}

/// Registers an app and puts its handle into the waiting entry.
async fn register(
    client: Client,
    apps: Arc<Apps>,
    caller: Caller,
    number: u64,
    outcome: watch::Sender<Option<Result<(), Error>>>,
) {
    let app = caller.app.clone();
    let opened = client.open_app(caller).await;
    let result = {
        let mut apps = apps.0.lock();
        // App or client may have been closed meanwhile: then the handle is dropped, and the lease
        // with it.
        let entry = apps.as_mut().and_then(|apps| {
            let entry = apps.get(&app)?;
            (entry.number == number).then_some(apps)
        });
        match (entry, opened) {
            (None, _) => Err(closed()),
            (Some(apps), Err(error)) => {
                apps.remove(&app);
                Err(error)
            }
            (Some(apps), Ok(handle)) => {
                if let Some(entry) = apps.get_mut(&app) {
                    entry.state = State::Open(Arc::new(RwLock::new(Some(handle))));
                }
                Ok(())
            }
        }
    };
    // Nobody may be waiting any more.
    let _ = outcome.send(Some(result));
}

fn app_id(app: &str) -> Result<AppId, Error> {
    AppId::try_new(app)
        .ok_or_else(|| invalid(format!("app is {app:?}: give 1 to 128 of [A-Za-z0-9._-]")))
}

fn not_open(app: &str) -> Error {
    invalid(format!("app {app} is not open: open it first"))
}

impl Drop for ClientEntry {
    fn drop(&mut self) {
        let _context = runtime::get().map(tokio::runtime::Runtime::enter);
        let apps = self.apps.0.lock().take();
        for entry in apps.iter().flat_map(HashMap::values) {
            if let State::Opening { task, .. } = &entry.state {
                task.abort();
            }
        }
        drop(apps);
    }
}

fn closed() -> Error {
    Error::new(Kind::Fenced, "the client was closed meanwhile")
}

fn closing(app: &str) -> Error {
    Error::new(Kind::Fenced, format!("app {app} is being closed"))
}

/// One server as Java reads it, between tabs: address, whether the server answers, whether it has
/// an object store, its readable volumes between commas.
fn line(address: &str, server: Option<&Description>) -> String {
    let readable = |volume: &&VolumeState| !matches!(volume.state.as_str(), "failed" | "removed");
    let volumes: Vec<_> = server
        .iter()
        .flat_map(|server| server.volumes.iter().filter(readable))
        .map(|volume| volume.id.to_string())
        .collect();
    format!(
        "{address}\t{}\t{}\t{}",
        server.is_some(),
        server.is_some_and(|server| server.remote),
        volumes.join(",")
    )
}

/// Something that was started and may take long.
pub(crate) struct Call {
    state: StdMutex<CallState>,
    lines: Lines,
}

/// Answer of a call, for calls with one.
type Lines = Arc<OnceLock<Vec<String>>>;

enum CallState {
    Running(JoinHandle<Result<(), Error>>),
    Done(Result<(), Error>),
}

impl Call {
    fn start(
        work: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) -> Result<Self, Error> {
        Self::start_with_lines(|_| work)
    }

    /// A call with an answer, before its end.
    fn start_with_lines<F>(work: impl FnOnce(Lines) -> F) -> Result<Self, Error>
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let lines = Lines::default();
        let task = runtime::get()?.spawn(work(lines.clone()));
        Ok(Self {
            state: StdMutex::new(CallState::Running(task)),
            lines,
        })
    }

    /// The answer; empty before success.
    pub(crate) fn lines(&self) -> &[String] {
        self.lines.get().map_or(&[], Vec::as_slice)
    }

    /// Whether the call has succeeded; its failure if it failed. Repeated calls return the same.
    pub(crate) fn wait(&self, timeout: Duration) -> Result<bool, Error> {
        let mut state = exclusive(&self.state, "call")?;
        if let CallState::Running(task) = &mut *state {
            let Some(answer) = runtime::wait(timeout, task)? else {
                return Ok(false);
            };
            let result = answer.unwrap_or_else(|error| {
                Err(Error::new(
                    Kind::Internal,
                    format!("a call broke off: {error}"),
                ))
            });
            *state = CallState::Done(result);
        }
        match &*state {
            CallState::Done(result) => result.clone().map(|()| true),
            CallState::Running(_) => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use shuffle_client::fake::Fake;

    use super::*;

    fn caller(app: &str) -> Caller {
        Caller {
            app: AppId::try_new(app).expect("valid"),
            token: "t".into(),
            lease: Duration::from_secs(60),
        }
    }

    fn finish(call: &Call) -> Result<(), Error> {
        while !call.wait(Duration::from_millis(50))? {}
        Ok(())
    }

    #[test]
    fn a_call_answers_again_what_it_answered() {
        let call = Call::start(async { Err(invalid("no")) }).expect("a runtime");
        assert_eq!(finish(&call), Err(invalid("no")));
        assert_eq!(call.wait(Duration::ZERO), Err(invalid("no")));
    }

    #[test]
    fn a_panic_in_a_call_is_an_internal_error() {
        let call = Call::start(async { panic!("on purpose") }).expect("a runtime");
        assert_eq!(finish(&call).expect_err("panicked").kind, Kind::Internal);
    }

    #[test]
    fn an_app_that_is_not_open_is_refused_and_so_is_one_that_could_not_be_opened() {
        // Nothing listens on this port: the try must end with the deadline, and the app can be
        // opened anew.
        let settings = Settings {
            retry_deadline: Duration::from_millis(1),
            call_timeout: Duration::from_millis(500),
            ..Settings::of(["127.0.0.1:1"])
        };
        let entry = ClientEntry::open(settings, None).expect("a client");
        assert_eq!(
            entry
                .place("a", ShuffleId(0), 1, 1)
                .expect_err("not open")
                .kind,
            Kind::Invalid
        );
        for _ in 0..2 {
            let call = entry.open_app(caller("a")).expect("a runtime");
            assert!(finish(&call).is_err());
        }
        assert!(entry.close_app("a").is_err());
    }

    /// A client whose servers do not answer, for long.
    fn waiting() -> ClientEntry {
        let settings = Settings {
            retry_deadline: Duration::from_secs(600),
            ..Settings::of(["127.0.0.1:1"])
        };
        ClientEntry::open(settings, None).expect("a client")
    }

    #[test]
    fn a_registration_that_nobody_waited_for_is_joined_by_who_asks_again() {
        let server = runtime::get().expect("a runtime").block_on(Fake::start());
        let settings = Settings {
            call_timeout: Duration::from_millis(500),
            ..Settings::of([server.address()])
        };
        let entry = ClientEntry::open(settings, None).expect("a client");
        server.faults().hang = true;
        let interrupted = entry.open_app(caller("a")).expect("a runtime");
        assert_eq!(interrupted.wait(Duration::from_millis(20)), Ok(false));
        drop(interrupted);
        let again = entry.open_app(caller("a")).expect("joined");
        let third = entry.open_app(caller("a")).expect("joined");
        server.faults().hang = false;
        assert_eq!(finish(&again), Ok(()));
        assert_eq!(finish(&third), Ok(()));
        // And once more for the open app, as for any shuffle registered later.
        let later = entry.open_app(caller("a")).expect("open");
        assert_eq!(finish(&later), Ok(()));
        let servers = entry.place("a", ShuffleId(0), 1, 1).expect("open");
        assert_eq!(servers, [server.address()]);
        let call = entry.close_app("a").expect("open");
        assert_eq!(finish(&call), Ok(()));
        assert!(entry.place("a", ShuffleId(0), 1, 1).is_err());
    }

    #[test]
    fn an_app_under_the_same_name_with_another_token_is_refused() {
        let entry = waiting();
        let _call = entry.open_app(caller("a")).expect("a runtime");
        let other = Caller {
            token: "another".into(),
            ..caller("a")
        };
        let refused = entry.open_app(other).err().expect("another token");
        assert_eq!(refused.kind, Kind::Invalid);
    }

    #[test]
    fn a_registration_that_goes_on_is_given_up_by_closing_and_can_be_started_anew() {
        let entry = waiting();
        for _ in 0..2 {
            let opening = entry.open_app(caller("a")).expect("a runtime");
            let closing = entry.close_app("a").expect("it is being opened");
            assert_eq!(finish(&closing), Ok(()));
            assert_eq!(finish(&opening).expect_err("closed").kind, Kind::Fenced);
        }
        let opening = entry.open_app(caller("a")).expect("a runtime");
        drop(entry);
        assert_eq!(finish(&opening).expect_err("closed").kind, Kind::Fenced);
    }
}
