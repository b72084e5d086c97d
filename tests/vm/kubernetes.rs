// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What people do with Kubernetes: a kubelet and a control plane, kubectl as the client, pods with runc's RuntimeClass and then with ours.
//! By `make kubernetes`.

use std::net::TcpListener;
use std::process::Stdio;

use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use vm_tests::behaviour::Behaviours;
use vm_tests::cluster::{CLASS, Cluster};
use vm_tests::containerd::IMAGE;
use vm_tests::{Verdict, World, both, command};

use crate::everyday::on_its_kernel;

pub fn cases() -> Vec<Trial> {
    vec![
        case("pods", pods),
        case("volumes", volumes),
        case("controllers", controllers),
        case("kubelet", kubelet),
    ]
}

fn case(name: &str, work: fn(&Cluster<'_>, &mut Behaviours<'_>)) -> Trial {
    both(&format!("kubernetes::{name}"), move |w: &World| {
        let cluster = match Cluster::new(w) {
            Ok(cluster) => cluster,
            Err(why) => return Verdict::Skipped(why),
        };
        let mut seen = Behaviours::new(cluster.client(), w);
        work(&cluster, &mut seen);
        seen.end();
        Verdict::Held
    })
}

const WAITS: &str = "trap 'exit 0' TERM; while :; do sleep 0.2; done";

/// A container `sh -c script`, with `more` in it.
fn container(name: &str, script: &str, more: &Value) -> Value {
    let mut container =
        json!({ "name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script] });
    merge(&mut container, more);
    container
}

/// The spec of a pod of the class under test.
fn spec(containers: &[Value], more: &Value) -> Value {
    let mut spec = json!({
        "runtimeClassName": CLASS, "restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "dnsPolicy": "Default",
        "containers": containers,
    });
    merge(&mut spec, more);
    spec
}

fn pod(name: &str, containers: &[Value], more: &Value) -> Value {
    let spec = spec(containers, more);
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } }, "spec": spec })
}

fn merge(into: &mut Value, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

/// What the kubelet says of a pod's container.
fn status(pod: &Value, container: usize) -> &Value {
    &pod["status"]["containerStatuses"][container]
}

fn pods(cluster: &Cluster<'_>, seen: &mut Behaviours<'_>) {
    seen.see("pod: runs to its end, log, message", || {
        let script = "uname -r; echo why >/dev/termination-log; exit 3";
        cluster.apply(&pod("once", &[container("a", script, &json!({}))], &json!({})));
        cluster.until_phase("once", "Failed");
        on_its_kernel(cluster.world(), &cluster.kubectl(&["logs", "once"]).text());
        let found = cluster.get("pod", "once");
        let end = &status(&found, 0)["state"]["terminated"];
        assert_eq!(
            (&end["exitCode"], &end["message"]),
            (&json!(3), &json!("why\n")),
            "{end}"
        );
        cluster.delete("pod", "once");
    });
    seen.see("pod: init containers, a directory for all, one network", || {
        let mount = json!({ "volumeMounts": [{ "name": "work", "mountPath": "/work" }] });
        let first = container("first", "echo page >/work/index.html", &mount);
        let serve = container("serve", "exec busybox httpd -f -p 80 -h /work", &mount);
        let ask = "until busybox wget -qO- http://127.0.0.1/; do sleep 0.2; done; sleep 1000";
        let more = json!({ "initContainers": [first], "volumes": [{ "name": "work", "emptyDir": {} }] });
        cluster.apply(&pod("web", &[serve, container("ask", ask, &json!({}))], &more));
        cluster.until_ready("web");
        command::until("the other container has the page", || {
            cluster.kubectl(&["logs", "web", "-c", "ask"]).text() == "page"
        });
        let address = cluster.get("pod", "web")["status"]["podIP"]
            .as_str()
            .expect("an address")
            .to_owned();
        let mut curl = cluster.enter();
        curl.args(["curl", "--silent", "--fail", &format!("http://{address}/")]);
        assert_eq!(command::run(&mut curl, b"").exits(0).text(), "page");
    });
    seen.see("kubectl exec: output, input, exit code", || {
        let words = [
            "exec",
            "-i",
            "web",
            "-c",
            "serve",
            "--",
            "sh",
            "-c",
            "cat; echo err >&2; exit 5",
        ];
        let outcome = command::run(&mut cluster.command(&words), b"given");
        assert_eq!(
            (outcome.text().as_str(), outcome.code),
            ("given", 5),
            "{}",
            outcome.stderr
        );
        assert!(outcome.stderr.contains("err"), "{}", outcome.stderr);
    });
    seen.see("kubectl logs -f", || {
        let script = "echo one; sleep 2; echo two";
        cluster.apply(&pod("talks", &[container("a", script, &json!({}))], &json!({})));
        cluster.until("begun", "pod", "talks", |pod| {
            !status(pod, 0)["state"]["waiting"].is_object() && pod["status"]["phase"] != "Pending"
        });
        assert_eq!(cluster.kubectl(&["logs", "-f", "talks"]).exits(0).text(), "one\ntwo");
        cluster.delete("pod", "talks");
    });
    seen.see("kubectl port-forward", || {
        // A port that nobody has: the kernel's choice, given back.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|one| one.local_addr())
            .expect("a port")
            .port();
        let mut forward = cluster.command(&["port-forward", "web", &format!("{port}:80")]);
        let mut forward = forward
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start it");
        command::until("the forwarded port answers", || {
            let mut curl = cluster.enter();
            curl.args(["curl", "--silent", "--fail", &format!("http://127.0.0.1:{port}/")]);
            command::run(&mut curl, b"").text() == "page"
        });
        let _ = forward.kill();
        let _ = forward.wait();
    });
    seen.see("probes: one that fails starts the container again", || {
        let probe = json!({
            "livenessProbe": { "exec": { "command": ["test", "-e", "/alive"] }, "periodSeconds": 1, "failureThreshold": 2, "timeoutSeconds": 20 },
            "readinessProbe": { "exec": { "command": ["test", "-e", "/alive"] }, "periodSeconds": 1, "timeoutSeconds": 20 },
        });
        let again = json!({ "restartPolicy": "Always" });
        cluster.apply(&pod("probed", &[container("a", &format!("touch /alive; {WAITS}"), &probe)], &again));
        cluster.until_ready("probed");
        cluster.exec("probed", "rm /alive");
        cluster.until("begun again", "pod", "probed", |pod| status(pod, 0)["restartCount"] == 1);
        cluster.until_ready("probed");
        cluster.delete("pod", "probed");
    });
    seen.see("security context: user, groups, read-only root, capabilities", || {
        let context = json!({ "securityContext": {
            "runAsUser": 1000, "runAsGroup": 2000, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
        } });
        let script = "id -u; id -g; touch /x || echo read-only; grep -E 'CapBnd|NoNewPrivs' /proc/self/status";
        cluster.apply(&pod("bound", &[container("a", script, &context)], &json!({})));
        cluster.until_phase("bound", "Succeeded");
        let log = cluster.kubectl(&["logs", "bound"]).text();
        let log: Vec<&str> = log.lines().filter(|line| !line.contains("touch")).collect();
        assert_eq!(log[..3], ["1000", "2000", "read-only"], "{log:?}");
        assert!(
            log.contains(&"CapBnd:\t0000000000000000") && log.contains(&"NoNewPrivs:\t1"),
            "{log:?}"
        );
        cluster.delete("pod", "bound");
    });
    seen.see("a container out of memory", || {
        let limits = json!({ "resources": { "limits": { "memory": "64Mi" } } });
        let script = "busybox tail /dev/zero";
        cluster.apply(&pod("hungry", &[container("a", script, &limits)], &json!({})));
        cluster.until_phase("hungry", "Failed");
        let found = cluster.get("pod", "hungry");
        assert_eq!(
            status(&found, 0)["state"]["terminated"]["reason"],
            "OOMKilled",
            "{found}"
        );
        cluster.delete("pod", "hungry");
    });
    seen.see("delete: within the grace period", || {
        cluster.delete("pod", "web");
        assert!(cluster.get("pod", "web").is_null());
    });
}

fn volumes(cluster: &Cluster<'_>, seen: &mut Behaviours<'_>) {
    let map = |value: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings" }, "data": { "mode": value } });
    cluster.apply(&map("first"));
    cluster.apply(&json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "hidden" }, "stringData": { "key": "k1" } }));
    let container = container(
        "a",
        WAITS,
        &json!({
            "env": [
                { "name": "MODE", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "mode" } } },
                { "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
            ],
            "resources": { "limits": { "memory": "128Mi" } },
            "volumeMounts": [
                { "name": "settings", "mountPath": "/settings" }, { "name": "hidden", "mountPath": "/hidden", "readOnly": true },
                { "name": "downward", "mountPath": "/downward" }, { "name": "memory", "mountPath": "/memory" },
                { "name": "host", "mountPath": "/host" }, { "name": "settings", "mountPath": "/one", "subPath": "mode" },
            ],
        }),
    );
    let host = cluster.world().dir().join("host");
    let volumes = json!({ "volumes": [
        { "name": "settings", "configMap": { "name": "settings" } }, { "name": "hidden", "secret": { "secretName": "hidden" } },
        { "name": "downward", "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } },
        { "name": "memory", "emptyDir": { "medium": "Memory" } },
        { "name": "host", "hostPath": { "path": host, "type": "DirectoryOrCreate" } },
    ] });
    cluster.apply(&pod("mounts", &[container], &volumes));
    cluster.until_ready("mounts");
    seen.see("volumes: configMap, secret, downward API, account", || {
        assert_eq!(cluster.exec("mounts", "cat /settings/mode /hidden/key"), "firstk1");
        assert_eq!(
            cluster.exec("mounts", "cat /one; echo; echo $MODE $NODE"),
            "first\nfirst node"
        );
        assert_eq!(cluster.exec("mounts", "cat /downward/labels"), "app=\"mounts\"");
        let token = cluster.exec("mounts", "cat /var/run/secrets/kubernetes.io/serviceaccount/token");
        assert_eq!(token.split('.').count(), 3, "{token}");
    });
    seen.see("volumes: a configMap that changes", || {
        cluster.apply(&map("second"));
        command::until("the pod sees it", || {
            cluster.exec("mounts", "cat /settings/mode") == "second"
        });
        assert_eq!(cluster.exec("mounts", "cat /one"), "first", "a subPath stays as it was");
    });
    seen.see("volumes: of the host, in memory", || {
        cluster.exec("mounts", "echo it >/host/f; echo it >/memory/f");
        assert_eq!(cluster.exec("mounts", "cat /memory/f"), "it");
        assert_eq!(std::fs::read_to_string(host.join("f")).expect("it is there"), "it\n");
    });
    seen.see("kubectl cp, both ways", || {
        let (there, back) = (cluster.world().dir().join("there"), cluster.world().dir().join("back"));
        std::fs::write(&there, vec![b'c'; 300_000]).expect("write");
        let (from, to) = (there.to_string_lossy(), back.to_string_lossy());
        cluster.kubectl(&["cp", &from, "mounts:/memory/c"]).exits(0);
        cluster.kubectl(&["cp", "mounts:/memory/c", &to]).exits(0);
        assert_eq!(std::fs::read(back).expect("it is there").len(), 300_000);
    });
}

fn controllers(cluster: &Cluster<'_>, seen: &mut Behaviours<'_>) {
    let deployment = |replicas: usize, says: &str| {
        let script = format!("mkdir /w; echo {says} >/w/index.html; exec busybox httpd -f -p 80 -h /w");
        let probe = json!({ "readinessProbe": { "httpGet": { "path": "/", "port": 80 }, "periodSeconds": 1, "timeoutSeconds": 10 } });
        let template = json!({
            "metadata": { "labels": { "app": "shop" } },
            "spec": spec(&[container("a", &script, &probe)], &json!({ "restartPolicy": "Always" })),
        });
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "shop" },
            "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "shop" } }, "template": template },
        })
    };
    let all = |count: usize| {
        cluster.until(&format!("{count} of them ready"), "deployment", "shop", |found| {
            let status = &found["status"];
            status["observedGeneration"] == found["metadata"]["generation"]
                && [
                    &status["readyReplicas"],
                    &status["updatedReplicas"],
                    &status["replicas"],
                ]
                .iter()
                .all(|it| **it == count)
        });
    };
    seen.see("Deployment: replicas, scale, a new version", || {
        cluster.apply(&deployment(2, "one"));
        all(2);
        cluster
            .kubectl(&["scale", "deployment", "shop", "--replicas=3"])
            .exits(0);
        all(3);
        cluster.apply(&deployment(2, "two"));
        all(2);
        let text = cluster.kubectl(&["get", "pods", "-l", "app=shop", "-o", "json"]).text();
        let found: Value = serde_json::from_str(&text).expect("it is JSON");
        let living: Vec<&Value> = found["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .collect();
        assert_eq!(living.len(), 2);
        for one in living {
            let address = one["status"]["podIP"].as_str().expect("an address");
            let mut curl = cluster.enter();
            curl.args(["curl", "--silent", "--fail", &format!("http://{address}/")]);
            assert_eq!(command::run(&mut curl, b"").exits(0).text(), "two");
        }
        cluster.delete("deployment", "shop");
    });
    seen.see("Job: several pods to their end", || {
        let template = json!({ "spec": spec(&[container("a", "exit 0", &json!({}))], &json!({})) });
        cluster.apply(&json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "sums" },
            "spec": { "completions": 3, "parallelism": 2, "template": template },
        }));
        cluster.until("complete", "job", "sums", |job| job["status"]["succeeded"] == 3);
        cluster.delete("job", "sums");
    });
}

fn kubelet(cluster: &Cluster<'_>, seen: &mut Behaviours<'_>) {
    let again = json!({ "restartPolicy": "Always" });
    let limits = json!({ "resources": { "requests": { "cpu": "100m", "memory": "64Mi" }, "limits": { "cpu": "1", "memory": "256Mi" } } });
    cluster.apply(&pod("stays", &[container("a", WAITS, &limits)], &again));
    cluster.until_ready("stays");
    seen.see("kubelet: what a pod uses", || {
        command::until("the kubelet has figures of the container", || {
            let text = cluster
                .kubectl(&["get", "--raw", "/api/v1/nodes/node/proxy/stats/summary"])
                .text();
            let summary: Value = serde_json::from_str(&text).unwrap_or_default();
            let pods = summary["pods"].as_array().cloned().unwrap_or_default();
            pods.iter().any(|pod| {
                let container = &pod["containers"][0];
                pod["podRef"]["name"] == "stays"
                    && container["memory"]["workingSetBytes"]
                        .as_u64()
                        .is_some_and(|bytes| bytes > 0)
                    && container["cpu"]["usageCoreNanoSeconds"]
                        .as_u64()
                        .is_some_and(|spent| spent > 0)
            })
        });
    });
    for (what, signal) in [
        ("kubelet: ended and started, the pod lives on", Signal::SIGTERM),
        ("kubelet: killed and started, the pod lives on", Signal::SIGKILL),
    ] {
        seen.see(what, || {
            let before = cluster.exec("stays", "echo $$ >/tmp/mark; cat /tmp/mark");
            cluster.restart_kubelet(signal);
            command::until("the kubelet serves", || {
                let read = cluster.kubectl(&["exec", "stays", "--", "cat", "/tmp/mark"]);
                read.code == 0 && read.text() == before
            });
            let found = cluster.get("pod", "stays");
            assert_eq!(status(&found, 0)["restartCount"], 0, "{found}");
        });
    }
    seen.see(
        "kubelet: a container that ends is begun again, its log before too",
        || {
            let script = "echo run; sleep 1; exit 1";
            cluster.apply(&pod("falls", &[container("a", script, &json!({}))], &again));
            cluster.until("begun again", "pod", "falls", |pod| {
                status(pod, 0)["restartCount"].as_u64().is_some_and(|count| count >= 2)
            });
            // The kubelet removes it when there is a later one.
            command::until("the log before is told", || {
                cluster.kubectl(&["logs", "--previous", "falls"]).text() == "run"
            });
            cluster.delete("pod", "falls");
        },
    );
}
