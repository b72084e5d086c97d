// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The process that makes a template while the sandbox that missed it runs (`kata guest template build --background`). It is
//! started before the monitor gets mounts of its own, and waits until the sandbox is up: then the standard input ends.

use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use std::os::unix::process::CommandExt;

use sandbox::Size;

/// One that waits. Dropping it lets it begin.
#[derive(Debug)]
pub struct Builder {
    process: Option<(Child, ChildStdin)>,
}

impl Builder {
    /// For machines of `size` on the hypervisor `name`. `None` when it does not start: the next sandbox tries again.
    pub fn start(name: &str, size: Size) -> Option<Builder> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("kata");
        command.args(["guest", "template", "build", "--background", "--hypervisor", name]);
        command.args([
            "--vcpus",
            &size.vcpus.to_string(),
            "--memory",
            &size.memory_mib.to_string(),
        ]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match command.current_dir("/").spawn() {
            Ok(mut child) => {
                let process = child.stdin.take().map(|stdin| (child, stdin));
                Some(Builder { process })
            }
            Err(e) => {
                log::warn!("start the builder of a template: {e}");
                None
            }
        }
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        let Some((mut child, stdin)) = self.process.take() else {
            return;
        };
        drop(stdin);
        // It outlives us, or leaves no zombie.
        let reaper = thread::Builder::new().name("reaper".into()).stack_size(64 << 10);
        if let Err(e) = reaper.spawn(move || child.wait()) {
            log::debug!("wait for the builder of a template: {e}");
        }
    }
}
