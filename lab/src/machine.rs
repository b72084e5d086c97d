// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The lab's machine: an AMD processor with virtualization, emulated by QEMU. It sees the host's files, read-only, and the
//! working tree.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base::{Context, Error, Kind, Result};
use machine::process::{self, Owned};
use machine::qemu::binary;
use machine::qemu::qmp::Qmp;
use machine::tsc;

/// Memory unless somebody asks for another: enough for a few small machines inside.
pub const MEMORY_MIB: u32 = 3072;

/// Where the guest's memory is.
#[derive(Debug, Clone, Copy)]
pub enum Memory<'a> {
    /// In a file that others will start from.
    Saved(&'a Path),
    /// In such a file; what is changed stays with this machine.
    Copy(&'a Path),
    /// Nowhere.
    Own,
}

/// What the machine boots from, and what it sees.
#[derive(Debug, Clone)]
pub struct Plan {
    pub qemu: PathBuf,
    pub memory_mib: u32,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// The working tree: the part of the host's files that can be changed.
    pub tree: PathBuf,
}

/// A running lab. It ends with its owner.
#[derive(Debug)]
pub struct Machine {
    process: Owned,
    pub qmp: Qmp,
    /// Terminal of the command. QEMU throws away what does not fit into the socket.
    pub console: UnixStream,
    /// What the command prints where there is no terminal.
    pub output: UnixStream,
    /// Words to and from the lab's first program.
    pub control: BufReader<UnixStream>,
    /// It goes on from a snapshot, as others do.
    pub copied: bool,
    log: File,
}

impl Plan {
    /// All that decides what a snapshot of this machine looks like, except for the contents of the files.
    pub fn line(&self, memory: Memory<'_>) -> Result<Vec<String>> {
        let khz = tsc::khz().ok_or_else(|| Error::new(Kind::Unsupported, "this host has no time stamp counter"))?;
        // Rounded: two measurements differ a little, and a snapshot fits both.
        let khz = khz / 1000 * 1000;
        let backend = match memory {
            Memory::Saved(path) => format!("memory-backend-file,share=on,mem-path={}", escape(path)),
            Memory::Copy(path) => format!("memory-backend-file,share=off,mem-path={}", escape(path)),
            Memory::Own => "memory-backend-ram".into(),
        };
        // clearcpuid=141: see machine::qemu::command.
        let append = format!(
            "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests mitigations=off tsc_early_khz={khz} tsc=reliable \
             no_timer_check noreplace-smp clearcpuid=141"
        );
        let share = |id: &str, path: &Path, more: &str| {
            let path = escape(path);
            format!("local,id={id},path={path},security_model=passthrough,multidevs=remap{more}")
        };
        let words = [
            "-name",
            "kata-lab",
            "-M",
            "q35,memory-backend=memory",
            "-accel",
            "tcg,thread=multi,tb-size=512",
            "-cpu",
            "max,la57=off",
            // Another one in each copy of a snapshot: the kernel then makes its random numbers anew.
            "-device",
            "vmgenid,guid=auto",
            "-smp",
            "2",
            "-m",
            &format!("{}M", self.memory_mib),
            "-object",
            &format!("{backend},id=memory,size={}M", self.memory_mib),
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-fsdev",
            &share("root", Path::new("/"), ",readonly=on"),
            "-device",
            "virtio-9p-pci,fsdev=root,mount_tag=root",
            "-fsdev",
            &share("tree", &self.tree, ""),
            "-device",
            "virtio-9p-pci,fsdev=tree,mount_tag=tree",
            "-device",
            "virtio-serial-pci",
            "-device",
            "virtconsole,chardev=console",
            "-device",
            "virtserialport,chardev=control,name=lab.control",
            "-device",
            "virtserialport,chardev=output,name=lab.output",
            "-serial",
            "chardev:log",
            "-kernel",
            &self.kernel.to_string_lossy(),
            "-initrd",
            &self.initramfs.to_string_lossy(),
            "-append",
            &append,
        ];
        Ok(words.map(str::to_owned).into())
    }

    /// Starts QEMU, which inherits `also`.
    pub async fn start(&self, memory: Memory<'_>, incoming: bool, also: Option<&File>) -> Result<Machine> {
        let channel = || UnixStream::pair().attempt(|| "create a socket pair".into());
        let (qmp, qmp_theirs) = channel()?;
        let (console, console_theirs) = channel()?;
        let (output, output_theirs) = channel()?;
        let (control, control_theirs) = channel()?;
        let log = tempfile::tempfile().attempt(|| "create a temporary file".into())?;

        let mut command = Command::new(&self.qemu);
        for (id, theirs) in [
            ("qmp", &qmp_theirs),
            ("console", &console_theirs),
            ("output", &output_theirs),
            ("control", &control_theirs),
        ] {
            command.args(["-chardev", &format!("socket,id={id},fd={}", theirs.as_raw_fd())]);
        }
        command.args(["-mon", "chardev=qmp,mode=control", "-chardev"]);
        command.arg(format!("file,id=log,append=on,path=/proc/self/fd/{}", log.as_raw_fd()));
        command.args(self.line(memory)?);
        if incoming {
            command.args(["-incoming", "defer"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(OwnedFd::from(
            log.try_clone().attempt(|| "duplicate a descriptor".into())?,
        ));
        let mut keep = vec![
            qmp_theirs.as_fd(),
            console_theirs.as_fd(),
            output_theirs.as_fd(),
            control_theirs.as_fd(),
            log.as_fd(),
        ];
        keep.extend(also.map(AsFd::as_fd));
        let process = Owned::of(process::spawn(&mut command, &keep, None)?)?;
        drop((qmp_theirs, console_theirs, output_theirs, control_theirs));

        qmp.set_nonblocking(true)
            .attempt(|| "unblock the control channel".into())?;
        let qmp = tokio::net::UnixStream::from_std(qmp).attempt(|| "watch the control channel".into())?;
        match Qmp::greet(qmp, std::time::Duration::from_secs(30)).await {
            Ok(qmp) => Ok(Machine {
                process,
                qmp,
                console,
                output,
                control: BufReader::new(control),
                copied: incoming,
                log,
            }),
            Err(e) => Err(e).attempt(|| format!("start {}: {}", self.qemu.display(), said(&log))),
        }
    }
}

impl Machine {
    /// The next line that the lab's first program says. Errors: `Gone` with the end of the kernel's log.
    pub fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.control.read_line(&mut line) {
            Ok(1..) => Ok(line.trim_end().to_owned()),
            _ => Err(Error::new(Kind::Gone, "the lab ended").because(said(&self.log))),
        }
    }

    /// Waits until it can take a command. Errors: `Unsupported` when there can be no KVM in it.
    pub fn ready(&mut self) -> Result<()> {
        match self.hear()?.as_str() {
            "ready" => Ok(()),
            said => Err(refusal(said)),
        }
    }

    /// Says something to it.
    pub fn say(&mut self, words: &str) -> Result<()> {
        self.control
            .get_mut()
            .write_all(words.as_bytes())
            .attempt(|| "talk to the lab".into())
    }

    /// QEMU's.
    pub fn pid(&self) -> i32 {
        self.process.pidfd().pid()
    }

    /// Whether the process has ended.
    pub fn wait(&self) -> Result<bool> {
        self.process.pidfd().wait(Some(std::time::Duration::from_secs(30)))
    }
}

/// What it means that the lab's first program says `said` in place of what it should.
pub fn refusal(said: &str) -> Error {
    match said.split_once(' ') {
        Some(("unsupported", why)) => Error::new(Kind::Unsupported, why),
        Some(("failed", why)) => Error::new(Kind::Guest, format!("the lab cannot {why}")),
        _ => Error::new(Kind::Guest, format!("the lab says {said:?}")),
    }
}

/// The end of what the kernel and QEMU said.
fn said(mut log: &File) -> String {
    let mut bytes = Vec::new();
    // What cannot be read has nothing to tell.
    let _ = log.rewind().and_then(|()| log.read_to_end(&mut bytes));
    machine::tail::printable(&bytes, 30)
}

/// The QEMU of this host.
pub fn qemu() -> Result<PathBuf> {
    binary::find()
}

fn escape(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
