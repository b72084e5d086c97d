// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The last steps of every process: its streams, identity and confinement, then its program.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};
use nix::fcntl::AtFlags;
use nix::sys::personality::{Persona, set as set_personality};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, fstat, umask};
use nix::unistd::{
    AccessFlags, Gid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, eaccess, execve, execveat, fchown, setgroups,
    setresgid, setresuid,
};
use oci_spec::runtime::{IOPriorityClass, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process};

use crate::capability::Sets;
use crate::channel::{Channel, Message};
use crate::console::Console;
use crate::launch::Request;
use crate::seccomp::Filter;
use crate::tree::c_string;
use crate::{hook, pause, sys, user};

/// PER_LINUX32: uname(2) tells a 32-bit machine.
const THIRTY_TWO_BITS: libc::c_int = 0x0008;

const PREFIX: &str = "unable to start container process";

/// Where stdin, stdout and stderr come from.
#[derive(Debug)]
pub enum Streams {
    /// Three descriptors.
    Given(Vec<OwnedFd>),
    /// A terminal for all.
    Terminal(Console),
}

/// Prepares, says `Ready`, waits for `Go`, and executes the program. `further`: in a container that runs. Returns on failure only.
pub fn run(channel: &Channel, request: &Request, further: bool, streams: &Streams) -> Result<Infallible> {
    let process = request
        .spec
        .process()
        .as_ref()
        .ok_or_else(|| Error::new(Kind::Bug, "no process"))?;
    let warn = |text: String| channel.warn(text);
    let seccomp = request.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let seccomp = seccomp.map(Filter::new).transpose()?;
    place(streams, process.user().uid())?;
    umask(Mode::from_bits_truncate(process.user().umask().unwrap_or(0o022)));
    schedule(process)?;
    if let Some(personality) = request
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.personality().as_ref())
    {
        let persona = match personality.domain() {
            LinuxPersonalityDomain::PerLinux => Persona::empty(),
            LinuxPersonalityDomain::PerLinux32 => Persona::from_bits_retain(THIRTY_TWO_BITS),
        };
        set_personality(persona).attempt(|| "set the personality".into())?;
    }
    let confined = process.no_new_privileges().unwrap_or(false);
    if confined {
        capctl::prctl::set_no_new_privs().attempt(|| "set no_new_privs".into())?;
    }
    let sets = Sets::new(process.capabilities().as_ref(), &warn)?;
    // As root first: the directory may be closed to the user, who then inherits it, as with runc.
    let there = enter_cwd(process.cwd());
    // A filter needs CAP_SYS_ADMIN or no_new_privs: with the former it comes before the capabilities go.
    if let (Some(filter), false) = (&seccomp, confined) {
        filter.load()?;
    }
    become_user(process, &sets, &warn)?;
    if there.is_err() {
        enter_cwd(process.cwd())?;
    }
    let environment = environment(process);
    let args: Vec<CString> = process
        .args()
        .iter()
        .flatten()
        .map(|arg| c_string(arg))
        .collect::<Result<_>>()?;
    let name = process
        .args()
        .as_deref()
        .and_then(<[String]>::first)
        .map_or("", String::as_str);
    let program = if request.pause {
        pause::open()?
    } else {
        Program::File(find(name, &environment)?)
    };
    sys::close_on_exec_from(3).attempt(|| "mark descriptors".into())?;

    let console = match streams {
        Streams::Terminal(console) => vec![console.master.as_fd()],
        Streams::Given(_) => vec![],
    };
    channel.send(&Message::Ready, &console)?;
    if !matches!(channel.receive()?, Some((Message::Go, _))) {
        // Nobody wants it any more.
        std::process::exit(0);
    }
    if !further {
        hook::start_container(&request.id, &request.spec)?;
    }
    sys::reset_signals();
    SigSet::empty().thread_set_mask().attempt(|| "unblock signals".into())?;
    let environment: Vec<CString> = environment.iter().map(|entry| c_string(entry)).collect::<Result<_>>()?;
    if let (Some(filter), true) = (&seccomp, confined) {
        filter.load()?;
    }
    program.execute(&args, &environment)
}

/// What a process is to execute.
#[derive(Debug)]
pub enum Program {
    /// Of the container.
    File(PathBuf),
    /// Of the guest, with the one word that is its command line.
    Own(OwnedFd, CString),
}

impl Program {
    /// Returns on failure only.
    fn execute(&self, args: &[CString], environment: &[CString]) -> Result<Infallible> {
        let (name, executed) = match self {
            Program::File(file) => (
                file.display().to_string(),
                execve(&crate::tree::c_path(file)?, args, environment),
            ),
            Program::Own(file, name) => (
                name.to_string_lossy().into_owned(),
                execveat(file, c"", &[name], environment, AtFlags::AT_EMPTY_PATH),
            ),
        };
        let Err(errno) = executed;
        Err(errno).attempt(|| format!("{PREFIX}: exec {name}: {}", errno.desc().to_lowercase()))
    }
}

fn place(streams: &Streams, uid: u32) -> Result<()> {
    let what = || "place the standard streams".to_owned();
    let fds: [BorrowedFd<'_>; 3] = match streams {
        Streams::Terminal(console) => {
            sys::control_terminal(console.peer.as_fd()).attempt(|| "take the terminal".into())?;
            [console.peer.as_fd(); 3]
        }
        Streams::Given(fds) => match fds.as_slice() {
            [stdin, stdout, stderr] => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            _ => return Err(Error::new(Kind::Bug, "three streams are needed")),
        },
    };
    let null = nix::sys::stat::makedev(1, 3);
    for fd in fds {
        // The user may open /dev/stdout again. What cannot be given away stays as it is.
        if fstat(fd).is_ok_and(|stat| stat.st_rdev != null) {
            let _ = fchown(fd, Some(Uid::from_raw(uid)), None);
        }
    }
    dup2_stdin(fds[0]).attempt(what)?;
    dup2_stdout(fds[1]).attempt(what)?;
    dup2_stderr(fds[2]).attempt(what)
}

fn schedule(process: &Process) -> Result<()> {
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level =
            libc::c_int::try_from(priority.priority()).context(Kind::Invalid, || "process.ioPriority".into())?;
        sys::ioprio_set(class << 13 | level).attempt(|| "set the I/O priority".into())?;
    }
    let Some(scheduler) = process.scheduler() else {
        return Ok(());
    };
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => libc::SCHED_OTHER,
        LinuxSchedulerPolicy::SchedFifo => libc::SCHED_FIFO,
        LinuxSchedulerPolicy::SchedRr => libc::SCHED_RR,
        LinuxSchedulerPolicy::SchedBatch => libc::SCHED_BATCH,
        LinuxSchedulerPolicy::SchedIso => {
            return Err(Error::new(
                Kind::Unsupported,
                "process.scheduler: no kernel has SCHED_ISO",
            ));
        }
        LinuxSchedulerPolicy::SchedIdle => libc::SCHED_IDLE,
        LinuxSchedulerPolicy::SchedDeadline => libc::SCHED_DEADLINE,
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |all, flag| {
        all | match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        }
    });
    let attr = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(0),
        sched_policy: policy.cast_unsigned(),
        sched_flags: flags,
        sched_nice: scheduler.nice().unwrap_or(0),
        sched_priority: scheduler.priority().unwrap_or(0).cast_unsigned(),
        sched_runtime: scheduler.runtime().unwrap_or(0),
        sched_deadline: scheduler.deadline().unwrap_or(0),
        sched_period: scheduler.period().unwrap_or(0),
    };
    sys::sched_setattr(&attr).attempt(|| "set the scheduler".into())
}

fn become_user(process: &Process, sets: &Sets, warn: &dyn Fn(String)) -> Result<()> {
    let user = process.user();
    let what = || format!("become user {}:{}", user.uid(), user.gid());
    sets.bound()?;
    capctl::prctl::set_keepcaps(true).attempt(what)?;
    let groups: Vec<Gid> = user
        .additional_gids()
        .iter()
        .flatten()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    setgroups(&groups).attempt(|| format!("set groups {groups:?}"))?;
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    setresgid(gid, gid, gid).attempt(what)?;
    setresuid(uid, uid, uid).attempt(what)?;
    capctl::prctl::set_keepcaps(false).attempt(what)?;
    sets.apply(warn)
}

fn enter_cwd(cwd: &Path) -> Result<()> {
    let cwd = if cwd.as_os_str().is_empty() {
        Path::new("/")
    } else {
        cwd
    };
    if !cwd.exists() {
        // With the rights that we have: root's for a process of the container, before its user is taken on.
        let _ = std::fs::create_dir_all(cwd);
    }
    chdir(cwd).map_err(|errno| {
        let reason = errno.desc().to_lowercase();
        Error::new(
            kind(errno),
            format!("{PREFIX}: chdir to cwd ({cwd:?}) set in config.json failed: {reason}"),
        )
    })?;
    // A descriptor of the guest that leaked through could lead outside.
    let now = nix::unistd::getcwd().attempt(|| "look at the working directory".into())?;
    if now.is_absolute() {
        Ok(())
    } else {
        Err(Error::new(
            Kind::Invalid,
            "the working directory is outside of the container",
        ))
    }
}

/// HOME from the container's users unless it is given; the last of several values counts, as with runc.
fn environment(process: &Process) -> Vec<String> {
    let mut environment = process.env().clone().unwrap_or_default();
    if !environment
        .iter()
        .any(|entry| entry.starts_with("HOME=") && entry.len() > 5)
    {
        environment.retain(|entry| !entry.starts_with("HOME="));
        environment.push(format!("HOME={}", user::home(process.user().uid())));
    }
    environment
}

/// The program's file, with the words of runc when there is none: engines look for them.
fn find(name: &str, environment: &[String]) -> Result<PathBuf> {
    let fail = |kind, why: &str| Err(Error::new(kind, format!("{PREFIX}: exec: {name:?}: {why}")));
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => {
                fail(Kind::NotFound, &format!("stat {name}: no such file or directory"))
            }
            Err(errno) => fail(kind(errno), &errno.desc().to_lowercase()),
        };
    }
    let path = environment
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or_default();
    // Empty means the working directory.
    let files = path
        .split(':')
        .map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(name));
    let found = files.filter(|_| !name.is_empty()).find(|file| executable(file).is_ok());
    if let Some(file) = found {
        return Ok(file);
    }
    fail(Kind::NotFound, "executable file not found in $PATH")
}

fn executable(file: &Path) -> nix::Result<()> {
    let stat = nix::sys::stat::stat(file)?;
    if crate::rootfs::kind_of(&stat) == nix::sys::stat::SFlag::S_IFDIR {
        return Err(nix::Error::EISDIR);
    }
    eaccess(file, AccessFlags::X_OK)
}

fn kind(errno: nix::Error) -> Kind {
    match errno {
        nix::Error::ENOENT | nix::Error::ENOTDIR => Kind::NotFound,
        nix::Error::EACCES | nix::Error::EPERM => Kind::Denied,
        _ => Kind::Io,
    }
}
