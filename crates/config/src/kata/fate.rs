// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What may become of a key of Kata's, and how values become ours.

use toml::de::DeValue;

use super::Facts;
use crate::value::Item;

/// See the module.
#[derive(Clone, Copy)]
pub(super) enum Fate {
    /// Ours, by its name, has the same value.
    Same(&'static str),
    /// Ours has a value that is made of it.
    By(&'static str, fn(&DeValue<'_>, Facts) -> Outcome),
    /// Why it means nothing here.
    Nothing(&'static str),
}

/// What a value became.
pub(super) enum Outcome {
    Value(Item, String),
    /// Ours keeps its default, for this reason.
    Default(String),
    /// It says nothing that could be ours, for this reason.
    Nothing(String),
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Integer(number) => i32::from_str_radix(number.as_str(), number.radix()).ok().map(f64::from),
        DeValue::Float(number) => number.as_str().parse().ok(),
        _ => None,
    }
}

fn whole(value: &DeValue<'_>) -> Option<i64> {
    match value {
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}

fn kept(value: &DeValue<'_>, wanted: &str) -> Outcome {
    Outcome::Nothing(format!("its value is {}, and not {wanted}", value.type_str()))
}

/// Fractions are rounded up; 0 is one, and less than 0 is all that the host has, as Kata has it.
pub(super) fn vcpus(value: &DeValue<'_>, facts: Facts) -> Outcome {
    let Some(given) = number(value) else {
        return kept(value, "a number");
    };
    if given < 0.0 {
        let all = Item::Whole(facts.processors.into());
        return Outcome::Value(all, "all processors of this host".into());
    }
    let up = given.ceil().max(1.0);
    // The rule of the key refuses more than a few thousand.
    let count = (1..=i64::from(u16::MAX)).find(|count| f64::from(u32::try_from(*count).unwrap_or(0)) >= up);
    let note = if up.to_bits() == given.to_bits() {
        ""
    } else {
        "rounded up"
    };
    match count {
        Some(count) => Outcome::Value(Item::Whole(count), note.into()),
        None => Outcome::Nothing("it is more than a machine can have".into()),
    }
}

/// 0 is what there is.
pub(super) fn most(value: &DeValue<'_>, _: Facts) -> Outcome {
    match whole(value) {
        Some(0) => Outcome::Default("0 leaves it to the runtime".into()),
        Some(number) if number > 0 => Outcome::Value(Item::Whole(number), String::new()),
        Some(_) => Outcome::Default("less than 0 leaves it to the runtime".into()),
        None => kept(value, "a number"),
    }
}

/// The machine's kernel and agent are ours: what is for Kata's is left out.
pub(super) fn kernel_params(value: &DeValue<'_>, _: Facts) -> Outcome {
    let Some(text) = value.as_str() else {
        return kept(value, "text");
    };
    let theirs = |word: &&str| word.starts_with("agent.") || word.starts_with("systemd.");
    let (out, ours): (Vec<&str>, Vec<&str>) = text.split_whitespace().partition(theirs);
    let ours = Item::Text(if out.is_empty() {
        text.to_owned()
    } else {
        ours.join(" ")
    });
    match out.is_empty() {
        true => Outcome::Value(ours, String::new()),
        false => Outcome::Value(
            ours,
            format!("without {}, which mean nothing to this guest", out.join(" ")),
        ),
    }
}

/// Only QEMU is here.
pub(super) fn hypervisor(value: &DeValue<'_>, _: Facts) -> Outcome {
    match value.as_str() {
        Some("qemu") => Outcome::Value(Item::Text("qemu".into()), String::new()),
        Some(other) => Outcome::Value(
            Item::Text("auto".into()),
            format!("{other} is not here: the best that works is taken"),
        ),
        None => kept(value, "text"),
    }
}

/// `debug` and `trace` are more than the usual.
pub(super) fn level(value: &DeValue<'_>, _: Facts) -> Outcome {
    match value.as_str() {
        Some("debug" | "trace") => Outcome::Value(Item::Truth(true), String::new()),
        Some(_) => Outcome::Default("there are the usual lines, and those of developers".into()),
        None => kept(value, "text"),
    }
}

/// Machines that wait: none are none.
pub(super) fn cache(value: &DeValue<'_>, _: Facts) -> Outcome {
    match whole(value) {
        Some(0) => Outcome::Default("machines wait only if `kata standby start` makes them".into()),
        Some(number) => Outcome::Value(Item::Whole(number), "`kata standby start` makes them".into()),
        None => kept(value, "a number"),
    }
}

/// Its patterns match a part of a name, ours all of it.
pub(super) fn patterns(value: &DeValue<'_>, _: Facts) -> Outcome {
    match crate::document::item(value) {
        Some(item @ Item::List(_)) => Outcome::Value(item, "each must match all of a name here".into()),
        _ => kept(value, "a list of text"),
    }
}
