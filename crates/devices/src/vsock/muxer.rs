// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! All connections of one guest, over one nested epoll descriptor.
//!
//! Bounds: [`CONNECTIONS`] connections, [`ASKING`] host programs that have not said which port they want, and as many control
//! packets in line as connections could have caused; past that, resets are dropped (the guest floods itself).

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;

use super::Dial;
use super::connection::{BUFFER, Connection, Fate, Phase};
use super::packet::{
    HOST, Header, MAX_PAYLOAD, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_RST, OP_RW,
    OP_SHUTDOWN, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM,
};

/// Connections that may be open.
const CONNECTIONS: usize = 1024;
/// Host programs that may be about to send their CONNECT line.
const ASKING: usize = 256;
/// Control packets that may wait for the guest's buffers.
const CONTROL: usize = 4096;
/// Longest line `CONNECT <port>`.
const MAX_LINE: usize = 32;
/// A guest whose driver has been asked for a connection answers by then, or never will.
const ANSWER: Duration = Duration::from_secs(30);
/// How often that is looked at while an answer is awaited.
const TICK: Duration = Duration::from_secs(5);
/// Ports of the host's side start here.
const FIRST_PORT: u32 = 1 << 30;

/// Host port, guest port.
type Key = (u32, u32);

#[derive(Debug)]
struct Asking {
    stream: UnixStream,
    line: Vec<u8>,
}

/// See the module.
pub struct Muxer {
    cid: u64,
    listener: UnixListener,
    dial: Dial,
    epoll: Epoll,
    timer: TimerFd,
    asking: HashMap<RawFd, Asking>,
    connections: HashMap<Key, Connection>,
    keys: HashMap<RawFd, Key>,
    control: VecDeque<(Key, u16, u32)>,
    readable: VecDeque<Key>,
    queued: HashSet<Key>,
    next_port: u32,
    payload: Vec<u8>,
}

impl std::fmt::Debug for Muxer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Muxer")
            .field("cid", &self.cid)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl AsRawFd for Muxer {
    /// Readable when a host program wants something.
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

impl Muxer {
    /// See [`super::Vsock::new`].
    pub fn new(cid: u32, listener: UnixListener, dial: Dial) -> io::Result<Muxer> {
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new()?;
        let timer = TimerFd::new()?;
        watch(&epoll, ControlOperation::Add, listener.as_raw_fd(), EventSet::IN)?;
        watch(&epoll, ControlOperation::Add, timer.as_raw_fd(), EventSet::IN)?;
        Ok(Muxer {
            cid: u64::from(cid),
            listener,
            dial,
            epoll,
            timer,
            asking: HashMap::new(),
            connections: HashMap::new(),
            keys: HashMap::new(),
            control: VecDeque::new(),
            readable: VecDeque::new(),
            queued: HashSet::new(),
            next_port: FIRST_PORT,
            payload: vec![0; MAX_PAYLOAD],
        })
    }

    /// Something waits for the guest's buffers.
    pub fn has_packets(&self) -> bool {
        !self.control.is_empty() || !self.readable.is_empty()
    }

    /// Where the payload of the packet that comes next in [`Muxer::packet`] is to be put. `len` is at most [`MAX_PAYLOAD`].
    pub fn scratch(&mut self, len: usize) -> &mut [u8] {
        &mut self.payload[..len]
    }

    /// The driver has started anew: nobody in the guest knows of our connections. Those that it has not heard of yet go on waiting.
    pub fn reset(&mut self) {
        let known = |connection: &Connection| connection.phase == Phase::Up || connection.asked.is_some();
        let known: Vec<Key> = self
            .connections
            .iter()
            .filter(|(_, c)| known(c))
            .map(|(key, _)| *key)
            .collect();
        for key in known {
            self.forget(key);
        }
        let connections = &self.connections;
        self.control
            .retain(|(key, op, _)| *op == OP_REQUEST && connections.contains_key(key));
        self.readable.clear();
        self.queued.clear();
    }

    /// A packet that makes no sense.
    pub fn refuse(&mut self, header: &Header) {
        let key = (header.dst_port, header.src_port);
        if self.connections.contains_key(&key) {
            self.forget(key);
        }
        if header.op != OP_RST {
            let _ = self.say(key, OP_RST, 0);
        }
    }

    /// Handles a packet of the guest; its payload stands in [`Muxer::scratch`].
    pub fn packet(&mut self, header: &Header) {
        let key = (header.dst_port, header.src_port);
        if header.kind != TYPE_STREAM || header.dst_cid != HOST || header.src_cid != self.cid {
            return self.refuse(header);
        }
        if header.op == OP_REQUEST {
            return self.guest_connects(key, header);
        }
        let Some(connection) = self.connections.get_mut(&key) else {
            return self.refuse(header);
        };
        connection.credit(header);
        let fate = match header.op {
            OP_RESPONSE if connection.phase == Phase::Asked => {
                connection.phase = Phase::Up;
                let answer = format!("OK {}\n", key.0);
                let said = connection.stream.write_all(answer.as_bytes());
                if said.is_ok() { Fate::Lives } else { Fate::Over }
            }
            OP_RW if connection.phase == Phase::Up => {
                let len = usize::try_from(header.len).unwrap_or(0).min(self.payload.len());
                connection.write(&self.payload[..len])
            }
            OP_SHUTDOWN => connection.shutdown(header.flags),
            OP_CREDIT_UPDATE => Fate::Lives,
            OP_CREDIT_REQUEST => {
                let _ = self.say(key, OP_CREDIT_UPDATE, 0);
                Fate::Lives
            }
            OP_RST => {
                self.forget(key);
                return;
            }
            _ => Fate::Over,
        };
        self.settle(key, fate);
    }

    fn guest_connects(&mut self, key: Key, header: &Header) {
        if self.connections.contains_key(&key) || self.connections.len() >= CONNECTIONS {
            return self.refuse(header);
        }
        let stream = (self.dial)(key.0).and_then(|stream| stream.set_nonblocking(true).map(|()| stream));
        let Ok(stream) = stream else { return self.refuse(header) };
        let mut connection = Connection::new(stream, Phase::Up);
        connection.credit(header);
        if self.admit(key, connection).is_err() {
            return self.refuse(header);
        }
        if self.say(key, OP_RESPONSE, 0) {
            self.settle(key, Fate::Lives);
        } else {
            self.forget(key);
        }
    }

    /// Host programs have connected, written, read or gone.
    pub fn host_events(&mut self) {
        let mut events = [EpollEvent::default(); 64];
        let count = self.epoll.wait(0, &mut events).unwrap_or(0);
        for event in &events[..count] {
            let fd = RawFd::try_from(event.data()).unwrap_or(-1);
            if fd == self.listener.as_raw_fd() {
                self.accept();
            } else if fd == self.timer.as_raw_fd() {
                self.tick();
            } else if self.asking.contains_key(&fd) {
                self.hear(fd);
            } else if let Some(key) = self.keys.get(&fd).copied() {
                self.host_event(key, event.event_set());
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let fd = stream.as_raw_fd();
            let room = self.asking.len() < ASKING && stream.set_nonblocking(true).is_ok();
            if room && watch(&self.epoll, ControlOperation::Add, fd, EventSet::IN).is_ok() {
                self.asking.insert(
                    fd,
                    Asking {
                        stream,
                        line: Vec::new(),
                    },
                );
            }
        }
    }

    /// Reads the CONNECT line, byte by byte: what follows belongs to the guest.
    fn hear(&mut self, fd: RawFd) {
        let Some(asking) = self.asking.get_mut(&fd) else { return };
        let mut byte = [0];
        let complete = loop {
            match asking.stream.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => break true,
                Ok(1) if asking.line.len() < MAX_LINE => asking.line.push(byte[0]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                _ => break false,
            }
        };
        let _ = watch(&self.epoll, ControlOperation::Delete, fd, EventSet::empty());
        let Some(asking) = self.asking.remove(&fd) else { return };
        let port = if complete { wanted_port(&asking.line) } else { None };
        let (Some(port), true) = (port, self.connections.len() < CONNECTIONS) else {
            return;
        };
        let key = (self.free_port(port), port);
        if self.admit(key, Connection::new(asking.stream, Phase::Asked)).is_ok() && !self.say(key, OP_REQUEST, 0) {
            self.forget(key);
        }
    }

    /// Sends host programs away whose question the guest has not answered.
    fn tick(&mut self) {
        let _ = self.timer.wait();
        let late = |c: &Connection| c.phase == Phase::Asked && c.asked.is_some_and(|asked| asked.elapsed() >= ANSWER);
        let late: Vec<Key> = self
            .connections
            .iter()
            .filter(|(_, c)| late(c))
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            self.settle(key, Fate::Over);
        }
        if !self
            .connections
            .values()
            .any(|c| c.phase == Phase::Asked && c.asked.is_some())
        {
            let _ = self.timer.clear();
        }
    }

    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            self.next_port = self.next_port.wrapping_add(1).max(FIRST_PORT);
            if !self.connections.contains_key(&(self.next_port, guest)) {
                return self.next_port;
            }
        }
    }

    fn admit(&mut self, key: Key, connection: Connection) -> io::Result<()> {
        let fd = connection.stream.as_raw_fd();
        // Edges only: a socket that hung up while the guest has no credit must not keep the thread busy.
        let events = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        watch(&self.epoll, ControlOperation::Add, fd, events)?;
        self.keys.insert(fd, key);
        self.connections.insert(key, connection);
        Ok(())
    }

    fn host_event(&mut self, key: Key, events: EventSet) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        connection.gone |= events.intersects(EventSet::ERROR | EventSet::HANG_UP);
        connection.ready |= connection.gone || events.contains(EventSet::IN);
        let fate = if connection.gone && connection.phase == Phase::Asked {
            Fate::Over
        } else if events.contains(EventSet::OUT) {
            connection.flush()
        } else {
            Fate::Lives
        };
        self.settle(key, fate);
    }

    /// After any step: ends the connection, or puts it into the line for the guest's buffers and owes the guest credit.
    fn settle(&mut self, key: Key, fate: Fate) {
        if fate == Fate::Over {
            self.forget(key);
            let _ = self.say(key, OP_RST, 0);
            return;
        }
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        if connection.readable() && self.queued.insert(key) {
            self.readable.push_back(key);
        }
        if connection.owes_credit() && self.control.len() < CONTROL {
            connection.tell();
            let _ = self.say(key, OP_CREDIT_UPDATE, 0);
        }
    }

    fn forget(&mut self, key: Key) {
        if let Some(connection) = self.connections.remove(&key) {
            let fd = connection.stream.as_raw_fd();
            let _ = watch(&self.epoll, ControlOperation::Delete, fd, EventSet::empty());
            self.keys.remove(&fd);
        }
    }

    /// False when too many packets wait. A guest that takes none cannot keep host programs from asking.
    fn say(&mut self, key: Key, op: u16, flags: u32) -> bool {
        let most = if op == OP_REQUEST { 2 * CONTROL } else { CONTROL };
        let room = self.control.len() < most;
        if room {
            self.control.push_back((key, op, flags));
        }
        room
    }

    /// A data packet waits, and no other.
    pub fn wants_room(&self) -> bool {
        self.control.is_empty() && !self.readable.is_empty()
    }

    /// The next packet for the guest, with at most `room` bytes of payload.
    pub fn next_packet(&mut self, room: usize) -> Option<(Header, &[u8])> {
        if let Some((key, op, flags)) = self.control.pop_front() {
            if op == OP_REQUEST
                && let Some(connection) = self.connections.get_mut(&key)
            {
                connection.asked = Some(Instant::now());
                let _ = self.timer.reset(TICK, Some(TICK));
            }
            return Some((self.header(key, op, flags, 0), &[]));
        }
        while let Some(key) = self.readable.pop_front() {
            self.queued.remove(&key);
            let Some(connection) = self.connections.get_mut(&key) else {
                continue;
            };
            if !connection.readable() {
                continue;
            }
            let room = room.min(self.payload.len());
            match connection.read(&mut self.payload[..room]) {
                Ok(None) => {}
                Ok(Some(0)) => {
                    let flags = if connection.gone {
                        SHUTDOWN_SEND | SHUTDOWN_RECEIVE
                    } else {
                        SHUTDOWN_SEND
                    };
                    let fate = connection.flush();
                    let op = if fate == Fate::Over { OP_RST } else { OP_SHUTDOWN };
                    let header = self.header(key, op, if op == OP_RST { 0 } else { flags }, 0);
                    if fate == Fate::Over {
                        self.forget(key);
                    }
                    return Some((header, &[]));
                }
                Ok(Some(n)) => {
                    self.settle(key, Fate::Lives);
                    let header = self.header(key, OP_RW, 0, n);
                    return Some((header, &self.payload[..n]));
                }
                Err(_) => {
                    self.forget(key);
                    return Some((self.header(key, OP_RST, 0, 0), &[]));
                }
            }
        }
        None
    }

    fn header(&mut self, key: Key, op: u16, flags: u32, len: usize) -> Header {
        Header {
            src_cid: HOST,
            dst_cid: self.cid,
            src_port: key.0,
            dst_port: key.1,
            len: u32::try_from(len).unwrap_or(0),
            kind: TYPE_STREAM,
            op,
            flags,
            buf_alloc: BUFFER,
            fwd_cnt: self.connections.get_mut(&key).map_or(0, Connection::tell),
        }
    }
}

/// `CONNECT <port>`, any case.
fn wanted_port(line: &[u8]) -> Option<u32> {
    let line = std::str::from_utf8(line).ok()?;
    let (verb, port) = line.trim_end_matches('\r').split_once(' ')?;
    verb.eq_ignore_ascii_case("connect").then(|| port.trim().parse().ok())?
}

fn watch(epoll: &Epoll, operation: ControlOperation, fd: RawFd, events: EventSet) -> io::Result<()> {
    epoll.ctl(operation, fd, EpollEvent::new(events, u64::from(fd.cast_unsigned())))
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;
    use std::path::Path;

    use super::*;

    /// A guest that does what it should, by hand.
    struct Guest {
        muxer: Muxer,
        taken: u32,
        room: u32,
    }

    impl Guest {
        fn new(dir: &Path) -> Guest {
            let listener = UnixListener::bind(dir.join("v.sock")).unwrap();
            let dir = dir.to_owned();
            let dial = move |port| UnixStream::connect(dir.join(format!("v.sock_{port}")));
            Guest {
                muxer: Muxer::new(3, listener, Box::new(dial)).unwrap(),
                taken: 0,
                room: 1 << 20,
            }
        }

        fn send(&mut self, key: Key, op: u16, flags: u32, payload: &[u8]) {
            self.muxer.scratch(payload.len()).copy_from_slice(payload);
            self.muxer.packet(&Header {
                src_cid: 3,
                dst_cid: HOST,
                src_port: key.1,
                dst_port: key.0,
                len: u32::try_from(payload.len()).unwrap(),
                kind: TYPE_STREAM,
                op,
                flags,
                buf_alloc: self.room,
                fwd_cnt: self.taken,
            });
        }

        fn next(&mut self) -> Option<(Header, Vec<u8>)> {
            self.muxer.host_events();
            let (header, payload) = self.muxer.next_packet(4096)?;
            let payload = payload.to_vec();
            if header.op == OP_RW {
                self.taken = self.taken.wrapping_add(header.len);
            }
            Some((header, payload))
        }

        /// A host program asks for port 7, and the guest agrees.
        fn connected(&mut self, dir: &Path) -> (UnixStream, Key) {
            let mut host = UnixStream::connect(dir.join("v.sock")).unwrap();
            host.write_all(b"connect 7\n").unwrap();
            self.muxer.host_events();
            let (header, _) = self.next().unwrap();
            assert_eq!((header.op, header.dst_port), (OP_REQUEST, 7));
            let key = (header.src_port, 7);
            self.send(key, OP_RESPONSE, 0, b"");
            let mut line = [0; 14];
            host.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"OK 1073741825\n");
            (host, key)
        }
    }

    #[test]
    fn a_stream_ends_one_direction_at_a_time_and_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut guest = Guest::new(dir.path());
        let (mut host, key) = guest.connected(dir.path());
        let sent: Vec<u8> = (0..200_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let feeder = {
            let (mut host, sent) = (host.try_clone().unwrap(), sent.clone());
            std::thread::spawn(move || {
                host.write_all(&sent).unwrap();
                host.shutdown(Shutdown::Write).unwrap();
            })
        };
        let mut got = Vec::new();
        loop {
            match guest.next() {
                Some((header, payload)) if header.op == OP_RW => got.extend(payload),
                Some((header, _)) if header.op == OP_SHUTDOWN => {
                    assert_eq!(header.flags, SHUTDOWN_SEND);
                    break;
                }
                Some((header, _)) => panic!("{header:?}"),
                None => guest.send(key, OP_CREDIT_UPDATE, 0, b""),
            }
        }
        feeder.join().unwrap();
        assert_eq!(got, sent);
        guest.send(key, OP_RW, 0, b"answer");
        guest.send(key, OP_SHUTDOWN, SHUTDOWN_SEND, b"");
        let mut answer = String::new();
        host.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
        assert_eq!(guest.next().unwrap().0.op, OP_RST);
        assert!(guest.muxer.connections.is_empty() && guest.muxer.keys.is_empty());
    }

    #[test]
    fn without_credit_nothing_is_sent_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let mut guest = Guest::new(dir.path());
        guest.room = 10;
        let (mut host, key) = guest.connected(dir.path());
        host.write_all(b"0123456789abcdef").unwrap();
        drop(host);
        let (header, payload) = guest.next().unwrap();
        assert_eq!((header.op, payload.as_slice()), (OP_RW, &b"0123456789"[..]));
        guest.taken = 0;
        assert!(
            guest.next().is_none(),
            "no credit, no bytes, though the program is gone"
        );
        guest.taken = 10;
        guest.send(key, OP_CREDIT_UPDATE, 0, b"");
        assert_eq!(guest.next().unwrap().1, b"abcdef");
        let (header, _) = guest.next().unwrap();
        assert_eq!(
            (header.op, header.flags),
            (OP_SHUTDOWN, SHUTDOWN_SEND | SHUTDOWN_RECEIVE)
        );
    }

    #[test]
    fn a_slow_host_program_bounds_what_waits() {
        let dir = tempfile::tempdir().unwrap();
        let mut guest = Guest::new(dir.path());
        let (_host, key) = guest.connected(dir.path());
        let block = vec![b'x'; MAX_PAYLOAD];
        let mut packets = 0;
        while guest.muxer.connections.contains_key(&key) {
            guest.send(key, OP_RW, 0, &block);
            packets += 1;
            assert!(packets < 100, "a guest that ignores its credit is cut off");
        }
        let told: Vec<u16> = std::iter::from_fn(|| guest.next())
            .map(|(header, _)| header.op)
            .collect();
        assert_eq!(told.last(), Some(&OP_RST), "{told:?}");
    }

    #[test]
    fn the_guest_reaches_listeners_of_the_host_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let mut guest = Guest::new(dir.path());
        let listener = UnixListener::bind(dir.path().join("v.sock_1024")).unwrap();
        guest.send((1024, 50), OP_REQUEST, 0, b"");
        assert_eq!(guest.next().unwrap().0.op, OP_RESPONSE);
        let (mut host, _) = listener.accept().unwrap();
        guest.send((1024, 50), OP_RW, 0, b"knock");
        let mut knock = [0; 5];
        host.read_exact(&mut knock).unwrap();
        assert_eq!(&knock, b"knock");
        guest.send((1025, 51), OP_REQUEST, 0, b"");
        assert_eq!(guest.next().unwrap().0.op, OP_RST);
    }

    #[test]
    fn packets_of_strangers_and_of_no_connection_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut guest = Guest::new(dir.path());
        let stranger = Header {
            src_cid: 4,
            dst_cid: HOST,
            kind: TYPE_STREAM,
            op: OP_REQUEST,
            ..Header::default()
        };
        guest.muxer.packet(&stranger);
        assert_eq!(guest.next().unwrap().0.op, OP_RST);
        for op in [OP_RESPONSE, OP_RW, OP_SHUTDOWN, OP_CREDIT_REQUEST, 99] {
            guest.send((1, 2), op, 0, b"");
            assert_eq!(guest.next().unwrap().0.op, OP_RST, "op {op}");
        }
        guest.send((1, 2), OP_RST, 0, b"");
        assert!(guest.next().is_none(), "a reset is not answered");
    }

    #[test]
    fn lines_are_bounded_and_checked() {
        assert_eq!(wanted_port(b"CONNECT 1024"), Some(1024));
        assert_eq!(wanted_port(b"connect 0\r"), Some(0));
        for bad in [
            &b"CONNECT"[..],
            b"CONNECT x",
            b"HELLO 1",
            b"CONNECT 4294967296",
            b"\xff 1",
        ] {
            assert_eq!(wanted_port(bad), None);
        }
        let dir = tempfile::tempdir().unwrap();
        let mut guest = Guest::new(dir.path());
        let mut host = UnixStream::connect(dir.path().join("v.sock")).unwrap();
        host.write_all(&[b'x'; 100]).unwrap();
        guest.muxer.host_events();
        guest.muxer.host_events();
        let mut rest = Vec::new();
        assert!(
            host.read_to_end(&mut rest).map_or(true, |n| n == 0),
            "the program is sent away"
        );
    }
}
