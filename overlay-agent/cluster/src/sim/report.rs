//! The figures as text.

use std::{fmt::Write as _, time::Duration};

/// What was measured at one size. Bytes are those sent by one node, headers below included.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub nodes: usize,
    pub seed: u64,
    pub loss: f64,
    /// From the first of all nodes starting until all know all.
    pub cold_start: Duration,
    /// KiB that it took, per node.
    pub cold_kib: f64,
    /// Bytes per second of a node while nothing changes: datagrams.
    pub idle_datagrams: f64,
    /// The same: anti-entropy.
    pub idle_sync: f64,
    /// Until a change has reached all.
    pub change_median: Duration,
    pub change_worst: Duration,
    /// Until the first, and the last, knows of a crash.
    pub crash_first: Duration,
    pub crash_all: Duration,
    /// After a partition of 120 s: until all have all records, and until all believe all up.
    pub heal_records: Duration,
    pub heal_members: Duration,
}

impl Report {
    pub fn idle(&self) -> f64 {
        self.idle_datagrams + self.idle_sync
    }
}

/// A table for people, in Markdown.
pub fn table(reports: &[Report]) -> String {
    let mut text = String::from(
        "| nodes | cold start | bytes for it, per node | idle, bytes per node and second \
         | change to all, median | worst | crash known by one | by all | healed: records | members |\n\
         |--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for report in reports {
        let s = |duration: Duration| format!("{:.2} s", duration.as_secs_f64());
        let _infallible = writeln!(
            text,
            "| {} | {} | {:.0} KiB | {:.0} ({:.0} anti-entropy) | {} | {} | {} | {} | {} | {} |",
            report.nodes,
            s(report.cold_start),
            report.cold_kib,
            report.idle(),
            report.idle_sync,
            s(report.change_median),
            s(report.change_worst),
            s(report.crash_first),
            s(report.crash_all),
            s(report.heal_records),
            s(report.heal_members),
        );
    }
    text
}

/// An array of objects, times in seconds.
pub fn json(reports: &[Report]) -> String {
    let objects: Vec<_> = reports
        .iter()
        .map(|report| {
            let s = |duration: Duration| duration.as_secs_f64();
            format!(
                "  {{\"nodes\": {}, \"seed\": {}, \"loss\": {}, \"cold_start\": {:.3}, \
                 \"cold_kib_per_node\": {:.1}, \"idle_datagram_bytes\": {:.1}, \
                 \"idle_sync_bytes\": {:.1}, \"change_median\": {:.3}, \"change_worst\": {:.3}, \
                 \"crash_first\": {:.3}, \"crash_all\": {:.3}, \"heal_records\": {:.3}, \
                 \"heal_members\": {:.3}}}",
                report.nodes,
                report.seed,
                report.loss,
                s(report.cold_start),
                report.cold_kib,
                report.idle_datagrams,
                report.idle_sync,
                s(report.change_median),
                s(report.change_worst),
                s(report.crash_first),
                s(report.crash_all),
                s(report.heal_records),
                s(report.heal_members),
            )
        })
        .collect();
    format!("[\n{}\n]\n", objects.join(",\n"))
}
