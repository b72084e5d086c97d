// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Users of the container, by its own /etc/passwd; no name service is asked.

use std::fs::File;
use std::io::Read;

/// Longest passwd file that is read; the container writes it.
const LONGEST: u64 = 1 << 20;

/// HOME of `uid` in the container that this process is in: `/` if nothing says it, as with runc.
pub fn home(uid: u32) -> String {
    let mut text = vec![];
    let read = File::open("/etc/passwd").and_then(|file| file.take(LONGEST).read_to_end(&mut text));
    let found = read.ok().and_then(|_| parse(&text, uid));
    found.unwrap_or_else(|| "/".into())
}

/// The home directory of `uid` in the text of a passwd file.
pub fn parse(passwd: &[u8], uid: u32) -> Option<String> {
    let text = String::from_utf8_lossy(passwd);
    let mut users = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let user = users.find(|fields| fields.get(2).and_then(|field| field.parse().ok()) == Some(uid))?;
    user.get(5)
        .filter(|home| !home.is_empty())
        .map(|home| (*home).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_with_the_number_counts() {
        let passwd =
            b"# comment\nroot:x:0:0:root:/root:/bin/sh\nbroken:x\na:x:7:7::/home/a:\nb:x:7:7::/home/b:\nc:x:8:8:::\n";
        assert_eq!(parse(passwd, 0).unwrap(), "/root");
        assert_eq!(parse(passwd, 7).unwrap(), "/home/a");
        assert_eq!(parse(passwd, 8), None);
        assert_eq!(parse(passwd, 9), None);
        assert_eq!(parse(b"\xff:\xff:3:3::/h\xc3:", 3).unwrap(), "/h\u{fffd}");
    }
}
