// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `--memory`, `--cpus`, `--pids-limit` and `--ulimit` as the spec has them.

use base::{Context, Error, Kind, Result};
use serde_json::{Map, Value, json};

use super::super::arguments::RunArgs;
use crate::runtime::resources::size;

/// Microseconds in which the quota of processor time counts.
const PERIOD: u64 = 100_000;
/// Open files, as docker has it: guests start with little.
const FILES: u64 = 1_048_576;
/// Least that a process can do anything with, as docker has it.
const LEAST: i64 = 6 << 20;

const RESOURCES: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

fn invalid(what: String) -> Error {
    Error::new(Kind::Invalid, what)
}

/// `linux.resources`.
pub fn resources(args: &RunArgs) -> Result<Value> {
    let mut all = Map::new();
    let devices = json!([{ "allow": args.privileged, "access": "rwm" }]);
    all.insert("devices".into(), devices);
    if let Some(memory) = &args.memory {
        let limit = size("memory", memory)?;
        if limit < LEAST {
            return Err(invalid(format!("memory {memory:?} is less than 6m")));
        }
        all.insert("memory".into(), json!({ "limit": limit }));
    }
    if let Some(cpus) = &args.cpus {
        let quota = quota(cpus).ok_or_else(|| invalid(format!("cpus {cpus:?} is not a number from 0.01 to 1024")))?;
        all.insert("cpu".into(), json!({ "quota": quota, "period": PERIOD }));
    }
    if let Some(limit) = args.pids_limit.filter(|limit| *limit > 0) {
        all.insert("pids".into(), json!({ "limit": limit }));
    }
    Ok(all.into())
}

/// A decimal number of processors as microseconds per period.
fn quota(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || (whole.is_empty() && part.is_empty()) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let part: String = part.chars().chain("00000".chars()).take(5).collect();
    let quota = whole.checked_mul(PERIOD)?.checked_add(part.parse().ok()?)?;
    (PERIOD / 100..=PERIOD * 1024).contains(&quota).then_some(quota)
}

/// `process.rlimits`.
pub fn rlimits(texts: &[String]) -> Result<Value> {
    let mut all: Vec<(String, u64, u64)> = vec![("nofile".into(), FILES, FILES)];
    for text in texts {
        let limit = rlimit(text).context(Kind::Invalid, || format!("ulimit {text:?}"))?;
        all.retain(|known| known.0 != limit.0);
        all.push(limit);
    }
    let value = |(name, soft, hard): &(String, u64, u64)| json!({ "type": format!("RLIMIT_{}", name.to_uppercase()), "soft": soft, "hard": hard });
    Ok(all.iter().map(value).collect())
}

fn rlimit(text: &str) -> Result<(String, u64, u64)> {
    let (name, values) = text
        .split_once('=')
        .ok_or_else(|| invalid("not NAME=SOFT[:HARD]".into()))?;
    if !RESOURCES.contains(&name) {
        return Err(invalid(format!("unknown, not one of {}", RESOURCES.join(" "))));
    }
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        text => text
            .parse::<u64>()
            .map_err(|_| invalid(format!("{text:?} is not a number"))),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        return Err(invalid("the soft limit is above the hard one".into()));
    }
    Ok((name.to_owned(), soft, hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_may_be_parts() {
        for (text, want) in [
            ("1", Some(100_000)),
            ("0.5", Some(50_000)),
            (".25", Some(25_000)),
            ("2.", Some(200_000)),
            ("1.123456", Some(112_345)),
            ("0", None),
            ("0.001", None),
            ("", None),
            (".", None),
            ("-1", None),
            ("1e3", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(quota(text), want, "{text:?}");
        }
    }

    #[test]
    fn ulimits() {
        let limits = rlimits(&["core=0".into(), "nofile=10:-1".into()]).unwrap();
        let want = json!([
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
            { "type": "RLIMIT_NOFILE", "soft": 10, "hard": u64::MAX }
        ]);
        assert_eq!(limits, want);
        for (bad, why) in [
            ("core", "NAME=SOFT"),
            ("frob=1", "unknown"),
            ("core=x", "\"x\" is not a number"),
            ("core=2:1", "above the hard one"),
        ] {
            let chain = rlimits(&[bad.to_owned()]).unwrap_err().chain();
            assert!(chain.contains(why), "{chain}");
        }
    }
}
