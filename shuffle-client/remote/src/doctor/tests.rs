//! A store that is well in all but one thing: exactly the check of that thing fails, and nothing is
//! left where it can be removed.

use std::{fmt, sync::Arc};

use futures_util::{TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result, UploadPart, memory::InMemory, path::Path,
};

use super::*;

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    RefusesPuts,
    LetsCreatesThrough,
    WritesRefusedCreates,
    ShiftsRanges,
    ListsNothing,
    KeepsGivenUpUploads,
    KeepsWhatIsDeleted,
    IsAnHourBehind,
    IsAnHourAhead,
}

#[derive(Debug)]
struct Spoilt {
    inner: Arc<InMemory>,
    fault: Fault,
}

impl fmt::Display for Spoilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Spoilt {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let create = options.mode == PutMode::Create;
        match self.fault {
            Fault::RefusesPuts => {
                let source = "no right".into();
                let path = location.to_string();
                return Err(object_store::Error::PermissionDenied { path, source });
            }
            Fault::LetsCreatesThrough => return self.inner.put(location, payload).await,
            Fault::WritesRefusedCreates if create => {
                let refused = self.inner.head(location).await.is_ok();
                let put = self.inner.put(location, payload).await;
                return match refused {
                    true => Err(object_store::Error::AlreadyExists {
                        path: location.to_string(),
                        source: "it is there".into(),
                    }),
                    false => put,
                };
            }
            _ => {}
        }
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.inner.put_multipart_opts(location, options).await?;
        match self.fault {
            Fault::KeepsGivenUpUploads => Ok(Box::new(Kept(upload))),
            _ => Ok(upload),
        }
    }

    async fn get_opts(&self, location: &Path, mut options: GetOptions) -> Result<GetResult> {
        if self.fault == Fault::ShiftsRanges
            && let Some(GetRange::Bounded(range)) = &mut options.range
        {
            *range = range.start + 1..range.end + 1;
        }
        let mut got = self.inner.get_opts(location, options).await?;
        let hour = Duration::from_secs(3600);
        match self.fault {
            Fault::IsAnHourAhead => got.meta.last_modified = (SystemTime::now() + hour).into(),
            Fault::IsAnHourBehind => got.meta.last_modified = (SystemTime::now() - hour).into(),
            _ => {}
        }
        Ok(got)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.fault {
            Fault::KeepsWhatIsDeleted => locations,
            _ => self.inner.delete_stream(locations),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.inner.list_with_delimiter(prefix).await?;
        if self.fault == Fault::ListsNothing {
            listed.objects.clear();
        }
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct Kept(Box<dyn MultipartUpload>);

#[async_trait::async_trait]
impl MultipartUpload for Kept {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        self.0.put_part(payload)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.0.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.0.complete().await.map(drop)
    }
}

#[tokio::test]
async fn one_fault_fails_exactly_its_check() {
    for (fault, expected) in [
        (Fault::None, &[][..]),
        (Fault::RefusesPuts, &["put"]),
        (Fault::LetsCreatesThrough, &["conditional put"]),
        (Fault::WritesRefusedCreates, &["conditional put"]),
        // The border of two parts is read by a range too.
        (Fault::ShiftsRanges, &["ranged get", "multipart upload"]),
        (Fault::ListsNothing, &["list"]),
        (Fault::KeepsGivenUpUploads, &["multipart abort"]),
        (Fault::KeepsWhatIsDeleted, &["delete", "leave nothing"]),
        (Fault::IsAnHourBehind, &["clock"]),
        (Fault::IsAnHourAhead, &["clock"]),
    ] {
        let inner = Arc::new(InMemory::new());
        let spoilt = Spoilt {
            inner: inner.clone(),
            fault,
        };
        let mut lines = Vec::new();
        let mut tell = |check: &Check| lines.push(format!("{check:?}"));
        let good = examine_store("s3://b/p", Store::on(Arc::new(spoilt)), &mut tell).await;
        let bad = |line: &&String| line.contains("Fail");
        let failed: Vec<_> = lines.iter().filter(bad).collect();
        let names = |line: &&String| {
            let name = line.split('"').nth(1).unwrap_or_default().to_owned();
            assert!(line.contains("remedy"), "{line}");
            name
        };
        let failed: Vec<_> = failed.iter().map(names).collect();
        assert_eq!(failed, expected, "{fault:?}: {lines:#?}");
        assert_eq!(good, expected.is_empty(), "{fault:?}");
        let left: Vec<_> = inner.list(None).try_collect().await.expect("a listing");
        let keeps = fault == Fault::KeepsWhatIsDeleted;
        assert_eq!(left.is_empty(), !keeps, "{fault:?}: {left:?}");
    }
}
