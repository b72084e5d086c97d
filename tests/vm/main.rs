// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Integration tests: real virtual machines, real clients, as root. See CONTRIBUTING.md for how to run some of them.

mod binds;
mod boot;
mod buildah;
mod cgroup;
mod config;
mod containerd;
mod crash;
mod cri;
mod disks;
mod docker;
mod events;
mod everyday;
mod files;
mod input;
mod kernel;
mod kubernetes;
mod lifecycle;
mod limits;
mod metrics;
mod mounts;
mod network;
mod podman;
mod pods;
mod porcelain;
mod process;
mod resize;
mod scale;
mod snapshotters;
mod software;
mod standby;
mod stdio;
mod systemd;
mod template;
mod template_crash;
mod terminal;
mod usernet;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let mut args = Arguments::from_args();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("the integration tests make containers and need root: sudo make test");
        std::process::exit(1);
    }
    // A machine per core: more only makes each one slower under software emulation.
    args.test_threads = args.test_threads.or(Some(2));
    let groups: &[fn() -> Vec<Trial>] = &[
        lifecycle::cases,
        process::cases,
        mounts::cases,
        binds::cases,
        events::cases,
        network::cases,
        usernet::cases,
        limits::cases,
        stdio::cases,
        terminal::cases,
        files::cases,
        input::cases,
        boot::cases,
        cgroup::cases,
        systemd::cases,
        crash::cases,
        metrics::cases,
        porcelain::cases,
        podman::cases,
        docker::cases,
        buildah::cases,
        pods::cases,
        containerd::cases,
        cri::cases,
        kubernetes::cases,
        resize::cases,
        disks::cases,
        config::cases,
        template::cases,
        template_crash::cases,
        scale::cases,
        snapshotters::cases,
        software::cases,
        standby::cases,
        kernel::cases,
    ];
    // A failed assertion is reported by the runner, not by the panic hook of its thread.
    std::panic::set_hook(Box::new(|_| {}));
    let conclusion = libtest_mimic::run(&args, groups.iter().flat_map(|cases| cases()).collect());
    print!("{}", vm_tests::software::table());
    conclusion.exit();
}
