//! Where finished files go.
//!
//! The same promises hold for a folder and a bucket; [`Local`] and [`Object`] say how each keeps
//! them.

use std::path::Path;

use bytes::Bytes;
use chatledger_schemas::CorpId;

use crate::local::Local;
use crate::object::Object;
use crate::partition::messages_of;
use crate::{Error, File};

/// A folder or a bucket that holds the tables. Several processes may share one.
#[derive(Clone, Debug)]
pub struct Target(Place);

#[derive(Clone, Debug)]
enum Place {
    Local(Local),
    Object(Object),
}

/// What became of a file that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there now, whole and durable.
    Written,
    /// An object of that name was there already and has been left as it is.
    AlreadyThere,
}

impl Target {
    /// Opens a target by its address:
    /// - `file:PATH` (or `file:///PATH`): a folder, relative to `base_dir`, taken as it is written
    ///   (no `%20`); created when first needed. What processes that are gone have left unfinished
    ///   in it is removed now.
    /// - `s3://BUCKET/PREFIX`: a bucket of S3 or of a store that speaks its language. Region,
    ///   endpoint and credentials come from the usual environment (`AWS_REGION`,
    ///   `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, …, or the machine's role).
    ///   `AWS_CONDITIONAL_PUT=disabled` for a store that cannot put "only if not there".
    ///
    /// Nothing is connected to; [`Target::check`] does that.
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
            Ok(Self(Place::Local(local)))
        } else if let Some(rest) = url.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() || bucket.contains(['@', '?', '#']) {
                return refused("the bucket is missing: s3://bucket/prefix");
            }
            Ok(Self(Place::Object(Object::s3(url, bucket, prefix)?)))
        } else {
            refused("accepted are file:path and s3://bucket/prefix")
        }
    }

    /// Shows that files can be put: writes a hidden probe and removes it.
    pub async fn check(&self) -> Result<(), Error> {
        match &self.0 {
            Place::Local(local) => local.check().await,
            Place::Object(object) => object.check().await,
        }
    }

    /// What is noted under a path; `None` if nothing is.
    pub async fn note(&self, path: &str) -> Result<Option<Bytes>, Error> {
        in_order(path)?;
        match &self.0 {
            Place::Local(local) => local.note(path).await,
            Place::Object(object) => object.note(path).await,
        }
    }

    /// Notes something under a path, whole, in place of what was noted there. Notes are a writer's
    /// own and no part of the tables: their names begin with `_`, which readers of data sets skip.
    /// When it returns, the note survives a crash of the machine.
    pub async fn keep_note(&self, path: &str, bytes: Bytes) -> Result<(), Error> {
        in_order(path)?;
        match &self.0 {
            Place::Local(local) => local.keep_note(path, bytes).await,
            Place::Object(object) => object.keep_note(path, bytes).await,
        }
    }

    /// Puts a file under its final name, whole, unless something has that name already. When it
    /// returns, the file survives a crash of the machine. A call that fails or is dropped may be
    /// repeated.
    pub async fn put(&self, file: File) -> Result<Put, Error> {
        in_order(&file.path)?;
        match &self.0 {
            Place::Local(local) => local.put(file).await,
            Place::Object(object) => object.put(file).await,
        }
    }
}

impl Target {
    /// Paths of a corp's message files within the target, in their order.
    pub async fn messages(&self, corp: &CorpId) -> Result<Vec<String>, Error> {
        let folder = messages_of(corp);
        let mut paths = match &self.0 {
            Place::Local(local) => local.list(folder).await?,
            Place::Object(object) => object.list(&folder).await?,
        };
        paths.retain(|path| {
            let hidden = path.split('/').any(|part| part.starts_with(['.', '_']));
            !hidden && path.ends_with(".parquet")
        });
        paths.sort_unstable();
        Ok(paths)
    }

    /// A file as it was put.
    pub async fn read(&self, path: &str) -> Result<Bytes, Error> {
        match &self.0 {
            Place::Local(local) => local.read(path).await,
            Place::Object(object) => object.read(path).await,
        }
    }
}

/// Refuses a path that leaves the target.
fn in_order(path: &str) -> Result<(), Error> {
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
    fn address_of_another_form_is_refused() {
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
                Place::Local(local) => assert_eq!(local.root(), Path::new(path), "{url}"),
                Place::Object(_) => unreachable!("{url}"),
            }
        }
    }

    #[tokio::test]
    async fn path_that_leaves_the_target_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::open("file:inner", dir.path()).unwrap();
        for path in ["", "../a", "a/../../b", "/etc/a", "a//b", "a/."] {
            let file = File {
                path: path.into(),
                rows: 0,
                bytes: bytes::Bytes::from_static(b"x"),
            };
            let refused = target.put(file).await;
            assert!(matches!(refused, Err(Error::Name { .. })), "{path:?}");
            let refused = target.keep_note(path, Bytes::new()).await;
            assert!(matches!(refused, Err(Error::Name { .. })), "{path:?}");
            assert!(target.note(path).await.is_err(), "{path:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
