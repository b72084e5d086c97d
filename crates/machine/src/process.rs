// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Processes of ours that must not outlive us: started with little (no privileges, no foreign descriptors), bound to the
//! thread that starts them, and recognised again after a crash. It does not know what they run.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use base::pidfd::Pidfd;
use base::{Context, Error, Kind, Result};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Gid, Uid, getpid, getppid, setgroups, setresgid, setresuid};

use crate::sys;

/// First of the user ids that we use; `systemd`'s table of ids leaves 1879048192 to 2147352575 to nobody. A pid is added,
/// which is below 4194304.
const FIRST_UID: u32 = 1_900_000_000;

/// User and groups without rights to anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    uid: u32,
    groups: Vec<u32>,
}

impl Identity {
    /// An identity that no other process on this host has: its user id is made of our pid, so that two machines that were
    /// taken over can neither signal nor trace each other. `None` when we are not root, or when our user namespace has no
    /// such id. `groups` are its only groups.
    pub fn own(groups: &[u32]) -> Option<Identity> {
        let uid = FIRST_UID + u32::try_from(getpid().as_raw()).ok()?;
        let mapped = |file: &str| fs::read_to_string(file).is_ok_and(|map| maps(&map, uid));
        let possible = Uid::effective().is_root() && mapped("/proc/self/uid_map") && mapped("/proc/self/gid_map");
        possible.then(|| Identity {
            uid,
            groups: groups.to_vec(),
        })
    }

    /// Its user id; the group id is the same number.
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

/// Whether a map of a user namespace (lines of first id inside, first outside, length) has `id` inside.
fn maps(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(length))) = (numbers.next(), numbers.next(), numbers.next()) else {
            return false;
        };
        (first..first.saturating_add(length)).contains(&u64::from(id))
    })
}

/// Starts `command` in a process group of its own, with the descriptors `keep` and the standard ones only. It is killed when
/// the calling *thread* ends, cannot gain privileges, and gives up ours for `identity` where there is one. The caller keeps
/// the child and reaps it.
pub fn spawn(command: &mut Command, keep: &[BorrowedFd<'_>], identity: Option<Identity>) -> Result<Child> {
    let kept: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    let groups: Option<Vec<Gid>> = identity
        .as_ref()
        .map(|identity| identity.groups.iter().copied().map(Gid::from_raw).collect());
    let uid = identity.as_ref().map(Identity::uid);
    let parent = getpid();
    command.process_group(0);
    sys::before_exec(command, move || {
        if let (Some(identity), Some(groups)) = (&identity, &groups) {
            let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.uid));
            setgroups(groups)?;
            setresgid(gid, gid, gid)?;
            setresuid(uid, uid, uid)?;
        }
        prctl::set_no_new_privs()?;
        // After the change of identity, which clears it.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        sys::close_all_on_exec()?;
        kept.iter().try_for_each(|descriptor| sys::keep_on_exec(*descriptor))
    });
    let program = command.get_program().to_string_lossy().into_owned();
    let spawned = command.spawn();
    spawned.attempt(|| match uid {
        Some(uid) => format!("start {program} as user {uid}"),
        None => format!("start {program}"),
    })
}

/// A child that is killed and reaped with its owner.
#[derive(Debug)]
pub struct Owned {
    child: Child,
    pidfd: Pidfd,
}

impl Owned {
    /// Takes a child over; it has not been reaped.
    pub fn of(mut child: Child) -> Result<Owned> {
        let pid = i32::try_from(child.id()).context(Kind::Bug, || "read a pid".into());
        match pid.and_then(Pidfd::open) {
            Ok(pidfd) => Ok(Owned { child, pidfd }),
            Err(e) => {
                // Both fail only for a child that was reaped already.
                let _ = child.kill();
                let _ = child.wait();
                Err(e)
            }
        }
    }

    /// Readable when the child has ended.
    pub fn pidfd(&self) -> &Pidfd {
        &self.pidfd
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Err(e) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            log::warn!("end process {}: {e}", self.pidfd.pid());
        }
    }
}

/// How `process`, a child of ours, ended; `None` while it runs. It stays to be reaped.
pub fn ending(process: &Pidfd) -> Option<String> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::PIDFd(process.as_fd()), flags) {
        Ok(WaitStatus::Exited(_, code)) => Some(format!("exited with status {code}")),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(format!("was killed by {signal}")),
        Ok(_) => None,
        Err(_) => Some("ended".into()),
    }
}

/// When the process started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`. With the pid it names a process for
/// ever. Errors: `NotFound` when there is none.
pub fn start_time(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).attempt(|| format!("read {path}"))?;
    started(&stat).ok_or_else(|| Error::new(Kind::Bug, format!("{path} has no start time")))
}

/// Field 22; the second, the name in parentheses, may hold anything.
fn started(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// Kills the process that had `pid` when [`start_time`] said `started`, and waits for its end. False when it had gone
/// already; another process that has got the pid since is left alone.
pub fn kill_leftover(pid: i32, started: u64) -> Result<bool> {
    let held = match Pidfd::open(pid) {
        Err(e) if e.kind() == Kind::NotFound => return Ok(false),
        other => other?,
    };
    // The descriptor holds whoever has the pid now; only then is it safe to look who that is.
    match start_time(pid) {
        Ok(found) if found == started => held.kill().map(|()| true),
        Ok(_) => Ok(false),
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Io) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::Duration;

    use super::*;

    fn pid(child: &Child) -> i32 {
        i32::try_from(child.id()).unwrap()
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let stat = format!("7 (a) b (c)) S {}\n", fields.join(" "));
        assert_eq!(started(&stat), Some(22));
        assert_eq!(started("7 (a) S 1"), None);
        assert_eq!(started(""), None);
    }

    #[test]
    fn a_map_holds_its_ids_only() {
        assert!(maps("         0          0 4294967295\n", FIRST_UID));
        assert!(!maps("0 1000 1\n1 100000 65536\n", FIRST_UID));
        assert!(maps("0 1000 1\n1900000000 5 1\n", FIRST_UID));
        assert!(!maps("nonsense", 0));
    }

    #[test]
    fn only_the_process_that_was_meant_is_killed() {
        let mut child = spawn(Command::new("sleep").arg("60"), &[], None).unwrap();
        let since = start_time(pid(&child)).unwrap();
        assert!(!kill_leftover(pid(&child), since + 1).unwrap());
        let held = Pidfd::open(pid(&child)).unwrap();
        assert_eq!(ending(&held), None);
        assert!(kill_leftover(pid(&child), since).unwrap());
        assert_eq!(ending(&held).unwrap(), "was killed by SIGKILL");
        child.wait().unwrap();
        assert!(!kill_leftover(pid(&child), since).unwrap());
    }

    #[test]
    fn a_child_gets_the_named_descriptors_and_no_privileges() {
        let (reader, writer) = io::pipe().unwrap();
        let (_other, _more) = io::pipe().unwrap();
        let identity = Identity::own(&[7]);
        let mut command = Command::new("sh");
        let script = "ls /proc/self/fd; cat /proc/self/status";
        command.args(["-c", script]).stdout(Stdio::piped()).stdin(Stdio::null());
        let child = spawn(&mut command, &[writer.as_fd()], identity.clone()).unwrap();
        let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let number = writer.as_raw_fd().to_string();
        // The fourth is the directory that `ls` itself reads.
        assert!(lines.contains(&number.as_str()) && lines[..5].contains(&"2"), "{text}");
        assert_eq!(
            lines.iter().filter(|line| line.parse::<u32>().is_ok()).count(),
            5,
            "{text}"
        );
        assert!(text.contains("NoNewPrivs:\t1"), "{text}");
        match identity {
            Some(identity) => {
                let uid = identity.uid();
                assert!(text.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n")), "{text}");
                assert!(
                    text.contains("CapEff:\t0000000000000000") && text.contains("Groups:\t7 \n"),
                    "{text}"
                );
            }
            None => println!("skipped: not root, cannot change the identity"),
        }
        drop(reader);
    }

    #[test]
    fn a_child_dies_with_the_thread_that_started_it() {
        let started = std::thread::spawn(|| spawn(Command::new("sleep").arg("60"), &[], Identity::own(&[])).unwrap());
        let mut child = started.join().unwrap();
        let held = Pidfd::open(pid(&child)).unwrap();
        assert!(held.wait(Some(Duration::from_secs(20))).unwrap());
        child.wait().unwrap();
    }
}
