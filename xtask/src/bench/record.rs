//! All that was measured, as it is kept in JSON.

use std::collections::BTreeMap;

use super::detail::Report;
use super::machine::Machine;
use super::setting::Setting;
use super::statistics::{self, Summary};

/// The record of a benchmark.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Record {
    pub machine: Machine,
    /// The command that made it.
    pub command: String,
    pub runs: Vec<Run>,
    pub reports: Vec<Report>,
    /// Who could not take part, which driver encrypted.
    pub notes: Vec<String>,
    /// What did not run to its end.
    pub failures: Vec<String>,
}

/// One pass of a setting.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Run {
    pub setting: Setting,
    /// `uname -r` of the kernel.
    pub kernel: String,
    /// The command that measured, on that kernel.
    pub command: String,
    pub samples: Vec<Sample>,
}

/// A line of `overlay-bench traffic`.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Sample {
    pub cipher: String,
    pub competitor: String,
    pub load: String,
    pub round: u32,
    /// In the load's unit; more is better.
    pub value: f64,
    pub details: BTreeMap<String, f64>,
}

impl Record {
    pub fn new(machine: Machine, command: String) -> Self {
        Self {
            machine,
            command,
            runs: Vec::new(),
            reports: Vec::new(),
            notes: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// The settings of which there are runs.
    pub fn settings(&self) -> impl Iterator<Item = Setting> {
        let has = |setting: &Setting| self.runs.iter().any(|run| run.setting == *setting);
        Setting::ALL.into_iter().filter(has)
    }

    /// The first run of a setting; a second one only shows how well it repeats.
    pub fn first(&self, setting: Setting) -> Option<&Run> {
        self.runs.iter().find(|run| run.setting == setting)
    }

    /// The second run.
    pub fn second(&self, setting: Setting) -> Option<&Run> {
        let mut runs = self.runs.iter().filter(|run| run.setting == setting);
        runs.nth(1)
    }
}

impl Run {
    /// The loads, in the order in which they ran.
    pub fn loads(&self) -> Vec<&str> {
        in_order(self.samples.iter().map(|sample| sample.load.as_str()))
    }

    /// The competitors, in the order in which they took turns.
    pub fn competitors(&self) -> Vec<&str> {
        in_order(self.samples.iter().map(|sample| sample.competitor.as_str()))
    }

    /// Of what is compared.
    pub fn summary(&self, load: &str, competitor: &str) -> Option<Summary> {
        statistics::summarize(self.of(load, competitor).map(|sample| sample.value))
    }

    /// Of what came along.
    pub fn detail(&self, load: &str, competitor: &str, name: &str) -> Option<Summary> {
        let values = self.of(load, competitor);
        statistics::summarize(values.filter_map(|sample| sample.details.get(name).copied()))
    }

    fn of(&self, load: &str, competitor: &str) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(move |sample| sample.load == load && sample.competitor == competitor)
    }
}

fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}
