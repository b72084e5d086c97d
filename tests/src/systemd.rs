// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! systemd as PID 1 of namespaces of its own, over the host's files: what is changed in them goes with it. Of the temporary
//! directory it sees the world's part alone, for systemd clears it as it boots.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::world::binaries;
use crate::{Outcome, World, command};

const PROGRAM: &str = "/lib/systemd/systemd";

/// Becomes PID 1. `$1`: an empty directory; `$2`: the temporary directory; the others: what of it is seen.
const BOOT: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
cd "$1/root"
temporary=$2
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount --rbind /dev dev
mount -t tmpfs tmpfs ".$temporary"
shift 2
for seen; do
    case $seen in "$temporary"/*) mkdir -p ".$seen"; mount --bind "$seen" ".$seen" ;; esac
done
# What a distribution starts is no business of ours, and nothing may be cleared.
rm -rf etc/systemd/system/*.wants
for unit in tmp.mount systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service systemd-tmpfiles-clean.service; do
    ln -sf /dev/null etc/systemd/system/$unit
done
ip link set lo up
mkdir run/before
pivot_root . run/before
umount -l /run/before
exec env -i container=test "PATH=$PATH" /lib/systemd/systemd --unit=basic.target
"#;

/// See the module. It ends when this is dropped, and all that runs in it.
#[derive(Debug)]
pub struct Systemd<'w> {
    world: &'w World,
    process: Child,
    /// PID 1, as the host counts.
    init: String,
    cgroup: PathBuf,
}

impl<'w> Systemd<'w> {
    /// Boots one. None where it is not installed.
    pub fn boot(world: &'w World) -> Option<Systemd<'w>> {
        fs::metadata(PROGRAM).ok()?;
        fs::metadata("/usr/bin/dbus-daemon").ok()?;
        let cgroup = unified().join(world.id("systemd"));
        fs::create_dir(&cgroup).expect("create a control group");
        let dir = world.dir().join("systemd");
        fs::create_dir(&dir).expect("create a directory");
        let mut boot = Command::new("sh");
        boot.args(["-c", r#"echo 0 >"$0/cgroup.procs" && exec unshare "$@""#])
            .arg(&cgroup)
            .args(["--pid", "--mount", "--cgroup", "--net", "--ipc", "--uts"])
            .args(["--fork", "--kill-child", "sh", "-c", BOOT, "boot"])
            .arg(&dir)
            .arg(std::env::temp_dir())
            .arg(world.dir())
            .arg(binaries());
        boot.args(std::env::var_os("KATA_GUEST_DIR"));
        let log = fs::File::create(world.dir().join("systemd.log")).expect("create a file");
        boot.stdin(Stdio::null())
            .stderr(log.try_clone().expect("dup"))
            .stdout(log);
        let process = boot.spawn().expect("unshare is installed");
        let mut systemd = Systemd {
            world,
            process,
            init: String::new(),
            cgroup,
        };
        command::until("systemd is up", || {
            let pid = systemd.process.id();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            systemd.init = children.unwrap_or_default().trim().to_owned();
            let up = |systemd: &Systemd<'_>| systemd.run("systemctl is-system-running").text() == "running";
            !systemd.init.is_empty() && up(&systemd)
        });
        Some(systemd)
    }

    fn inside(&self, program: &Command) -> Outcome {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init, "--all", "--"]);
        command.arg(program.get_program()).args(program.get_args());
        let environment = program.get_envs();
        command.envs(environment.filter_map(|(name, value)| Some((name, value?))));
        command::run(&mut command, b"")
    }

    /// A line for the shell.
    #[track_caller]
    pub fn run(&self, line: &str) -> Outcome {
        let mut shell = Command::new("sh");
        shell.args(["-c", line]);
        self.inside(&shell)
    }

    /// A verb of the runtime, told to ask systemd for control groups.
    #[track_caller]
    pub fn oci(&self, args: &[&str]) -> Outcome {
        let mut command = self.world.runtime();
        command.arg("--systemd-cgroup").args(args);
        self.inside(&command)
    }

    /// A property of a unit.
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run(&format!("systemctl show --property {name} --value {unit}"))
            .exits(0)
            .text()
    }
}

/// Where the unified hierarchy is.
fn unified() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = mounts.find(|fields| fields[2] == "cgroup2");
    found.expect("cgroup2 is mounted")[1].into()
}

impl Drop for Systemd<'_> {
    fn drop(&mut self) {
        // It is PID 1: all the others end with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let cgroup = self.cgroup.clone();
        command::until("the control groups are gone", || {
            let mut clear = Command::new("find");
            clear
                .arg(&cgroup)
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
            command::run(&mut clear, b"");
            !cgroup.exists()
        });
    }
}
