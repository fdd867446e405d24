//! Running `overlay-bench` and reading what it prints.

use std::fmt::Display;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow, bail};

use super::Plan;
use super::record::{Record, Run, Sample};
use super::setting::Setting;
use crate::vm::{self, Guest, Job, Stream};
use crate::workspace::Workspace;
use crate::{command, say};

/// A setting takes minutes; this is far above that, and ends what hangs.
const LIMIT: Duration = Duration::from_secs(3600);
/// A load prints when it is done, and none takes longer than this, emulated on a busy machine.
const SILENCE: Duration = Duration::from_secs(240);

/// Runs the plan.
pub struct Collector<'a> {
    pub workspace: &'a Workspace,
    pub bench: &'a Path,
    pub overlay: &'a Path,
    pub plan: &'a Plan,
}

impl Collector<'_> {
    /// Adds the runs to the record, those that count instructions twice.
    pub fn run(&self, record: &mut Record) {
        let (here, elsewhere): (Vec<Setting>, Vec<Setting>) =
            self.plan.settings.iter().partition(|s| s.is_here());
        for setting in here {
            match self.here(setting, record) {
                Ok(run) => record.runs.push(run),
                Err(error) => failed(record, &setting, &error),
            }
        }
        let (counted, wall): (Vec<Setting>, Vec<Setting>) =
            elsewhere.into_iter().partition(|s| s.is_counted());
        let passes = if self.plan.repeat { 2 } else { 1 };
        for (settings, icount) in [(&counted, true)]
            .repeat(passes)
            .iter()
            .chain(&[(&wall, false)])
        {
            if let Err(error) = self.in_guest(settings, *icount, record) {
                failed(record, &"the VM", &error);
            }
        }
    }

    fn here(&self, setting: Setting, record: &mut Record) -> Result<Run> {
        say::step(format_args!("{} ({setting})", setting.title()));
        let words = self.words(setting);
        // It removes what it has made when it is told to end, and so when we end.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", "timeout", "--kill-after=10"])
            .arg(LIMIT.as_secs().to_string())
            .args(&words)
            .env("OVERLAY_BIN", self.overlay)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command
            .spawn()
            .with_context(|| format!("start `{}`", command::display(&command)))?;
        let output = child.wait_with_output().context("wait for the benchmark")?;
        let said = String::from_utf8_lossy(&output.stderr);
        eprint!("{said}");
        if !output.status.success() {
            bail!("`{}` ended with {}", words.join(" "), output.status);
        }
        keep_notes(&said, setting, record);
        let kernel = command::capture(Command::new("uname").arg("-r"))?;
        finish(setting, &kernel, &words, &output.stdout)
    }

    /// All in one guest.
    fn in_guest(&self, settings: &[Setting], icount: bool, record: &mut Record) -> Result<()> {
        if settings.is_empty() {
            return Ok(());
        }
        let options = vm::Options {
            icount,
            timeout: LIMIT,
            ..vm::Options::new(self.plan.kernel)
        };
        let mut guest = Guest::boot(self.workspace, &options)?;
        let kernel = guest.capture(&Job::new(["uname", "-r"]))?;
        for &setting in settings {
            let _timed = say::timed(format_args!("{} ({setting})", setting.title()));
            let words = self.words(setting);
            let job = Job::new(&words)
                .env("OVERLAY_BIN", self.overlay)
                .silence(SILENCE);
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let status = guest.run(&job, &mut |stream, bytes| match stream {
                Stream::Out => out.extend_from_slice(bytes),
                Stream::Err => {
                    err.extend_from_slice(bytes);
                    vm::to_our_output(stream, bytes);
                }
            })?;
            if status != 0 {
                let line = words.join(" ");
                failed(
                    record,
                    &setting,
                    &anyhow!("`{line}` ended with status {status}"),
                );
                continue;
            }
            keep_notes(&String::from_utf8_lossy(&err), setting, record);
            record.runs.push(finish(setting, &kernel, &words, &out)?);
        }
        Ok(())
    }

    fn words(&self, setting: Setting) -> Vec<String> {
        let Plan {
            loads,
            competitors,
            rounds,
            duration,
            counted_rounds,
            counted_duration,
            ..
        } = self.plan;
        let (rounds, duration) = if setting.is_counted() {
            (counted_rounds, counted_duration)
        } else {
            (rounds, duration)
        };
        let mut words = vec![
            self.bench.to_string_lossy().into_owned(),
            "traffic".to_owned(),
            format!("--cipher={}", setting.cipher()),
            format!("--rounds={rounds}"),
            format!("--duration={duration}"),
        ];
        for (option, names) in [("loads", loads), ("competitors", competitors)] {
            if !names.is_empty() {
                words.push(format!("--{option}={}", names.join(",")));
            }
        }
        words
    }
}

/// The other settings go on; the verb fails at its end.
fn failed(record: &mut Record, what: &dyn Display, error: &Error) {
    say::warn(format_args!("{what}: {error:#}"));
    record.failures.push(format!("{what}: {error:#}"));
}

/// Who could not take part, and which driver encrypted, is part of the result.
fn keep_notes(said: &str, setting: Setting, record: &mut Record) {
    for note in said.lines().filter_map(|line| line.strip_prefix("note: ")) {
        let note = format!("{setting}: {note}");
        if !record.notes.contains(&note) {
            record.notes.push(note);
        }
    }
}

fn finish(setting: Setting, kernel: &str, words: &[String], out: &[u8]) -> Result<Run> {
    let text = String::from_utf8_lossy(out);
    let samples: Vec<Sample> = text
        .lines()
        .map(|line| {
            serde_json::from_str(line)
                .with_context(|| format!("read the line `{line}` of the benchmark"))
        })
        .collect::<Result<_>>()?;
    if samples.is_empty() {
        bail!("the benchmark measured nothing");
    }
    // The path of the program is this machine's own.
    let command = format!("overlay-bench {}", words[1..].join(" "));
    Ok(Run {
        setting,
        kernel: kernel.trim().to_owned(),
        command,
        samples,
    })
}
