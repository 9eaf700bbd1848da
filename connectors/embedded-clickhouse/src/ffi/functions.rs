//! The functions of libchdb that are used, with their types from `chdb.h`.
//!
//! Guarantees: a function has the type declared for its name, because both are in one line.
//!
//! Not here: deprecated functions of the header, Arrow, backups.

use std::ffi::{c_char, c_int, c_void};

/// `chdb_connection *`: a pointer to the handle.
pub(super) type ConnectionHandle = *mut *mut c_void;
/// `chdb_result *`.
pub(super) type ResultHandle = *mut c_void;
/// `chdb_insert_stream`.
pub(super) type InsertHandle = *mut c_void;

/// `chdb_query_analysis_v1`.
#[repr(C)]
pub(super) struct QueryAnalysis {
    pub(super) struct_size: u32,
    pub(super) statement_count: u32,
    pub(super) flags: u32,
    pub(super) query_class: u32,
}

/// Declares the table of functions and its loader together, so that names and types stay consistent.
macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $output:ty)?;)*) => {
        /// The library's functions, by their names without `chdb_`.
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $output)?,)*
        }

        impl Functions {
            /// Loads all functions.
            pub(super) fn load(library: &libloading::Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    $(
                        // SAFETY: the type is the one `chdb.h` declares for this symbol.
                        $name: unsafe {
                            *library.get::<unsafe extern "C" fn($($argument),*) $(-> $output)?>(
                                concat!("chdb_", stringify!($name)).as_bytes(),
                            )?
                        },
                    )*
                })
            }
        }
    };
}

functions! {
    connect: fn(c_int, *mut *mut c_char) -> ConnectionHandle;
    close_conn: fn(ConnectionHandle);
    query_with_params_n: fn(*mut c_void, *const c_char, usize, *const c_char, usize,
        *const *const c_char, *const usize, *const *const c_char, *const usize, usize) -> ResultHandle;
    stream_query_with_params_n: fn(*mut c_void, *const c_char, usize, *const c_char, usize,
        *const *const c_char, *const usize, *const *const c_char, *const usize, usize) -> ResultHandle;
    stream_fetch_result: fn(*mut c_void, ResultHandle) -> ResultHandle;
    stream_cancel_query: fn(*mut c_void, ResultHandle);
    destroy_query_result: fn(ResultHandle);
    stream_insert_with_params_n: fn(*mut c_void, *const c_char, usize, *const c_char, usize,
        *const *const c_char, *const usize, *const *const c_char, *const usize, usize) -> InsertHandle;
    stream_append: fn(InsertHandle, *const c_void, usize) -> c_int;
    stream_done: fn(InsertHandle) -> ResultHandle;
    stream_insert_error: fn(InsertHandle) -> *const c_char;
    destroy_insert_stream: fn(InsertHandle);
    result_buffer: fn(ResultHandle) -> *const c_char;
    result_length: fn(ResultHandle) -> usize;
    result_error: fn(ResultHandle) -> *const c_char;
    result_rows_read: fn(ResultHandle) -> u64;
    result_bytes_read: fn(ResultHandle) -> u64;
    result_storage_rows_read: fn(ResultHandle) -> u64;
    result_storage_bytes_read: fn(ResultHandle) -> u64;
    result_rows_written: fn(ResultHandle) -> u64;
    result_bytes_written: fn(ResultHandle) -> u64;
    classify_query_n: fn(*mut c_void, *const c_char, usize, *const c_char, usize, *mut QueryAnalysis) -> c_int;
    set_signal_handlers_enabled: fn(c_int);
    shutdown: fn() -> c_int;
}
