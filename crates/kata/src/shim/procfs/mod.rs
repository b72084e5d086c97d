// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The container's processes, shown as `/proc` to whoever enters the mount namespace of our pid (`podman top` does), with their
//! terminals below `/dev`. A FUSE file system that the shim's own loop serves: without a thread, and without a word to the guest until
//! somebody looks. Then the guest is asked once for all processes, and its answer holds for a moment.
//!
//! Whoever looks waits for us in the kernel. So every request is answered in time, with an error if need be; when we die, it fails at
//! once, and the mount goes with the namespace. We ourselves must not look there: we would wait for ourselves.

mod mount;
mod table;
mod tree;
mod wire;

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use api::agent::ReadProcessesResponse;
use api::monitor::{ProcessesRequest, ProcessesResponse};
use base::{Context, Kind, Result};
use nix::errno::Errno;
use protobuf::Message;

use crate::link::{Answer, Link, MONITOR, Ticket};
pub use mount::Plan;
use table::Table;
use tree::{Node, Root};
use wire::{Operation, Request};

/// How long a table holds at least; one that took long to get holds [`RATIO`] times as long as it took, or whoever reads it file by
/// file would mostly wait for the next.
const FRESH: Duration = Duration::from_secs(1);
const RATIO: u32 = 4;
/// How long whoever looks may have to wait; the monitor waits for the guest somewhat shorter.
const PATIENCE: Duration = Duration::from_secs(15);
/// Most files that are open at once.
const HANDLES: usize = 1024;

type Reply = std::result::Result<Vec<u8>, Errno>;

/// See the module.
#[derive(Debug)]
pub struct Procfs {
    /// Container.
    id: String,
    mounts: Vec<Mount>,
    /// What came of asking last, and until when it holds.
    known: Option<(Instant, std::result::Result<Rc<Table>, Errno>)>,
    asked: Option<Asked>,
    /// Requests that wait for a table, with the mount each came from.
    waiting: Vec<(usize, Request)>,
    open: HashMap<u64, Open>,
    next: u64,
}

/// A file system that we serve.
#[derive(Debug)]
struct Mount {
    device: File,
    root: Root,
}

/// A question to the guest.
#[derive(Debug)]
struct Asked {
    ticket: Ticket,
    table: Table,
    since: Instant,
}

/// What somebody has opened: as it was then.
#[derive(Debug)]
enum Open {
    Text(Rc<Table>, Node),
    List(Vec<(String, wire::Attributes)>),
}

impl Procfs {
    fn new(id: String, mounts: Vec<Mount>) -> Procfs {
        Procfs {
            id,
            mounts,
            known: None,
            asked: None,
            waiting: Vec::new(),
            open: HashMap::new(),
            next: 1,
        }
    }

    /// What to poll for reading.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.mounts.iter().map(|mount| mount.device.as_fd())
    }

    /// When [`Procfs::expire`] is due.
    pub fn due(&self) -> Option<Instant> {
        self.asked.as_ref().map(|asked| asked.since + PATIENCE)
    }

    /// Serves those of [`Procfs::fds`] that are `ready`.
    pub fn serve(&mut self, ready: &[bool], link: &mut Link) {
        let mut gone = Vec::new();
        for (index, _) in ready.iter().enumerate().filter(|(_, ready)| **ready) {
            let Some(mount) = self.mounts.get_mut(index) else {
                continue;
            };
            let mut buffer = [0; wire::BUFFER];
            match mount.device.read(&mut buffer) {
                Ok(length) => {
                    if let Some(request) = buffer.get(..length).and_then(wire::parse) {
                        self.requested(index, request, link);
                    }
                }
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => gone.push(index),
                // None there any more: whoever asked was killed.
                Err(_) => {}
            }
        }
        if !gone.is_empty() {
            // Somebody has unmounted it; those who wait at the other have to look again.
            self.fail(Errno::EIO);
            let mut index = 0;
            self.mounts.retain(|_| {
                index += 1;
                !gone.contains(&(index - 1))
            });
        }
    }

    /// Nobody is to wait any longer.
    pub fn expire(&mut self) {
        if self.due().is_some_and(|due| due <= Instant::now()) {
            log::debug!("the processes of {}: the monitor does not answer", self.id);
            self.fail(Errno::ETIMEDOUT);
        }
    }

    /// Takes the answer if it is ours.
    pub fn answered(&mut self, answer: Answer, link: &mut Link) -> Option<Answer> {
        if self.asked.as_ref().map(|asked| asked.ticket) != Some(answer.ticket) {
            return Some(answer);
        }
        if let Err(e) = self.take(answer, link) {
            log::debug!("the processes of {}: {}", self.id, e.chain());
            self.fail(match e.kind() {
                Kind::Timeout => Errno::ETIMEDOUT,
                _ => Errno::EIO,
            });
        }
        None
    }

    fn take(&mut self, answer: Answer, link: &mut Link) -> Result<()> {
        let part: ProcessesResponse = answer.parse("ask for them")?;
        let part = ReadProcessesResponse::parse_from_bytes(&part.table);
        let part = part.context(Kind::Guest, || "parse the answer".into())?;
        let Some(asked) = &mut self.asked else {
            return Ok(());
        };
        if let Some(after) = asked.table.add(part)? {
            asked.ticket = ask(&self.id, after, link)?;
            return Ok(());
        }
        if let Some(Asked { table, since, .. }) = self.asked.take() {
            let holds = FRESH.max(since.elapsed() * RATIO);
            self.known = Some((Instant::now() + holds, Ok(Rc::new(table))));
        }
        self.serve_waiting();
        Ok(())
    }

    fn fail(&mut self, errno: Errno) {
        self.asked = None;
        self.known = Some((Instant::now() + FRESH, Err(errno)));
        self.serve_waiting();
    }

    fn serve_waiting(&mut self) {
        let Some((_, known)) = &self.known else {
            return;
        };
        let known = known.clone();
        for (mount, request) in std::mem::take(&mut self.waiting) {
            let reply = match &known {
                Ok(table) => self.look(mount, &request, table),
                Err(errno) => Err(*errno),
            };
            self.reply(mount, request.unique, reply);
        }
    }

    fn requested(&mut self, mount: usize, request: Request, link: &mut Link) {
        match request.operation {
            Operation::Forget => return,
            Operation::Interrupt(unique) => {
                let waits = |(at, waiting): &(usize, Request)| *at == mount && waiting.unique == unique;
                if let Some(index) = self.waiting.iter().position(waits) {
                    self.waiting.swap_remove(index);
                    self.reply(mount, unique, Err(Errno::EINTR));
                }
                return;
            }
            _ => {}
        }
        if let Some(reply) = self.at_once(mount, &request) {
            self.reply(mount, request.unique, reply);
            return;
        }
        if let Some((until, known)) = self.known.clone()
            && Instant::now() < until
        {
            let reply = known.and_then(|table| self.look(mount, &request, &table));
            self.reply(mount, request.unique, reply);
            return;
        }
        self.waiting.push((mount, request));
        if self.asked.is_none() {
            match ask(&self.id, 0, link) {
                Ok(ticket) => {
                    self.asked = Some(Asked {
                        ticket,
                        table: Table::default(),
                        since: Instant::now(),
                    });
                }
                Err(e) => {
                    log::debug!("{}", e.chain());
                    self.fail(Errno::EIO);
                }
            }
        }
    }

    fn node(&self, mount: usize, number: u64) -> Option<Node> {
        Node::of(self.mounts.get(mount)?.root, number)
    }

    /// The answer that takes no table.
    fn at_once(&mut self, mount: usize, request: &Request) -> Option<Reply> {
        let Some(node) = self.node(mount, request.node) else {
            // Requests about no node in particular have node 0.
            return Some(match request.operation {
                Operation::Init { major, minor } => wire::init(major, minor),
                _ => Err(Errno::ENOENT),
            });
        };
        Some(match &request.operation {
            Operation::Init { major, minor } => wire::init(*major, *minor),
            Operation::Lookup(name) => match node.child(name) {
                None => Err(Errno::ENOENT),
                Some(child) if child.permanent() => Ok(wire::entry(child.attributes())),
                Some(_) => return None,
            },
            Operation::Attributes if node.permanent() => Ok(wire::attributes(node.attributes())),
            Operation::Attributes | Operation::Link | Operation::Open | Operation::OpenDirectory => return None,
            Operation::Read { handle, offset, size } => match self.open.get(handle) {
                Some(Open::Text(table, node)) => Ok(piece(node.text(table).unwrap_or_default(), *offset, *size)),
                _ => Err(Errno::EBADF),
            },
            Operation::List { handle, offset, size } => match self.open.get(handle) {
                Some(Open::List(entries)) => Ok(wire::list(entries, *offset, *size)),
                _ => Err(Errno::EBADF),
            },
            Operation::Release { handle } => {
                self.open.remove(handle);
                Ok(Vec::new())
            }
            Operation::FileSystem => Ok(wire::file_system()),
            Operation::Forget | Operation::Interrupt(_) | Operation::Other => Err(Errno::ENOSYS),
        })
    }

    /// The answer that takes one.
    fn look(&mut self, mount: usize, request: &Request, table: &Rc<Table>) -> Reply {
        let node = self.node(mount, request.node).ok_or(Errno::ENOENT)?;
        if !node.exists(table) {
            return Err(Errno::ENOENT);
        }
        match &request.operation {
            Operation::Lookup(name) => {
                let child = node.child(name).filter(|child| child.exists(table));
                child.map(|child| wire::entry(child.attributes())).ok_or(Errno::ENOENT)
            }
            Operation::Attributes => Ok(wire::attributes(node.attributes())),
            Operation::Link => node.link().map(<[u8]>::to_vec).ok_or(Errno::EINVAL),
            Operation::Open => {
                node.text(table).ok_or(Errno::EACCES)?;
                self.hold(Open::Text(Rc::clone(table), node))
            }
            Operation::OpenDirectory => {
                let entries = node.list(table).ok_or(Errno::ENOTDIR)?;
                self.hold(Open::List(entries))
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    fn hold(&mut self, open: Open) -> Reply {
        if self.open.len() >= HANDLES {
            return Err(Errno::ENFILE);
        }
        let handle = self.next;
        self.next += 1;
        self.open.insert(handle, open);
        Ok(wire::opened(handle))
    }

    fn reply(&mut self, mount: usize, unique: u64, reply: Reply) {
        if let Some(mount) = self.mounts.get_mut(mount) {
            // Whoever asked may have gone.
            let _ = mount.device.write_all(&wire::reply(unique, reply));
        }
    }
}

fn ask(id: &str, after: u32, link: &mut Link) -> Result<Ticket> {
    let request = ProcessesRequest {
        id: id.to_owned(),
        after,
        ..ProcessesRequest::default()
    };
    link.send(MONITOR, "Processes", &request)
}

fn piece(text: &[u8], offset: u64, size: u32) -> Vec<u8> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    text[start..].iter().take(size).copied().collect()
}

#[cfg(test)]
#[path = "procfs_test.rs"]
mod tests;
