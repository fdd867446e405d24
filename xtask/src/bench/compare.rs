//! How well a second run repeats the first.

use super::record::{Record, Run};
use super::setting::Setting;

/// The difference that quoted ratios may have, as a share.
pub const ALLOWED: f64 = 0.02;

/// Three loads in one, whose shares the scheduler decides: no ratio of it is quoted.
const MIX: &str = "mix";

/// A ratio of ours to another, in two runs.
#[derive(Debug, PartialEq)]
pub struct Repeat {
    pub setting: Setting,
    pub load: String,
    pub against: String,
    pub first: f64,
    pub second: f64,
}

impl Repeat {
    /// As a share of the first.
    pub fn difference(&self) -> f64 {
        (self.second / self.first - 1.0).abs()
    }
}

/// Every ratio that was measured twice, the largest difference first.
pub fn repeats(record: &Record) -> Vec<Repeat> {
    let mut repeats = Vec::new();
    for setting in record.settings() {
        let (Some(first), Some(second)) = (record.first(setting), record.second(setting)) else {
            continue;
        };
        for load in first.loads().into_iter().filter(|load| *load != MIX) {
            for against in first.competitors() {
                if let (Some(one), Some(two)) =
                    (ratio(first, load, against), ratio(second, load, against))
                {
                    repeats.push(Repeat {
                        setting,
                        load: load.to_owned(),
                        against: against.to_owned(),
                        first: one,
                        second: two,
                    });
                }
            }
        }
    }
    repeats.sort_by(|a, b| b.difference().total_cmp(&a.difference()));
    repeats
}

/// Rates, ours divided by the other's; not of ours to itself.
fn ratio(run: &Run, load: &str, against: &str) -> Option<f64> {
    let (ours, theirs) = (run.summary(load, "ours")?, run.summary(load, against)?);
    (against != "ours" && theirs.median > 0.0).then(|| ours.median / theirs.median)
}
