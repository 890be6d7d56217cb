//! Reclaims local copies on nearly full volumes.

use std::sync::Arc;

use super::{
    WriteBack, key_of,
    planner::{self, Candidate, Urgency},
};
use crate::{
    registry::{Policy, Standing},
    staging::{self, Unwritten, Volume},
};

impl WriteBack {
    /// Makes room on nearly full volumes.
    pub(super) async fn reclaim(self: &Arc<Self>) {
        if !self.volumes.iter().any(|volume| self.pressed(volume)) {
            return;
        }
        let this = self.clone();
        let reclaiming = tokio::task::spawn_blocking(move || {
            for volume in this.volumes.iter().filter(|volume| this.pressed(volume)) {
                let of = this.clone();
                let result = volume.start(move |volume| of.make_room(volume)).wait();
                if let Err(error) = result {
                    tracing::warn!(volume = %volume.id(), %error, "a local copy could not be removed");
                }
            }
        });
        if let Err(error) = reclaiming.await {
            tracing::error!(%error, "reclaiming ended");
        }
    }

    /// Removes local copies until a volume is not nearly full any more. Blocking.
    fn make_room(&self, volume: &Volume) -> Result<(), staging::Error> {
        while self.pressed(volume) {
            let mut shuffles = volume.unwritten();
            shuffles
                .iter_mut()
                .for_each(|shuffle| shuffle.reclaimable &= !self.is_merged_first(shuffle));
            let Some(at) = planner::reclaim(&shuffles) else {
                break;
            };
            if volume.reclaim(&shuffles[at].app, shuffles[at].shuffle)? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Whether a local copy is kept for a pending merge of the shuffle's manifests, which reads it;
    /// not after a failed merge.
    pub(super) fn is_merged_first(&self, shuffle: &Unwritten) -> bool {
        let candidate = Candidate {
            shuffle: shuffle.clone(),
            policy: Policy::Off,
            urgency: Urgency::Pressure,
            not_before: None,
            turn: 0,
            load: 0,
        };
        let known = matches!(
            self.apps.standing(&shuffle.app),
            Standing::Live { heard: true, .. }
        );
        known
            && !candidate.merges().is_empty()
            && !self.failed.lock().contains_key(&key_of(shuffle))
    }

    /// Whether a volume is nearly full, by its own account of bytes and the file system's free
    /// space.
    pub(super) fn pressed(&self, volume: &Volume) -> bool {
        if volume.check_answers().is_err() {
            return false;
        }
        let used = volume.bytes_used();
        let all = used.saturating_add(volume.bytes_free());
        used > 0 && used >= all / 100 * u64::from(self.options.reclaim_at)
    }
}
