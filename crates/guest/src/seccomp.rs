// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The filter of system calls: libseccomp makes the program from the spec, we put a prologue before it and
//! load both.
//!
//! The prologue answers ENOSYS to calls that are newer than the profile (a number above all that it names), if
//! the profile forbids by default: a C library that gets EPERM would not fall back to an older call.

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::os::fd::AsFd;

use base::{Context, Error, Kind, Result};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag};
use oci_spec::runtime::{LinuxSeccompOperator, LinuxSyscall};

use crate::sys;

/// A program for the kernel, with the flags to load it.
#[derive(Debug)]
pub struct Filter {
    program: Vec<libc::sock_filter>,
    flags: libc::c_ulong,
}

impl Filter {
    /// Translates it. Errors: `Unsupported` for actions that need somebody outside; `Invalid`.
    pub fn new(spec: &LinuxSeccomp) -> Result<Filter> {
        let default = action(spec.default_action(), spec.default_errno_ret())?;
        let what = || "make the seccomp filter".to_owned();
        let mut context = ScmpFilterContext::new(default).attempt(what)?;
        let mut arches = vec![ScmpArch::native()];
        for arch in spec.architectures().iter().flatten() {
            let arch = architecture(*arch);
            if !arches.contains(&arch) {
                context
                    .add_arch(arch)
                    .attempt(|| format!("add architecture {arch:?} to the seccomp filter"))?;
                arches.push(arch);
            }
        }
        for rule in spec.syscalls().iter().flatten() {
            add(&mut context, rule, default)?;
        }
        let mut program = if forbids(default) {
            prologue(&newest(spec, &arches))
        } else {
            vec![]
        };
        program.extend(export(&context)?);
        Ok(Filter {
            program,
            flags: flags(spec),
        })
    }

    /// Installs it on this thread. Errors: `Denied` without CAP_SYS_ADMIN and no_new_privs.
    pub fn load(&self) -> Result<()> {
        let what = || "load the seccomp filter".to_owned();
        match sys::seccomp(&self.program, self.flags) {
            // A kernel without one of the flags; they do not change what is forbidden.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && self.flags != 0 => {
                sys::seccomp(&self.program, 0).attempt(what)
            }
            other => other.attempt(what),
        }
    }
}

fn add(context: &mut ScmpFilterContext, rule: &LinuxSyscall, default: ScmpAction) -> Result<()> {
    let act = action(rule.action(), rule.errno_ret())?;
    // libseccomp refuses rules that say what goes without saying.
    if act == default {
        return Ok(());
    }
    for name in rule.names() {
        // Unknown to libseccomp: newer, or of another machine. Nothing can be said about it.
        let Ok(call) = ScmpSyscall::from_name(name) else {
            continue;
        };
        let args: Vec<_> = rule.args().iter().flatten().map(compare).collect::<Result<_>>()?;
        let what = || format!("add {name} to the seccomp filter");
        // The kernel side takes each argument once in a rule; more mean any of them, as with runc.
        let mut indexes: Vec<_> = rule.args().iter().flatten().map(LinuxSeccompArg::index).collect();
        indexes.sort_unstable();
        indexes.dedup();
        if args.is_empty() {
            context.add_rule(act, call).attempt(what)?;
        } else if indexes.len() == args.len() {
            context.add_rule_conditional(act, call, &args).attempt(what)?;
        } else {
            for arg in args {
                context.add_rule_conditional(act, call, &[arg]).attempt(what)?;
            }
        }
    }
    Ok(())
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction> {
    let number = errno.unwrap_or(libc::EPERM.cast_unsigned());
    let range = || format!("seccomp errnoRet {number} is out of range");
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => {
            ScmpAction::Errno(i32::from(u16::try_from(number).context(Kind::Invalid, range)?))
        }
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(u16::try_from(number).context(Kind::Invalid, range)?),
        LinuxSeccompAction::ScmpActNotify => {
            let what = "seccomp action SCMP_ACT_NOTIFY: its listener is a process of the host";
            return Err(Error::new(Kind::Unsupported, what));
        }
    })
}

fn compare(arg: &LinuxSeccompArg) -> Result<ScmpArgCompare> {
    let index = u32::try_from(arg.index()).ok().filter(|index| *index < 6);
    let index =
        index.ok_or_else(|| Error::new(Kind::Invalid, format!("seccomp argument {} of 0 to 5", arg.index())))?;
    let (op, datum) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        // Here the value is the mask.
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0))
        }
    };
    Ok(ScmpArgCompare::new(index, op, datum))
}

fn architecture(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::native(),
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        _ => ScmpArch::native(),
    }
}

fn flags(spec: &LinuxSeccomp) -> libc::c_ulong {
    let Some(flags) = spec.flags() else {
        return libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    };
    // There is one thread to synchronise, and no listener to wait for.
    flags.iter().fold(0, |all, flag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => all | libc::SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => all | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync | LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
            all
        }
    })
}

fn forbids(default: ScmpAction) -> bool {
    !matches!(default, ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_))
}

/// Bit of a number that makes it one of x32, which shares its architecture word with x86_64.
const X32: u32 = 0x4000_0000;

/// The architecture words (AUDIT_ARCH_*) that the prologue knows, with the highest number named for each.
fn newest(spec: &LinuxSeccomp, arches: &[ScmpArch]) -> BTreeMap<u32, u32> {
    let mut newest = BTreeMap::new();
    for arch in arches {
        let Some(word) = audit_word(*arch) else { continue };
        let names = spec.syscalls().iter().flatten().flat_map(LinuxSyscall::names);
        let numbers = names.filter_map(|name| ScmpSyscall::from_name_by_arch(name, *arch).ok());
        let numbers = numbers.filter_map(|call| u32::try_from(call.as_raw_syscall()).ok());
        if let Some(highest) = numbers.filter(|number| number & X32 == 0).max() {
            newest.insert(word, highest);
        }
    }
    newest
}

fn audit_word(arch: ScmpArch) -> Option<u32> {
    Some(match arch {
        ScmpArch::X8664 => 0xc000_003e,
        ScmpArch::X86 => 0x4000_0003,
        ScmpArch::Aarch64 => 0xc000_00b7,
        ScmpArch::Arm => 0x4000_0028,
        ScmpArch::Ppc64Le => 0xc000_0015,
        ScmpArch::S390X => 0x8000_0016,
        ScmpArch::Riscv64 => 0xc000_00f3,
        _ => return None,
    })
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const ERRNO: u32 = 0x0005_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

fn op(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Answers ENOSYS to what is newer, and falls through for all else: six instructions an architecture.
fn prologue(newest: &BTreeMap<u32, u32>) -> Vec<libc::sock_filter> {
    let mut program = vec![];
    for (word, highest) in newest {
        program.extend([
            op(LOAD, 0, 0, ARCHITECTURE),
            op(JUMP_IF_EQUAL, 0, 4, *word),
            op(LOAD, 0, 0, NUMBER),
            op(JUMP_IF_AT_LEAST, 2, 0, X32),
            op(JUMP_IF_GREATER, 0, 1, *highest),
            op(RETURN, 0, 0, ERRNO | libc::ENOSYS.cast_unsigned()),
        ]);
    }
    program
}

fn export(context: &ScmpFilterContext) -> Result<Vec<libc::sock_filter>> {
    let what = || "export the seccomp filter".to_owned();
    let memory = memfd_create(c"seccomp", MFdFlags::MFD_CLOEXEC).attempt(what)?;
    context.export_bpf(memory.as_fd()).attempt(what)?;
    let mut memory = std::fs::File::from(memory);
    let mut bytes = vec![];
    memory
        .rewind()
        .and_then(|()| memory.read_to_end(&mut bytes))
        .attempt(what)?;
    let word = |at: &[u8]| u16::from_ne_bytes([at[0], at[1]]);
    let instruction = |at: &[u8]| op(word(at), at[2], at[3], u32::from_ne_bytes([at[4], at[5], at[6], at[7]]));
    Ok(bytes.chunks_exact(8).map(instruction).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86_64: u32 = 0xc000_003e;

    fn filter(json: &str) -> Filter {
        Filter::new(&serde_json::from_str(json).unwrap()).unwrap()
    }

    /// What the kernel would answer: runs the classic BPF program.
    fn answer(filter: &Filter, arch: u32, number: i64, args: [u64; 6]) -> u32 {
        let mut data = vec![u32::try_from(number).unwrap(), arch, 0, 0];
        for arg in args {
            data.extend([
                u32::try_from(arg & 0xffff_ffff).unwrap(),
                u32::try_from(arg >> 32).unwrap(),
            ]);
        }
        let (mut a, mut next) = (0u32, 0);
        loop {
            let step = filter.program[next];
            next += 1;
            let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
            match step.code {
                LOAD => a = data[usize::try_from(step.k).unwrap() / 4],
                0x05 => next += usize::try_from(step.k).unwrap(),
                JUMP_IF_EQUAL => next += jump(a == step.k),
                JUMP_IF_GREATER => next += jump(a > step.k),
                JUMP_IF_AT_LEAST => next += jump(a >= step.k),
                0x54 => a &= step.k,
                RETURN => return step.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const ALLOW: u32 = 0x7fff_0000;

    #[test]
    fn actions_and_error_numbers_reach_the_kernel() {
        let f = filter(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":5},{"names":["rmdir"],"action":"SCMP_ACT_ERRNO"},
            {"names":["chmod"],"action":"SCMP_ACT_KILL_PROCESS"},{"names":["chown"],"action":"SCMP_ACT_TRAP"},
            {"names":["link"],"action":"SCMP_ACT_LOG"},{"names":["unlink"],"action":"SCMP_ACT_TRACE","errnoRet":7},
            {"names":["no_such_call"],"action":"SCMP_ACT_KILL"}]}"#,
        );
        let of = |number| answer(&f, X86_64, number, [0; 6]);
        assert_eq!(of(libc::SYS_mkdir), ERRNO | 5);
        assert_eq!(of(libc::SYS_rmdir), ERRNO | 1);
        assert_eq!(of(libc::SYS_chmod), 0x8000_0000);
        assert_eq!(of(libc::SYS_chown), 0x0003_0000);
        assert_eq!(of(libc::SYS_link), 0x7ffc_0000);
        assert_eq!(of(libc::SYS_unlink), 0x7ff0_0007);
        assert_eq!(of(libc::SYS_read), ALLOW);
        assert_eq!(of(9999), ALLOW);
    }

    #[test]
    fn newer_calls_are_unknown_not_forbidden() {
        let f = filter(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
            "syscalls":[{"names":["read","clone3"],"action":"SCMP_ACT_ALLOW"}]}"#,
        );
        let of = |number| answer(&f, X86_64, number, [0; 6]);
        assert_eq!(of(libc::SYS_read), ALLOW);
        assert_eq!(of(libc::SYS_clone3), ALLOW);
        assert_eq!(of(libc::SYS_write), ERRNO | 1);
        assert_eq!(of(libc::SYS_clone3 + 1), ERRNO | 38);
        assert_eq!(of(9999), ERRNO | 38);
        assert_eq!(answer(&f, 0x4000_0003, 9999, [0; 6]), ERRNO | 38);
        assert_eq!(of(i64::from(X32) + libc::SYS_read), ALLOW);
    }

    #[test]
    fn arguments_are_compared() {
        let f = filter(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["personality"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]},
            {"names":["clone"],"action":"SCMP_ACT_ERRNO",
             "args":[{"index":0,"value":268435456,"valueTwo":268435456,"op":"SCMP_CMP_MASKED_EQ"}]},
            {"names":["socket"],"action":"SCMP_ACT_ERRNO","args":[
             {"index":0,"value":16,"op":"SCMP_CMP_EQ"},{"index":0,"value":17,"op":"SCMP_CMP_EQ"}]}]}"#,
        );
        let of = |number, first| answer(&f, X86_64, number, [first, 0, 0, 0, 0, 0]);
        assert_eq!(of(libc::SYS_personality, 8), ERRNO | 1);
        assert_eq!(of(libc::SYS_personality, 9), ALLOW);
        assert_eq!(of(libc::SYS_personality, 8 | 1 << 40), ALLOW);
        assert_eq!(of(libc::SYS_clone, 0x1000_0011), ERRNO | 1);
        assert_eq!(of(libc::SYS_clone, 0x11), ALLOW);
        assert_eq!(of(libc::SYS_socket, 16), ERRNO | 1);
        assert_eq!(of(libc::SYS_socket, 17), ERRNO | 1);
        assert_eq!(of(libc::SYS_socket, 2), ALLOW);
    }

    #[test]
    fn flags_are_passed_on() {
        let of = |flags: &str| filter(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW"{flags}}}"#)).flags;
        assert_eq!(of(""), libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
        assert_eq!(of(r#","flags":[]"#), 0);
        assert_eq!(
            of(r#","flags":["SECCOMP_FILTER_FLAG_LOG"]"#),
            libc::SECCOMP_FILTER_FLAG_LOG
        );
    }

    #[test]
    fn listeners_are_refused_with_the_reason() {
        let spec = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#;
        let refused = Filter::new(&serde_json::from_str(spec).unwrap()).unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported);
        assert!(refused.chain().contains("listener"));
        let spec = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO",
            "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#;
        assert_eq!(
            Filter::new(&serde_json::from_str(spec).unwrap()).unwrap_err().kind(),
            Kind::Invalid
        );
    }
}
