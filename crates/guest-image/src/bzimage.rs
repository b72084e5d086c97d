// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Takes the uncompressed kernel out of a bzImage (Documentation/arch/x86/boot.rst): a virtual machine boots that
//! faster, and QEMU and our own VMM load it without running any decompressor.

use base::{Context, Error, Kind, Result};

use crate::compression::{self, Format};
use crate::elf;
use crate::field::{slice, u16_at, u32_at};

/// No kernel is larger than this when expanded.
const LIMIT: usize = 512 << 20;
/// `header`, at 0x202: "HdrS".
const MAGIC: u32 = 0x5372_6448;
/// The protocol version that brought `payload_offset` and `payload_length`.
const VERSION_WITH_PAYLOAD: u16 = 0x0208;

/// The uncompressed ELF kernel in `image`, which is a bzImage or an ELF kernel already, checked to have a PVH entry.
/// [`Kind::Invalid`] with the reason otherwise.
pub fn vmlinux(image: &[u8]) -> Result<Vec<u8>> {
    let kernel = if elf::is_elf(image) {
        image.to_vec()
    } else {
        expand(image)?
    };
    elf::pvh_entry(&kernel)?;
    Ok(kernel)
}

/// The kernel release that a bzImage carries in clear text, as `uname -r` prints it; `None` for an ELF kernel.
pub fn release(image: &[u8]) -> Option<String> {
    if u32_at(image, 0x202)? != MAGIC {
        return None;
    }
    let at = u64::from(u16_at(image, 0x20e)?) + 0x200;
    let text = image.get(usize::try_from(at).ok()?..)?;
    let end = text.iter().take(256).position(|byte| *byte == b' ' || *byte == 0)?;
    Some(std::str::from_utf8(&text[..end]).ok()?.to_owned())
}

fn expand(image: &[u8]) -> Result<Vec<u8>> {
    if u32_at(image, 0x202) != Some(MAGIC) || u16_at(image, 0x1fe) != Some(0xaa55) {
        return Err(Error::new(Kind::Invalid, "neither a bzImage nor an ELF kernel"));
    }
    let version = u16_at(image, 0x206).unwrap_or_default();
    if version < VERSION_WITH_PAYLOAD {
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "a bzImage of boot protocol {}.{:02}, which is older than 2.08",
                version >> 8,
                version & 0xff
            ),
        ));
    }
    let payload = payload(image).ok_or_else(|| Error::new(Kind::Invalid, "a bzImage that is cut off"))?;
    match Format::of(payload) {
        Some(_) => {
            compression::expand(payload, LIMIT).context(Kind::Invalid, || "expand the kernel in the bzImage".into())
        }
        None if elf::is_elf(payload) => Ok(payload.to_vec()),
        None => Err(Error::new(
            Kind::Invalid,
            format!(
                "a bzImage whose kernel is compressed in an unknown way (it starts with {:02x?})",
                payload.get(..6).unwrap_or(payload)
            ),
        )),
    }
}

/// The compressed kernel: its offset counts from the start of the protected-mode code, behind the setup sectors.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let sectors = match image.get(0x1f1)? {
        0 => 4,
        sectors => u64::from(*sectors),
    };
    let start = (sectors + 1) * 512 + u64::from(u32_at(image, 0x248)?);
    slice(image, start, u64::from(u32_at(image, 0x24c)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024 + 16];
        image[0x1f1] = 1;
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[0x248] = 16;
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend(payload);
        image
    }

    #[test]
    fn the_kernel_comes_out_of_its_bzimage() {
        let kernel = elf::tests::kernel(18, b"Xen\0");
        assert_eq!(vmlinux(&kernel).unwrap(), kernel);
        assert_eq!(vmlinux(&image(&kernel)).unwrap(), kernel);
        let packed = image(&zstd::encode_all(&kernel[..], 1).unwrap());
        assert_eq!(vmlinux(&packed).unwrap(), kernel);
        for end in 0..packed.len() {
            assert_eq!(vmlinux(&packed[..end]).unwrap_err().kind(), Kind::Invalid, "{end}");
        }
    }

    #[test]
    fn the_release_is_read_without_expanding() {
        let mut image = image(b"");
        let at = image.len();
        image.extend(b"6.1.0-50-cloud-amd64 (debian) #1\0");
        image[0x20e..0x210].copy_from_slice(&u16::try_from(at - 0x200).unwrap().to_le_bytes());
        assert_eq!(release(&image).unwrap(), "6.1.0-50-cloud-amd64");
        assert_eq!(release(&image[..at + 5]), None);
        assert_eq!(release(b"\x7fELF"), None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let reason = |image: &[u8]| vmlinux(image).unwrap_err().chain();
        assert!(reason(b"#!/bin/sh").contains("neither"));
        assert!(reason(&image(b"garbage")).contains("unknown way"));
        assert!(reason(&image(&elf::tests::kernel(17, b"Xen\0"))).contains("PVH"));
        let mut old = image(b"");
        old[0x206] = 7;
        assert!(reason(&old).contains("2.07"));
    }
}
