// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The command line of `kata monitor`, written by [`crate::runtime::lease`], and by the keeper of machines that wait.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use base::{Context, Error, Kind, Result};
use sandbox::passt::Wish;

use crate::shim::Log;

/// What the monitor is started with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// Directory of all sandboxes.
    pub root: PathBuf,
    /// Of this sandbox.
    pub id: String,
    /// Of its first container.
    pub bundle: PathBuf,
    lease: i32,
    /// In place of all that: where the machine waits that it makes.
    pub standby: Option<PathBuf>,
    /// Of that machine.
    pub vcpus: Option<u32>,
    /// Of that machine, MiB.
    pub memory_mib: Option<u64>,
    /// The spec names its control group as systemd does.
    pub systemd_cgroup: bool,
    /// User-mode networking, where it is wanted.
    pub user_network: Option<Wish>,
    /// Where log lines go.
    pub log: Log,
}

impl Arguments {
    /// Reads `--name=value` words. Errors: `Invalid`, naming the word.
    pub fn parse(args: &[OsString]) -> Result<Arguments> {
        let invalid = |what: String| Error::new(Kind::Invalid, what);
        let mut arguments = Arguments {
            lease: -1,
            ..Arguments::default()
        };
        for word in args {
            let bytes = word.as_bytes();
            let at = bytes.iter().position(|byte| *byte == b'=');
            let at = at.ok_or_else(|| invalid(format!("argument {word:?} is not --name=value")))?;
            let value = OsStr::from_bytes(&bytes[at + 1..]);
            let path = || PathBuf::from(OsString::from_vec(value.as_bytes().to_vec()));
            let text = || value.to_string_lossy().into_owned();
            match &bytes[..at] {
                b"--root" => arguments.root = path(),
                b"--id" => arguments.id = text(),
                b"--bundle" => arguments.bundle = path(),
                b"--lease-fd" => arguments.lease = text().parse().attempt(|| format!("read argument {word:?}"))?,
                b"--standby" => arguments.standby = Some(path()),
                b"--vcpus" => arguments.vcpus = Some(text().parse().attempt(|| format!("read argument {word:?}"))?),
                b"--memory" => {
                    arguments.memory_mib = Some(text().parse().attempt(|| format!("read argument {word:?}"))?);
                }
                b"--systemd-cgroup" => arguments.systemd_cgroup = text() == "true",
                b"--user-network" => {
                    let wish = serde_json::from_slice(value.as_bytes());
                    arguments.user_network = Some(wish.context(Kind::Invalid, || format!("read argument {word:?}"))?);
                }
                b"--log" => arguments.log.file = Some(path()),
                b"--log-format" => arguments.log.json = text() == "json",
                b"--debug" => arguments.log.debug = true,
                _ => return Err(invalid(format!("unknown argument {word:?}"))),
            }
        }
        if arguments.lease < 3 || arguments.id.is_empty() == arguments.standby.is_none() {
            return Err(invalid("`kata monitor` is started by the runtime alone".into()));
        }
        Ok(arguments)
    }

    /// Takes over the socket to whoever started us.
    pub fn lease(&self) -> Result<UnixStream> {
        let fd = base::inherited::take(self.lease)?;
        Ok(UnixStream::from(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_nonsense_is_refused() {
        let words = [
            "--root=/r",
            "--id=a=b",
            "--bundle=/b",
            "--lease-fd=4",
            "--systemd-cgroup=true",
            "--log=/l",
            "--debug=true",
            r#"--user-network={"program":"/p","ports":[],"host_loopback":true}"#,
        ];
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let arguments = Arguments::parse(&words).unwrap();
        assert!(arguments.systemd_cgroup);
        assert_eq!(
            (arguments.id.as_str(), arguments.lease, arguments.log.debug),
            ("a=b", 4, true)
        );
        assert!(arguments.user_network.unwrap().host_loopback);
        for bad in ["--root", "--lease-fd=x", "--lease-fd=1", "--what=1", "--user-network={"] {
            assert!(Arguments::parse(&[bad.into()]).is_err(), "{bad}");
        }
    }
}
