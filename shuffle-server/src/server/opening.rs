//! What a server opens before it serves: its store, its data directories, its ports.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use shuffle_remote::{Now, Remote, Store, shown_url};
use tokio::net::TcpListener;

use crate::{
    admin::Front,
    clock::Clock,
    config::Config,
    error::Error,
    metrics::Metrics,
    staging::{self, Components, Volume, check_ground},
    writeback::Records,
};

/// How long a start waits for the object store.
pub(super) const STORE_PATIENCE: Duration = Duration::from_secs(3);
/// How long a look at what a data directory lies on may take, before it is left to the volume to
/// say what is wrong with the disk.
pub(super) const GROUND: Duration = Duration::from_secs(5);

pub(super) fn open_store(config: &Config, metrics: &Metrics) -> Result<Option<Store>, Error> {
    let open = |url: &String| {
        let store = Store::open(url, Arc::new(metrics.remote.clone()));
        store.map_err(|cause| Error::Remote {
            url: shown_url(url),
            cause,
        })
    };
    config.remote.as_ref().map(open).transpose()
}

/// Looks whether the store is ours to write to. One that does not answer is asked again later,
/// before anything is written.
pub(super) async fn open_remote(
    store: Store,
    clock: Arc<dyn Clock>,
) -> Result<(Arc<Remote>, Arc<Records>), Error> {
    let time: Now = Arc::new(move || clock.now());
    let remote = Arc::new(Remote::new(store, time));
    let records = Arc::new(Records::new(remote.clone()));
    let url = || remote.store.url().to_owned();
    match tokio::time::timeout(STORE_PATIENCE, records.claim()).await {
        Ok(Ok(())) => {}
        Ok(Err(shuffle_remote::Error::Invalid(cause))) => {
            return Err(Error::Remote { url: url(), cause });
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "the object store cannot be used; staging begins without it");
        }
        Err(_) => {
            tracing::warn!(url = url(), within = ?STORE_PATIENCE, "the object store does not answer; staging begins without it");
        }
    }
    Ok((remote, records))
}

pub(super) async fn listen(
    key: &'static str,
    value: &str,
) -> Result<(TcpListener, SocketAddr), Error> {
    let error = |cause| Error::Listen {
        key,
        value: value.to_owned(),
        cause,
    };
    let listener = TcpListener::bind(value).await.map_err(error)?;
    let addr = listener.local_addr().map_err(error)?;
    Ok((listener, addr))
}

/// Opens all volumes at the same time: recovery reads each disk by itself. A volume that cannot be
/// opened does not keep the others from being served. If no volume takes anything, the server does
/// not start.
pub(super) async fn open_volumes(
    config: &Config,
    components: &Components,
    front: &Arc<Front>,
) -> Result<Vec<Volume>, Error> {
    refuse_twice(&config.data_dir)?;
    let opening: Vec<_> = config
        .data_dir
        .iter()
        .map(|dir| {
            let (dir, options, components) = (dir.clone(), config.staging(), components.clone());
            let waiting = front.wait(format!("recovering volume in {}", dir.display()));
            tokio::task::spawn_blocking(move || {
                let volume = Volume::open_or_broken(&dir, options, components);
                drop(waiting);
                volume
            })
        })
        .collect();
    let mut volumes = Vec::with_capacity(opening.len());
    for volume in opening {
        let volume = volume
            .await
            .map_err(|panic| Error::Process(format!("open a data directory: {panic}")))?;
        tracing::info!(volume = %volume.id(), dir = %volume.dir().display(), bytes = volume.bytes_used(), "volume opened");
        // A copy would answer for the original, with what it held when it was copied.
        if let Some(twin) = volumes
            .iter()
            .find(|other: &&Volume| other.id() == volume.id())
        {
            let twin = twin.dir().display();
            let reason = format!(
                "it holds volume {}, as {twin} does: one is a copy of the other, name only one",
                volume.id()
            );
            return Err(unusable(volume.dir(), reason));
        }
        volumes.push(volume);
    }
    if volumes.iter().all(|volume| volume.health().is_broken())
        && let Some(first) = volumes.first()
    {
        let health = first.health();
        let reason = health.reason().unwrap_or_default();
        return Err(unusable(
            first.dir(),
            format!(
                "no data directory can be used, this one is {}: {reason}",
                health.state()
            ),
        ));
    }
    Ok(volumes)
}

/// Whether data belong on what the data directories lie on.
pub(super) async fn check_grounds(config: &Config) -> Result<(), Error> {
    let allow = config.allow_root_device;
    for dir in &config.data_dir {
        let look = {
            let dir = dir.clone();
            tokio::task::spawn_blocking(move || check_ground(&dir, allow))
        };
        // A disk that hangs is the volume's to tell, and keeps its thread.
        let Ok(Ok(looked)) = tokio::time::timeout(GROUND, look).await else {
            continue;
        };
        let told = looked.map_err(|cause| Error::Volume {
            dir: dir.clone(),
            cause,
        })?;
        if let Some(told) = told {
            tracing::warn!(dir = %dir.display(), "a data directory lies on {told}");
        }
    }
    Ok(())
}

/// A directory that is named twice would be opened once and be in its own way the second time.
pub(super) fn refuse_twice(dirs: &[PathBuf]) -> Result<(), Error> {
    let real = |dir: &PathBuf| fs::canonicalize(dir).unwrap_or_else(|_| dir.clone());
    for (position, dir) in dirs.iter().enumerate() {
        if dirs[..position]
            .iter()
            .any(|other| real(other) == real(dir))
        {
            let reason = "is named twice in data-dir: name it once".into();
            return Err(unusable(dir, reason));
        }
    }
    Ok(())
}

pub(super) fn unusable(dir: &Path, reason: String) -> Error {
    let (dir, path) = (dir.to_path_buf(), dir.to_path_buf());
    Error::Volume {
        dir,
        cause: staging::Error::Directory { path, reason },
    }
}
