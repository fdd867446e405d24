//! Tests on this machine, as plain processes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::binaries::Binary;
use super::outcome::Outcome;
use super::{PREVIOUS, Run};
use crate::command;

/// The unit and property tests of all crates but `tests`.
pub fn cargo_test(run: &Run<'_>, filter: Option<&str>) -> Outcome {
    let mut cargo = command::cargo();
    cargo
        .current_dir(&run.workspace.root)
        .args(["test", "--workspace", "--exclude=overlay-tests"])
        .arg("--no-fail-fast");
    if let Some(filter) = filter {
        cargo.args(["--", filter]);
    }
    outcome("host tests", cargo)
}

/// A test binary. It is ended, with all it started, at the time limit or when
/// xtask ends.
pub fn binary(run: &Run<'_>, binary: &Binary) -> Outcome {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "TERM", "timeout", "--kill-after=10"])
        .arg(run.timeout.as_secs().to_string())
        .arg(&binary.path)
        .args(&run.arguments)
        .current_dir(&binary.directory)
        .env("CARGO_MANIFEST_DIR", &binary.directory)
        .env("OVERLAY_BIN", run.overlay)
        .env("OVERLAY_LOG_OBJECT", run.workspace.log_object())
        .env("RUST_BACKTRACE", "1");
    if let Some(previous) = run.previous {
        command.env(PREVIOUS, previous);
    }
    let mut outcome = outcome(&binary.name, command);
    outcome.may_be_empty = binary.unit_tests;
    outcome
}

fn outcome(name: &str, mut command: Command) -> Outcome {
    let started = Instant::now();
    let mut output = String::new();
    let status = tee(&mut command, &mut output);
    Outcome::of(name, "running kernel", &output, status, started.elapsed())
}

/// Runs a command, shows its standard output line by line and keeps it. Returns
/// the exit status as a shell has it.
fn tee(command: &mut Command, kept: &mut String) -> Result<i32> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{}`", command::display(command)))?;
    let stdout = child.stdout.take().context("take the test's output")?;
    let mut lines = BufReader::new(stdout);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        // A closed pipe is noticed by whoever closed it.
        let _ignored = std::io::stdout().lock().write_all(&line);
        kept.push_str(&String::from_utf8_lossy(&line));
        line.clear();
    }
    let status = child
        .wait()
        .with_context(|| format!("wait for `{}`", command::display(command)))?;
    Ok(status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}
