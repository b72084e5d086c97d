// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The files that are shown, made of a [`Table`]: below `/proc` those that tell of processes, below `/dev` their terminals. It does
//! not know where a table comes from.

use super::table::{Table, device, index};
use super::wire::Attributes;

const DIRECTORY: u32 = 0o040_555;
const FILE: u32 = 0o100_444;
const LINK: u32 = 0o120_777;
const DEVICE: u32 = 0o020_620;
/// No pid namespace of the host is called so: nobody shall take a process of the guest for one of the host.
const NAMESPACE: &[u8] = b"pid:[0]";

/// Number of each file system's root.
pub const ROOT: u64 = 1;

/// A file system's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    Proc,
    Dev,
    Pts,
}

/// A file of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    Stat,
    Status,
    Cmdline,
    Comm,
}

/// One thing in a file system; with the process or terminal that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    Root(Root),
    Stat,
    Uptime,
    Process(u32),
    Text(u32, Text),
    Namespaces(u32),
    PidNamespace(u32),
    Terminals,
    Terminal(u32),
}

use Node::{Namespaces, PidNamespace, Process, Stat, Terminal, Terminals, Uptime};

const TEXTS: [(&str, Text); 4] = [
    ("stat", Text::Stat),
    ("status", Text::Status),
    ("cmdline", Text::Cmdline),
    ("comm", Text::Comm),
];

impl Node {
    /// Its number for the kernel.
    pub fn number(self) -> u64 {
        let of = |about: u32, kind: u64| u64::from(about) << 8 | kind;
        match self {
            Node::Root(_) => ROOT,
            Stat => of(0, 2),
            Uptime => of(0, 3),
            Terminals => of(0, 4),
            Process(pid) => of(pid, 5),
            Namespaces(pid) => of(pid, 6),
            PidNamespace(pid) => of(pid, 7),
            Terminal(device) => of(device, 8),
            Node::Text(pid, Text::Stat) => of(pid, 9),
            Node::Text(pid, Text::Status) => of(pid, 10),
            Node::Text(pid, Text::Cmdline) => of(pid, 11),
            Node::Text(pid, Text::Comm) => of(pid, 12),
        }
    }

    /// What [`Node::number`] has numbered.
    pub fn of(root: Root, number: u64) -> Option<Node> {
        let about = u32::try_from(number >> 8).ok()?;
        Some(match number & 0xff {
            ROOT => Node::Root(root),
            2 => Stat,
            3 => Uptime,
            4 => Terminals,
            5 => Process(about),
            6 => Namespaces(about),
            7 => PidNamespace(about),
            8 => Terminal(about),
            9 => Node::Text(about, Text::Stat),
            10 => Node::Text(about, Text::Status),
            11 => Node::Text(about, Text::Cmdline),
            12 => Node::Text(about, Text::Comm),
            _ => return None,
        })
    }

    /// Whatever the guest says, it is there.
    pub fn permanent(self) -> bool {
        matches!(self, Node::Root(_) | Stat | Uptime | Terminals)
    }

    /// Whether it is there.
    pub fn exists(self, table: &Table) -> bool {
        match self {
            Process(pid) | Namespaces(pid) | PidNamespace(pid) | Node::Text(pid, _) => {
                table.processes.contains_key(&pid)
            }
            Terminal(device) => table.terminals.contains(&device),
            _ => true,
        }
    }

    /// What it is.
    pub fn attributes(self) -> Attributes {
        let (mode, device) = match self {
            Node::Root(_) | Process(_) | Namespaces(_) | Terminals => (DIRECTORY, 0),
            Stat | Uptime | Node::Text(..) => (FILE, 0),
            PidNamespace(_) => (LINK, 0),
            Terminal(device) => (DEVICE, device),
        };
        Attributes {
            node: self.number(),
            mode,
            device,
        }
    }

    /// The node called `name` in this directory; it need not exist. None when there can be no such one.
    pub fn child(self, name: &[u8]) -> Option<Node> {
        let name = std::str::from_utf8(name).ok()?;
        let number = || {
            let number: u32 = name.parse().ok()?;
            (number.to_string() == name).then_some(number)
        };
        match (self, name) {
            (Node::Root(Root::Proc), "stat") => Some(Stat),
            (Node::Root(Root::Proc), "uptime") => Some(Uptime),
            (Node::Root(Root::Proc), _) => number().filter(|pid| *pid > 0).map(Process),
            (Node::Root(Root::Dev), "pts") => Some(Terminals),
            (Node::Root(Root::Pts) | Terminals, _) => number().and_then(device).map(Terminal),
            (Process(pid), "ns") => Some(Namespaces(pid)),
            (Process(pid), _) => {
                let text = TEXTS.iter().find(|(text, _)| *text == name)?;
                Some(Node::Text(pid, text.1))
            }
            (Namespaces(pid), "pid") => Some(PidNamespace(pid)),
            _ => None,
        }
    }

    /// What is in this directory; none if it is no directory.
    pub fn list(self, table: &Table) -> Option<Vec<(String, Attributes)>> {
        let terminals = || {
            table
                .terminals
                .iter()
                .map(|tty| (index(*tty).to_string(), Terminal(*tty)))
        };
        let entries: Vec<(String, Node)> = match self {
            Node::Root(Root::Proc) => {
                let pids = table.processes.keys();
                let fixed = [("stat".to_owned(), Stat), ("uptime".to_owned(), Uptime)];
                pids.map(|pid| (pid.to_string(), Process(*pid))).chain(fixed).collect()
            }
            Node::Root(Root::Dev) => vec![("pts".to_owned(), Terminals)],
            Node::Root(Root::Pts) | Terminals => terminals().collect(),
            Process(pid) => {
                let texts = TEXTS.iter();
                let texts = texts.map(|(name, text)| ((*name).to_owned(), Node::Text(pid, *text)));
                texts.chain([("ns".to_owned(), Namespaces(pid))]).collect()
            }
            Namespaces(pid) => vec![("pid".to_owned(), PidNamespace(pid))],
            _ => return None,
        };
        let entries = entries.into_iter();
        Some(entries.map(|(name, node)| (name, node.attributes())).collect())
    }

    /// What this file says; none if it is no file, or not there.
    pub fn text(self, table: &Table) -> Option<&[u8]> {
        match self {
            Stat => Some(&table.stat),
            Uptime => Some(&table.uptime),
            Node::Text(pid, text) => {
                let files = table.processes.get(&pid)?;
                Some(match text {
                    Text::Stat => &files.stat,
                    Text::Status => &files.status,
                    Text::Cmdline => &files.cmdline,
                    Text::Comm => &files.comm,
                })
            }
            _ => None,
        }
    }

    /// Where this link leads.
    pub fn link(self) -> Option<&'static [u8]> {
        matches!(self, PidNamespace(_)).then_some(NAMESPACE)
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Files;
    use super::*;

    fn table() -> Table {
        let mut table = Table::default();
        table.stat = b"btime 1\n".to_vec();
        let files = Files {
            comm: b"sh\n".to_vec(),
            ..Files::default()
        };
        table.processes.insert(7, files);
        table.terminals.insert(34817);
        table
    }

    fn walk(root: Root, path: &str) -> Option<Node> {
        path.split('/')
            .try_fold(Node::Root(root), |node, name| node.child(name.as_bytes()))
    }

    #[test]
    fn everything_that_is_listed_is_found_under_its_number() {
        let table = table();
        let mut seen = Vec::new();
        for root in [Root::Proc, Root::Dev, Root::Pts] {
            let mut directories = vec![Node::Root(root)];
            while let Some(directory) = directories.pop() {
                for (name, attributes) in directory.list(&table).unwrap() {
                    let node = directory.child(name.as_bytes()).unwrap();
                    assert_eq!(Node::of(root, attributes.node), Some(node));
                    assert_eq!(node.attributes(), attributes);
                    assert!(node.exists(&table));
                    if attributes.mode == DIRECTORY {
                        directories.push(node);
                    }
                    seen.push(name);
                }
            }
        }
        assert_eq!(seen.len(), 3 + 5 + 1 + 2 + 1);
    }

    #[test]
    fn texts_links_and_devices_are_what_the_guest_said() {
        let table = table();
        assert_eq!(walk(Root::Proc, "stat").unwrap().text(&table).unwrap(), b"btime 1\n");
        assert_eq!(walk(Root::Proc, "7/comm").unwrap().text(&table).unwrap(), b"sh\n");
        assert!(walk(Root::Proc, "8/comm").unwrap().text(&table).is_none());
        assert!(!walk(Root::Proc, "8").unwrap().exists(&table));
        assert_eq!(walk(Root::Proc, "7/ns/pid").unwrap().link(), Some(NAMESPACE));
        assert_eq!(walk(Root::Dev, "pts/1").unwrap().attributes().device, 34817);
        for none in ["0", "07", "-1", "self", "7/mem", "7/ns/mnt", "7/comm/x", "99999999999"] {
            assert_eq!(walk(Root::Proc, none), None, "{none}");
        }
    }
}
