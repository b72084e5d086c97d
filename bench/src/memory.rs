// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Host memory of idle sandboxes, by process: proportional set size, with the guest's own memory told apart.

use std::collections::BTreeMap;
use std::fs;

use vm_tests::{Runtime, World};

use crate::sample::Sample;

/// Sandboxes that idle side by side: shared text counts proportionally.
const SANDBOXES: usize = 4;

/// The role of a process of `world`, if it is one.
fn role(world: &World, pid: &str) -> Option<&'static str> {
    let marker = world.dir().file_name()?.to_string_lossy().into_owned();
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    if !line.contains(&marker) && !cwd.to_string_lossy().contains(&marker) {
        return None;
    }
    let roles = [
        ("qemu-system", "hypervisor"),
        ("kata monitor", "monitor"),
        ("kata device", "device"),
        ("kata shim", "shim"),
    ];
    roles
        .into_iter()
        .find(|(word, _)| line.contains(word))
        .map(|(_, role)| role)
}

/// MB of guest memory and of everything else.
fn shares(pid: &str) -> Option<(f64, f64)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let (mut guest, mut own, mut in_guest) = (0.0, 0.0, false);
    for line in maps.lines() {
        if let Some(kib) = line.strip_prefix("Pss:") {
            let kib: f64 = kib.trim().trim_end_matches(" kB").parse().ok()?;
            *if in_guest { &mut guest } else { &mut own } += kib / 1024.0;
        } else if line.split_whitespace().next().is_some_and(|range| range.contains('-')) {
            in_guest = line.contains("memfd:") || line.contains("/dev/shm");
        }
    }
    Some((guest, own))
}

/// Prints the table.
pub fn idle(_runs: usize) {
    let world = World::new(Runtime::Ours);
    let names: Vec<String> = (0..SANDBOXES).map(|n| format!("idle{n}")).collect();
    for name in &names {
        let bundle = world.bundle(name, "sleep 1000");
        world.create(name, &bundle);
        world.oci(&["start", &world.id(name)]).exits(0);
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    let mut own: BTreeMap<&str, Sample> = BTreeMap::new();
    let mut guest: BTreeMap<&str, Sample> = BTreeMap::new();
    let (mut total, mut guests) = (0.0, 0.0);
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let Some(role) = role(&world, &pid) else { continue };
        let Some((in_guest, rest)) = shares(&pid) else { continue };
        own.entry(role).or_default().push(rest);
        guest.entry(role).or_default().push(in_guest);
        total += rest;
        guests += in_guest;
    }
    println!("\n## Memory of an idle sandbox\n");
    println!("{SANDBOXES} sandboxes side by side; PSS, median (least–most), MB.\n");
    println!("| process | its own | guest memory mapped |\n| --- | --- | --- |");
    for (role, sample) in &own {
        println!("| {role} | {} | {} |", sample.cell(), guest[role].cell());
    }
    let count = f64::from(u32::try_from(SANDBOXES).expect("small"));
    println!("| all, per sandbox | {:.1} | {:.1} |", total / count, guests / count);
    for name in &names {
        world.oci(&["delete", "--force", &world.id(name)]).exits(0);
    }
    world.end();
}
