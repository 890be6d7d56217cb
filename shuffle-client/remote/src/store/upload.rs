//! Upload of an object in steps: one request for a short one, else parts.

use std::time::Duration;

use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;

use super::{Error, Store};

/// Bytes of one part of an upload: all but the last are exactly this long, as some stores demand.
pub(crate) const PART: usize = 8 << 20;
/// Parts of one upload in progress at the same time, each in memory.
const PARTS: usize = 4;
/// How long an abandoned upload waits for its parts in progress.
const ANSWERED: Duration = Duration::from_secs(5);

/// An object being written: one request for a short one, else parts.
pub struct Upload<'a> {
    store: &'a Store,
    key: String,
    buffer: Vec<u8>,
    parts: Option<Box<dyn MultipartUpload>>,
    /// Parts in progress, with their lengths.
    sending: JoinSet<(object_store::Result<()>, u64)>,
}

impl Store {
    /// Begins an object.
    pub fn upload(&self, key: String) -> Upload<'_> {
        Upload {
            store: self,
            key,
            buffer: Vec::new(),
            parts: None,
            sending: JoinSet::new(),
        }
    }
}

impl Upload<'_> {
    /// Adds bytes; sends whole parts.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PART - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == PART {
                self.send().await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Error> {
        let store = self.store;
        let parts = match &mut self.parts {
            Some(parts) => parts,
            none => {
                // Released before the wait for parts, which need permits of their own.
                let _permit = store.permit().await;
                let begun = store.inner.put_multipart(&store.path(&self.key)).await;
                none.insert(store.done("begin", &self.key, begun)?)
            }
        };
        let bytes = std::mem::replace(&mut self.buffer, Vec::with_capacity(PART));
        let length = bytes.len() as u64;
        let (part, permits) = (
            parts.put_part(PutPayload::from(bytes)),
            store.permits.clone(),
        );
        self.sending.spawn(async move {
            let _permit = permits.acquire_owned().await.ok();
            (part.await, length)
        });
        self.sent_but(PARTS - 1).await
    }

    /// Waits until no more than so many parts are under way.
    async fn sent_but(&mut self, most: usize) -> Result<(), Error> {
        while self.sending.len() > most
            && let Some(sent) = self.sending.join_next().await
        {
            let (sent, length) = sent.unwrap_or_else(|error| {
                let source = Box::new(error);
                let store = "upload";
                (Err(object_store::Error::Generic { store, source }), 0)
            });
            self.store.done("part", &self.key, sent)?;
            self.store.meter.sent(length);
        }
        Ok(())
    }

    /// Ends the object, which exists from then on; on failure the upload is abandoned.
    pub async fn finish(mut self) -> Result<(), Error> {
        let ended = self.end().await;
        if ended.is_err() {
            self.abort().await;
        }
        ended
    }

    async fn end(&mut self) -> Result<(), Error> {
        if self.parts.is_none() {
            let bytes = std::mem::take(&mut self.buffer);
            return self.store.put(&self.key, bytes.into(), false).await;
        }
        if !self.buffer.is_empty() {
            self.send().await?;
        }
        self.sent_but(0).await?;
        let store = self.store;
        let _permit = store.permit().await;
        let Some(parts) = &mut self.parts else {
            return Ok(());
        };
        let completed = parts.complete().await;
        store.done("complete", &self.key, completed).map(drop)
    }

    /// Releases the parts in the store. Remains are for the bucket's lifecycle rule.
    pub async fn abort(self) {
        if let Err(error) = self.try_abort().await {
            tracing::warn!(%error, "an upload that was given up may keep its parts");
        }
    }

    /// The same; the error says why parts may be left.
    pub async fn try_abort(mut self) -> Result<(), Error> {
        // A part in the store's hands at the end of the upload may stay, so its answer is awaited.
        let answered = async { while self.sending.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(ANSWERED, answered).await;
        self.sending.shutdown().await;
        let Some(parts) = &mut self.parts else {
            return Ok(());
        };
        let aborted = parts.abort().await;
        self.store.done("abort", &self.key, aborted)
    }
}
