// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A lab that waits for its command, on disk: made once for each kernel, QEMU and script, then each command starts there.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base::file::{OwnedDir, remove_tree};
use base::{Context, Error, Kind, Result};
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::machine::{Machine, Memory, Plan};
use crate::{hidden, initramfs, kernel, machine};

const BUSYBOX: &str = "/bin/busybox";
/// How long QEMU may take to write or read a snapshot.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where labs keep their files.
#[derive(Debug)]
pub struct Shelf {
    dir: PathBuf,
    /// Of the labs that it gives.
    memory_mib: u32,
    /// Shared by labs while they start, exclusive for whoever changes something.
    lock: Option<Flock<File>>,
}

impl Shelf {
    /// Opens, or makes, the directory, for labs of this much memory.
    pub fn open(dir: &Path, memory_mib: u32) -> Result<Shelf> {
        fs::create_dir_all(dir).attempt(|| format!("create directory {}", dir.display()))?;
        let mut shelf = Shelf {
            dir: dir.to_owned(),
            memory_mib,
            lock: None,
        };
        shelf.lock(FlockArg::LockShared)?;
        Ok(shelf)
    }

    fn lock(&mut self, how: FlockArg) -> Result<()> {
        self.lock = None;
        let path = self.dir.join("lock");
        let tried = || format!("lock {}", path.display());
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .attempt(tried)?;
        self.lock = Some(Flock::lock(file, how).map_err(|(_, errno)| errno).attempt(tried)?);
        Ok(())
    }

    /// A lab that waits for its command: out of the snapshot, which is made first where there is none.
    pub async fn lab(&mut self, tree: &Path) -> Result<Machine> {
        let qemu = machine::qemu()?;
        let key = self.key(&qemu)?;
        let dir = self.dir.join(&key);
        let memory_mib = self.memory_mib;
        let plan = |dir: &Path| Plan {
            qemu: qemu.clone(),
            memory_mib,
            kernel: dir.join("vmlinux"),
            initramfs: dir.join("initramfs.cpio"),
            tree: tree.to_owned(),
        };
        if !dir.exists() {
            self.lock(FlockArg::LockExclusive)?;
            if !dir.exists() {
                self.make(&dir, plan).await?;
            }
            self.lock(FlockArg::LockShared)?;
        }
        match restore(&plan(&dir), &dir).await {
            Ok(lab) => Ok(lab),
            Err(e) => {
                eprintln!("lab: the snapshot does not start, booting: {}", e.chain());
                boot(&plan(&dir), Memory::Own).await
            }
        }
    }

    /// A hash over what decides how a snapshot looks. The kernel is not among it: what is installed is not looked at each time.
    fn key(&self, qemu: &Path) -> Result<String> {
        let plan = Plan {
            qemu: qemu.to_owned(),
            memory_mib: self.memory_mib,
            kernel: PathBuf::new(),
            initramfs: PathBuf::new(),
            tree: PathBuf::new(),
        };
        let mut hash = Sha256::new();
        for word in plan.line(Memory::Own)? {
            hash.update(word);
            hash.update([0]);
        }
        for file in [initramfs::INIT, initramfs::ENTER, hidden::list().as_bytes()] {
            hash.update(file);
        }
        for program in [qemu, Path::new(BUSYBOX)] {
            let found = fs::metadata(program).attempt(|| format!("look at {}", program.display()))?;
            let modified = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            hash.update(format!("{program:?} {} {modified:?}", found.len()));
        }
        let bytes = hash.finalize();
        Ok(bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    /// Boots a lab and saves it as `dir`; older ones go.
    async fn make(&self, dir: &Path, plan: impl Fn(&Path) -> Plan) -> Result<()> {
        for entry in fs::read_dir(&self.dir)
            .attempt(|| format!("list {}", self.dir.display()))?
            .flatten()
        {
            if entry.path().is_dir() && entry.file_name() != "packages" {
                remove_tree(&entry.path())?;
            }
        }
        let kernel = kernel::find(&self.dir.join("packages"))?;
        let busybox = fs::read(BUSYBOX).attempt(|| format!("read {BUSYBOX} (package busybox-static)"))?;
        let fresh = OwnedDir::create(&dir.with_extension("new"))?;
        let plan = plan(fresh.path());
        let write = |path: &Path, bytes: &[u8]| fs::write(path, bytes).attempt(|| format!("write {}", path.display()));
        write(&plan.kernel, &kernel.vmlinux)?;
        write(&plan.initramfs, &initramfs::pack(&busybox, &kernel.modules)?)?;
        eprintln!("lab: boot it once, for a snapshot");
        save(&plan, fresh.path()).await?;
        fs::rename(fresh.path(), dir).attempt(|| format!("write {}", dir.display()))?;
        fresh.keep();
        Ok(())
    }
}

async fn boot(plan: &Plan, memory: Memory<'_>) -> Result<Machine> {
    let mut lab = plan.start(memory, false, None).await?;
    lab.ready()?;
    Ok(lab)
}

fn capabilities() -> serde_json::Value {
    json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] })
}

async fn save(plan: &Plan, dir: &Path) -> Result<()> {
    let path = dir.join("state");
    let state = File::create(&path).attempt(|| format!("write {}", path.display()))?;
    let mut lab = plan
        .start(Memory::Saved(&dir.join("memory")), false, Some(&state))
        .await?;
    lab.ready()?;
    // What the kernel still does after the last word of its first program.
    std::thread::sleep(Duration::from_secs(1));
    lab.qmp.execute("stop", json!({})).await?;
    lab.qmp.execute("migrate-set-capabilities", capabilities()).await?;
    // QEMU itself would write only to a descriptor that comes over its control channel.
    let uri = format!("exec:cat >/proc/{}/fd/{}", lab.pid(), state.as_raw_fd());
    lab.qmp.execute("migrate", json!({ "uri": uri })).await?;
    until_migrated(&mut lab).await?;
    lab.qmp.execute("quit", json!({})).await?;
    lab.wait().map(drop)
}

async fn restore(plan: &Plan, dir: &Path) -> Result<Machine> {
    let path = dir.join("state");
    let state = File::open(&path).attempt(|| format!("read {}", path.display()))?;
    let memory = dir.join("memory");
    let mut lab = plan.start(Memory::Copy(&memory), true, Some(&state)).await?;
    lab.qmp.execute("migrate-set-capabilities", capabilities()).await?;
    let uri = format!("fd:{}", state.as_raw_fd());
    lab.qmp.execute("migrate-incoming", json!({ "uri": uri })).await?;
    // Before it is all there, `cont` is forgotten.
    until_migrated(&mut lab).await?;
    lab.qmp.execute("cont", json!({})).await?;
    Ok(lab)
}

async fn until_migrated(lab: &mut Machine) -> Result<()> {
    let done = async {
        loop {
            let answer = lab.qmp.execute("query-migrate", json!({})).await?;
            match answer["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    return Err(Error::new(Kind::Io, format!("QEMU: migration {answer}")));
                }
                _ => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    let done = tokio::time::timeout(PATIENCE, done).await;
    done.context(Kind::Timeout, || "wait for QEMU's snapshot".into())?
}
