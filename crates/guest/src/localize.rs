// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Making the host's spec fit the guest: the only place that knows how the two differ.

use std::path::Path;

use base::{Error, Kind, Result};
use oci_spec::runtime::{Linux, LinuxNamespaceType, Mount, Spec};

use crate::container::Attachment;
use crate::mount::Options;
use crate::namespace::Join;

/// What a spec may bind from the guest itself: there is no other than the guest's.
const OF_THE_GUEST: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The spec with guest paths, without what only the host has. Errors: `Invalid` for attachments that do not
/// fit, `Unsupported` for what cannot cross into a machine, with the reason.
pub fn localize(mut spec: Spec, attachments: &[Attachment], namespaces: &[Join]) -> Result<Spec> {
    for attachment in attachments {
        if !attachment.path.is_absolute() {
            let path = attachment.path.display();
            return Err(Error::new(
                Kind::Invalid,
                format!("attachment path {path} is not absolute"),
            ));
        }
    }
    root(&mut spec, attachments)?;
    mounts(&mut spec, attachments)?;
    if let Some(linux) = spec.linux_mut() {
        confine(linux, namespaces)?;
    }
    if let Some(process) = spec.process_mut() {
        if process.apparmor_profile().as_ref().is_some_and(|name| !name.is_empty()) {
            log::warn!("process.apparmorProfile is not applied: the guest has no AppArmor");
        }
        if process.selinux_label().as_ref().is_some_and(|label| !label.is_empty()) {
            log::warn!("process.selinuxLabel is not applied: the guest has no SELinux");
        }
        process.set_apparmor_profile(None).set_selinux_label(None);
    }
    if let Some(hooks) = spec.hooks_mut() {
        // The other kinds run in the runtime's namespaces, which are the host's.
        let (create, start) = (hooks.create_container().clone(), hooks.start_container().clone());
        let mut ours = oci_spec::runtime::Hooks::default();
        ours.set_create_container(create).set_start_container(start);
        *hooks = ours;
    }
    Ok(spec)
}

fn root(spec: &mut Spec, attachments: &[Attachment]) -> Result<()> {
    let attached = attachments.iter().find(|attachment| attachment.mount == -1);
    let attached = attached.ok_or_else(|| Error::new(Kind::Invalid, "the rootfs has no attachment"))?;
    match spec.root_mut() {
        Some(root) => root.set_path(attached.path.clone()),
        None => return Err(Error::new(Kind::Invalid, "root is missing")),
    };
    Ok(())
}

fn mounts(spec: &mut Spec, attachments: &[Attachment]) -> Result<()> {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for attachment in attachments.iter().filter(|attachment| attachment.mount != -1) {
        let place = usize::try_from(attachment.mount).ok();
        match place.and_then(|place| mounts.get_mut(place)) {
            Some(mount) if is_bind(mount)? => mount.set_source(Some(attachment.path.clone())),
            Some(_) => {
                let what = format!("mounts[{}] is no bind mount, but has an attachment", attachment.mount);
                return Err(Error::new(Kind::Invalid, what));
            }
            None => {
                let what = format!("an attachment is for mounts[{}], which there is not", attachment.mount);
                return Err(Error::new(Kind::Invalid, what));
            }
        };
    }
    for (place, mount) in (0..).zip(&mounts) {
        if !is_bind(mount)? || attachments.iter().any(|attachment| attachment.mount == place) {
            continue;
        }
        let source = mount.source().as_deref().unwrap_or(Path::new(""));
        let plain = !source.iter().any(|part| part == "..");
        if !(plain && OF_THE_GUEST.iter().any(|own| source.starts_with(own))) {
            let what = format!(
                "mounts[{place}] binds {}, which is not attached to the guest",
                source.display()
            );
            return Err(Error::new(Kind::Invalid, what));
        }
    }
    spec.set_mounts(Some(mounts));
    Ok(())
}

fn is_bind(mount: &Mount) -> Result<bool> {
    Ok(Options::parse(mount.options().as_deref().unwrap_or_default())?
        .binds(mount.typ().as_deref())
        .is_some())
}

fn confine(linux: &mut Linux, known: &[Join]) -> Result<()> {
    let unsupported = |what: String| Err(Error::new(Kind::Unsupported, what));
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    // All containers of a machine share its network; one of the host cannot be entered from here anyway.
    namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
    for namespace in &mut namespaces {
        if known.iter().any(|join| join.kind == namespace.typ()) {
            namespace.set_path(None);
        }
        if let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            return unsupported(format!(
                "linux.namespaces: the {} namespace {} is of the host's kernel; the container runs on its own",
                namespace.typ(),
                path.display()
            ));
        }
    }
    linux.set_namespaces(Some(namespaces));
    if linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        return unsupported("linux.netDevices: a device of the host cannot move into the guest".into());
    }
    if linux.memory_policy().is_some() {
        return unsupported("linux.memoryPolicy: the guest has one memory node".into());
    }
    if linux.intel_rdt().is_some() {
        log::warn!("linux.intelRdt is not applied: the guest has no cache control");
    }
    if linux.mount_label().as_ref().is_some_and(|label| !label.is_empty()) {
        log::warn!("linux.mountLabel is not applied: the guest has no SELinux");
    }
    linux.set_intel_rdt(None).set_mount_label(None).set_cgroups_path(None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &serde_json::Value) -> Spec {
        serde_json::from_value(json.clone()).unwrap()
    }

    fn at(mount: i32, path: &str) -> Attachment {
        Attachment {
            mount,
            path: path.into(),
        }
    }

    fn sample() -> serde_json::Value {
        serde_json::json!({
            "ociVersion": "1.2.0", "root": {"path": "rootfs"},
            "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["sh"], "apparmorProfile": "docker-default"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/etc/hosts", "type": "bind", "source": "/var/x/hosts", "options": ["rbind", "ro"]},
                {"destination": "/dev/fuse", "source": "/dev/fuse", "options": ["bind"]}
            ],
            "hooks": {"poststop": [{"path": "/bin/a"}], "startContainer": [{"path": "/bin/b"}]},
            "linux": {
                "cgroupsPath": "system.slice:x:y", "mountLabel": "l",
                "namespaces": [{"type": "mount"}, {"type": "network", "path": "/var/run/netns/n"}]
            }
        })
    }

    #[test]
    fn host_paths_become_guest_paths_and_host_things_go() {
        let local = localize(spec(&sample()), &[at(-1, "/g/root"), at(1, "/g/m1")], &[]).unwrap();
        assert_eq!(local.root().as_ref().unwrap().path(), Path::new("/g/root"));
        let mounts = local.mounts().as_ref().unwrap();
        assert_eq!(mounts[1].source().as_deref(), Some(Path::new("/g/m1")));
        assert_eq!(mounts[2].source().as_deref(), Some(Path::new("/dev/fuse")));
        let linux = local.linux().as_ref().unwrap();
        assert!(linux.cgroups_path().is_none() && linux.mount_label().is_none());
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), 1);
        assert!(local.process().as_ref().unwrap().apparmor_profile().is_none());
        let hooks = local.hooks().as_ref().unwrap();
        assert!(hooks.poststop().is_none() && hooks.start_container().is_some());
    }

    #[test]
    fn what_is_missing_or_does_not_fit_is_refused() {
        for attachments in [
            vec![at(1, "/m")],
            vec![at(-1, "/r")],
            vec![at(-1, "r"), at(1, "/m")],
            vec![at(-1, "/r"), at(1, "/m"), at(0, "/p")],
            vec![at(-1, "/r"), at(1, "/m"), at(3, "/x")],
            vec![at(-1, "/r"), at(1, "/m"), at(-2, "/x")],
        ] {
            let refused = localize(spec(&sample()), &attachments, &[]).unwrap_err();
            assert_eq!(refused.kind(), Kind::Invalid, "{attachments:?}");
        }
        let mut escaping = sample();
        escaping["mounts"][2]["source"] = "/dev/../etc".into();
        assert!(localize(spec(&escaping), &[at(-1, "/r"), at(1, "/m")], &[]).is_err());
    }

    #[test]
    fn namespaces_of_the_host_are_refused_with_the_reason() {
        for kind in ["pid", "ipc", "uts", "mount", "user", "cgroup", "time"] {
            let mut json = sample();
            json["linux"]["namespaces"] = serde_json::json!([{"type": kind, "path": "/proc/1/ns/x"}]);
            let known = |kind| Join { kind, of: None };
            let others = [known(LinuxNamespaceType::Network)];
            let refused = localize(spec(&json), &[at(-1, "/r"), at(1, "/m")], &others).unwrap_err();
            assert_eq!(refused.kind(), Kind::Unsupported);
            assert!(refused.chain().contains("host"), "{}", refused.chain());
            let known = [known(LinuxNamespaceType::try_from(kind).unwrap())];
            let local = localize(spec(&json), &[at(-1, "/r"), at(1, "/m")], &known).unwrap();
            let linux = local.linux().as_ref().unwrap();
            assert!(linux.namespaces().as_ref().unwrap()[0].path().is_none());
        }
    }
}
