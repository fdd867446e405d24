use serde::Serialize;

use super::{Failure, Outcome};
use crate::kernel::bpf::{Bpf, Verified};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// One line of JSON for each program
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line {
    program: &'static str,
    verified_insns: Option<u32>,
    jited_bytes: Option<u32>,
    verify_us: Option<u64>,
    error: Option<String>,
}

impl From<Verified> for Line {
    fn from(verified: Verified) -> Self {
        let (report, error) = match verified.outcome {
            Ok(report) => (Some(report), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self {
            program: verified.program,
            verified_insns: report.as_ref().and_then(|report| report.verified_insns),
            jited_bytes: report.as_ref().map(|report| report.jited_bytes),
            verify_us: report.map(|report| report.load_time_us),
            error,
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let lines: Vec<Line> = Bpf::verify()?.into_iter().map(Line::from).collect();
    for line in &lines {
        if arguments.json {
            println!("{}", serde_json::to_string(line)?);
            continue;
        }
        match &line.error {
            Some(error) => println!("{:<16} refused: {error}", line.program),
            None => println!(
                "{:<16} {:>8} instructions verified, {:>6} bytes of machine code, {:>6} µs",
                line.program,
                line.verified_insns
                    .map_or_else(|| "?".into(), |n| n.to_string()),
                line.jited_bytes.unwrap_or(0),
                line.verify_us.unwrap_or(0)
            ),
        }
    }
    // With --json each line says its own verdict.
    let refused = lines.iter().any(|line| line.error.is_some());
    Ok(if refused && !arguments.json {
        Outcome::Problem
    } else {
        Outcome::Good
    })
}
