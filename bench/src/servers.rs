// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! File servers behind the same machine: our device process, and the distribution's virtiofsd. The guest is the image's kernel
//! with its modules, and the worker in place of the agent.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base::{Context, Error, Kind, Result};
use devices::process::Arguments;
use guest_image::GuestImage;
use machine::process::{self, Owned};
use machine::{MachineSpec, ShareSpec, VsockSpec};

use crate::contender::{Contender, Setting};
use crate::report::{Section, Table};
use crate::{fio, steps};

/// Where distributions have it: Debian, Fedora.
const VIRTIOFSD: [&str; 2] = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];
/// The tag that the worker mounts.
const TAG: &str = "bench";
const MEMORY_MIB: u64 = 1024;
const DEADLINE: Duration = Duration::from_secs(300);

/// Who serves the files.
enum Server {
    Ours(Contender),
    Distribution(PathBuf),
}

impl Server {
    fn name(&self) -> String {
        match self {
            Server::Ours(one) if one.name == "ours" => "kata device".into(),
            Server::Ours(one) => format!("kata device {}", one.name),
            Server::Distribution(_) => "virtiofsd".into(),
        }
    }
}

/// The table.
pub fn side_by_side(setting: &Setting) -> Section {
    let mut section = Section::new("File servers in the same machine");
    section.note(format!(
        "One vCPU, {MEMORY_MIB} MiB, the same kernel, hypervisor and flags; files are on the host's disk, cached. virtiofsd as it \
         is by default (cache=auto)."
    ));
    let mut servers: Vec<Server> = setting.ours().cloned().map(Server::Ours).collect();
    if servers.len() == 1 {
        match VIRTIOFSD.iter().map(PathBuf::from).find(|path| path.is_file()) {
            Some(path) => servers.push(Server::Distribution(path)),
            None => section.note("virtiofsd of the distribution is not installed: nothing to compare with."),
        }
    }
    let worker = steps::worker(setting);
    let mut all: Vec<Vec<String>> = servers.iter().map(|_| Vec::new()).collect();
    for _ in 0..setting.runs {
        for (server, runs) in servers.iter().zip(&mut all) {
            let told = once(setting, server, &worker);
            runs.push(told.unwrap_or_else(|e| panic!("{}: {}", server.name(), e.chain())));
        }
    }
    let mut table = Table::new("file servers", "ms", servers.iter().map(Server::name).collect());
    table.ratio = match &servers[..] {
        [Server::Ours(_), Server::Ours(_)] => Some((1, 0)),
        [_, _] => Some((0, 1)),
        _ => None,
    };
    steps::fill(&mut table, &all);
    fio::add(&mut section, &table, &all);
    section.tables.insert(0, table);
    section
}

/// What the worker has told.
fn once(setting: &Setting, server: &Server, worker: &Path) -> Result<String> {
    let contender = match server {
        Server::Ours(contender) => contender,
        Server::Distribution(_) => setting
            .ours()
            .next()
            .ok_or_else(|| Error::new(Kind::Bug, "nothing of ours"))?,
    };
    let world = contender.world();
    let dir = world.dir();
    let (share, empty) = (dir.join("share"), dir.join("empty"));
    for made in [&share, &empty] {
        fs::create_dir(made).attempt(|| format!("create {}", made.display()))?;
    }
    fio::copy(&share.join("fio"));
    let image = contender.images().default()?;
    let spec = spec(dir, &image, worker)?;
    // The device process serves the vsock device in both cases: the machine is the same.
    let (served, socket) = match server {
        Server::Ours(_) => (&share, "fs.sock"),
        Server::Distribution(_) => (&empty, "unused.sock"),
    };
    let device = device(&contender.binaries().join("kata"), dir, served, socket)?;
    let other = match server {
        Server::Ours(_) => None,
        Server::Distribution(path) => Some(virtiofsd(path, dir, &share)?),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.attempt(|| "start a runtime".into())?;
    runtime
        .block_on(async {
            let machine = machine::choose(None)?.launch(&spec, dir).await?;
            let ended = tokio::time::timeout(DEADLINE, async {
                while process::ending(machine.process()).is_none() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
            if ended.await.is_err() {
                let what = format!("the guest has not ended; its console: {}", machine.console());
                return Err(Error::new(Kind::Timeout, what));
            }
            let result = share.join("result");
            let told = fs::read_to_string(&result);
            told.attempt(|| format!("read what the worker found; the guest's console: {}", machine.console()))
        })
        .inspect(|_| {
            drop((device, other));
            world.end();
        })
}

fn spec(dir: &Path, image: &GuestImage, worker: &Path) -> Result<MachineSpec> {
    let initramfs = dir.join("initramfs.cpio");
    with_worker(&image.initramfs, worker, &initramfs)?;
    Ok(MachineSpec {
        vcpus: 1,
        memory_mib: MEMORY_MIB,
        most_vcpus: 1,
        most_memory_mib: MEMORY_MIB,
        kernel: image.kernel.clone(),
        initramfs,
        // What stands behind the dashes is for the first process.
        kernel_params: "-- --guest".into(),
        shares: vec![ShareSpec {
            tag: TAG.into(),
            socket: "fs.sock".into(),
        }],
        vsock: VsockSpec {
            cid: 3,
            socket: "vsock-vu.sock".into(),
            hybrid: "vsock.sock".into(),
        },
        nics: Vec::new(),
        binary: None,
        patience: Duration::from_secs(30),
    })
}

/// The image's initramfs, with one more archive behind it: what comes later replaces what was there.
fn with_worker(image: &Path, worker: &Path, out: &Path) -> Result<()> {
    let tried = || format!("write {}", out.display());
    let program = fs::read(worker).attempt(|| format!("read {}", worker.display()))?;
    fs::copy(image, out).attempt(tried)?;
    let mut file = File::options().append(true).open(out).attempt(tried)?;
    let size = u32::try_from(program.len()).context(Kind::Invalid, tried)?;
    let entry = cpio::newc::Builder::new("init").ino(1).nlink(1).mode(0o100_755);
    let mut writer = entry.write(&mut file, size);
    writer.write_all(&program).attempt(tried)?;
    writer.finish().attempt(tried)?;
    cpio::newc::trailer(&mut file).attempt(tried)?;
    Ok(())
}

/// `kata device`, as the monitor starts it.
fn device(program: &Path, dir: &Path, share: &Path, socket: &str) -> Result<Owned> {
    let listen = |name: &str| base::socket::listen(&dir.join(name)).map(OwnedFd::from);
    let (fs, vsock, hybrid) = (listen(socket)?, listen("vsock-vu.sock")?, listen("vsock.sock")?);
    let arguments = Arguments {
        dir: dir.to_owned(),
        share: share.to_owned(),
        tag: TAG.to_owned(),
        fs: fs.as_raw_fd(),
        vsock: vsock.as_raw_fd(),
        hybrid: hybrid.as_raw_fd(),
        name: "vsock.sock".to_owned(),
        cid: 3,
        record: None,
    };
    let mut command = Command::new(program);
    command.arg("device").args(arguments.words()).current_dir(dir);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Owned::of(process::spawn(
        &mut command,
        &[fs.as_fd(), vsock.as_fd(), hybrid.as_fd()],
        None,
    )?)
}

/// virtiofsd, with its defaults. It listens when this returns.
fn virtiofsd(program: &Path, dir: &Path, share: &Path) -> Result<Owned> {
    let listener = base::socket::listen(&dir.join("fs.sock"))?;
    let mut command = Command::new(program);
    command.arg(format!("--fd={}", listener.as_raw_fd()));
    // The spelling that the older one knows, and the newer one still takes.
    command
        .arg("-o")
        .arg(format!("source={},cache=auto,xattr", share.display()));
    command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(File::create(dir.join("virtiofsd.log")).attempt(|| "create virtiofsd's log".into())?);
    Owned::of(process::spawn(&mut command, &[listener.as_fd()], None)?)
}
