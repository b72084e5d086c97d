// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `--publish`: which ports of the host lead to which of the container, in docker's and podman's words.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use base::{Error, Kind, Result};
use sandbox::passt::{Port, Protocol};

/// Ports that a range may have.
const MOST: usize = 1024;

/// `[[ADDRESS:]HOST:]PORT[/tcp|udp]`; HOST and PORT may be ranges of the same length, and a HOST that is not said is a free one.
pub fn parse(text: &str) -> Result<Vec<Port>> {
    let invalid = |why: &str| {
        let what = format!("published port {text:?} is not [[ADDRESS:]HOSTPORT:]PORT[/tcp|udp]");
        Error::new(Kind::Invalid, what).because(why)
    };
    let (ports, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some((_, other)) => return Err(invalid(&format!("there is no protocol {other:?}"))),
    };
    let (rest, guest) = match ports.rsplit_once(':') {
        Some((rest, guest)) => (rest, guest),
        None => ("", ports),
    };
    let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    let address = Some(address).filter(|address| !address.is_empty()).map(|address| {
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let parsed = bare.unwrap_or(address).parse::<IpAddr>();
        parsed.map_err(|_| invalid(&format!("{address:?} is no address")))
    });
    let address = address.transpose()?;
    let guest = range(guest).ok_or_else(|| invalid(&format!("{guest:?} is no port")))?;
    let host = match host {
        "" => vec![0; guest.len()],
        host => range(host).ok_or_else(|| invalid(&format!("{host:?} is no port")))?,
    };
    if host.len() != guest.len() {
        return Err(invalid("the ranges have not the same length"));
    }
    let ports = host.into_iter().zip(guest).map(|(host, guest)| Port {
        address,
        host,
        guest,
        protocol,
    });
    Ok(ports.collect())
}

/// `N` or `N-M`.
fn range(text: &str) -> Option<Vec<u16>> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    let range: Vec<u16> = (first..=last).take(MOST + 1).collect();
    (1..=MOST).contains(&range.len()).then_some(range)
}

/// Sees that the host's ports are free, and finds some for those that are not said. Errors: which one is not.
pub fn claim(ports: &mut [Port]) -> Result<()> {
    // All are held until the last one was looked at: none is given out twice.
    let mut held = Vec::new();
    for port in ports {
        let found = hold(port).map_err(|e| {
            let what = format!("publish port {}", host(port));
            let (kind, why) = match e.kind() {
                io::ErrorKind::AddrInUse => (
                    Kind::Exists,
                    "something on this host has it; choose another port".into(),
                ),
                io::ErrorKind::AddrNotAvailable => (Kind::Invalid, "this host has no such address".into()),
                io::ErrorKind::PermissionDenied => (Kind::Denied, "ports below 1024 need CAP_NET_BIND_SERVICE".into()),
                _ => (Kind::Io, e.to_string()),
            };
            Error::new(kind, what).because(why)
        })?;
        port.host = found.number()?;
        held.push(found);
    }
    Ok(())
}

enum Held {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Held {
    fn number(&self) -> Result<u16> {
        let address = match self {
            Held::Tcp(socket) => socket.local_addr(),
            Held::Udp(socket) => socket.local_addr(),
        };
        let address = address.map_err(|e| Error::new(Kind::Io, "look at a port").because(e));
        address.map(|address| address.port())
    }
}

fn hold(port: &Port) -> io::Result<Held> {
    let bind = |address: IpAddr| {
        let address = SocketAddr::new(address, port.host);
        match port.protocol {
            Protocol::Tcp => TcpListener::bind(address).map(Held::Tcp),
            Protocol::Udp => UdpSocket::bind(address).map(Held::Udp),
        }
    };
    match port.address {
        Some(address) => bind(address),
        // Of both kinds at once, where the host has IPv6.
        None => bind(Ipv6Addr::UNSPECIFIED.into()).or_else(|e| match e.kind() {
            io::ErrorKind::AddrInUse => Err(e),
            _ => bind(Ipv4Addr::UNSPECIFIED.into()),
        }),
    }
}

fn address(port: &Port) -> String {
    match port.address {
        Some(IpAddr::V6(address)) => format!("[{address}]"),
        Some(IpAddr::V4(address)) => address.to_string(),
        None => "0.0.0.0".into(),
    }
}

fn host(port: &Port) -> String {
    format!("{}:{}/{}", address(port), port.host, word(port.protocol))
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// For a table: `0.0.0.0:8080->80/tcp`, neighbours as a range.
pub fn list(ports: &[Port]) -> String {
    let mut runs: Vec<(&Port, &Port)> = Vec::new();
    for port in ports {
        match runs.last_mut() {
            Some((_, last)) if follows(last, port) => *last = port,
            _ => runs.push((port, port)),
        }
    }
    let span = |from: u16, to: u16| {
        if from == to {
            from.to_string()
        } else {
            format!("{from}-{to}")
        }
    };
    let told = runs.iter().map(|(first, last)| {
        let (host, guest) = (span(first.host, last.host), span(first.guest, last.guest));
        format!("{}:{host}->{guest}/{}", address(first), word(first.protocol))
    });
    told.collect::<Vec<_>>().join(", ")
}

fn follows(last: &Port, port: &Port) -> bool {
    (last.address, last.protocol) == (port.address, port.protocol)
        && last.host.checked_add(1) == Some(port.host)
        && last.guest.checked_add(1) == Some(port.guest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(text: &str) -> String {
        list(&parse(text).unwrap())
    }

    #[test]
    fn words_of_docker_and_podman_are_understood() {
        for (text, want) in [
            ("8080:80", "0.0.0.0:8080->80/tcp"),
            ("127.0.0.1:8080:80/tcp", "127.0.0.1:8080->80/tcp"),
            ("[::1]:53:5353/udp", "[::1]:53->5353/udp"),
            ("8000-8002:80-82", "0.0.0.0:8000-8002->80-82/tcp"),
            ("80", "0.0.0.0:0->80/tcp"),
            ("127.0.0.1::80", "127.0.0.1:0->80/tcp"),
            ("[::1]::80", "[::1]:0->80/tcp"),
        ] {
            assert_eq!(listed(text), want, "{text}");
        }
        for bad in [
            "",
            "x",
            "0",
            "80:x",
            "70000:80",
            "1.2.3:80:80",
            "80:80/sctp",
            "8000-8002:80",
            "9-8:9-8",
            "a:b:80:80",
            "1-65535",
        ] {
            let chain = parse(bad).unwrap_err().chain();
            assert!(chain.starts_with(&format!("published port {bad:?} is not ")), "{chain}");
        }
    }

    #[test]
    fn neighbours_are_told_as_one() {
        let mut ports = parse("8000-8001:80-81").unwrap();
        ports.extend(parse("8002:82/udp").unwrap());
        ports.extend(parse("9000:1").unwrap());
        assert_eq!(
            list(&ports),
            "0.0.0.0:8000-8001->80-81/tcp, 0.0.0.0:8002->82/udp, 0.0.0.0:9000->1/tcp"
        );
        assert_eq!(list(&[]), "");
    }

    #[test]
    fn a_port_that_is_taken_is_named_and_one_that_is_not_said_is_found() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = taken.local_addr().unwrap().port();
        let mut wanted = parse(&format!("127.0.0.1:{number}:80")).unwrap();
        let chain = claim(&mut wanted).unwrap_err().chain();
        let want = format!("publish port 127.0.0.1:{number}/tcp: something on this host has it");
        assert!(chain.starts_with(&want), "{chain}");
        let mut free = parse("127.0.0.1::80-81/udp").unwrap();
        claim(&mut free).unwrap();
        assert!(free[0].host != 0 && free[1].host != 0 && free[0].host != free[1].host);
        let twice = format!("127.0.0.1:{}:80/udp", free[0].host);
        let mut twice = [parse(&twice).unwrap(), parse(&twice).unwrap()].concat();
        assert_eq!(claim(&mut twice).unwrap_err().kind(), Kind::Exists);
        let chain = claim(&mut parse("203.0.113.7:1:1").unwrap()).unwrap_err().chain();
        assert!(chain.contains("this host has no such address"), "{chain}");
    }
}
