// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! QEMU's command line: a pure function of the machine that is wanted. The same line serves QEMU 7.2 to 11.
//!
//! The machine is a `microvm` without the legacy timer and interrupt controller, booted through the kernel's PVH entry by
//! the smallest firmware there is. virtio devices sit on PCI: as fast to boot as virtio-mmio, and each queue has an interrupt
//! of its own (MSI-X), which needs no emulated register to be acknowledged and which KVM injects without QEMU.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use base::{Error, Kind, Result};
use serde_json::{Value, json};

use crate::layout::Layout;
use crate::{DISK_CARDS, MachineSpec, NicEnd};

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
    /// The guest's memory.
    pub memory: RawFd,
    /// The registers of its devices; not for a machine that boots to run.
    pub registers: RawFd,
    /// What is behind the devices, in the order of [`devices`].
    pub devices: Vec<RawFd>,
}

/// How the machine begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// It boots with all its devices.
    Boot,
    /// It boots, to be frozen. It has no network devices.
    Freeze,
    /// It goes on where another one was frozen, with all its devices still to be plugged.
    Thaw,
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
    beginning: Beginning,
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
    line.pair("-smp", &spec.vcpus.max(spec.most_vcpus).to_string());
    let layout = Layout::of(spec);
    let size = layout.total_mib();
    line.pair("-m", &format!("{size}M"));
    // Shared, so that the servers of the devices reach the guest's memory.
    let memory = descriptors.memory;
    let memory = format!("memory-backend-file,id=memory,mem-path=/proc/self/fd/{memory},size={size}M,share=on");
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
    for (device, descriptor) in devices(spec).iter().zip(&descriptors.devices) {
        line.pair(device.behind.option(), &device.behind.value(&device.id, *descriptor));
        if beginning == Beginning::Boot {
            line.pair("-device", &device.option());
        }
    }
    line.pair("-device", BALLOON);
    for port in 0..DISK_CARDS {
        // Empty and without power until there is a block device.
        let chassis = port + 2;
        line.pair(
            "-device",
            &format!("pcie-root-port,id={},chassis={chassis}", disk_port(port)),
        );
    }
    let mut params = kernel_params(accelerator);
    if spec.most_vcpus > spec.vcpus {
        params.push_str(&format!(" maxcpus={}", spec.vcpus));
    }
    params.push_str(&layout.params());
    if beginning != Beginning::Boot {
        let registers = descriptors.registers;
        line.pair("-chardev", &format!("socket,id=registers,fd={registers}"));
        line.pair("-object", "qtest,id=qtest,chardev=registers,log=none");
        line.pair("-device", PORT);
        line.pair(
            "-device",
            &format!("pcie-root-port,id=served,chassis=4,addr={SERVED_SLOT:x}"),
        );
    }
    if beginning == Beginning::Freeze {
        let served = devices(spec).into_iter().filter(Device::is_served);
        // The function that shows all others comes last.
        for (function, device) in served.enumerate().collect::<Vec<_>>().iter().rev() {
            let place = format!("bus=served,addr=0.{function},multifunction=on");
            line.pair("-device", &format!("{},{place}", device.option()));
        }
    }
    params.push_str(" pcie_ports=compat");
    for word in spec.kernel_params.split_ascii_whitespace() {
        params.push(' ');
        params.push_str(word);
    }
    if beginning == Beginning::Thaw {
        line.pair("-incoming", "defer");
    }
    line.path("-kernel", &files.kernel);
    line.path("-initrd", &files.initramfs);
    line.pair("-append", &params);
    line.0
}

/// Where the port is in whose card the devices sit that other processes serve. It has a power switch, with which we take them
/// away from a machine that is frozen: see `functions`.
pub(super) const SERVED_SLOT: u64 = 0x10;

/// Where network devices are plugged into a copy of a frozen machine. Without a power switch, and with a kernel that leaves the port
/// alone, a device is there as soon as it is plugged, and the guest finds it when it looks.
const PORT: &str = "pcie-root-port,id=free,chassis=1,power_controller_present=off";
/// Name of a port for block devices.
pub(super) fn disk_port(port: usize) -> String {
    format!("disks{port}")
}

/// Tells us which memory the guest does not use: it goes back to the host.
const BALLOON: &str = "virtio-balloon-pci,free-page-reporting=on";
/// Devices that fit into a port: functions of one device.
pub(super) const FUNCTIONS: usize = 8;

/// What a device is tied to on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// The connection to a server, another process.
    Server,
    /// A tap.
    Tap,
    /// The connection to a process that speaks packets.
    Stream,
}

impl Behind {
    fn option(self) -> &'static str {
        match self {
            Behind::Server => "-chardev",
            Behind::Tap | Behind::Stream => "-netdev",
        }
    }

    fn value(self, id: &str, descriptor: RawFd) -> String {
        match self {
            Behind::Server => format!("socket,id={id},fd={descriptor}"),
            Behind::Tap => format!("tap,id={id},fd={descriptor}"),
            Behind::Stream => format!("stream,id={id},server=off,addr.type=fd,addr.str={descriptor}"),
        }
    }

    /// The device's property that names it.
    fn property(self) -> &'static str {
        match self {
            Behind::Server => "chardev",
            Behind::Tap | Behind::Stream => "netdev",
        }
    }
}

/// A device that is served from outside.
#[derive(Debug)]
pub struct Device {
    id: String,
    driver: &'static str,
    behind: Behind,
    properties: Vec<(&'static str, String)>,
}

/// The devices of a machine.
pub fn devices(spec: &MachineSpec) -> Vec<Device> {
    let mut devices = vec![Device {
        id: "vsock".into(),
        driver: "vhost-user-vsock-pci",
        behind: Behind::Server,
        properties: Vec::new(),
    }];
    devices.extend(spec.shares.iter().enumerate().map(|(n, share)| Device {
        id: format!("share{n}"),
        driver: "vhost-user-fs-pci",
        behind: Behind::Server,
        properties: vec![("tag", share.tag.clone())],
    }));
    devices.extend(spec.nics.iter().enumerate().map(|(n, nic)| Device {
        id: format!("nic{n}"),
        driver: "virtio-net-pci",
        behind: match nic.end {
            NicEnd::Tap(_) => Behind::Tap,
            NicEnd::Stream(_) => Behind::Stream,
        },
        properties: vec![
            ("mac", nic.mac.map(|byte| format!("{byte:02x}")).join(":")),
            // Without a boot ROM: the machine never boots from its network.
            ("romfile", String::new()),
        ],
    }));
    devices
}

impl Device {
    /// Another process serves it; QEMU cannot migrate it.
    pub fn is_served(&self) -> bool {
        matches!(self.behind, Behind::Server)
    }

    /// For `-device`.
    fn option(&self) -> String {
        let mut option = format!("{},{}={}", self.driver, self.behind.property(), self.id);
        for (name, value) in &self.properties {
            option.push_str(&format!(",{name}={}", escape(value)));
        }
        option
    }
}

/// Arguments of `device_add` that plug `devices`, which are served or none of them is, into their port of a frozen machine's copy.
/// The guest sees them once function 0 is there: it comes last. Errors: there are too many.
pub fn plugs(devices: &[&Device]) -> Result<Vec<Value>> {
    if devices.len() > FUNCTIONS {
        let what = format!("plug {} devices into a port for {FUNCTIONS}", devices.len());
        return Err(Error::new(Kind::Unsupported, what));
    }
    let numbered = devices.iter().enumerate().rev();
    let plugs = numbered.map(|(function, device)| {
        let bus = if device.is_served() { "served" } else { "free" };
        let mut plug = json!({
            "driver": device.driver, "id": format!("{}-device", device.id), device.behind.property(): device.id,
            "bus": bus, "addr": format!("0.{function}"), "multifunction": true,
        });
        for (name, value) in &device.properties {
            plug[*name] = json!(value);
        }
        plug
    });
    Ok(plugs.collect())
}

/// What the kernel is told; the caller's words come last and win.
fn kernel_params(accelerator: Accelerator) -> String {
    // A panic ends QEMU at once (triple fault, -no-reboot); self-tests of ciphers nobody uses cost a third of the boot.
    let mut params = "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests".to_owned();
    if let Accelerator::Tcg { tsc_khz } = accelerator {
        params.push_str(&format!(
            " tsc_early_khz={tsc_khz} tsc=reliable no_timer_check noreplace-smp {WITHOUT_CX16}"
        ));
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
            most_vcpus: 4,
            most_memory_mib: 1024,
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
                end: NicEnd::Tap(Arc::new(std::fs::File::open("/dev/null").unwrap().into())),
            }],
            binary: None,
            patience: std::time::Duration::from_secs(30),
        }
    }

    fn joined(accelerator: Accelerator, beginning: Beginning) -> String {
        let spec = spec();
        let descriptors = Descriptors {
            qmp: 10,
            console: 11,
            memory: 20,
            registers: 15,
            devices: vec![12, 13, 14],
        };
        let files = BootFiles {
            kernel: spec.kernel.clone(),
            initramfs: spec.initramfs.clone(),
        };
        let words = line(&spec, accelerator, beginning, &files, &descriptors, "c1");
        let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
        words
            .join("\n")
            .replace("\n-", "\x00-")
            .replace('\n', " ")
            .replace('\x00', "\n")
    }

    const LATER: &str = "maxcpus=2 memmap=724M%0xac00000-1+0xefffffff";

    const REST: &str = "\
-smp 4
-m 1024M
-object memory-backend-file,id=memory,mem-path=/proc/self/fd/20,size=1024M,share=on
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
-device virtio-balloon-pci,free-page-reporting=on
-device pcie-root-port,id=disks0,chassis=2
-device pcie-root-port,id=disks1,chassis=3
-kernel /g/vmlinux
-initrd /g/initramfs.cpio
";

    #[test]
    fn a_network_device_can_speak_to_a_process() {
        let mut spec = spec();
        let NicEnd::Tap(end) = spec.nics[0].end.clone() else {
            panic!("a tap");
        };
        spec.nics[0].end = NicEnd::Stream(end);
        let device = devices(&spec).pop().unwrap();
        assert_eq!(device.behind.option(), "-netdev");
        assert_eq!(
            device.behind.value(&device.id, 14),
            "stream,id=nic0,server=off,addr.type=fd,addr.str=14"
        );
        assert!(device.option().starts_with("virtio-net-pci,netdev=nic0,"));
    }

    #[test]
    fn emulation_tells_the_kernel_its_clock() {
        let expected = format!(
            "-name kata-c1,debug-threads=on
-M microvm,pit=off,pic=off,rtc=on,pcie=on,memory-backend=memory
-bios qboot.rom
-accel tcg,thread=multi,tb-size=256
-cpu max,la57=off
{REST}-append console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests tsc_early_khz=2600000 tsc=reliable no_timer_check \
             noreplace-smp clearcpuid=141 {LATER} pcie_ports=compat loglevel=7 debug"
        );
        assert_eq!(
            joined(Accelerator::Tcg { tsc_khz: 2_600_000 }, Beginning::Boot),
            expected
        );
    }

    #[test]
    fn with_hardware_the_guest_sees_the_host_processor() {
        let expected = format!(
            "-name kata-c1,debug-threads=on
-M microvm,pit=off,pic=off,rtc=on,pcie=on,memory-backend=memory
-bios qboot.rom
-accel kvm
-cpu host
{REST}-append console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests {LATER} pcie_ports=compat loglevel=7 debug"
        );
        assert_eq!(joined(Accelerator::Kvm, Beginning::Boot), expected);
    }

    #[test]
    fn a_template_and_its_copies_differ_in_their_beginning_and_their_devices() {
        let tcg = Accelerator::Tcg { tsc_khz: 2_600_000 };
        let boot = joined(tcg, Beginning::Boot);
        let (freeze, thaw) = (joined(tcg, Beginning::Freeze), joined(tcg, Beginning::Thaw));
        let served = "-device vhost-user-fs-pci,chardev=share0,tag=ka,,ta,bus=served,addr=0.1,multifunction=on
-device vhost-user-vsock-pci,chardev=vsock,bus=served,addr=0.0,multifunction=on
";
        assert_eq!(thaw.replace("-incoming defer\n", ""), freeze.replace(served, ""));
        assert!(freeze.contains(" pcie_ports=compat loglevel=7 debug"), "{freeze}");
        let port = "-device pcie-root-port,id=free,chassis=1,power_controller_present=off\n";
        assert!(boot.contains("-device vhost-user-vsock-pci,chardev=vsock\n") && !boot.contains(port));
        assert!(freeze.contains(port) && freeze.contains(served), "{freeze}");
        assert!(freeze.contains("-chardev socket,id=vsock,fd=12\n") && !freeze.contains("-device virtio-net"));
        assert!(thaw.contains("id=registers,fd=15\n") && !boot.contains("qtest"));
    }

    #[test]
    fn the_function_that_shows_all_others_is_plugged_last() {
        let mut spec = spec();
        let all = devices(&spec);
        let (served, free): (Vec<&Device>, Vec<&Device>) = all.iter().partition(|device| device.is_served());
        let plugged = plugs(&served).unwrap();
        let addresses: Vec<&str> = plugged.iter().map(|plug| plug["addr"].as_str().unwrap()).collect();
        assert_eq!(addresses, ["0.1", "0.0"]);
        assert_eq!(
            (&plugged[1]["chardev"], &plugged[1]["bus"]),
            (&json!("vsock"), &json!("served"))
        );
        assert_eq!(plugged[0]["tag"], "ka,ta", "no option, no escape");
        let plugged = plugs(&free).unwrap();
        assert_eq!(
            (&plugged[0]["netdev"], &plugged[0]["bus"]),
            (&json!("nic0"), &json!("free"))
        );
        spec.shares = vec![spec.shares[0].clone(); 8];
        let all = devices(&spec);
        let served: Vec<&Device> = all.iter().filter(|device| device.is_served()).collect();
        assert_eq!(plugs(&served).unwrap_err().kind(), Kind::Unsupported);
    }
}
