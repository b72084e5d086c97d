// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Further processes, and the ways to a process's input and output: streams and logs.

use std::fs;

use serde_json::json;
use vm_tests::behaviour::Behaviours;
use vm_tests::command;
use vm_tests::node::Node;
use vm_tests::pod::Pod;

/// Says so when the terminal has this size.
fn sized(size: &str) -> String {
    format!("until [ \"$(stty size)\" = '{size}' ]; do sleep 0.1; done; echo is {size}")
}

pub fn processes(node: &Node<'_>, seen: &mut Behaviours<'_>) {
    let pod = Pod::new(node, "pod");
    let id = pod.sleeper("a", &json!({}));
    seen.see("exec sync: output, errors, code", || {
        let done = pod.exec(&id, "echo out; echo err >&2; exit 5");
        assert_eq!(
            (done.code, done.text().as_str(), done.stderr.as_str()),
            (5, "out", "err\n")
        );
        let much = pod.exec(&id, "head -c 3000000 /dev/zero");
        assert_eq!(much.exits(0).stdout.len(), 3_000_000);
    });
    seen.see("exec sync: what is not there", || {
        let request = json!({ "container_id": id, "cmd": ["nonsense"] });
        // More than once: containerd has to wait for it and to delete it, too.
        for _ in 0..10 {
            let why = pod.cri.ask("ExecSync", &request).expect_err("no such program");
            assert!(why.contains("executable file not found in $PATH"), "{why}");
        }
    });
    seen.see("exec sync: timeout", || {
        let request = json!({ "container_id": id, "cmd": ["sleep", "98765"], "timeout": 1 });
        let why = pod.cri.ask("ExecSync", &request).expect_err("it takes longer");
        assert!(why.contains("timeout"), "{why}");
        command::until("it was killed", || !pod.tells(&id, "ps -o args").contains("98765"));
    });
    seen.see("exec: input, output, errors, code", || {
        let mut stream = pod.interact(&id, "read line; echo got $line; echo err >&2; exit 6", false);
        stream.feed("word\n");
        let done = stream.end();
        assert_eq!(
            (done.code, done.text().as_str(), done.stderr.as_str()),
            (6, "got word", "err\n")
        );
        assert_eq!(pod.interact(&id, "true", false).end().code, 0);
    });
    seen.see("exec: much, both ways", || {
        let mut stream = pod.interact(&id, "head -c 2000000 | sha256sum; head -c 2000000 /dev/zero", false);
        for _ in 0..40 {
            stream.send(0, &[b'x'; 50_000]);
        }
        let done = stream.end();
        let end = done.stdout.len() - 2_000_000;
        let input = vec![b'x'; 2_000_000];
        let sum = command::run(&mut std::process::Command::new("sha256sum"), &input).text();
        assert_eq!(String::from_utf8_lossy(&done.stdout[..end]), format!("{sum}\n"));
    });
    seen.see("exec: terminal, its size changes", || {
        let script = format!(
            "tty; {}; read line; {}; echo got $line; exit 4",
            sized("30 100"),
            sized("31 101")
        );
        let mut stream = pod.interact(&id, &script, true);
        stream.resize(30, 100);
        assert!(stream.expect("is 30 100").contains("/dev/pts/"));
        stream.resize(31, 101);
        stream.feed("word\r");
        stream.expect("is 31 101");
        assert_eq!(stream.end().code, 4);
    });
    seen.see("attach: input, output", || {
        let id = pod.start(
            "b",
            "while read line; do echo got $line; done",
            &json!({ "stdin": true }),
        );
        for word in ["one", "two"] {
            // Who has gone may come back.
            let mut stream = pod.attach(&id, false);
            stream.feed(&format!("{word}\n"));
            stream.expect(&format!("got {word}\n"));
        }
        assert_eq!(pod.container(&id)["state"], "CONTAINER_RUNNING");
        pod.until_logged("b", |log| log == "got one\ngot two\n");
        pod.delete(&id);
    });
    seen.see("attach: terminal, its size changes", || {
        let script = format!("read line; {}; exec sleep 100000", sized("40 120"));
        let id = pod.start("c", &script, &json!({ "stdin": true, "tty": true }));
        let mut stream = pod.attach(&id, true);
        stream.resize(40, 120);
        stream.feed("go\r");
        stream.expect("is 40 120");
        pod.delete(&id);
    });
    seen.see("port-forward", || {
        let web = pod.start("web", "while :; do echo pong | nc -l -p 81 127.0.0.1; done", &json!({}));
        command::until("it serves", || {
            pod.exec(&web, "grep -q ':0051 ' /proc/net/tcp").code == 0
        });
        let request = json!({ "pod_sandbox_id": pod.id, "port": [81] });
        let answer = pod.cri.call("PortForward", &request);
        let mut stream = node.stream(&answer, "?port=81");
        // Each stream begins with its port.
        let said = stream.take(0, |got| got.ends_with(b"pong\n"));
        assert_eq!(said, [&[81, 0][..], b"pong\n"].concat());
        pod.delete(&web);
    });
    pod.remove();
}

pub fn logs(node: &Node<'_>, seen: &mut Behaviours<'_>) {
    let pod = Pod::new(node, "pod");
    seen.see("logs: streams, lines, what ends without one", || {
        let id = pod.start("a", "echo out; echo err >&2; printf 'no end'", &json!({}));
        assert_eq!(pod.ended(&id), 0);
        pod.until_logged("a", |log| log == "out\nno end");
        command::until("errors are logged", || pod.log("a", "stderr") == "err\n");
        pod.delete(&id);
    });
    seen.see("logs: long lines in parts, much", || {
        // It stays: of one that ends at once, runc's shim now and then loses the last lines.
        let id = pod.start(
            "b",
            "head -c 40000 /dev/zero | tr '\\0' x; echo; seq 20000; exec sleep 100000",
            &json!({}),
        );
        let numbers: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
        let whole = format!("{}\n{numbers}", "x".repeat(40_000));
        pod.until_logged("b", |log| log == whole);
        let text = fs::read_to_string(pod.log_file("b")).expect("the log");
        assert!(text.lines().any(|line| line.contains(" stdout P ")), "in parts");
        pod.delete(&id);
    });
    seen.see("logs: turned over while it writes", || {
        let id = pod.start(
            "c",
            "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done",
            &json!({}),
        );
        let lines = || pod.log("c", "stdout").lines().count();
        command::until("it has written", || lines() > 3);
        let old = pod.log_file("c").with_extension("old");
        fs::rename(pod.log_file("c"), &old).expect("rename");
        pod.cri.call("ReopenContainerLog", &json!({ "container_id": id }));
        command::until("it goes on", || lines() > 3);
        pod.cri.call("StopContainer", &json!({ "container_id": id }));
        let both =
            fs::read_to_string(&old).expect("the old log") + &fs::read_to_string(pod.log_file("c")).expect("the log");
        let numbers: Vec<usize> = both
            .lines()
            .map(|line| {
                line.rsplit(' ')
                    .next()
                    .and_then(|word| word.parse().ok())
                    .expect("a number")
            })
            .collect();
        assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>(), "no line is lost");
        pod.delete(&id);
    });
    pod.remove();
}
