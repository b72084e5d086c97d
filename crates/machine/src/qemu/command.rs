// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! QEMU's command line: a pure function of the machine that is wanted. The same line serves QEMU 7.2 to 11.
//!
//! The machine is a `microvm` without the legacy timer and interrupt controller, booted through the kernel's PVH entry by
//! the smallest firmware there is. virtio devices sit on PCI: as fast to boot as virtio-mmio, and each queue has an interrupt
//! of its own (MSI-X), which needs no emulated register to be acknowledged and which KVM injects without QEMU.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use crate::MachineSpec;

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's translator. The guest sees the host's time stamp counter and has nothing to measure it with, so that it must
    /// be told: without, half of the boots hang.
    Tcg {
        /// Rate of the counter, kilohertz.
        tsc_khz: u32,
    },
}

/// Descriptors that QEMU inherits: it is given no path of ours, and needs no right to any.
#[derive(Debug)]
pub struct Descriptors {
    /// The control channel.
    pub qmp: RawFd,
    /// Where the guest's console prints.
    pub console: RawFd,
    /// Connection to the server of the vsock device.
    pub vsock: RawFd,
    /// Connections to the servers of [`MachineSpec::shares`], in their order.
    pub shares: Vec<RawFd>,
    /// The taps of [`MachineSpec::nics`], in their order.
    pub nics: Vec<RawFd>,
}

/// Files that the guest boots from, by the paths that QEMU opens.
#[derive(Debug)]
pub struct BootFiles {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initramfs: PathBuf,
}

/// Most bytes of translated code that are kept. The default is a gigabyte; a booted guest fills some 30 MiB.
const TRANSLATION_MIB: u32 = 256;

/// Arguments of QEMU for `spec`; `name` is for people who list processes.
pub fn line(
    spec: &MachineSpec,
    accelerator: Accelerator,
    files: &BootFiles,
    descriptors: &Descriptors,
    name: &str,
) -> Vec<OsString> {
    let mut line = Line(Vec::new());
    line.pair("-name", &format!("kata-{},debug-threads=on", escape(name)));
    // Without the 8254 and the 8259: with them, and ACPI, a kernel takes the timer's interrupt for vector 0 now and then.
    line.pair("-M", "microvm,pit=off,pic=off,rtc=on,pcie=on,memory-backend=memory");
    line.pair("-bios", "qboot.rom");
    match accelerator {
        Accelerator::Kvm => {
            line.pair("-accel", "kvm");
            line.pair("-cpu", "host");
        }
        Accelerator::Tcg { .. } => {
            line.pair("-accel", &format!("tcg,thread=multi,tb-size={TRANSLATION_MIB}"));
            // Fewer page table levels to walk.
            line.pair("-cpu", "max,la57=off");
        }
    }
    line.pair("-smp", &spec.vcpus.to_string());
    line.pair("-m", &format!("{}M", spec.memory_mib));
    // Shared, so that the servers of the devices reach the guest's memory.
    let memory = format!("memory-backend-memfd,id=memory,size={}M,share=on", spec.memory_mib);
    line.pair("-object", &memory);
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        line.one(flag);
    }
    line.pair("-display", "none");
    line.pair(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    line.pair("-chardev", &format!("socket,id=qmp,fd={}", descriptors.qmp));
    line.pair("-mon", "chardev=qmp,mode=control");
    line.pair("-chardev", &format!("socket,id=console,fd={}", descriptors.console));
    line.pair("-serial", "chardev:console");
    line.pair("-chardev", &format!("socket,id=vsock,fd={}", descriptors.vsock));
    line.pair("-device", "vhost-user-vsock-pci,chardev=vsock");
    for (n, (share, descriptor)) in spec.shares.iter().zip(&descriptors.shares).enumerate() {
        line.pair("-chardev", &format!("socket,id=share{n},fd={descriptor}"));
        let tag = escape(&share.tag);
        line.pair("-device", &format!("vhost-user-fs-pci,chardev=share{n},tag={tag}"));
    }
    for (n, (nic, descriptor)) in spec.nics.iter().zip(&descriptors.nics).enumerate() {
        line.pair("-netdev", &format!("tap,id=nic{n},fd={descriptor}"));
        // Without a boot ROM: the machine never boots from its network.
        let mac = nic.mac.map(|byte| format!("{byte:02x}")).join(":");
        line.pair("-device", &format!("virtio-net-pci,netdev=nic{n},mac={mac},romfile="));
    }
    line.path("-kernel", &files.kernel);
    line.path("-initrd", &files.initramfs);
    line.pair("-append", &kernel_params(&spec.kernel_params, accelerator));
    line.0
}

/// What the kernel is told; the caller's words come last and win.
fn kernel_params(extra: &str, accelerator: Accelerator) -> String {
    // A panic ends QEMU at once (triple fault, -no-reboot); self-tests of ciphers nobody uses cost a third of the boot.
    let mut params = "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests".to_owned();
    if let Accelerator::Tcg { tsc_khz } = accelerator {
        params.push_str(&format!(
            " tsc_early_khz={tsc_khz} tsc=reliable no_timer_check noreplace-smp {WITHOUT_CX16}"
        ));
    }
    for word in extra.split_ascii_whitespace() {
        params.push(' ');
        params.push_str(word);
    }
    params
}

/// Keeps the kernel from `cmpxchg16b` (word 4, bit 13 of its feature list), which QEMU 7.2 emulates wrongly in a kernel's
/// hands: 6.12 panics at random. Programs still see the instruction; those built for x86-64-v2 refuse to start without.
const WITHOUT_CX16: &str = "clearcpuid=141";

/// A value inside an option: a comma is doubled.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

struct Line(Vec<OsString>);

impl Line {
    fn one(&mut self, word: &str) {
        self.0.push(word.into());
    }

    fn pair(&mut self, option: &str, value: &str) {
        self.one(option);
        self.one(value);
    }

    fn path(&mut self, option: &str, value: &Path) {
        self.one(option);
        self.0.push(value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{NicSpec, ShareSpec, VsockSpec};

    fn spec() -> MachineSpec {
        MachineSpec {
            vcpus: 2,
            memory_mib: 300,
            kernel: "/g/vmlinux".into(),
            initramfs: "/g/initramfs.cpio".into(),
            kernel_params: " loglevel=7\n debug ".into(),
            shares: vec![ShareSpec {
                tag: "ka,ta".into(),
                socket: "fs.sock".into(),
            }],
            vsock: VsockSpec {
                cid: 3,
                socket: "vsock-vu.sock".into(),
                hybrid: "vsock.sock".into(),
            },
            nics: vec![NicSpec {
                mac: [2, 0, 0, 0, 0, 0xa0],
                tap: Arc::new(std::fs::File::open("/dev/null").unwrap().into()),
            }],
            binary: None,
        }
    }

    fn joined(accelerator: Accelerator) -> String {
        let spec = spec();
        let descriptors = Descriptors {
            qmp: 10,
            console: 11,
            vsock: 12,
            shares: vec![13],
            nics: vec![14],
        };
        let files = BootFiles {
            kernel: spec.kernel.clone(),
            initramfs: spec.initramfs.clone(),
        };
        let words = line(&spec, accelerator, &files, &descriptors, "c1");
        let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
        words
            .join("\n")
            .replace("\n-", "\x00-")
            .replace('\n', " ")
            .replace('\x00', "\n")
    }

    const REST: &str = "\
-smp 2
-m 300M
-object memory-backend-memfd,id=memory,size=300M,share=on
-nodefaults
-no-user-config
-no-reboot
-display none
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-chardev socket,id=qmp,fd=10
-mon chardev=qmp,mode=control
-chardev socket,id=console,fd=11
-serial chardev:console
-chardev socket,id=vsock,fd=12
-device vhost-user-vsock-pci,chardev=vsock
-chardev socket,id=share0,fd=13
-device vhost-user-fs-pci,chardev=share0,tag=ka,,ta
-netdev tap,id=nic0,fd=14
-device virtio-net-pci,netdev=nic0,mac=02:00:00:00:00:a0,romfile=
-kernel /g/vmlinux
-initrd /g/initramfs.cpio
";

    #[test]
    fn emulation_tells_the_kernel_its_clock() {
        let expected = format!(
            "-name kata-c1,debug-threads=on
-M microvm,pit=off,pic=off,rtc=on,pcie=on,memory-backend=memory
-bios qboot.rom
-accel tcg,thread=multi,tb-size=256
-cpu max,la57=off
{REST}-append console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests tsc_early_khz=2600000 tsc=reliable no_timer_check \
             noreplace-smp clearcpuid=141 loglevel=7 debug"
        );
        assert_eq!(joined(Accelerator::Tcg { tsc_khz: 2_600_000 }), expected);
    }

    #[test]
    fn with_hardware_the_guest_sees_the_host_processor() {
        let expected = format!(
            "-name kata-c1,debug-threads=on
-M microvm,pit=off,pic=off,rtc=on,pcie=on,memory-backend=memory
-bios qboot.rom
-accel kvm
-cpu host
{REST}-append console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests loglevel=7 debug"
        );
        assert_eq!(joined(Accelerator::Kvm), expected);
    }
}
