//! The steps of the end: running pushes, write-back, volumes. [`super::Server::run`] goes them in
//! this order.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::core::{Core, drain::Step, volumes::Volumes};

/// How often `notice-file` is looked for.
pub(super) const NOTICE_PERIOD: Duration = Duration::from_millis(500);
/// What a volume gets to put on disk what only memory holds, beyond `drain-timeout`. It is asked to
/// at the beginning, too.
pub(super) const CLOSE: Duration = Duration::from_secs(10);

/// Running pushes commit, or are told to go elsewhere once they have had their time. What commits
/// even then is waited for.
pub(super) async fn end_pushes(core: &Core, fence: Instant, deadline: Instant) {
    if timeout_at(fence, core.pushes.wait()).await.is_err() {
        tracing::warn!(
            pushes = core.metrics.streams("push"),
            "pushes that still run are told to go to another server: they had their part of drain-timeout"
        );
        core.drain.fence();
        if timeout_at(deadline, core.pushes.wait()).await.is_err() {
            tracing::warn!(
                pushes = core.metrics.streams("push"),
                "drain-timeout is over: commits that still run are ended"
            );
        }
    }
    // A stream that has opened nothing yet is let go too.
    core.drain.fence();
    if core.remote.is_some() {
        core.drain.go(Step::WriteBack);
    }
}

/// Everything that the object store is to have; answers the bytes that are left, for which there
/// was no time.
pub(super) async fn write_back(core: &Core, deadline: Instant) -> u64 {
    let Some(tier) = &core.remote else {
        return 0;
    };
    let left = tier
        .writeback
        .drain(deadline, || !core.pushes.is_empty())
        .await;
    core.drain.leaves(left);
    if left > 0 {
        tracing::warn!(
            bytes = left,
            "drain-timeout is over: what is not written back stays on the disk only"
        );
    }
    left
}

/// Closes all volumes at the same time, so that none waits for the disk of another. Returns the
/// bytes that were in memory only and are lost.
pub(super) async fn close_volumes(volumes: &Volumes) -> u64 {
    let mut closing = JoinSet::new();
    for volume in volumes.iter() {
        let volume = volume.clone();
        closing.spawn(async move {
            if tokio::time::timeout(CLOSE, volume.close()).await.is_err() {
                tracing::error!(volume = %volume.id(), disk = %volume.dir().display(), "the disk does not take in {CLOSE:?} what only memory has");
            }
            volume.only_in_memory()
        });
    }
    let mut unkept = 0;
    while let Some(closed) = closing.join_next().await {
        unkept += closed.unwrap_or_default();
    }
    unkept
}

/// Asks for the end once the file is there. A path that cannot be looked at is told once.
pub(super) async fn notice(path: PathBuf, core: Arc<Core>, shutdown: CancellationToken) {
    let mut told = false;
    loop {
        match tokio::fs::try_exists(&path).await {
            Ok(true) => {
                core.drain(format!("notice-file {} is there", path.display()));
                break;
            }
            Ok(false) => {}
            Err(error) if told => drop(error),
            Err(error) => {
                told = true;
                tracing::warn!(path = %path.display(), %error, "notice-file cannot be looked for; tried again");
            }
        }
        let pause = shutdown.run_until_cancelled(tokio::time::sleep(NOTICE_PERIOD));
        if pause.await.is_none() {
            return;
        }
    }
    shutdown.cancelled().await;
}
