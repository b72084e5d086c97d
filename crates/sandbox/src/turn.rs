// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How many machines are brought up at once on a host, by whomever: more than its processors can carry only make each other late,
//! until one after the other meets a deadline. A turn ends with the process that has it, in whatever way.
//!
//! ```text
//! the queue's file, locked by bytes:   0: the head of the queue   1 ..= turns: a turn each
//! ```
//!
//! Nobody waits for ever for those that got stuck: the head of the queue goes out of turn after a while.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use base::{Context, Kind, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use tokio::sync::oneshot;

/// How often the head of the queue looks for a turn.
const LOOK: Duration = Duration::from_millis(5);
/// How long it looks.
const STUCK: Duration = Duration::from_secs(10);

/// Where turns are had.
#[derive(Debug, Clone)]
pub struct Queue {
    /// Its file, which stays.
    pub path: PathBuf,
    /// How many there are at once.
    pub turns: u32,
}

/// One, until it is dropped.
#[derive(Debug)]
pub struct Turn(#[allow(dead_code, reason = "held for its drop")] File);

impl Queue {
    /// Waits for a turn; none for who does not have to wait any longer.
    pub async fn turn(&self) -> Result<Option<Turn>> {
        let (told, turn) = oneshot::channel();
        let queue = self.clone();
        // The kernel lets threads wait in a row. One that nobody waits for any more gives its turn back.
        let waits = std::thread::Builder::new().name("turn".into());
        waits
            .spawn(move || told.send(queue.wait(STUCK)))
            .attempt(|| "start a thread that waits for a turn".into())?;
        turn.await.context(Kind::Bug, || "wait for a turn".into())?
    }

    fn wait(&self, patience: Duration) -> Result<Option<Turn>> {
        let what = || format!("queue at {}", self.path.display());
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let (head, turn) = (options.open(&self.path), options.open(&self.path));
        let (head, turn) = (head.attempt(what)?, turn.attempt(what)?);
        while let Err(e) = fcntl(&head, FcntlArg::F_OFD_SETLKW(&byte(0))) {
            if e != Errno::EINTR {
                return Err(e).attempt(what);
            }
        }
        let begin = Instant::now();
        while begin.elapsed() < patience {
            for place in 1..=self.turns {
                match fcntl(&turn, FcntlArg::F_OFD_SETLK(&byte(place))) {
                    Ok(_) => return Ok(Some(Turn(turn))),
                    Err(Errno::EAGAIN | Errno::EACCES) => {}
                    Err(e) => return Err(e).attempt(what),
                }
            }
            std::thread::sleep(LOOK);
        }
        Ok(None)
    }
}

/// The lock of one.
fn byte(at: u32) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(libc::F_WRLCK).unwrap_or_default(),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: at.into(),
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(dir: &tempfile::TempDir, turns: u32) -> Queue {
        Queue {
            path: dir.path().join("starts"),
            turns,
        }
    }

    #[test]
    fn there_are_as_many_turns_as_told_and_one_that_ends_is_anothers() {
        let dir = tempfile::tempdir().unwrap();
        let queue = queue(&dir, 2);
        let short = Duration::from_millis(20);
        let first = queue.wait(short).unwrap();
        let second = queue.wait(short).unwrap();
        assert!(first.is_some() && second.is_some());
        // Those that have them are stuck.
        assert!(queue.wait(short).unwrap().is_none());
        drop(first);
        assert!(queue.wait(short).unwrap().is_some());
        drop(second);
    }

    #[test]
    fn who_waits_goes_on_as_soon_as_a_turn_ends() {
        let dir = tempfile::tempdir().unwrap();
        let queue = queue(&dir, 1);
        let first = queue.wait(STUCK).unwrap().unwrap();
        let others: Vec<_> = (0..8)
            .map(|_| {
                let queue = queue.clone();
                std::thread::spawn(move || queue.wait(Duration::MAX).unwrap().is_some())
            })
            .collect();
        drop(first);
        assert!(others.into_iter().all(|other| other.join().unwrap()));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_turn_that_nobody_waits_for_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let queue = queue(&dir, 1);
        let first = queue.turn().await.unwrap();
        let given_up = tokio::time::timeout(Duration::from_millis(10), queue.turn()).await;
        assert!(given_up.is_err());
        drop(first);
        assert!(queue.turn().await.unwrap().is_some());
        let nowhere = Queue {
            path: dir.path().join("none/starts"),
            turns: 1,
        };
        let refused = nowhere.turn().await.unwrap_err();
        assert!(refused.chain().contains("none/starts"), "{}", refused.chain());
    }
}
