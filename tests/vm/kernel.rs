// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A kernel of our own: guests boot with it, have all that a container may ask for, and can be frozen. Compiling one takes
//! too long for a test: the cases take the one in the store, and are skipped where there is none.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use vm_tests::{Bundle, Outcome, Verdict, World, command, ours, world};

pub fn cases() -> Vec<Trial> {
    vec![
        ours("kernel::has_what_containers_need", |w| with_kernel(w, contents)),
        ours("kernel::a_frozen_guest_begins_with_it", |w| with_kernel(w, frozen)),
        ours("kernel::refuses_what_it_cannot_build", |w| {
            let fragment = w.dir().join("my.config");
            fs::write(&fragment, "CONFIG_A=y\nCONFIG_XFS_FS=m\n").expect("write");
            let refused = guest(w, &["kernel", "--fragment", fragment.to_str().expect("UTF-8")]);
            refused.refuses(&["my.config:2", "=y"]);
            guest(w, &["kernel", "--source", "/no/such/tree"]).refuses(&["/no/such/tree", "linux-source-"]);
            guest(w, &["build", "--kernel", "own"]).refuses(&["no guest kernel", "kata guest kernel"]);
            let config = guest(w, &["kernel", "--print-config"]).exits(0).text();
            assert!(config.contains("CONFIG_PVH=y"), "{config}");
            assert!(!w.dir().join("guest").exists(), "nothing was made");
        }),
    ]
}

/// `kata` with a guest store and templates of this world's own.
fn tool(w: &World, args: &[&str]) -> Command {
    let mut command = Command::new(world::binaries().join("kata"));
    command.args(args);
    alone(w, command)
}

fn alone(w: &World, mut command: Command) -> Command {
    command.env("KATA_GUEST_DIR", w.dir().join("guest"));
    command.env("KATA_TEMPLATE_DIR", w.dir().join("templates"));
    command
}

fn guest(w: &World, args: &[&str]) -> Outcome {
    command::run(&mut tool(w, &[&["guest"], args].concat()), b"")
}

/// Runs `case` with a guest image of the store's own kernel.
fn with_kernel(w: &World, case: impl Fn(&World)) -> Verdict {
    let store = std::env::var_os("KATA_GUEST_DIR").map_or_else(|| PathBuf::from("/var/lib/kata/guest"), PathBuf::from);
    let kernel = store.join("kernels/default");
    if !kernel.exists() {
        return Verdict::Skipped("no kernel of our own in the guest store: `kata guest kernel` makes one".into());
    }
    let built = guest(w, &["build", "--kernel", kernel.to_str().expect("UTF-8")]);
    assert!(built.exits(0).text().contains("-kata, 0 modules"), "{}", built.text());
    case(w);
    Verdict::Held
}

/// Starts a container; returns the machine's saved state and what the container printed.
fn run(w: &World, name: &str, bundle: &Bundle) -> (Value, String) {
    let mut create = alone(w, w.runtime());
    create.args(["create", "--bundle"]).arg(&bundle.path).arg(w.id(name));
    command::run(&mut create, b"").exits(0);
    let state = fs::read(w.sandbox(name).join("state.json")).expect("the saved state");
    command::run(alone(w, w.runtime()).arg("start").arg(w.id(name)), b"").exits(0);
    w.until_status(name, "stopped");
    let text = fs::read_to_string(bundle.rootfs().join("out")).expect("what it printed");
    w.oci(&["delete", "--force", &w.id(name)]).exits(0);
    (serde_json::from_slice(&state).expect("JSON"), text)
}

fn booted(state: &Value) -> bool {
    let spans = state["spans"].as_array().expect("spans");
    spans.iter().any(|span| span["name"] == "kernel")
}

fn contents(w: &World) {
    let script = "exec > /out 2>&1; uname -r; cat /sys/fs/cgroup/cgroup.controllers; cat /proc/filesystems; \
                  [ -e /proc/modules ] || echo no modules; [ -e /proc/net/if_inet6 ] && echo ipv6; \
                  ls /proc/sys/net/netfilter/nf_conntrack_max /proc/sys/vm/nr_hugepages /proc/sys/fs/mqueue/msg_max \
                  /proc/sys/kernel/io_uring_disabled /proc/sys/vm/unprivileged_userfaultfd /proc/sys/fs/aio-max-nr \
                  /proc/sys/fs/fanotify/max_user_groups /proc/sys/net/core/bpf_jit_enable; ls /proc/self/ns; \
                  for kind in veth bridge; do ip link add $kind type $kind && echo made $kind; done; \
                  grep Seccomp_filters: /proc/self/status; \
                  busybox zcat /proc/config.gz | grep -c =m; echo end";
    let mut bundle = w.bundle("c", script);
    bundle.set(
        "/annotations",
        json!({"io.katacontainers.config.hypervisor.enable_template": "false"}),
    );
    let all = json!(["CAP_NET_ADMIN", "CAP_NET_RAW"]);
    bundle.set(
        "/process/capabilities",
        json!({"bounding": all, "effective": all, "permitted": all}),
    );
    bundle.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]}),
    );
    // Limits, and device rules that are programs.
    bundle.set(
        "/linux/resources",
        json!({"memory": {"limit": 128 << 20}, "pids": {"limit": 64}, "cpu": {"shares": 512, "quota": 50000, "period": 100_000},
               "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]}),
    );
    let (state, text) = run(w, "c", &bundle);
    assert!(booted(&state));
    let words = "-kata|cpuset|cpu |io |memory |hugetlb|pids|overlay|ext4|erofs|virtiofs|fuse|mqueue|hugetlbfs|no modules|ipv6|\
                 nf_conntrack_max|nr_hugepages|msg_max|io_uring_disabled|unprivileged_userfaultfd|aio-max-nr|max_user_groups|\
                 bpf_jit_enable|cgroup|ipc|mnt|net|pid|time|user|uts|made veth|made bridge|Seccomp_filters:\t1|\n0\nend";
    for word in words.split('|') {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
    assert!(!text.contains("No such file"), "{text}");
}

fn frozen(w: &World) {
    guest(w, &["template", "build"]).exits(0);
    let bundle = w.bundle("c", "exec > /out; uname -r; echo end");
    let (state, text) = run(w, "c", &bundle);
    assert!(!booted(&state), "it is a copy");
    assert!(text.contains("-kata\n") && text.ends_with("end\n"), "{text}");
}
