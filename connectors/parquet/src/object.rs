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

use parquet::file::metadata::ParquetMetaDataReader;

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
            Err(refused @ StoreError::AlreadyExists { .. }) => {
                self.confirm(&key, &file, refused).await
            }
            Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => {
                self.put_unless_found(&key, &file).await
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

    /// Confirms that an object exists after a store has refused to create it for that reason. The client reports status 409
    /// in the same way, which also means that another request for the key is in progress and may fail. Without the object,
    /// the refusal is returned as a fault that is retried.
    async fn confirm(
        &self,
        key: &Path,
        file: &EncodedFile,
        refused: StoreError,
    ) -> Result<PutResult, Error> {
        match self.store.head(key).await {
            Ok(found) => self.compare(key, file, found.size).await,
            Err(StoreError::NotFound { .. }) => Err(failed(key, refused)),
            Err(source) => Err(failed(key, source)),
        }
    }

    /// Compares an object with a file of the same name. The name stands for the rows, so another content is that of another
    /// program version, unless it is no whole file with as many rows.
    async fn compare(&self, key: &Path, file: &EncodedFile, size: u64) -> Result<PutResult, Error> {
        let found = match self.store.get(key).await {
            Ok(found) => found.bytes().await.map_err(|source| failed(key, source))?,
            Err(source) => return Err(failed(key, source)),
        };
        if size == file.bytes.len() as u64 && found == file.bytes {
            return Ok(PutResult::AlreadyExists);
        }
        match rows(&found) {
            Some(rows) if rows == file.rows as i64 => {
                tracing::warn!(%key, rows, "the object has the rows of this batch in other bytes, as another version writes them");
                Ok(PutResult::AlreadyExists)
            }
            rows => Err(Error::OtherContent {
                path: key.to_string(),
                bytes: found.len(),
                rows,
                expected: file.rows,
            }),
        }
    }

    async fn put_unless_found(&self, key: &Path, file: &EncodedFile) -> Result<PutResult, Error> {
        match self.store.head(key).await {
            Ok(found) => return self.compare(key, file, found.size).await,
            Err(StoreError::NotFound { .. }) => {}
            Err(source) => return Err(failed(key, source)),
        }
        match self.store.put(key, file.bytes.clone().into()).await {
            Ok(_) => Ok(PutResult::Written),
            Err(source) => Err(failed(key, source)),
        }
    }
}

/// Number of rows of a Parquet file; `None` if it is not a whole one.
fn rows(content: &Bytes) -> Option<i64> {
    let metadata = ParquetMetaDataReader::new()
        .parse_and_finish(content)
        .ok()?;
    Some(metadata.file_metadata().num_rows())
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
        /// Statuses with which the next uploads are refused.
        refusals: Arc<Mutex<Vec<StatusCode>>>,
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
        if head.method == Method::PUT
            && let Some(status) = bucket.refusals.lock().unwrap().pop()
        {
            return status.into_response();
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
            Method::HEAD | Method::GET => match objects.get(&key) {
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

    /// The file of a batch with one row.
    fn file_of(rows: usize, comment: &str) -> EncodedFile {
        use parquet::data_type::Int32Type;
        use parquet::file::properties::WriterProperties;
        use parquet::file::writer::SerializedFileWriter;
        use parquet::schema::parser::parse_message_type;

        let schema = Arc::new(parse_message_type("message m { required int32 a; }").unwrap());
        let properties = WriterProperties::builder().set_created_by(comment.to_owned());
        let mut bytes = Vec::new();
        let mut writer =
            SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties.build())).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values = vec![7; rows];
        column
            .typed::<Int32Type>()
            .write_batch(&values, None, None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        EncodedFile {
            path: "messages/corp_id=a%2Fb/dt=2024-02-29/batch-1.parquet".into(),
            rows,
            bytes: bytes.into(),
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

    #[tokio::test]
    async fn object_is_put_once_and_never_replaced() {
        for conditional in [S3ConditionalPut::ETagMatch, S3ConditionalPut::Disabled] {
            let (object, bucket) = object("/some/prefix/", conditional).await;
            object.check().await.unwrap();
            assert!(
                bucket.objects.lock().unwrap().is_empty(),
                "the probe is gone"
            );
            let first = file_of(3, "first");
            assert_eq!(object.put(first.clone()).await.unwrap(), PutResult::Written);
            // The same again, and the same rows as another version writes them.
            for again in [first.clone(), file_of(3, "second")] {
                let put = object.put(again).await.unwrap();
                assert_eq!(put, PutResult::AlreadyExists);
            }
            let error = object.put(file_of(4, "first")).await.unwrap_err();
            assert_eq!(error.class(), FaultClass::Stop, "{error}");
            let objects = bucket.objects.lock().unwrap();
            let (key, content) = objects.iter().next().unwrap();
            // The path's own escape is escaped once more on the wire, so it is kept.
            let expected =
                "/archive/some/prefix/messages/corp_id%3Da%252Fb/dt%3D2024-02-29/batch-1.parquet";
            assert_eq!(key, expected);
            assert_eq!((objects.len(), content), (1, &first.bytes));
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
            object.put(file_of(1, "")).await.unwrap_err(),
        ] {
            assert_eq!(error.class(), FaultClass::Retry, "{error:?}");
            assert!(!format!("{error:?}").contains("secret"));
        }
        *bucket.forbidden.lock().unwrap() = false;
        let put = object.put(file_of(1, "")).await.unwrap();
        assert_eq!(put, PutResult::Written);
    }

    #[tokio::test]
    async fn conflict_is_not_taken_for_an_object_that_exists() {
        let (object, bucket) = object("", S3ConditionalPut::ETagMatch).await;
        let file = file_of(3, "");
        for status in [StatusCode::CONFLICT, StatusCode::PRECONDITION_FAILED] {
            // More than the client retries by itself.
            *bucket.refusals.lock().unwrap() = vec![status; 20];
            let error = object.put(file.clone()).await.unwrap_err();
            assert_eq!(error.class(), FaultClass::Retry, "{error:?}");
            assert!(bucket.objects.lock().unwrap().is_empty());
            bucket.refusals.lock().unwrap().clear();
        }
        assert_eq!(object.put(file.clone()).await.unwrap(), PutResult::Written);
        // An object that was cut or replaced is not taken for the batch.
        let cut = file.bytes.slice(..file.bytes.len() / 2);
        for content in bucket.objects.lock().unwrap().values_mut() {
            *content = cut.clone();
        }
        let error = object.put(file).await.unwrap_err();
        assert_eq!(error.class(), FaultClass::Stop, "{error}");
    }
}
