// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Services of containers on the loopback interface, for the host: it names a port, we connect and carry.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_vsock::VsockListener;

/// Connections at a time; further ones wait.
const MOST: usize = 256;
/// How long the host may take to name a port.
const PATIENCE: Duration = Duration::from_secs(10);

/// For ever.
pub async fn serve(listener: VsockListener) {
    let places = Arc::new(Semaphore::new(MOST));
    while let (Ok(place), Ok((host, _))) = (Arc::clone(&places).acquire_owned().await, listener.accept().await) {
        tokio::spawn(async move {
            if let Err(e) = carry(host).await {
                log::debug!("a connection to a service: {e}");
            }
            drop(place);
        });
    }
}

async fn carry(mut host: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let port = timeout(PATIENCE, host.read_u16()).await??;
    let mut service = connect(port).await?;
    host.write_u8(0).await?;
    copy_bidirectional(&mut host, &mut service).await.map(drop)
}

/// As programs do that are told "localhost".
async fn connect(port: u16) -> io::Result<TcpStream> {
    match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        Ok(service) => Ok(service),
        Err(refused) => TcpStream::connect((Ipv6Addr::LOCALHOST, port))
            .await
            .map_err(|_| refused),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_service_is_reached_by_its_port_both_directions_to_their_end() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address).await else {
                println!("not tried: {address}");
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let (mut host, end) = tokio::io::duplex(64);
            let carried = tokio::spawn(carry(end));
            host.write_u16(port).await.unwrap();
            let (mut service, _) = listener.accept().await.unwrap();
            assert_eq!(host.read_u8().await.unwrap(), 0);
            host.write_all(b"ask").await.unwrap();
            host.shutdown().await.unwrap();
            let mut asked = Vec::new();
            service.read_to_end(&mut asked).await.unwrap();
            service.write_all(b"told").await.unwrap();
            drop(service);
            let mut told = Vec::new();
            host.read_to_end(&mut told).await.unwrap();
            assert_eq!((&asked[..], &told[..]), (&b"ask"[..], &b"told"[..]));
            carried.await.unwrap().unwrap();
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_port_where_nobody_listens_is_closed_without_an_answer() {
        let free = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let (mut host, end) = tokio::io::duplex(64);
        host.write_u16(free).await.unwrap();
        carry(end).await.unwrap_err();
        assert_eq!(host.read(&mut [0]).await.unwrap(), 0);
    }
}
