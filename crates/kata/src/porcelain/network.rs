// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! `--network`: none, or user-mode networking by passt; and what a container is told of names.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base::{Error, Kind, Result};
use config::definition::Run;
use sandbox::passt::{GATEWAY, GUEST, RESOLVER, Wish};

use super::arguments::RunArgs;
use super::publish;

const PROGRAM: &str = "passt";
/// Where it is, for whoever has no PATH that names it.
const FOLDERS: [&str; 2] = ["/usr/bin", "/usr/local/bin"];
const REMEDY: &str = "apt-get install passt";
/// What the gateway is called where it is the host.
const HOST: &str = "host.containers.internal";

/// What the option asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Nothing: a network if there can be one.
    Default,
    None,
    User {
        host_loopback: bool,
    },
}

/// The network of a container, none for a loopback interface only. Errors: `Unsupported` for other kinds and where passt is missing,
/// and whatever keeps a port from being published.
pub fn choose(args: &RunArgs, config: &Run) -> Result<Option<Wish>> {
    let network = args.network.as_deref().or(config.network.as_deref());
    let asked = asked(network)?;
    let mut ports = Vec::new();
    for text in &args.publish {
        ports.extend(publish::parse(text)?);
    }
    let host_loopback = match asked {
        Asked::None if ports.is_empty() => return Ok(None),
        Asked::None => {
            let what = "--publish needs a network, and --network none (or run.network of the configuration) is none";
            return Err(Error::new(Kind::Invalid, what));
        }
        Asked::User { host_loopback } => host_loopback,
        Asked::Default => false,
    };
    let found = || find(&std::env::var_os("PATH").unwrap_or_default());
    let Some(program) = config.passt.clone().or_else(found) else {
        if asked == Asked::Default && ports.is_empty() {
            log::warn!(
                "the container has no network: {PROGRAM} is not on this host ({REMEDY}); --network none says nothing"
            );
            return Ok(None);
        }
        let what = format!("user-mode networking: {PROGRAM} is not on this host");
        return Err(Error::new(Kind::Unsupported, what).because(format!("install it: {REMEDY}")));
    };
    publish::claim(&mut ports)?;
    Ok(Some(Wish {
        program,
        ports,
        host_loopback,
    }))
}

fn asked(network: Option<&str>) -> Result<Asked> {
    let user = |host_loopback| Asked::User { host_loopback };
    match network {
        None => Ok(Asked::Default),
        Some("none") => Ok(Asked::None),
        Some("user" | "user:allow_host_loopback=false") => Ok(user(false)),
        Some("user:allow_host_loopback=true") => Ok(user(true)),
        Some(other) => {
            let what = format!("network {other:?} is none of none, user, user:allow_host_loopback=true");
            let why = match other {
                "host" => "a machine has a network stack of its own; ports are published with -p",
                _ => "networks of several containers are an engine's: use Podman or Docker with this runtime",
            };
            Err(Error::new(Kind::Unsupported, what).because(why))
        }
    }
}

fn find(path: &OsStr) -> Option<PathBuf> {
    let executable = |file: &PathBuf| {
        let found = fs::metadata(file);
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(path)
        .chain(FOLDERS.iter().map(PathBuf::from))
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(PROGRAM))
        .find(executable)
}

/// `/etc/hosts`.
pub fn hosts(hostname: &str, network: Option<&Wish>) -> String {
    let local = "::1\tlocalhost ip6-localhost ip6-loopback\n";
    let Some(wish) = network else {
        return format!("127.0.0.1\tlocalhost {hostname}\n{local}");
    };
    let host = if wish.host_loopback {
        format!("{GATEWAY}\t{HOST}\n")
    } else {
        String::new()
    };
    format!("127.0.0.1\tlocalhost\n{local}{GUEST}\t{hostname}\n{host}")
}

/// `/etc/resolv.conf`: passt asks the host's name server, wherever that is; what else the host's file says holds here too.
pub fn resolver(host: &Path) -> String {
    let text = fs::read_to_string(host).unwrap_or_default();
    let word = |line: &str| line.split_ascii_whitespace().next().map(str::to_owned);
    let asks = text.lines().any(|line| word(line).as_deref() == Some("nameserver"));
    let kept = text
        .lines()
        .filter(|line| matches!(word(line).as_deref(), Some("search" | "domain" | "options")));
    let server = asks.then(|| format!("nameserver {RESOLVER}"));
    let lines = server.into_iter().chain(kept.map(str::to_owned));
    lines.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_networks_are_refused_with_the_reason() {
        assert_eq!(asked(None).unwrap(), Asked::Default);
        assert_eq!(asked(Some("none")).unwrap(), Asked::None);
        assert_eq!(asked(Some("user")).unwrap(), Asked::User { host_loopback: false });
        let open = asked(Some("user:allow_host_loopback=true")).unwrap();
        assert_eq!(open, Asked::User { host_loopback: true });
        for (network, why) in [("host", "published with -p"), ("bridge", "use Podman or Docker")] {
            let error = asked(Some(network)).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.chain().contains(why), "{}", error.chain());
        }
    }

    #[test]
    fn the_container_knows_its_name_and_whom_to_ask() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        assert_eq!(resolver(&file), "");
        fs::write(&file, "# made\nsearch a b\noptions edns0\n").unwrap();
        assert_eq!(resolver(&file), "search a b\noptions edns0\n");
        fs::write(&file, "nameserver 127.0.0.53\nnameserver ::1\nsearch a\n").unwrap();
        assert_eq!(resolver(&file), "nameserver 10.0.2.3\nsearch a\n");
        let mut wish = Wish {
            program: "/p".into(),
            ports: Vec::new(),
            host_loopback: false,
        };
        assert!(hosts("box", None).contains("127.0.0.1\tlocalhost box\n"));
        let told = hosts("box", Some(&wish));
        assert!(told.ends_with("\n10.0.2.15\tbox\n"), "{told}");
        wish.host_loopback = true;
        assert!(hosts("box", Some(&wish)).ends_with("10.0.2.2\thost.containers.internal\n"));
    }

    #[test]
    fn the_program_is_found_where_it_can_be_executed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(PROGRAM);
        fs::write(&file, "").unwrap();
        assert_ne!(find(dir.path().as_os_str()), Some(file.clone()));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(dir.path().as_os_str()), Some(file));
    }
}
