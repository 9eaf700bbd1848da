//! Reads text files up to a size limit.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::text_encoding;

/// Reads the text of a file of at most `max_bytes` bytes.
///
/// # Errors
/// The file cannot be read, is larger, or its encoding is not certain ([`text_encoding`]).
pub fn text(path: &Path, max_bytes: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(max_bytes + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        let what = format!("the file has more than {max_bytes} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    text_encoding::decode(&bytes).ok_or_else(|| {
        let what = "found text that is neither UTF-8, nor UTF-16 with a byte order mark, nor Chinese in GBK; accepted: save the \
                    file as UTF-8";
        io::Error::new(io::ErrorKind::InvalidData, what)
    })
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
