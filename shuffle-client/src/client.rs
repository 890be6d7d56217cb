//! The client: settings, connections, and the calls that belong to no app.

mod nearby;

use std::{sync::Arc, time::Duration};

use shuffle_proto::{
    v1::{self, control_client::ControlClient},
    wire,
};
use tokio::runtime::Handle;
use tonic::transport::Channel;

use crate::{
    arena::{self, Arena},
    budget::Budget,
    channel::{Connections, Failure},
    crypt::Secret,
    error::{Error, Kind},
    near::Near,
    pool::BufferPool,
    settings::Settings,
    store::SharedStore,
    types::{Description, VolumeState},
};

/// Connections to the servers, shared by everything in a process. Cloning is cheap.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    handle: Handle,
    connections: Connections,
    secret: Option<Secret>,
    store: Option<SharedStore>,
    batches: Arc<BufferPool>,
    blocks: Arc<BufferPool>,
    budget: Budget,
    arenas: Arc<arena::Pool>,
    near: Near,
}

/// Unused payload buffers of writers that are kept, in bytes: what a handful of tasks have in
/// flight.
const KEPT_BATCHES: usize = 64 << 20;

/// Bytes of decoded blocks' buffers that are kept for the next readers.
const KEPT_BLOCKS: usize = 16 << 20;

// === impl Client ===

impl Client {
    /// A client that runs its tasks on the runtime of the calling thread. Does no I/O.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let handle = Handle::try_current().map_err(|_| {
            Error::new(
                Kind::Invalid,
                "client made outside a tokio runtime: use Client::with_handle",
            )
        })?;
        Self::with_handle(settings, handle)
    }

    /// A client with its tasks on this runtime. Does no I/O.
    pub fn with_handle(settings: Settings, handle: Handle) -> Result<Self, Error> {
        Self::build(settings, handle, None)
    }

    /// A client whose blocks are encrypted. Every client of the application must have the same
    /// secret: blocks that were written with another secret, or in the clear, are not read.
    pub fn encrypted(settings: Settings, handle: Handle, secret: Secret) -> Result<Self, Error> {
        Self::build(settings, handle, Some(secret))
    }

    fn build(settings: Settings, handle: Handle, secret: Option<Secret>) -> Result<Self, Error> {
        settings.check()?;
        let store = settings.remote.as_deref().map(SharedStore::new);
        let connections = Connections::new(settings.clone(), handle.clone());
        let kept = |most: usize, part: usize| {
            BufferPool::new(
                settings
                    .memory
                    .map_or(most, |memory| most.min(memory / part)),
            )
        };
        let (batches, blocks) = (kept(KEPT_BATCHES, 16), kept(KEPT_BLOCKS, 32));
        let budget = Budget::new(settings.memory, &settings.memory_apart);
        Ok(Self {
            inner: Arc::new(Inner {
                settings,
                handle,
                connections,
                secret,
                store,
                batches,
                blocks,
                budget,
                arenas: arena::Pool::new(),
                near: Near::default(),
            }),
        })
    }

    /// The client's settings.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Asks one server for its description.
    pub async fn describe(&self, address: &str) -> Result<Description, Error> {
        self.try_describe(address).await.map_err(|failure| {
            Error::new(
                failure.kind,
                format!("cannot ask {address} who it is: {}", failure.message),
            )
        })
    }

    /// The addresses of all servers of the settings, with the names in them resolved now.
    pub async fn addresses(&self) -> Vec<String> {
        self.inner.connections.addresses().await
    }

    /// The known near servers.
    pub(crate) fn near(&self) -> &Near {
        &self.inner.near
    }

    pub(crate) async fn try_describe(&self, address: &str) -> Result<Description, Failure> {
        let control = self.connections().control(address)?;
        let description = describe(address, control).await;
        self.heard(address, &description);
        description
    }

    /// Describes a server over a connection of its own, which behind a load balancer may lead to
    /// another server.
    pub(crate) async fn describe_afresh(&self, address: &str) -> Result<Description, Failure> {
        describe(address, self.connections().fresh_control(address)?).await
    }

    /// Describes a server within a time; a connection that did not answer is not used again.
    pub(crate) async fn describe_within(
        &self,
        address: &str,
        limit: Duration,
    ) -> Result<Description, Failure> {
        self.within(address, limit, self.try_describe(address))
            .await
    }

    /// A control call of this server, within a time.
    pub(crate) async fn within<T>(
        &self,
        address: &str,
        limit: Duration,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
            self.connections().distrust_control(address);
            let message = format!("{address} did not answer within {limit:?}");
            Err(Failure::new(Kind::Unavailable, message))
        })
    }

    /// Registers the app at one server, or renews its lease: returns the granted lease, whether the
    /// server did not know the app, and the token that it has made for it, or nothing.
    pub(crate) async fn renew_lease(
        &self,
        address: &str,
        request: v1::RenewLeaseRequest,
    ) -> Result<(Duration, bool, String), Failure> {
        let mut control = self.connections().control(address)?;
        let answer = control.renew_lease(request).await?.into_inner();
        let lease = Duration::from_millis(answer.lease_ms);
        Ok((lease, answer.anew, answer.app_token))
    }

    /// Notes a living server.
    pub(crate) fn heard<T>(&self, address: &str, result: &Result<T, Failure>) {
        if result
            .as_ref()
            .map_or_else(|failure| failure.answered, |_| true)
        {
            self.connections().answered(address);
        }
    }

    pub(crate) fn connections(&self) -> &Connections {
        &self.inner.connections
    }

    /// Encryption of blocks, if any.
    pub(crate) fn secret(&self) -> Option<&Secret> {
        self.inner.secret.as_ref()
    }

    /// The servers' object store, if this client may read it.
    pub(crate) fn store(&self) -> Option<&SharedStore> {
        self.inner.store.as_ref()
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.inner.handle
    }

    /// An arena of exactly this size, a multiple of 8 from 4 KiB to 4 GiB; recycled if possible. The
    /// content is undefined.
    pub fn take_arena(&self, bytes: u64) -> Result<Arena, Error> {
        Arena::take(
            &self.inner.arenas,
            bytes,
            &self.inner.budget,
            &self.inner.handle,
        )
    }

    /// The account of writers' and readers' memory.
    pub fn budget(&self) -> &Budget {
        &self.inner.budget
    }

    /// Buffers for writers' payloads.
    pub(crate) fn batch_pool(&self) -> &Arc<BufferPool> {
        &self.inner.batches
    }

    /// Buffers for readers' decoded blocks.
    pub(crate) fn block_pool(&self) -> &Arc<BufferPool> {
        &self.inner.blocks
    }
}

async fn describe(
    address: &str,
    mut control: ControlClient<Channel>,
) -> Result<Description, Failure> {
    let request = v1::DescribeRequest {
        protocol: shuffle_proto::PROTOCOL,
    };
    let answer = control.describe(request).await?.into_inner();
    if answer.protocol_min > shuffle_proto::PROTOCOL {
        let message = format!(
            "{address} (version {}) speaks protocol {} to {} and this client {}: upgrade the client",
            answer.version,
            answer.protocol_min,
            answer.protocol_max,
            shuffle_proto::PROTOCOL,
        );
        return Err(Failure::new(Kind::Invalid, message));
    }
    let mut volumes = Vec::with_capacity(answer.volumes.len());
    for volume in answer.volumes {
        let id = wire::volume("describe.volumes.id", &volume.id).map_err(|error| {
            Failure::new(
                Kind::Internal,
                format!("{address} describes itself wrongly: {error}"),
            )
        })?;
        let (bytes_used, bytes_free) = (volume.bytes_used, volume.bytes_free);
        volumes.push(VolumeState {
            id,
            bytes_used,
            bytes_free,
            state: volume.state,
        });
    }
    Ok(Description {
        address: address.to_string(),
        version: answer.version,
        volumes,
        draining: answer.draining,
        memory_used: answer.memory_used,
        memory_limit: answer.memory_limit,
        remote: answer.remote,
        instance: answer.instance,
        node: answer.node,
        zone: answer.zone,
    })
}
