// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The command line of a person, in the words of docker and podman. It knows how options are spelled, not what they mean.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::settings::Choice;

/// The whole line.
#[derive(Debug, Parser)]
#[command(
    name = "kata",
    version,
    about = "Containers in lightweight virtual machines",
    args_override_self = true,
    after_help = "Also: `kata doctor` (what this machine has and lacks), `kata guest` (kernel and image of the guest),
`kata standby` (machines that wait, so that containers start at once), `kata monitor` (metrics of all sandboxes), `kata runtime` (the OCI command line for Podman, Docker and containerd).

What can be configured, and how: `kata config`."
)]
pub struct Line {
    #[command(flatten)]
    pub choice: Choice,
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
#[command(args_override_self = true)]
pub enum Verb {
    /// Run a container from an image
    Run(Box<RunArgs>),
    /// Run a further process in a container
    Exec(ExecArgs),
    /// List containers
    #[command(visible_aliases = ["list"])]
    Ps(PsArgs),
    /// Print the output of a detached container
    Logs {
        /// Go on until the container ends
        #[arg(long, short)]
        follow: bool,
        /// Only so many of the last lines
        #[arg(long, short = 'n', value_name = "N|all")]
        tail: Option<String>,
        container: String,
    },
    /// Stop containers: TERM, and KILL when that was in vain
    Stop {
        /// Seconds before KILL
        #[arg(long, short = 't', value_name = "SECONDS", default_value_t = 10)]
        time: u32,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Send a signal to containers
    Kill {
        /// Name or number
        #[arg(long, short, value_name = "SIGNAL", default_value = "KILL")]
        signal: String,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Remove containers with what they changed
    Rm {
        /// Also those that run (they are killed); without an error for those that do not exist
        #[arg(long, short)]
        force: bool,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Print all that is known of containers, as JSON
    Inspect {
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Print what the machine of a container counts, for Prometheus
    Metrics {
        /// Name or id; or the id of any container or sandbox of this machine, whoever has made it
        container: String,
    },
    /// List images
    Images {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Ids only
        #[arg(long, short)]
        quiet: bool,
    },
    /// Fetch an image, or a newer one under the same name
    Pull {
        /// Print nothing but the id
        #[arg(long, short)]
        quiet: bool,
        /// See `kata run`
        image: String,
    },
    /// Remove images, and layers that no other image or container uses
    Rmi {
        /// Also those that containers use; without an error for those that do not exist
        #[arg(long, short)]
        force: bool,
        #[arg(required = true)]
        images: Vec<String>,
    },
}

/// When the source of an image is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pull {
    Always,
    Missing,
    Never,
}

/// Whether a machine may begin as a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Template {
    On,
    Off,
}

#[derive(Debug, Args)]
#[command(after_help = "IMAGE is one of
  NAME[:TAG], REGISTRY/NAME[:TAG], docker://…   an image of a registry (docker.io by default)
  oci:DIR[:TAG]                                 an OCI image layout
  docker-archive:FILE[:NAME], oci-archive:FILE  what docker save or skopeo copy wrote
  rootfs:DIR                                    a directory, used as it is: changes go there

The output of a detached container is kept for `kata logs`; that of one in the foreground is not.
Exit status: the process's own; 125: kata failed, 126: the program cannot be executed, 127: it was not found.")]
pub struct RunArgs {
    /// Return once the process runs, print the container's id
    #[arg(long, short)]
    pub detach: bool,
    /// Remove the container when it has ended
    #[arg(long)]
    pub rm: bool,
    /// Pass our standard input on
    #[arg(long, short)]
    pub interactive: bool,
    /// With a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// Call it by this name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Program in place of the image's; empty for none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Directory, file or named volume of the host: SOURCE:TARGET[:OPTION,…], or TARGET for an empty one; ro, rw, …
    #[arg(long, short, value_name = "VOLUME")]
    pub volume: Vec<String>,
    /// File system in memory: TARGET[:OPTION,…]
    #[arg(long, value_name = "TMPFS")]
    pub tmpfs: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", default_value = "64m")]
    pub shm_size: String,
    /// The root file system cannot be changed
    #[arg(long)]
    pub read_only: bool,
    /// Memory of the container and so of its machine: 512m, 2g
    #[arg(long, short, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Processors: 0.5, 2
    #[arg(long, value_name = "N")]
    pub cpus: Option<String>,
    /// Most processes; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Resource limit: NAME=SOFT[:HARD]
    #[arg(long, value_name = "LIMIT")]
    pub ulimit: Vec<String>,
    /// A capability more, or ALL
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// A capability less, or ALL
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// All capabilities and devices of its machine (not of the host)
    #[arg(long)]
    pub privileged: bool,
    /// `user`: the host's through passt (the default where that is installed, unless run.network says otherwise); `user:allow_host_loopback=true`: also what listens on
    /// the host's 127.0.0.1, as host.containers.internal; `none`
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub network: Option<String>,
    /// Port of the host that leads to one of the container: [[ADDRESS:]HOSTPORT:]PORT[/udp], or ranges of them
    #[arg(long, short, value_name = "PORT")]
    pub publish: Vec<String>,
    /// Host name in the container (default: its id)
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Hypervisor (see `kata doctor`) [default: hypervisor.name of the configuration]
    #[arg(long, value_name = "NAME")]
    pub hypervisor: Option<String>,
    /// Begin as a copy of a guest that was booted once, or boot (`off`: nothing is shared with other machines) [default: template.enable
    /// of the configuration]
    #[arg(long, value_name = "WHEN")]
    pub template: Option<Template>,
    /// Draw where the time of the start went, as SVG
    #[arg(long, value_name = "FILE")]
    pub timeline: Option<PathBuf>,
    /// OCI annotation: KEY=VALUE
    #[arg(long, value_name = "ANNOTATION")]
    pub annotation: Vec<String>,
    /// When the image's source is asked (default: always for files, missing for registries)
    #[arg(long, value_name = "WHEN")]
    pub pull: Option<Pull>,
    /// Signal of `kata stop` (default: the image's, or TERM)
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Write the container's id to this file, which must not exist
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// Image, then the program and its arguments in place of the image's
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"])]
    pub words: Vec<String>,
}

/// What is said of the process alike by `run` and `exec`.
#[derive(Debug, Default, Args)]
pub struct ProcessArgs {
    /// Variable: NAME=VALUE, or NAME for the value it has here
    #[arg(long, short, value_name = "VARIABLE", allow_hyphen_values = true)]
    pub env: Vec<String>,
    /// File with a variable per line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(long, short, value_name = "DIR")]
    pub workdir: Option<String>,
    /// NAME[:GROUP] of the container's users, or numbers
    #[arg(long, short, value_name = "USER")]
    pub user: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: the process's own; 125: kata failed, 126: the program cannot be executed, 127: it was not found."
)]
pub struct ExecArgs {
    /// Return once the process runs; its output is lost
    #[arg(long, short)]
    pub detach: bool,
    /// Pass our standard input on
    #[arg(long, short)]
    pub interactive: bool,
    /// With a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// All capabilities
    #[arg(long)]
    pub privileged: bool,
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Container, then the program and its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    pub words: Vec<String>,
}

#[derive(Debug, Default, Args)]
pub struct PsArgs {
    /// Also those that have ended
    #[arg(long, short)]
    pub all: bool,
    /// Ids only
    #[arg(long, short)]
    pub quiet: bool,
    /// Ids and commands in full
    #[arg(long)]
    pub no_trunc: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// What clap found wrong, in one line.
pub fn complaint(error: &clap::Error) -> String {
    let text = error.to_string();
    let (first, rest) = text.split_once("\n\n").unwrap_or((text.as_str(), ""));
    let words: Vec<&str> = first.split_whitespace().collect();
    let line = words.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let tip = rest
        .lines()
        .find_map(|line| line.trim().strip_prefix("tip: "))
        // Options are not values of ours.
        .filter(|tip| !tip.starts_with("to pass"))
        .map_or(String::new(), |tip| format!(" ({tip})"));
    format!("{line}{tip}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Line, clap::Error> {
        Line::try_parse_from(std::iter::once("kata").chain(line.split_whitespace()))
    }

    fn run(line: &str) -> RunArgs {
        match parse(line).unwrap_or_else(|e| panic!("{line}: {e}")).verb {
            Some(Verb::Run(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_follows_the_image_is_the_commands() {
        let args = run("run --rm -it -e A=b -v /x:/y:ro --memory 100m --net none busybox sh -c x --rm -e --help");
        assert!(args.rm && args.interactive && args.tty && !args.detach);
        assert_eq!(args.words, ["busybox", "sh", "-c", "x", "--rm", "-e", "--help"]);
        let args = run("run busybox -e --name --rm");
        assert_eq!(args.words, ["busybox", "-e", "--name", "--rm"]);
        assert!(args.name.is_none() && args.process.env.is_empty() && !args.rm);
        let Some(Verb::Exec(args)) = parse("exec -it -u 1:2 box ls -l --version").unwrap().verb else {
            panic!("a verb")
        };
        assert_eq!(args.words, ["box", "ls", "-l", "--version"]);
    }

    #[test]
    fn the_usual_lines_are_understood() {
        for line in [
            "",
            "ps -aq",
            "ps --json --no-trunc",
            "logs -f --tail 3 box",
            "stop -t 20 a b",
            "kill -s USR1 a",
            "rm -f a b",
            "inspect a",
            "metrics a",
            "images --json",
            "pull docker://a/b:c",
            "rmi -f a",
            "run -d --name x --name y --pids-limit -1 --entrypoint= i",
            "run --cap-add ALL --cap-drop net_raw --ulimit nofile=1:2 --tmpfs /t --read-only --hostname h --privileged i",
        ] {
            parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn complaints_are_one_line() {
        for (line, words) in [
            ("frobnicate", "unrecognized subcommand 'frobnicate'"),
            ("run", "arguments were not provided: <IMAGE>"),
            ("run --no-such x", "unexpected argument '--no-such'"),
            ("exec box", "2 values required"),
            ("stop", "arguments were not provided: <CONTAINERS>"),
            ("run --pull sometimes x", "invalid value 'sometimes'"),
            ("pss", "a similar subcommand exists: 'ps'"),
        ] {
            let complaint = complaint(&parse(line).unwrap_err());
            assert!(complaint.contains(words), "{complaint}");
            assert!(
                !complaint.contains('\n') && !complaint.starts_with("error"),
                "{complaint}"
            );
        }
    }
}
