//! What a client's id stands for, with the apps that it keeps alive: the driver's part.
//!
//! Registering and deleting ask servers and may take long, so they run as tasks; Java holds a [`Call`] and polls it. A call that is
//! forgotten goes on.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex as StdMutex},
    time::Duration,
};

use parking_lot::Mutex;
use shuffle_client::{AppHandle, AppId, Caller, Client, Error, Kind, Secret, Settings, ShuffleId};
use tokio::{sync::RwLock, task::JoinHandle};

use crate::{error::invalid, handle::exclusive, runtime};

/// A client and the apps that were opened through it.
pub(crate) struct ClientEntry {
    client: Client,
    apps: Arc<Apps>,
}

/// Empty when the client is closed. An app without a handle is being opened.
struct Apps(Mutex<Option<HashMap<AppId, Option<SharedApp>>>>);

/// Calls of an app share the handle; closing takes it out when they are done.
type SharedApp = Arc<RwLock<Option<AppHandle>>>;

impl ClientEntry {
    /// A client of the library's runtime. Does no I/O.
    pub(crate) fn open(settings: Settings, secret: Option<Secret>) -> Result<Self, Error> {
        let handle = runtime::get()?.handle().clone();
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

    /// Starts to register an app.
    pub(crate) fn open_app(&self, caller: Caller) -> Result<Call, Error> {
        let app = caller.app.clone();
        match self
            .apps
            .0
            .lock()
            .as_mut()
            .ok_or_else(closed)?
            .entry(app.clone())
        {
            Entry::Occupied(_) => {
                return Err(invalid(format!("app {app} is open already: open it once")));
            }
            Entry::Vacant(entry) => entry.insert(None),
        };
        let (client, apps) = (self.client.clone(), self.apps.clone());
        Call::start(async move {
            let opened = client.open_app(caller).await;
            // The client may have been closed meanwhile: then the handle is dropped, and its lease with it.
            if let Some(apps) = apps.0.lock().as_mut() {
                match opened {
                    Ok(handle) => drop(apps.insert(app, Some(Arc::new(RwLock::new(Some(handle)))))),
                    Err(error) => {
                        apps.remove(&app);
                        return Err(error);
                    }
                }
                return Ok(());
            }
            opened.and_then(|_| Err(closed()))
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

    /// Starts to delete an app; its lease is not renewed from now on.
    pub(crate) fn close_app(&self, app: &str) -> Result<Call, Error> {
        let shared = self.app(app)?;
        if let (Some(apps), Some(id)) = (self.apps.0.lock().as_mut(), AppId::try_new(app)) {
            apps.remove(&id);
        }
        Call::start(async move {
            let handle = shared.write().await.take();
            match handle {
                Some(handle) => handle.close().await,
                None => Ok(()),
            }
        })
    }

    fn app(&self, app: &str) -> Result<SharedApp, Error> {
        let id = AppId::try_new(app)
            .ok_or_else(|| invalid(format!("app is {app:?}: give 1 to 128 of [A-Za-z0-9._-]")))?;
        match self.apps.0.lock().as_ref().ok_or_else(closed)?.get(&id) {
            Some(Some(shared)) => Ok(shared.clone()),
            Some(None) => Err(invalid(format!(
                "app {app} is still being opened: wait for that"
            ))),
            None => Err(invalid(format!("app {app} is not open: open it first"))),
        }
    }
}

impl Drop for ClientEntry {
    fn drop(&mut self) {
        let _context = runtime::get().map(tokio::runtime::Runtime::enter);
        let apps = self.apps.0.lock().take();
        drop(apps);
    }
}

fn closed() -> Error {
    Error::new(Kind::Fenced, "the client was closed meanwhile")
}

fn closing(app: &str) -> Error {
    Error::new(Kind::Fenced, format!("app {app} is being closed"))
}

/// Something that was started and may take long.
pub(crate) struct Call {
    state: StdMutex<CallState>,
}

enum CallState {
    Running(JoinHandle<Result<(), Error>>),
    Done(Result<(), Error>),
}

impl Call {
    fn start(
        work: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) -> Result<Self, Error> {
        Ok(Self {
            state: StdMutex::new(CallState::Running(runtime::get()?.spawn(work))),
        })
    }

    /// Whether it has succeeded; its failure if it failed. Answers the same again.
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
        // Nothing listens on this port: the try must end with the deadline, and the app can be opened anew.
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
            assert!(entry.open_app(caller("a")).is_err());
            assert!(finish(&call).is_err());
        }
        assert!(entry.close_app("a").is_err());
    }
}
