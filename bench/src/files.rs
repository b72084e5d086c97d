// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The shared file system beside the host's own, which is what runc's bind mount gives: the same script in both, on a directory of
//! the host.

use vm_tests::{Runtime, World};

use crate::sample::{Sample, head, row};

/// Prints one `name seconds` line per step; the clock is the container's own.
const SCRIPT: &str = r#"
cd /data
step() { name=$1; shift; a=$(cut -d' ' -f1 /proc/uptime); "$@" >/dev/null 2>&1; b=$(cut -d' ' -f1 /proc/uptime); echo $name $a $b; }
many() { i=0; while [ $i -lt 1000 ]; do : > f$i; i=$((i+1)); done; }
step write dd if=/dev/zero of=big bs=1M count=256 conv=fsync
step read dd if=big of=/dev/null bs=1M
step create many
step list ls -l
step remove sh -c 'rm f*'
rm big
"#;

const STEPS: [(&str, &str); 5] = [
    ("write", "write 256 MiB and fsync"),
    ("read", "read them again"),
    ("create", "create 1000 files"),
    ("list", "`ls -l` of them"),
    ("remove", "remove them"),
];

fn once(world: &World) -> Vec<f64> {
    let data = world.dir().join("data");
    std::fs::create_dir_all(&data).expect("make");
    let mut bundle = world.bundle("files", SCRIPT);
    bundle.mount("/data", "bind", data.to_str().expect("UTF-8"), &["rbind"]);
    let text = world.run_with("files", &bundle, b"").exits(0).text();
    let seconds = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("no {name} in {text}"));
        let times: Vec<f64> = line
            .split_whitespace()
            .skip(1)
            .map(|word| word.parse().expect("a time"))
            .collect();
        // The clock ticks every 10 ms.
        (times[1] - times[0]).max(0.01)
    };
    STEPS.iter().map(|(name, _)| seconds(name)).collect()
}

/// Prints the table.
pub fn compare(runs: usize) {
    let worlds = [World::new(Runtime::Ours), World::new(Runtime::Reference)];
    let mut samples: Vec<[Sample; 2]> = STEPS.iter().map(|_| Default::default()).collect();
    for _ in 0..runs {
        for (at, world) in worlds.iter().enumerate() {
            for (step, seconds) in samples.iter_mut().zip(once(world)) {
                step[at].push(seconds * 1e3);
            }
        }
    }
    head("Shared file system", "ms", runs);
    for ((_, what), [ours, reference]) in STEPS.iter().zip(&samples) {
        row(what, ours, reference);
    }
    worlds.into_iter().for_each(World::end);
}
