// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What people do with an engine every day: the same list for each of them.

use std::fs;
use std::process::Command;

use libtest_mimic::Trial;
use vm_tests::behaviour::Behaviours;
use vm_tests::engine::{Engine, IMAGE};
use vm_tests::suite::Suite;
use vm_tests::{Runtime, Verdict, World, both, command};

/// A server for others to ask.
const SERVER: &str = "mkdir /w; echo page >/w/index.html; exec httpd -f -p 80 -h /w";

/// Starts an engine of a suite, or says why there is none.
pub type Start = for<'w> fn(&'w World, Suite) -> Result<Box<dyn Engine + 'w>, String>;

/// A case of an engine.
pub fn case(group: &str, suite: Suite, name: &str, start: Start, work: fn(&dyn Engine, &mut Behaviours<'_>)) -> Trial {
    both(&format!("{}::{name}", suite.group(group)), move |w| {
        let engine = match start(w, suite) {
            Ok(engine) => engine,
            Err(why) => return Verdict::Skipped(why),
        };
        let mut seen = Behaviours::new(engine.client(), w);
        work(&*engine, &mut seen);
        seen.end();
        Verdict::Held
    })
}

/// `run` of a shell without a network.
fn sh<'a>(options: &[&'a str], script: &'a str) -> Vec<&'a str> {
    let run = ["run", "--rm", "--network", "none"];
    [&run[..], options, &[IMAGE, "sh", "-c", script]].concat()
}

/// A container `name` that stays.
fn stays<'a>(name: &'a str, options: &[&'a str], script: &'a str) -> Vec<&'a str> {
    let run = ["run", "--detach", "--name", name];
    [&run[..], options, &[IMAGE, "sh", "-c", script]].concat()
}

fn is_docker(engine: &dyn Engine) -> bool {
    engine.client().starts_with("docker")
}

/// Of its version.
fn major(engine: &dyn Engine) -> u32 {
    let version = engine.client().split_whitespace().nth(1);
    let major = version.and_then(|version| version.split('.').next()?.parse().ok());
    major.unwrap_or_else(|| panic!("the version of {}", engine.client()))
}

/// The reference has the host's kernel, ours another.
#[track_caller]
pub fn on_its_kernel(w: &World, kernel: &str) {
    let host = command::run(Command::new("uname").arg("-r"), b"").text();
    assert_eq!(
        kernel == host,
        w.runtime == Runtime::Reference,
        "{kernel} beside {host}"
    );
}

/// What an option of `run` does: its name, options, a script, and what that prints.
type Choice<'a> = (&'a str, &'a [&'a str], &'a str, &'a str);

const OPTIONS: &[Choice<'_>] = &[
    (
        "--user, --group-add",
        &["--user", "1000:100", "--group-add", "5"],
        "id -u; id -G",
        "1000\n100 5",
    ),
    (
        "--read-only, --tmpfs",
        &["--read-only", "--tmpfs", "/t", "--user", "7"],
        "echo a >/t/a; touch /a || cat /t/a",
        "a",
    ),
    (
        "--cap-drop, --cap-add",
        &["--cap-drop", "all", "--cap-add", "chown"],
        "grep CapEff /proc/self/status",
        "0000000000000001",
    ),
    (
        "--ulimit",
        &["--ulimit", "nofile=99:99", "--ulimit", "nproc=999:999"],
        "ulimit -n",
        "99",
    ),
    (
        "--hostname, --env",
        &["--hostname", "other", "--env", "A=b"],
        "hostname; echo $A",
        "other\nb",
    ),
    (
        "--sysctl",
        &[
            "--sysctl",
            "net.ipv4.ip_forward=1",
            "--sysctl",
            "kernel.shm_rmid_forced=1",
        ],
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced",
        "1\n1",
    ),
    (
        "--security-opt seccomp=unconfined",
        &["--security-opt", "seccomp=unconfined"],
        "grep Seccomp: /proc/self/status",
        "Seccomp:\t0",
    ),
    ("--workdir", &["--workdir", "/tmp"], "pwd", "/tmp"),
    (
        "--memory, --pids-limit, --cpus",
        &["--memory", "200m", "--pids-limit", "50", "--cpus", "0.5"],
        "cd /sys/fs/cgroup; if test -e memory; \
         then cat memory/memory.limit_in_bytes pids/pids.max cpu/cpu.cfs_quota_us; \
         else cat memory.max pids.max; cut -d' ' -f1 cpu.max; fi",
        "209715200\n50\n50000",
    ),
    (
        "--mount type=tmpfs",
        &["--mount", "type=tmpfs,destination=/t,tmpfs-size=1048576"],
        "df -k /t | awk 'END {print $2}'",
        "1024",
    ),
    (
        "--shm-size",
        &["--shm-size", "8m"],
        "df -k /dev/shm | awk 'END {print $2}'",
        "8192",
    ),
    ("--init", &["--init"], "grep -c init /proc/1/cmdline", "1"),
];

pub fn run(engine: &dyn Engine, seen: &mut Behaviours<'_>) {
    let w = engine.world();
    seen.see("run", || {
        on_its_kernel(w, &engine.run(&sh(&[], "uname -r")).exits(0).text());
        engine.step(&sh(&[], "exit 42"), 42, "");
    });
    seen.see("run of what is not there", || {
        engine.step(&["run", "--rm", "--network", "none", IMAGE, "/nosuch"], 127, "");
    });
    seen.see("run -i", || {
        let fed = engine.feed(&sh(&["--interactive"], "cat; echo end"), b"given\n");
        assert_eq!(fed.exits(0).text(), "given\nend");
    });
    seen.see("run -it", || {
        let (mut terminal, mut child) = engine.on_a_terminal(&sh(&["--interactive", "--tty"], "exec sh"));
        terminal.send("until [ \"$(stty size)\" = '30 90' ]; do sleep 0.1; done; tty; echo si''zed\n");
        assert!(terminal.expect("sized\r\n").contains("/dev/pts/0"));
        terminal.send("exit 4\n");
        assert_eq!(command::end(&mut child), 4);
    });
    for (what, options, script, end) in OPTIONS {
        seen.see(what, || engine.step(&sh(options, script), 0, end));
    }
    seen.see("--add-host", || {
        // Without a network, Docker gives no such file.
        let run = ["run", "--rm", "--add-host", "a:1.2.3.4", IMAGE];
        let look = ["grep", "-c", "1.2.3.4", "/etc/hosts"];
        engine.step(&[&run[..], &look].concat(), 0, "1");
    });
    seen.see("--entrypoint, --env-file", || {
        fs::write(w.dir().join("variables"), "A=from a file\n").expect("write");
        let run = ["run", "--rm", "--network", "none", "--env-file", "variables"];
        let print = ["--entrypoint", "sh", IMAGE, "-c", "echo $A"];
        engine.step(&[&run[..], &print].concat(), 0, "from a file");
    });
    out_of_memory(engine, seen);
    let privileged = "run --privileged";
    if lacks_capabilities(engine) {
        seen.cannot(privileged, "the host lacks capabilities");
    } else {
        let script = "mkdir /tmp/m; mount -t tmpfs none /tmp/m && grep -c /tmp/m /proc/mounts";
        seen.see(privileged, || engine.step(&sh(&["--privileged"], script), 0, "1"));
    }
    seen.see("--security-opt seccomp=PROFILE", || {
        let profile = w.dir().join("profile.json");
        let text = "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \
                    \"syscalls\": [{\"names\": [\"mkdir\", \"mkdirat\"], \"action\": \"SCMP_ACT_ERRNO\"}]}";
        fs::write(&profile, text).expect("write");
        let option = format!("seccomp={}", profile.display());
        let script = "mkdir /tmp/d 2>&1 | grep -c 'not permitted'; touch /tmp/f && ls /tmp";
        engine.step(&sh(&["--security-opt", &option], script), 0, "1\nf");
    });
}

pub fn life(engine: &dyn Engine, seen: &mut Behaviours<'_>) {
    let script = "trap 'echo caught' USR1; trap 'exit 5' TERM; echo begun; while true; do sleep 0.1; done";
    let health = ["--health-cmd", "test -e /tmp", "--health-interval", "1s"];
    let options = [&["--network", "none"], &health[..]].concat();
    seen.see("run -d, inspect", || {
        engine.run(&stays("box", &options, script)).exits(0);
        assert_eq!(status(engine), "running");
    });
    exec(engine, seen);
    seen.see("health checks", || {
        if !is_docker(engine) {
            // Podman's timers are systemd's.
            engine.step(&["healthcheck", "run", "box"], 0, "");
        }
        command::until("it is healthy", || {
            let asked = ["inspect", "--format", "{{.State.Health.Status}}", "box"];
            engine.run(&asked).text() == "healthy"
        });
    });
    seen.see("pause, unpause", || {
        engine.step(&["pause", "box"], 0, "");
        assert_eq!(status(engine), "paused");
        engine.step(&["unpause", "box"], 0, "");
        engine.step(&["exec", "box", "echo", "back"], 0, "back");
    });
    seen.see("update", || {
        let limits = ["--memory", "300m", "--memory-swap", "300m", "--cpu-shares", "512"];
        engine.step(&[&["update"], &limits[..], &["box"]].concat(), 0, "");
    });
    stats(engine, seen);
    top(engine, seen);
    seen.see("logs -f, kill -s", || {
        let going = engine.begin(&["logs", "--follow", "box"], "followed");
        command::until("the log is followed", || going.text() == "begun\n");
        engine.step(&["kill", "--signal", "USR1", "box"], 0, "");
        command::until("the signal is caught", || going.text() == "begun\ncaught\n");
        engine.step(&["logs", "--tail", "1", "box"], 0, "caught");
    });
    seen.see("restart", || {
        engine.step(&["restart", "--time", "20", "box"], 0, "");
        assert_eq!(status(engine), "running");
        engine.step(&["exec", "box", "true"], 0, "");
    });
    seen.see("stop -t, wait, start", || {
        command::until("it has begun again", || {
            engine.run(&["logs", "box"]).text().matches("begun").count() == 2
        });
        engine.step(&["stop", "--time", "20", "box"], 0, "box");
        engine.step(&["wait", "box"], 0, "5");
        let state = "{{.State.ExitCode}} {{.State.Status}}";
        engine.step(&["inspect", "--format", state, "box"], 0, "5 exited");
        engine.step(&["start", "box"], 0, "box");
    });
    seen.see("events", || {
        let (format, end): (_, &[&str]) = if is_docker(engine) {
            ("{{.Action}}", &["--until", "0s"])
        } else {
            ("{{.Status}}", &["--stream=false"])
        };
        let asked = [
            "events",
            "--since",
            "30m",
            "--filter",
            "container=box",
            "--format",
            format,
        ];
        // Asked again until all are there: the clock by which the engine ends its list may be set back meanwhile.
        for event in ["create", "start", "kill", "die"] {
            command::until(&format!("event {event} is told"), || {
                let text = engine.run(&[&asked[..], end].concat()).exits(0).text();
                text.lines().any(|line| line.starts_with(event))
            });
        }
    });
    seen.see("rm -f", || {
        engine.step(&["rm", "--force", "box"], 0, "");
        engine.step(&["ps", "--all", "--quiet"], 0, "");
    });
    seen.see("create, rename, start -a", || {
        let create = ["create", "--network", "none", "--name", "made", IMAGE];
        engine
            .run(&[&create[..], &["sh", "-c", "echo made; exit 6"]].concat())
            .exits(0);
        engine.step(&["rename", "made", "renamed"], 0, "");
        engine.step(&["start", "--attach", "renamed"], 6, "made");
        engine.step(&["rm", "renamed"], 0, "renamed");
    });
    seen.see("--restart", || {
        let options = ["--network", "none", "--restart", "on-failure:2"];
        engine.run(&stays("again", &options, "exit 3")).exits(0);
        command::until("it was started again twice", || {
            let state = "{{.RestartCount}} {{.State.Status}}";
            engine.run(&["inspect", "--format", state, "again"]).text() == "2 exited"
        });
    });
}

fn status(engine: &dyn Engine) -> String {
    engine.run(&["inspect", "--format", "{{.State.Status}}", "box"]).text()
}

fn exec(engine: &dyn Engine, seen: &mut Behaviours<'_>) {
    seen.see("exec", || {
        engine.step(&["exec", "--env", "A=b", "box", "sh", "-c", "echo $A"], 0, "b");
        let other = ["exec", "--user", "1000", "--workdir", "/tmp", "box"];
        engine.step(&[&other[..], &["sh", "-c", "id -u; pwd"]].concat(), 0, "1000\n/tmp");
        engine.step(&["exec", "box", "sh", "-c", "exit 3"], 3, "");
    });
    seen.see("exec -d", || {
        engine.step(&["exec", "--detach", "box", "touch", "/tmp/detached"], 0, "");
        command::until("it has run", || {
            engine.run(&["exec", "box", "test", "-e", "/tmp/detached"]).code == 0
        });
    });
    seen.see("exec of what is not there", || {
        let outcome = engine.run(&["exec", "box", "nosuch"]);
        // dockerd before 28 makes 126 of it.
        let code = if is_docker(engine) && major(engine) < 28 {
            126
        } else {
            127
        };
        let said = format!("{} {}", outcome.text(), outcome.stderr);
        assert!(
            outcome.code == code && said.contains("not found"),
            "{} {said}",
            outcome.code
        );
    });
    seen.see("exec -i", || {
        let exec = ["exec", "--interactive", "box", "sh", "-c", "cat; echo end"];
        assert_eq!(engine.feed(&exec, b"given\n").exits(0).text(), "given\nend");
    });
    seen.see("exec -it", || {
        let exec = ["exec", "--interactive", "--tty", "box", "sh"];
        let (mut terminal, mut child) = engine.on_a_terminal(&exec);
        terminal.send("until [ \"$(stty size)\" = '30 90' ]; do sleep 0.1; done; echo si''zed\n");
        terminal.expect("sized\r\n");
        terminal.send("exit 4\n");
        assert_eq!(command::end(&mut child), 4);
    });
    let privileged = "exec --privileged";
    if lacks_capabilities(engine) {
        seen.cannot(privileged, "the host lacks capabilities");
        return;
    }
    seen.see(privileged, || {
        let may_mount = |options: &[&str]| {
            let look = ["box", "grep", "CapEff", "/proc/self/status"];
            let text = engine.run(&[&["exec"], options, &look].concat()).exits(0).text();
            let set = text.split_whitespace().last();
            let set = set.and_then(|word| u64::from_str_radix(word, 16).ok());
            set.expect("a set of capabilities") & (1 << 21) != 0
        };
        assert!(may_mount(&["--privileged"]) && !may_mount(&[]));
    });
}

/// A container that takes more than it may. Podman's conmon and the shim of runc look at the control group on the host for that.
fn out_of_memory(engine: &dyn Engine, seen: &mut Behaviours<'_>) {
    let eats = || {
        let run = ["run", "--name", "eater", "--network", "none", "--memory", "64m"];
        let eat = ["--memory-swap", "64m", IMAGE, "tail", "/dev/zero"];
        engine.step(&[&run[..], &eat].concat(), 137, "");
    };
    let told = || {
        engine
            .run(&["inspect", "--format", "{{.State.OOMKilled}}", "eater"])
            .text()
    };
    if !is_docker(engine) && major(engine) < 5 {
        // Podman does not tell.
        seen.see("a container that is out of memory", eats);
    } else if engine.world().runtime == Runtime::Reference || by_type(engine) {
        seen.see("a container that is out of memory", || {
            eats();
            command::until("the reason is told", || told() == "true");
        });
    } else {
        seen.differs("a container that is out of memory", "OOMKilled is false", || {
            eats();
            assert_eq!(told(), "false");
        });
    }
    seen.see("rm", || engine.step(&["rm", "eater"], 0, "eater"));
}

/// Docker calls our shim for containerd, which answers for the container itself.
fn by_type(engine: &dyn Engine) -> bool {
    engine.client().ends_with("runtimeType")
}

/// A privileged process of the reference gets what the kernel knows, which some hosts do not have.
fn lacks_capabilities(engine: &dyn Engine) -> bool {
    engine.world().runtime == Runtime::Reference && !host_has_all_capabilities()
}

fn host_has_all_capabilities() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bounding = bounding.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    let all = last.trim().parse::<u32>().ok().map(|last| (2_u64 << last) - 1);
    bounding.is_some() && bounding == all
}

fn stats(engine: &dyn Engine, seen: &mut Behaviours<'_>) {
    // MiB; a shell takes less than ten.
    let look = |is: fn(f64) -> bool| {
        let asked = ["stats", "--no-stream", "--format", "{{.MemUsage}}", "box"];
        let text = engine.run(&asked).exits(0).text();
        let used = text.split('/').next().unwrap_or_default().trim();
        let (number, unit) = used.split_at(used.find(char::is_alphabetic).unwrap_or_default());
        let scale = match unit.chars().next() {
            Some('G') => 1024.0,
            Some('M') => 1.0,
            Some('k' | 'K') => 1.0 / 1024.0,
            _ => 0.0,
        };
        let used = number.parse::<f64>().unwrap_or_default() * scale;
        assert!(is(used), "{text}");
    };
    if engine.world().runtime == Runtime::Reference || by_type(engine) {
        seen.see("stats", || look(|used| used > 0.0 && used < 10.0));
    } else {
        seen.differs("stats", "of the whole machine", || look(|used| used > 10.0));
    }
}

fn top(engine: &dyn Engine, seen: &mut Behaviours<'_>) {
    let look = |args: &[&str], word: &str| {
        let text = engine.run(args).exits(0).text();
        assert!(text.contains(word), "{text}");
    };
    seen.see("top", || look(&["top", "box"], "begun"));
}

pub fn files(engine: &dyn Engine, seen: &mut Behaviours<'_>) {
    let w = engine.world();
    let volume = w.dir().join("volume");
    fs::create_dir(&volume).expect("make a directory");
    fs::write(volume.join("f"), "host\n").expect("write");
    let read_only = format!("{}:/v:ro,z", volume.display());
    let writable = format!("{}:/v", volume.display());
    seen.see("-v", || {
        let script = "cat /v/f; echo guest >/v/g; mkdir /v/d; mv /v/g /v/d";
        engine.step(&sh(&["-v", &writable], script), 0, "host");
        let there = fs::read_to_string(volume.join("d/g"));
        assert_eq!(there.expect("it was written"), "guest\n");
    });
    seen.see("-v …:ro,z", || {
        engine.step(&sh(&["-v", &read_only], "touch /v/x || cat /v/f"), 0, "host");
    });
    seen.see("-v of a file, and of a directory below a volume", || {
        let file = format!("{}/f:/single:ro", volume.display());
        let below = format!("{}/d:/below", volume.display());
        let script = "cat /single /below/g; touch /single || echo more >>/below/g";
        engine.step(&sh(&["-v", &file, "-v", &below], script), 0, "host\nguest");
        let there = fs::read_to_string(volume.join("d/g"));
        assert_eq!(there.expect("it was written"), "guest\nmore\n");
    });
    seen.see("named volumes", || {
        engine.step(&["volume", "create", "named"], 0, "named");
        engine.step(&sh(&["-v", "named:/n"], "echo kept >/n/g"), 0, "");
        engine.step(&sh(&["-v", "named:/n"], "cat /n/g"), 0, "kept");
    });
    let options = ["--network", "none", "-v", "named:/n"];
    engine.run(&stays("box", &options, "exec sleep 1000")).exits(0);
    seen.see("--volumes-from", || {
        let script = "cat /n/g; echo other >/n/h";
        engine.step(&sh(&["--volumes-from", "box"], script), 0, "kept");
        engine.step(&["exec", "box", "cat", "/n/h"], 0, "other");
    });
    copies(engine, seen);
    seen.see("export", || {
        let tar = w.dir().join("export.tar").display().to_string();
        engine.step(&["export", "--output", &tar, "box"], 0, "");
        let list = command::run(Command::new("tar").args(["-tf", &tar]), b"").text();
        assert!(list.lines().any(|line| line.ends_with("tmp/later")), "{list}");
    });
    seen.see("volume rm", || {
        engine.step(&["rm", "--force", "box"], 0, "");
        engine.step(&["volume", "rm", "named"], 0, "named");
    });
}

fn copies(engine: &dyn Engine, seen: &mut Behaviours<'_>) {
    let dir = engine.world().dir();
    let file = dir.join("volume/f").display().to_string();
    let back = dir.join("back").display().to_string();
    let came = |text: &str| assert_eq!(fs::read_to_string(&back).expect("it was copied"), text);
    seen.see("cp into and out of a running container", || {
        engine.step(&["cp", &file, "box:/tmp/in"], 0, "");
        engine.step(&["exec", "box", "cat", "/tmp/in"], 0, "host");
        let script = "mkdir /tmp/d; echo guest >/tmp/d/out";
        engine.step(&["exec", "box", "sh", "-c", script], 0, "");
        engine.step(&["cp", "box:/tmp/d/out", &back], 0, "");
        came("guest\n");
        engine.step(&["cp", "box:/n/g", &back], 0, "");
        came("kept\n");
    });
    seen.see("cp of directories", || {
        engine.step(&["cp", "volume", "box:/tmp/tree"], 0, "");
        engine.step(&["exec", "box", "cat", "/tmp/tree/f"], 0, "host");
        engine.step(&["cp", "box:/tmp/d", "fetched"], 0, "");
        let came = fs::read_to_string(dir.join("fetched/out"));
        assert_eq!(came.expect("it was copied"), "guest\n");
    });
    seen.see("commit", || {
        engine.step(&["commit", "box", "localhost/kept"], 0, "");
        let run = ["run", "--rm", "--network", "none", "localhost/kept"];
        engine.step(&[&run[..], &["cat", "/tmp/d/out"]].concat(), 0, "guest");
    });
    seen.see("diff", || {
        let text = engine.run(&["diff", "box"]).exits(0).text();
        assert!(text.lines().any(|line| line == "A /tmp/d/out"), "{text}");
    });
    seen.see("cp into and out of a stopped container", || {
        engine.step(&["stop", "--time", "0", "box"], 0, "");
        engine.step(&["cp", "box:/tmp/in", &back], 0, "");
        came("host\n");
        engine.step(&["cp", &file, "box:/tmp/later"], 0, "");
        engine.step(&["start", "box"], 0, "");
        engine.step(&["exec", "box", "cat", "/tmp/later"], 0, "host");
    });
}

/// Fetches the page of a server, by name or address. The name by busybox' own resolver: a static libc has none that it could load.
fn asks(engine: &dyn Engine, network: &str, host: &str) -> String {
    let script = format!(
        "at={host}; case {host} in [a-z]*) at=$(busybox nslookup -type=a {host} | awk '/^Address: / {{a=$2}} END {{print a}}') ;; esac; \
         printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 20 $at 80 | tail -n 1"
    );
    let run = ["run", "--rm", "--network", network, IMAGE, "sh", "-c", &script];
    engine.run(&run).text()
}

pub fn network(engine: &dyn Engine, seen: &mut Behaviours<'_>) {
    let default = if is_docker(engine) { "bridge" } else { "podman" };
    seen.see("two containers on the default network", || {
        engine
            .run(&stays(
                "server",
                &["--network", default, "--publish", "18080:80"],
                SERVER,
            ))
            .exits(0);
        let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address = engine.run(&["inspect", "--format", address, "server"]).text();
        command::until("the server answers another container", || {
            asks(engine, default, &address) == "page"
        });
    });
    seen.see("-p", || {
        let fetch = ["curl", "--silent", "--show-error", "http://127.0.0.1:18080/"];
        let published = engine.inside(&fetch);
        assert_eq!(published.text(), "page", "{}", published.stderr);
    });
    seen.see("two containers that talk by name", || {
        engine.step(&["network", "create", "lan"], 0, "");
        engine.run(&stays("named", &["--network", "lan"], SERVER)).exits(0);
        command::until("the name is found", || asks(engine, "lan", "named") == "page");
    });
    seen.see("network connect, disconnect", || {
        engine.step(&["network", "create", "second"], 0, "");
        engine.step(&["network", "connect", "second", "named"], 0, "");
        command::until("the server is there, too", || asks(engine, "second", "named") == "page");
        engine.step(&["network", "disconnect", "second", "named"], 0, "");
        command::until("its interface goes", || {
            engine.run(&["exec", "named", "ls", "/sys/class/net"]).text() == "eth0\nlo"
        });
    });
    seen.see("--ip, --mac-address", || {
        engine.step(&["network", "create", "--subnet", "10.123.45.0/24", "own"], 0, "");
        let place = [
            "--network",
            "own",
            "--ip",
            "10.123.45.67",
            "--mac-address",
            "02:11:22:33:44:55",
        ];
        let run = [&["run", "--rm"], &place[..], &[IMAGE]].concat();
        let script = "ip -o -4 addr show dev eth0 | awk '{print $4}'; cat /sys/class/net/eth0/address; \
                      ip route | awk '/^default/ {print $3}'";
        let told = "10.123.45.67/24\n02:11:22:33:44:55\n10.123.45.1";
        engine.step(&[&run[..], &["sh", "-c", script]].concat(), 0, told);
    });
    seen.see("network rm", || {
        engine.step(&["rm", "--force", "named", "server"], 0, "");
        engine.run(&["network", "rm", "lan", "own", "second"]).exits(0);
    });
}
