//! The result as text.

use super::compare::{self, ALLOWED};
use super::record::{Record, Run};
use super::targets::{self, Verdict};
use crate::table;

/// Tables of all settings, repeats, and targets.
pub fn render(record: &Record) -> String {
    let mut text = String::new();
    for setting in record.settings() {
        let Some(run) = record.first(setting) else {
            continue;
        };
        text.push_str(&format!("\n{} (Linux {})\n", setting.title(), run.kernel));
        text.push_str(&table::render(&rows(run)));
    }
    for report in &record.reports {
        text.push_str(&format!(
            "\n{} (Linux {})\n",
            report.detail.title(),
            report.kernel
        ));
        for rows in report.tables() {
            text.push_str(&table::render(&rows));
        }
    }
    for line in record.notes.iter().chain(&record.failures) {
        text.push_str(&format!("\n{line}"));
    }
    if let Some(line) = repeat_line(record) {
        text.push_str(&format!("\n{line}\n"));
    }
    let verdicts = targets::verdicts(record);
    if !verdicts.is_empty() {
        text.push_str("\nTargets\n");
        text.push_str(&table::render(&verdict_rows(&verdicts)));
    }
    text
}

/// A row per load and unit, a column per competitor: median, and spread where there is one.
pub fn rows(run: &Run) -> Vec<Vec<String>> {
    let competitors = run.competitors();
    let mut rows = vec![
        std::iter::once("load")
            .chain(competitors.iter().copied())
            .map(str::to_owned)
            .collect(),
    ];
    let row = |name: String, cell: &dyn Fn(&str) -> Option<String>| -> Option<Vec<String>> {
        let cells: Vec<Option<String>> = competitors.iter().map(|c| cell(c)).collect();
        cells.iter().any(Option::is_some).then(|| {
            let cells = cells.into_iter().map(|cell| cell.unwrap_or("–".to_owned()));
            std::iter::once(name).chain(cells).collect()
        })
    };
    for load in run.loads() {
        let (unit, scale) = unit(load);
        rows.extend(row(format!("{load}, {unit}"), &|competitor| {
            let summary = run.summary(load, competitor)?;
            let median = number(summary.median / scale);
            Some(if summary.spread >= 0.001 {
                format!("{median} ±{:.1}%", summary.spread * 50.0)
            } else {
                median
            })
        }));
        for (name, title, scale) in [
            ("p50_us", "p50, µs", 1.0),
            ("p99_us", "p99, µs", 1.0),
            ("lost_percent", "lost, %", 1.0),
            ("stream_bit_per_s", "stream, Mbit/s", 1e6),
            ("connections_per_s", "connections/s", 1.0),
        ] {
            rows.extend(row(format!("  {title}"), &|competitor| {
                let summary = run.detail(load, competitor, name)?;
                Some(number(summary.median / scale))
            }));
        }
    }
    rows
}

/// Unit of a load's value in a table, and how much of the measured unit that is.
pub fn unit(load: &str) -> (&'static str, f64) {
    match load {
        "tcp-1" | "tcp-8" => ("Mbit/s", 1e6),
        "udp-64" | "udp-1400" => ("kpacket/s", 1e3),
        "connections" => ("1/s", 1.0),
        _ => ("round trips/s", 1.0),
    }
}

/// Three digits that matter, or all before the point.
fn number(value: f64) -> String {
    match value.abs() {
        value if value >= 100.0 || value == 0.0 => format!("{:.0}", value),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// How well the second run repeats the first.
pub fn repeat_line(record: &Record) -> Option<String> {
    let repeats = compare::repeats(record);
    let worst = repeats.first()?;
    let within = repeats
        .iter()
        .filter(|repeat| repeat.difference() <= ALLOWED)
        .count();
    Some(format!(
        "Instruction-counted ratios repeat: {within} of {} within {:.0} %; largest difference {:.2} % \
         ({} {} against {}: {:.3}, then {:.3})",
        repeats.len(),
        ALLOWED * 100.0,
        worst.difference() * 100.0,
        worst.setting,
        worst.load,
        worst.against,
        worst.first,
        worst.second,
    ))
}

/// A row per target.
pub fn verdict_rows(verdicts: &[Verdict]) -> Vec<Vec<String>> {
    let head = ["setting · load", "target", "measured", ""].map(str::to_owned);
    let rows = verdicts.iter().map(|verdict| {
        vec![
            verdict.what.clone(),
            verdict.bound.clone(),
            format!("{:.2}", verdict.ratio),
            if verdict.met { "met" } else { "MISSED" }.to_owned(),
        ]
    });
    std::iter::once(head.into()).chain(rows).collect()
}
