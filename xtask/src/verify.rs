//! The verb `verify`: every program through the verifier of each kernel, and
//! what that cost.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::vm::{self, Guest, Job, Stream};
use crate::workspace::Workspace;
use crate::{build, command, say, setup, table};

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// VM kernels to verify on, besides the running kernel
    #[arg(long, value_enum, default_value_t = vm::Choice::All, value_name = "VERSION")]
    kernel: vm::Choice,
    /// Leave the running kernel out
    #[arg(long)]
    vm_only: bool,
    #[command(flatten)]
    build: build::Options,
}

/// A line of `overlay dataplane verify --json`.
#[derive(Debug, PartialEq, Eq, serde::Deserialize)]
struct Report {
    program: String,
    /// Instructions the verifier looked at, `None` if it refused.
    verified_insns: Option<u64>,
    /// Size of the machine code.
    jited_bytes: Option<u64>,
    /// Time in the verifier, microseconds.
    verify_us: Option<u64>,
    /// Why the kernel refused the program.
    error: Option<String>,
}

/// What one kernel said.
struct Column {
    kernel: String,
    result: Result<Vec<Report>>,
}

/// Prints the table; fails if any kernel refused a program.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let Arguments {
        kernel,
        vm_only,
        build,
    } = arguments;
    let overlay = build::run(workspace, *build)?;
    let words = |overlay: &Path| {
        let overlay = overlay.to_string_lossy().into_owned();
        [
            overlay,
            "dataplane".into(),
            "verify".into(),
            "--json".into(),
        ]
    };
    let mut columns = Vec::new();
    if setup::is_root() && !vm_only {
        let [program, arguments @ ..] = words(&overlay);
        let release = command::capture(Command::new("uname").arg("-r"))?;
        say::step(format_args!("verifying on Linux {}", release.trim()));
        columns.push(Column {
            kernel: short_release(&release),
            result: here(Command::new(program).args(arguments)),
        });
    } else if !vm_only {
        say::warn("not root: the running kernel is left out");
    }
    for &kernel in kernel.kernels() {
        let result = Guest::boot(workspace, &vm::Options::new(kernel))
            .and_then(|mut guest| in_guest(&mut guest, &Job::new(words(&overlay))));
        columns.push(Column {
            kernel: kernel.to_string(),
            result,
        });
    }
    print!("{}", table::render(&rows(&columns)));
    let refused = refusals(&columns);
    if !refused.is_empty() {
        bail!(
            "not every program loads everywhere:\n{}",
            refused.join("\n")
        );
    }
    Ok(())
}

fn here(command: &mut Command) -> Result<Vec<Report>> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start `{}`", command::display(command)))?;
    judge(output.status.success(), &output.stdout, &output.stderr)
}

fn in_guest(guest: &mut Guest, job: &Job) -> Result<Vec<Report>> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = guest.run(job, &mut |stream, bytes| match stream {
        Stream::Out => out.extend_from_slice(bytes),
        Stream::Err => err.extend_from_slice(bytes),
    })?;
    judge(status == 0, &out, &err)
}

/// A command that fails because a kernel refused a program still reports on the
/// others; one that fails without naming a refusal has failed itself.
fn judge(succeeded: bool, out: &[u8], err: &[u8]) -> Result<Vec<Report>> {
    let reports = parse(&String::from_utf8_lossy(out));
    let refused = |reports: &Vec<Report>| reports.iter().any(|r| r.error.is_some());
    if succeeded || reports.as_ref().is_ok_and(refused) {
        return reports;
    }
    bail!(
        "`overlay dataplane verify` failed: {}",
        String::from_utf8_lossy(err).trim()
    )
}

fn parse(json: &str) -> Result<Vec<Report>> {
    let reports: Vec<Report> = json
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            serde_json::from_str(line)
                .with_context(|| format!("read the line `{line}` of `overlay dataplane verify`"))
        })
        .collect::<Result<_>>()?;
    if reports.is_empty() {
        bail!("`overlay dataplane verify` named no program");
    }
    Ok(reports)
}

/// `6.18.44-fc-v595` → `6.18`, the part that tells verifiers apart.
fn short_release(release: &str) -> String {
    let mut numbers = release.trim().splitn(3, '.');
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => format!("{major}.{minor}"),
        _ => release.trim().to_owned(),
    }
}

/// One row per program; per kernel the instructions, the machine code, the time.
fn rows(columns: &[Column]) -> Vec<Vec<String>> {
    let mut head = vec!["program".to_owned()];
    let mut programs: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (index, column) in columns.iter().enumerate() {
        let kernel = &column.kernel;
        head.extend([
            format!("{kernel} insns"),
            "JIT bytes".to_owned(),
            "ms".to_owned(),
        ]);
        for report in column.result.iter().flatten() {
            let cells = programs.entry(&report.program).or_default();
            // A program that the kernels before did not name.
            cells.resize(index * 3, "–".to_owned());
            let number = |value: Option<u64>| value.map_or("–".to_owned(), |v| v.to_string());
            let insns = match &report.error {
                Some(_) => "refused".to_owned(),
                None => number(report.verified_insns),
            };
            let ms = report.verify_us.map(|us| us.div_ceil(1000));
            cells.extend([insns, number(report.jited_bytes), number(ms)]);
        }
    }
    let rows = programs.into_iter().map(|(program, cells)| {
        let mut row = vec![program.to_owned()];
        row.extend(cells);
        row.resize(1 + columns.len() * 3, "–".to_owned());
        row
    });
    std::iter::once(head).chain(rows).collect()
}

/// A line for each kernel or program that failed.
fn refusals(columns: &[Column]) -> Vec<String> {
    let mut refused = Vec::new();
    for Column { kernel, result } in columns {
        match result {
            Err(error) => refused.push(format!("Linux {kernel}: {error:#}")),
            Ok(reports) => refused.extend(reports.iter().filter_map(|report| {
                let error = report.error.as_ref()?;
                Some(format!("Linux {kernel}: {}: {error}", report.program))
            })),
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"program":"endpoint_tx","verified_insns":1200,"jited_bytes":4000,"verify_us":1500}
{"program":"underlay_rx","verified_insns":null,"error":"invalid access"}
"#;

    fn column(kernel: &str, json: &str) -> Column {
        Column {
            kernel: kernel.to_owned(),
            result: parse(json),
        }
    }

    #[test]
    fn a_program_that_one_kernel_does_not_name_has_dashes_there() {
        let only = r#"{"program":"new","verified_insns":7,"jited_bytes":8,"verify_us":1}"#;
        let rows = rows(&[column("6.1", LINES), column("6.12", only)]);
        let row = |name: &str| rows.iter().find(|row| row[0] == name).expect("present");
        assert_eq!(
            row("endpoint_tx")[1..],
            ["1200", "4000", "2", "–", "–", "–"]
        );
        assert_eq!(row("new")[1..], ["–", "–", "–", "7", "8", "1"]);
        assert_eq!(row("underlay_rx")[1], "refused");
    }

    #[test]
    fn a_refused_program_fails_the_verb() {
        let refused = refusals(&[column("6.1", LINES)]);
        assert_eq!(refused, ["Linux 6.1: underlay_rx: invalid access"]);
    }

    #[test]
    fn a_failure_that_names_no_program_is_the_commands_own() {
        assert_eq!(
            judge(false, LINES.as_bytes(), b"").expect("reports").len(),
            2
        );
        let line = LINES.lines().next().expect("a line");
        let error = judge(false, line.as_bytes(), b"no BTF").expect_err("failed");
        assert!(error.to_string().contains("no BTF"), "{error}");
    }

    #[test]
    fn silence_is_no_success() {
        assert_eq!(refusals(&[column("6.1", "\n")]).len(), 1);
    }

    #[test]
    fn releases_are_shortened_to_what_tells_verifiers_apart() {
        assert_eq!(short_release("6.18.44-fc\n"), "6.18");
        assert_eq!(short_release("odd"), "odd");
    }
}
