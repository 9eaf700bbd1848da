//! A folder of JSON-lines files, one sub-folder for each kind of row.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::Error;
use crate::line::RowLine;

/// The folder that files go into.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at a path; it need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Creates the folder if needed and checks that files can be written to it.
    ///
    /// # Errors
    /// It cannot be created or written.
    pub fn check(&self) -> Result<(), Error> {
        create(&self.0)?;
        let probe = self
            .0
            .join(format!(".check-{:016x}", rand::random::<u64>()));
        let written = write_new(&probe, b"");
        fs::remove_file(&probe).ok();
        written.map_err(|source| error(&probe, source))
    }

    /// Stores lines as `<kind>/<name>.jsonl`; does nothing if that file exists.
    ///
    /// # Errors
    /// The file cannot be written. Nothing is visible under its name then.
    pub fn put(&self, kind: &str, name: &str, lines: &[u8]) -> Result<(), Error> {
        let folder = self.0.join(kind);
        let path = folder.join(format!("{name}.jsonl"));
        if path.exists() {
            return Ok(());
        }
        create(&folder)?;
        let temporary = folder.join(format!(".{name}.{:016x}", rand::random::<u64>()));
        let put = write_new(&temporary, lines).and_then(|()| {
            // A link fails if the name exists; a rename would replace it.
            match fs::hard_link(&temporary, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                linked => linked,
            }
        });
        fs::remove_file(&temporary).ok();
        put.and_then(|()| sync(&folder))
            .map_err(|source| error(&path, source))
    }

    /// Reads a small state file; `None` if it does not exist.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_state(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.state(name);
        match fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(error(&path, source)),
        }
    }

    /// Replaces a small state file as a whole.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_state(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let path = self.state(name);
        let folder = path.parent().unwrap_or(&self.0);
        create(folder)?;
        let temporary = folder.join(format!(".{name}.{:016x}", rand::random::<u64>()));
        let written = write_new(&temporary, content)
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| sync(folder));
        written.map_err(|source| {
            fs::remove_file(&temporary).ok();
            error(&path, source)
        })
    }

    fn state(&self, name: &str) -> PathBuf {
        self.0
            .join("_chatledger/lanes")
            .join(format!("{name}.json"))
    }

    /// Returns the files of a kind, sorted by name.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn files(&self, kind: &str) -> Result<Vec<PathBuf>, Error> {
        let folder = self.0.join(kind);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(error(&folder, source)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(|source| error(&folder, source))?.path();
            let hidden = path
                .file_name()
                .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            if !hidden
                && path
                    .extension()
                    .is_some_and(|extension| extension == "jsonl")
            {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

/// Passes every row of a file to `each`.
///
/// # Errors
/// The file cannot be read, or a line is not such a row.
pub fn read_rows<T: DeserializeOwned>(path: &Path, mut each: impl FnMut(T)) -> Result<(), Error> {
    let file = File::open(path).map_err(|source| error(path, source))?;
    for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
        let line = line.map_err(|source| error(path, source))?;
        let read = serde_json::from_slice::<RowLine<T>>(&line);
        let read = read.map_err(|source| Error::NotARow {
            path: path.display().to_string(),
            line: number + 1,
            column: source.column(),
        })?;
        each(read.row);
    }
    Ok(())
}

fn create(folder: &Path) -> Result<(), Error> {
    let created = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder);
    created.map_err(|source| error(folder, source))
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn error(path: &Path, source: io::Error) -> Error {
    Error::File {
        path: path.display().to_string(),
        source,
    }
}
