// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! System calls that the device process may make once it is jailed. Any other is refused with EPERM: the guest's request fails, its
//! sandbox lives on.

use std::collections::BTreeMap;

use base::{Context, Kind, Result};
use libc::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// What the Rust runtime, the allocator and threads need.
const RUNTIME: &[c_long] = &[
    SYS_brk,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_clone,
    SYS_clone3,
    SYS_close,
    SYS_exit,
    SYS_exit_group,
    SYS_futex,
    SYS_getpid,
    SYS_getrandom,
    SYS_gettid,
    SYS_madvise,
    SYS_mmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_munmap,
    SYS_restart_syscall,
    SYS_rseq,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sched_getaffinity,
    SYS_sched_yield,
    SYS_set_robust_list,
    SYS_sigaltstack,
    SYS_tgkill,
];

/// Event loops, sockets, timers.
const EVENTS: &[c_long] = &[
    SYS_accept4,
    SYS_connect,
    SYS_dup,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_eventfd2,
    SYS_fcntl,
    SYS_getsockopt,
    SYS_read,
    SYS_readv,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_sendmsg,
    SYS_sendto,
    SYS_shutdown,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_write,
    SYS_writev,
];

/// Older spellings, which the C library still uses where they exist.
#[cfg(target_arch = "x86_64")]
const OLD: &[c_long] = &[SYS_epoll_wait, SYS_open, SYS_poll, SYS_readlink];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[c_long] = &[];

/// The file system's own.
const FILES: &[c_long] = &[
    SYS_capget, // dropping CAP_FSETID for one write
    SYS_capset,
    SYS_prctl, // the same, by libcap-ng; thread names
    SYS_copy_file_range,
    SYS_fallocate,
    SYS_fchdir, // attributes, relative to a directory of descriptors
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchownat,
    SYS_fdatasync,
    SYS_fgetxattr,
    SYS_flistxattr,
    SYS_flock,
    SYS_fremovexattr,
    SYS_fsetxattr,
    SYS_fstat,
    SYS_fstatfs,
    SYS_fsync,
    SYS_ftruncate,
    SYS_getdents64,
    SYS_getegid,
    SYS_geteuid,
    SYS_getxattr,
    SYS_linkat,
    SYS_listxattr,
    SYS_lseek,
    SYS_mkdirat,
    SYS_mknodat,
    SYS_name_to_handle_at,
    SYS_newfstatat,
    SYS_openat,
    SYS_openat2,
    SYS_open_by_handle_at,
    SYS_preadv,
    SYS_pread64,
    SYS_preadv2,
    SYS_pwritev,
    SYS_pwritev2,
    SYS_pwrite64,
    SYS_readlinkat,
    SYS_removexattr,
    SYS_renameat,
    SYS_renameat2,
    SYS_setgroups, // acting as the guest's user
    SYS_setresgid,
    SYS_setresuid,
    SYS_setxattr,
    SYS_statx,
    SYS_symlinkat,
    SYS_syncfs,
    SYS_umask,
    SYS_unlinkat,
    SYS_utimensat,
];

/// Calls of which one argument (call, its index, its value) must have one value.
const ARGUMENTS: &[(c_long, u8, u64)] = &[
    (SYS_socket, 0, AF_UNIX as u64),   // dialling for the guest
    (SYS_unshare, 0, CLONE_FS as u64), // a working directory of the thread's own
    (SYS_ioctl, 1, FIONBIO),           // sockets that do not block
];

fn filter() -> std::result::Result<BpfProgram, Box<dyn std::error::Error + Send + Sync>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in RUNTIME.iter().chain(EVENTS).chain(OLD).chain(FILES) {
        rules.insert(*call, Vec::new());
    }
    for (call, index, value) in ARGUMENTS {
        let only = SeccompCondition::new(*index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *value)?;
        rules.insert(*call, vec![SeccompRule::new(vec![only])?]);
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let refuse = SeccompAction::Errno(EPERM.cast_unsigned());
    Ok(SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)?.try_into()?)
}

/// Confines this thread and all that it starts, for good. Needs `no_new_privs`.
pub fn confine() -> Result<()> {
    let what = || "confine system calls".to_owned();
    let program = filter().map_err(std::io::Error::other).context(Kind::Bug, what)?;
    seccompiler::apply_filter(&program).context(Kind::Denied, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confined_thread_opens_files_and_starts_no_program() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let confined = std::thread::spawn(move || {
            capctl::prctl::set_no_new_privs().unwrap();
            confine().unwrap();
            let read = std::fs::read("/dev/null").map(|bytes| bytes.len());
            let internet = std::net::UdpSocket::bind("127.0.0.1:0").map(drop);
            let mounted = nix::mount::umount("/nowhere");
            one.set_nonblocking(true).unwrap();
            (read, internet, mounted)
        });
        let (read, internet, mounted) = confined.join().unwrap();
        assert_eq!(read.unwrap(), 0);
        assert_eq!(internet.unwrap_err().raw_os_error(), Some(EPERM));
        assert_eq!(mounted, Err(nix::Error::EPERM));
    }
}
