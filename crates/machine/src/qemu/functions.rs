// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! How a guest has set up virtio devices that cannot be migrated: read when it is frozen, after which they are taken away without
//! its knowledge; written to devices of the same kind that are plugged at the same place of a copy, which never sees a difference.
//!
//! The devices are functions of one card in a PCI Express port with a power switch, which a guest leaves alone that was told to
//! (`pcie_ports=compat`). Registers: PCI Express base specification 7.5 (configuration space, slots), Virtio 1.2, 4.1.4 (the common
//! configuration). What their rings have come to is in the guest's memory, where their servers find it.

use base::{Error, Kind, Result};

use super::registers::{Access, Registers, Width};

/// Where a `microvm` has the configuration space of its PCI bus.
const SPACE: u64 = 0xe000_0000;
/// Of QEMU's host bridge: device and vendor.
const BRIDGE: u32 = 0x0008_1b36;
/// What is read where nothing is.
const NOTHING: u32 = u32::MAX;

// Configuration space.
const COMMAND: u64 = 0x04;
const BARS: u64 = 0x10;
const SECONDARY_BUS: u64 = 0x19;
const CAPABILITIES: u64 = 0x34;
const INTERRUPT_LINE: u64 = 0x3c;
const END: u64 = 0x100;

// Capabilities, and what they have where.
const EXPRESS: u32 = 0x10;
const SLOT_CONTROL: u64 = 0x18;
const MSIX: u32 = 0x11;
const MSIX_CONTROL: u64 = 2;
const MSIX_TABLE: u64 = 4;
const MSIX_ENTRY: u64 = 16;
const VENDOR: u32 = 0x09;
const VENDOR_KIND: u64 = 3;
const VENDOR_BAR: u64 = 4;
const VENDOR_OFFSET: u64 = 8;
const COMMON: u32 = 1;

/// Power indicator and power switch of a slot: both off.
const OFF: u32 = 0x0700;

// The common configuration.
const FEATURE_SELECT: u64 = 0x08;
const FEATURES: u64 = 0x0c;
const CONFIG_VECTOR: u64 = 0x10;
const QUEUES: u64 = 0x12;
const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
/// Of descriptors, of what is available, of what was used: low and high halves.
const QUEUE_ADDRESSES: [u64; 6] = [0x20, 0x24, 0x28, 0x2c, 0x30, 0x34];
const MOST_QUEUES: u32 = 64;

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const FEATURES_OK: u32 = 8;
const DRIVER_OK: u32 = 4;

/// Reads how the guest has set up `count` functions in the port at `slot` of the first bus, and switches the port off, which takes them
/// away. The answer sets up others in their place, once they are plugged into the port as it is now. Errors: `Unsupported` for a
/// machine that is none of ours, `State` when a device is not in use.
pub async fn take(registers: &mut Registers, slot: u64, count: usize) -> Result<Vec<Access>> {
    let bridge = registers.read(Width::Long, SPACE).await?;
    if bridge != BRIDGE {
        let what = format!("there is no PCI bus at {SPACE:#x}: {bridge:#010x}");
        return Err(Error::new(Kind::Unsupported, what));
    }
    let port = Place(SPACE + (slot << 15));
    let bus = u64::from(registers.read(Width::Byte, port.at(SECONDARY_BUS)).await?);
    let express = port.capability(registers, EXPRESS).await?;
    let control = port.at(express + SLOT_CONTROL);
    let on = registers.read(Width::Word, control).await? & !OFF;
    let mut all = vec![Access::Write(Width::Word, control, on)];
    let functions: Vec<Place> = (0..count as u64)
        .map(|function| Place(SPACE + (bus << 20) + (function << 12)))
        .collect();
    for function in &functions {
        function.record(registers, &mut all).await?;
    }
    let off = [Access::Write(Width::Word, control, on | OFF)];
    registers.play(&off).await?;
    let gone: Vec<Access> = functions
        .iter()
        .map(|function| Access::Expect(Width::Long, function.at(0), NOTHING))
        .collect();
    registers.play(&gone).await?;
    Ok(all)
}

/// The configuration space of a function.
#[derive(Debug, Clone, Copy)]
struct Place(u64);

impl Place {
    fn at(self, offset: u64) -> u64 {
        self.0 + offset
    }

    /// The offsets and kinds of its capabilities.
    async fn capabilities(self, registers: &mut Registers) -> Result<Vec<(u64, u32)>> {
        let mut found = Vec::new();
        let mut next = registers.read(Width::Byte, self.at(CAPABILITIES)).await?;
        // A list that goes in circles ends too.
        while next != 0 && (found.len() as u64) < END / 4 {
            let offset = u64::from(next);
            found.push((offset, registers.read(Width::Byte, self.at(offset)).await?));
            next = registers.read(Width::Byte, self.at(offset + 1)).await?;
        }
        Ok(found)
    }

    async fn capability(self, registers: &mut Registers, kind: u32) -> Result<u64> {
        let all = self.capabilities(registers).await?;
        let found = all.into_iter().find(|(_, found)| *found == kind);
        let none = || {
            Error::new(
                Kind::Unsupported,
                format!("the device at {:#x} has no capability {kind:#x}", self.0),
            )
        };
        found.map(|(offset, _)| offset).ok_or_else(none)
    }

    /// Where the guest has put a range of the device's memory.
    async fn bar(self, registers: &mut Registers, index: u32) -> Result<u64> {
        let at = BARS + 4 * u64::from(index);
        let low = u64::from(registers.read(Width::Long, self.at(at)).await?);
        let high = if low & 6 == 4 {
            u64::from(registers.read(Width::Long, self.at(at + 4)).await?)
        } else {
            0
        };
        Ok(high << 32 | (low & !0xf))
    }

    /// Where its common configuration is.
    async fn common(self, registers: &mut Registers) -> Result<u64> {
        for (offset, kind) in self.capabilities(registers).await? {
            if kind == VENDOR && registers.read(Width::Byte, self.at(offset + VENDOR_KIND)).await? == COMMON {
                let bar = registers.read(Width::Byte, self.at(offset + VENDOR_BAR)).await?;
                let inside = registers.read(Width::Long, self.at(offset + VENDOR_OFFSET)).await?;
                return Ok(self.bar(registers, bar).await? + u64::from(inside));
            }
        }
        let what = format!("the device at {:#x} is no virtio device", self.0);
        Err(Error::new(Kind::Unsupported, what))
    }

    /// Appends what sets up another one in the same way.
    async fn record(self, registers: &mut Registers, all: &mut Vec<Access>) -> Result<()> {
        let id = registers.read(Width::Long, self.at(0)).await?;
        all.push(Access::Expect(Width::Long, self.at(0), id));
        let bars = (0..6).map(|bar| BARS + 4 * bar);
        for offset in bars {
            copy(registers, Width::Long, self.at(offset), all).await?;
        }
        copy(registers, Width::Word, self.at(COMMAND), all).await?;
        copy(registers, Width::Byte, self.at(INTERRUPT_LINE), all).await?;
        self.record_interrupts(registers, all).await?;
        let common = self.common(registers).await?;
        record_virtio(registers, common, all).await?;
        let command = registers.read(Width::Word, self.at(COMMAND)).await?;
        all.push(Access::Expect(Width::Word, self.at(COMMAND), command));
        Ok(())
    }

    async fn record_interrupts(self, registers: &mut Registers, all: &mut Vec<Access>) -> Result<()> {
        let msix = self.capability(registers, MSIX).await?;
        let control = self.at(msix + MSIX_CONTROL);
        let count = (registers.read(Width::Word, control).await? & 0x7ff) + 1;
        copy(registers, Width::Word, control, all).await?;
        let table = registers.read(Width::Long, self.at(msix + MSIX_TABLE)).await?;
        let table = self.bar(registers, table & 7).await? + u64::from(table & !7);
        for word in 0..u64::from(count) * (MSIX_ENTRY / 4) {
            copy(registers, Width::Long, table + 4 * word, all).await?;
        }
        Ok(())
    }
}

/// As a driver does it: Virtio 1.2, 3.1.1.
async fn record_virtio(registers: &mut Registers, common: u64, all: &mut Vec<Access>) -> Result<()> {
    let status = registers.read(Width::Byte, common + STATUS).await?;
    let ready = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    if status != ready {
        let what = format!("the device at {common:#x} is not in use: its status is {status:#x}");
        return Err(Error::new(Kind::State, what));
    }
    let step = |status| Access::Write(Width::Byte, common + STATUS, status);
    all.extend([step(0), step(ACKNOWLEDGE), step(ACKNOWLEDGE | DRIVER)]);
    for half in 0..2 {
        let select = Access::Write(Width::Long, common + FEATURE_SELECT, half);
        registers.play(&[select]).await?;
        all.push(select);
        copy(registers, Width::Long, common + FEATURES, all).await?;
    }
    let features_ok = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    all.push(step(features_ok));
    all.push(Access::Expect(Width::Byte, common + STATUS, features_ok));
    copy(registers, Width::Word, common + CONFIG_VECTOR, all).await?;
    let queues = registers.read(Width::Word, common + QUEUES).await?;
    for queue in 0..queues.min(MOST_QUEUES) {
        let select = Access::Write(Width::Word, common + QUEUE_SELECT, queue);
        registers.play(&[select]).await?;
        all.push(select);
        copy(registers, Width::Word, common + QUEUE_SIZE, all).await?;
        copy(registers, Width::Word, common + QUEUE_VECTOR, all).await?;
        for offset in QUEUE_ADDRESSES {
            copy(registers, Width::Long, common + offset, all).await?;
        }
        if registers.read(Width::Word, common + QUEUE_ENABLE).await? == 1 {
            all.push(Access::Write(Width::Word, common + QUEUE_ENABLE, 1));
        }
    }
    all.push(step(ready));
    all.push(Access::Expect(Width::Byte, common + STATUS, ready));
    Ok(())
}

/// Another one is to have the same value.
async fn copy(registers: &mut Registers, width: Width, at: u64, all: &mut Vec<Access>) -> Result<()> {
    let value = registers.read(width, at).await?;
    all.push(Access::Write(width, at, value));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixStream;

    use super::*;

    const BUS: u64 = 3;
    const PORT: u64 = SPACE + (16 << 15);
    const CARD: u64 = SPACE + (BUS << 20);
    const CONTROL: u64 = PORT + 0x54 + SLOT_CONTROL;
    const VIRTIO: u64 = 0xc0_0000_0000;
    const TABLE: u64 = 0xc040_0000;

    /// Registers that keep what is written to them; those of two functions go when their slot is switched off.
    #[derive(Default)]
    struct Fake(BTreeMap<u64, u8>);

    impl Fake {
        fn set(&mut self, width: u64, at: u64, value: u64) {
            self.0.extend((at..at + width).zip(value.to_le_bytes()));
        }

        fn get(&self, width: u64, at: u64) -> u64 {
            let off = self.0.get(&(CONTROL + 1)).is_some_and(|byte| byte & 4 != 0);
            let byte = |byte: u64| match self.0.get(&(at + byte)) {
                _ if off && at >= CARD => 0xff,
                found => u64::from(found.copied().unwrap_or_default()),
            };
            (0..width).map(|n| byte(n) << (8 * n)).sum()
        }

        /// A port at slot 16 with two virtio functions behind it, which nobody has set up.
        fn machine() -> Fake {
            let mut fake = Fake::default();
            fake.set(4, SPACE, u64::from(BRIDGE));
            fake.set(1, PORT + SECONDARY_BUS, BUS);
            fake.set(1, PORT + CAPABILITIES, 0x90);
            fake.set(4, PORT + 0x90, 0x5409);
            fake.set(4, PORT + 0x54, u64::from(EXPRESS));
            for function in 0..2 {
                let place = CARD + (function << 12);
                fake.set(4, place, 0x1053_1af4);
                fake.set(1, place + CAPABILITIES, 0x7c);
                fake.set(4, place + 0x7c, 0x2_8411);
                fake.set(4, place + 0x7c + MSIX_TABLE, 1);
                // Of another part, then of the common configuration, at 0x100 of BAR 4.
                fake.set(4, place + 0x84, 0x0214_9409);
                fake.set(4, place + 0x94, 0x0110_0009);
                fake.set(4, place + 0x94 + VENDOR_BAR, 4);
                fake.set(4, place + 0x94 + VENDOR_OFFSET, 0x100);
                fake.set(2, VIRTIO + (function << 14) + 0x100 + QUEUES, 2);
            }
            fake
        }

        /// As a guest sets them up.
        fn used(mut self) -> Fake {
            for function in 0..2 {
                let place = CARD + (function << 12);
                self.set(4, place + BARS + 4, TABLE + 0x1000 * function);
                self.set(4, place + BARS + 16, function << 14 | 0xc);
                self.set(4, place + BARS + 20, VIRTIO >> 32);
                self.set(2, place + COMMAND, 0x0406);
                self.set(2, place + 0x7c + MSIX_CONTROL, 0x8002);
                for word in 0..12 {
                    self.set(4, TABLE + 0x1000 * function + 4 * word, 0xfee0_0000 + word);
                }
                let common = VIRTIO + (function << 14) + 0x100;
                self.set(4, common + FEATURES, 0x3000_0001);
                self.set(2, common + CONFIG_VECTOR, 1);
                self.set(2, common + QUEUE_SIZE, 128);
                self.set(2, common + QUEUE_ENABLE, 1);
                self.set(4, common + 0x20, 0x7ff5_0000);
                self.set(1, common + STATUS, 0xf);
            }
            self
        }
    }

    /// Answers until nobody asks any more.
    async fn serve(stream: UnixStream, mut fake: Fake) -> Fake {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line).await.unwrap() > 0 {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap();
            let width = match words[0].chars().last() {
                Some('b') => 1,
                Some('w') => 2,
                _ => 4,
            };
            let answer = if words[0].starts_with("read") {
                format!("OK {:#018x}\n", fake.get(width, number(words[1])))
            } else {
                fake.set(width, number(words[1]), number(words[2]));
                "OK\n".to_owned()
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
            line.clear();
        }
        fake
    }

    async fn taken(fake: Fake) -> (Result<Vec<Access>>, Fake) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let asking = async {
            let mut registers = Registers::new(ours, Duration::from_secs(30));
            take(&mut registers, 16, 2).await
        };
        tokio::join!(asking, serve(theirs, fake))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn others_are_set_up_as_those_were_that_are_gone() {
        let (taken, frozen) = taken(Fake::machine().used()).await;
        let all = taken.unwrap();
        assert_eq!(frozen.get(2, CONTROL), u64::from(OFF));
        assert_eq!(frozen.get(4, CARD), u64::from(NOTHING));
        let mut fresh = Fake::machine();
        fresh.set(2, CONTROL, u64::from(OFF));
        let (ours, theirs) = UnixStream::pair().unwrap();
        let playing = async {
            let mut registers = Registers::new(ours, Duration::from_secs(30));
            registers.play(&all).await
        };
        let (played, copy) = tokio::join!(playing, serve(theirs, fresh));
        played.unwrap();
        assert_eq!(copy.get(2, CONTROL), 0, "it has power again");
        let used = Fake::machine().used();
        let set: Vec<u64> = used.0.keys().copied().filter(|at| used.get(1, *at) != 0).collect();
        for at in set {
            assert_eq!(copy.get(1, at), used.get(1, at), "{at:#x}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_device_that_is_not_in_use_and_a_machine_of_another_kind_are_refused() {
        let error = taken(Fake::machine()).await.0.unwrap_err();
        assert_eq!(error.kind(), Kind::State);
        let error = taken(Fake::default()).await.0.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        let mut bare = Fake::machine().used();
        bare.set(1, CARD + CAPABILITIES, 0);
        let error = taken(bare).await.0.unwrap_err();
        assert!(error.chain().contains("no capability 0x11"), "{}", error.chain());
    }
}
