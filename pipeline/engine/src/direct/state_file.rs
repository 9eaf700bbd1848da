//! A state file is replaced as a whole: after a crash it holds the old content or the new one, never
//! a part.
//!
//! Each [`StateFile`] is one JSON value, usually with a field `version`. A file of another version or
//! form is refused, so the program never acts on state that it does not understand. Errors name
//! line and column in the file and never quote its content.

use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::StateError;

/// The version of a file's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormVersion {
    /// Written, and required in every file.
    Required(u32),
    /// Written. Files of earlier releases lack it and have the form of this version.
    Optional(u32),
    /// Neither written nor read.
    Unversioned,
}

/// A file that holds one `T`.
#[derive(Debug, Clone)]
pub struct StateFile<T> {
    path: PathBuf,
    version: FormVersion,
    content: PhantomData<fn(T) -> T>,
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    content: &'a T,
}

#[derive(Deserialize)]
struct VersionField {
    version: Option<u32>,
}

impl<T: Serialize + DeserializeOwned> StateFile<T> {
    /// Names a file; it need not exist. A `T` in a versioned file must be written as a JSON object
    /// and must ignore the field `version`.
    pub fn new(path: PathBuf, version: FormVersion) -> Self {
        Self {
            path,
            version,
            content: PhantomData,
        }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file exists.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Returns the content; `None` if there is no file.
    ///
    /// # Errors
    /// The file cannot be read, or is of another version or form.
    pub fn read(&self) -> Result<Option<T>, StateError> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::io(&self.path)(error)),
        };
        self.check_version(&text)?;
        self.parse(&text).map(Some)
    }

    /// Replaces the content and waits until the disk has it.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, content: &T) -> Result<(), StateError> {
        let text = match self.version {
            FormVersion::Required(version) | FormVersion::Optional(version) => {
                serde_json::to_vec(&Versioned { version, content })
            }
            FormVersion::Unversioned => serde_json::to_vec(content),
        };
        text.map_err(io::Error::from)
            .and_then(|text| write_whole(&self.path, &text))
            .map_err(StateError::io(&self.path))
    }

    /// Removes the file and waits until the disk knows.
    ///
    /// # Errors
    /// There is no file, or the folder cannot be written.
    pub fn remove(&self) -> Result<(), StateError> {
        std::fs::remove_file(&self.path)
            .and_then(|()| sync_folder(&self.path))
            .map_err(StateError::io(&self.path))
    }

    fn check_version(&self, text: &[u8]) -> Result<(), StateError> {
        let (expected, required) = match self.version {
            FormVersion::Required(version) => (version, true),
            FormVersion::Optional(version) => (version, false),
            FormVersion::Unversioned => return Ok(()),
        };
        let VersionField { version } = self.parse(text)?;
        match version {
            Some(version) if version == expected => Ok(()),
            None if !required => Ok(()),
            Some(version) => {
                let what = format!("version {version} instead of {expected}");
                Err(StateError::damaged(&self.path, what))
            }
            None => Err(StateError::damaged(&self.path, "no version")),
        }
    }

    fn parse<F: DeserializeOwned>(&self, text: &[u8]) -> Result<F, StateError> {
        serde_json::from_slice(text).map_err(|error| {
            // The text of the error may quote the file.
            let (line, column) = (error.line(), error.column());
            let what = format!("not of the expected form at line {line}, column {column}");
            StateError::damaged(&self.path, what)
        })
    }
}

/// Writes a file so that a reader sees the old or the new content, never a part, also after a crash.
///
/// # Errors
/// The folder cannot be written.
pub fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    sync_folder(path)
}

/// Makes the names in a file's folder durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Content {
        name: String,
    }

    fn file(folder: &Path, version: FormVersion) -> StateFile<Content> {
        StateFile::new(folder.join("file.json"), version)
    }

    fn content() -> Content {
        Content {
            name: "secret".into(),
        }
    }

    #[test]
    fn file_returns_what_was_written_last_and_nothing_after_removal() {
        let folder = tempfile::tempdir().unwrap();
        for (version, text) in [
            (FormVersion::Required(3), r#"{"version":3,"name":"secret"}"#),
            (FormVersion::Optional(3), r#"{"version":3,"name":"secret"}"#),
            (FormVersion::Unversioned, r#"{"name":"secret"}"#),
        ] {
            let file = file(folder.path(), version);
            assert_eq!(file.read().unwrap(), None);
            file.write(&content()).unwrap();
            assert_eq!(std::fs::read_to_string(file.path()).unwrap(), text);
            assert_eq!(file.read().unwrap(), Some(content()));
            file.remove().unwrap();
            assert!(!file.exists());
        }
    }

    #[test]
    fn missing_version_is_accepted_only_if_earlier_releases_wrote_none() {
        let folder = tempfile::tempdir().unwrap();
        let required = file(folder.path(), FormVersion::Required(1));
        std::fs::write(required.path(), r#"{"name":"secret"}"#).unwrap();
        assert!(required.read().is_err());
        let optional = file(folder.path(), FormVersion::Optional(1));
        assert_eq!(optional.read().unwrap(), Some(content()));
    }

    #[test]
    fn other_version_or_form_is_refused_without_quoting_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path(), FormVersion::Optional(1));
        for text in [
            r#"{"version":2,"name":"secret"}"#,
            r#"{"version":"secret"}"#,
            r#"{"version":1,"name":{"secret":1}}"#,
            r#"{"version":1,"name":"secret"#,
            "",
        ] {
            std::fs::write(file.path(), text).unwrap();
            let error = file.read().unwrap_err();
            assert!(matches!(error, StateError::Damaged { .. }), "{text}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
