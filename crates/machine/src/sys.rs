// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! System calls and instructions that have no safe wrapper in our libraries.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `_IO(KVMIO, 0x00)` and `_IO(KVMIO, 0x01)` of `linux/kvm.h`.
const KVM_GET_API_VERSION: libc::c_ulong = 0xAE00;
const KVM_CREATE_VM: libc::c_ulong = 0xAE01;

/// The version of the KVM interface; 12 since Linux 2.6.22.
pub fn kvm_api_version(kvm: &File) -> io::Result<i32> {
    // SAFETY: this request takes no argument and touches no memory of ours.
    let version = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_GET_API_VERSION, 0) };
    if version < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(version)
}

/// Creates an empty virtual machine of the default type; it ends with the descriptor.
pub fn kvm_create_vm(kvm: &File) -> io::Result<OwnedFd> {
    // SAFETY: the argument is the machine's type, an integer.
    let fd = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_CREATE_VM, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The processor's time stamp counter.
#[cfg(target_arch = "x86_64")]
pub fn rdtsc() -> Option<u64> {
    // SAFETY: the instruction reads a counter; every x86-64 processor has it and Linux lets user space use it.
    Some(unsafe { std::arch::x86_64::_rdtsc() })
}

/// Other processors have none that a guest here could use.
#[cfg(not(target_arch = "x86_64"))]
pub fn rdtsc() -> Option<u64> {
    None
}

/// Marks every descriptor from 3 on close-on-exec.
pub fn close_all_on_exec() -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: changes flags of descriptors, no memory; async-signal-safe.
    let rc = unsafe { libc::close_range(3, libc::c_uint::MAX, flags) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets `descriptor` survive exec.
pub fn keep_on_exec(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: sets a flag of a descriptor; async-signal-safe.
    let rc = unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Runs `step` in the child between fork and exec.
pub fn before_exec(command: &mut Command, step: impl Fn() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: the only caller, `process::spawn`, passes a step of plain system calls: it neither allocates nor locks.
    unsafe { command.pre_exec(step) };
}
