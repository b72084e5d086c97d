// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How the machine ends. It does not know why it should.

use std::time::Duration;

use base::Error;
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::tcdrain;
use tokio::time::timeout;
use tokio_vsock::{VMADDR_CID_HOST, VsockAddr, VsockStream};

/// A port of the host at which nobody listens.
const NOBODY: u32 = u32::MAX - 1;
/// How long the host's end may take to fetch what was sent.
const PATIENCE: Duration = Duration::from_secs(2);

/// Says why on the console, whose last lines the host keeps, and ends the machine at once.
pub fn fail(error: &Error) -> ! {
    eprintln!("kata-agent: {}", error.chain());
    stop()
}

/// Waits until the host has taken everything that was sent so far, then ends the machine.
pub async fn off() -> ! {
    // Packets keep their order, so that the answer to one more tells that the others have been taken. The first round lets the
    // tasks run that still have something to send.
    for _ in 0..2 {
        let _ = timeout(PATIENCE, VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, NOBODY))).await;
    }
    stop()
}

/// The hypervisor is told not to reboot, which makes this the end, with or without a power switch in the machine.
fn stop() -> ! {
    nix::unistd::sync();
    let _ = tcdrain(std::io::stderr());
    let Err(e) = reboot(RebootMode::RB_AUTOBOOT);
    eprintln!("kata-agent: end the machine: {e}");
    // The kernel panics when its first process ends, and is told to end the machine then.
    std::process::exit(1)
}
