// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Real software in a container, on runc and on ours. All of it by `make software`; else a part, and only where the tree is.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use libtest_mimic::Trial;
use vm_tests::software::{Software, note, tree};
use vm_tests::{Verdict, World, both, command};

/// A script that says `whole` at its end, by the name of its file.
macro_rules! script {
    ($name:literal) => {
        |world, tree| {
            let text = include_str!(concat!("software/", $name, ".sh"));
            timed(world, $name, &Software::new(world, tree, text));
        }
    };
}

pub fn cases() -> Vec<Trial> {
    vec![
        case("postgresql", false, script!("postgresql")),
        case("redis", false, redis),
        case("nginx", false, nginx),
        case("python", true, script!("python")),
        case("node", false, script!("node")),
        case("gcc_and_make", true, script!("gcc")),
        case("git", false, git),
        case("stress_ng", false, script!("stress-ng")),
        case("administration", false, script!("administration")),
        case("apt_and_dpkg", false, script!("dpkg")),
    ]
}

/// Those that are `quick` are tried always.
fn case(name: &str, quick: bool, work: fn(&World, &Path)) -> Trial {
    both(&format!("software::{name}"), move |w| {
        if !quick && std::env::var_os("KATA_TEST_SOFTWARE").is_none() {
            return Verdict::Skipped("takes long: make software".into());
        }
        match tree() {
            Ok(tree) => work(w, &tree),
            Err(why) => return Verdict::Skipped(why),
        }
        Verdict::Held
    })
}

#[track_caller]
fn timed(w: &World, name: &str, software: &Software<'_>) {
    let start = Instant::now();
    let outcome = software.run();
    note(name, w.runtime, start.elapsed().as_secs_f64(), "s");
    assert!(
        outcome.text().ends_with("whole"),
        "{} {}",
        outcome.text(),
        outcome.stderr
    );
}

fn git(w: &World, tree: &Path) {
    let software = Software::new(w, tree, include_str!("software/git.sh"));
    let repository = software.data().join("repository");
    let init = ["init", "--quiet", "--bare", "--initial-branch=main"];
    command::run(Command::new("git").args(init).arg(&repository), b"").exits(0);
    let mut import = Command::new("git");
    import.arg("-C").arg(&repository).args(["fast-import", "--quiet"]);
    let mut import = import.stdin(Stdio::piped()).spawn().expect("git is installed");
    history(import.stdin.take().expect("a pipe")).expect("write the history");
    assert_eq!(command::end(&mut import), 0);
    timed(w, "git, 20000 files", &software);
}

/// A branch `main` of 200 directories with 100 files each, and `other`, where one directory differs.
fn history(into: impl Write) -> std::io::Result<()> {
    let mut into = BufWriter::new(into);
    let commit = "committer somebody <somebody@example.org> 1700000000 +0000\ndata 1\nx\n";
    write!(into, "commit refs/heads/main\nmark :1\n{commit}")?;
    for directory in 0..200 {
        for file in 0..100 {
            let text = format!("{directory} {file}\n");
            write!(into, "M 644 inline d{directory}/f{file}\ndata {}\n{text}", text.len())?;
        }
    }
    write!(into, "commit refs/heads/other\n{commit}from :1\n")?;
    for file in 0..100 {
        let text = format!("other 7 {file}\n");
        write!(into, "M 644 inline d7/f{file}\ndata {}\n{text}", text.len())?;
    }
    into.flush()
}

fn redis(w: &World, tree: &Path) {
    let serve = "cd /data; exec redis-server --dir /data --protected-mode no --appendonly yes --appendfsync everysec";
    let software = Software::new(w, tree, serve);
    let ask = |words: &str| {
        let outcome = software.client(&format!("redis-cli -h 10.77.0.2 {words} || true"));
        outcome.text()
    };
    software.start();
    command::until("Redis answers", || ask("ping") == "PONG");
    let start = Instant::now();
    let benchmark = "redis-benchmark -h 10.77.0.2 -n 2000 -c 20 -r 1000 -t set,get,incr,lpush,mset --csv -d 100";
    let told = software.client(benchmark).exits(0).text();
    let name = "redis-benchmark, 10000 requests";
    note(name, w.runtime, start.elapsed().as_secs_f64(), "s");
    // A head, and a line for each test.
    assert_eq!(told.lines().filter(|line| line.starts_with('"')).count(), 6, "{told}");
    assert_eq!(ask("set kept this"), "OK");
    let keys = ask("dbsize");
    software.stop();
    // What was written is there again.
    software.start();
    command::until("Redis answers again", || ask("get kept") == "this");
    assert_eq!(ask("dbsize"), keys);
    software.exec("redis-cli save").exits(0);
    assert!(software.data().join("dump.rdb").exists());
    software.stop();
    software.wire.check();
}

fn nginx(w: &World, tree: &Path) {
    let software = Software::new(w, tree, "exec nginx -c /data/nginx.conf");
    let settings = "daemon off; user www-data; worker_processes 2; error_log /data/error.log; pid /data/pid;\n\
                    events {} http { access_log /data/access.log; sendfile on; gzip off;\n\
                    server { listen 80; listen [::]:80; root /data/www; } }\n";
    fs::write(software.data().join("nginx.conf"), settings).expect("write");
    let pages = software.data().join("www");
    fs::create_dir(&pages).expect("make a directory");
    fs::write(pages.join("small"), "x".repeat(1000)).expect("write");
    let large = pages.join("large");
    let mut lines = BufWriter::new(File::create(&large).expect("create"));
    for n in 0..400_000_u32 {
        writeln!(lines, "{n:08}").expect("write");
    }
    lines.into_inner().expect("write");
    software.start();
    let fetch = |url: &str, through: &str| {
        let script = format!("timeout 60 busybox wget -qO- {url} | {through}");
        let outcome = software.wire.run(&script, b"");
        outcome.text().split_whitespace().next().map(str::to_owned)
    };
    let served = || fetch("http://10.77.0.2/small", "wc -c").is_some_and(|length| length == "1000");
    command::until("nginx answers", served);
    let told = software
        .client("wrk -t 1 -c 20 -d 3s http://10.77.0.2/small")
        .exits(0)
        .text();
    for bad in ["Socket errors", "Non-2xx"] {
        assert!(!told.contains(bad), "{told}");
    }
    let rate = told.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    let rate: f64 = rate
        .and_then(|rate| rate.trim().parse().ok())
        .expect("wrk tells a rate");
    assert!(rate > 0.0, "{told}");
    note("nginx under wrk", w.runtime, rate, "requests/s");
    let sum = command::run(Command::new("sha256sum").arg(&large), b"").text();
    let sum = sum.split_whitespace().next();
    assert_eq!(fetch("http://[fd77::2]/large", "sha256sum").as_deref(), sum);
    software.exec("nginx -c /data/nginx.conf -s reload").exits(0);
    command::until("nginx answers after a reload", served);
    software.stop();
    let errors = fs::read_to_string(software.data().join("error.log")).unwrap_or_default();
    assert!(!errors.contains("[alert]") && !errors.contains("[emerg]"), "{errors}");
    software.wire.check();
}
