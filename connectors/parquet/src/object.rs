//! A bucket as target.
//!
//! An upload is one request, visible when it is complete and not before. It is conditional
//! (`If-None-Match: *`), so two writers of one name cannot both succeed. A store that cannot do
//! that is asked first whether the object is there; between question and answer two processes
//! could collide over the same cut, whose bytes are the same.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{
    Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig,
};

use crate::{Error, File, Put};

/// The probe of a check; hidden from readers of data sets.
const PROBE: &str = ".chatledger-probe";

/// How long the client repeats a request by itself. Short, because the driver repeats too and
/// wants to know.
const RETRY_FOR: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub(crate) struct Object {
    store: Arc<dyn ObjectStore>,
    prefix: String,
}

impl Object {
    pub(crate) fn s3(url: &str, bucket: &str, prefix: &str) -> Result<Self, Error> {
        let retry = RetryConfig {
            max_retries: 3,
            retry_timeout: RETRY_FOR,
            ..RetryConfig::default()
        };
        let store = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_retry(retry)
            .build()
            .map_err(|source| Error::Store {
                url: url.to_owned(),
                source,
            })?;
        Ok(Self::new(Arc::new(store), prefix))
    }

    fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self {
            store,
            prefix: prefix.trim_matches('/').to_owned(),
        }
    }

    /// The key of a path of the layout. It is taken as it is: its parts are escaped already.
    fn key(&self, path: &str) -> Result<Path, Error> {
        let key = if self.prefix.is_empty() {
            path.to_owned()
        } else {
            format!("{}/{path}", self.prefix)
        };
        Path::parse(&key).map_err(|error| Error::Object {
            path: key,
            source: error.into(),
        })
    }

    /// Writes the probe and removes it. A policy that forbids to remove (a bucket that keeps what
    /// it was given) is no fault: the probe stays and is written over the next time, if that is
    /// allowed.
    pub(crate) async fn check(&self) -> Result<(), Error> {
        let key = self.key(PROBE)?;
        match self
            .store
            .put(&key, Bytes::from_static(b"chatledger").into())
            .await
        {
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => {}
            Err(source) => return Err(failed(&key, source)),
        }
        if let Err(error) = self.store.delete(&key).await {
            tracing::info!(%key, %error, "the probe stays");
        }
        Ok(())
    }

    pub(crate) async fn put(&self, file: File) -> Result<Put, Error> {
        let key = self.key(&file.path)?;
        let only_if_absent = PutOptions::from(PutMode::Create);
        match self
            .store
            .put_opts(&key, file.bytes.clone().into(), only_if_absent)
            .await
        {
            Ok(_) => Ok(Put::Written),
            Err(StoreError::AlreadyExists { .. }) => Ok(Put::AlreadyThere),
            Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => {
                self.put_if_not_seen(&key, file.bytes).await
            }
            Err(source) => Err(failed(&key, source)),
        }
    }

    async fn put_if_not_seen(&self, key: &Path, bytes: Bytes) -> Result<Put, Error> {
        match self.store.head(key).await {
            Ok(_) => return Ok(Put::AlreadyThere),
            Err(StoreError::NotFound { .. }) => {}
            Err(source) => return Err(failed(key, source)),
        }
        match self.store.put(key, bytes.into()).await {
            Ok(_) => Ok(Put::Written),
            Err(source) => Err(failed(key, source)),
        }
    }
}

fn failed(key: &Path, source: StoreError) -> Error {
    Error::Object {
        path: key.to_string(),
        source,
    }
}
