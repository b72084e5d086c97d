// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The command line, flag for flag that of runc. Global flags stand before the verb.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::settings::Choice;

/// The whole line.
#[derive(Debug, Parser)]
#[command(
    name = "kata-runtime",
    about = "OCI runtime whose containers run in lightweight virtual machines",
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_override_self = true
)]
pub struct Line {
    #[command(flatten)]
    pub choice: Choice,
    /// Directory of the containers' state, on a tmpfs [default: runtime.root of the configuration, /run/kata]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// File for log lines, in place of standard error
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// How log lines look: text or json [default: log.format of the configuration, text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Log what only developers read, too
    #[arg(long)]
    pub debug: bool,
    /// cgroupsPath is slice:prefix:name
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// Taken and without effect
    #[arg(long, value_name = "BOOL")]
    pub rootless: Option<String>,
    /// Taken and without effect
    #[arg(long, value_name = "PATH")]
    pub criu: Option<PathBuf>,
    /// Print the version
    #[arg(long, short)]
    pub version: bool,
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// Output of `list` and `ps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
#[command(args_override_self = true)]
pub enum Verb {
    /// Create a container
    Create(CreateArgs),
    /// Start a created container's process
    Start { id: String },
    /// Print the state of a container
    State { id: String },
    /// Send a signal (default: TERM) to a container's init
    Kill {
        /// To all processes of the container
        #[arg(long, short)]
        all: bool,
        id: String,
        #[arg(allow_hyphen_values = true)]
        signal: Option<String>,
    },
    /// Delete a stopped container
    Delete {
        /// Also one that runs (it is killed) or never was
        #[arg(long, short)]
        force: bool,
        id: String,
    },
    /// Create, start and await a container
    Run(RunArgs),
    /// Run a further process in a container
    Exec(ExecArgs),
    /// List the processes of a container
    Ps {
        #[arg(long, short, default_value = "table")]
        format: Format,
        id: String,
        /// Options of ps(1), without effect
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
    /// Freeze all processes of a container
    Pause { id: String },
    /// Thaw a paused container
    Resume { id: String },
    /// Change a container's limits
    Update(UpdateArgs),
    /// Print events and statistics of a container
    Events {
        /// Seconds (or 1m30s) between statistics
        #[arg(long, default_value = "5s")]
        interval: String,
        /// Print the statistics once
        #[arg(long)]
        stats: bool,
        id: String,
    },
    /// Print what the machine of a container counts, for Prometheus
    Metrics { id: String },
    /// List the containers of the root directory
    List {
        #[arg(long, short, default_value = "table")]
        format: Format,
        /// Ids only
        #[arg(long, short)]
        quiet: bool,
    },
    /// Write a starter config.json
    Spec {
        #[arg(long, short, value_name = "DIR")]
        bundle: Option<PathBuf>,
        /// For a container without privileges
        #[arg(long)]
        rootless: bool,
    },
    /// Print what this runtime recognises, as JSON
    Features,
    /// Refused: machines are not checkpointed
    Checkpoint {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        ignored: Vec<OsString>,
    },
    /// Refused: machines are not checkpointed
    Restore {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        ignored: Vec<OsString>,
    },
}

/// What `create` and `run` share.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Directory with config.json
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Socket that takes the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// File for the pid
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Taken and without effect: the guest decides how it enters the root
    #[arg(long)]
    pub no_pivot: bool,
    /// Taken and without effect: the guest has keyrings of its own
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Descriptors cannot enter a machine: more than 0 is warned about
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    pub id: String,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Return once the process runs
    #[arg(long, short)]
    pub detach: bool,
    /// Do not delete the container when it has ended
    #[arg(long)]
    pub keep: bool,
    /// Taken and without effect
    #[arg(long)]
    pub no_subreaper: bool,
    #[command(flatten)]
    pub create: CreateArgs,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Socket that takes the master of the process's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// NAME=VALUE
    #[arg(long, short, value_name = "VARIABLE", allow_hyphen_values = true)]
    pub env: Vec<String>,
    /// With a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// UID[:GID]
    #[arg(long, short, value_name = "USER")]
    pub user: Option<String>,
    /// Further groups
    #[arg(long, short = 'g', value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// File with the process as JSON, in place of the other options
    #[arg(long, short, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Return once the process runs
    #[arg(long, short)]
    pub detach: bool,
    /// File for the pid
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// No privileges are gained
    #[arg(long)]
    pub no_new_privs: bool,
    /// A capability more
    #[arg(long, short, value_name = "CAP")]
    pub cap: Vec<String>,
    /// Descriptors cannot enter a machine: more than 0 is warned about
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Refused, unless it is the container's own
    #[arg(long, value_name = "CGROUP")]
    pub cgroup: Vec<String>,
    /// Also in a paused container
    #[arg(long)]
    pub ignore_paused: bool,
    pub id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Default, Args)]
pub struct UpdateArgs {
    /// File (- is standard input) with linux.resources as JSON, in place of the other options
    #[arg(long, short, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    #[arg(long)]
    pub blkio_weight: Option<u16>,
    #[arg(long)]
    pub cpu_period: Option<u64>,
    #[arg(long, allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    #[arg(long)]
    pub cpu_share: Option<u64>,
    #[arg(long)]
    pub cpu_rt_period: Option<u64>,
    #[arg(long, allow_hyphen_values = true)]
    pub cpu_rt_runtime: Option<i64>,
    #[arg(long)]
    pub cpuset_cpus: Option<String>,
    #[arg(long)]
    pub cpuset_mems: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub memory: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub memory_reservation: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Refused: the guest has no such cache controls
    #[arg(long)]
    pub l3_cache_schema: Option<String>,
    /// Refused: the guest has no such controls
    #[arg(long)]
    pub mem_bw_schema: Option<String>,
    pub id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Line, clap::Error> {
        Line::try_parse_from(std::iter::once("kata-runtime").chain(line.split_whitespace()))
    }

    #[test]
    fn what_engines_send_is_understood() {
        let lines = [
            "--log-format=json --log /l create --bundle /b --pid-file /p --console-socket /s ID",
            "--root /r --log /l --log-format json --systemd-cgroup create --bundle /b --pid-file /p --no-pivot ID",
            "--root=/r delete --force ID",
            "kill ID 15",
            "kill --all ID 9",
            "kill ID SIGTERM",
            "update --resources=- ID",
            "update --resources - ID",
            "--log-format=json --log F exec --pid-file P --process SPEC.json --detach --tty --console-socket S ID",
            "exec -e A=b -e C=d --user 1000:1000 -g 5 -g 6 ID ls -la --color",
            "ps --format json ID",
            "events --stats ID",
            "--root /a --root /b list -q",
            "--version",
            "-v",
            "features",
            "run -d --keep -b /b ID",
            "checkpoint --image-path /x ID",
            "--rootless=auto --criu /usr/sbin/criu state ID",
        ];
        for line in lines {
            parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        let Some(Verb::Exec(exec)) = parse("exec -t ID ls -t --help").unwrap().verb else {
            panic!("a verb")
        };
        assert_eq!(exec.command, ["ls", "-t", "--help"]);
        assert!(exec.tty);
        assert_eq!(parse("--root /a --root /b list").unwrap().root, Some("/b".into()));
        let choice = parse("--config /c --profile p list").unwrap().choice;
        assert_eq!(
            (choice.config, choice.profile.as_deref()),
            (Some("/c".into()), Some("p"))
        );
    }

    #[test]
    fn nonsense_is_not() {
        for line in [
            "create",
            "create a b",
            "frobnicate",
            "list --root /x",
            "state",
            "--bogus list",
            "kill",
            "list x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
