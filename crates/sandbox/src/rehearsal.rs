// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A container that does what most programs do when they start, and ends: what the guest meets for the first time there costs the
//! first user nothing any more. Its program is a few hundred bytes that are written here: nothing of the host's is shown to the guest.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use api::agent::{Address, ConfigureNetworkRequest, Interface, Route};
use base::{Context, Result};
use oci::Bundle;
use serde_json::json;

/// What it prints.
pub const LINE: &[u8] = b"ready\n";
/// In its root: the program, and what the program names as its interpreter, as programs with shared libraries do.
const PROGRAM: &str = "/program";
const INTERPRETER: &str = "/interpreter";
/// Bytes of the stack that calls may write to.
const ROOM: u32 = 4096;

/// Writes the bundle into `dir`, which does not exist.
pub fn write(dir: &Path) -> Result<Bundle> {
    let what = || format!("write {}", dir.display());
    let root = dir.join("rootfs");
    fs::create_dir_all(&root).attempt(what)?;
    for (name, interpreter) in [(PROGRAM, Some(INTERPRETER)), (INTERPRETER, None)] {
        let mut options = fs::File::options();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(root.join(&name[1..]));
        let bytes = program(INTERPRETER, interpreter);
        file.and_then(|mut file| file.write_all(&bytes)).attempt(what)?;
    }
    let mut spec = oci::starter::document(None);
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!([PROGRAM]);
    fs::write(dir.join("config.json"), spec.to_string()).attempt(what)?;
    Bundle::open(dir)
}

/// A network as most are: it leads nowhere.
pub fn network(device: [u8; 6]) -> ConfigureNetworkRequest {
    let ip = |last: u8| vec![192, 0, 2, last];
    let interface = Interface {
        device: device.to_vec(),
        name: "eth0".into(),
        mac: vec![2, 0, 0, 0, 0, 1],
        mtu: 1500,
        addresses: vec![Address {
            ip: ip(2),
            prefix: 24,
            broadcast: ip(255),
            ..Address::default()
        }],
        ..Interface::default()
    };
    let route = Route {
        destination: vec![0; 4],
        gateway: ip(1),
        interface: interface.name.clone(),
        protocol: libc::RTPROT_BOOT.into(),
        kind: libc::RTN_UNICAST.into(),
        ..Route::default()
    };
    ConfigureNetworkRequest {
        interfaces: vec![interface],
        routes: vec![route],
        ..ConfigureNetworkRequest::default()
    }
}

/// An argument of a system call.
#[derive(Debug, Clone, Copy)]
enum Word<'a> {
    Number(i64),
    /// The address of these bytes.
    Bytes(&'a [u8]),
    /// The address of [`ROOM`] bytes.
    Room,
}

/// The program as an ELF file, which reads `file`. It begins in its `interpreter`, if it has one, which is the same program.
fn program(file: &str, interpreter: Option<&str>) -> Vec<u8> {
    let name = [file.as_bytes(), &[0]].concat();
    let (file, room, n) = (Word::Bytes(&name), Word::Room, Word::Number);
    let here = n(libc::AT_FDCWD.into());
    let mut code = Code::new();
    // Number 3 is the first descriptor that is free.
    code.call(libc::SYS_brk, &[n(0)]);
    code.call(libc::SYS_openat, &[here, file, n(0), n(0)]);
    code.call(libc::SYS_fstat, &[n(3), room]);
    code.call(libc::SYS_read, &[n(3), room, n(832)]);
    code.call(libc::SYS_mmap, &[n(0), n(8192), n(5), n(2), n(3), n(0)]);
    code.call(libc::SYS_mmap, &[n(0), n(4096), n(3), n(2), n(3), n(0)]);
    code.call(libc::SYS_close, &[n(3)]);
    // Anonymous memory, all of it touched.
    code.call(libc::SYS_mmap, &[n(0), n(256 << 10), n(3), n(0x8022), n(-1), n(0)]);
    code.call(libc::SYS_prlimit64, &[n(0), n(7), n(0), room]);
    code.call(libc::SYS_rt_sigaction, &[n(2), n(0), room, n(8)]);
    code.call(libc::SYS_rt_sigprocmask, &[n(0), n(0), room, n(8)]);
    for call in [libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getppid, libc::SYS_gettid] {
        code.call(call, &[]);
    }
    code.call(libc::SYS_uname, &[room]);
    code.call(libc::SYS_getcwd, &[room, n(512)]);
    code.call(libc::SYS_newfstatat, &[here, file, room, n(0)]);
    code.call(libc::SYS_newfstatat, &[here, Word::Bytes(b"/none\0"), room, n(0)]);
    code.call(libc::SYS_openat, &[here, Word::Bytes(b"/\0"), n(0o200_000), n(0)]);
    code.call(libc::SYS_getdents64, &[n(3), room, n(1024)]);
    code.call(libc::SYS_close, &[n(3)]);
    code.call(libc::SYS_openat, &[here, Word::Bytes(b"/proc/self/stat\0"), n(0), n(0)]);
    code.call(libc::SYS_read, &[n(3), room, n(1024)]);
    code.call(libc::SYS_close, &[n(3)]);
    code.call(libc::SYS_ioctl, &[n(1), n(0x5401), room]);
    code.call(libc::SYS_pipe2, &[room, n(0)]);
    code.fork(|child| {
        child.call(libc::SYS_dup2, &[n(4), n(5)]);
        child.call(libc::SYS_write, &[n(5), Word::Bytes(LINE), n(1)]);
        child.call(libc::SYS_exit_group, &[n(0)]);
    });
    code.call(libc::SYS_read, &[n(3), room, n(1)]);
    code.call(libc::SYS_wait4, &[n(-1), n(0), n(0), n(0)]);
    code.call(libc::SYS_read, &[n(0), room, n(1)]);
    code.call(libc::SYS_write, &[n(2), Word::Bytes(LINE), n(0)]);
    code.call(
        libc::SYS_write,
        &[
            n(1),
            Word::Bytes(LINE),
            n(i64::try_from(LINE.len()).unwrap_or_default()),
        ],
    );
    code.call(libc::SYS_exit_group, &[n(0)]);
    image(&code.finish(), interpreter)
}

/// Machine code of x86-64: system calls, one after the other.
struct Code {
    bytes: Vec<u8>,
    /// Where the address of which bytes is still to be filled in.
    open: Vec<(usize, Vec<u8>)>,
}

impl Code {
    fn new() -> Code {
        let mut code = Code {
            bytes: Vec::new(),
            open: Vec::new(),
        };
        // sub rsp, ROOM
        code.put(&[0x48, 0x81, 0xec]);
        code.put(&ROOM.to_le_bytes());
        code
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn call(&mut self, number: libc::c_long, words: &[Word<'_>]) {
        // mov REG, imm64 | lea REG, [rip + …] | mov REG, rsp: for rdi, rsi, rdx, r10, r8, r9
        const MOVE: [[u8; 2]; 6] = [
            [0x48, 0xbf],
            [0x48, 0xbe],
            [0x48, 0xba],
            [0x49, 0xba],
            [0x49, 0xb8],
            [0x49, 0xb9],
        ];
        const ADDRESS: [[u8; 3]; 6] = [
            [0x48, 0x8d, 0x3d],
            [0x48, 0x8d, 0x35],
            [0x48, 0x8d, 0x15],
            [0x4c, 0x8d, 0x15],
            [0x4c, 0x8d, 0x05],
            [0x4c, 0x8d, 0x0d],
        ];
        const STACK: [[u8; 3]; 6] = [
            [0x48, 0x89, 0xe7],
            [0x48, 0x89, 0xe6],
            [0x48, 0x89, 0xe2],
            [0x49, 0x89, 0xe2],
            [0x49, 0x89, 0xe0],
            [0x49, 0x89, 0xe1],
        ];
        for (at, word) in words.iter().enumerate().take(MOVE.len()) {
            match word {
                Word::Number(number) => {
                    self.put(&MOVE[at]);
                    self.put(&number.to_le_bytes());
                }
                Word::Bytes(bytes) => {
                    self.put(&ADDRESS[at]);
                    self.open.push((self.bytes.len(), bytes.to_vec()));
                    self.put(&[0; 4]);
                }
                Word::Room => self.put(&STACK[at]),
            }
        }
        // mov rax, number; syscall
        self.put(&[0x48, 0xb8]);
        self.put(&number.to_le_bytes());
        self.put(&[0x0f, 0x05]);
    }

    /// A child that does what `work` says, and must end.
    fn fork(&mut self, work: impl FnOnce(&mut Code)) {
        self.call(libc::SYS_fork, &[]);
        // test eax, eax; jnz over the child's part
        self.put(&[0x85, 0xc0, 0x0f, 0x85]);
        let at = self.bytes.len();
        self.put(&[0; 4]);
        work(self);
        self.fill(at, self.bytes.len());
    }

    /// The distance from the end of the four bytes `at` to `target`.
    fn fill(&mut self, at: usize, target: usize) {
        let distance = u32::try_from(target - (at + 4)).unwrap_or_default();
        self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
    }

    fn finish(mut self) -> Vec<u8> {
        for (at, bytes) in std::mem::take(&mut self.open) {
            self.fill(at, self.bytes.len());
            self.put(&bytes);
        }
        self.bytes
    }
}

/// An ELF file whose whole content is mapped, and which begins with `code`.
fn image(code: &[u8], interpreter: Option<&str>) -> Vec<u8> {
    const HEADER: u64 = 64;
    const SEGMENT: u64 = 56;
    let name: Vec<u8> = interpreter.map_or_else(Vec::new, |name| [name.as_bytes(), &[0]].concat());
    let length = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or_default();
    let segments: u16 = if name.is_empty() { 1 } else { 2 };
    let begin = HEADER + SEGMENT * u64::from(segments);
    let end = begin + length(code) + length(&name);
    let mut file = Vec::new();
    // 64 bits, little endian, version 1; a shared object for x86-64.
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0");
    for word in [begin, HEADER, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&[0; 4]);
    for half in [64, 56, segments, 0, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    let mut segment = |kind: u32, flags: u32, at: u64, size: u64, align: u64| {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&flags.to_le_bytes());
        for word in [at, at, at, size, size, align] {
            file.extend_from_slice(&word.to_le_bytes());
        }
    };
    if !name.is_empty() {
        segment(3, 4, begin + length(code), length(&name), 1);
    }
    // Writable too: older kernels clear the rest of an interpreter's last page, whether anything is there or not.
    segment(1, 7, 0, end, 4096);
    file.extend_from_slice(code);
    file.extend_from_slice(&name);
    file
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_program_runs_with_and_without_an_interpreter() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = write(&dir.path().join("bundle")).unwrap();
        let alone = bundle.rootfs().join("interpreter");
        let named = dir.path().join("named");
        fs::write(&named, program("/", alone.to_str())).unwrap();
        fs::set_permissions(&named, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        for path in [&alone, &named] {
            let ran = Command::new(path).stdin(Stdio::null()).output().unwrap();
            assert!(ran.status.success(), "{path:?}: {ran:?}");
            assert_eq!((&ran.stdout[..], &ran.stderr[..]), (LINE, &[][..]), "{path:?}");
        }
        assert_eq!(bundle.process().unwrap().args().as_ref().unwrap(), &[PROGRAM]);
    }
}
