//! What is aimed at, as ratios of medians, and whether it is met.

use super::record::{Record, Run};
use super::setting::Setting;

/// What is compared of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    /// The rate: at least the bound.
    Rate,
    /// The median time of a round trip: at most the bound.
    Time,
}

/// One ratio of ours to another.
#[derive(Debug)]
struct Target {
    setting: Setting,
    load: &'static str,
    measure: Measure,
    against: &'static str,
    bound: f64,
}

/// A target held against a record.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    pub what: String,
    pub bound: String,
    /// Ours divided by the other.
    pub ratio: f64,
    pub met: bool,
}

const fn target(
    setting: Setting,
    load: &'static str,
    measure: Measure,
    against: &'static str,
    bound: f64,
) -> Target {
    Target {
        setting,
        load,
        measure,
        against,
        bound,
    }
}

use Measure::{Rate, Time};
use Setting::{AesGcmCounted, AesGcmWall, NullCounted, PlainCounted, PlainHere};

const TARGETS: &[Target] = &[
    target(NullCounted, "tcp-1", Rate, "docker", 1.35),
    target(NullCounted, "tcp-1", Rate, "kernel", 1.25),
    target(AesGcmCounted, "tcp-1", Rate, "docker", 1.25),
    target(AesGcmCounted, "tcp-1", Rate, "kernel", 1.15),
    target(NullCounted, "udp-64", Rate, "docker", 1.3),
    target(NullCounted, "udp-64", Rate, "kernel", 1.05),
    target(NullCounted, "udp-round-trip", Time, "docker", 0.75),
    target(NullCounted, "udp-round-trip", Time, "kernel", 0.9),
    target(AesGcmCounted, "udp-round-trip", Time, "docker", 0.75),
    target(AesGcmCounted, "udp-round-trip", Time, "kernel", 0.9),
    target(AesGcmCounted, "tcp-1", Rate, "wireguard-vxlan", 1.5),
    target(AesGcmCounted, "tcp-1", Rate, "wireguard-routed", 1.5),
    target(AesGcmWall, "tcp-1", Rate, "wireguard-vxlan", 1.5),
    target(AesGcmWall, "tcp-1", Rate, "wireguard-routed", 1.5),
    target(PlainCounted, "tcp-1", Rate, "kernel", 1.2),
    target(PlainCounted, "tcp-8", Rate, "kernel", 1.2),
    target(PlainCounted, "tcp-1", Rate, "raw", 0.9),
    target(PlainCounted, "tcp-8", Rate, "raw", 0.9),
    target(PlainCounted, "udp-64", Rate, "kernel", 1.6),
    target(PlainCounted, "udp-round-trip", Time, "kernel", 0.55),
    target(PlainHere, "tcp-1", Rate, "kernel", 1.2),
    target(PlainHere, "tcp-8", Rate, "kernel", 1.2),
    target(PlainHere, "tcp-1", Rate, "raw", 0.9),
    target(PlainHere, "tcp-8", Rate, "raw", 0.9),
    target(PlainHere, "udp-64", Rate, "kernel", 1.6),
    target(PlainHere, "udp-round-trip", Time, "kernel", 0.55),
];

/// The targets of which the record has both sides.
pub fn verdicts(record: &Record) -> Vec<Verdict> {
    TARGETS
        .iter()
        .filter_map(|target| {
            let run = record.first(target.setting)?;
            let ratio = ratio(run, target.load, target.measure, target.against)?;
            let (sign, met) = match target.measure {
                Measure::Rate => ("≥", ratio >= target.bound),
                Measure::Time => ("≤", ratio <= target.bound),
            };
            let time = match target.measure {
                Measure::Rate => "",
                Measure::Time => " (time)",
            };
            Some(Verdict {
                what: format!(
                    "{} · {}{time} · against {}",
                    target.setting, target.load, target.against
                ),
                bound: format!("{sign} {:.2}", target.bound),
                ratio,
                met,
            })
        })
        .collect()
}

fn ratio(run: &Run, load: &str, measure: Measure, against: &str) -> Option<f64> {
    let of = |competitor: &str| {
        let summary = match measure {
            Measure::Rate => run.summary(load, competitor),
            Measure::Time => run.detail(load, competitor, "p50_us"),
        };
        summary.map(|summary| summary.median)
    };
    let (ours, theirs) = (of("ours")?, of(against)?);
    (theirs > 0.0).then_some(ours / theirs)
}
