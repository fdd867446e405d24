//! What a reconciliation did, in words.

use super::Outcome;
use crate::dataplane::{
    problem::Problem,
    reconcile::{Report, Why},
};

/// Prints a report: steps and their number on standard output, what stays closed on standard error.
pub fn print(report: &Report, each_step: bool) -> Outcome {
    if each_step {
        for step in &report.done {
            println!("done: {step}");
        }
    }
    for failure in &report.failed {
        match &failure.why {
            Why::Refused(why) => eprintln!("failed: {}: {why}", failure.step),
            Why::Blocked(why) => eprintln!("not done: {}: {why}", failure.step),
        }
    }
    for step in &report.unsettled {
        eprintln!(
            "not settled: {step}: it was done and is due again, so other software undoes it; \
             remedy: find what else manages this object, and apply again"
        );
    }
    problems(&report.problems);
    let changes = report.done.len();
    println!(
        "{changes} {}",
        if changes == 1 { "change" } else { "changes" }
    );
    if report.interrupted {
        eprintln!("interrupted: stopped after the last step; apply again to finish");
    }
    if report.is_complete() {
        Outcome::Good
    } else {
        Outcome::Problem
    }
}

pub fn problems(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{problem}");
    }
}
