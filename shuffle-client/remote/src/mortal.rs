//! For tests: a store in memory that answers a number of requests and then none, like a dead
//! process or store.
//!
//! No feature: the server's tests need the store, and a feature would compile the server once more.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use futures_util::{StreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, memory::InMemory,
    path::Path,
};

/// How many more steps are let through. Clones count together.
#[derive(Clone, Debug)]
pub struct Steps(Arc<AtomicI64>);

/// See the module.
#[derive(Debug)]
pub struct Mortal {
    inner: InMemory,
    steps: Steps,
}

// === impl Steps ===

impl Steps {
    /// All are let through.
    pub fn endless() -> Self {
        Self(Arc::new(AtomicI64::new(i64::MAX)))
    }

    /// From now on.
    pub fn set(&self, left: i64) {
        self.0.store(left, Ordering::SeqCst);
    }

    /// Counts a request; false if the store is dead.
    pub fn take(&self) -> bool {
        self.0.fetch_sub(1, Ordering::SeqCst) > 0
    }

    /// Whether a request was refused since [`set`](Self::set).
    pub fn struck(&self) -> bool {
        self.0.load(Ordering::SeqCst) < 0
    }

    fn check(&self) -> Result<()> {
        match self.take() {
            true => Ok(()),
            false => Err(object_store::Error::Generic {
                store: "mortal",
                source: "it is gone".into(),
            }),
        }
    }
}

// === impl Mortal ===

impl Mortal {
    /// Empty.
    pub fn new(steps: Steps) -> Self {
        let inner = InMemory::new();
        Self { inner, steps }
    }
}

impl fmt::Display for Mortal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mortal")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Mortal {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.steps.check()?;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.steps.check()?;
        let upload = self.inner.put_multipart_opts(location, options).await?;
        let steps = self.steps.clone();
        Ok(Box::new(MortalUpload { upload, steps }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.steps.check()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        // One by one, so that a directory may be left half empty.
        let steps = self.steps.clone();
        let locations = locations.map(move |location| steps.check().and(location));
        self.inner.delete_stream(locations.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.steps.check() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.steps.check()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.steps.check()?;
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct MortalUpload {
    upload: Box<dyn MultipartUpload>,
    steps: Steps,
}

#[async_trait::async_trait]
impl MultipartUpload for MortalUpload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        match self.steps.check() {
            Ok(()) => self.upload.put_part(payload),
            Err(error) => Box::pin(async { Err(error) }),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.steps.check()?;
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.steps.check()?;
        self.upload.abort().await
    }
}
