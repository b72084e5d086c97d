// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What a guest says of itself, and pages and requests of any content.

#![no_main]

use std::collections::BTreeSet;

use api::agent::ReadMetricsResponse;
use metrics::page::Format;
use metrics::{Page, guest, http, proc, text};
use protobuf::Message;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(answer) = ReadMetricsResponse::parse_from_bytes(bytes) {
        let mut page = Page::new(Format::Text);
        guest::write(&answer, &mut page);
        let written = page.render();
        let samples = text::parse(&written).expect("what is written can be read");
        // 256 processors and their sum, 33 interfaces, 33 disks, and what has a fixed number of items.
        assert!(samples.len() < 257 * 10 + 33 * (16 + 17) + 300);
        let lines: BTreeSet<_> = samples.iter().map(|sample| (sample.family.name, sample.labels.clone())).collect();
        assert_eq!(lines.len(), samples.len(), "a line is there twice");
        let mut page = Page::new(Format::OpenMetrics);
        guest::write(&answer, &mut page);
        assert!(page.render().ends_with("# EOF\n"));
    }
    let _ = http::request(bytes);
    if let Ok(told) = std::str::from_utf8(bytes) {
        let _ = text::parse(told);
        let _ = (proc::pairs(told), proc::cpus(told), proc::boot_time(told), proc::load(told), proc::stat(told));
        let _ = (proc::interfaces(told), proc::disks(told));
    }
});
