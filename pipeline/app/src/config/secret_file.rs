//! Files with secrets: who may read them, and what is read.
//!
//! Guarantees: a file that others than its owner can read or change is refused unless that is
//! allowed in so many words; what has been read is wiped when it is dropped; no error holds a part
//! of it. Not here: what the secret is for.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use chatledger_schemas::Secret;

/// Bytes of a secret at most; an RSA key in PEM form has some 1,700.
const MOST_BYTES: u64 = 64 << 10;

/// Why a secret cannot be had from a file.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It is not there, or not for this process.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Others have access to it.
    #[error("mode {mode:04o} lets others than its owner read or change it; accepted: {accepted}")]
    Exposed {
        /// Its permission bits.
        mode: u32,
        /// What to do.
        accepted: &'static str,
    },
    /// It holds nothing but line ends.
    #[error("the file is empty")]
    Empty,
    /// It is longer than any secret.
    #[error("the file has more than {MOST_BYTES} bytes, no secret has")]
    TooLong,
    /// It is not UTF-8.
    #[error("the file is no text")]
    NotText,
}

const OWNER_ALONE: &str = "0600 (chmod 600), or 0640 if it is root's and the program is not";

/// The bits of `mode` that are too many. A file of root's may be read by a group: that is how a
/// service manager hands secrets to a service that runs as somebody else.
fn exposed(mode: u32, owner: u32, me: u32) -> u32 {
    let fine = if owner == 0 && me != 0 { 0o740 } else { 0o700 };
    mode & 0o777 & !fine
}

/// What the file holds, byte for byte.
///
/// # Errors
/// See [`SecretFileError`].
pub fn bytes(path: &Path, allow_open: bool) -> Result<Secret<Vec<u8>>, SecretFileError> {
    let file = File::open(path)?;
    // Of the open file, so that what is looked at is what is read.
    let about = file.metadata()?;
    let me = rustix::process::geteuid().as_raw();
    if !allow_open && exposed(about.mode(), about.uid(), me) != 0 {
        return Err(SecretFileError::Exposed {
            mode: about.mode() & 0o777,
            accepted: OWNER_ALONE,
        });
    }
    // Reserved whole at once: a growing buffer would leave copies behind.
    let mut bytes = Vec::with_capacity(MOST_BYTES as usize + 1);
    let read = file.take(MOST_BYTES + 1).read_to_end(&mut bytes);
    let bytes = Secret::new(bytes);
    if read? as u64 > MOST_BYTES {
        return Err(SecretFileError::TooLong);
    }
    if bytes.expose().iter().all(u8::is_ascii_whitespace) {
        return Err(SecretFileError::Empty);
    }
    Ok(bytes)
}

/// The file's text without the line end that editors put there.
///
/// # Errors
/// See [`SecretFileError`].
pub fn text(path: &Path, allow_open: bool) -> Result<Secret, SecretFileError> {
    let bytes = bytes(path, allow_open)?;
    let text = std::str::from_utf8(bytes.expose()).map_err(|_| SecretFileError::NotText)?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn owner_may_do_anything_others_nothing_and_a_group_may_read_what_is_roots() {
        const ROOT: u32 = 0;
        const ME: u32 = 1000;
        for (mode, owner, me, fine) in [
            (0o600, ME, ME, true),
            (0o400, ME, ME, true),
            (0o700, ME, ME, true),
            (0o640, ME, ME, false),
            (0o604, ME, ME, false),
            (0o644, ME, ME, false),
            (0o660, ME, ME, false),
            (0o601, ME, ME, false),
            (0o600, ROOT, ROOT, true),
            (0o640, ROOT, ROOT, false),
            (0o640, ROOT, ME, true),
            (0o440, ROOT, ME, true),
            (0o660, ROOT, ME, false),
            (0o644, ROOT, ME, false),
            (0o444, ROOT, ME, false),
            (0o640, ME + 1, ME, false),
        ] {
            let bits = exposed(0o100_000 | mode, owner, me);
            assert_eq!(bits == 0, fine, "{mode:o} of {owner} for {me}: {bits:o}");
        }
    }

    #[test]
    fn text_loses_its_line_end_and_keeps_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let text_of = |bytes: &[u8], mode: u32, allow: bool| {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            text(&path, allow).map(|secret| secret.expose().to_owned())
        };
        assert_eq!(text_of(b" a b \r\n", 0o600, false).unwrap(), " a b ");
        assert_eq!(text_of(b"a", 0o644, true).unwrap(), "a");
        let refused = text_of(b"a", 0o644, false).unwrap_err().to_string();
        assert!(
            refused.contains("0644") && refused.contains("chmod 600"),
            "{refused}"
        );
        for (bytes, error) in [
            (b"\n\n".to_vec(), "empty"),
            (vec![b'a'; 70_000], "more than"),
            (vec![0xff; 40], "no text"),
        ] {
            let refused = text_of(&bytes, 0o600, false).unwrap_err().to_string();
            assert!(refused.contains(error), "{refused}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(text(&path, false), Err(SecretFileError::Read(_))));
    }
}
