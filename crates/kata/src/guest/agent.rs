// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Where the agent's program is: it is installed, or built, beside this one.

use std::path::{Path, PathBuf};

use base::{Context, Error, Kind, Result};

/// The agent to put into guests: the first that exists of the usual places.
pub fn find() -> Result<PathBuf> {
    let program = std::env::current_exe().attempt(|| "find this program".into())?;
    let places = places(&program);
    places.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        let places: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
        Error::new(
            Kind::NotFound,
            format!("no agent in {}: run `make build`, or give --agent", places.join(", ")),
        )
    })
}

fn places(program: &Path) -> Vec<PathBuf> {
    let dir = program.parent().unwrap_or(Path::new("/"));
    let up = dir.parent().unwrap_or(Path::new("/"));
    let mut places = vec![
        dir.join("kata-agent"),
        up.join("libexec/kata/kata-agent"),
        "/usr/libexec/kata/kata-agent".into(),
    ];
    // A development build: target/debug/kata beside target/TRIPLE/PROFILE/kata-agent.
    let built = up.join("x86_64-unknown-linux-gnu");
    places.extend(["release", "guest", "debug"].map(|profile| built.join(profile).join("kata-agent")));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_and_built_agents_are_looked_for() {
        let places = places(Path::new("/usr/local/bin/kata"));
        assert!(places.contains(&PathBuf::from("/usr/local/libexec/kata/kata-agent")));
        let places = self::places(Path::new("/src/target/debug/kata"));
        assert_eq!(places[0], Path::new("/src/target/debug/kata-agent"));
        assert!(places.contains(&PathBuf::from("/src/target/x86_64-unknown-linux-gnu/debug/kata-agent")));
    }
}
