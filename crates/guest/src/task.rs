// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A process of a container as /proc tells it.

use std::fs;

/// One line of `ps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// In the agent's pid namespace.
    pub pid: i32,
    /// Its parent there.
    pub ppid: i32,
    /// Effective user, in the agent's user namespace.
    pub uid: u32,
    /// Command line with spaces between, or the name in brackets if there is none.
    pub command: String,
}

/// None when it has ended.
pub fn read(pid: i32) -> Option<Task> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    parse(pid, &status, &command)
}

/// From the text of status and cmdline, both of which a container's process can influence.
pub fn parse(pid: i32, status: &str, command: &[u8]) -> Option<Task> {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    let words: Vec<_> = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let line = words.join(" ");
    let command = match line.trim_end() {
        "" => format!("[{}]", field("Name").unwrap_or_default().trim()),
        line => line.to_owned(),
    };
    Some(Task {
        pid,
        ppid: field("PPid")?.trim().parse().ok()?,
        uid: field("Uid")?.split_whitespace().nth(1)?.parse().ok()?,
        command,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let status = "Name:\tsh\nUmask:\t0022\nPPid:\t7\nUid:\t1\t1000\t1\t1\n";
        let task = parse(9, status, b"sh\0-c\0echo a\0").unwrap();
        assert_eq!((task.ppid, task.uid, task.command.as_str()), (7, 1000, "sh -c echo a"));
        assert_eq!(parse(9, status, b"").unwrap().command, "[sh]");
        assert!(parse(9, "Name:\tsh\n", b"").is_none());
    }

    #[test]
    fn we_find_ourselves() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(read(own).unwrap().pid, own);
        assert!(read(-1).is_none());
    }
}
