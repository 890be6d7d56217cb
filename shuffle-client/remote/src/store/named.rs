//! A store's URL, without any request to the store.

use std::path::PathBuf;

use object_store::{ObjectStoreScheme, path::Path};
use url::Url;

use crate::advice::Cloud;

/// Checks a store's URL, without any request to the store.
pub fn check_url(text: &str) -> Result<(), String> {
    parse(text).map(drop)
}

/// Content of a URL, without any request to the store.
pub(crate) struct Named {
    pub(crate) cloud: Cloud,
    /// Or container; a placeholder where the URL does not say it plainly.
    pub(crate) bucket: String,
    pub(crate) prefix: String,
}

impl Named {
    pub(crate) fn by(text: &str) -> Result<Self, String> {
        let (url, scheme, path) = parse(text)?;
        let cloud = match scheme {
            ObjectStoreScheme::AmazonS3 => Cloud::S3,
            ObjectStoreScheme::MicrosoftAzure => Cloud::Azure,
            ObjectStoreScheme::GoogleCloudStorage => Cloud::Google,
            _ => Cloud::Directory,
        };
        let bucket = match (url.username(), url.host_str()) {
            // An address of the cloud's own, with the bucket somewhere in host or path.
            _ if url.scheme().starts_with("http") => "BUCKET",
            ("", host) => host.unwrap_or_default(),
            (container, _) => container,
        };
        Ok(Self {
            cloud,
            bucket: bucket.to_owned(),
            prefix: path.to_string(),
        })
    }
}

pub(super) fn directory(url: &Url) -> Result<PathBuf, String> {
    url.to_file_path()
        .map_err(|()| "it names no directory of this machine".to_owned())
}

pub(super) fn parse(text: &str) -> Result<(Url, ObjectStoreScheme, Path), String> {
    let examples =
        "write file:///DIR, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX";
    let url = Url::parse(text).map_err(|error| format!("{error}: {examples}"))?;
    // The error's own words hold the whole URL.
    let (scheme, path) =
        ObjectStoreScheme::parse(&url).map_err(|_| format!("its form is not known: {examples}"))?;
    match scheme {
        ObjectStoreScheme::Local if path.as_ref().is_empty() => {
            Err(format!("it names no directory: {examples}"))
        }
        ObjectStoreScheme::Local
        | ObjectStoreScheme::AmazonS3
        | ObjectStoreScheme::GoogleCloudStorage
        | ObjectStoreScheme::MicrosoftAzure => Ok((url, scheme, path)),
        _ => Err(format!("its scheme is not supported: {examples}")),
    }
}
