// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Where the time of a start goes: the spans that the monitor saved with the sandbox.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::contender::Setting;
use crate::report::Section;
use crate::sample::Sample;
use crate::start;

/// Of `create`, warm and cold.
pub fn of_create(setting: &Setting) -> Section {
    let mut section = Section::new("Spans of `create`");
    section.note("Spans may overlap.");
    for (title, warm) in [("spans, warm", true), ("spans, cold", false)] {
        let mut order: Vec<String> = Vec::new();
        let mut spans: Vec<BTreeMap<String, Sample>> = setting.ours().map(|_| BTreeMap::new()).collect();
        for _ in 0..setting.runs {
            for (one, spans) in setting.ours().zip(&mut spans) {
                let world = one.world();
                world.create("spans", &start::bundle(&world, "spans", "true", warm));
                let text = std::fs::read(world.sandbox("spans").join("state.json")).expect("the saved state");
                let state: Value = serde_json::from_slice(&text).expect("JSON");
                for span in state["spans"].as_array().into_iter().flatten() {
                    if let (Some(name), Some(ms)) = (span["name"].as_str(), span["ms"].as_f64()) {
                        if !order.iter().any(|known| known == name) {
                            order.push(name.to_owned());
                        }
                        spans.entry(name.to_owned()).or_default().push(ms);
                    }
                }
                world.oci(&["delete", "--force", &world.id("spans")]).exits(0);
                world.end();
            }
        }
        let mut table = setting.table_of_ours(title, "ms");
        for name in order {
            let samples = spans.iter().map(|spans| spans.get(&name).cloned().unwrap_or_default());
            let samples = samples.collect();
            table.row(name, samples);
        }
        section.tables.push(table);
    }
    section
}
