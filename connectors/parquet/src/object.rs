//! A bucket as target.
//!
//! An upload is one request; the object becomes visible when the upload is complete. It is conditional
//! (`If-None-Match: *`), so two writers of one name cannot both succeed. On a store without conditional
//! puts, the object's existence is checked before the upload; two processes could then collide only on
//! the same batch, whose bytes are the same.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{
    Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig,
};

use crate::{EncodedFile, Error, PutResult};

/// The object a check writes; hidden from readers of data sets.
const PROBE: &str = ".chatledger-probe";

/// How long the client retries a request. Short, because the driver retries too and reports faults.
const RETRY_FOR: Duration = Duration::from_secs(20);

/// Passes a fail point of the crash tests. Does nothing without the feature.
macro_rules! pass {
    ($point:expr, $key:expr) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($point, |_| Err(failed(
            $key,
            StoreError::Generic {
                store: "fail point",
                source: "fail point".into()
            }
        )));
    };
}

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

    /// Returns the key of a path. The path's parts are already escaped.
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

    /// Writes the probe and removes it. A policy that forbids removal (a write-once bucket) is not a
    /// fault: the probe remains, and the next check overwrites it if that is allowed.
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
            tracing::info!(%key, %error, "the probe could not be removed");
        }
        Ok(())
    }

    pub(crate) async fn read_state(&self, path: &str) -> Result<Option<Bytes>, Error> {
        let key = self.key(path)?;
        let answer = match self.store.get(&key).await {
            Ok(answer) => answer,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(failed(&key, source)),
        };
        let bytes = answer.bytes().await;
        bytes.map(Some).map_err(|source| failed(&key, source))
    }

    pub(crate) async fn write_state(&self, path: &str, bytes: Bytes) -> Result<(), Error> {
        let key = self.key(path)?;
        match self.store.put(&key, bytes.into()).await {
            Ok(_) => Ok(()),
            Err(source) => Err(failed(&key, source)),
        }
    }

    pub(crate) async fn put(&self, file: EncodedFile) -> Result<PutResult, Error> {
        let key = self.key(&file.path)?;
        pass!(crate::FILE_UNNAMED, &key);
        let only_if_absent = PutOptions::from(PutMode::Create);
        let put = match self
            .store
            .put_opts(&key, file.bytes.clone().into(), only_if_absent)
            .await
        {
            Ok(_) => Ok(PutResult::Written),
            Err(StoreError::AlreadyExists { .. }) => Ok(PutResult::AlreadyExists),
            Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => {
                self.put_unless_found(&key, file.bytes).await
            }
            Err(source) => Err(failed(&key, source)),
        };
        pass!(crate::FILE_NAMED, &key);
        put
    }

    /// Lists the objects below a folder of the target, as paths within the target.
    pub(crate) async fn list(&self, folder: &str) -> Result<Vec<String>, Error> {
        let prefix = self.key(folder)?;
        let within = self.prefix.len() + usize::from(!self.prefix.is_empty());
        let listed: Vec<_> = self
            .store
            .list(Some(&prefix))
            .try_collect()
            .await
            .map_err(|source| failed(&prefix, source))?;
        let path = |object: object_store::ObjectMeta| {
            let key = object.location.to_string();
            key.get(within..).unwrap_or_default().to_owned()
        };
        Ok(listed.into_iter().map(path).collect())
    }

    pub(crate) async fn read(&self, path: &str) -> Result<Bytes, Error> {
        let key = self.key(path)?;
        let got = self.store.get(&key).await;
        let got = got.map_err(|source| failed(&key, source))?;
        got.bytes().await.map_err(|source| failed(&key, source))
    }

    async fn put_unless_found(&self, key: &Path, bytes: Bytes) -> Result<PutResult, Error> {
        match self.store.head(key).await {
            Ok(_) => return Ok(PutResult::AlreadyExists),
            Err(StoreError::NotFound { .. }) => {}
            Err(source) => return Err(failed(key, source)),
        }
        match self.store.put(key, bytes.into()).await {
            Ok(_) => Ok(PutResult::Written),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashMap;
    use std::sync::Mutex;

    use axum::extract::{Request, State};
    use axum::http::{HeaderMap, Method, StatusCode};
    use axum::response::{IntoResponse, Response};
    use chatledger_schemas::{Classified, FaultClass};
    use object_store::aws::S3ConditionalPut;

    use super::*;

    /// As much of S3 as is spoken here, over HTTP: put (conditional too), head and delete.
    #[derive(Clone, Default)]
    struct Bucket {
        objects: Arc<Mutex<HashMap<String, Bytes>>>,
        forbidden: Arc<Mutex<bool>>,
    }

    async fn answer(State(bucket): State<Bucket>, request: Request) -> Response {
        let (head, body) = request.into_parts();
        let key = head.uri.path().to_owned();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let only_if_absent = |headers: &HeaderMap| {
            headers
                .get("if-none-match")
                .is_some_and(|value| value == "*")
        };
        if *bucket.forbidden.lock().unwrap() {
            return StatusCode::FORBIDDEN.into_response();
        }
        let mut objects = bucket.objects.lock().unwrap();
        match head.method {
            Method::PUT if only_if_absent(&head.headers) && objects.contains_key(&key) => {
                StatusCode::PRECONDITION_FAILED.into_response()
            }
            Method::PUT => {
                objects.insert(key, body);
                [("etag", "\"1\"")].into_response()
            }
            Method::HEAD if objects.contains_key(&key) => [
                ("etag", "\"1\""),
                ("last-modified", "Thu, 29 Feb 2024 12:00:00 GMT"),
            ]
            .into_response(),
            Method::GET => match objects.get(&key) {
                Some(content) => {
                    let headers = [
                        ("etag", "\"1\""),
                        ("last-modified", "Thu, 29 Feb 2024 12:00:00 GMT"),
                    ];
                    (headers, content.clone()).into_response()
                }
                None => StatusCode::NOT_FOUND.into_response(),
            },
            // Deleting is by list, also a single object.
            Method::POST if head.uri.query() == Some("delete") => {
                let list = String::from_utf8(body.to_vec()).unwrap();
                objects.retain(|key, _| {
                    let key = key.strip_prefix("/archive/").unwrap();
                    !list.contains(&format!("<Key>{key}</Key>"))
                });
                "<DeleteResult></DeleteResult>".into_response()
            }
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }

    async fn object(prefix: &str, conditional: S3ConditionalPut) -> (Object, Bucket) {
        let bucket = Bucket::default();
        let service = axum::Router::new()
            .fallback(answer)
            .with_state(bucket.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, service).await });
        let store = AmazonS3Builder::new()
            .with_endpoint(format!("http://{address}"))
            .with_allow_http(true)
            .with_bucket_name("archive")
            .with_access_key_id("id")
            .with_secret_access_key("secret")
            .with_conditional_put(conditional)
            .build()
            .unwrap();
        (Object::new(Arc::new(store), prefix), bucket)
    }

    fn file(content: &'static str) -> EncodedFile {
        EncodedFile {
            path: "messages/corp_id=a%2Fb/dt=2024-02-29/batch-1.parquet".into(),
            rows: 1,
            bytes: Bytes::from_static(content.as_bytes()),
        }
    }

    #[tokio::test]
    async fn object_is_put_once_and_never_replaced() {
        for conditional in [S3ConditionalPut::ETagMatch, S3ConditionalPut::Disabled] {
            let (object, bucket) = object("/some/prefix/", conditional).await;
            object.check().await.unwrap();
            assert!(
                bucket.objects.lock().unwrap().is_empty(),
                "the probe is gone"
            );
            assert_eq!(object.put(file("first")).await.unwrap(), PutResult::Written);
            assert_eq!(
                object.put(file("second")).await.unwrap(),
                PutResult::AlreadyExists
            );
            let objects = bucket.objects.lock().unwrap();
            let (key, content) = objects.iter().next().unwrap();
            // The path's own escape is escaped once more on the wire, so it is kept.
            let expected =
                "/archive/some/prefix/messages/corp_id%3Da%252Fb/dt%3D2024-02-29/batch-1.parquet";
            assert_eq!(key, expected);
            assert_eq!((objects.len(), content.as_ref()), (1, b"first".as_slice()));
        }
    }

    #[tokio::test]
    async fn state_file_is_the_last_one_written() {
        let (object, _bucket) = object("prefix", S3ConditionalPut::ETagMatch).await;
        let path = "_chatledger/lanes/chatledger.messages-00000.json";
        assert_eq!(object.read_state(path).await.unwrap(), None);
        for state in ["first", "second"] {
            object.write_state(path, state.into()).await.unwrap();
            assert_eq!(object.read_state(path).await.unwrap(), Some(state.into()));
        }
    }

    #[tokio::test]
    async fn refusal_by_policy_is_retried_and_succeeds_once_allowed() {
        let (object, bucket) = object("", S3ConditionalPut::ETagMatch).await;
        *bucket.forbidden.lock().unwrap() = true;
        for error in [
            object.check().await.unwrap_err(),
            object.put(file("first")).await.unwrap_err(),
        ] {
            assert_eq!(error.class(), FaultClass::Retry, "{error:?}");
            assert!(!format!("{error:?}").contains("secret"));
        }
        *bucket.forbidden.lock().unwrap() = false;
        assert_eq!(object.put(file("first")).await.unwrap(), PutResult::Written);
    }
}
