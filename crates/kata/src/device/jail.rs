// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What the device process gives up before it meets the guest.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use base::{Context, Kind, Result};
use capctl::{Cap, CapSet, CapState};
use nix::fcntl::{OFlag, OpenHow, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::getppid;

/// The file server acts for every user of the guest. Each with its reason:
const KEPT: [Cap; 9] = [
    Cap::CHOWN,        // chown(2) of the guest's root
    Cap::DAC_OVERRIDE, // files of any owner
    Cap::FOWNER,       // chmod and utimes of files that others own
    Cap::FSETID,       // keeping set-group-id where the guest's root may
    Cap::MKNOD,        // device nodes; they mean nothing on the host's side of the share
    Cap::SETFCAP,      // file capabilities
    Cap::SETGID,       // creating with the group of the guest's user
    Cap::SETUID,       // creating with that user
    Cap::SYS_ADMIN,    // trusted.* attributes (overlay whiteouts inside containers)
];

/// A file server holds a descriptor for each file that the guest knows: as many as the host allows. How many that is.
pub fn raise_descriptor_limit() -> Result<u64> {
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok();
    let most = most.and_then(|text| text.trim().parse().ok()).unwrap_or(1 << 20);
    let wanted = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    // Without CAP_SYS_RESOURCE the hard limit is what there is.
    wanted
        .or_else(|_| {
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        })
        .attempt(|| "raise the limit of open files".into())?;
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).attempt(|| "read the limit of open files".into())?;
    Ok(soft)
}

/// Ends with the monitor; the limit on memory is the sandbox's cgroup, so keep it small.
pub fn follow_parent() -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).attempt(|| "ask to end with the monitor".into())?;
    if getppid().as_raw() == 1 {
        return Err(base::Error::new(
            Kind::Gone,
            "the monitor ended before its device process began",
        ));
    }
    Ok(())
}

/// Makes `share` the root of a mount namespace of our own. Mounts that the monitor makes below it later still appear, if they are
/// shared there. The working directory becomes `sandbox`, as a mount of its own: nothing above it can be reached.
pub fn enter(share: &Path, sandbox: &Path) -> Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).attempt(|| "leave the mount namespace".into())?;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)
        .attempt(|| "make mounts follow the monitor's".into())?;
    // Only a mount can be a root; a bind mount of one that follows the monitor's follows it too.
    let root = bound(share, MsFlags::MS_REC)?;
    let sandbox = bound(sandbox, MsFlags::empty())?;
    nix::unistd::fchdir(&root).attempt(|| format!("enter {}", share.display()))?;
    // The old root ends up on top of the new one, and is then taken off: no directory is needed for it.
    nix::unistd::pivot_root(".", ".").attempt(|| format!("make {} the root", share.display()))?;
    umount2(".", MntFlags::MNT_DETACH).attempt(|| "let go of the host's root".into())?;
    nix::unistd::fchdir(&sandbox).attempt(|| "return to the sandbox's directory".into())?;
    umask(Mode::empty());
    Ok(())
}

fn bound(dir: &Path, how: MsFlags) -> Result<OwnedFd> {
    let none = None::<&str>;
    mount(Some(dir), dir, none, MsFlags::MS_BIND | how, none).attempt(|| format!("bind {}", dir.display()))?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(dir, flags, Mode::empty()).attempt(|| format!("open {}", dir.display()))
}

/// `/proc/self/mountinfo`, through a descriptor of `/proc/self/fd` that was opened before the root changed.
pub fn mount_table(descriptors: &File) -> Result<File> {
    let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC);
    let file = openat2(descriptors, "../mountinfo", how).attempt(|| "open the mount table".into())?;
    Ok(File::from(file))
}

/// Keeps [`KEPT`], for good; and what opens files by `handles`, if they are used.
pub fn drop_privileges(handles: bool) -> Result<()> {
    let what = || "drop privileges".to_owned();
    let mut kept = CapSet::empty();
    kept.extend(KEPT);
    if handles {
        kept.add(Cap::DAC_READ_SEARCH);
    }
    for cap in Cap::iter().filter(|cap| !kept.has(*cap)) {
        match capctl::bounding::drop(cap) {
            Err(e) if e.code() != libc::EINVAL => return Err(e).context(Kind::Denied, what),
            _ => {}
        }
    }
    let held = CapState::get_current().context(Kind::Denied, what)?;
    let state = CapState {
        effective: kept & held.permitted,
        permitted: kept & held.permitted,
        inheritable: CapSet::empty(),
    };
    state.set_current().context(Kind::Denied, what)?;
    capctl::prctl::set_no_new_privs().context(Kind::Denied, what)
}
