use super::{Failure, Format, Outcome, table};
use crate::{
    dataplane::desired::Settings,
    doctor::{Check, Verdict, evaluate::evaluate, gather::gather},
    kernel::host::Directories,
    state::last_desired::LastDesired,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub async fn run(directories: &Directories, arguments: &Arguments) -> Result<Outcome, Failure> {
    // With a data plane applied, its port and VTEPs are what matters.
    let desired = LastDesired::read(&directories.run)?
        .map(|last| last.desired())
        .transpose()?;
    let (settings, vteps) = match desired {
        Some(desired) => (desired.settings, desired.node.vteps),
        None => (Settings::default(), Vec::new()),
    };
    let checks = evaluate(&gather(directories, &settings, &vteps).await);
    match arguments.format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&checks)?),
        Format::Table => print!("{}", render(&checks)),
    }
    Ok(
        if checks.iter().any(|check| check.verdict == Verdict::Fail) {
            Outcome::Problem
        } else {
            Outcome::Good
        },
    )
}

fn render(checks: &[Check]) -> String {
    let rows: Vec<[String; 3]> = checks
        .iter()
        .map(|check| {
            let verdict = match check.verdict {
                Verdict::Ok => "ok",
                Verdict::Warn => "WARN",
                Verdict::Fail => "FAIL",
            };
            [verdict.into(), check.check.into(), check.detail.clone()]
        })
        .collect();
    let mut text = table::render("Checks", ["RESULT", "CHECK", "FOUND"], &rows);
    for check in checks {
        if let Some(remedy) = &check.remedy {
            text += &format!("{}: {}\n  remedy: {remedy}\n", check.check, check.detail);
        }
    }
    text
}
