// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! The backend against programs that stand in for QEMU; a real one boots in the integration tests.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use super::*;
use crate::{ShareSpec, VsockSpec};

/// A sandbox's directory with boot files, servers of the devices that never answer, and a program instead of QEMU. A shell
/// finds the control channel in its arguments: `$qmp`.
struct Scene {
    dir: tempfile::TempDir,
    _servers: [UnixListener; 2],
}

impl Scene {
    fn with(script: &str) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("vmlinux"), boot::sample_kernel()).unwrap();
        std::fs::write(at("initramfs"), [0; 100]).unwrap();
        let find = r#"for word; do case $word in socket,id=qmp,fd=*) qmp=${word##*=};; esac; done"#;
        std::fs::write(at("qemu"), format!("#!/bin/bash\n{find}\n{script}\n")).unwrap();
        for name in ["", "qemu"] {
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let _servers = ["fs.sock", "vu.sock"].map(|name| UnixListener::bind(at(name)).unwrap());
        Scene { dir, _servers }
    }

    fn spec(&self) -> MachineSpec {
        let at = |name: &str| self.dir.path().join(name);
        MachineSpec {
            vcpus: 1,
            memory_mib: 64,
            most_vcpus: 1,
            most_memory_mib: 64,
            kernel: at("vmlinux"),
            initramfs: at("initramfs"),
            kernel_params: String::new(),
            shares: vec![ShareSpec {
                tag: "kata".into(),
                socket: "fs.sock".into(),
            }],
            vsock: VsockSpec {
                cid: 3,
                socket: "vu.sock".into(),
                hybrid: "vsock.sock".into(),
            },
            nics: Vec::new(),
            binary: Some(at("qemu")),
            patience: Duration::from_secs(30),
        }
    }

    async fn launch(&self, spec: &MachineSpec) -> Result<Box<dyn Machine>> {
        Qemu::Tcg.launch(spec, self.dir.path()).await
    }
}

const GREET: &str = r#"echo '{"QMP": {}}' >&$qmp; read -r line <&$qmp; echo '{"return": {}, "id": 1}' >&$qmp"#;

#[tokio::test(flavor = "current_thread")]
async fn a_program_that_ends_at_once_has_its_last_words_in_the_error() {
    let scene = Scene::with("echo first >&2; echo 'bad \x1b[31mmachine' >&2; exit 3");
    let error = scene.launch(&scene.spec()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Gone);
    let chain = error.chain();
    assert!(
        chain.ends_with("/qemu: qemu exited with status 3: first; bad machine"),
        "{chain}"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn what_cannot_boot_is_refused_by_name() {
    let scene = Scene::with("exit 1");
    let mut spec = scene.spec();
    spec.kernel = "/no/vmlinux".into();
    let error = scene.launch(&spec).await.unwrap_err();
    assert_eq!(
        error.chain(),
        "read kernel /no/vmlinux: No such file or directory (os error 2)"
    );
    let mut spec = scene.spec();
    spec.initramfs = "/".into();
    assert_eq!(scene.launch(&spec).await.unwrap_err().kind(), Kind::Invalid);
    let mut spec = scene.spec();
    spec.shares[0].socket = "none.sock".into();
    assert_eq!(scene.launch(&spec).await.unwrap_err().kind(), Kind::NotFound);
    let mut spec = scene.spec();
    spec.binary = Some("/no/qemu".into());
    assert_eq!(scene.launch(&spec).await.unwrap_err().kind(), Kind::NotFound);
    let mut spec = scene.spec();
    spec.memory_mib = 18;
    let error = scene.launch(&spec).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(
        error.chain().starts_with("18 MiB of memory do not hold kernel"),
        "{error:?}"
    );
    let mut spec = scene.spec();
    spec.kernel = spec.initramfs.clone();
    assert_eq!(scene.launch(&spec).await.unwrap_err().kind(), Kind::Invalid);
    let mut spec = scene.spec();
    spec.vcpus = 0;
    assert_eq!(scene.launch(&spec).await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test(flavor = "current_thread")]
async fn a_machine_obeys_and_dies_with_its_owner() {
    let answer = r#"read -r line <&$qmp; echo "$line" >&2; echo '{"return": {}, "id": 2}' >&$qmp"#;
    let scene = Scene::with(&format!("{GREET}; {answer}; exec sleep 60"));
    let mut machine = scene.launch(&scene.spec()).await.unwrap();
    assert_eq!(machine.cause(), None);
    machine.set_running(false).await.unwrap();
    let saved = machine.save();
    assert_eq!(saved.backend, "qemu-tcg");
    let gone = machine.dial(1024).await.unwrap_err();
    assert_eq!(gone.kind(), Kind::Gone);
    drop(machine);
    assert_eq!(process::start_time(saved.pid).unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "current_thread")]
async fn a_killed_machine_says_so() {
    let scene = Scene::with(&format!("echo odd >&2; {GREET}; exec sleep 60"));
    let mut machine = scene.launch(&scene.spec()).await.unwrap();
    machine.kill().await.unwrap();
    assert_eq!(machine.cause().unwrap(), "qemu was killed by SIGKILL: odd");
    machine.kill().await.unwrap();
}
