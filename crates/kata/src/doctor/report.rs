// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! What was found, for people and for programs. It does not know what is checked.

use serde::Serialize;

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Containers run, but slower or with less than they could.
    Warn,
    /// Containers cannot run.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What, in a word.
    pub name: &'static str,
    /// How good it is.
    pub state: State,
    /// What was found, and what it means.
    pub found: String,
    /// What to do about it, best a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// Without a remedy.
    pub fn new(name: &'static str, state: State, found: impl Into<String>) -> Finding {
        let found = found.into();
        Finding {
            name,
            state,
            found,
            remedy: None,
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Finding {
        self.remedy = Some(remedy.into());
        self
    }
}

/// All findings, in the order in which they are shown.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The backend that a container would get now.
    pub hypervisor: String,
    /// What was looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether containers can run.
    pub fn runs(&self) -> bool {
        self.findings.iter().all(|finding| finding.state != State::Fail)
    }

    /// One JSON object: `ok`, `hypervisor`, `findings`.
    pub fn json(&self) -> String {
        let value = serde_json::json!({
            "ok": self.runs(), "hypervisor": self.hypervisor, "findings": self.findings
        });
        format!("{value:#}\n")
    }

    /// An aligned table and a verdict.
    pub fn table(&self, colour: bool) -> String {
        let width = self
            .findings
            .iter()
            .map(|finding| finding.name.len())
            .max()
            .unwrap_or(0);
        let mut text = String::new();
        for finding in &self.findings {
            let (word, code) = match finding.state {
                State::Ok => ("ok  ", "32"),
                State::Warn => ("warn", "33"),
                State::Fail => ("FAIL", "31"),
            };
            let state = if colour {
                format!("\x1b[{code}m{word}\x1b[0m")
            } else {
                word.into()
            };
            let (name, found) = (finding.name, &finding.found);
            text.push_str(&format!("{state}  {name:width$}  {found}\n"));
            if let Some(remedy) = &finding.remedy {
                text.push_str(&format!("{:indent$}-> {remedy}\n", "", indent = width + 8));
            }
        }
        text.push_str(&if self.runs() {
            format!("\nContainers can run here, with {}.\n", self.hypervisor)
        } else {
            "\nContainers cannot run here yet: see FAIL above.\n".into()
        });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: State) -> Report {
        Report {
            hypervisor: "slow".into(),
            findings: vec![
                Finding::new("kvm", State::Ok, "there"),
                Finding::new("kernel", state, "absent").remedy("build it"),
            ],
        }
    }

    #[test]
    fn columns_are_aligned_and_remedies_stand_below() {
        let expected = "ok    kvm     there\nwarn  kernel  absent\n              -> build it\n\n\
                        Containers can run here, with slow.\n";
        assert_eq!(report(State::Warn).table(false), expected);
        assert!(report(State::Fail).table(true).starts_with("\x1b[32mok  \x1b[0m  kvm"));
    }

    #[test]
    fn one_failure_is_enough() {
        let value: serde_json::Value = serde_json::from_str(&report(State::Fail).json()).unwrap();
        assert_eq!(value["ok"], false);
        assert_eq!(value["findings"][1]["state"], "fail");
        assert_eq!(value["findings"][1]["remedy"], "build it");
        assert!(value["findings"][0].get("remedy").is_none());
        assert!(report(State::Warn).runs());
    }
}
