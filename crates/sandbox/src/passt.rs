// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! User-mode networking: passt, a process in the network of whoever started the sandbox, is the other end of the machine's network
//! device. It makes connections of the host out of those of the guest, and brings those that come to published ports.
//!
//! ```text
//! guest 10.0.2.15 ── virtio-net ── QEMU ── socket pair ── passt (nobody, no files, own seccomp filter) ── sockets of the host
//! ```
//!
//! It ends by itself when nobody holds the other end of the socket pair any more: QEMU does, and the monitor. It gives up root, which
//! clears a parent-death signal; the closed socket is what is sure.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use api::agent::{Address, ConfigureNetworkRequest, Interface, Route};
use base::pidfd::Pidfd;
use base::{Context, Result};
use machine::process::{self, Owned};
use machine::tail::Tail;
use machine::{NicEnd, NicSpec};
use serde::{Deserialize, Serialize};

/// The guest's, on every host: what it talks to is behind passt, whatever the host's networks are.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Where its packets go, and where connections from the host's loopback interface seem to come from.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Questions for names that go here are put to the host's first name server.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const PREFIX: u32 = 24;
/// The largest that passt takes; packets cross one socket, no wire.
const MTU: u32 = 65520;
/// Hardware addresses: the device's, which a tap's has never, and that of everything beyond.
const DEVICE: [u8; 6] = [2, b'k', b'a', b't', b'a', 0xff];
const BEYOND: &str = "02:6b:61:74:61:fe";
const EVERYBODY: [u8; 6] = [0xff; 6];
/// As the container calls it.
const NAME: &str = "eth0";

/// What is wanted of the network; travels on the monitor's command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// passt's executable.
    pub program: PathBuf,
    /// Ports of the host that lead to the guest.
    pub ports: Vec<Port>,
    /// The gateway's address reaches what listens on the host's loopback interface.
    pub host_loopback: bool,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Address of the host; none: all.
    pub address: Option<IpAddr>,
    /// Of the host.
    pub host: u16,
    /// Of the guest.
    pub guest: u16,
    /// How.
    pub protocol: Protocol,
}

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// The wire between a machine and passt: a machine may have it before passt is there.
#[derive(Debug)]
pub struct Wire {
    guest: Arc<OwnedFd>,
    host: UnixStream,
}

impl Wire {
    /// With nothing at either end.
    pub fn make() -> Result<Wire> {
        let (guest, host) = pair()?;
        Ok(Wire {
            guest: Arc::new(guest.into()),
            host,
        })
    }

    /// For the machine.
    pub fn nic(&self) -> NicSpec {
        nic(&self.guest)
    }
}

/// The running process. Dropping it ends it.
#[derive(Debug)]
pub struct Passt {
    process: Owned,
    stderr: Tail,
    end: Arc<OwnedFd>,
    ipv6: bool,
}

impl Passt {
    /// Starts it in the network namespace of this thread, at the host's end of `wire`. Must be called inside a tokio runtime.
    pub fn start(wish: &Wish, wire: Wire) -> Result<Passt> {
        let (end, theirs) = (wire.guest, wire.host);
        let (said, stderr) = pair()?;
        let table = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
        let outside = ipv6_interface(&table);
        let mut command = Command::new(&wish.program);
        command
            .args(line(wish, theirs.as_raw_fd(), outside))
            .current_dir("/")
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(OwnedFd::from(stderr));
        log::debug!("start {command:?}");
        let child = process::spawn(&mut command, &[theirs.as_fd()], None);
        let process = Owned::of(child.attempt(|| "start user-mode networking".into())?)?;
        let speaker = end.try_clone().attempt(|| "duplicate a socket".into())?;
        UnixStream::from(speaker)
            .write_all(&introduction())
            .attempt(|| "introduce the guest to passt".into())?;
        Ok(Passt {
            process,
            stderr: Tail::of(said)?,
            end,
            ipv6: outside.is_some(),
        })
    }

    /// For the machine.
    pub fn nic(&self) -> NicSpec {
        nic(&self.end)
    }

    /// What the guest is to be told.
    pub fn request(&self) -> ConfigureNetworkRequest {
        let address = Address {
            ip: GUEST.octets().to_vec(),
            prefix: PREFIX,
            ..Address::default()
        };
        let interface = Interface {
            device: DEVICE.to_vec(),
            name: NAME.to_owned(),
            mac: DEVICE.to_vec(),
            mtu: MTU,
            // Its addresses come as they do on a network: passt advertises the host's prefix.
            ipv6: self.ipv6,
            addresses: vec![address],
            ..Interface::default()
        };
        let route = Route {
            destination: Ipv4Addr::UNSPECIFIED.octets().to_vec(),
            gateway: GATEWAY.octets().to_vec(),
            interface: NAME.to_owned(),
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

    /// Readable when it has ended.
    pub fn process(&self) -> &Pidfd {
        self.process.pidfd()
    }

    /// Why it ended, if it did not just follow its machine.
    pub fn cause(&self) -> Option<String> {
        let ending = process::ending(self.process.pidfd()).filter(|ending| ending != "exited with status 0")?;
        let said = self.stderr.text();
        Some(match last_words(&said) {
            "" => format!("user-mode networking (passt) {ending}"),
            last => format!("user-mode networking (passt) {ending}: {last}"),
        })
    }
}

fn pair() -> Result<(UnixStream, UnixStream)> {
    UnixStream::pair().attempt(|| "create a socket pair".into())
}

fn nic(end: &Arc<OwnedFd>) -> NicSpec {
    NicSpec {
        mac: DEVICE,
        end: NicEnd::Stream(Arc::clone(end)),
    }
}

/// The guest's first packet, which it would send too late: passt learns from it where a connection is to go that comes before the
/// guest has said anything. An ARP question for the gateway, with the length that each packet has before it.
fn introduction() -> Vec<u8> {
    /// ARP over Ethernet: the protocol, Ethernet, IPv4, their lengths of address, a question.
    const QUESTION: [u8; 10] = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    let (guest, gateway) = (GUEST.octets(), GATEWAY.octets());
    let parts = [&EVERYBODY[..], &DEVICE, &QUESTION, &DEVICE, &guest, &[0; 6], &gateway];
    let packet = parts.concat();
    let length = u32::try_from(packet.len()).unwrap_or_default();
    [&length.to_be_bytes()[..], &packet].concat()
}

/// Its last line that is about its work, not about the log that it tries to reach.
fn last_words(said: &str) -> &str {
    let lines = said.lines().map(str::trim).rev();
    let mut about_work = lines.filter(|line| !line.contains("syslog") && !line.starts_with("Don't run as root"));
    about_work.find(|line| !line.is_empty()).unwrap_or_default()
}

/// Arguments of passt. `outside`: the interface of the host that has IPv6.
fn line(wish: &Wish, end: i32, outside: Option<&str>) -> Vec<OsString> {
    let mut words: Vec<String> = ["--foreground", "--stderr", "--quiet", "--fd"]
        .map(str::to_owned)
        .into();
    words.push(end.to_string());
    let mut pair = |option: &str, value: &str| words.extend([option.to_owned(), value.to_owned()]);
    // All of IPv4 is said: nothing is taken from the interface, and the loopback interface will do.
    pair("--interface", outside.unwrap_or("lo"));
    pair("--mac-addr", BEYOND);
    pair("--address", &GUEST.to_string());
    pair("--netmask", &PREFIX.to_string());
    pair("--gateway", &GATEWAY.to_string());
    pair("--mtu", &MTU.to_string());
    pair("--dns-forward", &RESOLVER.to_string());
    for port in &wish.ports {
        let option = match port.protocol {
            Protocol::Tcp => "--tcp-ports",
            Protocol::Udp => "--udp-ports",
        };
        let address = port.address.map(|address| format!("{address}/")).unwrap_or_default();
        pair(option, &format!("{address}{}:{}", port.host, port.guest));
    }
    if outside.is_none() {
        words.push("--ipv4-only".into());
    }
    if !wish.host_loopback {
        words.push("--no-map-gw".into());
    }
    // The guest is told; nobody parses its questions.
    words.extend(["--no-dhcp", "--no-dhcpv6"].map(str::to_owned));
    words.into_iter().map(OsString::from).collect()
}

/// The interface of the first IPv6 default route in the kernel's table (destination, its length, …, flags, interface).
fn ipv6_interface(table: &str) -> Option<&str> {
    const NOWHERE: &str = "00000000000000000000000000000000";
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields[..] {
            [NOWHERE, "00", _, _, gateway, .., interface] if gateway != NOWHERE && interface != "lo" => Some(interface),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_passts_choice() {
        let port = |address: Option<&str>, protocol| Port {
            address: address.map(|text| text.parse().unwrap()),
            host: 8080,
            guest: 80,
            protocol,
        };
        let mut wish = Wish {
            program: "/usr/bin/passt".into(),
            ports: vec![port(Some("127.0.0.1"), Protocol::Tcp), port(None, Protocol::Udp)],
            host_loopback: false,
        };
        let text = |wish: &Wish, outside| {
            let words = line(wish, 7, outside);
            let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
            words.join(" ")
        };
        assert_eq!(
            text(&wish, None),
            "--foreground --stderr --quiet --fd 7 --interface lo --mac-addr 02:6b:61:74:61:fe --address 10.0.2.15 --netmask 24 \
             --gateway 10.0.2.2 --mtu 65520 --dns-forward 10.0.2.3 --tcp-ports 127.0.0.1/8080:80 --udp-ports 8080:80 --ipv4-only \
             --no-map-gw --no-dhcp --no-dhcpv6"
        );
        wish.host_loopback = true;
        let outside = text(&wish, Some("eth7"));
        assert!(outside.contains("--interface eth7 ") && !outside.contains("--ipv4-only"));
        assert!(!outside.contains("--no-map-gw"));
    }

    #[test]
    fn a_host_has_ipv6_when_it_has_a_gateway() {
        let none = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 \
                    ffffffff 00000001 00000000 00200200       lo\n";
        assert_eq!(ipv6_interface(none), None);
        let gateway = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 \
                       00000400 00000002 00000000 00000003     eth0\n";
        assert_eq!(ipv6_interface(&format!("{none}{gateway}")), Some("eth0"));
        assert_eq!(ipv6_interface(""), None);
    }

    #[test]
    fn the_guest_is_introduced_by_a_whole_packet() {
        let sent = introduction();
        let (length, packet) = sent.split_at(4);
        assert_eq!((length, packet.len()), (&[0, 0, 0, 42][..], 42));
        assert_eq!(packet[6..12], DEVICE);
        assert_eq!(packet[28..32], GUEST.octets());
        assert_eq!(packet[38..], GATEWAY.octets());
    }

    #[test]
    fn its_last_words_are_about_its_work() {
        let said = "Don't run as root. Changing to nobody...\nFailed to bind any port for '-t 80', exiting\nFailed to send 67 bytes to syslog\n\n";
        assert_eq!(last_words(said), "Failed to bind any port for '-t 80', exiting");
        assert_eq!(last_words("Failed to send 3 bytes to syslog\n"), "");
    }
}
