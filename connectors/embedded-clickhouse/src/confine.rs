//! Confines the process to what the engine needs, so that no statement can reach the rest of the machine.
//!
//! The engine is a large C++ library with functions, engines and formats that open files and connections.
//! Refusing them by name ([`crate::policy`]) depends on a complete list; this module does not.
//!
//! What the process may touch after [`confine`]:
//!
//! | path | access |
//! |---|---|
//! | `<data_dir>/store`, `<data_dir>/spool` | everything, except executing |
//! | `<data_dir>/config.xml`, `users.xml` | read |
//! | the library file, and [`READABLE`] | read |
//! | [`DEVICES`] | read and write |
//! | descriptors that are open already: the listening socket, the lock, stderr | as opened |
//!
//! [`REFUSED_CALLS`] fail with `EPERM`: the process opens no connection, executes no program, and does not
//! look into other processes. Signals reach only itself (Landlock ABI 6, Linux 6.12). File names and
//! attributes can still be read by code in the process, because Landlock does not cover
//! `stat`.
//!
//! Sources: `Documentation/userspace-api/landlock.rst` and `seccomp_filter.rst` of the Linux kernel.
//!
//! Not here: which statements are allowed, and the access of clients.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::error::Error;

/// The access rights that must be restricted: Linux 5.19. Older kernels refuse to move a file to another
/// directory in a restricted process, which the engine must be able to do.
const REQUIRED: ABI = ABI::V2;

/// The access rights that are restricted if the kernel knows them.
const WANTED: ABI = ABI::V6;

/// What the loader and the engine read outside the data directory: shared libraries, time zones, the
/// number of processors and the memory limit of the control group. Nothing here is secret.
const READABLE: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/sys/devices/system",
    "/sys/fs/cgroup",
];

/// Devices without content.
const DEVICES: &[&str] = &["/dev/null", "/dev/urandom"];

/// System calls that fail with `EPERM`. `accept` works on the socket that listens already; `socketpair`
/// cannot leave the process.
const REFUSED_CALLS: &[i64] = &[
    // Other machines and other processes' sockets.
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    // Programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    // Ways around the rules for files and calls.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_open_by_handle_at,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// The paths of one data directory.
pub(crate) struct AllowedPaths {
    /// Directories with all access.
    pub(crate) owned: Vec<PathBuf>,
    /// Files and directories that are only read.
    pub(crate) read: Vec<PathBuf>,
}

/// Confines the calling thread and every thread it starts from now on; this cannot be undone. It must be
/// the only thread of the process, because Landlock does not restrict threads that exist.
///
/// # Errors
/// [`Error::ConfineThreads`] if other threads exist, [`Error::Confine`] if the kernel cannot restrict the
/// process. The process may then be restricted in part.
pub(crate) fn confine(paths: &AllowedPaths) -> Result<(), Error> {
    let threads = fs::read_dir("/proc/self/task")
        .map_err(|error| Error::Confine {
            reason: format!("cannot count the threads of the process: {error}"),
        })?
        .count();
    if threads != 1 {
        return Err(Error::ConfineThreads { threads });
    }
    restrict_files(paths).map_err(|error| Error::Confine {
        reason: format!("Landlock: {error}"),
    })?;
    restrict_calls().map_err(|error| Error::Confine {
        reason: format!("seccomp: {error}"),
    })
}

fn restrict_files(paths: &AllowedPaths) -> Result<(), landlock::RulesetError> {
    let all = AccessFs::from_all(WANTED);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(REQUIRED))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::from_all(WANTED))?
        .create()?;
    let owned = all & !BitFlags::from(AccessFs::Execute);
    let constant = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
    for (paths, access) in [
        (&paths.owned, owned),
        (&paths.read, read),
        (&constant(READABLE), read),
        (&constant(DEVICES), AccessFs::ReadFile | AccessFs::WriteFile),
    ] {
        for path in paths {
            ruleset = allow(ruleset, path, access)?;
        }
    }
    ruleset.restrict_self().map(drop)
}

/// Allows `access` to `path` and what is in it. A path that does not exist stays forbidden.
fn allow(
    ruleset: landlock::RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, landlock::RulesetError> {
    let Ok(opened) = PathFd::new(path) else {
        return Ok(ruleset);
    };
    let access = if path.is_dir() {
        access
    } else {
        access & AccessFs::from_file(WANTED)
    };
    ruleset.add_rule(PathBeneath::new(opened, access))
}

fn restrict_calls() -> Result<(), seccompiler::Error> {
    let rules: BTreeMap<_, _> = REFUSED_CALLS
        .iter()
        .map(|&call| (call, Vec::new()))
        .collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        TargetArch::try_from(std::env::consts::ARCH)?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)
}
