//! A safe wrapper of libchdb's C interface.
//!
//! Guarantees: every handle of the library is owned by one Rust value and released exactly once; a
//! connection is used by one thread at a time (`&mut self`), because the engine runs statements on it
//! one after another. Source: `programs/local/chdb.h` of chdb-core 26.7.3. Only this module and its
//! table of functions contain `unsafe` code.
//!
//! Not here: which statements are run, and how errors reach a client.

#![expect(
    unsafe_code,
    reason = "libchdb is a C library; every block states why it is sound"
)]

mod functions;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::slice;

use functions::{Functions, QueryAnalysis, ResultHandle};

/// The loaded library. It is never unloaded, because its threads and exit handlers live as long as the
/// process.
#[derive(Clone, Copy)]
pub(crate) struct Library {
    functions: &'static Functions,
}

impl Library {
    /// Loads the library and disables its signal handlers: the program handles SIGTERM and SIGINT.
    pub(crate) fn load(path: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: loading runs the library's initialisers; the operator chose the file, and the library
        // supports being loaded this way.
        let library = unsafe { libloading::Library::new(path)? };
        let functions = Functions::load(&library)?;
        std::mem::forget(library);
        let functions: &'static Functions = Box::leak(Box::new(functions));
        // SAFETY: takes an integer, sets a flag; allowed before the first connection.
        unsafe { (functions.set_signal_handlers_enabled)(0) };
        Ok(Self { functions })
    }

    /// Opens a connection; the first one starts the engine. Returns `None` if the engine refuses; the
    /// reason is on stderr.
    pub(crate) fn connect(&self, arguments: &[CString]) -> Option<Connection> {
        let mut pointers: Vec<*mut c_char> = arguments
            .iter()
            .map(|argument| argument.as_ptr().cast_mut())
            .collect();
        let count = c_int::try_from(pointers.len()).ok()?;
        // SAFETY: `pointers` holds `count` valid C strings that outlive the call; the library
        // reads them and does not write.
        let handle = unsafe { (self.functions.connect)(count, pointers.as_mut_ptr()) };
        NonNull::new(handle).map(|handle| Connection {
            functions: self.functions,
            handle,
        })
    }

    /// Joins every thread of the engine. Returns false if a connection is open or a thread does not
    /// stop.
    pub(crate) fn shutdown(self) -> bool {
        // SAFETY: takes nothing; may be called from any thread at any time.
        unsafe { (self.functions.shutdown)() == 0 }
    }
}

/// Server-side bound parameters in the form the library expects.
struct BoundParameters<'a> {
    names: Vec<*const c_char>,
    name_lengths: Vec<usize>,
    values: Vec<*const c_char>,
    value_lengths: Vec<usize>,
    _borrowed: &'a [(String, String)],
}

impl<'a> BoundParameters<'a> {
    fn new(pairs: &'a [(String, String)]) -> Self {
        Self {
            names: pairs.iter().map(|(name, _)| name.as_ptr().cast()).collect(),
            name_lengths: pairs.iter().map(|(name, _)| name.len()).collect(),
            values: pairs
                .iter()
                .map(|(_, value)| value.as_ptr().cast())
                .collect(),
            value_lengths: pairs.iter().map(|(_, value)| value.len()).collect(),
            _borrowed: pairs,
        }
    }
}

/// What a statement would do, as classified by the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatementEffect {
    /// It only reads: `SELECT`, `SHOW`, `DESCRIBE`, `EXPLAIN`, `EXISTS`, `CHECK`.
    ReadOnly,
    /// It changes something, or the engine could not classify it.
    MayChange,
}

/// One connection: a session with its settings, its database and its temporary tables.
pub(crate) struct Connection {
    functions: &'static Functions,
    handle: NonNull<*mut c_void>,
}

// SAFETY: the library may be called from any thread; `&mut self` keeps it to one at a time.
unsafe impl Send for Connection {}

impl Connection {
    fn raw(&self) -> *mut c_void {
        // SAFETY: `handle` came from `chdb_connect` and is closed only in `drop`.
        unsafe { *self.handle.as_ptr() }
    }

    /// Runs one statement and waits for its whole result.
    pub(crate) fn query(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &[(String, String)],
    ) -> Result<EngineResult, String> {
        let bound = BoundParameters::new(parameters);
        // SAFETY: all pointers are valid for the lengths given beside them, during the call.
        let handle = unsafe {
            (self.functions.query_with_params_n)(
                self.raw(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                bound.names.as_ptr(),
                bound.name_lengths.as_ptr(),
                bound.values.as_ptr(),
                bound.value_lengths.as_ptr(),
                bound.names.len(),
            )
        };
        EngineResult::new(self.functions, handle)
    }

    /// Starts a `SELECT` whose result is fetched in blocks.
    pub(crate) fn select(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &[(String, String)],
    ) -> Result<Select<'_>, String> {
        let bound = BoundParameters::new(parameters);
        // SAFETY: as in `query`.
        let handle = unsafe {
            (self.functions.stream_query_with_params_n)(
                self.raw(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                bound.names.as_ptr(),
                bound.name_lengths.as_ptr(),
                bound.values.as_ptr(),
                bound.value_lengths.as_ptr(),
                bound.names.len(),
            )
        };
        let stream = EngineResult::new(self.functions, handle)?;
        Ok(Select {
            connection: self,
            stream,
            ended: false,
        })
    }

    /// Starts an `INSERT`; `sql` has neither `FORMAT` nor data.
    pub(crate) fn insert(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &[(String, String)],
    ) -> Result<Insert<'_>, String> {
        let bound = BoundParameters::new(parameters);
        // SAFETY: as in `query`.
        let handle = unsafe {
            (self.functions.stream_insert_with_params_n)(
                self.raw(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                bound.names.as_ptr(),
                bound.name_lengths.as_ptr(),
                bound.values.as_ptr(),
                bound.value_lengths.as_ptr(),
                bound.names.len(),
            )
        };
        let insert = Insert {
            connection: self,
            handle: NonNull::new(handle).ok_or("the engine gave no insert stream")?,
        };
        match insert.error() {
            Some(error) => Err(error),
            None => Ok(insert),
        }
    }

    /// Lets the engine's parser classify `sql`. Runs nothing.
    pub(crate) fn effect(&mut self, sql: &[u8]) -> StatementEffect {
        let mut analysis = QueryAnalysis {
            struct_size: size_of::<QueryAnalysis>() as u32,
            statement_count: 0,
            flags: 0,
            query_class: u32::MAX,
        };
        // SAFETY: `sql` is valid for its length, the database may be null, `analysis` contains its own
        // size.
        let state = unsafe {
            (self.functions.classify_query_n)(
                self.raw(),
                sql.as_ptr().cast(),
                sql.len(),
                ptr::null(),
                0,
                &raw mut analysis,
            )
        };
        if state == 0 && analysis.query_class == 0 {
            StatementEffect::ReadOnly
        } else {
            StatementEffect::MayChange
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the handle is open and not used again.
        unsafe { (self.functions.close_conn)(self.handle.as_ptr()) };
    }
}

/// Rows and bytes that a statement has read, written and returned.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    /// Rows read from storage.
    pub(crate) read_rows: u64,
    /// Bytes read from storage, uncompressed.
    pub(crate) read_bytes: u64,
    /// Rows written, including those of materialized views.
    pub(crate) written_rows: u64,
    /// Bytes written, uncompressed.
    pub(crate) written_bytes: u64,
    /// Rows of the result.
    pub(crate) result_rows: u64,
    /// Bytes of the result in the engine's columns.
    pub(crate) result_bytes: u64,
}

impl std::ops::AddAssign for Progress {
    fn add_assign(&mut self, other: Self) {
        self.read_rows += other.read_rows;
        self.read_bytes += other.read_bytes;
        self.written_rows += other.written_rows;
        self.written_bytes += other.written_bytes;
        self.result_rows += other.result_rows;
        self.result_bytes += other.result_bytes;
    }
}

/// A result or a part of one; `as_ref` returns its formatted bytes.
pub(crate) struct EngineResult {
    functions: &'static Functions,
    handle: NonNull<c_void>,
}

// SAFETY: a result owns its memory, independently of its connection.
unsafe impl Send for EngineResult {}

impl EngineResult {
    fn new(functions: &'static Functions, handle: ResultHandle) -> Result<Self, String> {
        let answer = Self {
            functions,
            handle: NonNull::new(handle).ok_or("the engine gave no result")?,
        };
        // SAFETY: the handle is valid; the text, if any, is a C string owned by the result.
        match unsafe { text((functions.result_error)(handle)) } {
            Some(error) => Err(error),
            None => Ok(answer),
        }
    }

    /// Returns what the statement has read, written and returned.
    pub(crate) fn progress(&self) -> Progress {
        let handle = self.handle.as_ptr();
        // SAFETY: the handle is valid; these functions only read numbers.
        unsafe {
            Progress {
                read_rows: (self.functions.result_storage_rows_read)(handle),
                read_bytes: (self.functions.result_storage_bytes_read)(handle),
                written_rows: (self.functions.result_rows_written)(handle),
                written_bytes: (self.functions.result_bytes_written)(handle),
                result_rows: (self.functions.result_rows_read)(handle),
                result_bytes: (self.functions.result_bytes_read)(handle),
            }
        }
    }
}

impl AsRef<[u8]> for EngineResult {
    fn as_ref(&self) -> &[u8] {
        let handle = self.handle.as_ptr();
        // SAFETY: the buffer belongs to the result, is valid for its length while the result lives, and
        // is never written to.
        unsafe {
            let buffer = (self.functions.result_buffer)(handle).cast::<u8>();
            let length = (self.functions.result_length)(handle);
            if buffer.is_null() || length == 0 {
                &[]
            } else {
                slice::from_raw_parts(buffer, length)
            }
        }
    }
}

impl Drop for EngineResult {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and not used again.
        unsafe { (self.functions.destroy_query_result)(self.handle.as_ptr()) };
    }
}

/// A running `SELECT`. Dropping it before its end cancels it.
pub(crate) struct Select<'a> {
    connection: &'a mut Connection,
    stream: EngineResult,
    ended: bool,
}

impl Select<'_> {
    /// Returns the next part, `None` at the end. Every part of RowBinaryWithNamesAndTypes repeats the
    /// header.
    pub(crate) fn next(&mut self) -> Result<Option<EngineResult>, String> {
        if self.ended {
            return Ok(None);
        }
        let functions = self.connection.functions;
        // SAFETY: connection and stream are alive and belong together; `&mut` excludes other users.
        let handle = unsafe {
            (functions.stream_fetch_result)(self.connection.raw(), self.stream.handle.as_ptr())
        };
        let answer = EngineResult::new(functions, handle).inspect_err(|_| self.ended = true)?;
        if answer.as_ref().is_empty() {
            self.ended = true;
            return Ok(None);
        }
        Ok(Some(answer))
    }
}

impl Drop for Select<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let functions = self.connection.functions;
            // SAFETY: as in `next`; the result itself is destroyed afterwards, by its own drop.
            unsafe {
                (functions.stream_cancel_query)(self.connection.raw(), self.stream.handle.as_ptr());
            }
        }
    }
}

/// A running `INSERT`. Dropping it before [`Insert::finish`] cancels it.
pub(crate) struct Insert<'a> {
    connection: &'a mut Connection,
    handle: NonNull<c_void>,
}

impl Insert<'_> {
    fn error(&self) -> Option<String> {
        // SAFETY: the handle is valid; the text belongs to it.
        unsafe {
            text((self.connection.functions.stream_insert_error)(
                self.handle.as_ptr(),
            ))
        }
    }

    /// Passes more data, which is copied. Waits while the engine is behind. Returns false if the engine
    /// has failed; [`Insert::finish`] then returns the reason.
    pub(crate) fn append(&mut self, data: &[u8]) -> bool {
        // SAFETY: `data` is valid for its length during the call.
        unsafe {
            (self.connection.functions.stream_append)(
                self.handle.as_ptr(),
                data.as_ptr().cast(),
                data.len(),
            ) == 0
        }
    }

    /// Declares the data complete and waits until it is stored.
    pub(crate) fn finish(self) -> Result<Progress, String> {
        let functions = self.connection.functions;
        // SAFETY: the handle is valid; it is destroyed by `drop` right after.
        let handle = unsafe { (functions.stream_done)(self.handle.as_ptr()) };
        EngineResult::new(functions, handle).map(|answer| answer.progress())
    }
}

impl Drop for Insert<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and not used again; an unfinished insert is cancelled.
        unsafe { (self.connection.functions.destroy_insert_stream)(self.handle.as_ptr()) };
    }
}

/// # Safety
/// `pointer` is null or a C string that is valid during the call.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) }.to_string_lossy();
    (!text.is_empty()).then(|| text.into_owned())
}
