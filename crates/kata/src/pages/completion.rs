// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Completions, one script for each program. The names of the files are those that the shells look for.

use std::path::PathBuf;

use clap::Command;
use clap_complete::{Shell, generate};

use super::Page;

/// A script of `shell` for each program.
pub(super) fn scripts(shell: Shell, programs: [Command; 2]) -> Vec<Page> {
    let script = |mut program: Command| {
        let name = program.get_name().to_owned();
        let mut text = Vec::new();
        generate(shell, &mut program, &name, &mut text);
        (file_name(shell, &name), text)
    };
    programs.map(script).into()
}

fn file_name(shell: Shell, program: &str) -> PathBuf {
    match shell {
        Shell::Zsh => format!("_{program}").into(),
        Shell::Fish => format!("{program}.fish").into(),
        // Bash loads the file that has the program's own name.
        _ => program.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::completions;
    use super::*;

    #[test]
    fn every_shell_knows_the_words_of_both_programs() {
        for (shell, names) in [
            (Shell::Bash, ["kata", "kata-runtime"]),
            (Shell::Zsh, ["_kata", "_kata-runtime"]),
            (Shell::Fish, ["kata.fish", "kata-runtime.fish"]),
        ] {
            let pages = completions(shell);
            let found: Vec<_> = pages.iter().map(|(name, _)| name.to_str().unwrap()).collect();
            assert_eq!(found, names);
            let text = |page: usize| String::from_utf8(pages[page].1.clone()).unwrap();
            for word in ["run", "doctor", "guest", "template", "cap-add", "runtime"] {
                assert!(text(0).contains(word), "{shell}: {word}");
            }
            for word in ["create", "console-socket"] {
                assert!(text(1).contains(word), "{shell}: {word}");
            }
        }
    }
}
