// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Which devices a group may use: cgroup v2 has no files for that, but asks an eBPF program.
//!
//! The rules of `linux.resources.devices` apply in order, a later one overrides an earlier one for the
//! accesses (read, write, mknod) that it names; what no rule names is denied. The program therefore goes
//! through them from the last to the first and strikes out the accesses that are granted.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use base::{Context, Error, Kind, Result};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::sys;

const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MKNOD | READ | WRITE;

const BLOCK: i32 = 1;
const CHAR: i32 = 2;

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD: u8 = 0x61; // dst = *(u32 *)(src + offset)
const MOVE: u8 = 0xbc; // 32 bits: dst = src
const MOVE_IMMEDIATE: u8 = 0xb4;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_IF_EQUAL: u8 = 0x16;
const JUMP_UNLESS_EQUAL: u8 = 0x56;
const EXIT: u8 = 0x95;

/// r1 is the context that the kernel passes, r0 the verdict.
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn op(code: u8, register: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: register,
        offset,
        immediate,
    }
}

fn verdict(allow: bool) -> [Instruction; 2] {
    [op(MOVE_IMMEDIATE, 0, 0, i32::from(allow)), op(EXIT, 0, 0, 0)]
}

/// The devices that every container has, as with runc: making any node, and using the harmless ones.
fn defaults() -> Vec<LinuxDeviceCgroup> {
    let rule = |kind, major, minor, access: &str| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true)
            .set_typ(Some(kind))
            .set_major(major)
            .set_minor(minor)
            .set_access(Some(access.to_owned()));
        rule
    };
    let (block, char) = (LinuxDeviceType::B, LinuxDeviceType::C);
    let mut rules = vec![rule(char, None, None, "m"), rule(block, None, None, "m")];
    // null, zero, full, random, urandom, tty, ptmx; then the terminals of any devpts.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        rules.push(rule(char, Some(major), Some(minor), "rwm"));
    }
    rules.push(rule(char, Some(136), None, "rwm"));
    rules
}

/// The program for `rules` and the defaults after them. Errors: `Invalid` for a type, an access or a number
/// that there is not.
pub fn compile(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Instruction>> {
    // The context: access << 16 | type, major, minor.
    let load = |register: u8, offset| op(LOAD, register | 1 << 4, offset, 0);
    let mut program = vec![
        load(TYPE, 0),
        op(MOVE, ACCESS | TYPE << 4, 0, 0),
        op(AND, TYPE, 0, 0xffff),
        op(SHIFT_RIGHT, ACCESS, 0, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    let defaults = defaults();
    for rule in rules.iter().chain(&defaults).rev() {
        let block = block(rule)?;
        let last = block == verdict(rule.allow());
        program.extend(block);
        if last {
            // The rules before are all overridden; the kernel refuses code that is never reached.
            return Ok(program);
        }
    }
    program.extend(verdict(false));
    Ok(program)
}

/// Jumps over itself when the rule is about another device, or decides nothing.
fn block(rule: &LinuxDeviceCgroup) -> Result<Vec<Instruction>> {
    let invalid = |what: &str| Error::new(Kind::Invalid, format!("linux.resources.devices: {what} in \"{rule}\""));
    let access = match rule.access().as_deref() {
        None | Some("") => ALL,
        Some(text) => text.chars().try_fold(0, |all, letter| match letter {
            'r' => Ok(all | READ),
            'w' => Ok(all | WRITE),
            'm' => Ok(all | MKNOD),
            _ => Err(invalid("unknown access")),
        })?,
    };
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(BLOCK),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHAR),
        Some(LinuxDeviceType::P) => return Err(invalid("type without numbers")),
    };
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => match u32::try_from(number) {
            Ok(number) => Ok(Some(number.cast_signed())),
            Err(_) => Err(invalid("device number out of range")),
        },
    };
    let conditions = [
        (TYPE, kind),
        (MAJOR, number(rule.major())?),
        (MINOR, number(rule.minor())?),
    ];
    let mut decide = match (rule.allow(), access) {
        (_, ALL) => vec![],
        (true, access) => vec![op(AND, ACCESS, 0, ALL & !access), op(JUMP_UNLESS_EQUAL, ACCESS, 2, 0)],
        (false, access) => vec![
            op(MOVE, ACCESS << 4, 0, 0),
            op(AND, 0, 0, access),
            op(JUMP_IF_EQUAL, 0, 2, 0),
        ],
    };
    decide.extend(verdict(rule.allow()));
    let mut block = vec![];
    let conditions: Vec<_> = conditions
        .iter()
        .filter_map(|(register, value)| Some((*register, (*value)?)))
        .collect();
    for (place, (register, value)) in conditions.iter().enumerate() {
        let over = i16::try_from(conditions.len() - place - 1 + decide.len()).map_err(|_| invalid("no end"))?;
        block.push(op(JUMP_UNLESS_EQUAL, *register, over, *value));
    }
    block.extend(decide);
    Ok(block)
}

/// Has the kernel check and keep the program.
pub fn load(program: &[Instruction]) -> Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel: u32,
        flags: u32,
    }
    const PROG_LOAD: libc::c_int = 5;
    const TRIES: usize = 20;
    const CGROUP_DEVICE: u32 = 15;
    let mut attr = Load {
        kind: CGROUP_DEVICE,
        count: u32::try_from(program.len()).context(Kind::Invalid, || "count device rules".into())?,
        instructions: program.as_ptr().addr() as u64,
        license: c"Apache-2.0".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel: 0,
        flags: 0,
    };
    let mut loaded = sys::bpf_open(PROG_LOAD, &mut attr);
    for _ in 0..TRIES {
        match loaded {
            // The kernel's check stops when a signal comes, as that of a process which ends meanwhile.
            Err(e) if e.kind() == ErrorKind::WouldBlock => loaded = sys::bpf_open(PROG_LOAD, &mut attr),
            other => return other.attempt(|| "load the device program".into()),
        }
    }
    loaded.attempt(|| "load the device program".into())
}

/// Puts it in force on the group that `dir` is open on, instead of `old`; groups below may add their own.
pub fn attach(dir: BorrowedFd<'_>, program: &OwnedFd, old: Option<&OwnedFd>) -> Result<()> {
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
        replaced: u32,
    }
    const PROG_ATTACH: libc::c_int = 8;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    const REPLACE: u32 = 4;
    let mut attr = Attach {
        target: dir.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: CGROUP_DEVICE,
        flags: if old.is_some() {
            ALLOW_MULTI | REPLACE
        } else {
            ALLOW_MULTI
        },
        replaced: old.map_or(0, |old| old.as_raw_fd().cast_unsigned()),
    };
    sys::bpf(PROG_ATTACH, &mut attr)
        .attempt(|| "attach the device program".into())
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn allowed(program: &[Instruction], kind: i32, access: i32, major: u32, minor: u32) -> bool {
        let context = [(access << 16 | kind).cast_unsigned(), major, minor];
        let (mut registers, mut next) = ([0u32; 11], 0);
        loop {
            let Instruction {
                code,
                registers: pair,
                offset,
                immediate,
            } = program[next];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            next += 1;
            match code {
                LOAD => registers[to] = context[usize::try_from(offset).unwrap() / 4],
                MOVE => registers[to] = registers[from],
                MOVE_IMMEDIATE => registers[to] = immediate.cast_unsigned(),
                AND => registers[to] &= immediate.cast_unsigned(),
                SHIFT_RIGHT => registers[to] >>= immediate,
                JUMP_IF_EQUAL | JUMP_UNLESS_EQUAL => {
                    if (registers[to] == immediate.cast_unsigned()) == (code == JUMP_IF_EQUAL) {
                        next += usize::try_from(offset).unwrap();
                    }
                }
                EXIT => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn program(rules: &str) -> Vec<Instruction> {
        compile(&serde_json::from_str::<Vec<_>>(rules).unwrap()).unwrap()
    }

    #[test]
    fn later_rules_override_earlier_ones_access_by_access() {
        let deny_all = r#"{"allow":false,"access":"rwm"}"#;
        let p = program(&format!("[{deny_all}]"));
        assert!(allowed(&p, CHAR, READ | WRITE, 1, 3));
        assert!(allowed(&p, CHAR, READ, 136, 7));
        assert!(allowed(&p, BLOCK, MKNOD, 8, 0));
        assert!(!allowed(&p, BLOCK, READ, 8, 0));
        assert!(!allowed(&p, CHAR, WRITE, 10, 229));

        let p = program(&format!(
            r#"[{deny_all},{{"allow":true,"type":"c","major":10,"minor":229,"access":"r"}},
            {{"allow":true,"type":"c","major":10,"access":"w"}}]"#
        ));
        assert!(allowed(&p, CHAR, READ | WRITE, 10, 229));
        assert!(!allowed(&p, CHAR, READ | WRITE, 10, 228));
        assert!(allowed(&p, CHAR, WRITE, 10, 228));
        assert!(!allowed(&p, BLOCK, WRITE, 10, 229));

        let p = program(r#"[{"allow":true,"type":"a"},{"allow":false,"type":"b","major":8,"minor":1,"access":"w"}]"#);
        assert!(allowed(&p, BLOCK, READ, 8, 1));
        assert!(!allowed(&p, BLOCK, READ | WRITE, 8, 1));
        assert!(allowed(&p, BLOCK, READ | WRITE, 8, 2));
        assert!(allowed(&p, CHAR, ALL, 99, u32::MAX));
    }

    #[test]
    fn nothing_is_allowed_by_default_but_the_harmless() {
        let p = program("[]");
        assert!(!allowed(&p, BLOCK, READ, 8, 0));
        assert!(allowed(&p, CHAR, ALL, 1, 9));
        let p = program(r#"[{"allow":true,"type":"c","major":4294967295,"minor":-1,"access":"rw"}]"#);
        assert!(allowed(&p, CHAR, READ, u32::MAX, 5));
    }

    #[test]
    fn rules_about_nothing_are_refused() {
        for rule in [
            r#"{"allow":true,"access":"x"}"#,
            r#"{"allow":true,"type":"p"}"#,
            r#"{"allow":true,"major":-2}"#,
        ] {
            let rules = vec![serde_json::from_str(rule).unwrap()];
            assert_eq!(compile(&rules).unwrap_err().kind(), Kind::Invalid, "{rule}");
        }
    }

    #[test]
    fn the_kernel_takes_the_program() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: loading a program needs root");
            return;
        }
        let deny = r#"{"allow":false,"access":"rwm"},{"allow":true,"type":"b","major":8,"minor":0,"access":"rw"}"#;
        load(&program(&format!("[{deny}]"))).unwrap();
    }
}
