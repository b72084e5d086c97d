// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Every child of PID 1 that ends is taken here, and nowhere else; those that somebody asks about leave their exit behind. It does
//! not know what the processes are.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base::{Error, Kind, Result};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::lock::lock;
use crate::sys;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128+n after signal n.
    pub status: u32,
    /// Nanoseconds since the epoch.
    pub at_ns: u64,
    /// The kernel had killed for want of memory where it ran.
    pub oom_killed: bool,
}

/// Tells of the end when it comes, and ever after.
pub type Ended = watch::Receiver<Option<Exit>>;

/// Asked when a process ends: has the kernel killed for want of memory where it ran?
pub type OomKilled = Box<dyn Fn() -> bool + Send>;

/// Who lives, and who ended before anybody asked.
#[derive(Debug, Default)]
pub struct Reaper {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    known: HashMap<i32, Known>,
    /// Ended unknown while a launch was under way: perhaps the one that is launched.
    strays: HashMap<i32, Exit>,
    launches: usize,
}

struct Known {
    ended: watch::Sender<Option<Exit>>,
    oom_killed: OomKilled,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// A process is being made, and may end before its pid is known here. To be taken before it is made.
#[derive(Debug)]
pub struct Launch(Arc<Reaper>);

impl Reaper {
    /// Asks to be told of children that end; from now on none is missed. Needs the runtime.
    pub fn listen() -> io::Result<Signal> {
        signal(SignalKind::child())
    }

    /// Takes children for ever.
    pub async fn run(self: Arc<Reaper>, mut children: Signal) {
        loop {
            self.reap();
            children.recv().await;
        }
    }

    fn reap(&self) {
        // Under the lock: whoever looks sees a pid as taken as soon as the kernel may give it away again.
        let mut table = lock(&self.table);
        while let Some((pid, status)) = sys::reap_one() {
            if let Some(status) = exit_status(status) {
                table.ended(pid, status);
            }
        }
    }

    /// See [`Launch`].
    pub fn launch(self: &Arc<Reaper>) -> Launch {
        lock(&self.table).launches += 1;
        Launch(Arc::clone(self))
    }

    /// Does `work` with a process that cannot be taken meanwhile: its pid stays its own. Errors: `Gone` when it has ended.
    pub fn with<T>(&self, pid: i32, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let table = lock(&self.table);
        if !table.known.contains_key(&pid) {
            return Err(Error::new(Kind::Gone, format!("process {pid} has ended")));
        }
        work()
    }
}

impl Table {
    fn ended(&mut self, pid: i32, status: u32) {
        let at_ns = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let mut exit = Exit {
            status,
            at_ns: u64::try_from(at_ns).unwrap_or(u64::MAX),
            oom_killed: false,
        };
        if let Some(known) = self.known.remove(&pid) {
            exit.oom_killed = (known.oom_killed)();
            known.ended.send_replace(Some(exit));
        } else if self.launches > 0 {
            self.strays.insert(pid, exit);
        }
    }
}

impl Launch {
    /// This is the process.
    pub fn done(self, pid: i32, oom_killed: OomKilled) -> Ended {
        let mut table = lock(&self.0.table);
        let stray = table.strays.remove(&pid);
        // A pid that still (or again) belongs to a child of ours was somebody else's before.
        let exit = stray.filter(|_| kill(Pid::from_raw(pid), None) == Err(nix::Error::ESRCH));
        let exit = exit.map(|exit| Exit {
            oom_killed: oom_killed(),
            ..exit
        });
        let (sender, ended) = watch::channel(exit);
        if exit.is_none() {
            let known = Known {
                ended: sender,
                oom_killed,
            };
            table.known.insert(pid, known);
        }
        ended
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        let mut table = lock(&self.0.table);
        table.launches -= 1;
        if table.launches == 0 {
            table.strays.clear();
        }
    }
}

/// What wait(2) tells, as shells have it. None when it has not ended.
fn exit_status(status: i32) -> Option<u32> {
    let status = if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        return None;
    };
    u32::try_from(status).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Above what the kernel gives.
    const PID: i32 = i32::MAX - 1;

    fn never() -> OomKilled {
        Box::new(|| false)
    }

    fn end(reaper: &Reaper, pid: i32, status: u32) {
        lock(&reaper.table).ended(pid, status);
    }

    #[test]
    fn an_exit_reaches_those_who_ask_before_and_after() {
        let reaper = Arc::new(Reaper::default());
        let ended = reaper.launch().done(PID, Box::new(|| true));
        assert!(ended.borrow().is_none());
        reaper.with(PID, || Ok(())).unwrap();
        end(&reaper, PID, 9);
        let exit = ended.borrow().unwrap();
        assert_eq!((exit.status, exit.oom_killed), (9, true));
        assert!(exit.at_ns > 0);
        assert_eq!(reaper.with(PID, || Ok(())).unwrap_err().kind(), Kind::Gone);
    }

    #[test]
    fn an_exit_before_the_pid_is_known_is_not_lost() {
        let reaper = Arc::new(Reaper::default());
        let (one, two) = (reaper.launch(), reaper.launch());
        end(&reaper, PID, 3);
        drop(two);
        assert_eq!(one.done(PID, never()).borrow().unwrap().status, 3);
        // Nothing is kept for later processes.
        assert!(lock(&reaper.table).strays.is_empty());
        assert!(reaper.launch().done(PID, never()).borrow().is_none());
    }

    #[test]
    fn the_end_of_a_former_owner_of_the_pid_does_not_count() {
        let reaper = Arc::new(Reaper::default());
        let launch = reaper.launch();
        let own = i32::try_from(std::process::id()).unwrap();
        end(&reaper, own, 3);
        assert!(launch.done(own, never()).borrow().is_none());
    }

    #[test]
    fn strangers_leave_nothing() {
        let reaper = Arc::new(Reaper::default());
        end(&reaper, PID, 3);
        assert!(reaper.launch().done(PID, never()).borrow().is_none());
    }

    #[test]
    fn statuses_are_those_of_shells() {
        assert_eq!(exit_status(3 << 8), Some(3));
        assert_eq!(exit_status(9), Some(137));
        assert_eq!(exit_status(libc::SIGRTMIN()), Some(128 + 34));
        assert_eq!(exit_status(0x137f), None, "stopped");
    }
}
