//! The folder or bucket that files are written to.
//!
//! Both give the same guarantees; [`Local`] and [`Object`] document how.

use std::path::Path;

use bytes::Bytes;
use chatledger_schemas::CorpId;

use crate::local::Local;
use crate::object::Object;
use crate::partition::directory_of;
use crate::{EncodedFile, Error, ParquetTable};

/// A folder or bucket that holds the tables. Several processes may share one.
#[derive(Clone, Debug)]
pub struct Target(Backend);

#[derive(Clone, Debug)]
enum Backend {
    Local(Local),
    Object(Object),
}

/// The result of [`Target::put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutResult {
    /// The file has been written, complete and durable.
    Written,
    /// A file of that name exists and has not been changed.
    AlreadyExists,
}

impl Target {
    /// Opens a target by its address:
    /// - `file:PATH` (or `file:///PATH`): a folder, relative to `base_dir`, not percent-decoded; created
    ///   when first needed. Opening removes incomplete files of processes that no longer run.
    /// - `s3://BUCKET/PREFIX`: a bucket of S3 or of a compatible store. Region, endpoint and credentials
    ///   are taken from the environment (`AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, …, or
    ///   the machine's role). Set `AWS_CONDITIONAL_PUT=disabled` for a store without conditional puts.
    ///
    /// Does not connect; [`Target::check`] does.
    pub fn open(url: &str, base_dir: &Path) -> Result<Self, Error> {
        let refused = |reason| {
            Err(Error::Url {
                url: url.to_owned(),
                reason,
            })
        };
        if let Some(path) = url.strip_prefix("file:") {
            let path = match path.strip_prefix("//") {
                Some(rest) if rest.starts_with('/') => rest,
                Some(_) => return refused("a file address has no host: file:path or file:///path"),
                None => path,
            };
            if path.is_empty() {
                return refused("the path is missing");
            }
            let local = Local::new(base_dir.join(path));
            local.remove_leftovers();
            Ok(Self(Backend::Local(local)))
        } else if let Some(rest) = url.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() || bucket.contains(['@', '?', '#']) {
                return refused("the bucket is missing: s3://bucket/prefix");
            }
            Ok(Self(Backend::Object(Object::s3(url, bucket, prefix)?)))
        } else {
            refused("supported are file:path and s3://bucket/prefix")
        }
    }

    /// Checks that files can be written: writes a hidden probe and removes it.
    pub async fn check(&self) -> Result<(), Error> {
        match &self.0 {
            Backend::Local(local) => local.check().await,
            Backend::Object(object) => object.check().await,
        }
    }

    /// Reads a state file; `None` if it does not exist.
    pub async fn read_state(&self, path: &str) -> Result<Option<Bytes>, Error> {
        check_path(path)?;
        match &self.0 {
            Backend::Local(local) => local.read_state(path).await,
            Backend::Object(object) => object.read_state(path).await,
        }
    }

    /// Writes a state file atomically, replacing the last one. State files are the caller's and not part
    /// of the tables: their paths begin with `_`, which readers of data sets skip. When the call
    /// returns, the state file survives a crash of the machine.
    pub async fn write_state(&self, path: &str, bytes: Bytes) -> Result<(), Error> {
        check_path(path)?;
        match &self.0 {
            Backend::Local(local) => local.write_state(path, bytes).await,
            Backend::Object(object) => object.write_state(path, bytes).await,
        }
    }

    /// Writes a file atomically under its final name, unless the name exists. When the call returns,
    /// the file survives a crash of the machine. A call that fails or is dropped may be repeated.
    pub async fn put(&self, file: EncodedFile) -> Result<PutResult, Error> {
        check_path(&file.path)?;
        match &self.0 {
            Backend::Local(local) => local.put(file).await,
            Backend::Object(object) => object.put(file).await,
        }
    }
}

impl Target {
    /// Returns the paths of a corp's files of a table within the target, in ascending order.
    pub async fn files(&self, table: ParquetTable, corp: &CorpId) -> Result<Vec<String>, Error> {
        let folder = directory_of(table, corp);
        let mut paths = match &self.0 {
            Backend::Local(local) => local.list(folder).await?,
            Backend::Object(object) => object.list(&folder).await?,
        };
        paths.retain(|path| {
            let hidden = path.split('/').any(|part| part.starts_with(['.', '_']));
            !hidden && path.ends_with(".parquet")
        });
        paths.sort_unstable();
        Ok(paths)
    }

    /// Returns the content of a file.
    pub async fn read(&self, path: &str) -> Result<Bytes, Error> {
        match &self.0 {
            Backend::Local(local) => local.read(path).await,
            Backend::Object(object) => object.read(path).await,
        }
    }
}

/// Refuses a path that leaves the target.
fn check_path(path: &str) -> Result<(), Error> {
    let stays = |part| !matches!(part, "" | "." | "..");
    if !path.is_empty() && path.split('/').all(stays) {
        return Ok(());
    }
    Err(Error::Name {
        name: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn invalid_address_is_refused() {
        for url in [
            "",
            "parquet",
            "/data",
            "file:",
            "file://",
            "file://host/path",
            "s3:bucket",
            "s3://",
            "s3:///prefix",
            "s3://user:secret@bucket",
            "gs://bucket",
            "http://host/",
        ] {
            let refused = Target::open(url, Path::new("/base"));
            assert!(matches!(refused, Err(Error::Url { .. })), "{url}");
        }
    }

    #[test]
    fn folder_is_relative_to_the_base() {
        let cases = [
            ("file:parquet", "/base/parquet"),
            ("file:./a b", "/base/./a b"),
            ("file:/data/parquet", "/data/parquet"),
            ("file:///data/parquet", "/data/parquet"),
        ];
        for (url, path) in cases {
            match Target::open(url, Path::new("/base")).unwrap().0 {
                Backend::Local(local) => assert_eq!(local.root(), Path::new(path), "{url}"),
                Backend::Object(_) => unreachable!("{url}"),
            }
        }
    }

    #[tokio::test]
    async fn path_that_leaves_the_target_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::open("file:inner", dir.path()).unwrap();
        for path in ["", "../a", "a/../../b", "/etc/a", "a//b", "a/."] {
            let file = EncodedFile {
                path: path.into(),
                rows: 0,
                bytes: bytes::Bytes::from_static(b"x"),
            };
            let refused = target.put(file).await;
            assert!(matches!(refused, Err(Error::Name { .. })), "{path:?}");
            let refused = target.write_state(path, Bytes::new()).await;
            assert!(matches!(refused, Err(Error::Name { .. })), "{path:?}");
            assert!(target.read_state(path).await.is_err(), "{path:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
