//! Conditional replacement: a read object is written anew, unless another process has written it
//! meanwhile.

use bytes::Bytes;
use object_store::{ObjectStoreExt, PutMode, PutPayload, UpdateVersion};

use super::{Error, Store};
use crate::advice;

/// Version of an object's content, in the store's own terms; empty where the store has none.
#[derive(Clone, Debug, Default)]
pub struct Version(Option<UpdateVersion>);

impl Store {
    /// Reads an object and its version, for a later [`replace`](Self::replace).
    pub async fn get_version(&self, key: &str) -> Result<(Bytes, Version), Error> {
        let _permit = self.permit_for(key).await;
        let path = self.path(key);
        let got = async {
            let got = self.inner.get(&path).await?;
            let (e_tag, version) = (got.meta.e_tag.clone(), got.meta.version.clone());
            let known = e_tag.is_some() || version.is_some();
            let version = known.then_some(UpdateVersion { e_tag, version });
            Ok((got.bytes().await?, Version(version)))
        };
        let (bytes, version) = self.done("get", key, got.await)?;
        self.meter.received(bytes.len() as u64);
        Ok((bytes, version))
    }

    /// Replaces an object of a known version; [`Error::Exists`] if it has changed since. Clouds
    /// compare versions within the put. A directory cannot: it is compared just before, with a
    /// moment in between.
    pub async fn replace(&self, key: &str, bytes: Bytes, read: &Version) -> Result<(), Error> {
        let Some(version) = &read.0 else {
            return self.put(key, bytes, false).await;
        };
        let permit = self.permit_for(key).await;
        let (path, length) = (self.path(key), bytes.len() as u64);
        if self.directory.is_some() {
            drop(permit);
            let now = self.inner.head(&path).await;
            match self.done("head", key, now) {
                Ok(meta) if meta.e_tag == version.e_tag => {}
                Ok(_) | Err(Error::NotFound { .. }) => {
                    let key = path.to_string();
                    return Err(Error::Exists { key });
                }
                Err(error) => return Err(error),
            }
            return self.put(key, bytes, false).await;
        }
        let mode = PutMode::Update(version.clone());
        let put = self
            .inner
            .put_opts(&path, PutPayload::from(bytes.clone()), mode.into());
        let put = match put.await {
            // A store without this condition: callers look before they write anyway.
            Err(error) if is_not_implemented(&error) => {
                drop(permit);
                return self.put(key, bytes, false).await;
            }
            // Removed since.
            Err(error @ object_store::Error::NotFound { .. }) => {
                let (path, source) = (path.to_string(), Box::new(error));
                Err(object_store::Error::Precondition { path, source })
            }
            put => put,
        };
        self.done("put", key, put)?;
        self.meter.sent(length);
        Ok(())
    }
}

fn is_not_implemented(error: &object_store::Error) -> bool {
    let words = advice::words(error);
    matches!(error, object_store::Error::NotImplemented { .. })
        || words.contains("NotImplemented")
        || words.contains("501 Not Implemented")
        // A put without the condition will show whether that was the reason.
        || words.contains("400 Bad Request")
}
