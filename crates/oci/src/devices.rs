// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What `linux.resources.devices` lets a container do with a block device. Rules apply in order: a later one overrides an earlier one
//! for the accesses that it names. What no rule names is denied, but for making a node, which every container may.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// What may be done with one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Access {
    /// Read it.
    pub read: bool,
    /// Write it.
    pub write: bool,
    /// Make a node of it.
    pub mknod: bool,
}

impl Access {
    /// As rules name it: of `rwm`.
    pub fn letters(self) -> String {
        let all = [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')];
        all.iter().filter(|(on, _)| *on).map(|(_, letter)| letter).collect()
    }
}

/// What `rules` say of the block device with these numbers.
pub fn access(rules: &[LinuxDeviceCgroup], major: u32, minor: u32) -> Access {
    let mut access = Access {
        read: false,
        write: false,
        mknod: true,
    };
    let fits =
        |wanted: Option<i64>, number: u32| wanted.is_none_or(|wanted| wanted == -1 || wanted == i64::from(number));
    for rule in rules {
        let kind = matches!(rule.typ(), None | Some(LinuxDeviceType::A | LinuxDeviceType::B));
        if !(kind && fits(rule.major(), major) && fits(rule.minor(), minor)) {
            continue;
        }
        let letters = rule.access().as_deref().filter(|letters| !letters.is_empty());
        for letter in letters.unwrap_or("rwm").chars() {
            match letter {
                'r' => access.read = rule.allow(),
                'w' => access.write = rule.allow(),
                'm' => access.mknod = rule.allow(),
                _ => {}
            }
        }
    }
    access
}

/// Whether `rules` end with all devices allowed, as engines write it for privileged containers.
pub fn privileged(rules: &[LinuxDeviceCgroup]) -> bool {
    let all = |rule: &&LinuxDeviceCgroup| {
        let any = |number: Option<i64>| number.is_none_or(|number| number == -1);
        matches!(rule.typ(), None | Some(LinuxDeviceType::A)) && any(rule.major()) && any(rule.minor())
    };
    rules.iter().rfind(all).is_some_and(LinuxDeviceCgroup::allow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn later_rules_override_earlier_ones_letter_by_letter() {
        let deny = r#"{"allow":false,"access":"rwm"}"#;
        let letters = |json: &str| access(&rules(json), 7, 1).letters();
        assert_eq!(letters("[]"), "m");
        assert_eq!(letters(&format!("[{deny}]")), "");
        let exact = r#"{"allow":true,"type":"b","major":7,"minor":1,"access":"rw"}"#;
        assert_eq!(letters(&format!("[{deny},{exact}]")), "rw");
        let less = r#"{"allow":false,"type":"b","major":7,"access":"w"}"#;
        assert_eq!(letters(&format!("[{deny},{exact},{less}]")), "r");
        for other in [
            r#"{"allow":true,"type":"c","major":7,"minor":1}"#,
            r#"{"allow":true,"type":"b","major":7,"minor":2}"#,
            r#"{"allow":true,"type":"b","major":8,"minor":1}"#,
        ] {
            assert_eq!(letters(&format!("[{deny},{other}]")), "", "{other}");
        }
        assert_eq!(letters(r#"[{"allow":true,"type":"a","major":-1,"minor":-1}]"#), "rwm");
    }

    #[test]
    fn privileged_is_who_may_use_all_devices() {
        let all = r#"{"allow":true,"access":"rwm"}"#;
        let deny = r#"{"allow":false,"access":"rwm"}"#;
        let one = r#"{"allow":true,"type":"b","major":7,"minor":1,"access":"rw"}"#;
        assert!(privileged(&rules(&format!("[{deny},{one},{all}]"))));
        assert!(privileged(&rules(
            r#"[{"allow":true,"type":"a","major":-1,"minor":-1}]"#
        )));
        assert!(!privileged(&rules(&format!("[{all},{deny},{one}]"))));
        assert!(!privileged(&rules("[]")));
    }
}
