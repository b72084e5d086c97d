// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The dashboard in `deploy/grafana` asks for nothing that there is not, in words that Prometheus understands.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::process::{Command, Stdio};

use metrics::family::{self, Kind};
use serde_json::Value;

fn dashboard() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/grafana/dashboard.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("it can be read")).expect("it is JSON")
}

/// All strings under these keys, wherever they are.
fn texts<'a>(value: &'a Value, keys: &[&str], found: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value.as_str() {
                    Some(text) if keys.contains(&key.as_str()) => found.push(text),
                    _ => texts(value, keys, found),
                }
            }
        }
        Value::Array(array) => array.iter().for_each(|value| texts(value, keys, found)),
        _ => {}
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

#[test]
fn every_name_and_label_is_one_of_ours() {
    let dashboard = dashboard();
    let mut queries = Vec::new();
    texts(&dashboard, &["expr", "query", "definition"], &mut queries);
    let mut asked = BTreeSet::new();
    for query in &queries {
        for word in words(query).filter(|word| word.starts_with("kata_")) {
            let (family, part) = family::of_sample(word).unwrap_or_else(|| panic!("{word}, in {query}"));
            asked.insert(family.name);
            // A histogram is asked by its buckets.
            assert!(family.kind != Kind::Histogram || part == "_bucket", "{query}");
            if family.kind == Kind::Counter {
                assert!(query.contains(&format!("rate({word}")), "a counter by itself: {query}");
            }
            // `NAME{LABEL="…"`
            let Some((_, rest)) = query.split_once(&format!("{word}{{")) else {
                continue;
            };
            let inner = rest.split_once('}').expect("as it was written").0;
            for label in inner
                .split(',')
                .map(|pair| pair.split(['=', '!']).next().expect("as it was written"))
            {
                let known = family.labels.contains(&label) || family::COMMON.contains(&label);
                assert!(known, "{} has no label {label:?}: {query}", family.name);
            }
        }
    }
    assert!(asked.len() > 25, "{asked:?}");
    assert!(queries.len() > 40, "{}", queries.len());
}

#[test]
fn panels_have_ids_and_places_of_their_own() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("as it was written");
    let mut ids = BTreeSet::new();
    let mut places: BTreeSet<(u64, u64)> = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().expect("as it was written")), "{panel}");
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("as it was written");
        assert!(at("x") + at("w") <= 24, "{panel}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(places.insert((x, y)), "one lies over another: {panel}");
            }
        }
    }
}

#[test]
fn prometheus_understands_every_expression() {
    if Command::new("promtool").arg("--version").output().is_err() {
        eprintln!("skipped: promtool is not installed (package prometheus)");
        return;
    }
    let dashboard = dashboard();
    let mut expressions = Vec::new();
    texts(&dashboard, &["expr"], &mut expressions);
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (index, expression) in expressions.iter().enumerate() {
        // Grafana's variables.
        let plain = expression.replace("$__rate_interval", "5m").replace("$sandbox", ".*");
        assert!(!plain.contains('$'), "{plain}");
        let quoted = serde_json::to_string(&plain).expect("as it was written");
        writeln!(rules, "  - record: kata:panel:{index}\n    expr: {quoted}").expect("as it was written");
    }
    let file = tempfile::NamedTempFile::new().expect("temporary files");
    std::fs::write(file.path(), rules).expect("a file of the test");
    let mut check = Command::new("promtool");
    let output = check
        .args(["check", "rules"])
        .arg(file.path())
        .stdin(Stdio::null())
        .output()
        .expect("run a program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
