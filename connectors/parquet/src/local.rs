//! A folder as target.
//!
//! A file is written into the hidden folder [`UNFINISHED`] of the target and synced. Then it gets its
//! final name by an operation that fails if the name exists, and the directory is synced. So a file
//! with a final name is always complete, on the disk and not only in the page cache.
//!
//! The writer of an unfinished file holds a lock on it. So a process can recognise files that a crash
//! has left behind, even if several processes share the folder: it can lock them. On file systems
//! without locks these files are kept; readers do not see them.
//!
//! `object_store`'s local storage is not used: it puts temporary files (`name.parquet#1`) beside the
//! complete ones, where data set readers find them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::NamedTempFile;

use crate::{EncodedFile, Error, PutResult};

/// Folder of files that are being written, inside the target and so on the same file system. Readers
/// of data sets skip names that begin with a dot.
const UNFINISHED: &str = ".unfinished";

#[derive(Clone, Debug)]
pub(crate) struct Local {
    root: PathBuf,
}

/// Passes a fail point of the crash tests. Does nothing without the feature.
macro_rules! pass {
    ($point:expr, $path:expr) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($point, |_| Err(failed("put", $path)(io::Error::other(
            "fail point"
        ))));
    };
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Local {
        doing,
        path: path.to_owned(),
        source,
    }
}

impl Local {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    #[cfg(test)]
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Removes unfinished files whose writers no longer run. Ignores errors, which must not prevent a
    /// start.
    pub(crate) fn remove_leftovers(&self) {
        let Ok(entries) = fs::read_dir(self.root.join(UNFINISHED)) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let abandoned = fs::File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
            if !abandoned {
                continue;
            }
            match fs::remove_file(&path) {
                Ok(()) => tracing::info!(path = %path.display(), "removed an unfinished file"),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished file");
                }
            }
        }
    }

    pub(crate) async fn check(&self) -> Result<(), Error> {
        let this = self.clone();
        off_thread(move || {
            let probe = this.write_unfinished(b"chatledger")?;
            let path = probe.path().to_owned();
            probe.close().map_err(failed("remove", &path))
        })
        .await
    }

    pub(crate) async fn put(&self, file: EncodedFile) -> Result<PutResult, Error> {
        let this = self.clone();
        off_thread(move || this.put_now(&file.path, &file.bytes)).await
    }

    /// Lists the files below a folder of the target, as paths within the target; none if the folder does
    /// not exist.
    pub(crate) async fn list(&self, folder: String) -> Result<Vec<String>, Error> {
        let root = self.root.clone();
        off_thread(move || {
            let mut files = Vec::new();
            let mut folders = vec![root.join(folder)];
            while let Some(folder) = folders.pop() {
                let entries = match fs::read_dir(&folder) {
                    Ok(entries) => entries,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(failed("list", &folder)(error)),
                };
                for entry in entries {
                    let entry = entry.map_err(failed("list", &folder))?;
                    let path = entry.path();
                    let kind = entry.file_type().map_err(failed("inspect", &path))?;
                    if kind.is_dir() {
                        folders.push(path);
                    } else if let Ok(relative) = path.strip_prefix(&root) {
                        files.push(relative.to_string_lossy().into_owned());
                    }
                }
            }
            Ok(files)
        })
        .await
    }

    pub(crate) async fn read(&self, path: &str) -> Result<Bytes, Error> {
        let path = self.root.join(path);
        off_thread(move || {
            let bytes = fs::read(&path).map_err(failed("read", &path))?;
            Ok(Bytes::from(bytes))
        })
        .await
    }

    pub(crate) async fn read_state(&self, relative: &str) -> Result<Option<Bytes>, Error> {
        let path = self.root.join(relative);
        off_thread(move || match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        })
        .await
    }

    pub(crate) async fn write_state(&self, relative: &str, bytes: Bytes) -> Result<(), Error> {
        let (this, path) = (self.clone(), self.root.join(relative));
        off_thread(move || {
            let unfinished = this.write_unfinished(&bytes)?;
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(failed("create", parent))?;
            }
            unfinished
                .persist(&path)
                .map_err(|error| failed("publish", &path)(error.error))?;
            this.sync_directories(&path)
        })
        .await
    }

    fn put_now(&self, relative: &str, bytes: &Bytes) -> Result<PutResult, Error> {
        let path = self.root.join(relative);
        let put = if path.exists() {
            PutResult::AlreadyExists
        } else {
            let unfinished = self.write_unfinished(bytes)?;
            pass!(crate::FILE_UNNAMED, &path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(failed("create", parent))?;
            }
            publish(unfinished, &path)?
        };
        // Also if the file existed: its writer may have died before syncing.
        self.sync_directories(&path)?;
        pass!(crate::FILE_NAMED, &path);
        Ok(put)
    }

    /// Makes a complete, synced and locked file that is removed when dropped without being renamed.
    fn write_unfinished(&self, bytes: &[u8]) -> Result<NamedTempFile, Error> {
        let folder = self.root.join(UNFINISHED);
        fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        let mut builder = tempfile::Builder::new();
        builder.prefix("").suffix(".unfinished");
        open_to_readers(&mut builder);
        let mut file = builder
            .tempfile_in(&folder)
            .map_err(failed("create a file in", &folder))?;
        // Not an error on file systems without locks: leftovers are then not recognised.
        let _ = file.as_file().try_lock();
        let path = file.path().to_owned();
        file.write_all(bytes)
            .and_then(|()| file.as_file().sync_all())
            .map_err(failed("write", &path))?;
        Ok(file)
    }

    /// Syncs every directory from the file's up to the target's parent.
    fn sync_directories(&self, path: &Path) -> Result<(), Error> {
        let above = self.root.parent();
        for directory in path.ancestors().skip(1) {
            let directory = if directory.as_os_str().is_empty() {
                Path::new(".")
            } else {
                directory
            };
            fs::File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(failed("sync", directory))?;
            if Some(directory) == above || directory == self.root {
                break;
            }
        }
        Ok(())
    }
}

/// Gives a file its final name unless the name exists.
fn publish(unfinished: NamedTempFile, path: &Path) -> Result<PutResult, Error> {
    match unfinished.persist_noclobber(path) {
        Ok(_) => Ok(PutResult::Written),
        Err(_) if path.exists() => Ok(PutResult::AlreadyExists),
        // A file system with neither exclusive rename nor hard links. Two processes could only collide
        // on the same batch, whose bytes are the same.
        Err(refused) => match refused.file.persist(path) {
            Ok(_) => Ok(PutResult::Written),
            Err(error) => Err(failed("publish", path)(error.error)),
        },
    }
}

/// Makes files readable for others, as far as the umask allows; temporary files by default are not.
fn open_to_readers(builder: &mut tempfile::Builder<'_, '_>) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    #[cfg(not(unix))]
    let _ = builder;
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Interrupted),
    }
}
