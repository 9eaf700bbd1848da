//! Receives a request's body completely before the engine gets any of it.
//!
//! Guarantees: an incomplete body is dropped, so an `INSERT` whose client dies inserts nothing; one
//! body uses at most [`MEMORY_PER_BODY`], all bodies together at most [`MEMORY_IN_ALL`]; the rest goes
//! to an unnamed file, which disappears with the process. How the network splits a body makes no
//! difference to the engine.
//!
//! Not here: the meaning of the bytes. [`Spool::reader`] decompresses while reading, so the file holds
//! what the client sent.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::io::AsyncWriteExt as _;

use crate::exception::Exception;

/// Bytes of one body that stay in memory.
pub(crate) const MEMORY_PER_BODY: usize = 8 << 20;

/// Bytes of all bodies together that stay in memory.
const MEMORY_IN_ALL: usize = 64 << 20;

/// Bytes a body may have, as sent.
const MAX_BODY: u64 = 16 << 30;

/// How long a client may pause in the middle of a body. Long, because some writers keep an `INSERT`
/// open and send data as it arrives.
const READ_TIMEOUT: Duration = Duration::from_secs(600);

/// Keeps bodies while they are received.
#[derive(Clone)]
pub(crate) struct Spooler {
    directory: PathBuf,
    in_memory: Arc<AtomicUsize>,
}

/// A complete body.
pub(crate) struct Spool {
    memory: Vec<u8>,
    file: Option<File>,
    share: MemoryShare,
}

/// A body's share of [`MEMORY_IN_ALL`].
struct MemoryShare {
    in_memory: Arc<AtomicUsize>,
    bytes: usize,
}

impl MemoryShare {
    /// Reserves `more` bytes of the common memory, if available.
    fn grow(&mut self, more: usize) -> bool {
        if self.bytes + more > MEMORY_PER_BODY {
            return false;
        }
        if self.in_memory.fetch_add(more, Ordering::Relaxed) + more > MEMORY_IN_ALL {
            self.in_memory.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.bytes += more;
        true
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.in_memory.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Why a body could not be received.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// The client disconnected or paused for too long; no answer can be sent.
    Disconnected,
    /// The client gets this answer.
    Exception(Exception),
}

impl Spooler {
    /// Makes a spooler that keeps large bodies in `directory`.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            in_memory: Arc::default(),
        }
    }

    /// Receives a body up to its end.
    pub(crate) async fn receive(&self, mut body: Incoming) -> Result<Spool, BodyError> {
        let too_big = || {
            BodyError::Exception(Exception::new(
                229,
                "QUERY_IS_TOO_LARGE",
                format!("The body has more than {MAX_BODY} bytes"),
            ))
        };
        if body.size_hint().lower() > MAX_BODY {
            return Err(too_big());
        }
        let mut share = MemoryShare {
            in_memory: Arc::clone(&self.in_memory),
            bytes: 0,
        };
        let mut memory = Vec::new();
        let mut file: Option<tokio::fs::File> = None;
        let mut received = 0;
        loop {
            let frame = match tokio::time::timeout(READ_TIMEOUT, body.frame()).await {
                Ok(None) => break,
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) | Err(_) => return Err(BodyError::Disconnected),
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            received += data.len() as u64;
            if received > MAX_BODY {
                return Err(too_big());
            }
            if file.is_none() && share.grow(data.len()) {
                memory.extend_from_slice(&data);
                continue;
            }
            let stored = async {
                let file = match &mut file {
                    Some(file) => file,
                    none => none.insert(self.open()?),
                };
                file.write_all(&data).await
            };
            stored.await.map_err(|error| {
                tracing::error!(%error, "cannot write a body to the spool");
                BodyError::Exception(Exception::new(
                    243,
                    "NOT_ENOUGH_SPACE",
                    "The body cannot be buffered: the spool cannot be written to",
                ))
            })?;
        }
        let file = match file {
            None => None,
            Some(mut file) => {
                let rewound = async {
                    file.flush().await?;
                    let mut file = file.into_std().await;
                    file.rewind()?;
                    io::Result::Ok(file)
                };
                Some(rewound.await.map_err(|error| {
                    BodyError::Exception(Exception::internal(format!("spool: {error}")))
                })?)
            }
        };
        Ok(Spool {
            memory,
            file,
            share,
        })
    }

    fn open(&self) -> io::Result<tokio::fs::File> {
        tempfile::tempfile_in(&self.directory).map(tokio::fs::File::from_std)
    }
}

impl Spool {
    /// Makes a spool of a body in memory.
    pub(crate) fn of(memory: Vec<u8>) -> Self {
        Self {
            memory,
            file: None,
            share: MemoryShare {
                in_memory: Arc::default(),
                bytes: 0,
            },
        }
    }

    /// Returns the body if all of it is in memory.
    pub(crate) fn into_memory(self) -> Option<Vec<u8>> {
        self.file.is_none().then_some(self.memory)
    }

    /// Returns a reader of the body that decompresses it according to `Content-Encoding`. Reading
    /// blocks.
    ///
    /// # Errors
    /// [`Exception`] 48 for an unsupported encoding.
    pub(crate) fn reader(self, encoding: Option<&str>) -> Result<Box<dyn Read + Send>, Exception> {
        let raw = SpoolReader {
            memory: Cursor::new(self.memory),
            file: self.file,
            _share: self.share,
        };
        Ok(match encoding.map(str::trim).unwrap_or_default() {
            "" | "identity" => Box::new(raw),
            "gzip" | "x-gzip" => Box::new(flate2::read::MultiGzDecoder::new(raw)),
            "deflate" => Box::new(flate2::read::ZlibDecoder::new(raw)),
            "lz4" => Box::new(lz4_flex::frame::FrameDecoder::new(raw)),
            "zstd" => Box::new(zstd::stream::read::Decoder::new(raw).map_err(|error| {
                Exception::internal(format!("cannot set up zstd decompression: {error}"))
            })?),
            other => {
                return Err(Exception::not_implemented(format!(
                    "Content-Encoding '{other}' is not supported by the embedded server; use \
                     gzip, deflate, lz4, zstd or none"
                )));
            }
        })
    }
}

struct SpoolReader {
    memory: Cursor<Vec<u8>>,
    file: Option<File>,
    _share: MemoryShare,
}

impl Read for SpoolReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.memory.read(buffer)? {
            0 => self.file.as_mut().map_or(Ok(0), |file| file.read(buffer)),
            read => Ok(read),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    fn read(memory: Vec<u8>, encoding: Option<&str>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Spool::of(memory)
            .reader(encoding)
            .unwrap()
            .read_to_end(&mut out)
            .map(|_| out)
    }

    #[test]
    fn compressed_bodies_are_decompressed() {
        let plain = b"one two three ".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(&plain).unwrap();
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        lz4.write_all(&plain).unwrap();
        for (encoding, packed) in [
            ("gzip", gzip.finish().unwrap()),
            ("deflate", zlib.finish().unwrap()),
            ("lz4", lz4.finish().unwrap()),
            ("zstd", zstd::encode_all(plain.as_slice(), 1).unwrap()),
        ] {
            assert_eq!(
                read(packed.clone(), Some(encoding)).unwrap(),
                plain,
                "{encoding}"
            );
            let truncated = packed[..packed.len() - 6].to_vec();
            assert!(
                read(truncated, Some(encoding)).is_err(),
                "{encoding} truncated"
            );
        }
        assert_eq!(read(plain.clone(), None).unwrap(), plain);
    }

    #[test]
    fn unknown_encodings_are_named() {
        let error = Spool::of(Vec::new()).reader(Some("br")).err().unwrap();
        assert_eq!(error.code(), 48);
        assert!(error.body("1").contains("'br'"));
    }

    #[test]
    fn memory_is_shared_and_returned() {
        let in_memory = Arc::new(AtomicUsize::new(0));
        let share = || MemoryShare {
            in_memory: Arc::clone(&in_memory),
            bytes: 0,
        };
        let mut held: Vec<MemoryShare> = (0..MEMORY_IN_ALL / MEMORY_PER_BODY)
            .map(|_| share())
            .collect();
        for share in &mut held {
            assert!(share.grow(MEMORY_PER_BODY));
            assert!(!share.grow(1), "one body's limit");
        }
        assert!(!share().grow(1), "the common limit");
        held.clear();
        assert!(share().grow(1));
        assert_eq!(in_memory.load(Ordering::Relaxed), 0);
    }
}
