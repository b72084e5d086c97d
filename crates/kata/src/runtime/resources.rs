// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `linux.resources` as `update` gives them: a file, or options. What is absent stays as it is.

use std::io::Read;
use std::path::Path;

use base::{Context, Error, Kind, Result};
use serde_json::{Map, Value, json};

use super::arguments::UpdateArgs;

/// The document for the guest. Errors: `Invalid` for what cannot be read, and for nothing to change.
pub fn document(args: &UpdateArgs) -> Result<Value> {
    match &args.resources {
        Some(path) => read(path),
        None => options(args),
    }
}

fn read(path: &Path) -> Result<Value> {
    let mut json = Vec::new();
    if path == Path::new("-") {
        std::io::stdin()
            .read_to_end(&mut json)
            .attempt(|| "read standard input".into())?;
    } else {
        json = std::fs::read(path).attempt(|| format!("read {}", path.display()))?;
    }
    // Parsed into types, so that a mistake is told here; sent as it came.
    let _: oci::spec::LinuxResources =
        serde_json::from_slice(&json).context(Kind::Invalid, || format!("parse {}", path.display()))?;
    serde_json::from_slice(&json).context(Kind::Invalid, || format!("parse {}", path.display()))
}

fn options(args: &UpdateArgs) -> Result<Value> {
    if args.l3_cache_schema.is_some() || args.mem_bw_schema.is_some() {
        return Err(Error::new(Kind::Unsupported, "Intel RDT: the guest has none"));
    }
    let some = |pairs: Vec<(&str, Option<Value>)>| -> Option<Value> {
        let present: Map<String, Value> = pairs
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect();
        (!present.is_empty()).then_some(Value::Object(present))
    };
    let cpu = some(vec![
        ("shares", args.cpu_share.map(Value::from)),
        ("quota", args.cpu_quota.map(Value::from)),
        ("period", args.cpu_period.map(Value::from)),
        ("realtimeRuntime", args.cpu_rt_runtime.map(Value::from)),
        ("realtimePeriod", args.cpu_rt_period.map(Value::from)),
        ("cpus", args.cpuset_cpus.clone().map(Value::from)),
        ("mems", args.cpuset_mems.clone().map(Value::from)),
    ]);
    let memory = some(vec![
        ("limit", bytes("memory", args.memory.as_deref())?),
        (
            "reservation",
            bytes("memory-reservation", args.memory_reservation.as_deref())?,
        ),
        ("swap", bytes("memory-swap", args.memory_swap.as_deref())?),
    ]);
    let changes = some(vec![
        ("cpu", cpu),
        ("memory", memory),
        ("pids", args.pids_limit.map(|limit| json!({ "limit": limit }))),
        ("blockIO", args.blkio_weight.map(|weight| json!({ "weight": weight }))),
    ]);
    Ok(changes.unwrap_or_else(|| json!({})))
}

fn bytes(option: &str, text: Option<&str>) -> Result<Option<Value>> {
    text.map(|text| size(option, text).map(Value::from)).transpose()
}

/// Bytes, or with one of the suffixes k, m, g, t (1024 each); -1 is no limit. Errors: `Invalid`, naming the option.
pub fn size(option: &str, text: &str) -> Result<i64> {
    let invalid = || Error::new(Kind::Invalid, format!("invalid value for {option}: {text:?}"));
    let lower = text.to_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (number, shift) = match lower.as_bytes().last() {
        Some(b'k') => (&lower[..lower.len() - 1], 10),
        Some(b'm') => (&lower[..lower.len() - 1], 20),
        Some(b'g') => (&lower[..lower.len() - 1], 30),
        Some(b't') => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    let number: i64 = number.parse().map_err(|_| invalid())?;
    if number < -1 || (number == -1 && shift != 0) {
        return Err(invalid());
    }
    number.checked_mul(1 << shift).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_the_members_that_they_name() {
        let args = UpdateArgs {
            memory: Some("64m".into()),
            memory_swap: Some("-1".into()),
            cpu_quota: Some(20_000),
            pids_limit: Some(9),
            ..UpdateArgs::default()
        };
        let want = json!({"memory": {"limit": 67_108_864, "swap": -1}, "cpu": {"quota": 20_000}, "pids": {"limit": 9}});
        assert_eq!(document(&args).unwrap(), want);
        assert_eq!(document(&UpdateArgs::default()).unwrap(), json!({}));
        for bad in ["", "x", "-2", "1x", "9223372036854775807k", "-1k"] {
            assert!(bytes("memory", Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_is_checked_and_sent_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        let args = UpdateArgs {
            resources: Some(path.clone()),
            ..UpdateArgs::default()
        };
        std::fs::write(&path, r#"{"memory":{"limit":1},"unified":{"cpu.idle":"1"}}"#).unwrap();
        assert_eq!(document(&args).unwrap()["unified"]["cpu.idle"], "1");
        std::fs::write(&path, r#"{"memory":{"limit":"a lot"}}"#).unwrap();
        assert!(document(&args).unwrap_err().chain().contains("r.json"));
    }
}
