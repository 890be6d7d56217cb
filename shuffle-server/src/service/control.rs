//! The control plane: generated tonic, one method per call of `control.proto`.

use std::{sync::Arc, time::Instant};

use shuffle_proto::{
    PROTOCOL, credential,
    ids::{AppId, ShuffleId},
    kind::Kind,
    v1, wire,
};
use tonic::{Request, Response, Status};

use super::{
    caller::{self, Peer},
    verify,
};

use crate::{
    auth::audit,
    core::{Core, peers::Rates, volumes::why},
    error::Refusal,
    metrics::Limit,
    registry::{Apps, Caller, Claim, Standing},
    release,
};

/// See the module.
pub(super) struct Control {
    core: Arc<Core>,
    /// Names this run of the server.
    instance: String,
}

impl Control {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let instance = uuid::Uuid::new_v4().to_string();
        Self { core, instance }
    }

    /// Refuses what makes the volumes write too often, and is not followed by any output.
    fn pace(
        &self,
        rates: &Rates<AppId>,
        app: &AppId,
        peer: Option<Peer>,
        does: &str,
    ) -> Result<(), Refusal> {
        rates.take(app.clone(), Instant::now()).map_err(|wait| {
            self.core.limit(Limit::Control, peer.map(|peer| peer.0));
            let message = format!("app {app} {does} too often: wait");
            Refusal::new(Kind::Busy, message).after(wait)
        })
    }

    async fn renew_lease(
        &self,
        peer: Option<Peer>,
        request: &v1::RenewLeaseRequest,
    ) -> Result<v1::RenewLeaseResponse, Refusal> {
        // A driver may be told apart from its tasks, which prove nothing, only by what it proves.
        let (mut caller, app_token) = match request.task {
            true => (caller::check(&self.core, request.caller.as_ref())?, None),
            false => caller::prove(&self.core, request).await?,
        };
        (caller.peer, caller.task) = (peer.map(|peer| peer.0.ip()), request.task);
        if request.task && self.core.registry.standing(&caller.app) == Standing::Deleted {
            return Err(Refusal::new(
                Kind::Fenced,
                format!("caller.app is {}: its driver has deleted it", caller.app),
            ));
        }
        if self.core.registry.changes_lease(&caller) {
            let leases = &self.core.bounds.leases;
            self.pace(leases, &caller.app, peer, "asks for another lease")?;
        }
        let renewed = self.core.registry.renew(&caller).await?;
        let (app_token, until) = app_token.unwrap_or_default();
        if until > 0 {
            self.core.registry.vouch(&caller, until);
        }
        let left = until.saturating_sub(credential::now());
        Ok(v1::RenewLeaseResponse {
            lease_ms: u64::try_from(renewed.lease.as_millis()).unwrap_or(u64::MAX),
            anew: renewed.anew,
            app_token,
            app_token_ms: left.saturating_mul(1000),
        })
    }

    /// Registers the app if need be, so that a push of this shuffle that comes late is refused.
    async fn delete_shuffle(
        &self,
        peer: Option<Peer>,
        request: &v1::DeleteShuffleRequest,
    ) -> Result<v1::DeleteShuffleResponse, Refusal> {
        let caller = caller::check(&self.core, request.caller.as_ref())?;
        let app = self.core.registry.write(&caller).await?;
        let shuffle = wire::shuffle(request.shuffle);
        let mut volumes = self.core.volumes.iter();
        if !volumes.any(|volume| volume.holds(&app.id, shuffle)) {
            let does = "deletes shuffles of which nothing is here";
            self.pace(&self.core.bounds.notes, &app.id, peer, does)?;
        }
        let (core, id) = (self.core.clone(), app.id.clone());
        let bytes = blocking(move || core.volumes.delete_shuffle(&id, shuffle)).await??;
        if let Some(remote) = &self.core.remote {
            let token = caller.token.0;
            remote.writeback.shuffle_deleted(&app.id, shuffle, token);
        }
        tracing::debug!(app = %app.id, %shuffle, bytes, "shuffle deleted");
        Ok(v1::DeleteShuffleResponse { bytes })
    }

    async fn delete_app(
        &self,
        peer: Option<Peer>,
        request: &v1::DeleteAppRequest,
    ) -> Result<v1::DeleteAppResponse, Refusal> {
        let caller = caller::check(&self.core, request.caller.as_ref())?;
        let core = self.core.clone();
        let id = caller.app.clone();
        // To its end, also if who asked for it does not wait for the answer.
        let deleting = tokio::spawn(async move { delete(&core, &caller).await });
        let deleted = deleting.await.map_err(|panic| {
            Refusal::new(Kind::Internal, format!("the deletion panicked: {panic}"))
        })?;
        let refused = |error: &&Refusal| error.kind == Kind::Denied;
        // A refusal is told where all of them are.
        if !deleted.as_ref().err().as_ref().is_some_and(refused) {
            let freed = deleted.as_ref().copied();
            audit::freed(&id, peer.map(|peer| peer.0), freed);
        }
        deleted.map(|bytes| v1::DeleteAppResponse { bytes })
    }

    async fn usage(&self, request: &v1::UsageRequest) -> Result<v1::UsageResponse, Refusal> {
        let app = self
            .core
            .registry
            .read(&caller::check(&self.core, request.caller.as_ref())?)
            .await?;
        let (core, id, shuffle) = (
            self.core.clone(),
            app.id.clone(),
            request.shuffle.map(ShuffleId),
        );
        blocking(move || core.volumes.usage(&id, shuffle)).await
    }

    fn answer<T>(
        &self,
        call: &'static str,
        peer: Option<Peer>,
        caller: Option<&v1::Caller>,
        result: Result<T, Refusal>,
    ) -> Result<Response<T>, Status> {
        result.map(Response::new).map_err(|refusal| {
            let app = caller.and_then(|caller| AppId::try_new(&caller.app));
            self.core
                .refuse(call, peer.map(|peer| peer.0), app.as_ref(), &refusal)
        })
    }
}

/// Deletes an app, here and in the store; answers the bytes that were freed here.
async fn delete(core: &Core, caller: &Caller) -> Result<u64, Refusal> {
    let bytes = core.registry.delete(caller).await?;
    let gone = match bytes {
        Some(_) => true,
        // Its driver is let in anywhere, and nobody else.
        None => core.registry.ask_pool(caller).await? == Some(Claim::Yours),
    };
    if let Some(remote) = &core.remote
        && gone
    {
        let token = caller.token.0;
        let told = remote.writeback.app_deleted(&caller.app, token).await;
        told.map_err(|error| {
            let message = format!(
                "{} bytes of app {} were freed here, but nothing that outlives this server knows yet that it was deleted: no data directory \
                 takes the note, and {error}: this server tries again; ask again to see that it is done",
                bytes.unwrap_or(0),
                caller.app,
            );
            Refusal::new(Kind::Unavailable, message)
        })?;
    }
    Ok(bytes.unwrap_or(0))
}

/// Storage calls may wait for a disk.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let result = tokio::task::spawn_blocking(call).await;
    result.map_err(|panic| Refusal::new(Kind::Internal, format!("the storage panicked: {panic}")))
}

#[tonic::async_trait]
impl v1::control_server::Control for Control {
    async fn describe(
        &self,
        _: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        let volumes = self.core.volumes.iter().map(|volume| {
            let health = volume.health();
            let id = volume.id().0.as_bytes().to_vec().into();
            v1::Volume {
                id,
                bytes_used: volume.bytes_used(),
                bytes_free: volume.bytes_free(),
                state: health.state().to_owned(),
                reason: why(volume, &health).unwrap_or_default(),
            }
        });
        Ok(Response::new(v1::DescribeResponse {
            protocol_min: crate::core::PROTOCOL_MIN,
            protocol_max: PROTOCOL,
            version: release::VERSION.to_owned(),
            volumes: volumes.collect(),
            draining: self.core.is_draining(),
            memory_used: self.core.budget.used(),
            memory_limit: self.core.budget.limit(),
            remote: self.core.remote.is_some(),
            instance: self.instance.clone(),
            node: self.core.place.node.clone(),
            zone: self.core.place.zone.clone(),
        }))
    }

    async fn renew_lease(
        &self,
        request: Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::RenewLeaseResponse>, Status> {
        let (peer, request) = split(request);
        let result = self.renew_lease(peer, &request).await;
        self.answer("RenewLease", peer, request.caller.as_ref(), result)
    }

    async fn delete_shuffle(
        &self,
        request: Request<v1::DeleteShuffleRequest>,
    ) -> Result<Response<v1::DeleteShuffleResponse>, Status> {
        let (peer, request) = split(request);
        let result = self.delete_shuffle(peer, &request).await;
        self.answer("DeleteShuffle", peer, request.caller.as_ref(), result)
    }

    async fn delete_app(
        &self,
        request: Request<v1::DeleteAppRequest>,
    ) -> Result<Response<v1::DeleteAppResponse>, Status> {
        let (peer, request) = split(request);
        let result = self.delete_app(peer, &request).await;
        self.answer("DeleteApp", peer, request.caller.as_ref(), result)
    }

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<v1::VerifyResponse>, Status> {
        let (peer, request) = split(request);
        let result = verify::verify(&self.core, &request).await;
        self.answer("Verify", peer, request.caller.as_ref(), result)
    }

    async fn usage(
        &self,
        request: Request<v1::UsageRequest>,
    ) -> Result<Response<v1::UsageResponse>, Status> {
        let (peer, request) = split(request);
        let result = self.usage(&request).await;
        self.answer("Usage", peer, request.caller.as_ref(), result)
    }
}

fn split<T>(request: Request<T>) -> (Option<Peer>, T) {
    let peer = request.extensions().get::<Peer>().copied();
    (peer, request.into_inner())
}
