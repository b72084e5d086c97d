// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! Signals by name or number.

use base::{Error, Kind, Result};
use nix::sys::signal::Signal;

/// The last real-time signal.
const LAST: u32 = 64;

/// `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN+3`. Errors: `Invalid`, with the text.
pub fn parse(text: &str) -> Result<u32> {
    let unknown = || Error::new(Kind::Invalid, format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse() {
        return (1..=LAST).contains(&number).then_some(number).ok_or_else(unknown);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(real_time) = name.strip_prefix("RTM") {
        return self::real_time(real_time).ok_or_else(unknown);
    }
    let name = match name {
        "CLD" => "CHLD",
        "POLL" => "IO",
        "IOT" => "ABRT",
        name => name,
    };
    let signal: Signal = format!("SIG{name}").parse().map_err(|_| unknown())?;
    u32::try_from(signal as i32).map_err(|_| unknown())
}

/// What follows `RTM`: `IN`, `IN+3`, `AX`, `AX-2`. The numbers are those of glibc and the kernel's users, from 34 to 64.
fn real_time(text: &str) -> Option<u32> {
    let number = match text.split_at_checked(2)? {
        ("IN", "") => Some(34),
        ("AX", "") => Some(LAST),
        ("IN", offset) => 34_u32.checked_add(offset.strip_prefix('+')?.parse().ok()?),
        ("AX", offset) => LAST.checked_sub(offset.strip_prefix('-')?.parse().ok()?),
        _ => None,
    };
    number.filter(|number| (34..=LAST).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let cases = [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("usr1", 10),
            ("9", 9),
            ("64", 64),
            ("winch", 28),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("poll", 29),
        ];
        for (text, number) in cases {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for bad in ["NOSUCH", "", "0", "65", "-9", "RTMIN+31", "RTMAX-31", "SIG", "TERM "] {
            assert!(parse(bad).unwrap_err().chain().contains("unknown signal"), "{bad}");
        }
    }
}
