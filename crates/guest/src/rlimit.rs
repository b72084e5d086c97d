// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Resource limits, and what else the agent sets on a process from outside just before it executes its
//! program: low limits would hinder the helper, and a process in a user namespace may not raise its own.

use std::fs;

use base::{Context, Kind, Result};
use oci_spec::runtime::{PosixRlimitType, Process};

use crate::sys;

/// Sets the limits and the OOM score of `pid` as `process` asks.
pub fn apply(pid: i32, process: &Process) -> Result<()> {
    for limit in process.rlimits().iter().flatten() {
        let (soft, hard) = (limit.soft(), limit.hard());
        let limits = libc::rlimit {
            rlim_cur: soft,
            rlim_max: hard,
        };
        let set = sys::prlimit(pid, resource(limit.typ()), &limits);
        set.attempt(|| format!("set {} to soft {soft}, hard {hard}", limit.typ()))?;
    }
    process
        .oom_score_adj()
        .map_or(Ok(()), |score| set_oom_score(pid, score))
}

/// A score below the present one needs CAP_SYS_RESOURCE; without, it stays, which is the closest there is.
fn set_oom_score(pid: i32, score: i32) -> Result<()> {
    let path = format!("/proc/{pid}/oom_score_adj");
    let set = fs::write(&path, score.to_string()).attempt(|| format!("write {score} to {path}"));
    match set {
        Err(e) if e.kind() == Kind::Denied => {
            log::warn!("{}: left as it is", e.chain());
            Ok(())
        }
        other => other,
    }
}

fn resource(kind: PosixRlimitType) -> libc::__rlimit_resource_t {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}
