// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How a shim looks to whoever lists the host's processes: its command line is that of the process which it stands for, its name is
//! ours.

use base::{Context, Result};

/// The name, which is all that tells a shim from a process of the host's with such a command line.
pub const NAME: &std::ffi::CStr = c"kata-shim";
/// How many bytes of a command line are shown.
const LIMIT: usize = 4096;

/// `command` as the words of a command line, cut where it is too long.
pub fn words(command: &[String]) -> Vec<String> {
    let mut left = LIMIT;
    let mut words = Vec::new();
    for word in command {
        if left == 0 {
            break;
        }
        // One cannot be given to a program with a NUL in it; the guest refuses it, too.
        let mut shown = word.replace('\0', " ");
        if shown.len() >= left {
            let end = (0..left.saturating_sub('…'.len_utf8()))
                .rev()
                .find(|end| shown.is_char_boundary(*end));
            shown.truncate(end.unwrap_or_default());
            shown.push('…');
            left = 0;
        } else {
            left -= shown.len() + 1;
        }
        words.push(shown);
    }
    words
}

/// Gives this process the name.
pub fn take() -> Result<()> {
    nix::sys::prctl::set_name(NAME).attempt(|| "take the name of a shim".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(command: &[&str]) -> Vec<String> {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        words(&command)
    }

    #[test]
    fn a_command_is_shown_as_it_is_unless_it_is_long() {
        assert_eq!(of(&["sh", "-c", "echo  a", ""]), ["sh", "-c", "echo  a", ""]);
        assert!(of(&[]).is_empty());
        assert_eq!(of(&["a\0b"]), ["a b"]);
        let long = "ä".repeat(LIMIT);
        let cut = of(&["sh", &long, "more"]);
        assert_eq!((cut.len(), cut[0].as_str()), (2, "sh"));
        assert!(cut[1].ends_with("ä…") && cut[1].len() < LIMIT, "{}", cut[1].len());
        let many = vec!["x"; LIMIT];
        assert_eq!(of(&many).len(), LIMIT / 2);
    }
}
