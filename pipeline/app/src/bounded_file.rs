//! Reads text files up to a size limit.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Reads the text of a file of at most `max_bytes` bytes.
///
/// # Errors
/// The file cannot be read, is larger, or is not UTF-8.
pub fn text(path: &Path, max_bytes: u64) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?
        .take(max_bytes + 1)
        .read_to_string(&mut text);
    let too_long = |bytes: u64| bytes > max_bytes;
    // If the limit splits a character, the file is too large and not invalid UTF-8.
    if too_long(text.len() as u64)
        || (read.is_err() && path.metadata().is_ok_and(|m| too_long(m.len())))
    {
        let what = format!("the file has more than {max_bytes} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    read.map(|_| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_read_up_to_the_limit_and_refused_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.txt");
        std::fs::write(&path, "长长长").unwrap();
        assert_eq!(text(&path, 9).unwrap(), "长长长");
        for max_bytes in [8, 7, 6, 5] {
            let refused = text(&path, max_bytes).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge, "{max_bytes}");
        }
        std::fs::write(&path, [0xff; 4]).unwrap();
        assert_eq!(
            text(&path, 9).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}
