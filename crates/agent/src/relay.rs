// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Bytes between a connection to the host and our end of a stream, in both directions end of file included. It does not know whose
//! stream it is.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::unix::pipe;

use crate::stdio::End;
use crate::sys;

/// Bytes that are moved at once, at first: most streams carry little, and an emulated guest pays for the memory.
const LITTLE: usize = 4 << 10;
/// And once so many come.
const PIECE: usize = 64 << 10;
/// Of what is typed.
const TYPED: usize = 4 << 10;

/// Carries until the stream has ended. Whatever happens, both ends are closed then.
pub async fn relay(connection: impl AsyncRead + AsyncWrite + Unpin, end: End) -> io::Result<()> {
    match end {
        End::Input(pipe) => input(connection, pipe).await,
        End::Output(pipe) => output(connection, pipe).await,
        End::Terminal(master) => terminal(connection, master).await,
    }
}

/// Ends when the host ends its input, or nobody reads it.
async fn input(mut connection: impl AsyncRead + Unpin, pipe: OwnedFd) -> io::Result<()> {
    let mut pipe = pipe::Sender::from_owned_fd(pipe)?;
    let mut piece = vec![0; LITTLE];
    loop {
        let length = tokio::select! {
            biased;
            length = connection.read(&mut piece) => length?,
            _ = pipe.ready(Interest::ERROR) => return Ok(()),
        };
        if length == 0 {
            return Ok(());
        }
        pipe.write_all(&piece[..length]).await?;
        grow(&mut piece, length);
    }
}

/// Ends when the last writer has closed the pipe, or the host does not read any more: then writers get SIGPIPE.
async fn output(mut connection: impl AsyncWrite + Unpin, pipe: OwnedFd) -> io::Result<()> {
    let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
    let mut piece = vec![0; LITTLE];
    loop {
        let length = pipe.read(&mut piece).await?;
        if length == 0 {
            return connection.shutdown().await;
        }
        connection.write_all(&piece[..length]).await?;
        grow(&mut piece, length);
    }
}

/// Ends when nobody has the terminal open any more, or the host does not read any more: then it hangs up.
async fn terminal(connection: impl AsyncRead + AsyncWrite + Unpin, master: Arc<OwnedFd>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&master, FcntlArg::F_GETFL)?);
    fcntl(&master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    let master = sys::watch_terminal(master)?;
    let (mut from, mut to) = tokio::io::split(connection);
    {
        let typed = keys(&mut from, &master);
        let shown = screen(&master, &mut to);
        tokio::pin!(typed, shown);
        tokio::select! {
            shown = &mut shown => shown?,
            typed = &mut typed => {
                typed?;
                shown.await?;
            }
        }
    }
    drop(master);
    to.shutdown().await?;
    // What is typed now has no reader. Closing with it unread would break the connection before the host has read the rest.
    let mut piece = vec![0; TYPED];
    while from.read(&mut piece).await? > 0 {}
    Ok(())
}

async fn keys(from: &mut (impl AsyncRead + Unpin), master: &AsyncFd<Arc<OwnedFd>>) -> io::Result<()> {
    let mut piece = vec![0; TYPED];
    loop {
        let length = from.read(&mut piece).await?;
        let mut left = &piece[..length];
        if left.is_empty() {
            return Ok(());
        }
        while !left.is_empty() {
            let write = |master: &Arc<OwnedFd>| Ok(nix::unistd::write(master, left)?);
            match master.async_io(Interest::WRITABLE, write).await {
                Ok(length) => left = &left[length..],
                Err(e) if hung_up(&e) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }
}

async fn screen(master: &AsyncFd<Arc<OwnedFd>>, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut piece = vec![0; LITTLE];
    loop {
        let read = |master: &Arc<OwnedFd>| Ok(nix::unistd::read(master, &mut piece)?);
        match master.async_io(Interest::READABLE, read).await {
            Ok(0) => return Ok(()),
            Ok(length) => {
                to.write_all(&piece[..length]).await?;
                grow(&mut piece, length);
            }
            Err(e) if hung_up(&e) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// A piece that was full makes room for more.
fn grow(piece: &mut Vec<u8>, length: usize) {
    if length == piece.len() && length < PIECE {
        piece.resize(PIECE, 0);
    }
}

/// Nobody has the terminal open.
fn hung_up(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EIO)
}

#[cfg(test)]
#[path = "relay_test.rs"]
mod tests;
