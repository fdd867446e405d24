//! The end of a test run, as a person or a pipeline reads it.

use super::outcome::{Counts, Outcome};
use crate::table;

/// Prints the table, the failures and what was left out; returns the exit
/// status.
pub fn print(outcomes: &[Outcome], left_out: &[String], filtered: bool) -> i32 {
    let row = |cells: [&str; 7]| cells.map(str::to_owned).to_vec();
    let mut rows = vec![row([
        "tests", "where", "passed", "failed", "ignored", "time", "result",
    ])];
    let mut total = Counts::default();
    for outcome in outcomes {
        total += outcome.counts;
        let Counts {
            passed,
            failed,
            ignored,
        } = outcome.counts;
        rows.push(vec![
            outcome.name.clone(),
            outcome.place.clone(),
            passed.to_string(),
            failed.to_string(),
            ignored.to_string(),
            format!("{:.0} s", outcome.took.as_secs_f32()),
            outcome.verdict(filtered).to_owned(),
        ]);
    }
    println!("\n{}", table::render(&rows));
    let mut status = 0;
    for outcome in outcomes.iter().filter(|o| o.verdict(filtered) != "ok") {
        status = 1;
        for failure in &outcome.failures {
            println!("FAILED {} ({}): {failure}", outcome.name, outcome.place);
        }
    }
    if filtered && total.passed + total.failed == 0 {
        println!("no test has a name that contains the filter");
        status = 1;
    }
    if !left_out.is_empty() {
        println!(
            "left out, because they need root: {}\nrun them with `sudo -E env PATH=\"$PATH\" cargo \
             xtask test`",
            left_out.join(", ")
        );
        // A person knows what was left out; a pipeline must not take it for
        // success.
        if std::env::var("CI").is_ok_and(|ci| ci == "true") {
            status = 1;
        }
    }
    let Counts {
        passed,
        failed,
        ignored,
    } = total;
    let verdict = if status == 0 { "ok" } else { "FAILED" };
    println!("all tests: {verdict}. {passed} passed; {failed} failed; {ignored} ignored");
    status
}
