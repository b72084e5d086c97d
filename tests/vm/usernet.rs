// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! User-mode networking of `kata run`: published ports, the way out, names, and that nothing of it stays.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::porcelain::layout_of;
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vm_tests::{Outcome, Verdict, World, command, ours, process};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn cases() -> Vec<Trial> {
    vec![
        user("usernet::a_published_port_leads_to_the_container", |w| {
            published(w, "on");
        }),
        user("usernet::a_published_port_without_a_template", |w| {
            published(w, "off");
        }),
        user("usernet::datagrams_go_both_ways", datagrams),
        user("usernet::many_ports_at_once", many),
        user("usernet::the_way_out_ends_before_the_hosts_loopback", way_out),
        user("usernet::a_host_with_nothing_but_loopback", loopback_only),
        user("usernet::ports_that_cannot_be_are_refused", refusals),
        user("usernet::nothing_stays_when_all_is_killed", killed),
        user("usernet::a_network_that_is_lost_ends_the_container", lost),
        ours("usernet::without_a_network_there_is_the_loopback_interface", |w| {
            let args = [
                "run",
                "--rm",
                "--network",
                "none",
                &image(w, &[]),
                "ls",
                "/sys/class/net",
            ];
            assert_eq!(kata(w, &args).exits(0).text(), "lo");
        }),
    ]
}

/// A case that needs passt.
fn user(name: &str, case: impl Fn(&World) + Send + Sync + 'static) -> Trial {
    ours(name, move |w| {
        let mut found = Command::new("passt");
        found.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        if found.status().is_err() {
            return Verdict::Skipped("passt is not installed".into());
        }
        case(w);
        Verdict::Held
    })
}

#[track_caller]
fn kata(w: &World, args: &[&str]) -> Outcome {
    command::run(w.kata().args(args), b"")
}

/// A root file system with some applets more, whose /www has the files `host` and `big`.
fn image(w: &World, applets: &[&str]) -> String {
    let rootfs = w.bundle("image", "true").rootfs();
    for applet in applets {
        let link = rootfs.join("bin").join(applet);
        if !link.exists() {
            std::os::unix::fs::symlink("busybox", link).expect("link an applet");
        }
    }
    for dir in ["www", "usr", "lib", "lib64"] {
        fs::create_dir_all(rootfs.join(dir)).expect("make");
    }
    fs::write(rootfs.join("www/big"), vec![b'x'; 3 << 20]).expect("write");
    fs::write(rootfs.join("www/host"), "published\n").expect("write");
    format!("rootfs:{}", rootfs.display())
}

/// What an HTTP server at `port` of our loopback interface says; none where nobody answers.
fn fetch(port: u16, file: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    stream
        .write_all(format!("GET /{file} HTTP/1.0\r\n\r\n").as_bytes())
        .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(answer.split_off(body + 4))
}

fn ports_of(w: &World, name: &str) -> Vec<u16> {
    let known = kata(w, &["inspect", name]).exits(0).text();
    let known: serde_json::Value = serde_json::from_str(&known).expect("inspect prints JSON");
    let ports = known[0]["ports"].as_array().expect("ports");
    let ports = ports.iter().map(|port| port["host"].as_u64().expect("a port"));
    ports.map(|port| u16::try_from(port).expect("a port")).collect()
}

fn published(w: &World, template: &str) {
    let image = image(w, &["httpd"]);
    let run = [
        "run",
        "-d",
        "--name",
        "web",
        "--template",
        template,
        "-p",
        "127.0.0.1::80",
    ];
    let serve = [&image, "httpd", "-f", "-h", "/www"];
    kata(w, &[&run[..], &serve].concat()).exits(0);
    let port = ports_of(w, "web")[0];
    command::until("the container answers", || {
        fetch(port, "host").is_some_and(|body| body == b"published\n")
    });
    assert_eq!(fetch(port, "big").expect("an answer").len(), 3 << 20);
    let table = kata(w, &["ps"]).exits(0).text();
    assert!(table.contains(&format!("127.0.0.1:{port}->80/tcp")), "{table}");
    kata(w, &["rm", "-f", "web"]).exits(0);
    TcpListener::bind(("127.0.0.1", port)).expect("the port is free again");
}

/// With the host's perl, which can do what busybox cannot.
const PERL: [&str; 6] = ["-v", "/usr:/usr:ro", "-v", "/lib:/lib:ro", "-v", "/lib64:/lib64:ro"];

fn datagrams(w: &World) {
    let image = image(w, &[]);
    let server = "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalPort => 53, Proto => 'udp') or die; \
                  while ($s->recv(my $said, 100)) { $s->send(\"echo: $said\") }";
    // passt of 2023 takes the answer to a datagram that came from the host's loopback interface for one to the gateway.
    let network = ["--network", "user:allow_host_loopback=true"];
    let run = [
        "run",
        "-d",
        "--name",
        "udp",
        network[0],
        network[1],
        "-p",
        "127.0.0.1::53/udp",
    ];
    kata(w, &[&run[..], &PERL, &[&image, "/usr/bin/perl", "-e", server]].concat()).exits(0);
    let port = ports_of(w, "udp")[0];
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("set a timeout");
    command::until("a datagram comes back", || {
        socket.send_to(b"hello", ("127.0.0.1", port)).expect("send");
        let mut answer = [0; 100];
        socket
            .recv(&mut answer)
            .is_ok_and(|len| &answer[..len] == b"echo: hello")
    });
    kata(w, &["rm", "-f", "udp"]).exits(0);
}

/// Each of 60 ports leads to its own.
fn many(w: &World) {
    let image = image(w, &["httpd"]);
    let script = "for p in $(seq 100 159); do mkdir -p /www/$p; echo this is $p > /www/$p/host; httpd -p $p -h /www/$p; done; sleep 1000";
    let run = ["run", "-d", "--name", "many", "-p", "127.0.0.1::100-159"];
    kata(w, &[&run[..], &[&image, "sh", "-c", script]].concat()).exits(0);
    for (number, port) in (100..).zip(ports_of(w, "many")) {
        let want = format!("this is {number}\n");
        command::until(&format!("port {number} answers"), || {
            fetch(port, "host").is_some_and(|body| body == want.as_bytes())
        });
    }
    kata(w, &["rm", "-f", "many"]).exits(0);
}

/// A server of this host on its loopback interface, which says who it is; the port.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // Whoever came may have gone again.
            let _ = stream.map(|mut stream| stream.write_all(b"the host\n"));
        }
    });
    port
}

fn way_out(w: &World) {
    let (image, port) = (image(w, &["nc"]), server());
    let script = format!(
        "sleep 5 | timeout 3 nc 10.0.2.2 {port}; ip route; hostname -i 2>/dev/null; cat /proc/net/if_inet6 | wc -l"
    );
    let run = |network: &str| {
        let args = ["run", "--rm", "--network", network, &image, "sh", "-c", &script];
        kata(w, &args).exits(0).text()
    };
    let closed = run("user");
    assert!(!closed.contains("the host"), "{closed}");
    assert!(closed.contains("default via 10.0.2.2 dev eth0"), "{closed}");
    let open = run("user:allow_host_loopback=true");
    assert!(open.contains("the host"), "{open}");
}

/// In a network namespace whose only interface is the loopback one, with a name server there: an image is told where to ask.
fn loopback_only(w: &World) {
    let dir = image_layout(w);
    let (kata, resolv) = (w.kata(), w.dir().join("resolv.conf"));
    fs::write(&resolv, "nameserver 127.0.0.1\nsearch example.org\n").expect("write");
    // A thread of its own: what it leaves ends with it.
    let outcome = std::thread::scope(|scope| {
        let alone = scope.spawn(|| {
            use nix::mount::{MsFlags, mount};
            use nix::sched::{CloneFlags, unshare};
            let none = None::<&str>;
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare");
            mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).expect("keep mounts to ourselves");
            mount(Some(&resolv), "/etc/resolv.conf", none, MsFlags::MS_BIND, none).expect("hide resolv.conf");
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
            assert!(up.expect("ip is installed").success());
            let names = UdpSocket::bind("127.0.0.1:53").expect("bind");
            names.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
            let asked = std::thread::spawn(move || {
                let mut question = [0; 512];
                names.recv(&mut question).map(|len| question[..len].to_vec())
            });
            let ask = "use IO::Socket::INET; my $s = IO::Socket::INET->new(PeerAddr => '10.0.2.3:53', Proto => 'udp') or die; \
                       $s->send(pack('n6', 0x1234, 0x100, 1, 0, 0, 0) . \"\\4name\\0\" . pack('n2', 1, 1)); sleep 1";
            let script = "cat /etc/resolv.conf /etc/hosts; exec perl -e \"$1\"";
            let mut kata = kata;
            kata.args(["run", "--rm", "--hostname", "box"]).args(PERL);
            kata.args([&dir, "sh", "-c", script, "sh", ask]);
            let outcome = command::run(&mut kata, b"");
            (outcome, asked.join().expect("no panic"))
        });
        alone.join().expect("no panic")
    });
    let (outcome, question) = outcome;
    let told = outcome.exits(0).text();
    assert!(told.starts_with("nameserver 10.0.2.3\nsearch example.org\n"), "{told}");
    assert!(told.contains("10.0.2.15\tbox"), "{told}");
    let question = question.expect("the host's name server was asked");
    assert!(question.windows(5).any(|window| window == b"\x04name"), "{question:?}");
}

/// An OCI layout of a root file system; its name for `kata run`.
fn image_layout(w: &World) -> String {
    let _ = image(w, &[]);
    layout_of(w, "layout")
}

fn refusals(w: &World) {
    let image = image(w, &[]);
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = taken.local_addr().expect("an address").port();
    for (option, why) in [
        (["-p", &format!("127.0.0.1:{port}:80")], "something on this host has it"),
        (["-p", "203.0.113.7:80:80"], "this host has no such address"),
        (["-p", "80:80/sctp"], "no protocol \"sctp\""),
        (["--network", "host"], "published with -p"),
    ] {
        kata(w, &["run", "--rm", option[0], option[1], &image, "true"])
            .exits(125)
            .refuses(&[why]);
    }
    let mut without = w.kata();
    without.args(["run", "--rm", "--network", "none", "-p", "80:80", &image, "true"]);
    command::run(&mut without, b"")
        .exits(125)
        .refuses(&["--publish needs a network"]);
    assert_eq!(kata(w, &["ps", "-aq"]).exits(0).text(), "");
}

/// The processes of this machine with this word in their command line.
fn processes(program: &str, word: &str) -> Vec<i32> {
    let matches = |pid: &i32| {
        let line = process::line(*pid);
        let first = line.split(' ').next().unwrap_or_default();
        first.ends_with(program) && line.contains(word)
    };
    process::all().into_iter().filter(matches).collect()
}

fn one(program: &str, word: &str) -> i32 {
    let found = processes(program, word);
    assert_eq!(found.len(), 1, "{program} {word}: {found:?}");
    found[0]
}

fn box_with_a_port(w: &World) -> (String, String) {
    let image = image(w, &[]);
    let run = [
        "run",
        "-d",
        "--name",
        "box",
        "-p",
        "127.0.0.1::80",
        &image,
        "sleep",
        "1000",
    ];
    let id = kata(w, &run).exits(0).text();
    (id, format!("127.0.0.1/{}:80", ports_of(w, "box")[0]))
}

fn killed(w: &World) {
    let (id, port) = box_with_a_port(w);
    one("passt", &port);
    let monitor = processes("kata", &format!("--id={id}"));
    let all = [monitor, processes("kata", &id), processes("qemu-system-x86_64", &id)].concat();
    assert!(all.len() >= 4, "monitor, device, shim, machine: {all:?}");
    for pid in all {
        // Some end with another.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    command::until("passt has ended", || processes("passt", &port).is_empty());
    kata(w, &["rm", "-f", "box"]).exits(0);
    // A machine that ends by itself takes it along, too.
    let (id, port) = box_with_a_port(w);
    let machine = processes("qemu-system-x86_64", &id);
    assert_eq!(machine.len(), 1, "{machine:?}");
    kill(Pid::from_raw(machine[0]), Signal::SIGKILL).expect("kill");
    command::until("passt has ended", || processes("passt", &port).is_empty());
    kata(w, &["rm", "-f", "box"]).exits(0);
}

fn lost(w: &World) {
    let (_, port) = box_with_a_port(w);
    kill(Pid::from_raw(one("passt", &port)), Signal::SIGKILL).expect("kill");
    command::until("the container has ended", || {
        kata(w, &["ps", "-a"]).exits(0).text().contains("Exited (137)")
    });
    let log = fs::read_to_string(w.dir().join("state/records/box/kata.log")).expect("a log");
    assert!(
        log.contains("user-mode networking (passt) was killed by SIGKILL"),
        "{log}"
    );
    kata(w, &["rm", "-f", "box"]).exits(0);
}
