// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Annotations of the spec that change how one sandbox is made: a list of known keys, each with a check. What is not on the list
//! changes nothing; whether one may be there at all, the configuration says.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use base::{Context, Error, Kind, Result};

/// Common to all of Kata's annotations.
pub const PREFIX: &str = "io.katacontainers.";
const CONFIG: &str = "io.katacontainers.config.";

/// What the annotations ask for; `None` leaves the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `hypervisor.default_memory`: memory of the machine in MiB.
    pub memory_mib: Option<u64>,
    /// `hypervisor.default_vcpus`: virtual CPUs, 1 to 1024.
    pub vcpus: Option<u32>,
    /// `hypervisor.default_maxmemory`: memory to which the machine may grow, MiB.
    pub most_memory_mib: Option<u64>,
    /// `hypervisor.default_max_vcpus`: virtual CPUs to which the machine may grow, 1 to 1024.
    pub most_vcpus: Option<u32>,
    /// `hypervisor.kernel`: an uncompressed kernel of the host.
    pub kernel: Option<PathBuf>,
    /// `hypervisor.initrd`: an initramfs of the host.
    pub initrd: Option<PathBuf>,
    /// `hypervisor.path`: the hypervisor's executable.
    pub hypervisor_path: Option<PathBuf>,
    /// `hypervisor.kernel_params`: added to the kernel's command line.
    pub kernel_params: Option<String>,
    /// `hypervisor.enable_template`: whether the machine may begin as a copy of a frozen guest.
    pub template: Option<bool>,
    /// `runtime.hypervisor_name`: which backend.
    pub hypervisor: Option<String>,
    /// `runtime.create_container_timeout`: how long the creation of a container may take.
    pub create_timeout: Option<Duration>,
}

impl Overrides {
    /// Reads the known annotations. Errors: `Invalid`, naming the annotation and what is wrong with its value.
    pub fn parse(annotations: &HashMap<String, String>) -> Result<Overrides> {
        let mut overrides = Overrides::default();
        for (key, value) in annotations {
            let Some(short) = key.strip_prefix(CONFIG) else {
                continue;
            };
            overrides
                .set(short, value)
                .attempt(|| format!("annotation {key}={value:?}"))?;
        }
        Ok(overrides)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "hypervisor.default_memory" => self.memory_mib = Some(positive(value)?),
            "hypervisor.default_vcpus" => self.vcpus = Some(vcpus(value)?),
            "hypervisor.default_maxmemory" => self.most_memory_mib = Some(positive(value)?),
            "hypervisor.default_max_vcpus" => self.most_vcpus = Some(vcpus(value)?),
            "hypervisor.kernel" => self.kernel = Some(file(value)?),
            "hypervisor.initrd" => self.initrd = Some(file(value)?),
            "hypervisor.path" => self.hypervisor_path = Some(file(value)?),
            "hypervisor.kernel_params" => self.kernel_params = Some(printable(value)?),
            "hypervisor.enable_template" => self.template = Some(truth(value)?),
            "runtime.hypervisor_name" => self.hypervisor = Some(name(value)?),
            "runtime.create_container_timeout" => self.create_timeout = Some(Duration::from_secs(positive(value)?)),
            _ => {}
        }
        Ok(())
    }
}

fn invalid(why: &str) -> Error {
    Error::new(Kind::Invalid, why)
}

fn positive(value: &str) -> Result<u64> {
    let number = value.trim().parse().context(Kind::Invalid, || "not a number".into())?;
    if number == 0 {
        return Err(invalid("must be at least 1"));
    }
    Ok(number)
}

/// Whole or decimal, rounded up, as Kata takes it.
fn vcpus(value: &str) -> Result<u32> {
    let (whole, part) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    let number: u32 = whole.parse().context(Kind::Invalid, || "not a number".into())?;
    if !part.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(invalid("not a number"));
    }
    let more = u32::from(part.bytes().any(|digit| digit != b'0'));
    match number.checked_add(more) {
        Some(number @ 1..=1024) => Ok(number),
        _ => Err(invalid("must be 1 to 1024")),
    }
}

fn file(value: &str) -> Result<PathBuf> {
    let path = PathBuf::from(value);
    if !path.is_absolute() {
        return Err(invalid("not an absolute path"));
    }
    let found = std::fs::metadata(&path).attempt(|| "look at the file".into())?;
    if !found.is_file() {
        return Err(invalid("not a file"));
    }
    Ok(path)
}

fn printable(value: &str) -> Result<String> {
    if value.chars().any(char::is_control) {
        return Err(invalid("contains control characters"));
    }
    Ok(value.trim().to_owned())
}

fn truth(value: &str) -> Result<bool> {
    value
        .trim()
        .parse()
        .context(Kind::Invalid, || "neither true nor false".into())
}

fn name(value: &str) -> Result<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if value.is_empty() || !value.bytes().all(plain) {
        return Err(invalid("not a name"));
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Overrides> {
        let pairs = pairs
            .iter()
            .map(|(key, value)| (format!("io.katacontainers.{key}"), (*value).to_owned()));
        Overrides::parse(&pairs.collect())
    }

    #[test]
    fn known_keys_are_taken() {
        let got = parse(&[
            ("config.hypervisor.default_memory", "512"),
            ("config.hypervisor.default_vcpus", "1.5"),
            ("config.hypervisor.default_maxmemory", "4096"),
            ("config.hypervisor.default_max_vcpus", "4"),
            ("config.hypervisor.kernel", "/proc/self/exe"),
            ("config.hypervisor.kernel_params", " a=b  c "),
            ("config.hypervisor.enable_template", "false"),
            ("config.runtime.hypervisor_name", "qemu"),
            ("config.runtime.create_container_timeout", "90"),
            ("config.hypervisor.hotplug_everything", "true"),
            ("pkg.oci.container_type", "pod_sandbox"),
        ]);
        let want = Overrides {
            memory_mib: Some(512),
            vcpus: Some(2),
            most_memory_mib: Some(4096),
            most_vcpus: Some(4),
            kernel: Some("/proc/self/exe".into()),
            kernel_params: Some("a=b  c".into()),
            template: Some(false),
            hypervisor: Some("qemu".into()),
            create_timeout: Some(Duration::from_secs(90)),
            ..Overrides::default()
        };
        assert_eq!(got.unwrap(), want);
        assert_eq!(parse(&[]).unwrap(), Overrides::default());
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        let cases = [
            ("config.hypervisor.default_memory", "many"),
            ("config.hypervisor.default_memory", "0"),
            ("config.hypervisor.default_memory", "-5"),
            ("config.hypervisor.default_vcpus", "0"),
            ("config.hypervisor.default_vcpus", "1e3"),
            ("config.hypervisor.default_vcpus", "5000"),
            ("config.hypervisor.kernel", "vmlinux"),
            ("config.hypervisor.initrd", "/no/such/file"),
            ("config.hypervisor.path", "/"),
            ("config.hypervisor.kernel_params", "a\nb"),
            ("config.hypervisor.enable_template", "off"),
            ("config.runtime.hypervisor_name", "../x"),
            ("config.runtime.create_container_timeout", ""),
        ];
        for (key, value) in cases {
            let error = parse(&[(key, value)]).unwrap_err();
            assert!(error.chain().contains(key), "{}", error.chain());
        }
    }
}
