//! The data directory: its lock, and the configuration the engine is started with.
//!
//! Guarantees: one process at a time uses it, ensured by a lock of the operating system that ends with
//! the process; the engine never reads a configuration file from the working directory; the body spool
//! is empty after a start.
//!
//! ```text
//! <data_dir>/lock         locked while the process lives; contains its id, for operators
//! <data_dir>/config.xml   written at every start
//! <data_dir>/users.xml    written at every start
//! <data_dir>/spool/       bodies too large for memory, unlinked as soon as they are open
//! <data_dir>/store/       the engine's data
//! ```
//!
//! Not here: the format of the engine's data.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::options::Options;

/// A locked data directory. Dropping it releases the lock.
pub(crate) struct DataDir {
    root: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory if needed, locks it and writes the configuration.
    pub(crate) fn open(options: &Options) -> Result<Self, Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::PrepareDataDir { path, source }
        };
        fs::create_dir_all(&options.data_dir).map_err(failed(&options.data_dir))?;
        let root = fs::canonicalize(&options.data_dir).map_err(failed(&options.data_dir))?;
        let lock = lock(&root)?;
        let data_dir = Self { root, _lock: lock };
        let spool = data_dir.spool();
        match fs::remove_dir_all(&spool) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&spool)(error));
            }
            _ => {}
        }
        for path in [&spool, &data_dir.store()] {
            fs::create_dir_all(path).map_err(failed(path))?;
        }
        for (path, content) in [
            (data_dir.config(), config_xml(&data_dir.users(), options)),
            (data_dir.users(), users_xml(options)),
        ] {
            fs::write(&path, content).map_err(failed(&path))?;
        }
        Ok(data_dir)
    }

    /// Returns the directory of the engine's data.
    pub(crate) fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Returns the path of the server configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.root.join("config.xml")
    }

    /// Returns the directory of large bodies.
    pub(crate) fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Returns the path of the user configuration.
    pub(crate) fn users(&self) -> PathBuf {
        self.root.join("users.xml")
    }
}

fn lock(root: &Path) -> Result<File, Error> {
    let path = root.join("lock");
    let failed = |source| Error::PrepareDataDir {
        path: path.clone(),
        source,
    };
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let holder = file.read_to_string(&mut text).ok();
            return Err(Error::DataDirInUse {
                path: root.to_owned(),
                holder: holder.and_then(|_| text.trim().parse().ok()),
            });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed)?;
    Ok(file)
}

/// Returns the server settings. `max_server_memory_usage` limits the engine as a whole; the caches are
/// small because the tables are small. No system log is configured, so no `query_log`, `trace_log`,
/// `metric_log` or `part_log` is written.
fn config_xml(users: &Path, options: &Options) -> String {
    let memory = options.max_memory_bytes;
    format!(
        "<clickhouse>
    <users_config>{users}</users_config>
    <max_server_memory_usage>{memory}</max_server_memory_usage>
    <mark_cache_size>{mark_cache}</mark_cache_size>
    <primary_index_cache_size>{mark_cache}</primary_index_cache_size>
    <index_mark_cache_size>{mark_cache}</index_mark_cache_size>
    <query_condition_cache_size>{mark_cache}</query_condition_cache_size>
    <uncompressed_cache_size>0</uncompressed_cache_size>
    <compiled_expression_cache_size>33554432</compiled_expression_cache_size>
    <max_thread_pool_size>1000</max_thread_pool_size>
    <max_thread_pool_free_size>16</max_thread_pool_free_size>
    <merge_tree>
        <max_bytes_to_merge_at_max_space_in_pool>10737418240</max_bytes_to_merge_at_max_space_in_pool>
    </merge_tree>
</clickhouse>
",
        users = escape(&users.display().to_string()),
        mark_cache = memory / 32,
    )
}

/// Returns the engine's only user and its settings.
///
/// - `async_insert` is on by default since 26.3; it is off, because an acknowledged row must be stored.
/// - `session_timezone`: the engine uses the machine's time zone; results use UTC.
/// - `max_execution_time`: a query that nobody waits for must not keep its place for ever. A client can
///   set it up to an hour; 0, which means no limit, is refused.
/// - Sorting and grouping spill to disk before they reach a query's limit.
/// - `implicit_select` and `allow_introspection_functions` are set as in a server, not as in a shell.
/// - Sources (`file`, `url`, `s3`, `remote`, …) give access to files and machines outside the database;
///   users who may query must not get that access.
fn users_xml(options: &Options) -> String {
    let query = options.max_memory_bytes / 5 * 3;
    let spill = query / 2;
    format!(
        "<clickhouse>
    <profiles>
        <default>
            <max_memory_usage>{query}</max_memory_usage>
            <max_bytes_before_external_group_by>{spill}</max_bytes_before_external_group_by>
            <max_bytes_before_external_sort>{spill}</max_bytes_before_external_sort>
            <async_insert>0</async_insert>
            <wait_for_async_insert>1</wait_for_async_insert>
            <session_timezone>UTC</session_timezone>
            <implicit_select>0</implicit_select>
            <allow_introspection_functions>0</allow_introspection_functions>
            <max_execution_time>600</max_execution_time>
            <constraints>
                <max_execution_time><min>1</min><max>3600</max></max_execution_time>
                <max_memory_usage><min>1</min><max>{query}</max></max_memory_usage>
            </constraints>
        </default>
    </profiles>
    <users>
        <default>
            <password></password>
            <networks><ip>::/0</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <grants>
                <query>GRANT ALL ON *.*</query>
                <query>REVOKE SOURCES ON *.*</query>
            </grants>
        </default>
    </users>
    <quotas><default></default></quotas>
</clickhouse>
"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn directory_is_locked_by_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new(dir.path(), "127.0.0.1:0".parse().unwrap());
        let held = DataDir::open(&options).unwrap();
        let own = std::process::id();
        match DataDir::open(&options).err() {
            Some(Error::DataDirInUse { holder, .. }) => assert_eq!(holder, Some(own)),
            other => unreachable!("{other:?}"),
        }
        drop(held);
        DataDir::open(&options).unwrap();
    }

    #[test]
    fn spool_is_empty_after_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new(dir.path(), "127.0.0.1:0".parse().unwrap());
        drop(DataDir::open(&options).unwrap());
        fs::write(dir.path().join("spool/left-over"), "x").unwrap();
        let held = DataDir::open(&options).unwrap();
        assert_eq!(fs::read_dir(held.spool()).unwrap().count(), 0);
    }
}
