//! The functions of libchdb that are used, with the types `chdb.h` gives them.
//!
//! Guarantees: what is loaded under a name has the type declared beside the name, because both
//! stand in one line.
//!
//! Deliberately not here: the header's deprecated half, Arrow, backups.

use std::ffi::{c_char, c_int, c_void};

/// `chdb_connection *`: the handle, and the box it lies in.
pub(super) type ConnectionHandle = *mut *mut c_void;
/// `chdb_result *`.
pub(super) type ResultHandle = *mut c_void;
/// `chdb_insert_stream`.
pub(super) type InsertHandle = *mut c_void;

/// `chdb_query_analysis_v1`.
#[repr(C)]
pub(super) struct Analysis {
    pub(super) struct_size: u32,
    pub(super) statement_count: u32,
    pub(super) flags: u32,
    pub(super) query_class: u32,
}

/// Declares the table of functions and its loader in one place, so that a name and its type
/// cannot drift apart.
macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $output:ty)?;)*) => {
        /// The library's functions, by their names without `chdb_`.
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $output)?,)*
        }

        impl Functions {
            /// Looks all of them up.
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
    classify_query_n: fn(*mut c_void, *const c_char, usize, *const c_char, usize, *mut Analysis) -> c_int;
    set_signal_handlers_enabled: fn(c_int);
    shutdown: fn() -> c_int;
}
