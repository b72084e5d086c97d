// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A name server of the engine that cannot be reached from here, because it listens on the loopback interface of another network
//! stack: we listen at its address in its place, and carry questions to the host.
//!
//! On the way a question travels as over TCP: two bytes of length, then the message. It does not look at names.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::port::RESOLVER;
use base::{Context, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_vsock::{VMADDR_CID_HOST, VsockAddr, VsockStream};

use crate::lock::lock;

const PORT: u16 = 53;
/// Questions at a time; further ones are lost, and asked again.
const MOST: usize = 64;
/// After this, whoever asked has given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// A message's header: id, flags, four counts.
const HEADER: usize = 12;
/// An answer by datagram is not longer, unless the question says that it may be.
const SHORT: usize = 512;
/// For questions with an additional record, which is the one that says so: what passes every network whole.
const LONGER: usize = 1232;

/// See the module.
#[derive(Debug, Default)]
pub struct Resolver(Mutex<Option<Serving>>);

#[derive(Debug)]
struct Serving {
    address: IpAddr,
    task: JoinHandle<()>,
}

impl Resolver {
    /// Listens at `address`, and nowhere else from now on.
    pub fn serve(&self, address: Option<IpAddr>) -> Result<()> {
        let mut serving = lock(&self.0);
        if serving.as_ref().map(|serving| serving.address) == address {
            return Ok(());
        }
        if let Some(old) = serving.take() {
            old.task.abort();
        }
        let Some(address) = address else { return Ok(()) };
        let at = SocketAddr::new(address, PORT);
        let what = || format!("listen as name server at {address}");
        let datagrams = datagrams_at(at).attempt(what)?;
        let listener = std::net::TcpListener::bind(at).attempt(what)?;
        listener.set_nonblocking(true).attempt(what)?;
        let listener = TcpListener::from_std(listener).attempt(what)?;
        let task = tokio::spawn(async move {
            // Aborting this ends both.
            let mut both = JoinSet::new();
            both.spawn(answer(Arc::new(datagrams)));
            both.spawn(accept(listener));
            both.join_all().await;
        });
        *serving = Some(Serving { address, task });
        Ok(())
    }
}

/// A socket that a name server of a container may have its own beside, on all addresses.
fn datagrams_at(at: SocketAddr) -> std::io::Result<UdpSocket> {
    use std::os::fd::AsRawFd;
    let family = if at.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Datagram, flags, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    UdpSocket::from_std(std::net::UdpSocket::from(socket))
}

async fn answer(socket: Arc<UdpSocket>) {
    let places = Arc::new(Semaphore::new(MOST));
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let (socket, question) = (Arc::clone(&socket), buffer[..length].to_vec());
        tokio::spawn(async move {
            match timeout(PATIENCE, ask(&question)).await {
                Ok(Ok(answer)) => drop(socket.send_to(&fitting(&question, &answer), from).await),
                Ok(Err(e)) => log::debug!("ask the host's name server: {e}"),
                Err(_) => {}
            }
            drop(place);
        });
    }
}

async fn dial() -> std::io::Result<VsockStream> {
    VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, RESOLVER)).await
}

async fn ask(question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut host = dial().await?;
    let length = u16::try_from(question.len()).map_err(std::io::Error::other)?;
    host.write_all(&[&length.to_be_bytes()[..], question].concat()).await?;
    let mut answer = vec![0; usize::from(host.read_u16().await?)];
    host.read_exact(&mut answer).await?;
    Ok(answer)
}

async fn accept(listener: TcpListener) {
    let places = Arc::new(Semaphore::new(MOST));
    while let (Ok(place), Ok((mut asker, _))) = (Arc::clone(&places).acquire_owned().await, listener.accept().await) {
        tokio::spawn(async move {
            let carried = timeout(PATIENCE, async {
                copy_bidirectional(&mut asker, &mut dial().await?).await
            });
            if let Ok(Err(e)) = carried.await {
                log::debug!("carry a connection to the host's name server: {e}");
            }
            drop(place);
        });
    }
}

/// What of `answer` may go into one datagram: all of it, or its header with the mark (TC) that tells to ask again over TCP.
fn fitting(question: &[u8], answer: &[u8]) -> Vec<u8> {
    let additional = question.get(10..HEADER).is_some_and(|count| count != [0, 0]);
    let most = if additional { LONGER } else { SHORT };
    let (true, Some(head)) = (answer.len() > most, answer.get(..HEADER)) else {
        return answer.to_vec();
    };
    let mut cut = head.to_vec();
    cut[2] |= 0x02;
    let asked = asked(question).unwrap_or_default();
    cut[4..].fill(0);
    cut[5] = u8::from(!asked.is_empty());
    cut.extend_from_slice(asked);
    cut
}

/// The first question of a message: labels, type, class.
fn asked(message: &[u8]) -> Option<&[u8]> {
    let mut end = HEADER;
    while let Some(length @ 1..=63) = message.get(end) {
        end += 1 + usize::from(*length);
    }
    // The root's empty label, then two numbers.
    message.get(HEADER..end + 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(additional: u8) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, additional];
        message.extend_from_slice(b"\x03web\x05local\0\0\x01\0\x01");
        message
    }

    fn response(length: usize) -> Vec<u8> {
        let mut message = question(0);
        message[2] |= 0x80;
        message[7] = 40;
        message.resize(length, 7);
        message
    }

    #[test]
    fn a_long_answer_is_asked_for_again_over_tcp() {
        for (additional, length, whole) in [(0, 512, true), (0, 513, false), (1, 1232, true), (1, 1233, false)] {
            let (question, answer) = (question(additional), response(length));
            let sent = fitting(&question, &answer);
            assert_eq!(sent == answer, whole, "{length}");
            if !whole {
                assert_eq!(sent[..2], question[..2], "same id");
                assert_eq!((sent[2], sent[5], sent[7]), (0x83, 1, 0));
                assert_eq!(sent[HEADER..], question[HEADER..]);
            }
        }
    }

    #[test]
    fn nonsense_is_cut_off_safely() {
        assert_eq!(asked(&[0; HEADER]), None);
        assert_eq!(asked(&[]), None);
        let mut endless = question(0);
        endless[HEADER] = 63;
        assert_eq!(asked(&endless), None);
        assert_eq!(fitting(&[], &response(600)).len(), HEADER);
        assert_eq!(fitting(&question(0), &[1, 2]), [1, 2]);
    }
}
