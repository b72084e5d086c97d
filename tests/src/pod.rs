// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! A pod of a node, and what is done with it and its containers by CRI. What a case wants to be special is JSON, put over the plain
//! configuration.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::containerd::IMAGE;
use crate::cri::{self, Cri};
use crate::node::Node;
use crate::streaming::Streaming;
use crate::{Outcome, command};

/// The last line of what runs to its end.
const END: &str = "that is all";

/// See the module.
#[derive(Debug)]
pub struct Pod<'n> {
    pub node: &'n Node<'n>,
    pub cri: Cri,
    pub config: Value,
    pub id: String,
}

impl<'n> Pod<'n> {
    /// Runs one, plain.
    #[track_caller]
    pub fn new(node: &'n Node<'n>, name: &str) -> Pod<'n> {
        Pod::with(node, name, &json!({}))
    }

    /// Runs one, with `special`.
    #[track_caller]
    pub fn with(node: &'n Node<'n>, name: &str, special: &Value) -> Pod<'n> {
        Pod::try_with(node, name, special).unwrap_or_else(|e| panic!("RunPodSandbox {name}: {e}"))
    }

    /// As [`Pod::with`], of one that may be refused.
    pub fn try_with(node: &'n Node<'n>, name: &str, special: &Value) -> Result<Pod<'n>, String> {
        let logs = node.world().dir().join("logs").join(name);
        fs::create_dir_all(&logs).expect("make a directory");
        let mut config = json!({
            "metadata": { "name": name, "uid": format!("uid-{name}"), "namespace": "test", "attempt": 0 },
            "log_directory": logs,
            "labels": { "pod": name },
            "linux": { "cgroup_parent": node.cgroup(), "security_context": { "namespace_options": { "pid": "CONTAINER" } } },
        });
        merge(&mut config, special);
        let cri = node.cri();
        let made = cri.ask("RunPodSandbox", &json!({ "config": config }))?;
        let id = made["pod_sandbox_id"].as_str().expect("an id").to_owned();
        Ok(Pod { node, cri, config, id })
    }

    /// Its status.
    #[track_caller]
    pub fn status(&self) -> Value {
        let request = json!({ "pod_sandbox_id": self.id });
        self.cri.call("PodSandboxStatus", &request)["status"].clone()
    }

    /// Its address.
    #[track_caller]
    pub fn address(&self) -> String {
        let status = self.status();
        status["network"]["ip"].as_str().expect("an address").to_owned()
    }

    /// Stops it with all its containers.
    #[track_caller]
    pub fn stop(&self) {
        self.cri.call("StopPodSandbox", &json!({ "pod_sandbox_id": self.id }));
    }

    /// Stops and removes it.
    #[track_caller]
    pub fn remove(&self) {
        self.stop();
        self.cri.call("RemovePodSandbox", &json!({ "pod_sandbox_id": self.id }));
    }

    /// Makes a container whose process is `sh -c script`; its id, or why not.
    pub fn try_create(&self, name: &str, script: &str, special: &Value) -> Result<String, String> {
        let mut config = json!({
            "metadata": { "name": name, "attempt": 0 },
            "image": { "image": IMAGE },
            "command": ["sh", "-c", script],
            "log_path": format!("{name}.log"),
            "labels": { "container": name },
            "linux": { "security_context": { "namespace_options": { "pid": "CONTAINER" } } },
        });
        merge(&mut config, special);
        let request = json!({ "pod_sandbox_id": self.id, "config": config, "sandbox_config": self.config });
        let made = self.cri.ask("CreateContainer", &request)?;
        Ok(made["container_id"].as_str().expect("an id").to_owned())
    }

    /// As [`Pod::try_create`], and starts it.
    pub fn try_start(&self, name: &str, script: &str, special: &Value) -> Result<String, String> {
        let id = self.try_create(name, script, special)?;
        self.cri.ask("StartContainer", &json!({ "container_id": id }))?;
        Ok(id)
    }

    /// As [`Pod::try_start`], of what is to succeed.
    #[track_caller]
    pub fn start(&self, name: &str, script: &str, special: &Value) -> String {
        self.try_start(name, script, special)
            .unwrap_or_else(|e| panic!("container {name}: {e}"))
    }

    /// One that stays.
    #[track_caller]
    pub fn sleeper(&self, name: &str, special: &Value) -> String {
        self.start(name, "trap 'exit 0' TERM; sleep 100000 & wait", special)
    }

    /// Runs a container to its end and removes it: its output and its exit code.
    #[track_caller]
    pub fn run(&self, name: &str, script: &str, special: &Value) -> Outcome {
        // The log may come after the end.
        let id = self.start(name, &format!("({script}); code=$?; echo {END}; exit $code"), special);
        let code = self.ended(&id);
        self.until_logged(name, |log| log.trim_end().ends_with(END));
        let log = self.log(name, "stdout");
        self.delete(&id);
        fs::remove_file(self.log_file(name)).expect("remove the log");
        Outcome {
            code,
            stdout: log.trim_end().trim_end_matches(END).into(),
            stderr: String::new(),
        }
    }

    /// Waits until the log of a container's output is as it should be.
    #[track_caller]
    pub fn until_logged(&self, name: &str, whole: impl Fn(&str) -> bool) {
        command::until("the log is whole", || whole(&self.log(name, "stdout")));
    }

    /// Waits for a container's end: its exit code.
    #[track_caller]
    pub fn ended(&self, id: &str) -> i32 {
        command::until("the container has ended", || {
            self.container(id)["state"] == "CONTAINER_EXITED"
        });
        let code = cri::number(&self.container(id)["exit_code"]);
        i32::try_from(code).expect("a code")
    }

    /// The status of a container.
    #[track_caller]
    pub fn container(&self, id: &str) -> Value {
        let status = self.cri.call("ContainerStatus", &json!({ "container_id": id }));
        status["status"].clone()
    }

    /// Removes a container.
    #[track_caller]
    pub fn delete(&self, id: &str) {
        self.cri.call("RemoveContainer", &json!({ "container_id": id }));
    }

    /// Where a container's log is.
    pub fn log_file(&self, name: &str) -> PathBuf {
        let directory = self.config["log_directory"].as_str().expect("a path");
        PathBuf::from(directory).join(format!("{name}.log"))
    }

    /// What a container has written to `stream`, by its log.
    pub fn log(&self, name: &str, stream: &str) -> String {
        let text = fs::read_to_string(self.log_file(name)).unwrap_or_default();
        unlogged(&text, stream)
    }

    /// Runs a further process to its end.
    #[track_caller]
    pub fn exec(&self, id: &str, script: &str) -> Outcome {
        let request = json!({ "container_id": id, "cmd": ["sh", "-c", script] });
        let done = self.cri.call("ExecSync", &request);
        Outcome {
            code: i32::try_from(cri::number(&done["exit_code"])).expect("a code"),
            stdout: cri::bytes(&done["stdout"]),
            stderr: String::from_utf8_lossy(&cri::bytes(&done["stderr"])).into_owned(),
        }
    }

    /// What `script` prints, which is to succeed.
    #[track_caller]
    pub fn tells(&self, id: &str, script: &str) -> String {
        self.exec(id, script).exits(0).text()
    }

    /// Opens the streams of a further process.
    #[track_caller]
    pub fn interact(&self, id: &str, script: &str, terminal: bool) -> Streaming {
        let request = json!({
            "container_id": id, "cmd": ["sh", "-c", script], "tty": terminal, "stdin": true, "stdout": true, "stderr": !terminal
        });
        self.node.stream(&self.cri.call("Exec", &request), "")
    }

    /// Opens the streams of a container.
    #[track_caller]
    pub fn attach(&self, id: &str, terminal: bool) -> Streaming {
        let request =
            json!({ "container_id": id, "tty": terminal, "stdin": true, "stdout": true, "stderr": !terminal });
        self.node.stream(&self.cri.call("Attach", &request), "")
    }
}

/// Puts `special` over `plain`: objects member by member, all else as a whole.
fn merge(plain: &mut Value, special: &Value) {
    match (plain, special) {
        (Value::Object(plain), Value::Object(special)) => {
            for (name, value) in special {
                merge(plain.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (plain, special) => *plain = special.clone(),
    }
}

/// The text of `stream` in a log: each line has a time, the stream, and whether a line ends with it.
fn unlogged(log: &str, stream: &str) -> String {
    let mut text = String::new();
    // The last line may be on its way.
    let whole = log.rfind('\n').map_or(0, |end| end + 1);
    for line in log[..whole].lines() {
        let parts: Vec<&str> = line.splitn(4, ' ').collect();
        let &[time, from, end, said] = &parts[..] else {
            panic!("{line:?} is no line of a log");
        };
        assert!(
            time.contains('T') && ["F", "P"].contains(&end),
            "{line:?} is no line of a log"
        );
        if from == stream {
            text.push_str(said);
            if end == "F" {
                text.push('\n');
            }
        }
    }
    text
}
