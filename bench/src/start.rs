// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! From the command to the first byte of output: of a container's process, and of one more in a container that runs.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vm_tests::{Bundle, World, command};

use crate::contender::{Contender, Setting};
use crate::report::Section;
use crate::sample::Sample;

/// Keeps a machine from beginning as a copy of a frozen guest.
const TEMPLATE: &str = "io.katacontainers.config.hypervisor.enable_template";

/// A bundle that begins `warm`, or boots; runc does not mind.
pub fn bundle(world: &World, name: &str, script: &str, warm: bool) -> Bundle {
    let mut bundle = world.bundle(name, script);
    bundle.set("/annotations", json!({ TEMPLATE: warm.to_string() }));
    bundle
}

/// Machines of ours that wait, for one world.
#[derive(Debug)]
struct Pool<'a> {
    world: &'a World,
}

impl Pool<'_> {
    /// `None` where there is nothing to wait: runc, and builds before there was a pool.
    fn start<'a>(one: &Contender, world: &'a World) -> Option<Pool<'a>> {
        if !one.is_ours() {
            return None;
        }
        let pool = Pool { world };
        let started = command::run(pool.tool().arg("start"), b"").code == 0;
        started.then_some(pool)
    }

    fn dir(world: &World) -> PathBuf {
        world.dir().join("pool")
    }

    fn tool(&self) -> Command {
        let mut command = self.world.kata();
        command.env("KATA_STANDBY_DIR", Pool::dir(self.world)).arg("standby");
        command
    }

    /// Returns when a machine waits, and sleeps.
    fn wait(&self) {
        command::until("a machine waits", || {
            let text = command::run(self.tool().args(["status", "--json"]), b"").text();
            let status: Value = serde_json::from_str(&text).expect("JSON");
            status["machines"][0]["ready"] == true
        });
        std::thread::sleep(ASLEEP);
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        command::run(self.tool().arg("stop"), b"");
    }
}

/// How long after it waits a machine is stopped.
const ASLEEP: Duration = Duration::from_secs(6);

/// `run` of a bundle, with its output in a pipe.
pub fn run(world: &World, name: &str, bundle: &Bundle) -> Child {
    let mut command = world.runtime();
    command.args(["run", "--bundle"]).arg(&bundle.path).arg(world.id(name));
    // Unless it is said below that machines wait, none does.
    command.env("KATA_STANDBY_DIR", world.dir().join("no-pool"));
    spawn(&mut command)
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().expect("the runtime runs")
}

/// Milliseconds from `begin` to the first byte of `child`, and to its end.
pub fn first_and_end(mut child: Child, begin: Instant) -> (f64, f64) {
    let mut byte = [0];
    let mut output = child.stdout.take().expect("piped");
    output.read_exact(&mut byte).expect("the container prints");
    let first = begin.elapsed().as_secs_f64() * 1e3;
    let status = child.wait().expect("wait for a child of ours");
    assert!(status.success(), "{status}");
    (first, begin.elapsed().as_secs_f64() * 1e3)
}

#[derive(Debug, Default)]
struct Samples {
    first: [Sample; 2],
    whole: [Sample; 2],
    /// From a machine that waits: to the first byte, and to the end.
    standby: [Sample; 2],
    exec: Sample,
}

/// Cold, warm, and `exec`.
pub fn compare(setting: &Setting) -> Section {
    let worlds: Vec<World> = setting.contenders.iter().map(|one| one.world()).collect();
    let mut samples: Vec<Samples> = worlds.iter().map(|_| Samples::default()).collect();
    for world in &worlds {
        world.create("exec", &bundle(world, "exec", "sleep 100000", true));
        world.oci(&["start", &world.id("exec")]).exits(0);
    }
    let pools: Vec<Option<Pool<'_>>> = setting
        .contenders
        .iter()
        .zip(&worlds)
        .map(|(one, world)| Pool::start(one, world))
        .collect();
    // The first round does not count: page cache, CPU clocks.
    for round in 0..=setting.runs {
        for (((one, world), pool), sample) in setting.contenders.iter().zip(&worlds).zip(&pools).zip(&mut samples) {
            if let Some(pool) = pool {
                pool.wait();
            }
            for (at, warm) in [true, false].into_iter().enumerate() {
                if !warm && !one.is_ours() {
                    continue;
                }
                let bundle = bundle(world, "start", "echo first", warm);
                let begin = Instant::now();
                let (first, whole) = first_and_end(run(world, "start", &bundle), begin);
                if round > 0 {
                    sample.first[at].push(first);
                    sample.whole[at].push(whole);
                }
            }
            if pool.is_some() {
                let bundle = bundle(world, "start", "echo first", true);
                let mut command = world.runtime();
                command
                    .args(["run", "--bundle"])
                    .arg(&bundle.path)
                    .arg(world.id("start"));
                command.env("KATA_STANDBY_DIR", Pool::dir(world));
                let begin = Instant::now();
                let (first, whole) = first_and_end(spawn(&mut command), begin);
                if round > 0 {
                    sample.standby[0].push(first);
                    sample.standby[1].push(whole);
                }
            }
            let mut command = world.runtime();
            command.args(["exec", &world.id("exec"), "echo", "first"]);
            let begin = Instant::now();
            let (first, _) = first_and_end(spawn(&mut command), begin);
            if round > 0 {
                sample.exec.push(first);
            }
        }
    }
    drop(pools);
    for world in worlds {
        world.oci(&["delete", "--force", &world.id("exec")]).exits(0);
        world.end();
    }
    let mut section = Section::new("Start");
    section.note("A warm start begins as a copy of a frozen guest, a cold one boots; for the third a machine waits. runc knows one kind only.");
    let mut table = setting.table("start", "ms");
    // What runc has one of stands beside both of ours.
    let of = |pick: fn(&Samples) -> &[Sample; 2], at: usize| -> Vec<Sample> {
        let all = setting.contenders.iter().zip(&samples);
        all.map(|(one, sample)| pick(sample)[if one.is_ours() { at } else { 0 }].clone())
            .collect()
    };
    for (name, at) in [("warm", 0), ("cold", 1)] {
        table.row(
            format!("{name}: `run` to the first byte"),
            of(|sample| &sample.first, at),
        );
        table.row(format!("{name}: `run` to its end"), of(|sample| &sample.whole, at));
    }
    let standby = |at: usize| -> Vec<Sample> {
        let all = setting.contenders.iter().zip(&samples);
        all.map(|(one, sample)| {
            if one.is_ours() {
                sample.standby[at].clone()
            } else {
                [&sample.first, &sample.whole][at][0].clone()
            }
        })
        .collect()
    };
    table.row("standby: `run` to the first byte", standby(0));
    table.row("standby: `run` to its end", standby(1));
    table.row(
        "`exec` to the first byte",
        samples.iter().map(|sample| sample.exec.clone()).collect(),
    );
    section.tables.push(table);
    let mut table = setting.table_of_ours("warm and standby beside cold", "% of cold");
    let ratios = |pick: fn(&Samples) -> &Sample| -> Vec<Sample> {
        let all = setting.ours().zip(&samples);
        all.map(|(_, sample)| Sample::of(pick(sample).median() / sample.first[1].median() * 100.0))
            .collect()
    };
    table.row("warm: `run` to the first byte", ratios(|sample| &sample.first[0]));
    table.row("standby: `run` to the first byte", ratios(|sample| &sample.standby[0]));
    table.ratio = None;
    section.tables.push(table);
    section
}
