//! The fake server's answers to control calls, through the generated service.

use bytes::Bytes;
use shuffle_proto::{ids::AttemptId, kind::Kind, v1, wire};
use tonic::Status;

use super::{Inner, service::malformed};

#[tonic::async_trait]
impl v1::control_server::Control for Inner {
    async fn describe(
        &self,
        _: tonic::Request<v1::DescribeRequest>,
    ) -> Result<tonic::Response<v1::DescribeResponse>, Status> {
        let volumes = self.store.lock().volumes();
        let unserved = self.faults.lock().unserved;
        let volumes = volumes
            .into_iter()
            .filter(|volume| unserved != Some(*volume));
        let volumes = volumes.map(|volume| v1::Volume {
            id: Bytes::copy_from_slice(volume.0.as_bytes()),
            bytes_used: 0,
            bytes_free: 1 << 30,
            state: "ok".into(),
            reason: String::new(),
        });
        Ok(tonic::Response::new(v1::DescribeResponse {
            protocol_min: 1,
            protocol_max: 1,
            version: "fake".into(),
            volumes: volumes.collect(),
            draining: self.faults.lock().draining,
            memory_used: 0,
            memory_limit: 1 << 30,
            remote: false,
            instance: self.instance.clone(),
            ..Default::default()
        }))
    }

    async fn renew_lease(
        &self,
        request: tonic::Request<v1::RenewLeaseRequest>,
    ) -> Result<tonic::Response<v1::RenewLeaseResponse>, Status> {
        let caller = request.into_inner().caller.unwrap_or_default();
        let app = wire::app("caller.app", &caller.app).map_err(malformed)?;
        if self.faults.lock().denies {
            return Err(Kind::Denied.status("the fake is told to deny", None));
        }
        self.counters.lock().renewals += 1;
        self.faults.lock().lease_over = false;
        let anew = self.apps.lock().insert(app);
        let lease_ms = if caller.lease_ms == 0 {
            600_000
        } else {
            caller.lease_ms
        };
        Ok(tonic::Response::new(v1::RenewLeaseResponse {
            lease_ms,
            anew,
            ..Default::default()
        }))
    }

    async fn delete_shuffle(
        &self,
        request: tonic::Request<v1::DeleteShuffleRequest>,
    ) -> Result<tonic::Response<v1::DeleteShuffleResponse>, Status> {
        let request = request.into_inner();
        let app =
            wire::app("caller.app", &request.caller.unwrap_or_default().app).map_err(malformed)?;
        self.store
            .lock()
            .delete(&app, Some(wire::shuffle(request.shuffle)));
        self.counters.lock().deleted_shuffles += 1;
        Ok(tonic::Response::new(v1::DeleteShuffleResponse { bytes: 0 }))
    }

    async fn delete_app(
        &self,
        request: tonic::Request<v1::DeleteAppRequest>,
    ) -> Result<tonic::Response<v1::DeleteAppResponse>, Status> {
        let app = wire::app(
            "caller.app",
            &request.into_inner().caller.unwrap_or_default().app,
        )
        .map_err(malformed)?;
        self.store.lock().delete(&app, None);
        self.counters.lock().deleted_apps += 1;
        Ok(tonic::Response::new(v1::DeleteAppResponse { bytes: 0 }))
    }

    async fn verify(
        &self,
        request: tonic::Request<v1::VerifyRequest>,
    ) -> Result<tonic::Response<v1::VerifyResponse>, Status> {
        let attempt = AttemptId(request.into_inner().attempt);
        self.counters.lock().reports.push(attempt);
        let mut faults = self.faults.lock();
        let bad = faults.bad.remove(&attempt);
        if bad {
            faults.lost.insert(attempt);
        }
        Ok(tonic::Response::new(v1::VerifyResponse {
            sound: !bad,
            reason: String::new(),
        }))
    }

    async fn usage(
        &self,
        _: tonic::Request<v1::UsageRequest>,
    ) -> Result<tonic::Response<v1::UsageResponse>, Status> {
        Ok(tonic::Response::new(v1::UsageResponse::default()))
    }
}
