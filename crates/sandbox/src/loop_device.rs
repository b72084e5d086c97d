// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Loop devices: a file as a block device of the host (loop(4)).

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;

use base::{Context, Error, Kind, Result};

use crate::sys;

/// Others may take the one that we were told is free.
const TRIES: u32 = 64;

/// One that ends when nobody has it open or mounted any more.
#[derive(Debug)]
pub struct Loop {
    path: String,
    _device: File,
}

impl Loop {
    /// Of the file `path`.
    pub fn of(path: &str, read_only: bool) -> Result<Loop> {
        let what = || format!("make a loop device of {path}");
        let open = |path: &str| OpenOptions::new().read(true).write(!read_only).open(path);
        let file = open(path).attempt(what)?;
        let control = File::open("/dev/loop-control").attempt(what)?;
        for _ in 0..TRIES {
            let number = sys::free_loop(control.as_fd()).attempt(what)?;
            let path = format!("/dev/loop{number}");
            let device = open(&path).attempt(what)?;
            match sys::configure_loop(device.as_fd(), file.as_fd(), read_only) {
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
                other => {
                    other.attempt(what)?;
                    return Ok(Loop { path, _device: device });
                }
            }
        }
        Err(Error::new(Kind::Timeout, what()).because("others take every free one"))
    }

    /// Where it is.
    pub fn path(&self) -> &str {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_file_is_a_device_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![b'x'; 4096]).unwrap();
        let path = path.to_str().unwrap();
        assert!(Loop::of("/none", true).unwrap_err().chain().contains("/none"));
        let device = match Loop::of(path, true) {
            Ok(device) => device,
            Err(e) => {
                eprintln!("skipped: {}", e.chain());
                return;
            }
        };
        let mut text = String::new();
        File::open(device.path()).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text.len(), 4096);
        let told = format!("/sys/block/{}", &device.path()["/dev/".len()..]);
        assert_eq!(std::fs::read_to_string(format!("{told}/ro")).unwrap().trim(), "1");
        let backing = format!("{told}/loop/backing_file");
        assert!(std::fs::read_to_string(&backing).unwrap().starts_with(path));
        drop(device);
        let left = std::fs::read_to_string(&backing).unwrap_or_default();
        assert!(!left.starts_with(path));
    }
}
