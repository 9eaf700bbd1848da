//! Files written by people, read no further than any of them is long.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The text of a file of at most so many bytes.
///
/// # Errors
/// It cannot be read, is longer, or is no UTF-8.
pub fn text(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(most + 1).read_to_string(&mut text);
    let too_long = |bytes: u64| bytes > most;
    // A file cut in the middle of a character is too long, not without form.
    if too_long(text.len() as u64)
        || (read.is_err() && path.metadata().is_ok_and(|m| too_long(m.len())))
    {
        let what = format!("it has more than {most} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    read.map(|_| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_read_up_to_its_bound_and_refused_beyond() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.txt");
        std::fs::write(&path, "长长长").unwrap();
        assert_eq!(text(&path, 9).unwrap(), "长长长");
        for most in [8, 7, 6, 5] {
            let refused = text(&path, most).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge, "{most}");
        }
        std::fs::write(&path, [0xff; 4]).unwrap();
        assert_eq!(
            text(&path, 9).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}
