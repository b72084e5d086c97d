// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The network that an engine prepared: the container has it as if it were on the host.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;

use libtest_mimic::Trial;
use serde_json::json;
use vm_tests::{Bundle, Wire, World, both, command, ours};

pub fn cases() -> Vec<Trial> {
    vec![
        both("network::as_prepared", as_prepared),
        both("network::talks", talks),
        both("network::is_talked_to", is_talked_to),
        both("network::large_transfers", large_transfers),
        both("network::localhost_is_reached_from_the_namespace", localhost),
        both("network::none", none),
        both("network::plugged_between_create_and_start", |w| {
            plugged_between(w, hooked);
        }),
        both("network::plugged_where_names_are_told", |w| plugged_between(w, named)),
        both("network::plugged_and_pulled_while_running", plugged_while_running),
        ours("network::name_server_on_loopback", name_server_on_loopback),
        ours("network::host_is_refused", host_is_refused),
        ours("network::missing_namespace", missing_namespace),
        both("network::shared_by_two_containers", shared),
        ours("network::after_a_killed_monitor", after_a_killed_monitor),
    ]
}

/// A bundle in the namespace of `wire`.
fn bundle(w: &World, name: &str, wire: &Wire, script: &str) -> Bundle {
    let mut bundle = w.bundle(name, script);
    place(&mut bundle, json!({"type": "network", "path": wire.path()}));
    bundle
}

fn place(bundle: &mut Bundle, network: serde_json::Value) {
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "network");
    if !network.is_null() {
        namespaces.push(network);
    }
    // ping
    for set in ["bounding", "effective", "permitted"] {
        let set = bundle.spec["process"]["capabilities"][set].as_array_mut();
        set.expect("capabilities").push(json!("CAP_NET_RAW"));
    }
    bundle.write();
}

fn as_prepared(w: &World) {
    let wire = Wire::plugged(w, "n");
    wire.plug("lan0", 78);
    wire.near("link set lan0 mtu 9000");
    wire.near("link set eth0 mtu 1400");
    wire.near("link set lan0 address 02:11:22:33:44:55");
    wire.near("route add default via 10.77.0.1 metric 50");
    wire.near("route add 10.99.0.0/16 via 10.78.0.1");
    wire.near("route add 169.254.1.1 dev lan0 scope link");
    wire.near("route add 10.98.0.0/16 via 169.254.1.1 dev lan0 src 10.78.0.2");
    wire.near("-6 route add default via fd77::1");
    wire.near("neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev lan0 nud permanent");
    let script = "for i in eth0 lan0; do echo $i $(cat /sys/class/net/$i/mtu /sys/class/net/$i/address); done; \
                  ls /sys/class/net; ip -o -4 addr show; ip -o -6 addr show scope global; ip route; ip -6 route; ip neigh";
    let bundle = bundle(w, "c", &wire, script);
    let outcome = w.run_with("c", &bundle, b"");
    let text = outcome.exits(0).text();
    let mac = wire.near("-o link show eth0");
    let mac = mac.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next());
    for line in [
        &format!("eth0 1400 {}", mac.expect("an address")),
        "lan0 9000 02:11:22:33:44:55",
        "inet 10.77.0.2/24 brd 10.77.0.255 scope global eth0",
        "inet 10.78.0.2/24 brd 10.78.0.255 scope global lan0",
        "inet6 fd77::2/64",
        "inet6 fd78::2/64",
        "default via 10.77.0.1 dev eth0  metric 50",
        "10.99.0.0/16 via 10.78.0.1 dev lan0",
        "169.254.1.1 dev lan0 scope link",
        "10.98.0.0/16 via 169.254.1.1 dev lan0  src 10.78.0.2",
        "default via fd77::1 dev eth0",
        "169.254.1.1 dev lan0 lladdr ee:ee:ee:ee:ee:ee",
    ] {
        assert!(text.contains(line), "{line:?} is missing in:\n{text}");
    }
    assert!(!text.contains("kata"), "{text}");
    wire.check();
}

fn talks(w: &World) {
    let wire = Wire::plugged(w, "n");
    fs::write(w.dir().join("greeting"), "hello from outside\n").expect("write");
    let _server = wire.serve(&format!("busybox httpd -f -p [::]:80 -h {}", w.dir().display()));
    let script = "ping -c 2 -W 10 10.77.0.1 && ping -c 2 -W 10 fd77::1 && \
                  busybox wget -qO- http://10.77.0.1/greeting && busybox wget -qO- http://[fd77::1]/greeting";
    let outcome = w.run_with("c", &bundle(w, "c", &wire, script), b"");
    let text = outcome.exits(0).text();
    assert_eq!(text.matches("hello from outside").count(), 2, "{text}");
    assert_eq!(text.matches(" 0% packet loss").count(), 2, "{text}");
    wire.check();
}

fn is_talked_to(w: &World) {
    let wire = Wire::plugged(w, "n");
    let script = "mkdir /www; echo 'hello from inside' > /www/greeting; exec busybox httpd -f -p 80 -h /www";
    w.create("c", &bundle(w, "c", &wire, script));
    w.oci(&["start", &w.id("c")]).exits(0);
    for host in ["10.77.0.2", "[fd77::2]"] {
        let fetch = format!("timeout 30 busybox wget -qO- http://{host}/greeting");
        command::until(&format!("{host} serves"), || {
            wire.run(&fetch, b"").text() == "hello from inside"
        });
    }
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
    wire.check();
}

fn large_transfers(w: &World) {
    const LENGTH: usize = 16 << 20;
    let wire = Wire::plugged(w, "n");
    // Bytes that do not repeat soon.
    let bytes: Vec<u8> = (0..LENGTH)
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2])
        .collect();
    fs::write(w.dir().join("large"), &bytes).expect("write");
    let _server = wire.serve(&format!("busybox httpd -f -p 80 -h {}", w.dir().display()));
    let script = "busybox wget -qO /large http://10.77.0.1/large && sha256sum < /large && \
                  busybox httpd -p 81 -h / && sleep 1000";
    w.create("c", &bundle(w, "c", &wire, script));
    w.oci(&["start", &w.id("c")]).exits(0);
    let mut back = Vec::new();
    command::until("the container sends it back", || {
        let outcome = wire.run("timeout 30 busybox wget -qO- http://10.77.0.2:81/large", b"");
        back = outcome.stdout;
        outcome.code == 0
    });
    assert!(back == bytes, "{} of {LENGTH} bytes came back", back.len());
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
    wire.check();
}

/// As port forwarding of Kubernetes does it: in the namespace, but outside of the container.
fn localhost(w: &World) {
    let wire = Wire::plugged(w, "n");
    let script = "echo page >/tmp/page; busybox httpd -p 127.0.0.1:80 -h /tmp; sleep 1000";
    w.create("c", &bundle(w, "c", &wire, script));
    w.oci(&["start", &w.id("c")]).exits(0);
    let ask = |port: u16, input: &[u8]| {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", wire.path().display()));
        command.args([
            "curl",
            "--silent",
            "--show-error",
            "--data-binary",
            "@-",
            "--request",
            "GET",
        ]);
        command::run(command.arg(format!("http://127.0.0.1:{port}/page")), input)
    };
    command::until("the page is served", || ask(80, b"").code == 0);
    // Much one way, and many at once.
    assert_eq!(ask(80, &[b'x'; 100_000]).exits(0).text(), "page");
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(ask(80, b"").exits(0).text(), "page"));
        }
    });
    assert_ne!(ask(81, b"").code, 0, "nobody listens there");
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
    wire.check();
}

fn none(w: &World) {
    let outcome = w.sh("ls /sys/class/net; ip -o addr; ip route");
    let text = outcome.exits(0).text();
    assert_eq!(text.lines().next(), Some("lo"), "{text}");
    assert!(!text.contains("eth") && !text.contains("scope global"), "{text}");
}

/// As dockerd does it before 28: its hook is told the pid.
fn hooked(_: &World, bundle: &mut Bundle) {
    bundle.set("/hooks", json!({"createRuntime": [{"path": "/bin/true"}]}));
}

/// As dockerd does it from 28 on: only a file for names tells that there will be a network.
fn named(w: &World, bundle: &mut Bundle) {
    let file = w.dir().join("resolv.conf");
    fs::write(&file, "nameserver 192.0.2.1\n").expect("write");
    let mount =
        json!({"destination": "/etc/resolv.conf", "type": "bind", "source": file, "options": ["rbind", "rprivate"]});
    let mounts = bundle.spec["mounts"].as_array_mut().expect("mounts");
    mounts.push(mount);
    bundle.write();
}

fn plugged_between(w: &World, tells: fn(&World, &mut Bundle)) {
    let mut bundle = w.bundle("c", "ip -o -4 addr show dev eth0; exec busybox httpd -f -p 80 -h /etc");
    place(&mut bundle, json!({"type": "network"}));
    tells(w, &mut bundle);
    let pid = w.create("c", &bundle);
    let wire = Wire::into(w, "n", pid);
    wire.plug("eth0", 77);
    wire.plug("eth1", 78);
    w.oci(&["start", &w.id("c")]).exits(0);
    for host in ["10.77.0.2", "10.78.0.2", "[fd77::2]"] {
        let fetch = format!("timeout 30 busybox wget -qO- http://{host}/group");
        command::until(&format!("{host} serves"), || {
            wire.run(&fetch, b"").text().contains("root")
        });
    }
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

fn plugged_while_running(w: &World) {
    let mut bundle = w.bundle("c", "exec busybox httpd -f -p 80 -h /etc");
    place(&mut bundle, json!({"type": "network"}));
    hooked(w, &mut bundle);
    let pid = w.create("c", &bundle);
    w.oci(&["start", &w.id("c")]).exits(0);
    let wire = Wire::into(w, "n", pid);
    let inside = || w.oci(&["exec", &w.id("c"), "ls", "/sys/class/net"]).exits(0).text();
    for number in [77, 78, 79] {
        wire.plug("eth5", number);
        command::until("the new address serves", || {
            let fetch = format!("timeout 30 busybox wget -qO- http://10.{number}.0.2/group");
            wire.run(&fetch, b"").text().contains("root")
        });
        assert_eq!(inside(), "eth5\nlo");
        wire.pull("eth5");
        command::until("it is gone", || inside() == "lo");
    }
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
}

/// As Docker has it on its own networks.
fn name_server_on_loopback(w: &World) {
    let wire = Wire::plugged(w, "n");
    let listener = wire.listen("127.0.0.11:53");
    thread::spawn(move || {
        for connection in listener.incoming() {
            let _ = connection.and_then(answer_a_question);
        }
    });
    let file = w.dir().join("resolv.conf");
    fs::write(&file, "nameserver 127.0.0.11\n").expect("write");
    let mut bundle = bundle(w, "c", &wire, "busybox nslookup web.example");
    bundle.mount("/etc/resolv.conf", "bind", &file.to_string_lossy(), &["bind", "ro"]);
    let text = w.run_with("c", &bundle, b"").text();
    assert!(text.contains("10.1.2.3"), "{text}");
    wire.check();
}

/// One question over TCP: the address is 10.1.2.3.
fn answer_a_question(mut connection: TcpStream) -> io::Result<()> {
    let mut length = [0; 2];
    connection.read_exact(&mut length)?;
    let mut question = vec![0; u16::from_be_bytes(length).into()];
    connection.read_exact(&mut question)?;
    let for_an_address = question.ends_with(b"\0\x01\0\x01");
    let mut answer = question.clone();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(for_an_address), 0, 0, 0, 0]);
    if for_an_address {
        answer.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\x01\x02\x03");
    }
    let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
    connection.write_all(&[&length.to_be_bytes()[..], &answer].concat())
}

fn host_is_refused(w: &World) {
    for network in [json!(null), json!({"type": "network", "path": "/proc/self/ns/net"})] {
        let mut bundle = w.bundle("c", "true");
        place(&mut bundle, network);
        let outcome = w.run_with("c", &bundle, b"");
        outcome.refuses(&["host network", "network stack of its own"]);
    }
}

fn missing_namespace(w: &World) {
    let mut bundle = w.bundle("c", "true");
    place(&mut bundle, json!({"type": "network", "path": "/run/netns/no-such"}));
    w.run_with("c", &bundle, b"")
        .refuses(&["network namespace /run/netns/no-such", "no such file"]);
}

fn shared(w: &World) {
    let wire = Wire::plugged(w, "n");
    w.create("c", &bundle(w, "c", &wire, "exec busybox httpd -f -p 80 -h /etc"));
    w.oci(&["start", &w.id("c")]).exits(0);
    let script = "until busybox wget -qO- http://127.0.0.1/group; do sleep 0.1; done; ip -o -4 addr show dev eth0";
    let second = w.run_with("d", &bundle(w, "d", &wire, script), b"");
    let text = second.exits(0).text();
    assert!(text.contains("root:") && text.contains("10.77.0.2/24"), "{text}");
    let fetch = "timeout 30 busybox wget -qO- http://10.77.0.2/group";
    command::until("the first still serves", || {
        wire.run(fetch, b"").text().contains("root")
    });
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
    wire.check();
}

fn after_a_killed_monitor(w: &World) {
    let wire = Wire::plugged(w, "n");
    let script = "ping -c 1 -W 10 10.77.0.1; sleep 1000";
    w.create("c", &bundle(w, "c", &wire, script));
    command::run(
        Command::new("pkill").args(["-KILL", "-f", &format!("kata monitor --root={}", w.root().display())]),
        b"",
    )
    .exits(0);
    command::until("the container is stopped", || w.state("c")["status"] == "stopped");
    w.oci(&["delete", "--force", &w.id("c")]).exits(0);
    let again = w.run_with("d", &bundle(w, "d", &wire, "ping -c 1 -W 10 10.77.0.1"), b"");
    again.exits(0);
    wire.check();
}
